//! The pools that an agent is a member of, as one: a server of a network with segments is in several,
//! every other agent in one.
//!
//! ```text
//! default ─┐         ┌─ roll      everybody by name; servers as the default pool knows them
//! alpha  ──┼─ Pools ─┼─ events    each once, whichever pool it came through, told to the others as well
//! beta   ──┘         └─ wishes    leave, force-leave: to all pools that they concern
//! ```
//!
//! Members of different segments never hear of each other. Names are unique in a pool only, so that two
//! pools may know the same name: one that moved from one segment to another, or two that dispute it.
//!
//! With one pool nothing stands between it and whoever asks: no task, no copy.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt as _};
use imbl::ordmap::DiffItem;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::member::{Member, Name, Status, UserEvent};
use super::members::{EVENTS_BEHIND, MemberList, Members, Refused, Stopped};

/// Events known by id, so that none goes round in circles between pools. More than all pools' queues
/// together hold is not needed.
const EVENTS_KNOWN_MAX: usize = 4 * EVENTS_BEHIND;

/// Handle to all pools of an agent. Clones cost little.
#[derive(Debug, Clone)]
pub struct Pools {
    /// The agent's own one first; on a server that is the default one, by which servers know each other.
    all: Arc<[Members]>,
    member_list: watch::Receiver<MemberList>,
    events: Events,
}

#[derive(Debug, Clone)]
enum Events {
    Own,
    OfAll(broadcast::Sender<Arc<UserEvent>>),
}

impl From<Members> for Pools {
    fn from(own: Members) -> Pools {
        Pools { member_list: own.watch(), all: [own].into(), events: Events::Own }
    }
}

impl Pools {
    /// The agent's own pool and others. The future keeps them together until `stop`.
    pub fn of(
        own: Members,
        others: Vec<Members>,
        stop: CancellationToken,
    ) -> (Pools, impl Future<Output = ()> + Send + 'static) {
        let all: Arc<[Members]> = std::iter::once(own).chain(others).collect();
        let mut merged = Merged {
            seen: all.iter().map(|_| MemberList::new()).collect(),
            member_list: MemberList::new(),
        };
        for (at, pool) in all.iter().enumerate() {
            merged.see(at, pool.member_list(), &all);
        }
        let (show, member_list) = watch::channel(merged.member_list.clone());
        let (tell, _) = broadcast::channel(EVENTS_BEHIND);
        let pools =
            Pools { all: Arc::clone(&all), member_list, events: Events::OfAll(tell.clone()) };
        let updates = stream::select_all((0..all.len()).flat_map(|at| news_of(at, &all[at])));
        let run = async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = together(&all, updates, merged, show, tell) => stop.cancelled().await,
            }
        };
        (pools, run)
    }

    /// The pool of the agent's own segment; of a server, the default one.
    pub fn own(&self) -> &Members {
        &self.all[0]
    }

    /// All pools, the agent's own first.
    pub fn each(&self) -> &[Members] {
        &self.all
    }

    /// The pool of a segment, if this agent is in it. The default one's name is empty.
    pub fn segment(&self, name: &str) -> Option<&Members> {
        self.all.iter().find(|pool| pool.segment() == name)
    }

    /// The name of this agent in every pool.
    pub fn name(&self) -> &str {
        self.own().name()
    }

    /// Everybody in any pool now.
    pub fn member_list(&self) -> MemberList {
        self.member_list.borrow().clone()
    }

    /// Everybody in any pool, and whenever that changes.
    pub fn watch(&self) -> watch::Receiver<MemberList> {
        self.member_list.clone()
    }

    /// User events from now on, this agent's own included.
    pub fn events(&self) -> broadcast::Receiver<Arc<UserEvent>> {
        match &self.events {
            Events::Own => self.own().events(),
            Events::OfAll(tell) => tell.subscribe(),
        }
    }

    /// Tells all members something. Says the event's place in the order of the agent's own pool.
    pub async fn fire(&self, event: UserEvent) -> Result<u64, Refused> {
        self.own().fire(event).await
    }

    /// Says good-bye everywhere, and returns when that is said.
    pub async fn leave(&self) {
        futures::future::join_all(self.all.iter().map(Members::leave)).await;
    }

    /// Declares a member gone wherever it is known; says whether it is.
    pub async fn force_leave(&self, name: &str, prune: bool) -> Result<bool, Stopped> {
        let mut is_known = false;
        for pool in self.all.iter() {
            is_known |= pool.force_leave(name, prune).await?;
        }
        Ok(is_known)
    }
}

/// An update from a pool.
enum PoolUpdate {
    /// Members are otherwise than they were.
    MemberList,
    Event(Arc<UserEvent>),
}

/// The news of one pool, with its place among all.
fn news_of(at: usize, pool: &Members) -> [BoxStream<'static, (usize, PoolUpdate)>; 2] {
    let rolls = stream::unfold(pool.watch(), move |mut member_list| async move {
        member_list.changed().await.ok()?;
        Some(((at, PoolUpdate::MemberList), member_list))
    });
    let events =
        stream::unfold((pool.events(), pool.clone()), move |(mut told, pool)| async move {
            loop {
                match told.recv().await {
                    Ok(event) => return Some(((at, PoolUpdate::Event(event)), (told, pool))),
                    Err(RecvError::Lagged(missed)) => {
                        let segment = pool.segment();
                        tracing::warn!(
                            missed,
                            segment,
                            "events were not passed on to other segments"
                        );
                    }
                    Err(RecvError::Closed) => return None,
                }
            }
        });
    [rolls.boxed(), events.boxed()]
}

/// Keeps the common roll, and passes events from pool to pool, as long as there are news.
async fn together(
    all: &[Members],
    mut updates: impl futures::Stream<Item = (usize, PoolUpdate)> + Unpin,
    mut merged: Merged,
    show: watch::Sender<MemberList>,
    tell: broadcast::Sender<Arc<UserEvent>>,
) {
    let mut known: VecDeque<Uuid> = VecDeque::new();
    while let Some((at, updates)) = updates.next().await {
        match updates {
            PoolUpdate::MemberList => {
                if merged.see(at, all[at].member_list(), all) {
                    show.send_replace(merged.member_list.clone());
                }
            }
            PoolUpdate::Event(event) => {
                if known.contains(&event.id) {
                    continue;
                }
                if known.len() == EVENTS_KNOWN_MAX {
                    known.pop_front();
                }
                known.push_back(event.id);
                for (_, pool) in all.iter().enumerate().filter(|(other, _)| *other != at) {
                    // Other servers pass it on as well: members know it by its id. A pool that is shut
                    // down has nobody left to tell.
                    let _ = pool.fire(UserEvent::clone(&event)).await;
                }
                // Nobody may listen.
                let _ = tell.send(event);
            }
        }
    }
}

/// Members of all pools, merged.
struct Merged {
    /// Each pool as it was last looked at.
    seen: Vec<MemberList>,
    member_list: MemberList,
}

impl Merged {
    /// Takes over what changed in one pool; says whether anything did.
    fn see(&mut self, at: usize, now: MemberList, all: &[Members]) -> bool {
        let changed: Vec<Name> = self.seen[at]
            .diff(&now)
            .map(|item| match item {
                DiffItem::Add(name, _)
                | DiffItem::Update { new: (name, _), .. }
                | DiffItem::Remove(name, _) => name.clone(),
            })
            .collect();
        self.seen[at] = now;
        for name in &changed {
            let known =
                self.seen.iter().zip(all).enumerate().filter_map(|(at, (member_list, pool))| {
                    let member = member_list.get(name)?;
                    // Servers are in all pools; the default one is where their word counts.
                    (at == 0 || !member.is_server()).then_some((member, pool.segment()))
                });
            match chosen(known) {
                Some(member) => self.member_list.insert(name.clone(), member),
                None => self.member_list.remove(name),
            };
        }
        !changed.is_empty()
    }
}

/// Of those that have one name in different pools, the one that has it in the catalog.
fn chosen<'a>(known: impl Iterator<Item = (&'a Arc<Member>, &'a str)>) -> Option<Arc<Member>> {
    let mut rivals: Vec<_> = known.collect();
    if rivals.len() > 1 {
        let (winner, _) = *rivals.iter().reduce(|a, b| if wins(b.0, a.0) { b } else { a })?;
        let is_rival = |other: &Member| is_there(other) && other.details.id != winner.details.id;
        let rival = rivals.iter().find(|(other, _)| is_rival(other));
        if let (true, None, Some((rival, segment))) = (is_there(winner), &winner.conflict, rival) {
            let (id, address) = (rival.details.id, rival.details.address);
            let conflict = format!("{id} at {address} in segment \"{segment}\"").into();
            return Some(Arc::new(Member { conflict: Some(conflict), ..Member::clone(winner) }));
        }
        return Some(Arc::clone(winner));
    }
    rivals.pop().map(|(member, _)| Arc::clone(member))
}

/// The living have their names before the dead, and of these who came first. Of two lives of the same
/// agent, and of the dead, the last one counts.
fn wins(newer: &Member, older: &Member) -> bool {
    let later = newer.details.incarnation > older.details.incarnation;
    match (is_there(newer), is_there(older)) {
        (true, false) => true,
        (false, true) => false,
        (true, true) if newer.details.id != older.details.id => !later,
        _ => later,
    }
}

fn is_there(member: &Member) -> bool {
    matches!(member.status, Status::Alive | Status::Leaving)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::gossip::Details;

    fn member(id: u128, incarnation: u64, status: Status) -> Arc<Member> {
        let details = Details {
            name: "m".into(),
            id: Uuid::from_u128(id),
            address: "127.0.0.1:8301".parse().unwrap(),
            incarnation,
            tags: BTreeMap::new(),
        };
        Arc::new(Member { details: Arc::new(details), status, conflict: None })
    }

    #[test]
    fn of_several_with_one_name_the_living_and_the_latest_life_count() {
        use Status::{Alive, Failed, Leaving, Left};
        let rows = [
            // Moved to another segment: the first still takes it for living.
            ([(1, 5, Alive), (1, 9, Alive)], 1, false),
            ([(1, 5, Failed), (1, 9, Alive)], 1, false),
            ([(1, 9, Leaving), (1, 5, Failed)], 0, false),
            ([(1, 5, Left), (1, 9, Failed)], 1, false),
            ([(1, 9, Left), (1, 5, Failed)], 0, false),
            // Somebody else has the name.
            ([(1, 5, Alive), (2, 9, Alive)], 0, true),
            ([(1, 9, Alive), (2, 5, Alive)], 1, true),
            ([(1, 5, Failed), (2, 9, Alive)], 1, false),
        ];
        for (known, expected, disputed) in rows {
            let known = known.map(|(id, incarnation, status)| member(id, incarnation, status));
            let found = chosen(known.iter().zip(["", "alpha"])).unwrap();
            assert_eq!(found.details, known[expected].details, "{known:?}");
            assert_eq!(found.conflict.is_some(), disputed, "{known:?}");
        }
        let pair = [member(1, 5, Alive), member(2, 9, Alive)];
        let found = chosen(pair.iter().zip(["", "alpha"])).unwrap();
        let conflict = found.conflict.as_deref().unwrap_or_default();
        assert!(conflict.ends_with("at 127.0.0.1:8301 in segment \"alpha\""), "{conflict}");
        assert!(chosen(std::iter::empty()).is_none());
    }
}
