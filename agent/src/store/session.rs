//! Lock holders: sessions, what ends them, and the lock-delay after they end.
//!
//! The lock-delay is part of the truth: key → until when it cannot be locked, in the time of the
//! commands. So it survives a change of leader, which it does not in the reference.

use std::borrow::Cow;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use super::scope::{ApplyContext, fold, fold_shared};
use super::{Found, Index, Scope, Timestamp};

/// A session's UUID in its usual text form.
pub type SessionId = Arc<str>;

/// The longest lock-delay that is honoured, whatever the session says.
const LOCK_DELAY_MAX_NS: u64 = 60_000_000_000;

/// Effect of a session's end on the keys that it locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Behavior {
    /// The locks are released, the keys stay.
    Release,
    /// The keys go.
    Delete,
}

/// One lock holder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Chosen by the proposer.
    pub id: SessionId,
    /// For people.
    pub name: String,
    /// The node it lives on and dies with.
    pub node: String,
    /// Nanoseconds; as given, capped at 60 s only when applied.
    pub lock_delay_ns: u64,
    /// Effect of its end on the keys that it locks.
    pub behavior: Behavior,
    /// As given by its user: `""` or a duration such as `"15s"`.
    pub ttl: String,
    /// Node checks it depends on.
    pub node_checks: Vec<String>,
    /// Service checks it depends on: `(id, namespace)`.
    pub service_checks: Vec<(String, String)>,
    /// Index of its creation.
    pub create_index: Index,
    /// Index of its last change.
    pub modify_index: Index,
}

impl Session {
    /// Ids of all checks it depends on, as spelt by its user.
    pub fn check_ids(&self) -> impl Iterator<Item = &str> {
        self.node_checks.iter().chain(self.service_checks.iter().map(|(id, _)| id)).map(|id| &**id)
    }

    /// Its lock-delay as it is applied, in whole milliseconds.
    fn lock_delay_ms(&self) -> u64 {
        self.lock_delay_ns.min(LOCK_DELAY_MAX_NS).div_ceil(1_000_000)
    }
}

/// The table of sessions.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    by_id: OrdMap<SessionId, Arc<Session>>,
    /// (node in look-up form, session).
    by_node: OrdSet<(Arc<str>, SessionId)>,
    /// (node, check, session), names in look-up form.
    by_check: OrdSet<(Arc<str>, Arc<str>, SessionId)>,
    /// Keys that cannot be locked yet.
    delays: OrdMap<Arc<str>, Timestamp>,
    /// The same by their end, so that what is over can be forgotten.
    delay_ends: OrdSet<(Timestamp, Arc<str>)>,
    /// Of the last change of any session.
    index: Index,
}

impl Sessions {
    /// One session by id.
    pub fn get(&self, id: &str) -> Found<Option<Arc<Session>>> {
        let key = canonical(id);
        let rows = self.by_id.get(&*key).cloned();
        Found { rows, index: self.index, scopes: vec![Scope::Session((&*key).into())] }
    }

    /// All sessions, by id.
    pub fn list(&self) -> Found<Vec<Arc<Session>>> {
        let rows = self.by_id.values().cloned().collect();
        Found { rows, index: self.index, scopes: vec![Scope::Sessions] }
    }

    /// The sessions of one node, by id.
    pub fn of_node(&self, node: &str) -> Found<Vec<Arc<Session>>> {
        let node: Arc<str> = fold(node).into();
        let rows = self.on(&node).filter_map(|id| self.by_id.get(&*id).cloned()).collect();
        Found { rows, index: self.index, scopes: vec![Scope::NodeSessions(node)] }
    }

    /// Until when `key` cannot be locked because its last holder was invalidated.
    pub fn lock_delay_until(&self, key: &str) -> Option<Timestamp> {
        self.delays.get(key).copied()
    }

    /// Index of the table: the index of every read of it.
    pub fn index(&self) -> Index {
        self.index
    }

    /// Number of sessions.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    fn on(&self, node: &Arc<str>) -> impl Iterator<Item = SessionId> {
        let from = (node.clone(), Arc::<str>::from(""));
        let node = node.clone();
        self.by_node.range(from..).take_while(move |(n, _)| *n == node).map(|(_, id)| id.clone())
    }
}

/// Writes.
impl Sessions {
    /// Puts a session whose node and checks were found good. An id that exists already is a
    /// repeated proposal: nothing changes.
    pub(super) fn create(&mut self, context: &mut ApplyContext, session: &Session) {
        let id: SessionId = canonical(&session.id).into();
        if self.by_id.contains_key(&id) {
            return;
        }
        self.index = self.index.max(context.index);
        context.touch(Scope::Sessions);
        context.touch(Scope::Session(id.clone()));
        context.touch(Scope::NodeSessions(fold(&session.node).into()));
        self.place(Session {
            id,
            create_index: context.index,
            modify_index: context.index,
            ..session.clone()
        });
    }

    /// Takes a session out; its keys are the caller's business.
    pub(super) fn remove(&mut self, context: &mut ApplyContext, id: &str) -> Option<Arc<Session>> {
        let session = self.by_id.remove(&*canonical(id))?;
        let node: Arc<str> = fold(&session.node).into();
        self.by_node.remove(&(node.clone(), session.id.clone()));
        for check in session.check_ids() {
            self.by_check.remove(&(node.clone(), fold(check).into(), session.id.clone()));
        }
        self.index = self.index.max(context.index);
        context.touch(Scope::Sessions);
        context.touch(Scope::Session(session.id.clone()));
        context.touch(Scope::NodeSessions(node));
        Some(session)
    }

    /// Sessions that live on a node.
    pub(super) fn ids_on(&self, node: &Arc<str>) -> Vec<SessionId> {
        self.on(node).collect()
    }

    /// Sessions that depend on a check; both names in look-up form.
    pub(super) fn ids_bound_to(&self, node: &Arc<str>, check: &Arc<str>) -> Vec<SessionId> {
        self.by_check
            .range((node.clone(), check.clone(), Arc::<str>::from(""))..)
            .take_while(|(n, c, _)| n == node && c == check)
            .map(|(_, _, id)| id.clone())
            .collect()
    }

    /// Keeps `key` unlockable for the session's lock-delay.
    pub(super) fn delay(&mut self, context: &ApplyContext, session: &Session, key: Arc<str>) {
        let delay = session.lock_delay_ms();
        if delay > 0 {
            self.place_delay(key, Timestamp(context.at.0.saturating_add(delay)));
        }
    }

    /// Forgets lock-delays that are over.
    pub(super) fn forget_delays(&mut self, at: Timestamp) {
        while let Some((end, key)) = self.delay_ends.get_min().cloned()
            && end <= at
        {
            self.delays.remove(&key);
            self.delay_ends.remove(&(end, key));
        }
    }

    /// Is `key` still kept from being locked?
    pub(super) fn delayed(&self, at: Timestamp, key: &str) -> bool {
        self.delays.get(key).is_some_and(|until| *until > at)
    }

    pub(super) fn raise(&mut self, floor: Index) {
        self.index = self.index.max(floor);
    }

    fn place(&mut self, session: Session) {
        let node: Arc<str> = fold(&session.node).into();
        self.by_node.insert((node.clone(), session.id.clone()));
        for check in session.check_ids() {
            self.by_check.insert((node.clone(), fold(check).into(), session.id.clone()));
        }
        self.by_id.insert(session.id.clone(), Arc::new(session));
    }

    fn place_delay(&mut self, key: Arc<str>, until: Timestamp) {
        if let Some(old) = self.delays.insert(key.clone(), until) {
            self.delay_ends.remove(&(old, key.clone()));
        }
        self.delay_ends.insert((until, key));
    }
}

/// Rows for snapshots.
impl Sessions {
    pub(super) fn rows(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.by_id.values()
    }

    pub(super) fn delays(&self) -> impl Iterator<Item = (&Arc<str>, &Timestamp)> {
        self.delays.iter()
    }

    pub(super) fn restore_session(&mut self, mut session: Session) {
        session.id = fold_shared(&session.id);
        self.place(session);
    }

    pub(super) fn restore_delay(&mut self, key: Arc<str>, until: Timestamp) {
        self.place_delay(key, until);
    }

    pub(super) fn restore_index(&mut self, index: Index) {
        self.index = index;
    }
}

/// Ids are compared as the reference's tables do: without regard to case.
pub(super) fn canonical(id: &str) -> Cow<'_, str> {
    fold(id)
}

/// Is `id` something that could be a session's id? The reference complains in these words.
pub(super) fn validate_id(id: &str) -> Result<(), Refusal> {
    if id.len() != 36 {
        return Err(Refusal::SessionId("UUID must be 36 characters".into()));
    }
    let hyphens = id.matches('-').count();
    if hyphens > 4 {
        let what = format!("UUID should have maximum of 4 \"-\"; got {hyphens}");
        return Err(Refusal::SessionId(what));
    }
    if !(id.len() - hyphens).is_multiple_of(2) {
        return Err(Refusal::SessionId("Input (without hyphens) must be even length".into()));
    }
    match id.chars().find(|c| *c != '-' && !c.is_ascii_hexdigit()) {
        None => Ok(()),
        Some(c) => {
            let what =
                format!("Invalid UUID: encoding/hex: invalid byte: U+{:04X} '{c}'", u32::from(c));
            Err(Refusal::SessionId(what))
        }
    }
}
