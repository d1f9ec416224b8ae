//! Peers that take what they can: memory stays within its bounds, and others are answered.

use serde::Serialize;
use serde::ser::Serializer;

use super::super::quota::CALL_BYTES;
use super::*;

/// A frame as it goes over the wire.
fn frame(kind: u8, id: u32, rest: &[u8]) -> Vec<u8> {
    let length = u32::try_from(5 + rest.len()).unwrap();
    [&length.to_be_bytes()[..], &[kind], &id.to_be_bytes(), rest].concat()
}

/// A request of a method by its number, without a limit of time.
fn request(id: u32, method: u16, body: &[u8]) -> Vec<u8> {
    frame(1, id, &[&method.to_be_bytes()[..], &u32::MAX.to_be_bytes(), body].concat())
}

/// A connection whose bytes are written by hand.
async fn by_hand(peer: &Peer) -> TcpStream {
    let mut stream = TcpStream::connect(peer.address).await.unwrap();
    stream.write_all(b"f\x01").await.unwrap();
    let mut greeting = [0; 2];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(greeting, *b"M\x01");
    stream
}

/// Frame to send under an id.
type Flood = Box<dyn Fn(u32) -> Vec<u8>>;

#[tokio::test]
async fn a_peer_that_asks_and_does_not_read_is_given_up() {
    let (handlers, _, _) = sleeper();
    let peer = Peer::start(handlers).await;
    let (lookup, nil) = (Method::Lookup as u16, [0xc0]);
    let floods: [(&str, Flood); 4] = [
        ("pings", Box::new(|_| frame(8, 0, &[]))),
        ("unknown methods", Box::new(|id| request(id, 999, &[]))),
        ("malformed bodies", Box::new(move |id| request(id, lookup, b"\xc1"))),
        (
            "calls that are cancelled at once",
            Box::new(move |id| [request(id, lookup, &nil), frame(6, id, &[])].concat()),
        ),
    ];
    for (what, one) in floods {
        let mut stream = by_hand(&peer).await;
        let (mut id, mut sent) = (0_u32, 0_usize);
        let flood = async {
            loop {
                let many: Vec<u8> = (0..1000).flat_map(|n| one(id + n)).collect();
                if stream.write_all(&many).await.is_err() || sent > 256 << 20 {
                    return;
                }
                id += 1000;
                sent += many.len();
                // What is cancelled makes no answers: there is nothing to give up.
                if what.contains("cancelled") && sent > 2 << 20 {
                    return;
                }
            }
        };
        timeout(PATIENCE, flood).await.unwrap_or_else(|_| panic!("{what}: still taken"));
        assert!(sent < 64 << 20, "{what}: {} MiB were taken", sent >> 20);
        assert_eq!(ask(&Pool::default(), &peer, "others").await.unwrap(), "others");
    }
    peer.stop().await;
}

/// A mebibyte that counts how often it was encoded.
struct Large(Arc<AtomicUsize>);

impl Serialize for Large {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.fetch_add(1, Ordering::SeqCst);
        serializer.serialize_str(&"x".repeat(1 << 20))
    }
}

#[tokio::test]
async fn who_does_not_read_its_answers_makes_no_more_of_them() {
    let (begun, encoded) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let handlers = echo().on(Method::Lookup, {
        let (begun, encoded) = (Arc::clone(&begun), Arc::clone(&encoded));
        move |(): (), _| {
            begun.fetch_add(1, Ordering::SeqCst);
            let answer = Large(Arc::clone(&encoded));
            async move { Ok(answer) }
        }
    });
    let peer = Peer::start(handlers).await;
    let mut stream = by_hand(&peer).await;
    for id in 0..500 {
        stream.write_all(&request(id, Method::Lookup as u16, &[0xc0])).await.unwrap();
    }
    // 32 MiB wait to be written, 8 more are encoded, and the system's buffers hold a few.
    until("some are encoded", || encoded.load(Ordering::SeqCst) >= 32).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let count = encoded.load(Ordering::SeqCst);
    assert!(count < 100, "{count} MiB are encoded");
    let count = begun.load(Ordering::SeqCst);
    assert!(count < 100, "{count} answers are made");
    assert_eq!(ask(&Pool::default(), &peer, "others").await.unwrap(), "others");
    // Whoever reads after all gets them all.
    let mut bytes = 0;
    let mut buffer = vec![0; 1 << 20];
    while bytes < 500 << 20 {
        bytes += timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_address_parks_as_many_calls_as_its_share_holds_however_it_connects() {
    let (handlers, begun, _) = sleeper();
    let limits = Limits { bytes_per_client: 20 * (CALL_BYTES + 1024), ..Limits::default() };
    let peer = Peer::start(handlers.with_limits(limits)).await;
    let pools: Vec<Pool> = (0..5).map(|_| Pool::default()).collect();
    let calls: Vec<_> = (0..100)
        .map(|n| {
            let (pool, to) = (pools[n % 5].clone(), peer.address);
            tokio::spawn(async move { pool.call::<(), ()>(to, Method::Lookup, &(), soon()).await })
        })
        .collect();
    until("the share is used up", || begun.load(Ordering::SeqCst) == 20).await;
    until("the others are refused", || calls.iter().filter(|it| it.is_finished()).count() == 80)
        .await;
    let error = ask(&pools[0], &peer, "one more").await.unwrap_err();
    assert!(error.is_safe_to_retry() && error.to_string().contains("in flight"), "{error}");
    for call in &calls {
        call.abort();
    }
    let deadline = soon();
    while let Err(error) = ask(&pools[0], &peer, "there is room again").await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(begun.load(Ordering::SeqCst), 20);
}

#[tokio::test]
async fn large_frames_that_do_not_end_hold_up_large_ones_of_their_address_only() {
    let limits = Limits { bytes_per_client: 4 << 20, ..Limits::default() };
    let peer = Peer::start(echo().with_limits(limits)).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = by_hand(&peer).await;
        // A megabyte is announced; all but a byte of it comes, as far as anybody takes it.
        let half = request(1, Method::Http as u16, &vec![0; 1 << 20]);
        let _ = timeout(Duration::from_millis(50), stream.write_all(&half[..half.len() - 1])).await;
        streams.push(stream);
    }
    let pool = Pool::default();
    assert_eq!(ask(&pool, &peer, "small").await.unwrap(), "small");
    let large = "x".repeat(1 << 20);
    let waiting = timeout(Duration::from_millis(100), ask(&Pool::default(), &peer, &large)).await;
    assert!(waiting.is_err(), "more is taken than an address may send");
    drop(streams);
    assert_eq!(ask(&Pool::default(), &peer, &large).await.unwrap(), large);
}
