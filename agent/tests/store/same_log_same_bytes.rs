//! Two servers that apply the same log hold the same bytes, wherever their log came from.

use muster_agent::store::{Command, Store, snapshot};
use proptest::prelude::*;

use crate::log::{after, commands, replay};

pub(crate) fn bytes_of(store: &Store) -> Vec<u8> {
    let mut bytes = Vec::new();
    snapshot::write(store, &mut bytes).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn applying_a_log_twice_gives_equal_bytes_and_replies(commands in commands(60)) {
        let through_the_wire: Vec<Command> =
            commands.iter().map(|command| Command::decode(&command.encode()).unwrap()).collect();
        for ((_, one), (_, other)) in replay(&commands).zip(replay(&through_the_wire)) {
            prop_assert_eq!(one.reply, other.reply);
            prop_assert_eq!(one.touched, other.touched);
        }
        prop_assert_eq!(bytes_of(&after(&commands)), bytes_of(&after(&through_the_wire)));
    }

    /// A server that took a snapshot on the way ends where those end that have the whole log.
    #[test]
    fn a_snapshot_on_the_way_makes_no_difference(commands in commands(60), cut in 0usize..60) {
        let whole = after(&commands);
        let cut = cut.min(commands.len());
        let mut store = snapshot::read(&*bytes_of(&after(&commands[..cut]))).unwrap();
        for (position, command) in commands.iter().enumerate().skip(cut) {
            store.apply(10 + 3 * position as u64, command);
        }
        prop_assert_eq!(bytes_of(&whole), bytes_of(&store));
    }
}
