//! A small part of the rest of the world: a name server that knows a few names.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, PTR};
use hickory_proto::rr::{Name, RData, Record};

/// A name server on loopback until the test's process ends.
pub(crate) fn start() -> u16 {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let udp = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            if let Some(answer) = answer(&buffer[..length], false) {
                let _ = udp.send_to(&answer, peer);
            }
        }
    });
    thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_err() {
                continue;
            }
            let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
            if stream.read_exact(&mut packet).is_ok()
                && let Some(answer) = answer(&packet, true)
            {
                let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                let _ = stream.write_all(&[&length[..], &answer].concat());
            }
        }
    });
    port
}

/// One that takes questions and never answers.
pub(crate) fn start_silent() -> u16 {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = udp.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while udp.recv_from(&mut buffer).is_ok() {}
    });
    port
}

fn answer(packet: &[u8], tcp: bool) -> Option<Vec<u8>> {
    let asked = Message::from_vec(packet).ok()?;
    let question = asked.queries.first()?.clone();
    let mut message = Message::response(asked.metadata.id, asked.metadata.op_code);
    message.metadata.recursion_desired = asked.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    message.add_query(question.clone());
    let name = |text: &str| Name::from_str(text).unwrap();
    let address = |owner: &Name, last: u8| {
        Record::from_rdata(owner.clone(), 60, RData::A(A::new(192, 0, 2, last)))
    };
    let own = question.name.clone();
    let text = own.to_string().to_lowercase();
    match text.as_str() {
        "www.example.com." => {
            message.add_answer(address(&own, 10));
        }
        "alias.example.com." => {
            let target = name("www.example.com.");
            message.add_answer(Record::from_rdata(own, 60, RData::CNAME(CNAME(target.clone()))));
            message.add_answer(address(&target, 10));
        }
        "many.example.com." => {
            message.add_answers((1..=8).map(|last| address(&own, last)));
        }
        "big.example.com." if !tcp => message.metadata.truncation = true,
        "big.example.com." => {
            message.add_answers((1..=40).map(|last| address(&own, last)));
        }
        "9.9.9.9.in-addr.arpa." => {
            let target = RData::PTR(PTR(name("nine.example.com.")));
            message.add_answer(Record::from_rdata(own, 60, target));
        }
        "fail.example.com." => message.metadata.response_code = ResponseCode::ServFail,
        "refused.example.com." => message.metadata.response_code = ResponseCode::Refused,
        "silent.example.com." => return None,
        _ => message.metadata.response_code = ResponseCode::NXDomain,
    }
    message.to_vec().ok()
}
