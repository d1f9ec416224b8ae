//! Whose turn it is: many questions on few connections, and none of them starves.
//!
//! A server that answers one question on one connection holds it for the whole wait. With more questions than
//! connections, each question waits its turn, and its turn is short: all of them are asked within [`CYCLE`], as far as
//! [`TURN_MIN`] allows. A plain value: it knows numbers and moments, no network.
//!
//! ```text
//! ready ──turn──▶ running ──answered──▶ later ──due──▶ ready
//!   ▲                │                                   at its end
//!   └── took longer than its turn, and others are ready
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// Every question is asked once in about this time. A change is seen after half of it on average: the price of few
/// connections to an agent that answers one question on each.
const CYCLE: Duration = Duration::from_secs(5);
/// Turns are not shorter: with more questions than that allows, a cycle takes longer.
const TURN_MIN: Duration = Duration::from_millis(50);
/// How much longer than its turn a question may take before it is cut off in favour of others.
const GRACE: Duration = Duration::from_secs(1);
/// After an agent refused one connection while it served others, no more than those are used for this long.
const LIMITED: Duration = Duration::from_secs(30);

/// Names a question.
pub(super) type Id = u64;

/// Questions in the order in which they are asked.
#[derive(Debug)]
pub(super) struct Rotation {
    slots: usize,
    /// As many are asked at the same time now: fewer than `slots` once the agent refused one.
    limit: usize,
    /// When that is over; `None`: with the next answer.
    limited_until: Option<Instant>,
    ready: VecDeque<Id>,
    later: BTreeSet<(Instant, Id)>,
    running: BTreeMap<Id, Running>,
    paused_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    began: Instant,
    turn: Duration,
}

impl Rotation {
    /// None yet; at most `slots` are asked at the same time.
    pub(super) fn new(slots: usize) -> Rotation {
        let slots = slots.max(1);
        Rotation {
            slots,
            limit: slots,
            limited_until: None,
            ready: VecDeque::new(),
            later: BTreeSet::new(),
            running: BTreeMap::new(),
            paused_until: None,
        }
    }

    /// From now on these are asked, new ones at once. Returns those under way that nobody wants any more.
    pub(super) fn want(&mut self, wanted: &BTreeSet<Id>) -> Vec<Id> {
        self.ready.retain(|id| wanted.contains(id));
        self.later.retain(|(_, id)| wanted.contains(id));
        let gone: Vec<Id> =
            self.running.keys().filter(|id| !wanted.contains(id)).copied().collect();
        for id in &gone {
            self.running.remove(id);
        }
        let mut known: BTreeSet<Id> = self.ready.iter().copied().collect();
        known.extend(self.later.iter().map(|(_, id)| *id));
        known.extend(self.running.keys());
        self.ready.extend(wanted.difference(&known));
        gone
    }

    /// The next question to ask, and for how long it may wait. It is running from now on.
    pub(super) fn next(
        &mut self,
        now: Instant,
        wait: impl Fn(Id) -> Duration,
    ) -> Option<(Id, Duration)> {
        while let Some((due, id)) = self.later.first().copied().filter(|(due, _)| *due <= now) {
            self.later.remove(&(due, id));
            self.ready.push_back(id);
        }
        if self.limited_until.is_some_and(|until| until <= now) {
            self.limit = self.slots;
            self.limited_until = None;
        }
        if self.running.len() >= self.limit || self.paused_until.is_some_and(|until| until > now) {
            return None;
        }
        self.paused_until = None;
        let id = self.ready.pop_front()?;
        let turn = wait(id).min(self.turn());
        self.running.insert(id, Running { began: now, turn });
        Some((id, turn))
    }

    /// A question was answered, or failed for reasons of its own; it may be asked again from `due` on.
    pub(super) fn done(&mut self, id: Id, due: Instant) {
        if self.running.remove(&id).is_some() {
            self.later.insert((due, id));
        }
        if self.limited_until.is_none() {
            self.limit = self.slots;
        }
    }

    /// The agent did not take a question, or took too many. Nothing is asked before `until`, and then no more at the
    /// same time than what it goes on with now; if that is nothing, one, until it answers.
    pub(super) fn refused(&mut self, id: Id, now: Instant, until: Instant) {
        if self.running.remove(&id).is_some() {
            self.ready.push_front(id);
        }
        self.paused_until = Some(self.paused_until.map_or(until, |before| before.max(until)));
        self.limit = self.running.len().max(1);
        self.limited_until = (!self.running.is_empty()).then(|| now + LIMITED);
    }

    /// A question that is not there any more.
    pub(super) fn forget(&mut self, id: Id) {
        self.running.remove(&id);
    }

    /// Ends the turns that began when there was more time than there is now, if others wait for theirs. Returns whose
    /// they were; they are asked again after the others.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<Id> {
        if self.ready.is_empty() || self.running.len() < self.limit {
            return Vec::new();
        }
        let turn = self.turn();
        let over = |running: &Running| running.turn > turn && now >= running.began + turn + GRACE;
        let ended: Vec<Id> =
            self.running.iter().filter(|(_, it)| over(it)).map(|(id, _)| *id).collect();
        for id in &ended {
            self.running.remove(id);
            self.ready.push_back(*id);
        }
        ended
    }

    /// When there is something to do although nothing happens.
    pub(super) fn due(&self) -> Option<Instant> {
        let free = self.running.len() < self.limit;
        let later = self.later.first().map(|(due, _)| *due);
        let resumed = self.paused_until.filter(|_| free && !self.ready.is_empty());
        let turn = self.turn();
        let cut = || {
            let longer = self.running.values().filter(|running| running.turn > turn);
            longer.map(|running| running.began + turn + GRACE).min()
        };
        let overdue = if free || self.ready.is_empty() { None } else { cut() };
        let limited = self.limited_until.filter(|_| !free && !self.ready.is_empty());
        [later, resumed, overdue, limited].into_iter().flatten().min()
    }

    /// How long a turn lasts: without end where there is a place for each.
    fn turn(&self) -> Duration {
        let questions = self.ready.len() + self.later.len() + self.running.len();
        if questions <= self.limit {
            return Duration::MAX;
        }
        let part = u32::try_from(questions.div_ceil(self.limit)).unwrap_or(u32::MAX);
        (CYCLE / part.max(1)).max(TURN_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_mins(1);

    fn ids(numbers: std::ops::Range<u64>) -> BTreeSet<Id> {
        numbers.collect()
    }

    /// Runs questions that are held for their whole turn; counts how often each is asked.
    fn simulate(rotation: &mut Rotation, from: Instant, time: Duration) -> BTreeMap<Id, u32> {
        let mut now = from;
        let mut asked: BTreeMap<Id, u32> = BTreeMap::new();
        let mut ends: BTreeSet<(Instant, Id)> = BTreeSet::new();
        while now < from + time {
            for id in rotation.overdue(now) {
                ends.retain(|(_, ended)| *ended != id);
            }
            while let Some((id, turn)) = rotation.next(now, |_| WAIT) {
                *asked.entry(id).or_default() += 1;
                ends.insert((now + turn, id));
                assert!(ends.len() <= rotation.slots, "more at the same time than allowed");
            }
            let next = [ends.first().map(|(at, _)| *at), rotation.due()];
            now = next.into_iter().flatten().min().expect("something goes on").max(now);
            while let Some((at, id)) = ends.first().copied().filter(|(at, _)| *at <= now) {
                ends.remove(&(at, id));
                rotation.done(id, now);
            }
        }
        asked
    }

    #[test]
    fn every_question_has_its_turn() {
        for (slots, questions) in [(43, 44), (43, 100), (43, 2_000), (1, 20), (1, 2), (175, 2_000)]
        {
            let mut rotation = Rotation::new(slots);
            rotation.want(&ids(0..questions));
            let asked = simulate(&mut rotation, Instant::now(), 3 * CYCLE);
            assert_eq!(asked.len() as u64, questions, "{slots} slots");
            let (least, most) = (asked.values().min(), asked.values().max());
            assert!(least >= Some(&2) && most <= Some(&8), "{slots} slots: {least:?} to {most:?}");
        }
    }

    #[test]
    fn with_a_place_for_each_nobody_is_cut_short() {
        let mut rotation = Rotation::new(43);
        rotation.want(&ids(0..43));
        let now = Instant::now();
        for _ in 0..43 {
            assert_eq!(rotation.next(now, |_| WAIT).expect("a place").1, WAIT);
        }
        assert_eq!(rotation.next(now, |_| WAIT), None);
        assert_eq!(rotation.due(), None);
    }

    #[test]
    fn long_turns_end_when_others_come() {
        let mut rotation = Rotation::new(1);
        rotation.want(&ids(0..1));
        let now = Instant::now();
        assert_eq!(rotation.next(now, |_| WAIT), Some((0, WAIT)));
        rotation.want(&ids(0..10));
        let cut = rotation.due().expect("the long turn ends early");
        assert_eq!(cut, now + CYCLE / 10 + GRACE, "after {:?}", cut - now);
        assert!(rotation.overdue(now).is_empty());
        assert_eq!(rotation.overdue(cut), [0]);
        assert_eq!(rotation.next(cut, |_| WAIT).expect("its turn").0, 1);
        let asked = simulate(&mut rotation, cut, 3 * CYCLE);
        assert_eq!(asked.len(), 10);
    }

    #[test]
    fn what_nobody_wants_is_forgotten_at_once() {
        let mut rotation = Rotation::new(2);
        rotation.want(&ids(0..5));
        let now = Instant::now();
        assert_eq!(rotation.next(now, |_| WAIT).map(|it| it.0), Some(0));
        assert_eq!(rotation.next(now, |_| WAIT).map(|it| it.0), Some(1));
        rotation.done(1, now + WAIT);
        assert_eq!(rotation.want(&ids(3..5)), [0]);
        // An answer that was under way changes nothing.
        rotation.done(0, now);
        let left: Vec<Id> =
            std::iter::from_fn(|| rotation.next(now, |_| WAIT).map(|it| it.0)).collect();
        assert_eq!(left, [3, 4]);
        assert_eq!(rotation.due(), None);
    }

    #[test]
    fn an_agent_that_is_away_is_asked_one_question_until_it_answers() {
        let mut rotation = Rotation::new(3);
        rotation.want(&ids(0..9));
        let now = Instant::now();
        let begin = |rotation: &mut Rotation, now| -> Vec<Id> {
            std::iter::from_fn(|| rotation.next(now, |_| WAIT).map(|it| it.0)).collect()
        };
        assert_eq!(begin(&mut rotation, now), [0, 1, 2]);
        for id in 0..3 {
            rotation.refused(id, now, now + WAIT);
        }
        assert!(begin(&mut rotation, now).is_empty());
        assert_eq!(rotation.due(), Some(now + WAIT));
        assert_eq!(begin(&mut rotation, now + WAIT), [2]);
        rotation.done(2, now + 2 * WAIT);
        assert_eq!(begin(&mut rotation, now + WAIT), [1, 0, 3]);
    }

    #[test]
    fn an_agent_that_takes_fewer_is_asked_fewer_for_a_while() {
        let mut rotation = Rotation::new(3);
        rotation.want(&ids(0..9));
        let now = Instant::now();
        let begin = |rotation: &mut Rotation, now| -> Vec<Id> {
            std::iter::from_fn(|| rotation.next(now, |_| WAIT).map(|it| it.0)).collect()
        };
        assert_eq!(begin(&mut rotation, now), [0, 1, 2]);
        rotation.refused(2, now, now);
        rotation.done(0, now + WAIT);
        assert_eq!(begin(&mut rotation, now), [2]);
        assert_eq!(begin(&mut rotation, now + LIMITED), [3]);
    }
}
