//! Real sockets: bad packets, long messages, idle connections, reload, other addresses.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use serde_json::json;

use crate::agent::{Agent, DEADLINE, moment};
use crate::wire::{Question, by_tcp, by_udp, show};

/// Long enough for an answer on loopback, short enough to wait for silence.
const SILENCE: Duration = Duration::from_millis(300);

fn good() -> Vec<u8> {
    Question::parse("n1.node.consul A").bytes()
}

/// A good question with some bytes changed.
fn bent(changes: &[(usize, u8)]) -> Vec<u8> {
    let mut packet = good();
    for (at, byte) in changes {
        packet[*at] = *byte;
    }
    packet
}

#[test]
fn bad_packets_get_their_due_and_the_door_stays_open() {
    let agent = Agent::ours(&json!({}));
    let long_name: Vec<u8> = {
        let mut packet = good()[..12].to_vec();
        for _ in 0..5 {
            packet.push(60);
            packet.extend([b'a'; 60]);
        }
        packet.extend([0, 0, 1, 0, 1]);
        packet
    };
    let rows: Vec<(&str, Vec<u8>, Option<ResponseCode>)> = vec![
        ("nothing", vec![], None),
        ("half a header", good()[..7].to_vec(), None),
        ("an answer", bent(&[(2, 0x81)]), None),
        ("a header alone", good()[..12].to_vec(), Some(ResponseCode::FormErr)),
        ("half a question", good()[..20].to_vec(), Some(ResponseCode::FormErr)),
        ("no question", bent(&[(5, 0)]), Some(ResponseCode::FormErr)),
        ("two questions", bent(&[(5, 2)]), Some(ResponseCode::FormErr)),
        ("a jump onto itself", bent(&[(12, 0xC0), (13, 12)]), Some(ResponseCode::FormErr)),
        ("a jump forward", bent(&[(12, 0xC0), (13, 40)]), Some(ResponseCode::FormErr)),
        ("a label of no kind", bent(&[(12, 0x80)]), Some(ResponseCode::FormErr)),
        ("a name too long", long_name, Some(ResponseCode::FormErr)),
        ("a status request", bent(&[(2, 0x10)]), Some(ResponseCode::NotImp)),
        ("a notification", bent(&[(2, 0x20)]), Some(ResponseCode::NotImp)),
        ("an update", bent(&[(2, 0x28)]), Some(ResponseCode::NotImp)),
        ("an opcode of nobody", bent(&[(2, 0x78)]), Some(ResponseCode::NotImp)),
        ("a missing record", bent(&[(11, 1)]), Some(ResponseCode::FormErr)),
        ("good", good(), Some(ResponseCode::NoError)),
    ];
    for (what, packet, expected) in rows {
        let patience = if expected.is_some() { DEADLINE } else { SILENCE };
        let answer = by_udp(agent.dns, &packet, patience);
        let code = answer.map(|it| Message::from_vec(&it).unwrap().metadata.response_code);
        assert_eq!(code, expected, "{what}");
        // An answer by TCP closes the connection; it must not wait for more.
        if let Some(expected) = expected {
            let answer = by_tcp(agent.dns, &packet, DEADLINE).unwrap();
            let message = Message::from_vec(&answer).unwrap();
            assert_eq!(message.metadata.response_code, expected, "{what} by TCP");
        }
    }
    // The longest frame there is: a question, and rubbish behind it.
    let mut longest = good();
    longest.resize(65_535, 7);
    let answer = by_tcp(agent.dns, &longest, DEADLINE).unwrap();
    let message = Message::from_vec(&answer).unwrap();
    assert_eq!(message.metadata.response_code, ResponseCode::NoError);
}

#[test]
fn several_questions_travel_on_one_connection() {
    let agent = Agent::ours(&json!({}));
    let mut stream = TcpStream::connect(("127.0.0.1", agent.dns)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let packet = good();
    let frame = [&u16::try_from(packet.len()).unwrap().to_be_bytes()[..], &packet].concat();
    // In pieces, and two at once.
    stream.write_all(&frame[..1]).unwrap();
    stream.write_all(&frame[1..5]).unwrap();
    stream.write_all(&frame[5..]).unwrap();
    stream.write_all(&[&frame[..], &frame].concat()).unwrap();
    for _ in 0..3 {
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
        assert!(show(Some(&answer), 0).head.starts_with("NoError aa rd | 1 "));
    }
}

#[test]
fn idle_connections_are_bounded_and_go() {
    let agent = Agent::ours(&json!({}));
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    let before = resident();
    // One source address has its share, not all there is.
    let idle: Vec<TcpStream> =
        (0..900).filter_map(|_| TcpStream::connect(("127.0.0.1", agent.dns)).ok()).collect();
    let open = |streams: &[TcpStream]| {
        let held = |stream: &TcpStream| {
            stream.set_nonblocking(true).unwrap();
            let mut stream = stream;
            let read = stream.read(&mut [0]);
            read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
        };
        streams.iter().filter(|stream| held(stream)).count()
    };
    let start = Instant::now();
    while open(&idle) > 128 {
        assert!(start.elapsed() < DEADLINE, "{} connections of one client", open(&idle));
        moment();
    }
    assert!(resident() < before + 32 * 1024, "memory grows with idle connections");
    // UDP does not care, and once the idle ones went, TCP answers again.
    assert!(by_udp(agent.dns, &good(), DEADLINE).is_some());
    let start = Instant::now();
    while by_tcp(agent.dns, &good(), SILENCE).is_none() {
        assert!(start.elapsed() < DEADLINE, "idle connections keep others out");
        moment();
    }
}

#[test]
fn settings_change_while_the_door_is_open() {
    let agent = Agent::ours(&json!({}));
    let ask = |question: &str| {
        show(Question::parse(question).ask(agent.dns, DEADLINE).as_deref(), agent.server)
    };
    assert_eq!(ask("n1.node.consul A").records[0], "answer n1.node.consul. 0 IN A 127.0.0.1");
    assert_eq!(ask("example.com A").head, "Refused rd | 0 0 0");
    let upstream = crate::recursor::start();
    agent.reload(&json!({
        "recursors": [format!("127.0.0.1:{upstream}")],
        "dns_config": {"node_ttl": "9s"},
    }));
    assert_eq!(ask("n1.node.consul A").records[0], "answer n1.node.consul. 9 IN A 127.0.0.1");
    assert_eq!(ask("www.example.com A").head, "NoError rd ra | 1 0 0");
    // A mistake changes nothing.
    let status = agent.try_reload(&json!({"dns_config": {"node_ttl": "soon"}}));
    assert!(!status.starts_with("HTTP/1.1 200"), "{status}");
    assert_eq!(ask("n1.node.consul A").records[0], "answer n1.node.consul. 9 IN A 127.0.0.1");
    agent.reload(&json!({"recursors": [], "dns_config": {}}));
    assert_eq!(ask("n1.node.consul A").records[0], "answer n1.node.consul. 0 IN A 127.0.0.1");
    assert_eq!(ask("example.com A").head, "Refused rd | 0 0 0");
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let agent = Agent::ours(&json!({"addresses": {"dns": "0.0.0.0"}}));
    for own in ["127.0.0.1", "127.0.0.7"] {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        // A connected socket takes packets of its peer alone.
        socket.connect((own, agent.dns)).unwrap();
        socket.send(&good()).unwrap();
        let mut buffer = [0; 512];
        socket.recv(&mut buffer).unwrap();
    }
}

#[test]
fn ipv6_is_served() {
    if UdpSocket::bind("[::1]:0").is_err() {
        // This machine has none: then that is what an agent says.
        let text = refusal(&json!({"addresses": {"dns": "::1"}, "ports": {"http": -1}}));
        assert!(text.contains("cannot serve DNS on [::1]"), "{text}");
        return;
    }
    for address in ["::1", "::"] {
        let agent = Agent::ours(&json!({"addresses": {"dns": address}}));
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.connect(("::1", agent.dns)).unwrap();
        socket.send(&good()).unwrap();
        let mut buffer = [0; 512];
        socket.recv(&mut buffer).unwrap();
        TcpStream::connect(("::1", agent.dns)).unwrap();
    }
}

#[test]
fn a_port_is_not_shared_with_strangers() {
    let agent = Agent::ours(&json!({}));
    assert!(UdpSocket::bind(("127.0.0.1", agent.dns)).is_err());
    let text = refusal(&json!({"ports": {"http": -1, "dns": agent.dns}}));
    assert!(text.contains("cannot serve DNS on"), "{text}");
}

/// Why an agent with these keys does not start.
fn refusal(config: &serde_json::Value) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let ended = std::process::Command::new(env!("CARGO_BIN_EXE_muster"))
        .args(["agent", "-dev", "-bind=127.0.0.1", "-config-file"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(!ended.status.success());
    String::from_utf8_lossy(&ended.stderr).into_owned()
}

#[test]
fn a_flood_is_answered_in_part_where_that_is_set() {
    let agent = Agent::ours(&json!({"dns_config": {"responses_per_second": 20}}));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", agent.dns)).unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let start = Instant::now();
    for _ in 0..2000 {
        socket.send(&good()).unwrap();
    }
    let mut buffer = [0; 512];
    let (mut whole, mut cut) = (0, 0);
    while let Ok(length) = socket.recv(&mut buffer) {
        let message = Message::from_vec(&buffer[..length]).unwrap();
        if message.metadata.truncation { cut += 1 } else { whole += 1 }
    }
    // So many in each second that the flood met.
    let seconds = start.elapsed().as_secs() + 2;
    assert!(whole >= 20 && whole <= 20 * seconds, "{whole} whole answers in {seconds} s");
    assert!(cut > 0 && whole + cut < 2000, "{cut} say: ask by TCP");
    assert!(by_tcp(agent.dns, &good(), DEADLINE).is_some());
}

#[test]
fn a_change_is_answered_at_once() {
    let agent = Agent::ours(&json!({}));
    let ask = || {
        let packet = Question::parse("web.service.consul A").ask(agent.dns, DEADLINE).unwrap();
        Message::from_vec(&packet).unwrap()
    };
    for n in 0..50 {
        let address = format!("10.0.0.{n}");
        agent.put(
            "/v1/catalog/register",
            &json!({"Node": "w", "Address": address, "Service": {"Service": "web"}}),
        );
        let message = ask();
        assert_eq!(message.answers[0].data.to_string(), address);
    }
    agent.put("/v1/catalog/deregister", &json!({"Node": "w"}));
    assert_eq!(ask().metadata.response_code, ResponseCode::NXDomain);
}
