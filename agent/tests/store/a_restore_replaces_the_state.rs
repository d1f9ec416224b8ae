//! A restore brings exactly the saved state, at once, and no index goes back.

use muster_agent::store::{
    Applied, Change, Command, INDEX_MAX, Reply, Restore, Scope, Store, Timestamp, snapshot,
};
use proptest::prelude::*;

use crate::log::{after, commands};
use crate::questions::ask_all;
use crate::same_log_same_bytes::bytes_of;

const AT: Timestamp = Timestamp(2_000_000);

/// The steps that bring a state, in parts of about `bytes`.
fn steps(state: &Store, bytes: usize) -> Vec<Restore> {
    let id = || "r".to_owned();
    let mut steps = vec![Restore::Begin { id: id() }];
    let mut parts = 0;
    snapshot::pieces(state, bytes, |records| {
        let (number, format) = (parts, snapshot::FORMAT);
        steps.push(Restore::Rows { id: id(), number, format, records: records.into() });
        parts += 1;
        Ok(())
    })
    .unwrap();
    steps.push(Restore::Commit { id: id(), parts });
    steps
}

fn apply(store: &mut Store, position: u64, step: Restore) -> Applied {
    let command = Command { at: AT, change: Change::Restore(step) };
    let command = Command::decode(&command.encode()).unwrap();
    store.apply(position, &command)
}

fn rows(store: &Store) -> Vec<String> {
    ask_all(store).into_iter().map(|answer| answer.rows).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn whatever_was_there_before(
        before in commands(30),
        saved in commands(40),
        meanwhile in commands(5),
        bytes in 1usize..3_000,
        history in prop_oneof![Just(0u64), Just(5_000)],
    ) {
        let mut store = after(&before);
        let mut state = after(&saved);
        // The saved state may come from a cluster with a longer history.
        if history > 0 {
            state.apply(history, &Command { at: AT, change: Change::Noop });
        }
        let mut position = 200;
        let steps = steps(&state, bytes);
        let last = steps.len() - 1;
        for (n, step) in steps.into_iter().enumerate() {
            position += 1;
            let seen = store.index();
            let applied = apply(&mut store, position, step);
            prop_assert_eq!(&applied.reply, &Reply::Done, "step {}", n);
            prop_assert_eq!(applied.touched.contains(&Scope::Everything), n == last);
            prop_assert!(applied.index > seen);
            prop_assert_eq!(applied.index, store.index());
            // A server that joins half-way gets the rest of the way.
            let read = snapshot::read(&*bytes_of(&store)).unwrap();
            prop_assert_eq!(bytes_of(&read), bytes_of(&store));
            store = read.restored_over(&store);
            if n == 1 {
                for command in &meanwhile {
                    position += 1;
                    store.apply(position, command);
                }
            }
        }
        prop_assert_eq!(rows(&store), rows(&state));
        prop_assert!(store.index() > state.index());
        prop_assert_eq!(store.counts(), state.counts());
        for answer in ask_all(&store) {
            prop_assert!(answer.index_alone <= store.index());
        }
        // The next change has a higher index than any row.
        let applied = store.apply(position + 1, &Command { at: AT, change: Change::Noop });
        prop_assert_eq!(applied.index, store.index_of(position + 1));
        prop_assert!(applied.index > state.index());
    }

    #[test]
    fn a_broken_one_changes_nothing(before in commands(20), saved in commands(20), drop in any::<prop::sample::Index>()) {
        let mut store = after(&before);
        let expected = rows(&store);
        let mut steps = steps(&after(&saved), 200);
        let begin = steps.remove(0);
        if steps.len() > 1 {
            steps.remove(drop.index(steps.len() - 1));
            apply(&mut store, 200, begin);
            let mut refused = 0;
            for (n, step) in (201..).zip(steps) {
                refused += u32::from(matches!(apply(&mut store, n, step).reply, Reply::Refused(_)));
            }
            prop_assert!(refused > 0);
        }
        prop_assert_eq!(rows(&store), expected);
    }
}

#[test]
fn a_second_restore_takes_the_place_of_the_first() {
    let mut store = Store::default();
    let begin = |id: &str| Restore::Begin { id: id.into() };
    let rows = |id: &str| Restore::Rows {
        id: id.into(),
        number: 0,
        format: 1,
        records: bytes::Bytes::new(),
    };
    assert_eq!(apply(&mut store, 1, begin("a")).reply, Reply::Done);
    assert_eq!(apply(&mut store, 2, begin("b")).reply, Reply::Done);
    let refused = |text: &str| Reply::Refused(format!("the restore cannot go on: {text}"));
    assert_eq!(apply(&mut store, 3, rows("a")).reply, refused("another restore took its place"));
    assert_eq!(apply(&mut store, 4, rows("b")).reply, Reply::Done);
    let again = apply(&mut store, 5, rows("b")).reply;
    assert_eq!(again, refused("part 0 came in place of 1"));
    assert_eq!(apply(&mut store, 6, rows("b")).reply, refused("it was abandoned"));
    // Silence for ten minutes ends one, too.
    assert_eq!(apply(&mut store, 7, begin("c")).reply, Reply::Done);
    let late = Command { at: Timestamp(AT.0 + 10 * 60_000 + 1), change: Change::Noop };
    store.apply(8, &late);
    assert_eq!(apply(&mut store, 9, rows("c")).reply, refused("it was abandoned"));
}

#[test]
fn rows_of_a_newer_format_stop_the_server() {
    let step = Restore::Rows {
        id: "r".into(),
        number: 0,
        format: snapshot::FORMAT + 1,
        records: bytes::Bytes::new(),
    };
    let bytes = Command { at: AT, change: Change::Restore(step) }.encode();
    let error = Command::decode(&bytes).unwrap_err().to_string();
    assert!(error.contains("rows of a restored state in format"), "{error}");
}

#[test]
fn an_index_that_leaves_no_room_is_refused_and_nothing_changes() {
    for index in [u64::MAX, u64::MAX - 6, INDEX_MAX + 1] {
        let mut state = Store::default();
        state.apply(index, &Command { at: AT, change: Change::Noop });
        assert!(
            matches!(state.judge(), Err(snapshot::Error::Index { index: told, .. }) if told == index)
        );
        let mut store = Store::default();
        let replies: Vec<Reply> = (1..)
            .zip(steps(&state, 1000))
            .map(|(position, step)| apply(&mut store, position, step).reply)
            .collect();
        let Some(Reply::Refused(text)) = replies.last() else { panic!("{replies:?}") };
        assert!(text.contains(&format!("index `{index}`")), "{text}");
        assert!(store.index() < 10, "its own index stays: {}", store.index());
    }
    let mut state = Store::default();
    state.apply(INDEX_MAX, &Command { at: AT, change: Change::Noop });
    assert!(state.judge().is_ok());
}
