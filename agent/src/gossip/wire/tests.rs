use proptest::prelude::*;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::gossip::keyring::{Order, Report};
use crate::gossip::member::{Details, State, UserEvent};
use crate::gossip::message::{Claim, Knowledge, KnownMember, Summary};
use crate::gossip::vivaldi::Coordinate;

fn details(name: &str, id: u128) -> Arc<Details> {
    let id = Uuid::from_u128(id);
    let tags = [
        ("dc", "dc1"),
        ("role", "consul"),
        ("custom", "x"),
        ("segment", ""),
        ("id", &id.to_string()),
    ];
    Arc::new(Details {
        name: name.into(),
        id,
        address: "[fe80::1]:8301".parse().unwrap(),
        incarnation: 1_800_000_000_000,
        tags: tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    })
}

fn messages() -> Vec<Message> {
    let claim = Arc::new(Claim {
        name: "a".into(),
        id: Uuid::from_u128(3),
        incarnation: u64::MAX,
        from: "b".into(),
    });
    let coordinate = Coordinate { height: 0.5, ..Coordinate::default() };
    let event = UserEvent {
        id: Uuid::from_u128(9),
        ltime: 300,
        name: "deploy".into(),
        payload: Bytes::from_static(b"\0\xff"),
        filters: ["a".into(), String::new(), "c".into()],
    };
    let address: SocketAddr = "10.0.0.1:8301".parse().unwrap();
    vec![
        Message::Ping { seq: 7, target: "a".into(), reply_to: address },
        Message::Ack { seq: u32::MAX, digest: u64::MAX, coordinate: None },
        Message::Ack { seq: 0, digest: 0, coordinate: Some(Box::new(coordinate)) },
        Message::PingReq { seq: 1, target: "ä".into(), address, reply_to: address },
        Message::Nack { seq: 5 },
        Message::Alive(details("n1", 1)),
        Message::Suspect(Arc::clone(&claim)),
        Message::Failed(Arc::clone(&claim)),
        Message::Left { claim, prune: true },
        Message::Event(Arc::new(event)),
    ]
}

fn knowledge(count: u64) -> Knowledge {
    let states = [State::Alive, State::Suspect, State::Failed, State::Left];
    let members = (0..count).map(|number| KnownMember {
        details: details(&format!("n{number}"), number.into()),
        state: states[usize::try_from(number % 4).unwrap()],
        age: Duration::from_secs(number),
    });
    Knowledge {
        join: true,
        from: details("me", 77),
        members: members.collect(),
        events: Vec::new(),
        event_clock: 12,
    }
}

fn summary() -> Summary {
    let event = messages().into_iter().find_map(|message| match message {
        Message::Event(event) => Some(event),
        _ => None,
    });
    Summary { digest: [1, u64::MAX], events: event.into_iter().collect(), event_clock: 301 }
}

#[test]
fn what_is_said_is_understood() {
    let all = messages();
    assert_eq!(read_datagram("", &datagram("", &all)).unwrap(), all);
    for message in &all {
        let length = datagram("", std::slice::from_ref(message)).len() - 1;
        assert!(length <= message.size(), "{message:?}: {length}");
    }
    for request in [
        Request::Exchange(Box::new(knowledge(3))),
        Request::Exchange(Box::new(knowledge(1000))),
        Request::Compare(Box::new(summary())),
        Request::Ping { target: "a".into() },
        Request::Keys(Order::List),
        Request::Keys(Order::Use(vec![1; 16])),
    ] {
        assert_eq!(read_question(&question(&request)).unwrap(), request);
    }
    for said in [
        Response::Exchange(Box::new(knowledge(1000))),
        Response::Same(Box::new(summary())),
        Response::Pong,
        Response::Refused("no".into()),
        Response::Keys(Report { error: "x".into(), keys: vec![vec![1; 16], vec![2; 32]] }),
    ] {
        assert_eq!(read_answer(&answer(&said)).unwrap(), said);
    }
}

#[test]
fn much_knowledge_is_deflated() {
    let large = question(&Request::Exchange(Box::new(knowledge(1000))));
    assert_eq!(large[0], DEFLATED);
    assert!(large.len() < 40_000, "{}", large.len());
}

#[test]
fn what_is_said_in_one_segment_is_not_understood_in_another() {
    let said = messages();
    for segment in ["", "alpha", "beta"] {
        let bytes = datagram(segment, &said);
        for other in ["", "alpha", "beta"] {
            assert_eq!(read_datagram(other, &bytes).is_ok(), segment == other);
        }
        assert_eq!(read_datagram(segment, &bytes).unwrap(), said);
    }
}

#[test]
fn unknown_kinds_are_skipped() {
    let mut bytes = vec![DATAGRAM, 200, 3, 1, 2, 3];
    bytes.extend_from_slice(&datagram("", &messages()[..1])[1..]);
    assert_eq!(read_datagram("", &bytes).unwrap(), messages()[..1]);
}

#[test]
fn bombs_do_not_go_off() {
    let mut packed =
        flate2::write::DeflateEncoder::new(vec![DEFLATED], flate2::Compression::fast());
    let zeros = vec![0; 1024 * 1024];
    for _ in 0..40 {
        packed.write_all(&zeros).unwrap();
    }
    assert_eq!(read_question(&packed.finish().unwrap()), Err(Malformed));
}

/// Deflated, as it goes over a connection.
fn packed(plain: &[u8]) -> Vec<u8> {
    let mut packed =
        flate2::write::DeflateEncoder::new(vec![DEFLATED], flate2::Compression::best());
    packed.write_all(plain).unwrap();
    packed.finish().unwrap()
}

#[test]
fn what_grows_too_much_is_not_inflated() {
    let mut of_zeros = Writer(vec![QUESTION]);
    of_zeros.frame(kind::STREAM_PING, |out| out.text(&"0".repeat(1 << 20)));
    assert_eq!(read_question(&of_zeros.0).map(|_| ()), Ok(()), "its size alone is no fault");
    assert_eq!(read_question(&packed(&of_zeros.0)), Err(Malformed));
    // What members really say is far from that, and what is not goes as it is.
    let event = UserEvent {
        id: Uuid::nil(),
        ltime: 1,
        name: "x".repeat(1 << 20),
        payload: Bytes::new(),
        filters: Default::default(),
    };
    let said = Summary { events: vec![Arc::new(event)], ..summary() };
    let bytes = question(&Request::Compare(Box::new(said.clone())));
    assert_eq!(bytes[0], QUESTION);
    assert_eq!(read_question(&bytes), Ok(Request::Compare(Box::new(said))));
}

#[test]
fn more_members_than_a_pool_has_are_not_read() {
    let mut knowledge = knowledge(1);
    knowledge.members = vec![knowledge.members[0].clone(); MEMBERS_MAX + 1];
    let question = |knowledge: Knowledge| question(&Request::Exchange(Box::new(knowledge)));
    assert_eq!(read_question(&question(knowledge.clone())), Err(Malformed));
    knowledge.members.truncate(1000);
    assert!(read_question(&question(knowledge)).is_ok());
}

#[test]
fn a_message_that_makes_no_sense_costs_itself_alone() {
    let mut bytes = vec![DATAGRAM, kind::ALIVE, 2, 0xff, 0xff];
    bytes.extend_from_slice(&datagram("", &messages())[1..]);
    assert_eq!(read_datagram("", &bytes).unwrap(), messages());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), first in 0_u8..6) {
        let bytes = [&[first], &bytes[..]].concat();
        let _ = (read_datagram("", &bytes), read_question(&bytes), read_answer(&bytes));
        let _ = read_datagram("alpha", &bytes);
    }

    #[test]
    fn damaged_messages_do_not_panic(at in 0_usize..2000, byte in any::<u8>(), cut in 0_usize..2000) {
        for mut bytes in [
            datagram("", &messages()),
            question(&Request::Exchange(Box::new(knowledge(5)))),
            question(&Request::Compare(Box::new(summary()))),
        ] {
            let place = at % bytes.len();
            bytes[place] = byte;
            bytes.truncate(bytes.len() - cut % bytes.len());
            let _ = (read_datagram("", &bytes), read_question(&bytes));
        }
    }
}
