//! A client that remembers an index never meets a smaller one, whatever was deleted, reaped or
//! restored in between; and no answer claims to be newer than the store.

use std::collections::BTreeMap;

use muster_agent::store::{Index, Store, snapshot};
use proptest::prelude::*;

use crate::log::{after, commands, replay};
use crate::questions::ask_all;
use crate::same_log_same_bytes::bytes_of;

#[derive(Default)]
struct Seen(BTreeMap<String, Index>);

impl Seen {
    fn look(&mut self, store: &Store) -> Result<(), TestCaseError> {
        for answer in ask_all(store) {
            prop_assert_eq!(answer.index, answer.index_alone, "{}", &answer.question);
            prop_assert!(answer.index <= store.index(), "{:?} is of the future", &answer);
            let seen = self.0.entry(answer.question.clone()).or_default();
            prop_assert!(answer.index >= *seen, "{:?} was at {}", &answer, seen);
            *seen = answer.index;
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn over_writes_deletes_and_restarts(commands in commands(40)) {
        let mut seen = Seen::default();
        for (position, (store, _)) in replay(&commands).enumerate() {
            seen.look(&store)?;
            if position % 16 == 7 {
                seen.look(&snapshot::read(&*bytes_of(&store)).unwrap())?;
            }
        }
    }

    /// An operator puts back an older state, and life goes on.
    #[test]
    fn over_the_restore_of_an_older_state(
        before in commands(30),
        cut in 0usize..30,
        then in commands(10),
    ) {
        let mut seen = Seen::default();
        let last = after(&before);
        for (store, _) in replay(&before) {
            seen.look(&store)?;
        }
        let old = snapshot::read(&*bytes_of(&after(&before[..cut.min(before.len())]))).unwrap();
        let mut store = old.restored_over(&last);
        prop_assert!(store.epoch() > last.epoch());
        seen.look(&store)?;
        for (position, command) in then.iter().enumerate() {
            store.apply(1_000 + position as u64, command);
            seen.look(&store)?;
        }
    }
}
