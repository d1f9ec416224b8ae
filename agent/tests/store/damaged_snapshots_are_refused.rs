//! A snapshot that was cut, changed or is of a newer program is an error, never a panic, a wrong
//! state or a large allocation.

use std::io::{self, Read};

use muster_agent::store::{Change, Command, KvChange, KvVerb, Store, Timestamp, snapshot};
use proptest::prelude::*;

use crate::log::{after, commands};
use crate::same_log_same_bytes::bytes_of;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn one_changed_byte_is_found(
        commands in commands(30),
        place in any::<prop::sample::Index>(),
        flip in 1u8..=255,
    ) {
        let mut bytes = bytes_of(&after(&commands));
        let place = place.index(bytes.len());
        bytes[place] ^= flip;
        prop_assert!(snapshot::read(&*bytes).is_err(), "byte {} flipped by {}", place, flip);
    }

    #[test]
    fn a_missing_end_is_found(commands in commands(30), cut in any::<prop::sample::Index>()) {
        let bytes = bytes_of(&after(&commands));
        let cut = cut.index(bytes.len());
        prop_assert!(snapshot::read(&bytes[..cut]).is_err());
    }

    /// Damage that a checksum does not show, since it was there before: no panic.
    #[test]
    fn nonsense_under_a_right_checksum_never_panics(
        commands in commands(30),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut blocks = Blocks::of(&bytes_of(&after(&commands)));
        for (place, byte) in damage {
            let block = &mut blocks.0[0];
            let place = place.index(block.len());
            block[place] = byte;
        }
        if let Ok(mut store) = snapshot::read(&*blocks.bytes()) {
            for command in &commands {
                store.apply(1_000, command);
            }
        }
    }

    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(snapshot::read(&*noise).is_err());
        let mut bytes = b"MUSTER\0S\0\x01".to_vec();
        bytes.extend(noise);
        prop_assert!(snapshot::read(&*bytes).is_err());
    }
}

/// The payloads of a snapshot's blocks, to be changed and put together again with right sums.
struct Blocks(Vec<Vec<u8>>);

impl Blocks {
    fn of(bytes: &[u8]) -> Blocks {
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let mut at = 10;
        let mut blocks = Vec::new();
        while number(at) > 0 {
            blocks.push(bytes[at + 8..at + 8 + number(at)].to_vec());
            at += 8 + number(at);
        }
        Blocks(blocks)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"MUSTER\0S\0\x01".to_vec();
        let mut crcs = Vec::new();
        let mut records = 0u64;
        for block in &self.0 {
            let crc = crc32fast::hash(block).to_be_bytes();
            crcs.extend(crc);
            bytes.extend(u32::try_from(block.len()).unwrap().to_be_bytes());
            bytes.extend(crc);
            bytes.extend(block);
            records += records_in(block);
        }
        bytes.extend(0u32.to_be_bytes());
        bytes.extend(crc32fast::hash(&crcs).to_be_bytes());
        bytes.extend(records.to_be_bytes());
        bytes
    }
}

/// How many records a reader would count; any number if they make no sense.
fn records_in(mut block: &[u8]) -> u64 {
    let mut records = 0;
    while let Some((kind, rest)) = block.split_first() {
        records += 1;
        let Some(length) = rest.get(usize::from(*kind)..usize::from(*kind) + 4) else { break };
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        let Some(rest) = rest.get(usize::from(*kind) + 4 + length..) else { break };
        block = rest;
    }
    records
}

fn record(kind: &str, body: &[u8]) -> Vec<u8> {
    let mut record = vec![u8::try_from(kind.len()).unwrap()];
    record.extend(kind.bytes());
    record.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    record.extend(body);
    record
}

#[test]
fn a_kind_of_a_newer_program_is_named() {
    let mut blocks = Blocks::of(&bytes_of(&Store::default()));
    blocks.0[0].extend(record("prepared-query", &[0x80]));
    let error = snapshot::read(&*blocks.bytes()).unwrap_err();
    assert!(matches!(&error, snapshot::Error::Kind(kind) if kind == "prepared-query"), "{error:?}");
    assert!(error.to_string().contains("prepared-query"));
}

#[test]
fn a_field_of_a_newer_program_is_ignored() {
    #[derive(serde::Serialize)]
    struct NewerTombstone<'a> {
        key: &'a str,
        index: u64,
        epitaph: &'a str,
    }
    let mut blocks = Blocks::of(&bytes_of(&Store::default()));
    let stone = NewerTombstone { key: "gone", index: 7, epitaph: "missed" };
    blocks.0[0].extend(record("tombstone", &rmp_serde::to_vec_named(&stone).unwrap()));
    let store = snapshot::read(&*blocks.bytes()).unwrap();
    assert_eq!(store.kv().list("gone").index, 7);
}

#[test]
fn other_formats_and_other_files_are_told_apart() {
    let mut bytes = bytes_of(&Store::default());
    let newer = snapshot::FORMAT + 1;
    bytes[8..10].copy_from_slice(&newer.to_be_bytes());
    assert!(matches!(snapshot::read(&*bytes), Err(snapshot::Error::Format(f)) if f == newer));
    assert!(matches!(snapshot::read(&b"PK\x03\x04 and so on"[..]), Err(snapshot::Error::Magic)));
    assert!(matches!(snapshot::read(&b""[..]), Err(snapshot::Error::Io(_))));
}

#[test]
fn a_state_of_many_blocks_is_streamed() {
    let mut store = Store::default();
    for n in 0..300u64 {
        let change = Change::Kv(KvChange {
            verb: KvVerb::Set,
            key: format!("large/{n:04}"),
            value: vec![u8::try_from(n % 251).unwrap(); 4_000].into(),
            flags: n,
        });
        store.apply(n + 1, &Command { at: Timestamp(n), change });
    }
    let bytes = bytes_of(&store);
    assert!(Blocks::of(&bytes).0.len() > 10);
    let read = snapshot::read(Trickle(&bytes)).unwrap();
    assert_eq!(bytes_of(&read), bytes);
}

/// Gives a few bytes at a time, as a network does.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let some = buffer.len().min(701);
        self.0.read(&mut buffer[..some])
    }
}

#[test]
fn rows_of_a_later_time_than_the_state_are_found() {
    let mut state = Store::default();
    let change = KvChange { verb: KvVerb::Set, key: "k".into(), value: "v".into(), flags: 0 };
    let command = Command { at: Timestamp(1), change: Change::Kv(change) };
    state.apply(100, &command);
    assert!(state.judge().is_ok());
    let mut blocks = Blocks::of(&bytes_of(&state));
    // The header is the first record, and small numbers are one byte.
    let name = b"\xa5index\x64";
    let at = blocks.0[0].windows(name.len()).position(|it| it == name).unwrap() + name.len() - 1;
    blocks.0[0][at] = 99;
    let read = snapshot::read(&*blocks.bytes()).unwrap();
    let error = read.judge().unwrap_err();
    assert!(matches!(error, snapshot::Error::Below { index: 99, row: 100 }), "{error:?}");
}
