//! A model without secondary tables, which answers every question by looking at all rows, agrees
//! with the store after every command: in what is done, in what is refused, in the rows and in
//! the indexes of keys and prefixes, which it knows from the history of all changes.

use std::collections::{BTreeMap, BTreeSet};

use muster_agent::store::{
    Behavior, CatalogVerb, Change, Check, Command, Deregister, Entry, Index, KvChange, KvVerb,
    Node, Register, Reply, Service, Session, Store, TxnOp,
};
use proptest::prelude::*;

use crate::log::{KEYS, NODES, SERVICES, STATES, commands, replay};

/// A command was refused, or an operation of a transaction failed.
struct Refused;

type Outcome = Result<(), Refused>;

#[derive(Debug, Clone, Default)]
struct Model {
    index: Index,
    now: u64,
    nodes: BTreeMap<String, Node>,
    services: BTreeMap<(String, String), Service>,
    checks: BTreeMap<(String, String), Check>,
    keys: BTreeMap<String, Entry>,
    sessions: BTreeMap<String, Session>,
    /// Until when a key cannot be locked.
    delays: BTreeMap<String, u64>,
    /// Every change of a key.
    history: Vec<(Index, String)>,
}

fn low(name: &str) -> String {
    name.to_lowercase()
}

fn some(condition: bool) -> Outcome {
    if condition { Ok(()) } else { Err(Refused) }
}

impl Model {
    /// What the command answers: refused, or whether it was decided for it.
    fn apply(&mut self, index: Index, command: &Command) -> Result<bool, Refused> {
        (self.index, self.now) = (index, command.at.0);
        let before = self.clone();
        let outcome = self.change(&command.change);
        if outcome.is_err() {
            *self = before;
        }
        outcome
    }

    fn change(&mut self, change: &Change) -> Result<bool, Refused> {
        match change {
            Change::Register(register) => self.register(register)?,
            Change::Deregister(Deregister { node, service_id, check_id }) => {
                match (service_id, check_id) {
                    (Some(service), _) => self.remove_service(node, service),
                    (None, Some(check)) => self.remove_check(node, check),
                    (None, None) => self.remove_node(node),
                }
            }
            Change::Kv(change) => return self.write(change),
            Change::SessionCreate(session) => self.create_session(session)?,
            Change::SessionDestroy { id } => self.end_session(id),
            Change::Txn(ops) => return self.transact(ops),
            // None of these is part of what the model knows; a restore has a test of its own.
            Change::Noop
            | Change::TombstonesReap { .. }
            | Change::Autopilot(_)
            | Change::Acl(_)
            | Change::Restore(_) => {}
        }
        Ok(true)
    }

    fn register(&mut self, register: &Register) -> Outcome {
        let node = &register.node;
        let keep = register.skip_node_update && self.nodes.contains_key(&low(&node.name));
        if !keep {
            self.put_node(node)?;
        }
        if let Some(service) = &register.service {
            self.put_service(&node.name, service)?;
        }
        for check in &register.checks {
            some(check.node.is_empty() || check.node == node.name)?;
            self.put_check(&node.name, check)?;
        }
        Ok(())
    }

    fn put_node(&mut self, node: &Node) -> Outcome {
        if self.nodes.get(&low(&node.name)).is_some_and(|old| {
            (&old.id, &old.name, &old.address, &old.meta)
                == (&node.id, &node.name, &node.address, &node.meta)
        }) {
            return Ok(());
        }
        let mut created = self.nodes.get(&low(&node.name)).map(|old| old.create_index);
        if !node.id.is_empty() {
            let known = self.nodes.values().find(|other| other.id == node.id).cloned();
            let holder = self.nodes.get(&low(&node.name));
            if let Some(holder) = holder
                && known.as_ref().is_none_or(|known| known.name != node.name)
                && holder.id != node.id
                && (known.is_some() || !holder.id.is_empty())
            {
                let serf = self.checks.get(&(low(&node.name), "serfhealth".to_owned()));
                some(serf.is_none_or(|serf| serf.status == "critical"))?;
            }
            if let Some(known) = known {
                created = Some(known.create_index);
                if known.name != node.name {
                    self.remove_node(&known.name);
                }
            }
        }
        let row = Node {
            create_index: created.unwrap_or(self.index),
            modify_index: self.index,
            ..node.clone()
        };
        self.nodes.insert(low(&node.name), row);
        Ok(())
    }

    fn put_service(&mut self, node: &str, service: &Service) -> Outcome {
        let owner = self.nodes.get(&low(node)).ok_or(Refused)?;
        let id = if service.id.is_empty() { &service.name } else { &service.id };
        let mut row = Service { id: id.clone(), node: owner.name.clone(), ..service.clone() };
        let key = (low(node), low(id));
        let old = self.services.get(&key);
        row.create_index = old.map_or(self.index, |old| old.create_index);
        row.modify_index = self.index;
        if let Some(old) = old {
            let as_old =
                Service { modify_index: old.modify_index, node: old.node.clone(), ..row.clone() };
            if *old == as_old {
                return Ok(());
            }
        }
        self.services.insert(key, row);
        Ok(())
    }

    fn put_check(&mut self, node: &str, check: &Check) -> Outcome {
        some(self.nodes.contains_key(&low(node)))?;
        let mut row = Check { node: node.into(), ..check.clone() };
        if row.id.is_empty() {
            row.id = row.name.as_str().into();
        }
        if row.status.is_empty() {
            row.status = "critical".into();
        }
        if !row.service_id.is_empty() {
            let key = (low(node), low(&row.service_id));
            let service = self.services.get(&key).ok_or(Refused)?;
            row.service_name = service.name.to_string();
            row.service_tags.clone_from(&service.tags);
        }
        let key = (low(node), low(&row.id));
        let old = self.checks.get(&key);
        row.create_index = old.map_or(self.index, |old| old.create_index);
        row.modify_index = self.index;
        if old.is_some_and(|old| *old == Check { modify_index: old.modify_index, ..row.clone() }) {
            return Ok(());
        }
        if row.status == "critical" {
            self.end_sessions_bound_to(&key.0, &key.1);
        }
        self.checks.insert(key, row);
        Ok(())
    }

    fn remove_node(&mut self, node: &str) {
        if self.nodes.remove(&low(node)).is_none() {
            return;
        }
        self.services.retain(|key, _| key.0 != low(node));
        let checks: Vec<_> = self.checks.keys().filter(|key| key.0 == low(node)).cloned().collect();
        for (node, check) in checks {
            self.remove_check(&node, &check);
        }
        let on_it = |session: &&Session| low(&session.node) == low(node);
        let ids: Vec<_> = self.sessions.values().filter(on_it).map(|s| s.id.clone()).collect();
        for id in &ids {
            self.end_session(id);
        }
    }

    fn remove_service(&mut self, node: &str, id: &str) {
        if self.services.remove(&(low(node), low(id))).is_none() {
            return;
        }
        let its = |(key, check): &(&(String, String), &Check)| {
            key.0 == low(node) && low(&check.service_id) == low(id)
        };
        let checks: Vec<_> = self.checks.iter().filter(its).map(|(key, _)| key.clone()).collect();
        for (node, check) in checks {
            self.remove_check(&node, &check);
        }
    }

    fn remove_check(&mut self, node: &str, id: &str) {
        if self.checks.remove(&(low(node), low(id))).is_some() {
            self.end_sessions_bound_to(node, id);
        }
    }

    fn end_sessions_bound_to(&mut self, node: &str, check: &str) {
        let bound = |session: &&Session| {
            low(&session.node) == low(node) && session.check_ids().any(|id| low(id) == low(check))
        };
        let ids: Vec<_> = self.sessions.values().filter(bound).map(|s| s.id.clone()).collect();
        for id in &ids {
            self.end_session(id);
        }
    }

    fn create_session(&mut self, session: &Session) -> Outcome {
        some(self.nodes.contains_key(&low(&session.node)))?;
        for id in session.check_ids() {
            let check = self.checks.get(&(low(&session.node), low(id))).ok_or(Refused)?;
            some(check.status != "critical")?;
        }
        let (create_index, modify_index) = (self.index, self.index);
        let row =
            Session { id: low(&session.id).into(), create_index, modify_index, ..session.clone() };
        self.sessions.entry(low(&session.id)).or_insert(row);
        Ok(())
    }

    fn end_session(&mut self, id: &str) {
        let Some(session) = self.sessions.remove(&low(id)) else { return };
        let held: Vec<_> = self
            .keys
            .values()
            .filter(|entry| entry.session.as_deref() == Some(&*low(id)))
            .cloned()
            .collect();
        for entry in held {
            match session.behavior {
                Behavior::Release => self.put(Entry { session: None, ..entry.clone() }),
                Behavior::Delete => self.remove(&entry.key),
            }
            let delay = session.lock_delay_ns.min(60_000_000_000).div_ceil(1_000_000);
            if delay > 0 {
                self.delays.insert(entry.key.to_string(), self.now + delay);
            }
        }
    }

    /// Puts what differs from what is there.
    fn put(&mut self, mut entry: Entry) {
        let key = entry.key.to_string();
        if let Some(old) = self.keys.get(&key) {
            (entry.create_index, entry.modify_index) = (old.create_index, old.modify_index);
            if *old == entry {
                return;
            }
        } else {
            entry.create_index = self.index;
        }
        entry.modify_index = self.index;
        self.history.push((self.index, key.clone()));
        self.keys.insert(key, entry);
    }

    fn remove(&mut self, key: &str) {
        if self.keys.remove(key).is_some() {
            self.history.push((self.index, key.to_owned()));
        }
    }

    fn write(&mut self, change: &KvChange) -> Result<bool, Refused> {
        let key = &*change.key;
        some(!key.is_empty() || change.verb == KvVerb::DeleteTree)?;
        let old = self.keys.get(key).cloned();
        let modified = old.as_ref().map_or(0, |old| old.modify_index);
        let holder = old.as_ref().and_then(|old| old.session.clone());
        let taken = old.as_ref().map_or(0, |old| old.lock_index);
        let mut entry = Entry {
            key: key.into(),
            value: change.value.clone(),
            flags: change.flags,
            lock_index: 0,
            session: holder.clone(),
            create_index: 0,
            modify_index: 0,
        };
        match &change.verb {
            KvVerb::Set => self.put(entry),
            KvVerb::Cas(expected) if *expected == modified => self.put(entry),
            KvVerb::Delete => self.remove(key),
            KvVerb::DeleteCas(expected) if modified == 0 || *expected == modified => {
                self.remove(key);
            }
            KvVerb::DeleteTree => {
                let keys: Vec<_> =
                    self.keys.keys().filter(|other| other.starts_with(key)).cloned().collect();
                for key in &keys {
                    self.remove(key);
                }
            }
            KvVerb::Lock(_) if self.delays.get(key).is_some_and(|until| *until > self.now) => {
                return Ok(false);
            }
            KvVerb::Lock(session) => {
                some(session.len() == 36 && self.sessions.contains_key(&low(session)))?;
                match holder {
                    Some(holder) if *holder == *low(session) => entry.lock_index = taken,
                    Some(_) => return Ok(false),
                    None => entry.lock_index = taken + 1,
                }
                entry.session = Some(low(session).into());
                self.put(entry);
            }
            KvVerb::Unlock(session) => {
                some(!session.is_empty())?;
                if holder.as_deref() != Some(&*low(session)) {
                    return Ok(false);
                }
                self.put(Entry { session: None, lock_index: taken, ..entry });
            }
            KvVerb::Cas(_) | KvVerb::DeleteCas(_) => return Ok(false),
        }
        Ok(true)
    }

    fn transact(&mut self, ops: &[TxnOp]) -> Result<bool, Refused> {
        let mut failed = false;
        for op in ops {
            failed |= self.operate(op).is_err();
        }
        // Whether one or all failed makes no difference to what is left: nothing.
        some(!failed).map(|()| true)
    }

    fn operate(&mut self, op: &TxnOp) -> Outcome {
        let key = |key: &String| {
            some(!key.is_empty())?;
            self.keys.get(key).ok_or(Refused)
        };
        match op {
            TxnOp::Kv(change) => {
                let decided = self.write(change)?;
                some(decided)
            }
            TxnOp::KvGet(k) => key(k).map(|_| ()),
            TxnOp::KvGetOrEmpty(k) | TxnOp::KvGetTree(k) => some(!k.is_empty()),
            TxnOp::KvCheckIndex(k, index) => some(key(k)?.modify_index == *index),
            TxnOp::KvCheckSession(k, session) => {
                some(key(k)?.session.as_deref().unwrap_or("") == low(session))
            }
            TxnOp::KvCheckNotExists(k) => some(!k.is_empty() && !self.keys.contains_key(k)),
            TxnOp::Node(verb, row) => {
                let old = self.nodes.get(&low(&row.name)).map(|old| old.modify_index);
                match (verb, may(*verb, old, row.modify_index)?) {
                    (CatalogVerb::Get, ()) => some(if row.id.is_empty() {
                        old.is_some()
                    } else {
                        self.nodes.values().any(|node| node.id == row.id)
                    }),
                    (CatalogVerb::Set | CatalogVerb::Cas, ()) => self.put_node(row),
                    (CatalogVerb::Delete | CatalogVerb::DeleteCas, ()) => {
                        self.remove_node(&row.name);
                        Ok(())
                    }
                }
            }
            TxnOp::Service(verb, node, row) => {
                let id = wanted(*verb, &row.id, &row.name);
                let old = self.services.get(&(low(node), low(id))).map(|old| old.modify_index);
                match (verb, may(*verb, old, row.modify_index)?) {
                    (CatalogVerb::Get, ()) => some(old.is_some()),
                    (CatalogVerb::Set | CatalogVerb::Cas, ()) => self.put_service(node, row),
                    (CatalogVerb::Delete | CatalogVerb::DeleteCas, ()) => {
                        self.remove_service(node, id);
                        Ok(())
                    }
                }
            }
            TxnOp::Check(verb, row) => {
                let id = wanted(*verb, &row.id, &row.name);
                let old = self.checks.get(&(low(&row.node), low(id)));
                let old = old.map(|old| old.modify_index);
                match (verb, may(*verb, old, row.modify_index)?) {
                    (CatalogVerb::Get, ()) => some(old.is_some()),
                    (CatalogVerb::Set | CatalogVerb::Cas, ()) => self.put_check(&row.node, row),
                    (CatalogVerb::Delete | CatalogVerb::DeleteCas, ()) => {
                        self.remove_check(&row.node, id);
                        Ok(())
                    }
                }
            }
            TxnOp::SessionDelete(id) => {
                self.end_session(id);
                Ok(())
            }
            TxnOp::Unknown(_) => Err(Refused),
        }
    }

    /// The index of a prefix: of the newest change under it; of the newest at all if there was none.
    fn prefix_index(&self, prefix: &str) -> Index {
        let under = self.history.iter().filter(|(_, key)| key.starts_with(prefix));
        under.map(|(index, _)| *index).max().unwrap_or_else(|| self.last_change())
    }

    fn key_index(&self, key: &str) -> Index {
        self.keys.get(key).map_or_else(|| self.last_change(), |entry| entry.modify_index)
    }

    fn last_change(&self) -> Index {
        self.history.iter().map(|(index, _)| *index).max().unwrap_or(0)
    }
}

/// Only writes take a missing id from the name.
fn wanted<'a>(verb: CatalogVerb, id: &'a str, name: &'a str) -> &'a str {
    match verb {
        CatalogVerb::Get => id,
        _ if id.is_empty() => name,
        _ => id,
    }
}

/// May a compare-and-set go ahead?
fn may(verb: CatalogVerb, current: Option<Index>, expected: Index) -> Outcome {
    match verb {
        CatalogVerb::Cas => some(current.unwrap_or(0) == expected),
        CatalogVerb::DeleteCas => some(current == Some(expected)),
        _ => Ok(()),
    }
}

fn outcome(reply: &Reply) -> Option<bool> {
    match reply {
        Reply::Done => Some(true),
        Reply::Decided(decided) => Some(*decided),
        Reply::Txn { errors, .. } => errors.is_empty().then_some(true),
        Reply::Refused(_) => None,
    }
}

fn agree(model: &Model, store: &Store) -> Result<(), TestCaseError> {
    let catalog = store.catalog();
    let nodes: Vec<Node> = catalog.nodes().rows.iter().map(|row| (**row).clone()).collect();
    prop_assert_eq!(nodes, model.nodes.values().cloned().collect::<Vec<_>>());
    for node in NODES {
        let services = catalog
            .node_services(node)
            .rows
            .map(|(_, services)| services.iter().map(|row| (**row).clone()).collect::<Vec<_>>());
        let on_it = model.services.iter().filter(|(key, _)| key.0 == low(node));
        let expected =
            model.nodes.get(&low(node)).map(|_| on_it.map(|(_, row)| row.clone()).collect());
        prop_assert_eq!(services, expected);
        let checks: Vec<Check> =
            catalog.node_checks(node).rows.iter().map(|row| (**row).clone()).collect();
        let on_it = model.checks.iter().filter(|(key, _)| key.0 == low(node));
        prop_assert_eq!(checks, on_it.map(|(_, row)| row.clone()).collect::<Vec<_>>());
    }
    for name in SERVICES {
        let instances = catalog.instances(name).rows;
        let mut expected = Vec::new();
        for ((node, id), service) in &model.services {
            if low(&service.name) == low(name) {
                let of = |bears: &str| {
                    model
                        .checks
                        .iter()
                        .filter(|(key, check)| key.0 == *node && low(&check.service_id) == bears)
                        .map(|(_, check)| check.clone())
                        .collect::<Vec<_>>()
                };
                expected.push((&model.nodes[node], service, [of(""), of(id)].concat()));
            }
        }
        prop_assert_eq!(instances.len(), expected.len());
        for (instance, (node, service, checks)) in instances.iter().zip(expected) {
            prop_assert_eq!(&*instance.node, node);
            prop_assert_eq!(&*instance.service, service);
            let own: Vec<Check> = instance.checks.iter().map(|check| (**check).clone()).collect();
            prop_assert_eq!(own, checks);
        }
        let checks = catalog.service_checks(name).rows;
        let named = model.checks.values().filter(|check| low(&check.service_name) == low(name));
        prop_assert!(checks.iter().map(|check| &**check).eq(named));
    }
    for state in STATES {
        let checks = catalog.checks_in_state(state).rows;
        let such = model.checks.values().filter(|check| check.status == state);
        prop_assert!(checks.iter().map(|check| &**check).eq(such));
    }
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for service in model.services.values() {
        names.entry(service.name.to_string()).or_default().extend(service.tags.clone());
    }
    for services in [catalog.all_services().rows, catalog.services(&|_| true).rows] {
        let services: BTreeMap<String, BTreeSet<String>> = services
            .into_iter()
            .map(|(name, tags)| (name.to_string(), tags.into_iter().collect()))
            .collect();
        prop_assert_eq!(&services, &names);
    }

    let kv = store.kv();
    for key in KEYS {
        let found = kv.get(key);
        prop_assert_eq!(found.rows.as_deref(), model.keys.get(key), "key {}", key);
        prop_assert_eq!(found.index, model.key_index(key), "index of key {}", key);
        let listed = kv.list(key);
        let under = model.keys.values().filter(|entry| entry.key.starts_with(key));
        prop_assert!(listed.rows.iter().map(|entry| &**entry).eq(under));
        prop_assert_eq!(listed.index, model.prefix_index(key), "index under {}", key);
        let mut cut: Vec<String> = Vec::new();
        for entry in &listed.rows {
            let beyond = &entry.key[key.len()..];
            let end = beyond.find('/').map_or(beyond.len(), |at| at + 1);
            cut.push(entry.key[..key.len() + end].to_owned());
        }
        cut.dedup();
        prop_assert!(
            kv.keys(key, "/").rows.iter().map(|key| &**key).eq(cut.iter().map(|key| &**key))
        );
    }
    let sessions = store.sessions().list().rows;
    prop_assert!(sessions.iter().map(|session| &**session).eq(model.sessions.values()));
    for node in NODES {
        let sessions = store.sessions().of_node(node).rows;
        let on_it = model.sessions.values().filter(|session| low(&session.node) == low(node));
        prop_assert!(sessions.iter().map(|session| &**session).eq(on_it));
    }
    for (key, until) in &model.delays {
        if *until > model.now {
            let known = store.sessions().lock_delay_until(key).map(|until| until.0);
            prop_assert_eq!(known, Some(*until), "lock-delay of {}", key);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    #[test]
    fn after_every_command(mut commands in commands(40)) {
        // The model remembers all history, and knows no access control; reaping and that have tests of their own.
        let other = |change: &Change| matches!(change, Change::TombstonesReap { .. } | Change::Acl(_));
        commands.retain(|command| !other(&command.change));
        let mut model = Model::default();
        for (command, (store, applied)) in commands.iter().zip(replay(&commands)) {
            let expected = model.apply(store.index(), command).ok();
            prop_assert_eq!(outcome(&applied.reply), expected, "{:?}: {:?}", command, &applied.reply);
            agree(&model, &store)?;
        }
    }
}
