//! One id, claimed under two names: an agent that was given the `node-id` of another one that lives.
//!
//! Rows, votes and locks belong to an id, so it stays with the living member that has it, whatever the
//! other says of itself later and under whichever name it was known before. At the same address the two
//! are one agent that goes by another name now.

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use super::{Core, Notice, Output, Time};
use crate::gossip::member::{Details, Name};
use crate::gossip::message::KnownMember;

/// The member that each id was last believed of.
#[derive(Debug, Default)]
pub(super) struct Ids(HashMap<Uuid, Name>);

impl Ids {
    /// A member is believed to have this id from now on.
    pub(super) fn give(&mut self, id: Uuid, name: &Name) {
        self.0.insert(id, name.clone());
    }

    /// A member that is gone had this id: whoever has it keeps it.
    pub(super) fn give_if_free(&mut self, id: Uuid, name: &Name) {
        self.0.entry(id).or_insert_with(|| name.clone());
    }

    /// A member has this id no more.
    pub(super) fn take(&mut self, id: Uuid, name: &Name) {
        if self.0.get(&id) == Some(name) {
            self.0.remove(&id);
        }
    }
}

impl Core {
    /// The living member of another name that has the id in `said`, which may be this one.
    pub(super) fn twin(&self, said: &Details) -> Option<&Arc<Details>> {
        if said.id == self.me.id && said.name != self.me.name {
            return Some(&self.me);
        }
        let peer = self.peers.get(self.ids.0.get(&said.id)?)?;
        let details = &peer.details;
        let is_twin = peer.state.is_live() && details.id == said.id && details.name != said.name;
        is_twin.then_some(details)
    }

    /// Does `said` claim the id of a living member elsewhere? Says so now and then.
    pub(super) fn claims_an_id(
        &mut self,
        now: Time,
        said: &Details,
        out: &mut Vec<Output>,
    ) -> bool {
        let known = self.peers.get(&said.name);
        if known.is_some_and(|peer| peer.state.is_live() && peer.details.id == said.id) {
            return false;
        }
        let Some(twin) = self.twin(said).filter(|twin| twin.address != said.address) else {
            return false;
        };
        let (other, text) = (twin.name.clone(), self.conflict(said, twin));
        self.counters.refused += 1;
        if let Some(unsaid) = self.refusals.ids.due(now) {
            // Its holder is asked next, so that an id does not stay with the dead for longer than it must.
            if let Some(place) = self.peers.get_index_of(&other) {
                self.turn = place;
            }
            let more = if unsaid == 0 { String::new() } else { format!(" ({unsaid} more before)") };
            out.push(Output::Notice(Notice::Warning(text + &more)));
        }
        true
    }

    /// Others tell whom they take for the member with this one's id.
    pub(super) fn hear_of_my_id(&mut self, members: &[KnownMember]) {
        let me = &self.me;
        let living = members.iter().filter(|known| known.state.is_live());
        let mut with_it = living.map(|known| &known.details).filter(|it| it.id == me.id).peekable();
        if with_it.peek().is_some() {
            self.is_copy = with_it.any(|it| it.name != me.name && it.address != me.address);
        }
    }

    /// Warning that `said` claims the id of `twin`. Where this member is one of the two, its own log says so: there an
    /// operator looks who has copied its `node-id`.
    fn conflict(&self, said: &Details, twin: &Details) -> String {
        let (name, id, address) = (&said.name, said.id, said.address);
        let (other, at) = (&twin.name, twin.address);
        if twin.name != self.me.name {
            return format!(
                "member {name} at {address} has conflicting node ID {id} with member {other} at {at} and is not believed: give it a `node-id` of its own"
            );
        }
        let conflict = format!(
            "this agent {other} at {at} has conflicting node ID {id} with member {name} at {address}"
        );
        if self.is_copy {
            format!(
                "{conflict}, which had it first: this agent is not believed, and its services stay out of the catalog; remove its `node-id` file, or set `node_id`, and start it again"
            )
        } else {
            format!("{conflict}: give the one whose `node-id` was copied an id of its own")
        }
    }
}
