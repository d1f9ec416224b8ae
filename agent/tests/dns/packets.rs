//! Any bytes whatsoever: the right verdict or silence, nothing larger than the client asked for,
//! nothing that another library cannot read.

use std::sync::LazyLock;

use hickory_proto::op::Message;
use muster_agent::dns::{Settings, Transport, answer_packet};
use muster_agent::store::{Change, Command, Node, Register, Service, Store, Timestamp, Weights};
use proptest::prelude::*;

use crate::wire::Question;

/// A catalog with nodes of many pairs and a service of many instances.
static STORE: LazyLock<Store> = LazyLock::new(|| {
    let mut store = Store::default();
    for n in 0..40_u8 {
        let node = Node {
            name: format!("n{n}").into(),
            address: format!("10.0.0.{n}"),
            datacenter: "dc1".into(),
            meta: (0..n % 5).map(|k| (format!("key{k}"), "v".repeat(200))).collect(),
            ..Node::default()
        };
        let service = Service {
            kind: String::new(),
            id: "web".into(),
            name: "web".into(),
            tags: vec!["v1".into()],
            address: String::new(),
            tagged_addresses: [].into(),
            meta: [].into(),
            port: 80,
            weights: Weights { passing: 1, warning: 1 },
            enable_tag_override: false,
            node: node.name.clone(),
            create_index: 0,
            modify_index: 0,
        };
        let change = Change::Register(Box::new(Register {
            node,
            skip_node_update: false,
            service: Some(service),
            checks: Vec::new(),
        }));
        store.apply(u64::from(n) + 1, &Command { at: Timestamp(1), change });
    }
    store
});

fn kinds() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["A", "AAAA", "SRV", "ANY", "TXT", "SOA", "NS", "PTR", "MX", "AXFR"])
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "web.service.consul",
            "v1.web.service.consul",
            "_web._tcp.consul",
            "n4.node.consul",
            "consul",
            "0a000001.addr.consul",
            "1.0.0.10.in-addr.arpa",
            "example.com",
        ])
        .prop_map(str::to_owned),
        "([a-z_]{1,9}\\.){0,4}(service|node|addr|query)\\.(dc1\\.)?consul",
        "([A-Za-z0-9_-]{1,63}\\.){1,3}consul",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_bytes_do_harm(packet in prop::collection::vec(any::<u8>(), 0..600), tcp in any::<bool>()) {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let settings = Settings::default();
        if let Some(answer) = answer_packet(&packet, transport, &STORE, &settings, 7) {
            prop_assert!(answer.len() >= 12 && answer[..2] == packet[..2] && answer[2] & 0x80 != 0);
        }
    }

    /// Good questions with some bytes bent.
    #[test]
    fn nearly_good_questions_do_no_harm(
        name in names(),
        kind in kinds(),
        edns in prop::option::of(any::<u16>()),
        bent in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        cutting in any::<bool>(),
    ) {
        let edns = edns.map(|size| format!(" edns={size}")).unwrap_or_default();
        let mut packet = Question::parse(&format!("{name} {kind}{edns}")).bytes();
        for (at, byte) in bent {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        if cutting {
            packet.truncate(cut.index(packet.len()));
        }
        if let Some(answer) = answer_packet(&packet, Transport::Udp, &STORE, &Settings::default(), 7) {
            prop_assert!(Message::from_vec(&answer).is_ok() || packet.len() < answer.len());
        }
    }

    #[test]
    fn no_answer_is_larger_than_its_client_can_take(
        name in names(),
        kind in kinds(),
        edns in prop::option::of(any::<u16>()),
        tcp in any::<bool>(),
        compress in any::<bool>(),
        limit in 0..70_usize,
        seed in any::<u64>(),
    ) {
        let size = edns.map(|size| format!(" edns={size}")).unwrap_or_default();
        let packet = Question::parse(&format!("{name} {kind}{size}")).bytes();
        let settings = Settings {
            disable_compression: !compress,
            udp_answer_limit: limit,
            ..Settings::default()
        };
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let answer = answer_packet(&packet, transport, &STORE, &settings, seed).expect("an answer");
        let room = if tcp { 65_535 } else { edns.unwrap_or(512).max(512) };
        prop_assert!(answer.len() <= usize::from(room), "{} of {room}", answer.len());
        let message = Message::from_vec(&answer);
        prop_assert!(message.is_ok(), "{message:?}");
        let message = message.expect("readable");
        prop_assert_eq!(message.edns.is_some(), edns.is_some());
        // All of it, or a word that it is not all.
        if name == "web.service.consul" && kind == "A" {
            prop_assert_eq!(message.answers.len() == 40, !message.metadata.truncation);
        }
    }
}

/// The shuffle is fair enough that every instance comes first now and then.
#[test]
fn load_spreads_over_instances() {
    let packet = Question::parse("web.service.consul A").bytes();
    let mut first = std::collections::BTreeMap::<String, usize>::new();
    let mut seed = 1_u64;
    for _ in 0..4000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let answer =
            answer_packet(&packet, Transport::Udp, &STORE, &Settings::default(), seed).unwrap();
        let message = Message::from_vec(&answer).unwrap();
        *first.entry(message.answers[0].data.to_string()).or_default() += 1;
    }
    assert_eq!(first.len(), 40, "every instance comes first");
    assert!(first.values().all(|count| (40..250).contains(count)), "{first:?}");
}
