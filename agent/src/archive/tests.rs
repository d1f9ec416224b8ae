//! Archives of our own, of others, and damaged ones.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::store::{Change, Command, KvChange, KvVerb, Timestamp};

fn state(keys: u64) -> Store {
    let mut store = Store::default();
    for n in 0..keys {
        let change = Change::Kv(KvChange {
            verb: KvVerb::Set,
            key: format!("key/{n}"),
            value: vec![u8::try_from(n % 251).unwrap(); 100].into(),
            flags: n,
        });
        store.apply(n + 5, &Command { at: Timestamp(1), change });
    }
    store
}

fn meta(index: u64) -> Meta {
    let server = Server { suffrage: 0, id: "x".into(), address: "127.0.0.1:45237".into() };
    Meta::new(index, 2, 1_795_263_894_757, vec![server], 1)
}

fn archive(store: &Store) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&meta(store.index()), store, &mut bytes).unwrap();
    bytes
}

/// An archive of any files, with right sums over the first two unless they are given.
fn foreign(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    let mut sums = String::new();
    for (name, bytes) in files {
        tar::entry(&mut out, name, bytes, 0).unwrap();
        let _ = writeln!(sums, "{:x}  {name}", Sha256::digest(bytes));
    }
    if !files.iter().any(|(name, _)| *name == SUMS) {
        tar::entry(&mut out, SUMS, sums.as_bytes(), 0).unwrap();
    }
    tar::end(&mut out).unwrap();
    out.finish().unwrap()
}

#[test]
fn what_is_saved_is_read() {
    for keys in [0, 1, 3_000] {
        let store = state(keys);
        let bytes = archive(&store);
        let (found, read) = read(&*bytes).unwrap();
        assert_eq!(read.counts(), store.counts());
        assert_eq!((read.index(), found.index), (store.index(), store.index()));
        assert_eq!(found.state_format, store::snapshot::FORMAT);
        assert_eq!(inspect(&*bytes).unwrap(), found);
        assert_eq!(found.id, format!("2-{}-1795263894757", store.index()));
        assert_eq!(found.servers()[0].address, "127.0.0.1:45237");
    }
}

#[test]
fn meta_is_in_the_words_of_the_reference() {
    let text = String::from_utf8(meta(10).encode(2468)).unwrap();
    let format = store::snapshot::FORMAT;
    assert_eq!(
        text,
        r#"{"Version":1,"ID":"2-10-1795263894757","Index":10,"Term":2,"#.to_owned()
            + r#""Peers":"ka8xMjcuMC4wLjE6NDUyMzc=","Configuration":{"Servers":[{"Suffrage":0,"ID":"x","#
            + &format!(
                r#""Address":"127.0.0.1:45237"}}]}},"ConfigurationIndex":1,"Size":2468,"StateFormat":{format}}}"#
            )
            + "\n"
    );
}

#[test]
fn what_is_wrong_is_named() {
    let ours = {
        let mut bytes = Vec::new();
        encode(&state(2), &mut bytes).unwrap();
        bytes
    };
    let (meta, good) = (meta(6).encode(ours.len() as u64), archive(&state(2)));
    let wrong_sums =
        format!("{:x}  {META}\n{:x}  {STATE}\n", Sha256::digest(b""), Sha256::digest(b""));
    let sums_text = "failed to read snapshot file: failed checking integrity of snapshot: ";
    let foreign_meta = br#"{"Version":1,"ID":"2-10-17","Index":10,"Term":2,"Size":3}"#;
    let mut newer = ours.clone();
    newer[9] = 99;
    let with = |tail: &[u8]| [&good[..], tail].concat();
    let table: Vec<(Vec<u8>, String)> = vec![
        (vec![], "failed to decompress snapshot: EOF".into()),
        (b"junk\n".to_vec(), "failed to decompress snapshot: unexpected EOF".into()),
        (b"this is not gzip at all".to_vec(), "failed to decompress snapshot: gzip: invalid header".into()),
        (good[..20].to_vec(), "failed to read snapshot file: failed reading snapshot: unexpected EOF".into()),
        (good[..good.len() - 4].to_vec(), "unexpected EOF".into()),
        (with(b"garbage"), "gzip: invalid header".into()),
        (foreign(&[(META, b"hello"), (STATE, &ours)]),
            "failed to read snapshot file: failed to decode snapshot metadata: expected value at line 1 column 1".into()),
        (foreign(&[(META, &meta), (STATE, &ours), ("x", b"1")]),
            "failed to read snapshot file: unexpected file \"x\" in snapshot".into()),
        (foreign(&[(META, &meta)]), format!("{sums_text}file missing for \"state.bin\"")),
        (foreign(&[(META, &meta), (STATE, &ours), (STATE, &ours)]),
            format!("{sums_text}hash check failed for \"state.bin\"")),
        (foreign(&[(META, &meta), (STATE, &ours), (SUMS, wrong_sums.as_bytes())]),
            format!("{sums_text}hash check failed for \"meta.json\"")),
        (foreign(&[(META, &meta), (STATE, &ours), (SUMS, b"")]),
            format!("{sums_text}file missing for \"meta.json\"")),
        (foreign(&[(META, foreign_meta), (STATE, b"abc")]), Error::Foreign.to_string()),
        (foreign(&[(META, foreign_meta), (STATE, &[7; 3000])]), Error::Foreign.to_string()),
        (foreign(&[(META, &meta), (STATE, &newer)]),
            "the archive is sound, but its state cannot be read: snapshot has format 99; this program knows formats up to ".to_owned()
                + &store::snapshot::FORMAT.to_string()),
        (foreign(&[(META, &meta), (STATE, &ours[..ours.len() - 1])]),
            "the archive is sound, but its state cannot be read: snapshot could not be read or written".into()),
    ];
    for (n, (bytes, expected)) in table.into_iter().enumerate() {
        let error = read(&*bytes).unwrap_err();
        assert_eq!(error.to_string(), expected, "row {n}");
    }
    // Padding of other tools is no damage.
    assert!(inspect(&*foreign(&[(META, foreign_meta), (STATE, b"abc")])).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn damage_is_found_and_noise_never_panics(
        place in any::<prop::sample::Index>(),
        flip in 1u8..=255,
        cut in any::<prop::sample::Index>(),
        noise in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let good = archive(&state(20));
        let mut bytes = good.clone();
        // The first ten bytes hold a time and a name of the compressing system: they may differ.
        let place = 10 + place.index(bytes.len() - 10);
        bytes[place] ^= flip;
        // Bits that only fill a byte of the compressed form say nothing: then all is as it was.
        if let Ok((_, found)) = read(&*bytes) {
            let (mut as_read, mut expected) = (Vec::new(), Vec::new());
            encode(&found, &mut as_read).unwrap();
            encode(&state(20), &mut expected).unwrap();
            prop_assert!(as_read == expected, "byte {} flipped by {}", place, flip);
        }
        prop_assert!(read(&good[..cut.index(good.len())]).is_err());
        prop_assert!(read(&*noise).is_err());
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(&noise).unwrap();
        prop_assert!(read(&*out.finish().unwrap()).is_err());
    }
}
