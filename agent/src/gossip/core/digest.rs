//! Digest of all that is known of members: two members that know the same have the same.

use crate::gossip::member::{Details, State};
use crate::gossip::message::Knowledge;

/// Parts of all members, put together so that a part can be taken out again and order is no matter.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest {
    /// Of those who are there, whether doubted or not.
    pub(super) live: u64,
    /// Of those who are gone, and how they went. Members forget them each by its own clock, so that
    /// this part differs now and then for moments without anybody having missed anything.
    gone: u64,
}

impl Digest {
    /// Puts a member's part in, or takes it out.
    pub(super) fn toggle(&mut self, details: &Details, state: State) {
        let weight = weight(details);
        match state {
            State::Alive | State::Suspect => self.live ^= weight,
            State::Failed => self.gone ^= weight,
            State::Left => self.gone ^= weight.rotate_left(1),
        }
    }

    /// Of somebody else's knowledge.
    pub(super) fn of(knowledge: &Knowledge) -> Digest {
        let mut digest = Digest::default();
        digest.toggle(&knowledge.from, State::Alive);
        for known in &knowledge.members {
            digest.toggle(&known.details, known.state);
        }
        digest
    }

    pub(super) fn parts(self) -> [u64; 2] {
        [self.live, self.gone]
    }
}

/// FNV over a member's name and what it said last.
fn weight(details: &Details) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in details.name.bytes().chain(details.incarnation.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}
