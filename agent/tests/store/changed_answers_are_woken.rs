//! A reader waits on the scopes of its answer until they are touched, then compares indexes. So
//! if rows change, the reader must be woken and must find a newer index; if they do not, it must
//! be left alone; and repeating a write must not touch anything.

use muster_agent::store::{Change, Command, Store};
use proptest::prelude::*;

use crate::log::{commands, replay};
use crate::questions::ask_all;
use crate::same_log_same_bytes::bytes_of;

/// May the command change a row and change it back, so that a touch without a change is right?
fn may_undo_itself(before: &Store, change: &Change) -> bool {
    match change {
        Change::Txn(_) => true,
        Change::Register(register) => {
            let known = before.catalog().node_with_id(&register.node.id);
            // A renamed node goes with everything on it, some of which may come again.
            register.checks.len() > 1 || known.is_some_and(|node| node.name != register.node.name)
        }
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    #[test]
    fn and_no_others(commands in commands(40)) {
        let mut store_before = Store::default();
        let mut before = ask_all(&store_before);
        for (command, (store, applied)) in commands.iter().zip(replay(&commands)) {
            let after = ask_all(&store);
            for (old, new) in before.iter().zip(&after) {
                let woken = old.is_woken_by(&applied.touched);
                if old.rows != new.rows {
                    prop_assert!(woken, "{:?} missed {:?}: {:?}", old, command, &applied);
                    prop_assert!(new.index > old.index, "{:?} hid {:?} from {:?}", new, command, old);
                } else if old.exact && !may_undo_itself(&store_before, &command.change) {
                    prop_assert!(!woken, "{:?} woken in vain by {:?}: {:?}", old, command, &applied);
                }
            }
            before = after;
            store_before = store;
        }
    }

    /// The same catalog or key write again changes no byte but the store's own position.
    #[test]
    fn but_not_by_a_repetition(commands in commands(40)) {
        let mut store = Store::default();
        for (position, command) in commands.iter().enumerate() {
            let position = 10 + 10 * position as u64;
            store.apply(position, command);
            let repeatable = match &command.change {
                Change::Register(register) => {
                    register.checks.len() < 2 && !register.skip_node_update
                }
                Change::Deregister(_) | Change::Noop | Change::SessionDestroy { .. } => true,
                _ => false,
            };
            if repeatable {
                store.apply(position + 1, command);
                let again = store.apply(position + 2, command);
                prop_assert!(again.touched.is_empty(), "{:?} again: {:?}", command, again);
                let bytes = bytes_of(&store);
                store.apply(position + 2, command);
                prop_assert_eq!(bytes, bytes_of(&store));
            }
        }
    }
}

#[test]
fn writing_the_same_value_touches_nothing() {
    use muster_agent::store::{KvChange, KvVerb, Timestamp};
    let put = Command {
        at: Timestamp(1),
        change: Change::Kv(KvChange {
            verb: KvVerb::Set,
            key: "a".into(),
            value: "1".into(),
            flags: 7,
        }),
    };
    let mut store = Store::default();
    assert!(!store.apply(5, &put).touched.is_empty());
    assert!(store.apply(6, &put).touched.is_empty());
    assert_eq!(store.kv().get("a").index, 5);
    assert_eq!(store.kv().index(), 5);
}
