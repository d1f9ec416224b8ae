//! Meetings: two members tell each other all they know, over a connection. The periodical ones begin
//! with a comparison, for most of them find nothing new: without it, what each member says would
//! grow with the pool.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use uuid::Uuid;

use crate::gossip::core::digest::Digest;
use crate::gossip::core::probe::exchange_pause;
use crate::gossip::core::{Core, Output, Peer, Phase, State, Time, Token, Unanswered};
use crate::gossip::member::{Details, Name, UserEvent};
use crate::gossip::message::{Claim, Knowledge, KnownMember, Request, Response};
use crate::gossip::validate;

/// Longest time of a meeting.
const PATIENCE: Duration = Duration::from_secs(10);

/// Characters of the reason for a refusal.
const REASON_CHARS_MAX: usize = 512;

/// Purpose of a push/pull exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Somebody wished it, under this token.
    Join(Token),
    /// To tell all, and to be told.
    Exchange,
    /// To see whether there is anything to tell.
    Compare,
}

impl Core {
    /// Tells all that is known to whoever lives at `to`, and hears all it knows.
    pub(super) fn exchange(&mut self, now: Time, to: SocketAddr, out: &mut Vec<Output>) {
        let token = self.meet(now, to, false, out);
        self.meetings.insert(token, Purpose::Exchange);
    }

    /// Begins a meeting with whoever lives at `to`.
    pub(super) fn meet(
        &mut self,
        now: Time,
        to: SocketAddr,
        join: bool,
        out: &mut Vec<Output>,
    ) -> Token {
        let token = self.next_token();
        let request = Request::Exchange(Box::new(self.knowledge(now, join)));
        out.push(Output::Ask { token, to, request, patience: PATIENCE });
        token
    }

    /// The periodical ones: with somebody who is there, and now and then with somebody lost.
    pub(super) fn meetings(&mut self, now: Time, out: &mut Vec<Output>) {
        if now >= self.next_exchange {
            let pause = exchange_pause(self.timing.exchange_interval, self.live + 1);
            self.next_exchange = now + pause;
            if self.phase == Phase::Active
                && let [to] = self.pick(1, |peer| peer.state.is_live())[..]
            {
                // Whose name is taken has something to say, whatever the others know.
                if self.rivals.contains_key(&self.me.name) {
                    self.exchange(now, to, out);
                } else {
                    let request = Request::Compare(Box::new(self.summary(now)));
                    let token = self.next_token();
                    out.push(Output::Ask { token, to, request, patience: PATIENCE });
                    self.meetings.insert(token, Purpose::Compare);
                }
            }
        }
        if now >= self.next_reconnect {
            self.next_reconnect = now + self.timing.reconnect_interval;
            // All members together look for one lost member about once an interval.
            let one_in = ((self.live + 1) / self.failed.max(1)).max(1);
            if self.phase == Phase::Active
                && self.failed > 0
                && self.rng.random_range(0..one_in) == 0
            {
                let lost: Vec<SocketAddr> = self
                    .peers
                    .values()
                    .filter(|peer| peer.state == State::Failed)
                    .map(|peer| peer.details.address)
                    .collect();
                let to = lost[self.rng.random_range(0..lost.len())];
                self.exchange(now, to, out);
            }
        }
    }

    /// A question over a connection.
    pub(super) fn asked(&mut self, now: Time, request: Request, out: &mut Vec<Output>) -> Response {
        match request {
            Request::Ping { target } if target == self.called(&self.me.name) => Response::Pong,
            Request::Ping { target } => {
                Response::Refused(format!("here lives {}, not {target}", self.me.name))
            }
            Request::Compare(theirs) => {
                let mine = self.summary(now);
                self.catch_up(now, &theirs.events, theirs.event_clock, false, out);
                if mine.digest == theirs.digest {
                    Response::Same(Box::new(mine))
                } else {
                    Response::Exchange(Box::new(self.knowledge(now, false)))
                }
            }
            Request::Keys(_) => Response::Refused("keys are not the core's".into()),
            Request::Exchange(theirs) => {
                if theirs.join
                    && let Err(reason) =
                        self.acceptable(&theirs).and_then(|()| self.is_nobody_else(&theirs.from))
                {
                    if self.is_at_home(&theirs.from) {
                        return Response::Refused(reason);
                    }
                    // Who asked says it better itself: it came to the wrong place.
                    return self.introduction(now);
                }
                if let Err(unfit) = theirs.from.validate() {
                    self.refuse(now, &unfit, out);
                    return Response::Refused(unfit.to_string());
                }
                if !self.is_at_home(&theirs.from) {
                    // It takes this member for who lived here before.
                    return self.introduction(now);
                }
                let mut mine = self.knowledge(now, theirs.join);
                if self.is_forgotten(&theirs.from) {
                    // It was cut off for longer than it was remembered. What it said last is not
                    // believed any more, so it must hear that it has to speak again.
                    let (details, age) = (Arc::clone(&theirs.from), Duration::ZERO);
                    mine.members.push(KnownMember { details, state: State::Failed, age });
                }
                self.merge(now, &theirs, out);
                Response::Exchange(Box::new(mine))
            }
        }
    }

    /// Only who lives here.
    fn introduction(&self, now: Time) -> Response {
        let mut mine = self.knowledge(now, true);
        mine.members.clear();
        mine.events.clear();
        Response::Exchange(Box::new(mine))
    }

    /// An answer over a connection.
    pub(super) fn answered(
        &mut self,
        now: Time,
        token: Token,
        result: Result<Response, Unanswered>,
        out: &mut Vec<Output>,
    ) {
        if self.probe_answered(token, &result) {
            return;
        }
        let Some(purpose) = self.meetings.remove(&token) else { return };
        let is_join = matches!(purpose, Purpose::Join(_));
        let result = match result {
            Ok(Response::Exchange(theirs)) => {
                let well = if is_join { self.acceptable(&theirs) } else { Ok(()) };
                // A pool may be larger than what comes in otherwise: this member asked for it.
                self.newcomers.expect(if is_join { theirs.members.len() + 1 } else { 0 });
                let merged = well.map(|()| self.merge(now, &theirs, out));
                self.newcomers.expect(0);
                if purpose == Purpose::Compare && Digest::of(&theirs) != self.digest {
                    // They told what they know, and this member knows more.
                    self.exchange(now, theirs.from.address, out);
                }
                merged
            }
            Ok(Response::Same(theirs)) if !is_join => {
                self.catch_up(now, &theirs.events, theirs.event_clock, false, out);
                Ok(())
            }
            Ok(Response::Refused(reason)) | Err(Unanswered { reason, .. }) => Err(reason),
            Ok(other) => Err(format!("answered with something else: {other:?}")),
        };
        if let Purpose::Join(token) = purpose {
            // The other side chose some of these words, and they reach terminals and logs.
            let result = result.map_err(|reason| validate::shown(&reason, REASON_CHARS_MAX));
            out.push(Output::Joined { token, result });
        }
    }

    /// Pools that must not become one are kept apart: nothing of the other is taken over.
    fn acceptable(&self, theirs: &Knowledge) -> Result<(), String> {
        let mut ids: HashMap<Uuid, &Name> = HashMap::new();
        let others = theirs.members.iter().filter(|known| known.state != State::Left);
        for details in others.map(|known| &known.details).chain([&theirs.from]) {
            let name = &details.name;
            if details.id == self.me.id && *name != self.me.name {
                return Err(format!(
                    "Member '{name}' has conflicting node ID '{}' with this agent's ID",
                    details.id
                ));
            }
            if let Some(other) = ids.insert(details.id, name)
                && other != name
            {
                return Err(format!(
                    "Member '{name}' has conflicting node ID '{}' with member '{other}'",
                    details.id
                ));
            }
            let dc = details.tags.get("dc");
            if dc != self.me.tags.get("dc") {
                let dc = dc.map_or("", String::as_str);
                return Err(format!("Member '{name}' part of wrong datacenter '{dc}'"));
            }
            let (segment, own) = (details.segment(), self.me.segment());
            if segment != own {
                return Err(format!(
                    "Member '{name}' part of wrong segment '{segment}' (expected '{own}')"
                ));
            }
        }
        Ok(())
    }

    /// Name by which a member is asked over a connection: an agent that moved to another segment and kept its
    /// address must not answer for who it was.
    pub(super) fn called(&self, name: &Name) -> Name {
        match self.me.segment() {
            "" => name.clone(),
            segment => format!("{name} in {segment}").into(),
        }
    }

    /// Does it belong to this datacenter and this segment?
    pub(super) fn is_at_home(&self, details: &Details) -> bool {
        details.tags.get("dc") == self.me.tags.get("dc") && details.segment() == self.me.segment()
    }

    /// Refuses a newcomer with the id of a live member.
    fn is_nobody_else(&self, newcomer: &Details) -> Result<(), String> {
        self.twin(newcomer).map_or(Ok(()), |twin| {
            let (name, id, other) = (&newcomer.name, newcomer.id, &twin.name);
            Err(format!("Member '{name}' has conflicting node ID '{id}' with member '{other}'"))
        })
    }

    /// Takes over what is news.
    fn merge(&mut self, now: Time, theirs: &Knowledge, out: &mut Vec<Output>) {
        // What is known elsewhere is of others, though they may have the same names.
        if !self.is_at_home(&theirs.from) {
            return;
        }
        if let Err(unfit) = theirs.from.validate() {
            self.refuse(now, &unfit, out);
            return;
        }
        // A newcomer's news are none to those it has them from.
        let newcomer = self.peers.is_empty() && theirs.join;
        self.alive(now, &theirs.from, true, out);
        self.hear_of_my_id(&theirs.members);
        for known in &theirs.members {
            self.merge_one(now, known, !newcomer, out);
        }
        self.catch_up(now, &theirs.events, theirs.event_clock, newcomer, out);
    }

    /// Hears events of late. Who is `deaf` only remembers that there were such.
    fn catch_up(
        &mut self,
        now: Time,
        events: &[Arc<UserEvent>],
        clock: u64,
        deaf: bool,
        out: &mut Vec<Output>,
    ) {
        for event in events.iter().rev() {
            match event.validate() {
                Ok(()) => self.event(now, event, deaf, out),
                Err(unfit) => self.refuse(now, &unfit, out),
            }
        }
        let ahead = clock.saturating_sub(self.event_clock);
        self.event_clock += u64::from(u32::try_from(ahead).unwrap_or(0));
    }

    fn merge_one(&mut self, now: Time, known: &KnownMember, spread: bool, out: &mut Vec<Output>) {
        let details = &known.details;
        if let Err(unfit) = details.validate() {
            self.refuse(now, &unfit, out);
            return;
        }
        if known.state.is_live() && details.name == self.me.name {
            self.hear_of_my_name(details);
        }
        if known.state.is_live() {
            self.alive(now, details, spread, out);
        } else if details.name != self.me.name && !self.peers.contains_key(&details.name) {
            self.hear_of_gone(now, known, out);
            return;
        }
        let claim = |from: &Name| {
            Arc::new(Claim {
                name: details.name.clone(),
                id: details.id,
                incarnation: details.incarnation,
                from: from.clone(),
            })
        };
        match known.state {
            State::Alive => {}
            // Doubt rather than believe: who is there will object.
            State::Suspect | State::Failed => {
                let me = self.me.name.clone();
                self.suspect(now, &claim(&me), out);
            }
            State::Left => {
                let known = self.peers.get(&details.name);
                if known.is_some_and(|peer| {
                    peer.details.id != details.id && peer.details.incarnation < details.incarnation
                }) {
                    // It is the last who had the name that left.
                    self.alive(now, details, false, out);
                }
                self.left(now, &claim(&details.name), false, out);
            }
        }
    }

    /// A member that was gone before this one came: it is listed as everywhere else, and forgotten
    /// at the same time.
    fn hear_of_gone(&mut self, now: Time, known: &KnownMember, out: &mut Vec<Output>) {
        let KnownMember { details, state, age } = known;
        let name = &details.name;
        let limit = details.remembered(*state, &self.timing);
        if *age >= limit || self.is_forgotten(details) || !self.is_at_home(details) {
            return;
        }
        if let Err(unfit) = self.is_plausible(now, name, details.incarnation) {
            self.refuse(now, &unfit, out);
            return;
        }
        if !self.admit(now, name, out) {
            return;
        }
        // Clocks of drivers start late enough for this: see `Time`.
        let since = now.saturating_sub(*age);
        self.insert(Peer::new(Arc::clone(details), *state, since));
        out.push(Output::Notice(match state {
            State::Left => super::Notice::Left(name.clone()),
            _ => super::Notice::Failed(name.clone()),
        }));
    }
}
