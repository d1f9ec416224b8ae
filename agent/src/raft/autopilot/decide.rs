//! Decides which servers are healthy, vote, or are removed: no clock, no network.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::raft::types::ServerId;
use crate::store;

/// The rules that operators set, as values to compare with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    /// Remove servers that failed.
    pub(super) cleanup: bool,
    /// Longest silence of a healthy server.
    pub(super) last_contact_max: Duration,
    /// Most entries that a healthy server may lack.
    pub(super) trailing_max: u64,
    /// Fewest voters that cleaning up leaves.
    pub(super) quorum_min: usize,
    /// A learner is healthy for so long before it votes.
    pub(super) stabilization: Duration,
}

impl From<&store::Autopilot> for Rules {
    fn from(row: &store::Autopilot) -> Rules {
        Rules {
            cleanup: row.cleanup_dead_servers,
            last_contact_max: Duration::from_nanos(row.last_contact_threshold_ns),
            trailing_max: row.max_trailing_logs,
            quorum_min: usize::try_from(row.min_quorum).unwrap_or(usize::MAX),
            stabilization: Duration::from_nanos(row.server_stabilization_time_ns),
        }
    }
}

/// Liveness of a server, as gossip tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It answers.
    Alive,
    /// It does not answer; it may come back.
    Failed,
    /// It said good-bye.
    Left,
    /// It takes part, but nobody has heard of it.
    Unknown,
}

/// The leader's facts about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leader {
    /// In which it leads.
    pub(super) term: u64,
    /// The last entry of its log.
    pub(super) last_index: u64,
}

/// The leader's facts about a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// Which one.
    pub(super) id: ServerId,
    /// Liveness, as gossip tells it.
    pub(super) presence: Presence,
    /// It is the leader itself.
    pub(super) leader: bool,
    /// It counts towards a majority.
    pub(super) voter: bool,
    /// Time without an answer beyond what is usual; `None`: it never answered.
    pub(super) last_contact: Option<Duration>,
    /// Term of the last entry that it is known to have.
    pub(super) last_term: u64,
    /// Position of that entry.
    pub(super) last_index: u64,
}

/// Health of a server, and when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Health {
    /// It is.
    pub(super) healthy: bool,
    /// On the driver's clock.
    pub(super) since: Duration,
}

/// Next action. Only one change of the servers is under way at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Give the learner a voice.
    Promote(ServerId),
    /// Take the server out.
    Remove(ServerId),
}

/// A server of which nothing is heard has so long to be back, however short the stabilisation time: who is
/// only being started again keeps its voice, and after an election gossip may not have told of everybody.
const ABSENCE_MIN: Duration = Duration::from_secs(3);

/// Is the server healthy?
fn is_healthy(rules: &Rules, leader: Leader, seen: &Seen) -> bool {
    if seen.leader {
        return true;
    }
    seen.presence == Presence::Alive
        && seen.last_contact.is_some_and(|silence| silence <= rules.last_contact_max)
        && seen.last_term == leader.term
        && seen.last_index.saturating_add(rules.trailing_max) >= leader.last_index
}

/// Brings what is known of everybody's health up to date; who takes no part any more is forgotten.
pub(super) fn judge(
    known: &mut BTreeMap<ServerId, Health>,
    now: Duration,
    rules: &Rules,
    leader: Leader,
    servers: &[Seen],
) {
    known.retain(|id, _| servers.iter().any(|seen| seen.id == *id));
    for seen in servers {
        let healthy = is_healthy(rules, leader, seen);
        let health = known.entry(seen.id).or_insert(Health { healthy, since: now });
        if health.healthy != healthy {
            *health = Health { healthy, since: now };
        }
    }
}

/// Decides the next action. Learners that have proved themselves vote; dead servers are removed, as
/// long as they are less than half of the voters and enough others stay.
pub(super) fn decide(
    known: &BTreeMap<ServerId, Health>,
    now: Duration,
    rules: &Rules,
    servers: &[Seen],
) -> Vec<Action> {
    let age = |seen: &Seen| known.get(&seen.id).map(|health| now.saturating_sub(health.since));
    let stable = |seen: &Seen| {
        let healthy = known.get(&seen.id).is_some_and(|health| health.healthy);
        healthy && age(seen).is_some_and(|age| age >= rules.stabilization)
    };
    let mut steps: Vec<Action> = servers
        .iter()
        .filter(|seen| !seen.voter && stable(seen))
        .map(|seen| Action::Promote(seen.id))
        .collect();
    if !rules.cleanup {
        return steps;
    }
    // Nobody counts for longer without a member behind it than a newcomer waits for its voice: else both
    // would count at once, and the majority would include one that is gone.
    let patience = rules.stabilization.max(ABSENCE_MIN);
    let is_dead = |seen: &&Seen| {
        !seen.leader
            && match seen.presence {
                Presence::Alive => false,
                Presence::Left => true,
                Presence::Failed | Presence::Unknown => {
                    age(seen).is_some_and(|age| age >= patience)
                }
            }
    };
    let remove = |seen: &Seen| Action::Remove(seen.id);
    // Who has no voice is missed by nobody.
    steps.extend(servers.iter().filter(|seen| !seen.voter).filter(is_dead).map(remove));
    let voters = servers.iter().filter(|seen| seen.voter).count();
    let dead: Vec<&Seen> = servers.iter().filter(|seen| seen.voter).filter(is_dead).collect();
    let is_minority = dead.len() <= voters.saturating_sub(1) / 2;
    if is_minority && voters - dead.len() >= rules.quorum_min {
        steps.extend(dead.into_iter().map(remove));
    }
    steps
}

/// Number of healthy voters that may fail before no majority is left.
pub(super) fn failure_tolerance(known: &BTreeMap<ServerId, Health>, servers: &[Seen]) -> usize {
    let voters = servers.iter().filter(|seen| seen.voter);
    let needed = voters.clone().count() / 2 + 1;
    let healthy = voters.filter(|seen| known.get(&seen.id).is_some_and(|health| health.healthy));
    healthy.count().saturating_sub(needed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEADER: Leader = Leader { term: 3, last_index: 1_000 };
    const NOW: Duration = Duration::from_secs(1_000);

    fn rules() -> Rules {
        Rules::from(&store::Autopilot::default())
    }

    fn server(number: u64, voter: bool, presence: Presence) -> Seen {
        Seen {
            id: number.into(),
            presence,
            leader: number == 1,
            voter,
            last_contact: Some(Duration::from_millis(20)),
            last_term: 3,
            last_index: 1_000,
        }
    }

    /// Everybody's health after it has been as it is for `age`.
    fn judged(rules: &Rules, age: Duration, servers: &[Seen]) -> BTreeMap<ServerId, Health> {
        let mut known = BTreeMap::new();
        judge(&mut known, NOW.checked_sub(age).unwrap(), rules, LEADER, servers);
        judge(&mut known, NOW, rules, LEADER, servers);
        known
    }

    #[test]
    fn who_is_silent_behind_or_in_another_term_is_not_healthy() {
        let good = server(2, true, Presence::Alive);
        let silence = |ms| Some(Duration::from_millis(ms));
        let table = [
            (good, true),
            (Seen { last_contact: silence(200), ..good }, true),
            (Seen { last_contact: silence(201), ..good }, false),
            (Seen { last_contact: None, ..good }, false),
            (Seen { last_index: 750, ..good }, true),
            (Seen { last_index: 749, ..good }, false),
            (Seen { last_term: 2, ..good }, false),
            (Seen { presence: Presence::Failed, ..good }, false),
            (Seen { presence: Presence::Unknown, ..good }, false),
            (Seen { leader: true, last_contact: None, last_index: 0, ..good }, true),
        ];
        for (seen, expected) in table {
            assert_eq!(is_healthy(&rules(), LEADER, &seen), expected, "{seen:?}");
        }
    }

    #[test]
    fn learners_vote_once_they_have_been_healthy_for_long_enough() {
        let servers = [server(1, true, Presence::Alive), server(2, false, Presence::Alive)];
        let steps = |seconds| {
            let known = judged(&rules(), Duration::from_secs(seconds), &servers);
            decide(&known, NOW, &rules(), &servers)
        };
        assert_eq!(steps(9), []);
        assert_eq!(steps(10), [Action::Promote(2.into())]);
        // One bad look begins the time anew.
        let mut known = judged(&rules(), Duration::from_mins(1), &servers);
        let mut silent = servers;
        silent[1].last_contact = None;
        judge(&mut known, NOW, &rules(), LEADER, &silent);
        judge(&mut known, NOW, &rules(), LEADER, &servers);
        assert_eq!(decide(&known, NOW, &rules(), &servers), []);
    }

    #[test]
    fn the_dead_go_while_they_are_few() {
        use Presence::{Alive, Failed, Left, Unknown};
        let check = |others: &[(bool, Presence)], rules: Rules, expected: &[u64]| {
            let mut servers = vec![server(1, true, Alive)];
            let others = (2..).zip(others);
            servers.extend(others.map(|(n, (voter, presence))| server(n, *voter, *presence)));
            let known = judged(&rules, Duration::from_secs(90), &servers);
            let removed: Vec<Action> = decide(&known, NOW, &rules, &servers);
            let expected: Vec<Action> =
                expected.iter().map(|n| Action::Remove((*n).into())).collect();
            assert_eq!(removed, expected, "{servers:?}");
        };
        check(&[(true, Alive), (true, Failed)], rules(), &[3]);
        check(&[(true, Failed), (true, Failed)], rules(), &[]);
        check(&[(true, Failed)], rules(), &[]);
        check(&[(true, Left), (true, Alive), (true, Unknown), (true, Alive)], rules(), &[2, 4]);
        check(&[(false, Failed), (true, Failed)], rules(), &[2]);
        let quorum = |quorum_min| Rules { quorum_min, ..rules() };
        check(&[(true, Alive), (true, Alive), (true, Failed)], quorum(3), &[4]);
        check(&[(true, Alive), (true, Alive), (true, Failed)], quorum(4), &[]);
        let off = Rules { cleanup: false, ..rules() };
        check(&[(true, Alive), (true, Failed), (false, Failed)], off, &[]);
    }

    #[test]
    fn who_is_gone_gets_the_stabilisation_time_to_come_back() {
        for presence in [Presence::Unknown, Presence::Failed] {
            for (seconds, patience) in [(10, 10), (30, 30), (4, 4), (0, 3)] {
                let rules = Rules { stabilization: Duration::from_secs(seconds), ..rules() };
                let servers = [
                    server(1, true, Presence::Alive),
                    server(2, true, Presence::Alive),
                    server(3, true, presence),
                ];
                let patience = Duration::from_secs(patience);
                let known = judged(&rules, patience.mul_f64(0.9), &servers);
                assert_eq!(decide(&known, NOW, &rules, &servers), [], "{presence:?} {seconds}");
                let known = judged(&rules, patience, &servers);
                assert_eq!(decide(&known, NOW, &rules, &servers), [Action::Remove(3.into())]);
            }
        }
    }

    prop_compose! {
        fn seen(number: u64)(
            presence in prop_oneof![
                3 => Just(Presence::Alive),
                2 => Just(Presence::Failed),
                1 => Just(Presence::Left),
                1 => Just(Presence::Unknown),
            ],
            voter in prop::bool::weighted(0.8),
            contact in prop::option::of(0u64..400),
            behind in 0u64..500,
        ) -> Seen {
            Seen {
                last_contact: contact.map(Duration::from_millis),
                last_index: LEADER.last_index - behind,
                ..server(number, voter || number == 1, presence)
            }
        }
    }

    fn servers() -> impl Strategy<Value = Vec<Seen>> {
        (1u64..10).prop_flat_map(|count| (1..=count).map(seen).collect::<Vec<_>>())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// Whatever is done at once, those that stay can agree, and could agree before.
        #[test]
        fn no_majority_is_ever_removed(
            servers in servers(),
            age in 0u64..200,
            quorum_min in 0usize..6,
            cleanup in any::<bool>(),
        ) {
            let rules = Rules { cleanup, quorum_min, ..rules() };
            let known = judged(&rules, Duration::from_secs(age), &servers);
            let steps = decide(&known, NOW, &rules, &servers);
            let removed = |seen: &&Seen| steps.contains(&Action::Remove(seen.id));
            let voters: Vec<&Seen> = servers.iter().filter(|seen| seen.voter).collect();
            let gone = voters.iter().copied().filter(removed).count();
            prop_assert!(2 * gone < voters.len());
            prop_assert!(gone == 0 || voters.len() - gone >= quorum_min);
            prop_assert!(cleanup || !steps.iter().any(|step| matches!(step, Action::Remove(_))));
            for step in &steps {
                let (Action::Promote(id) | Action::Remove(id)) = step;
                let seen = servers.iter().find(|seen| seen.id == *id).unwrap();
                prop_assert!(!seen.leader);
                match step {
                    Action::Promote(_) => {
                        prop_assert!(!seen.voter && known[id].healthy);
                        prop_assert!(NOW.saturating_sub(known[id].since) >= rules.stabilization);
                    }
                    Action::Remove(_) => prop_assert!(seen.presence != Presence::Alive),
                }
                prop_assert_eq!(steps.iter().filter(|other| *other == step).count(), 1);
            }
        }

        /// As many voters as are tolerated may go, and the rest is a majority still.
        #[test]
        fn what_is_tolerated_leaves_a_majority(servers in servers(), age in 0u64..200) {
            let known = judged(&rules(), Duration::from_secs(age), &servers);
            let tolerated = failure_tolerance(&known, &servers);
            let voters = servers.iter().filter(|seen| seen.voter);
            let healthy = voters.clone().filter(|seen| known[&seen.id].healthy).count();
            if tolerated > 0 {
                prop_assert!(2 * (healthy - tolerated) > voters.count());
            }
        }
    }
}
