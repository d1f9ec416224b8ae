//! One name, claimed from two places: an agent that is built anew while its earlier life still seems to be
//! there, one that moved, or two that were given the same name or even the same id.
//!
//! ```text
//!   claim from elsewhere ─▶ remembered; the holder is asked next
//!        holder answers  ─▶ keeps its name; a warning now and then
//!        silent, same id ─▶ it moved: the claim is believed
//!        failed          ─▶ the claim is believed
//! ```
//!
//! A claim is never believed only because it is newer: two agents with one id would take the name from
//! each other for ever, and everything that follows members would follow that.

use std::sync::Arc;
use std::time::Duration;

use super::{Core, Notice, Output, Peer, Phase, Time};
use crate::gossip::member::{Details, Name};
use crate::gossip::message::Message;

/// Between two warnings of one name.
const WARN_PAUSE: Duration = Duration::from_mins(1);
/// A claim that is repeated for so long is none of an earlier life.
const SURE: Duration = Duration::from_secs(5);
/// A claim that was not repeated for so long is given up: claims come with exchanges.
const HEARD_MAX: Duration = Duration::from_mins(5);

/// Another claimant of a member's name.
#[derive(Debug)]
pub(super) struct Rival {
    details: Arc<Details>,
    since: Time,
    heard: Time,
}

impl Rival {
    /// Id and address, for people.
    pub(super) fn text(&self) -> Arc<str> {
        format!("{} at {}", self.details.id, self.details.address).into()
    }
}

/// Does somebody else claim the name of a member that is there? Who lives at its address has taken its
/// place.
pub(super) fn is_disputed(peer: &Peer, said: &Details) -> bool {
    peer.state.is_live() && peer.details.address != said.address
}

impl Core {
    /// Remembers a claim to another member's name.
    pub(super) fn dispute(&mut self, now: Time, said: &Arc<Details>, out: &mut Vec<Output>) {
        // The living keep their names; the next question goes to who has it, so that a name does not
        // stay with the dead for longer than it must.
        self.turn = self.peers.get_index_of(&said.name).unwrap_or(usize::MAX);
        self.remember(now, said, out);
    }

    /// Somebody speaks of itself with this member's name.
    pub(super) fn alive_with_my_name(
        &mut self,
        now: Time,
        said: &Arc<Details>,
        out: &mut Vec<Output>,
    ) {
        if said.address == self.me.address {
            if said.incarnation > self.me.incarnation
                || (said.incarnation == self.me.incarnation && **said != *self.me)
            {
                // What an earlier life of this member said, with a clock that was ahead; with another
                // id if it was built anew since.
                self.refute(now, said.incarnation);
                if said.id != self.me.id && self.phase != Phase::Active {
                    // Its good-bye would be taken for that of somebody else.
                    self.broadcasts.push(Message::Alive(Arc::clone(&self.me)), None);
                }
            }
            return;
        }
        self.remember(now, said, out);
        // If the other was there first, members do not believe this one; it tells them again until the
        // name is free.
        let is_due = now + self.retry <= self.next_exchange;
        if is_due {
            self.next_exchange = now + self.retry;
            self.retry = (2 * self.retry).min(self.timing.exchange_interval);
        }
        // With the same id it may be an earlier life at another address, which must be outbid. Not at
        // once whenever it is heard: two with one id would outbid each other as fast as they can.
        if is_due && said.id == self.me.id && said.incarnation >= self.me.incarnation {
            self.refute(now, said.incarnation);
        }
    }

    /// Others tell whom they take for the member with this one's name.
    pub(super) fn hear_of_my_name(&mut self, details: &Details) {
        // At the same address it is an earlier life, of which they will hear.
        self.is_disowned = details.address != self.me.address;
    }

    fn remember(&mut self, now: Time, said: &Arc<Details>, out: &mut Vec<Output>) {
        let name = &said.name;
        let is_known = self.rivals.get_mut(name).is_some_and(|rival| {
            let (old, new) = (&rival.details, said);
            let is_same = old.id == new.id && old.address == new.address;
            if is_same && new.incarnation >= old.incarnation {
                (rival.details, rival.heard) = (Arc::clone(said), now);
            }
            is_same
        });
        if !is_known {
            let rival = Rival { details: Arc::clone(said), since: now, heard: now };
            self.rivals.insert(name.clone(), rival);
            out.push(Output::Notice(Notice::Updated(name.clone())));
        }
        self.warn_of_rival(now, name, out);
    }

    /// Warns of two with one name, now and then, once it is sure that they are two.
    fn warn_of_rival(&mut self, now: Time, name: &Name, out: &mut Vec<Output>) {
        let Some(rival) = self.rivals.get(name) else { return };
        let holder = match self.peers.get(name) {
            Some(peer) => &peer.details,
            None => &self.me,
        };
        // No earlier life of this member itself speaks later than it.
        let is_later = *name == self.me.name && rival.details.incarnation >= holder.incarnation;
        let is_sure =
            holder.id != rival.details.id || is_later || now.saturating_sub(rival.since) >= SURE;
        let is_due = self.warned.get(name).is_none_or(|last| now >= *last + WARN_PAUSE);
        if !is_sure || !is_due || self.phase != Phase::Active {
            return;
        }
        self.warned.insert(name.clone(), now);
        out.push(Output::Notice(Notice::Warning(format!(
            "the name {name} of node {} at {} is also claimed by node {}: give one of them another name, and an id of its own",
            holder.id,
            holder.address,
            rival.text(),
        ))));
    }

    /// A member was asked and has answered.
    pub(super) fn holder_answers(&mut self, now: Time, name: &Name, out: &mut Vec<Output>) {
        if self.rivals.contains_key(name) {
            self.warn_of_rival(now, name, out);
        }
    }

    /// A member was asked and has not answered, neither to this one nor to others. If it is its own
    /// rival, it is there, at the other address.
    pub(super) fn holder_is_silent(&mut self, now: Time, name: &Name, out: &mut Vec<Output>) {
        let id = self.peers.get(name).map(|peer| peer.details.id);
        if self.rivals.get(name).map(|rival| rival.details.id) == id {
            self.pass_name_on(now, name, out);
        }
    }

    /// Gives the name to the rival, because its owner is gone.
    pub(super) fn pass_name_on(&mut self, now: Time, name: &Name, out: &mut Vec<Output>) {
        let Some(Rival { details, .. }) = self.rivals.remove(name) else { return };
        let known = self.peers.get(name).map(|peer| peer.details.incarnation);
        if known.is_none_or(|known| details.incarnation > known) {
            self.believe(now, &details, true, out);
        } else {
            // It hears that the name is free and speaks again.
            out.push(Output::Notice(Notice::Updated(name.clone())));
        }
    }

    /// A member is believed from now on; says whether that ends a claim.
    pub(super) fn settle(&mut self, name: &Name, said: &Details) -> bool {
        let is_its = self.rivals.get(name).is_some_and(|rival| {
            rival.details.address == said.address && rival.details.id == said.id
        });
        is_its && self.rivals.remove(name).is_some()
    }

    /// Gives up claims that nobody repeats.
    pub(super) fn rivals_end(&mut self, now: Time, out: &mut Vec<Output>) {
        let over = |rival: &Rival| now >= rival.heard + HEARD_MAX;
        let names: Vec<Name> = self
            .rivals
            .iter()
            .filter(|(_, rival)| over(rival))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            self.rivals.remove(&name);
            if name == self.me.name {
                self.is_disowned = false;
            }
            out.push(Output::Notice(Notice::Updated(name)));
        }
    }
}
