//! What was written is what is read, in answers and in indexes.

use muster_agent::store::{Store, snapshot};
use proptest::prelude::*;

use crate::log::{after, commands, replay};
use crate::questions::ask_all;
use crate::same_log_same_bytes::bytes_of;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_answer_survives(commands in commands(60)) {
        let store = after(&commands);
        let bytes = bytes_of(&store);
        let read = snapshot::read(&*bytes).unwrap();
        for (before, after) in ask_all(&store).iter().zip(ask_all(&read)) {
            prop_assert_eq!(&before.rows, &after.rows, "{}", before.question);
            prop_assert_eq!(before.index, after.index, "{}", before.question);
        }
        prop_assert_eq!(store.counts(), read.counts());
        prop_assert_eq!(store.index(), read.index());
        prop_assert_eq!(bytes, bytes_of(&read));
    }

    /// What was read has its secondary tables made anew, out of the rows. So if the two are equal
    /// to the last of them, no command left a row of a secondary table behind.
    #[test]
    fn and_so_does_every_secondary_table(commands in commands(40)) {
        for (store, _) in replay(&commands) {
            let read = snapshot::read(&*bytes_of(&store)).unwrap();
            prop_assert_eq!(format!("{store:?}"), format!("{read:?}"));
        }
    }
}

#[test]
fn an_empty_store_survives() {
    let read = snapshot::read(&*bytes_of(&Store::default())).unwrap();
    assert_eq!(read.index(), 0);
    assert_eq!(read.counts(), Store::default().counts());
}

#[test]
fn a_restore_is_a_new_epoch() {
    let first = Store::default();
    let second = Store::default().restored_over(&first);
    assert_eq!(second.epoch(), first.epoch() + 1);
    assert_eq!(Store::default().restored_over(&second).epoch(), second.epoch() + 1);
}
