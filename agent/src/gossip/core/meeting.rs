//! Meetings: two members tell each other all they know, over a connection.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use uuid::Uuid;

use super::probe::exchange_pause;
use super::{Core, Output, Peer, Phase, State, Time, Token};
use crate::gossip::member::{Details, Name};
use crate::gossip::message::{Answer, Claim, Knowledge, Known, Request};

/// Longest time of a meeting.
const PATIENCE: Duration = Duration::from_secs(10);

impl Core {
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
                let token = self.meet(now, to, false, out);
                self.joins.insert(token, None);
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
                let token = self.meet(now, to, false, out);
                self.joins.insert(token, None);
            }
        }
    }

    /// A question over a connection.
    pub(super) fn asked(&mut self, now: Time, request: Request, out: &mut Vec<Output>) -> Answer {
        match request {
            Request::Ping { target } if target == self.me.name => Answer::Pong,
            Request::Ping { target } => {
                Answer::Refused(format!("here lives {}, not {target}", self.me.name))
            }
            Request::Keys(_) => Answer::Refused("keys are not the core's".into()),
            Request::Exchange(theirs) => {
                if theirs.join
                    && let Err(reason) = self.acceptable(&theirs)
                {
                    if theirs.from.tags.get("dc") == self.me.tags.get("dc") {
                        return Answer::Refused(reason);
                    }
                    // Who asked says it better itself: it came to the wrong place.
                    let mut mine = self.knowledge(now, true);
                    mine.members.clear();
                    return Answer::Exchange(Box::new(mine));
                }
                let mine = self.knowledge(now, theirs.join);
                self.merge(now, &theirs, out);
                Answer::Exchange(Box::new(mine))
            }
        }
    }

    /// An answer over a connection.
    pub(super) fn answered(
        &mut self,
        now: Time,
        token: Token,
        result: Result<Answer, String>,
        out: &mut Vec<Output>,
    ) {
        if self.probe_answered(token, matches!(result, Ok(Answer::Pong))) {
            return;
        }
        let Some(join) = self.joins.remove(&token) else { return };
        let result = match result {
            Ok(Answer::Exchange(theirs)) => {
                let well = if join.is_some() { self.acceptable(&theirs) } else { Ok(()) };
                well.map(|()| self.merge(now, &theirs, out))
            }
            Ok(Answer::Refused(reason)) | Err(reason) => Err(reason),
            Ok(other) => Err(format!("answered with something else: {other:?}")),
        };
        if let Some(token) = join {
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
        }
        Ok(())
    }

    /// Takes over what is news.
    fn merge(&mut self, now: Time, theirs: &Knowledge, out: &mut Vec<Output>) {
        // A newcomer's news are none to those it has them from.
        let newcomer = self.peers.is_empty() && theirs.join;
        self.alive(now, &theirs.from, true, out);
        for known in &theirs.members {
            self.merge_one(now, known, !newcomer, out);
        }
        for event in theirs.events.iter().rev() {
            self.event(now, event, newcomer, out);
        }
        let ahead = theirs.event_clock.saturating_sub(self.event_clock);
        self.event_clock += u64::from(u32::try_from(ahead).unwrap_or(0));
    }

    fn merge_one(&mut self, now: Time, known: &Known, spread: bool, out: &mut Vec<Output>) {
        let details = &known.details;
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
            State::Left => self.left(now, &claim(&details.name), false, out),
        }
    }

    /// A member that was gone before this one came: it is listed as everywhere else, and forgotten
    /// at the same time.
    fn hear_of_gone(&mut self, now: Time, known: &Known, out: &mut Vec<Output>) {
        let Known { details, state, age } = known;
        let Details { name, incarnation, .. } = &**details;
        let limit = match state {
            State::Left => self.timing.left_timeout,
            _ => self.timing.reconnect_timeout,
        };
        let forgotten = self.forgotten.iter().any(|(it, at)| it == name && incarnation <= at);
        if *age >= limit || forgotten || details.tags.get("dc") != self.me.tags.get("dc") {
            return;
        }
        // Clocks of drivers start late enough for this: see `Time`.
        let since = now.saturating_sub(*age);
        self.insert(Peer { details: Arc::clone(details), state: *state, since });
        out.push(Output::Notice(match state {
            State::Left => super::Notice::Left(name.clone()),
            _ => super::Notice::Failed(name.clone()),
        }));
    }
}
