//! Asking members whether they are there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;

use super::{Core, Incarnation, Name, Output, Phase, State, Time, Token, Unanswered};
use crate::gossip::message::{Claim, Message, Request, Response};
use crate::gossip::vivaldi::Coordinate;

/// Requests of others to ask somebody, at once; more are not answered.
const RELAYS_MAX: usize = 256;

/// The question that is under way; there is one at a time.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) seq: u32,
    target: Name,
    /// The last statement of the target when it was asked.
    incarnation: Incarnation,
    sent: Time,
    /// When others are asked to ask.
    ask_others: Time,
    /// When the target counts as silent.
    end: Time,
    others_asked: bool,
    /// Others that will say so if they hear nothing, and did.
    nacks_expected: u32,
    nacks: u32,
    /// Asked over a connection, too; what came of it.
    stream: Option<Token>,
    by_stream: ByStream,
}

/// Result of a probe over a connection, for a member that sends no datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ByStream {
    Nothing,
    /// It is there.
    Heard,
    /// Its machine is there, and it is not.
    Refused,
}

impl Probe {
    /// When something is to be done.
    pub(super) fn next(&self) -> Time {
        if self.others_asked { self.end } else { self.ask_others.min(self.end) }
    }
}

/// A question asked for somebody else.
#[derive(Debug)]
pub(super) struct Relay {
    seq: u32,
    theirs: u32,
    reply_to: SocketAddr,
    pub(super) nack_at: Time,
    answered: bool,
}

impl Core {
    pub(super) fn probe_goes_on(&mut self, now: Time, out: &mut Vec<Output>) {
        if let Some(probe) = &mut self.probe {
            if now >= probe.end {
                self.probe_ends(now, out);
            } else if now >= probe.ask_others && !probe.others_asked {
                probe.others_asked = true;
                self.ask_others(out);
            }
        }
        if self.probe.is_none()
            && now >= self.next_probe
            && self.live > 0
            && self.phase == Phase::Active
        {
            self.probe_begins(now, out);
        }
    }

    fn probe_begins(&mut self, now: Time, out: &mut Vec<Output>) {
        let Some(at) = self.next_turn() else { return };
        self.counters.probes += 1;
        self.seq = self.seq.wrapping_add(1);
        let (seq, peer) = (self.seq, &self.peers[at]);
        let (target, to) = (peer.details.name.clone(), peer.details.address);
        // Of what others say of it, it should hear first: then its objection comes with its answer, and in time. Nothing
        // else would ever show that it does not leave.
        let mut messages = Vec::new();
        if peer.state == State::Suspect {
            messages.push(Message::Suspect(Arc::new(self.doubt(peer))));
        }
        if self.leaving.contains(&target) {
            messages.push(Message::Left { claim: Arc::new(self.doubt(peer)), prune: false });
        }
        messages.push(Message::Ping { seq, target: target.clone(), reply_to: self.me.address });
        self.probe = Some(Probe {
            seq,
            target,
            incarnation: peer.details.incarnation,
            sent: now,
            ask_others: now + self.timing.probe_timeout,
            end: now + self.awareness.stretch(self.timing.probe_interval),
            others_asked: false,
            nacks_expected: 0,
            nacks: 0,
            stream: None,
            by_stream: ByStream::Nothing,
        });
        let messages = self.with_news(messages);
        out.push(Output::Send { to, messages });
    }

    fn doubt(&self, peer: &super::Peer) -> Claim {
        Claim {
            name: peer.details.name.clone(),
            id: peer.details.id,
            incarnation: peer.details.incarnation,
            from: self.me.name.clone(),
        }
    }

    /// Place of the next live member: each once before the order is mixed anew.
    fn next_turn(&mut self) -> Option<usize> {
        for _ in 0..=self.peers.len() {
            if self.turn >= self.peers.len() {
                self.turn = 0;
                for at in (1..self.peers.len()).rev() {
                    let other = self.rng.random_range(0..=at);
                    self.peers.swap_indices(at, other);
                }
            }
            let at = self.turn;
            self.turn += 1;
            if self.peers.get_index(at).is_some_and(|(_, peer)| peer.state.is_live()) {
                return Some(at);
            }
        }
        None
    }

    /// No answer: it may be the path between the two, or datagrams.
    fn ask_others(&mut self, out: &mut Vec<Output>) {
        self.counters.probes_indirect += 1;
        let Some(probe) = &self.probe else { return };
        let (seq, target, patience) =
            (probe.seq, probe.target.clone(), probe.end.saturating_sub(probe.ask_others));
        let Some(address) = self.peers.get(&target).map(|peer| peer.details.address) else {
            return;
        };
        let others = self.pick(self.timing.indirect_probes, |peer| {
            peer.state == State::Alive && peer.details.name != target
        });
        let asked = u32::try_from(others.len()).unwrap_or(u32::MAX);
        for to in others {
            let message = Message::PingReq {
                seq,
                target: target.clone(),
                address,
                reply_to: self.me.address,
            };
            let messages = self.with_news(vec![message]);
            out.push(Output::Send { to, messages });
        }
        let token = self.next_token();
        if let Some(probe) = &mut self.probe {
            probe.nacks_expected = asked;
            probe.stream = Some(token);
        }
        let request = Request::Ping { target: self.called(&target) };
        out.push(Output::Ask { token, to: address, request, patience });
    }

    fn probe_ends(&mut self, now: Time, out: &mut Vec<Output>) {
        let Some(probe) = self.probe.take() else { return };
        self.next_probe = now;
        // Who has spoken since is there: the silence was that of an earlier life.
        let known = self.peers.get(&probe.target);
        if known.is_some_and(|peer| peer.details.incarnation != probe.incarnation) {
            return;
        }
        if probe.by_stream == ByStream::Heard {
            out.push(Output::Notice(super::Notice::Warning(format!(
                "{} answers by TCP on the gossip port but not by UDP: the network drops datagrams",
                probe.target
            ))));
            return;
        }
        // Others that say they heard nothing prove that this agent itself is heard.
        let deaf = match probe.nacks_expected {
            0 => 1,
            expected => expected.saturating_sub(probe.nacks),
        };
        self.awareness.worse(deaf, self.timing.awareness_max);
        let Some(peer) = self.peers.get(&probe.target) else { return };
        self.counters.suspicions += 1;
        let doubt = Arc::new(self.doubt(peer));
        self.suspect(now, &doubt, out);
        self.holder_is_silent(now, &probe.target, out);
        if probe.by_stream == ByStream::Refused
            && let Some(doubt) = self.suspicions.get_mut(&probe.target)
        {
            doubt.nobody_listens();
        }
    }

    /// The answer to a ping, be it this member's own or asked for another.
    pub(super) fn ack(
        &mut self,
        now: Time,
        seq: u32,
        digest: u64,
        coordinate: Option<&Coordinate>,
        out: &mut Vec<Output>,
    ) {
        if let Some(probe) = &self.probe
            && probe.seq == seq
        {
            let target = probe.target.clone();
            self.awareness.better();
            self.next_probe = probe.sent + self.timing.probe_interval;
            if !probe.others_asked
                && let Some(coordinate) = coordinate
            {
                self.place.observe(
                    &probe.target,
                    coordinate,
                    now.saturating_sub(probe.sent),
                    &mut self.rng,
                );
            }
            if let Some(coordinate) = coordinate.filter(|coordinate| coordinate.is_valid()) {
                self.places.insert(target.clone(), *coordinate);
            }
            self.probe = None;
            self.holder_answers(now, &target, out);
            if digest != 0 {
                self.compare(now, &target, digest, out);
            }
            return;
        }
        if let Some(relay) = self.relays.iter_mut().find(|relay| relay.seq == seq) {
            relay.answered = true;
            let message = Message::Ack { seq: relay.theirs, digest: 0, coordinate: None };
            out.push(Output::Send { to: relay.reply_to, messages: vec![message] });
        }
    }

    /// Somebody knows something else. While news are on their way that is no wonder; when none are,
    /// some got lost on all ways, and the two tell each other everything.
    fn compare(&mut self, now: Time, other: &Name, digest: u64, out: &mut Vec<Output>) {
        if digest == self.digest.live {
            self.is_disowned = false;
            self.is_copy = false;
            return;
        }
        if !self.broadcasts.is_empty() || now < self.next_comparison {
            return;
        }
        let Some(to) = self.peers.get(other).map(|peer| peer.details.address) else { return };
        let pause = exchange_pause(self.timing.exchange_interval, self.live + 1);
        self.next_comparison = now + pause / 8;
        self.exchange(now, to, out);
    }

    pub(super) fn nack(&mut self, seq: u32) {
        if let Some(probe) = &mut self.probe
            && probe.seq == seq
            && probe.nacks < probe.nacks_expected
        {
            probe.nacks += 1;
        }
    }

    /// Asks `target` for another member.
    pub(super) fn relay(
        &mut self,
        now: Time,
        theirs: u32,
        (target, address): (Name, SocketAddr),
        reply_to: SocketAddr,
        out: &mut Vec<Output>,
    ) {
        if self.relays.len() == RELAYS_MAX {
            return;
        }
        self.seq = self.seq.wrapping_add(1);
        let seq = self.seq;
        let nack_at = now + self.timing.probe_timeout;
        self.relays.push_back(Relay { seq, theirs, reply_to, nack_at, answered: false });
        let message = Message::Ping { seq, target, reply_to: self.me.address };
        out.push(Output::Send { to: address, messages: vec![message] });
    }

    pub(super) fn relays_end(&mut self, now: Time, out: &mut Vec<Output>) {
        while self.relays.front().is_some_and(|relay| now >= relay.nack_at) {
            let Some(relay) = self.relays.pop_front() else { return };
            if !relay.answered {
                let messages = vec![Message::Nack { seq: relay.theirs }];
                out.push(Output::Send { to: relay.reply_to, messages });
            }
        }
    }

    /// The answer over a connection, if it was the probe's.
    pub(super) fn probe_answered(
        &mut self,
        token: Token,
        result: &Result<Response, Unanswered>,
    ) -> bool {
        match &mut self.probe {
            Some(probe) if probe.stream == Some(token) => {
                probe.by_stream = match result {
                    Ok(Response::Pong) => ByStream::Heard,
                    Err(Unanswered { refused: true, .. }) => ByStream::Refused,
                    _ => ByStream::Nothing,
                };
                true
            }
            _ => false,
        }
    }
}

/// Meetings become rarer as pools grow: the load of all together stays the same.
pub(super) fn exchange_pause(interval: Duration, members: usize) -> Duration {
    /// Up to here nothing is stretched.
    const SMALL: usize = 32;
    if members <= SMALL {
        return interval;
    }
    let doublings = members.next_power_of_two().ilog2() - SMALL.ilog2();
    interval * (doublings + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meetings_become_rarer() {
        let pause = |members| exchange_pause(Duration::from_secs(30), members).as_secs();
        assert_eq!([pause(1), pause(32), pause(33), pause(64), pause(65)], [30, 30, 60, 60, 90]);
    }
}
