//! The handle to a pool: who is in it, news of it, and wishes to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use imbl::OrdMap;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::core::{Core, Counters, Notice, Unanswered};
use super::driver::{Command, Shared};
use super::keyring::{Keyring, Order, Report};
use super::member::{Details, Member, Name, Status, Tags, UserEvent};
use super::message::{Request, Response};
use super::validate::Unfit;
use super::vivaldi::Coordinate;
use crate::telemetry::metrics::names;

/// Events that a slow reader may be behind before it misses some.
pub(super) const EVENTS_BEHIND: usize = 512;
/// Members asked about their keys at once.
const KEYS_AT_ONCE: usize = 32;
/// Longest time for one of them.
const KEYS_TIME: Duration = Duration::from_secs(5);

/// Everybody by name, as of some moment. Clones cost nothing.
pub type MemberList = OrdMap<Name, Arc<Member>>;

/// Counters of a driver.
#[derive(Debug, Default)]
pub struct Stats {
    heard: AtomicU64,
    heard_bytes: AtomicU64,
    said: AtomicU64,
    said_bytes: AtomicU64,
    garbage: AtomicU64,
}

impl Stats {
    pub(super) fn heard(&self, bytes: usize) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        self.heard_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn said(&self, bytes: usize) {
        self.said.fetch_add(1, Ordering::Relaxed);
        self.said_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn garbage(&self) {
        self.garbage.fetch_add(1, Ordering::Relaxed);
    }

    /// Datagrams heard and said.
    pub fn datagrams(&self) -> (u64, u64) {
        (self.heard.load(Ordering::Relaxed), self.said.load(Ordering::Relaxed))
    }

    /// Bytes of these.
    pub fn bytes(&self) -> (u64, u64) {
        (self.heard_bytes.load(Ordering::Relaxed), self.said_bytes.load(Ordering::Relaxed))
    }

    /// Datagrams and connections that made no sense, or were sealed with no key of ours.
    pub fn dropped(&self) -> u64 {
        self.garbage.load(Ordering::Relaxed)
    }
}

/// Metrics and coordinate of the core.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vitals {
    /// Counters of the core.
    pub counters: Counters,
    /// Health score of Lifeguard: 0 is healthy.
    pub health_score: u32,
    /// News that wait.
    pub updates: usize,
    /// Its coordinate.
    pub coordinate: Coordinate,
    /// The order of events as far as it got.
    pub event_clock: u64,
    /// Coordinates of other members.
    pub places: OrdMap<Name, Coordinate>,
    /// The pool takes somebody else for the member with this one's name.
    pub is_disowned: bool,
}

/// A pool, seen from one of its members.
#[derive(Debug, Clone)]
pub struct Members {
    name: Name,
    address: SocketAddr,
    segment: Arc<str>,
    member_list: watch::Receiver<MemberList>,
    events: broadcast::Sender<Arc<UserEvent>>,
    vitals: Arc<ArcSwap<Vitals>>,
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

/// The driver is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the gossip pool is shut down")]
pub struct Stopped;

/// Refusal to announce something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nobody is left to say it.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// No other member would take it.
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// Sending ends for the driver's updates.
#[derive(Debug)]
pub(super) struct Feed {
    member_list: watch::Sender<MemberList>,
    changed: Vec<Name>,
    events: broadcast::Sender<Arc<UserEvent>>,
    vitals: Arc<ArcSwap<Vitals>>,
}

impl Members {
    pub(super) fn new(
        core: &Core,
        commands: mpsc::Sender<Command>,
        shared: Arc<Shared>,
    ) -> (Members, Feed) {
        let entries = core.members().map(|it| (it.details.name.clone(), Arc::new(it)));
        let (sender, member_list) = watch::channel(entries.collect());
        let (events, _) = broadcast::channel(EVENTS_BEHIND);
        let vitals = Arc::new(ArcSwap::from_pointee(vitals(core)));
        let feed = Feed {
            member_list: sender,
            changed: Vec::new(),
            events: events.clone(),
            vitals: Arc::clone(&vitals),
        };
        let me = core.me();
        let (name, address, segment) = (me.name.clone(), me.address, me.segment().into());
        (Members { name, address, segment, member_list, events, vitals, commands, shared }, feed)
    }

    /// The name of this member.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Address at which others reach this member.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The segment of the network that this pool is in; the default one has no name.
    pub fn segment(&self) -> &str {
        &self.segment
    }

    /// Everybody now.
    pub fn member_list(&self) -> MemberList {
        self.member_list.borrow().clone()
    }

    /// Everybody, and whenever that changes.
    pub fn watch(&self) -> watch::Receiver<MemberList> {
        self.member_list.clone()
    }

    /// Members that are there, this one included.
    pub fn live(&self) -> usize {
        self.member_list.borrow().values().filter(|member| member.status == Status::Alive).count()
    }

    /// User events from now on, this member's own included.
    pub fn events(&self) -> broadcast::Receiver<Arc<UserEvent>> {
        self.events.subscribe()
    }

    /// Metrics of the core.
    pub fn vitals(&self) -> Arc<Vitals> {
        self.vitals.load_full()
    }

    /// Counters of the driver.
    pub fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    /// Meets the pool through whoever lives at `address`.
    pub async fn join(&self, address: SocketAddr) -> Result<(), String> {
        if address == self.address {
            return Ok(());
        }
        let (done, result) = oneshot::channel();
        let gone = |_| Stopped.to_string();
        self.commands.send(Command::Join(address, done)).await.map_err(|_| Stopped.to_string())?;
        result.await.map_err(gone)?
    }

    /// Says good-bye, and returns when that is said.
    pub async fn leave(&self) {
        let (done, gone) = oneshot::channel();
        if self.commands.send(Command::Leave(done)).await.is_ok() {
            // A driver that stopped meanwhile has nothing to say any more.
            let _ = gone.await;
        }
    }

    /// Declares a member gone; says whether there is one of this name.
    pub async fn force_leave(&self, name: &str, prune: bool) -> Result<bool, Stopped> {
        if !self.member_list.borrow().contains_key(name) {
            return Ok(false);
        }
        self.commands.send(Command::ForceLeave(name.into(), prune)).await.map_err(|_| Stopped)?;
        Ok(true)
    }

    /// Tells all members something. Says the event's place in their order.
    pub async fn fire(&self, event: UserEvent) -> Result<u64, Refused> {
        event.validate()?;
        let (at, place) = oneshot::channel();
        self.commands.send(Command::Fire(event, at)).await.map_err(|_| Stopped)?;
        Ok(place.await.map_err(|_| Stopped)?)
    }

    /// Says something else of this member from now on.
    pub async fn set_tags(&self, tags: Tags) -> Result<(), Refused> {
        let me = self.member_list.borrow().get(&self.name).map(|me| Arc::clone(&me.details));
        if let Some(me) = me {
            Details { tags: tags.clone(), ..Details::clone(&me) }.validate()?;
        }
        Ok(self.commands.send(Command::SetTags(tags)).await.map_err(|_| Stopped)?)
    }

    /// The keys of this member.
    pub fn keyring(&self) -> &Keyring {
        &self.shared.keyring
    }

    /// Gives an order to the keyrings of all members that are there. Answers by name; who could not
    /// be asked has an error.
    pub async fn order_keys(&self, order: &Order) -> Vec<(Name, Report)> {
        use futures::StreamExt;
        let members: Vec<Arc<Member>> = self
            .member_list
            .borrow()
            .values()
            .filter(|member| member.status == Status::Alive)
            .cloned()
            .collect();
        let asked = members.into_iter().map(|member| async move {
            let name = member.details.name.clone();
            if name == self.name {
                return (name, self.shared.obey(order).await);
            }
            let request = Request::Keys(order.clone());
            let report = match self.shared.ask(member.details.address, &request, KEYS_TIME).await {
                Ok(Response::Keys(report)) => report,
                Ok(Response::Refused(error)) | Err(Unanswered { reason: error, .. }) => {
                    Report { error, keys: Vec::new() }
                }
                Ok(_) => Report { error: "answered with something else".into(), keys: Vec::new() },
            };
            (name, report)
        });
        futures::stream::iter(asked).buffer_unordered(KEYS_AT_ONCE).collect().await
    }
}

impl Shared {
    /// Does what is ordered of the keyring, and keeps the keys as they are then.
    pub(super) async fn obey(&self, order: &Order) -> Report {
        let Some(file) = self.keyring_file.clone() else { return self.keyring.obey(order) };
        let (keyring, order) = (self.keyring.clone(), order.clone());
        let done = tokio::task::spawn_blocking(move || keyring.obey_and_keep(&order, &file)).await;
        done.unwrap_or_else(|error| Report { error: error.to_string(), keys: self.keyring.keys() })
    }
}

impl Feed {
    pub(super) fn notice(&mut self, notice: Notice) {
        match &notice {
            Notice::Joined(_) => names::MEMBER_JOINED.add(),
            Notice::Updated(_) => names::MEMBER_UPDATED.add(),
            Notice::Failed(_) => names::MEMBER_FAILED.add(),
            Notice::Left(_) => names::MEMBER_LEFT.add(),
            Notice::Reaped(_) => names::MEMBER_REAPED.add(),
            Notice::Event(_) => names::USER_EVENTS.add(),
            Notice::Warning(_) => {}
        }
        match notice {
            Notice::Joined(name)
            | Notice::Updated(name)
            | Notice::Failed(name)
            | Notice::Left(name)
            | Notice::Reaped(name) => self.changed.push(name),
            // Nobody may listen.
            Notice::Event(event) => drop(self.events.send(event)),
            Notice::Warning(_) => {}
        }
    }

    /// Shows the outside what one step brought.
    pub(super) fn publish(&mut self, core: &Core) {
        self.vitals.store(Arc::new(vitals(core)));
        if self.changed.is_empty() {
            return;
        }
        let changed = std::mem::take(&mut self.changed);
        self.member_list.send_modify(|member_list| {
            for name in changed {
                match core.member(&name) {
                    Some(member) => member_list.insert(name, Arc::new(member)),
                    None => member_list.remove(&name),
                };
            }
        });
    }
}

fn vitals(core: &Core) -> Vitals {
    Vitals {
        counters: core.counters(),
        health_score: core.health_score(),
        updates: core.updates(),
        coordinate: *core.place().coordinate(),
        event_clock: core.event_clock(),
        places: core.places().clone(),
        is_disowned: core.is_disowned(),
    }
}
