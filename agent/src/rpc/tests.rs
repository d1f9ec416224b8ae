use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::*;

mod crowds;
mod greed;

const PATIENCE: Duration = Duration::from_secs(20);

struct Peer {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Peer {
    async fn start(handlers: Handlers) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let task = tokio::spawn(serve(listener, handlers, stop.clone()));
        Peer { address, stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

fn echo() -> Handlers {
    Handlers::new().on(Method::Http, |text: String, _| async move { Ok(text) })
}

async fn ask(pool: &Pool, peer: &Peer, text: &str) -> Result<String, Error> {
    pool.call(peer.address, Method::Http, text, soon()).await
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = soon();
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_call_is_answered_or_refused() {
    let handlers = echo().on(Method::Lookup, |(): (), _| async {
        Err::<(), _>(Refusal::failed("it cannot be looked up"))
    });
    let peer = Peer::start(handlers).await;
    let pool = Pool::default();
    assert_eq!(ask(&pool, &peer, "hello").await.unwrap(), "hello");
    pool.call::<(), ()>(peer.address, Method::Ping, &(), soon()).await.unwrap();

    let refused = |reason: Reason| {
        move |error: Error| match error {
            Error::Refused { refusal, .. } if refusal.reason == reason => refusal.text,
            other => panic!("{other:?}"),
        }
    };
    let call = pool.call::<(), ()>(peer.address, Method::Lookup, &(), soon()).await;
    assert_eq!(refused(Reason::Failed)(call.unwrap_err()), "it cannot be looked up");
    let call = pool.call::<(), ()>(peer.address, Method::Reconfigure, &(), soon()).await;
    refused(Reason::UnknownMethod)(call.unwrap_err());
    let call = pool.call::<u64, String>(peer.address, Method::Http, &5, soon()).await;
    refused(Reason::Malformed)(call.unwrap_err());
    peer.stop().await;
}

#[tokio::test]
async fn thousands_of_calls_share_a_connection_and_end_in_any_order() {
    let waiting = Arc::new(AtomicUsize::new(0));
    let all = Arc::new(Notify::new());
    let handlers = echo().on(Method::Lookup, {
        let (waiting, all) = (Arc::clone(&waiting), Arc::clone(&all));
        move |number: usize, _| {
            let (waiting, all) = (Arc::clone(&waiting), Arc::clone(&all));
            async move {
                let notified = all.notified();
                waiting.fetch_add(1, Ordering::SeqCst);
                notified.await;
                Ok(number)
            }
        }
    });
    let peer = Peer::start(handlers).await;
    let pool = Pool::default();
    let calls: Vec<_> = (0..5000)
        .map(|number: usize| {
            let (pool, address) = (pool.clone(), peer.address);
            tokio::spawn(async move {
                pool.call::<_, usize>(address, Method::Lookup, &number, soon()).await
            })
        })
        .collect();
    until("all calls are in flight", || waiting.load(Ordering::SeqCst) == 5000).await;
    // Others on the same connection are not held up.
    assert_eq!(ask(&pool, &peer, "overtakes").await.unwrap(), "overtakes");
    all.notify_waiters();
    for (number, call) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(call.unwrap().unwrap(), number);
    }
    assert_eq!(super::pool::open(&pool), 1);
}

#[tokio::test]
async fn calls_begin_in_the_order_of_their_sending() {
    let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let handlers = Handlers::new().on(Method::Append, {
        let seen = Arc::clone(&seen);
        move |number: u32, _| {
            let seen = Arc::clone(&seen);
            async move {
                seen.lock().push(number);
                tokio::task::yield_now().await;
                Ok(number)
            }
        }
    });
    let peer = Peer::start(handlers).await;
    let pool = Pool::default();
    let ordered = pool.ordered(peer.address, Class::Raft, soon()).await.unwrap();
    let mut answers = Vec::new();
    for number in 0..1000_u32 {
        answers.push(ordered.begin::<_, u32>(Method::Append, &number, soon()).await.unwrap());
    }
    for (number, answer) in join_all(answers).await.into_iter().enumerate() {
        assert_eq!(answer.unwrap() as usize, number);
    }
    assert_eq!(*seen.lock(), (0..1000).collect::<Vec<_>>());
}

/// Counts how many of its kind were made and dropped.
struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A method that never answers, and how often it was begun and dropped.
fn sleeper() -> (Handlers, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let (begun, dropped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let handlers = echo().on(Method::Lookup, {
        let (begun, dropped) = (Arc::clone(&begun), Arc::clone(&dropped));
        move |(): (), _| {
            begun.fetch_add(1, Ordering::SeqCst);
            let guard = Guard(Arc::clone(&dropped));
            async move {
                let _guard = guard;
                std::future::pending::<Result<(), Refusal>>().await
            }
        }
    });
    (handlers, begun, dropped)
}

#[tokio::test]
async fn a_caller_that_gives_up_stops_the_handler() {
    let (handlers, begun, dropped) = sleeper();
    let peer = Peer::start(handlers).await;
    let pool = Pool::default();
    let call = tokio::spawn({
        let (pool, to) = (pool.clone(), peer.address);
        async move { pool.call::<(), ()>(to, Method::Lookup, &(), soon()).await }
    });
    until("the call has begun", || begun.load(Ordering::SeqCst) == 1).await;
    call.abort();
    until("the handler is dropped", || dropped.load(Ordering::SeqCst) == 1).await;
    assert_eq!(ask(&pool, &peer, "still there").await.unwrap(), "still there");
}

#[tokio::test]
async fn a_deadline_ends_the_call_on_both_sides() {
    let (handlers, begun, dropped) = sleeper();
    let peer = Peer::start(handlers).await;
    let pool = Pool::default();
    let deadline = Instant::now() + Duration::from_millis(50);
    let call = pool.call::<(), ()>(peer.address, Method::Lookup, &(), deadline);
    let error = timeout(PATIENCE, call).await.unwrap().unwrap_err();
    assert!(!error.is_safe_to_retry(), "{error}");
    assert_eq!(begun.load(Ordering::SeqCst), 1);
    until("the handler is dropped", || dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn errors_tell_never_reached_from_may_have_happened() {
    let (handlers, begun, _) = sleeper();
    let peer = Peer::start(handlers.clone()).await;
    let pool = Pool::default();
    let address = peer.address;
    let call = tokio::spawn({
        let pool = pool.clone();
        async move { pool.call::<(), ()>(address, Method::Lookup, &(), soon()).await }
    });
    until("the call has begun", || begun.load(Ordering::SeqCst) == 1).await;
    peer.stop().await;
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error:?}");

    let error = pool.call::<(), ()>(address, Method::Ping, &(), soon()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.is_safe_to_retry());

    // Back at the same place, it is found again.
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(serve(listener, handlers, CancellationToken::new()));
    pool.call::<(), ()>(address, Method::Ping, &(), soon()).await.unwrap();
}

#[tokio::test]
async fn a_stream_waits_for_a_slow_reader_and_ends() {
    let sent = Arc::new(AtomicUsize::new(0));
    let handlers = echo().on_stream(Method::Lookup, {
        let sent = Arc::clone(&sent);
        move |count: usize, _, parts: Parts<usize>| {
            let sent = Arc::clone(&sent);
            async move {
                for number in 0..count {
                    parts.send(&number).await?;
                    sent.fetch_add(1, Ordering::SeqCst);
                }
                if count == 100 { Ok(()) } else { Err(Refusal::failed("out of numbers")) }
            }
        }
    });
    let peer = Peer::start(handlers).await;
    let pool = Pool::default();
    let stream = |count: usize| {
        let (pool, to) = (pool.clone(), peer.address);
        async move { pool.stream::<_, usize>(to, Method::Lookup, &count, None).await }
    };
    let mut answers = stream(100).await.unwrap();
    until("a window is sent", || sent.load(Ordering::SeqCst) == 8).await;
    assert_eq!(ask(&pool, &peer, "not held up").await.unwrap(), "not held up");
    assert_eq!(sent.load(Ordering::SeqCst), 8);
    for number in 0..100 {
        assert_eq!(answers.next().await.unwrap().unwrap(), number);
    }
    assert!(answers.next().await.is_none());

    let mut answers = stream(3).await.unwrap();
    for number in 0..3 {
        assert_eq!(answers.next().await.unwrap().unwrap(), number);
    }
    let error = answers.next().await.unwrap().unwrap_err();
    assert!(error.to_string().contains("out of numbers"), "{error}");
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn a_dropped_stream_stops_its_handler() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let handlers = Handlers::new().on_stream(Method::Lookup, {
        let dropped = Arc::clone(&dropped);
        move |(): (), _, parts: Parts<u8>| {
            let guard = Guard(Arc::clone(&dropped));
            async move {
                let _guard = guard;
                loop {
                    parts.send(&1).await?;
                }
            }
        }
    });
    let peer = Peer::start(handlers).await;
    let pool = Pool::default();
    let mut answers = pool.stream::<(), u8>(peer.address, Method::Lookup, &(), None).await.unwrap();
    answers.next().await.unwrap().unwrap();
    drop(answers);
    until("the handler is dropped", || dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_large_answer_does_not_fit_a_frame_and_says_so() {
    let handlers = echo()
        .on(Method::Lookup, |(): (), _| async { Ok(vec![String::from("x").repeat(1 << 20); 17]) });
    let peer = Peer::start(handlers).await;
    let pool = Pool::default();
    let error =
        pool.call::<(), Vec<String>>(peer.address, Method::Lookup, &(), soon()).await.unwrap_err();
    assert!(error.to_string().contains("exceeds the limit"), "{error}");
    let error = ask(&pool, &peer, &"x".repeat(17 << 20)).await.unwrap_err();
    assert!(error.is_safe_to_retry() && error.to_string().contains("exceeds"), "{error}");
    let large = "x".repeat(8 << 20);
    assert_eq!(ask(&pool, &peer, &large).await.unwrap(), large);
}

/// Sends bytes and returns once the peer has closed the connection.
async fn closed_after(peer: &Peer, bytes: &[u8]) {
    let mut stream = TcpStream::connect(peer.address).await.unwrap();
    // The peer may close before all is written.
    let _ = stream.write_all(bytes).await;
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    let _ = read.unwrap_or_else(|_| panic!("{bytes:?} keeps the connection open"));
}

#[tokio::test]
async fn garbage_on_the_port_closes_that_connection_only() {
    let limits = Limits { handshake: Duration::from_millis(200), ..Limits::default() };
    let peer = Peer::start(echo().with_limits(limits)).await;
    let pool = Pool::default();
    ask(&pool, &peer, "before").await.unwrap();
    closed_after(&peer, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    closed_after(&peer, &[0x16, 3, 1, 0, 5]).await;
    closed_after(&peer, b"f\0").await;
    // Says nothing, or only half.
    closed_after(&peer, b"").await;
    closed_after(&peer, b"f").await;
    // A frame that is too long, one that is too short, one of the other direction, a flood.
    closed_after(&peer, b"f\x01\xff\xff\xff\xff").await;
    closed_after(&peer, b"f\x01\0\0\0\x01\x01").await;
    closed_after(&peer, b"f\x01\0\0\0\x05\x02\0\0\0\0").await;
    closed_after(&peer, &[&b"r\x01"[..], &vec![0xaa; 100_000]].concat()).await;
    assert_eq!(ask(&pool, &peer, "after").await.unwrap(), "after");
}

#[tokio::test]
async fn a_port_that_is_no_agent_counts_as_never_reached() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error =
        Pool::default().call::<(), ()>(address, Method::Ping, &(), soon()).await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { why, .. } if why == "it is not an agent"));
}

#[tokio::test]
async fn a_peer_that_has_vanished_is_given_up() {
    // It welcomes the connection and is never heard again: a host that lost its power.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"M\x01").await;
            kept.push(stream);
        }
    });
    let began = Instant::now();
    let error =
        Pool::default().call::<(), ()>(address, Method::Append, &(), soon()).await.unwrap_err();
    assert!(matches!(&error, Error::Lost { why, .. } if why.contains("nothing was heard")));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn too_much_is_refused_not_queued() {
    let (handlers, begun, _) = sleeper();
    let limits = Limits { connections_per_client: 2, calls_per_connection: 3, ..Limits::default() };
    let peer = Peer::start(handlers.with_limits(limits)).await;
    let (first, second, third) = (Pool::default(), Pool::default(), Pool::default());
    let parked: Vec<_> = (0..3)
        .map(|_| {
            let (pool, to) = (first.clone(), peer.address);
            tokio::spawn(async move { pool.call::<(), ()>(to, Method::Lookup, &(), soon()).await })
        })
        .collect();
    until("the calls have begun", || begun.load(Ordering::SeqCst) == 3).await;
    let error = ask(&first, &peer, "one more").await.unwrap_err();
    assert!(error.is_safe_to_retry() && error.to_string().contains("in flight"), "{error}");
    ask(&second, &peer, "another connection").await.unwrap();
    let error = ask(&third, &peer, "one too many").await.unwrap_err();
    assert!(error.to_string().contains("too many connections"), "{error}");
    drop(second);
    let deadline = soon();
    while let Err(error) = ask(&third, &peer, "now there is room").await {
        assert!(Instant::now() < deadline, "{error}");
    }
    for call in parked {
        call.abort();
    }
}

#[tokio::test]
async fn a_handler_that_panics_fails_its_own_call_only() {
    let handlers = echo().on(Method::Lookup, |(): (), _| async {
        tokio::task::yield_now().await;
        assert!(std::hint::black_box(false), "this panic is part of the test");
        Ok(())
    });
    let peer = Peer::start(handlers).await;
    let pool = Pool::default();
    let call = pool.call::<(), ()>(peer.address, Method::Lookup, &(), soon());
    assert!(matches!(call.await.unwrap_err(), Error::Refused { .. }));
    assert_eq!(ask(&pool, &peer, "goes on").await.unwrap(), "goes on");
}
