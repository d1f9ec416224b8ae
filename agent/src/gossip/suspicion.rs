//! Time for a silent member to object, and an agent's confidence in itself.
//!
//! After Lifeguard (Dadgar, Phillips, Currey: "Lifeguard: Local health awareness for more accurate
//! failure detection"): a suspicion begins with a long term, which shrinks with every independent
//! member that shares it; an agent that does not hear answers it should hear takes itself for the
//! slow one and asks more patiently.

use std::time::Duration;

use super::core::Timing;
use super::member::{Name, Time};

/// A doubt about one member.
#[derive(Debug)]
pub(super) struct Suspicion {
    began: Time,
    shortest: Duration,
    longest: Duration,
    /// Others needed for the shortest term.
    needed: usize,
    /// Members that share the suspicion; the first one began it.
    by: Vec<Name>,
    /// Its machine says that it does not run.
    nobody_listens: bool,
    deadline: Time,
}

impl Suspicion {
    /// Doubts that `from` began, in a pool of `members`.
    pub(super) fn new(now: Time, from: Name, members: usize, timing: &Timing) -> Suspicion {
        let shortest = shortest_term(members, timing.suspicion_mult, timing.probe_interval);
        let wanted = (timing.suspicion_mult as usize).saturating_sub(2);
        // Too few are there to share the doubt: no use waiting for them.
        let needed = if members.saturating_sub(2) < wanted { 0 } else { wanted };
        let longest =
            if needed == 0 { shortest } else { shortest * timing.suspicion_max_mult.max(1) };
        let deadline = now + longest;
        let by = vec![from];
        Suspicion { began: now, shortest, longest, needed, by, nobody_listens: false, deadline }
    }

    /// Somebody else had no answer either. Says whether that is news to pass on.
    pub(super) fn confirm(&mut self, from: &Name) -> bool {
        if self.by.len() > self.needed || self.by.contains(from) {
            return false;
        }
        self.by.push(from.clone());
        self.deadline = self.shared();
        true
    }

    /// The member's own machine refused a connection: neither a slow member nor a bad way looks like
    /// that, and nobody is left to object. Half the shortest term stays, for one that is just being
    /// started again, whoever shares the doubt.
    pub(super) fn nobody_listens(&mut self) {
        self.nobody_listens = true;
        self.deadline = self.shared();
    }

    /// When the member counts as failed.
    pub(super) fn deadline(&self) -> Time {
        self.deadline
    }

    /// The same, from how many share the doubt.
    fn shared(&self) -> Time {
        if self.nobody_listens {
            return self.began + self.shortest / 2;
        }
        let shared = self.by.len() - 1;
        #[expect(clippy::cast_precision_loss, reason = "a handful of members")]
        let part = ((shared + 1) as f64).ln() / ((self.needed + 1) as f64).ln();
        let span = self.longest.saturating_sub(self.shortest).as_secs_f64();
        let term = Duration::from_secs_f64(self.longest.as_secs_f64() - part.min(1.0) * span);
        self.began + term.max(self.shortest)
    }
}

/// Grows with the logarithm of the pool: news take as long to get round.
fn shortest_term(members: usize, multiplier: u32, interval: Duration) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "pools are smaller than 2^52")]
    let scale = (members.max(1) as f64).log10().max(1.0);
    let whole = (scale * 1000.0).round() / 1000.0;
    (interval * multiplier).mul_f64(whole)
}

/// Health score of an agent: 0 is healthy.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Awareness(u32);

impl Awareness {
    /// Notes an event that speaks for (`better`) or against this agent's own health.
    pub(super) fn better(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }

    /// See [`Awareness::better`]. Doubts beyond `max` would not help.
    pub(super) fn worse(&mut self, by: u32, max: u32) {
        self.0 = (self.0 + by).min(max);
    }

    /// A patience, stretched.
    pub(super) fn stretch(self, patience: Duration) -> Duration {
        patience * (self.0 + 1)
    }

    /// The doubt itself.
    pub(super) fn score(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn terms_grow_with_the_pool_and_shrink_with_company() {
        let term = |members, others: &[&str]| {
            let mut suspicion = Suspicion::new(SECOND, "a".into(), members, &Timing::default());
            for other in others {
                suspicion.confirm(&(*other).into());
            }
            suspicion.deadline().saturating_sub(SECOND).as_millis()
        };
        assert_eq!(term(3, &[]), 4000, "nobody else could share it");
        assert_eq!(term(4, &[]), 24_000);
        assert_eq!(term(100, &[]), 48_000);
        assert_eq!(term(100, &["b", "c"]), 8000);
        assert_eq!(term(100, &["a", "a"]), 48_000, "the same voice counts once");
        let one = term(100, &["b"]);
        assert!((8000..48_000).contains(&one), "{one}");
    }

    #[test]
    fn who_does_not_listen_has_half_the_shortest_term() {
        let mut suspicion = Suspicion::new(SECOND, "a".into(), 100, &Timing::default());
        suspicion.nobody_listens();
        assert_eq!(suspicion.deadline(), 5 * SECOND);
        suspicion.confirm(&"b".into());
        assert_eq!(suspicion.deadline(), 5 * SECOND, "company changes nothing");
    }

    #[test]
    fn awareness_stays_in_bounds() {
        let mut awareness = Awareness::default();
        awareness.better();
        assert_eq!(awareness.stretch(SECOND), SECOND);
        awareness.worse(100, 7);
        assert_eq!(awareness.stretch(SECOND), 8 * SECOND);
        awareness.better();
        assert_eq!(awareness.stretch(SECOND), 7 * SECOND);
    }
}
