//! Many connections from many addresses: they are bounded, and those who have something to say get in.

use std::net::Ipv4Addr;

use tokio::net::TcpSocket;

use super::*;

/// A welcomed connection from `127.0.0.N`, or none.
async fn from(number: u8, peer: &Peer) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, number), 0).into()).unwrap();
    let mut stream = socket.connect(peer.address).await.unwrap();
    stream.write_all(b"f\x01").await.unwrap();
    let mut greeting = [0; 2];
    // One that is refused may be reset before its greeting is read.
    stream.read_exact(&mut greeting).await.ok()?;
    (greeting[0] == super::super::serve::WELCOME).then_some(stream)
}

fn is_open(stream: &TcpStream) -> bool {
    let read = stream.try_read(&mut [0]);
    matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

#[tokio::test]
async fn crowds_that_say_nothing_are_bounded_and_give_way_to_who_speaks() {
    let (handlers, begun, _) = sleeper();
    let limits = Limits { connections_total: 16, ..Limits::default() };
    let peer = Peer::start(handlers.with_limits(limits)).await;
    let (busy, to) = (Pool::default(), peer.address);
    let parked =
        tokio::spawn(async move { busy.call::<(), ()>(to, Method::Lookup, &(), soon()).await });
    until("the call has begun", || begun.load(Ordering::SeqCst) == 1).await;
    let mut crowd = Vec::new();
    for number in 10..50 {
        for _ in 0..2 {
            crowd.extend(from(number, &peer).await);
        }
    }
    let deadline = soon();
    while let Err(error) = ask(&Pool::default(), &peer, "here I am").await {
        assert!(error.is_safe_to_retry(), "{error}");
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let open = || crowd.iter().filter(|it| is_open(it)).count();
    until("no more than the bound are open", || open() < 12).await;
    assert!(open() > 0, "only as many as necessary give way");
    assert!(!parked.is_finished(), "who waits for an answer does not give way");
    parked.abort();
}

#[tokio::test]
async fn who_is_known_finds_a_place_among_strangers_who_all_do_something() {
    let (handlers, begun, _) = sleeper();
    let limits = Limits { connections_total: 16, ..Limits::default() };
    let knows = |address| address == std::net::IpAddr::from([127, 0, 0, 200]);
    let peer = Peer::start(handlers.with_limits(limits).with_known(knows)).await;
    let mut strangers = Vec::new();
    for number in 10..22 {
        let mut stranger = from(number, &peer).await.expect("there are twelve places");
        let body = [&(Method::Lookup as u16).to_be_bytes()[..], &u32::MAX.to_be_bytes(), &[0xc0]];
        let rest = body.concat();
        let length = u32::try_from(5 + rest.len()).unwrap();
        let frame = [&length.to_be_bytes()[..], &[1], &1_u32.to_be_bytes(), &rest].concat();
        stranger.write_all(&frame).await.unwrap();
        strangers.push(stranger);
    }
    until("all calls have begun", || begun.load(Ordering::SeqCst) == 12).await;
    assert!(from(30, &peer).await.is_none());
    assert!(from(200, &peer).await.is_some());
    assert!(strangers.iter().all(is_open));
}
