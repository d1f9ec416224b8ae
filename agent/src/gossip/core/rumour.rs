//! Statements about members: precedence among them, and their effects.

use std::sync::Arc;

use super::rival::is_disputed;
use super::{Core, FORGOTTEN_MAX, Notice, Output, Peer, Phase, State, Time};
use crate::gossip::member::{Details, Incarnation, Name};
use crate::gossip::message::{Claim, KnownMember, Message};
use crate::gossip::suspicion::Suspicion;
use crate::gossip::validate::{self, Unfit};

impl Peer {
    pub(super) fn new(details: Arc<Details>, state: State, since: Time) -> Peer {
        Peer { details, state, since: u32::try_from(since.as_secs()).unwrap_or(u32::MAX) }
    }

    pub(super) fn since(&self) -> Time {
        Time::from_secs(self.since.into())
    }

    pub(super) fn known(&self, now: Time) -> KnownMember {
        let age = now.saturating_sub(self.since());
        KnownMember { details: Arc::clone(&self.details), state: self.state, age }
    }

    /// Is the claim about what is known now, or older?
    fn outdates(&self, claim: &Claim) -> bool {
        claim.incarnation < self.details.incarnation || claim.id != self.details.id
    }
}

impl Core {
    pub(super) fn message(&mut self, now: Time, message: Message, out: &mut Vec<Output>) {
        if let Err(unfit) = message.validate() {
            self.refuse(now, &unfit, out);
            return;
        }
        match message {
            Message::Ping { seq, target, reply_to } => {
                // Whoever lived here before does not answer through this member.
                if target == self.me.name {
                    let (digest, coordinate) = (self.digest.live, *self.place.coordinate());
                    let coordinate = Some(Box::new(coordinate));
                    let messages = self.with_news(vec![Message::Ack { seq, digest, coordinate }]);
                    out.push(Output::Send { to: reply_to, messages });
                }
            }
            Message::Ack { seq, digest, coordinate } => {
                self.ack(now, seq, digest, coordinate.as_deref(), out);
            }
            Message::PingReq { seq, target, address, reply_to } => {
                self.relay(now, seq, (target, address), reply_to, out);
            }
            Message::Nack { seq } => self.nack(seq),
            Message::Alive(details) => self.alive(now, &details, true, out),
            Message::Suspect(claim) => self.suspect(now, &claim, out),
            Message::Failed(claim) => self.fail(now, &claim, out),
            Message::Left { claim, prune } => self.left(now, &claim, prune, out),
            Message::Event(event) => self.event(now, &event, false, out),
        }
    }

    /// A member speaks of itself. `spread`: is it news to others?
    pub(super) fn alive(
        &mut self,
        now: Time,
        said: &Arc<Details>,
        spread: bool,
        out: &mut Vec<Output>,
    ) {
        if said.name == self.me.name {
            self.alive_with_my_name(now, said, out);
            return;
        }
        if !self.is_at_home(said) {
            return;
        }
        if self.is_forgotten(said) {
            return;
        }
        if let Err(unfit) = self.is_plausible(now, &said.name, said.incarnation) {
            self.refuse(now, &unfit, out);
            return;
        }
        match self.peers.get(&said.name) {
            Some(peer) if said.incarnation <= peer.details.incarnation => {}
            Some(peer) if is_disputed(peer, said) => self.dispute(now, said, out),
            _ => self.believe(now, said, spread, out),
        }
    }

    /// Takes over what a member says of itself.
    pub(super) fn believe(
        &mut self,
        now: Time,
        said: &Arc<Details>,
        spread: bool,
        out: &mut Vec<Output>,
    ) {
        if self.claims_an_id(now, said, out) {
            return;
        }
        let name = said.name.clone();
        let notice = match self.peers.get_mut(&name) {
            None => {
                if !self.admit(now, &name, out) {
                    return;
                }
                self.insert(Peer::new(Arc::clone(said), State::Alive, now));
                Notice::Joined(name.clone())
            }
            Some(peer) => {
                let (was, details) = (peer.state, Arc::clone(&peer.details));
                self.digest.toggle(&details, was);
                self.digest.toggle(said, State::Alive);
                peer.details = Arc::clone(said);
                self.ids.take(details.id, &name);
                self.ids.give(said.id, &name);
                peer.state = State::Alive;
                self.suspicions.remove(&name);
                // Whoever was taken to be leaving, or had a rival, is seen otherwise from now on.
                let is_seen = self.leaving.remove(&name) | self.settle(&name, said);
                if was.is_live() {
                    if details.tags == said.tags
                        && details.address == said.address
                        && details.id == said.id
                        && !is_seen
                    {
                        // An objection: nothing that anybody outside would see.
                        self.spread(spread, Message::Alive(Arc::clone(said)), name);
                        return;
                    }
                    Notice::Updated(name.clone())
                } else {
                    self.live += 1;
                    self.failed -= usize::from(was == State::Failed);
                    self.since(&name, now);
                    Notice::Joined(name.clone())
                }
            }
        };
        self.spread(spread, Message::Alive(Arc::clone(said)), name);
        out.push(Output::Notice(notice));
    }

    /// Could a member have said so much by now?
    pub(super) fn is_plausible(
        &self,
        now: Time,
        name: &str,
        said: Incarnation,
    ) -> Result<(), Unfit> {
        validate::incarnation(name, said, self.incarnation_max(now))
    }

    /// Somebody got no answer from a member.
    pub(super) fn suspect(&mut self, now: Time, claim: &Arc<Claim>, out: &mut Vec<Output>) {
        if claim.name == self.me.name {
            if claim.id != self.me.id || self.phase != Phase::Active {
                return;
            }
            if claim.incarnation < self.me.incarnation {
                self.said_otherwise_since();
                return;
            }
            self.awareness.worse(1, self.timing.awareness_max);
            self.refute(now, claim.incarnation);
            // The objection is urgent.
            self.gossip_urgently(now, out);
            return;
        }
        if let Err(unfit) = self.is_plausible(now, &claim.name, claim.incarnation) {
            self.refuse(now, &unfit, out);
            return;
        }
        let members = self.live + 1;
        let Some(peer) = self.peers.get_mut(&claim.name) else { return };
        if peer.outdates(claim) {
            return;
        }
        match peer.state {
            State::Alive => {
                peer.state = State::Suspect;
                let doubt = Suspicion::new(now, claim.from.clone(), members, &self.timing);
                self.suspicions.insert(claim.name.clone(), doubt);
            }
            State::Suspect => {
                let doubt = self.suspicions.get_mut(&claim.name);
                if !doubt.is_some_and(|doubt| doubt.confirm(&claim.from)) {
                    return;
                }
            }
            State::Failed | State::Left => return,
        }
        let updates = Message::Suspect(Arc::clone(claim));
        self.broadcasts.push(updates, Some(claim.name.clone()));
    }

    /// Doubts that lasted long enough become certainty.
    pub(super) fn doubts_end(&mut self, now: Time, out: &mut Vec<Output>) {
        let over = self.suspicions.iter().filter(|(_, doubt)| now >= doubt.deadline());
        let over: Vec<Name> = over.map(|(name, _)| name.clone()).collect();
        for name in over {
            self.suspicions.remove(&name);
            let Some(peer) = self.peers.get(&name) else { continue };
            self.counters.failures += 1;
            let claim = Claim {
                id: peer.details.id,
                incarnation: peer.details.incarnation,
                name,
                from: self.me.name.clone(),
            };
            self.fail(now, &Arc::new(claim), out);
        }
    }

    /// A member did not object in time.
    pub(super) fn fail(&mut self, now: Time, claim: &Arc<Claim>, out: &mut Vec<Output>) {
        if claim.name == self.me.name {
            self.said_gone(now, claim, out);
            return;
        }
        if let Err(unfit) = self.is_plausible(now, &claim.name, claim.incarnation) {
            self.refuse(now, &unfit, out);
            return;
        }
        let Some(peer) = self.peers.get_mut(&claim.name) else { return };
        if peer.outdates(claim) || !peer.state.is_live() {
            return;
        }
        let name = claim.name.clone();
        self.digest.toggle(&peer.details, peer.state);
        if self.leaving.remove(&name) {
            peer.state = State::Left;
            out.push(Output::Notice(Notice::Left(name.clone())));
        } else {
            peer.state = State::Failed;
            self.failed += 1;
            out.push(Output::Notice(Notice::Failed(name.clone())));
        }
        self.digest.toggle(&peer.details, peer.state);
        self.live -= 1;
        self.suspicions.remove(&name);
        self.since(&name, now);
        self.broadcasts.push(Message::Failed(Arc::clone(claim)), Some(name.clone()));
        self.pass_name_on(now, &name, out);
    }

    /// A member said good-bye, or an operator did for it.
    pub(super) fn left(
        &mut self,
        now: Time,
        claim: &Arc<Claim>,
        prune: bool,
        out: &mut Vec<Output>,
    ) {
        if claim.name == self.me.name {
            self.said_gone(now, claim, out);
            return;
        }
        if let Err(unfit) = self.is_plausible(now, &claim.name, claim.incarnation) {
            self.refuse(now, &unfit, out);
            return;
        }
        let Some(peer) = self.peers.get_mut(&claim.name) else { return };
        if peer.outdates(claim) {
            if claim.from == claim.name && peer.state.is_live() {
                let details = Arc::clone(&peer.details);
                self.remind(now, details, out);
            }
            return;
        }
        let name = claim.name.clone();
        let updates = Message::Left { claim: Arc::clone(claim), prune };
        match peer.state {
            State::Alive | State::Suspect if claim.from != claim.name => {
                // Whoever is alive objects once it hears of it, with the answer to the ping. Until it does, it is taken
                // to be leaving.
                if self.leaving.insert(name.clone()) {
                    self.seq = self.seq.wrapping_add(1);
                    let (to, reply_to) = (peer.details.address, self.me.address);
                    let ping = Message::Ping { seq: self.seq, target: name.clone(), reply_to };
                    out.push(Output::Send { to, messages: vec![updates.clone(), ping] });
                    self.broadcasts.push(updates, Some(name.clone()));
                    out.push(Output::Notice(Notice::Updated(name)));
                }
                return;
            }
            State::Left if !prune => return,
            was => {
                peer.state = State::Left;
                self.digest.toggle(&peer.details, was);
                self.digest.toggle(&peer.details, State::Left);
                self.live -= usize::from(was.is_live());
                self.failed -= usize::from(was == State::Failed);
                if was != State::Left {
                    self.since(&name, now);
                    out.push(Output::Notice(Notice::Left(name.clone())));
                }
            }
        }
        self.suspicions.remove(&name);
        self.leaving.remove(&name);
        self.broadcasts.push(updates, Some(name.clone()));
        if prune {
            self.forget(&name, claim.incarnation, out);
        }
    }

    /// Somebody speaks of this member as if it had not said something else since: it says it again, unless that is under
    /// way.
    fn said_otherwise_since(&mut self) {
        if !self.broadcasts.has_news_of(&self.me.name) {
            self.repeat();
        }
    }

    /// Tells a member what is believed of it, because it speaks as if that had not been said: somebody else said it in
    /// its name. It objects and says what it has to say again. Not as often as anybody likes to cause it.
    fn remind(&mut self, now: Time, details: Arc<Details>, out: &mut Vec<Output>) {
        if now >= self.last_reminder + self.timing.gossip_interval / 8 {
            self.last_reminder = now;
            let (to, messages) = (details.address, vec![Message::Alive(details)]);
            out.push(Output::Send { to, messages });
        }
    }

    /// Others take this member for gone.
    fn said_gone(&mut self, now: Time, claim: &Claim, out: &mut Vec<Output>) {
        if self.phase != Phase::Active {
            return;
        }
        if self.is_me(&claim.name, claim.id) {
            if claim.incarnation >= self.me.incarnation {
                self.refute(now, claim.incarnation);
                self.gossip_urgently(now, out);
            } else {
                self.said_otherwise_since();
            }
        } else {
            // Who had the name is gone: it is free.
            self.rivals.remove(&claim.name);
            self.is_disowned = false;
            self.refute(now, claim.incarnation);
            out.push(Output::Notice(Notice::Updated(claim.name.clone())));
        }
    }

    /// Takes a member that is not there yet, at a place by chance: who joined last must not always
    /// be asked last.
    pub(super) fn insert(&mut self, peer: Peer) {
        use rand::RngExt;
        self.digest.toggle(&peer.details, peer.state);
        self.live += usize::from(peer.state.is_live());
        self.failed += usize::from(peer.state == State::Failed);
        if peer.state.is_live() {
            self.ids.give(peer.details.id, &peer.details.name);
        } else {
            self.ids.give_if_free(peer.details.id, &peer.details.name);
        }
        let (last, _) = self.peers.insert_full(peer.details.name.clone(), peer);
        let at = self.rng.random_range(0..=last);
        self.peers.swap_indices(at, last);
    }

    /// Drops a member and remembers for a while not to take it back by hearsay.
    pub(super) fn forget(&mut self, name: &Name, incarnation: Incarnation, out: &mut Vec<Output>) {
        let Some(peer) = self.peers.swap_remove(name) else { return };
        self.digest.toggle(&peer.details, peer.state);
        self.live -= usize::from(peer.state.is_live());
        self.places.remove(name);
        self.ids.take(peer.details.id, name);
        self.failed -= usize::from(peer.state == State::Failed);
        self.suspicions.remove(name);
        self.leaving.remove(name);
        self.rivals.remove(name);
        self.warned.remove(name);
        self.place.forget(name);
        if self.forgotten.len() == FORGOTTEN_MAX {
            self.forgotten.shift_remove_index(0);
        }
        let before = self.forgotten.shift_remove(name).unwrap_or(incarnation);
        self.forgotten.insert(name.clone(), incarnation.max(before));
        out.push(Output::Notice(Notice::Reaped(name.clone())));
    }

    /// Was it forgotten, and has said nothing since?
    pub(super) fn is_forgotten(&self, said: &Details) -> bool {
        self.forgotten.get(&said.name).is_some_and(|at| said.incarnation <= *at)
    }

    /// Forgets who has been gone for long.
    pub(super) fn reap(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.peers.len() == self.live {
            return;
        }
        let over: Vec<(Name, Incarnation)> = self
            .peers
            .values()
            .filter(|peer| {
                let limit = || peer.details.remembered(peer.state, &self.timing);
                !peer.state.is_live() && now >= peer.since().saturating_add(limit())
            })
            .map(|peer| (peer.details.name.clone(), peer.details.incarnation))
            .collect();
        for (name, incarnation) in over {
            self.forget(&name, incarnation, out);
        }
    }

    fn since(&mut self, name: &Name, now: Time) {
        if let Some(peer) = self.peers.get_mut(name) {
            *peer = Peer::new(Arc::clone(&peer.details), peer.state, now);
        }
    }

    fn spread(&mut self, wanted: bool, message: Message, about: Name) {
        if wanted {
            self.broadcasts.push(message, Some(about));
        }
    }
}
