//! Refusals: statements beyond the limits of `validate`, and new names beyond the number that may come in.

use std::time::Duration;

use super::{Core, Name, Notice, Output, State, Time};
use crate::gossip::newcomers::NEW_NAMES_A_MINUTE;
use crate::gossip::validate::Unfit;
use crate::gossip::wire::MEMBERS_MAX;

/// One warning of a kind within this time: who says one wrong thing after the other must not fill the log.
const WARNING_PAUSE: Duration = Duration::from_secs(10);

/// Warnings, now and then.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    unfit: Warnings,
    names: Warnings,
    pub(super) ids: Warnings,
}

#[derive(Debug, Default)]
pub(super) struct Warnings {
    next: Time,
    unsaid: u64,
}

impl Warnings {
    /// Number of refusals without a warning so far, if it is time for another warning.
    pub(super) fn due(&mut self, now: Time) -> Option<u64> {
        if now < self.next {
            self.unsaid += 1;
            return None;
        }
        self.next = now + WARNING_PAUSE;
        Some(std::mem::take(&mut self.unsaid))
    }
}

impl Core {
    /// Drops a statement, and says so now and then.
    pub(super) fn refuse(&mut self, now: Time, unfit: &Unfit, out: &mut Vec<Output>) {
        self.counters.refused += 1;
        if let Some(unsaid) = self.refusals.unfit.due(now) {
            let text = match unsaid {
                0 => format!("dropped what a member said: {unfit}"),
                unsaid => {
                    format!("dropped what a member said: {unfit}; and {unsaid} others before")
                }
            };
            out.push(Output::Notice(Notice::Warning(text)));
        }
    }

    /// May a name come in that is not known? What does not comes again with the next meeting.
    pub(super) fn admit(&mut self, now: Time, name: &Name, out: &mut Vec<Output>) -> bool {
        let fits = self.peers.len() < MEMBERS_MAX || self.make_room(out);
        if fits && self.newcomers.admit(now) {
            return true;
        }
        self.counters.refused += 1;
        if let Some(unsaid) = self.refusals.names.due(now) {
            let why = if fits {
                format!("more than {NEW_NAMES_A_MINUTE} new names came within a minute")
            } else {
                format!("the pool has {MEMBERS_MAX} members, which is the limit")
            };
            out.push(Output::Notice(Notice::Warning(format!(
                "member {name} and {unsaid} others before were not taken in: {why}"
            ))));
        }
        false
    }

    /// Forgets the member that has been gone for longest.
    fn make_room(&mut self, out: &mut Vec<Output>) -> bool {
        let gone = self.peers.values().filter(|peer| !peer.state.is_live());
        let Some(peer) = gone.min_by_key(|peer| (peer.state == State::Failed, peer.since)) else {
            return false;
        };
        let (name, incarnation) = (peer.details.name.clone(), peer.details.incarnation);
        self.forget(&name, incarnation, out);
        true
    }
}
