//! What goes into the log comes out of it; what a newer program wrote is refused by name; and no
//! bytes make the decoder panic.

use muster_agent::store::{Change, Command, DecodeError, Timestamp};
use proptest::prelude::*;

use crate::log::change;

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    #[test]
    fn there_and_back(change in change(), at in any::<u64>()) {
        let command = Command { at: Timestamp(at), change };
        prop_assert_eq!(Command::decode(&command.encode()).unwrap(), command);
    }

    #[test]
    fn damage_is_an_error_or_another_command(
        change in change(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = Command { at: Timestamp(1), change }.encode();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let _ = Command::decode(&bytes);
        let _ = Command::decode(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = Command::decode(&bytes);
    }
}

#[test]
fn what_a_newer_program_wrote_is_named() {
    #[derive(serde::Serialize)]
    enum NewerChange {
        Teleport { to: String },
        Rest,
    }
    #[derive(serde::Serialize)]
    struct NewerCommand {
        at: Timestamp,
        change: NewerChange,
    }
    for (change, name) in
        [(NewerChange::Teleport { to: "mars".into() }, "Teleport"), (NewerChange::Rest, "Rest")]
    {
        let mut bytes = vec![1];
        bytes.extend(rmp_serde::to_vec_named(&NewerCommand { at: Timestamp(1), change }).unwrap());
        let error = Command::decode(&bytes).unwrap_err();
        assert!(matches!(&error, DecodeError::Unknown(unknown) if unknown == name), "{error:?}");
        assert!(error.to_string().contains(name));
    }
    let mut other = Command { at: Timestamp(1), change: Change::Noop }.encode();
    other[0] = 9;
    assert!(matches!(Command::decode(&other), Err(DecodeError::Encoding(9))));
    assert!(matches!(Command::decode(&[]), Err(DecodeError::Empty)));
}

#[test]
fn fields_of_a_newer_program_are_ignored() {
    #[derive(serde::Serialize)]
    struct NewerCommand {
        at: Timestamp,
        change: Change,
        urgency: u8,
    }
    let newer = NewerCommand { at: Timestamp(3), change: Change::Noop, urgency: 9 };
    let mut bytes = vec![1];
    bytes.extend(rmp_serde::to_vec_named(&newer).unwrap());
    let command = Command::decode(&bytes).unwrap();
    assert_eq!(command, Command { at: Timestamp(3), change: Change::Noop });
}
