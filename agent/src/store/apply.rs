//! One command against the whole store.

use super::refusal::Refusal;
use super::scope::ApplyContext;
use super::session::{canonical, validate_id};
use super::{
    Applied, Behavior, Change, Command, Deregister, Index, KvChange, KvVerb, Reply, Session, Store,
    txn,
};

impl Store {
    /// Applies one committed command. Deterministic and total: whatever the command says, the
    /// answer is a reply, and a refused command changes nothing.
    ///
    /// `position` is the entry's place in the log; the answer says its index as clients see it.
    pub fn apply(&mut self, position: Index, command: &Command) -> Applied {
        self.forget_staging(command.at);
        let index = self.index_of(position);
        self.index = self.index.max(index);
        let mut context = ApplyContext::new(index, command.at);
        match self.change(&mut context, &command.change) {
            Ok(reply) => Applied { reply, index: context.index, touched: context.into_touched() },
            Err(refusal) => {
                Applied { reply: Reply::Refused(refusal.to_string()), index, touched: Vec::new() }
            }
        }
    }

    fn change(&mut self, context: &mut ApplyContext, change: &Change) -> Result<Reply, Refusal> {
        match change {
            Change::Noop => {}
            Change::Register(register) => {
                // The copy costs a few pointers; a refusal half-way puts it back.
                let before = self.catalog.clone();
                if let Err(refusal) = self.catalog.register(context, register) {
                    self.catalog = before;
                    return Err(refusal);
                }
                self.end_orphaned_sessions(context);
            }
            Change::Deregister(deregister) => {
                self.deregister(context, deregister)?;
                self.end_orphaned_sessions(context);
            }
            Change::Kv(change) => return self.change_key(context, change),
            Change::SessionCreate(session) => self.create_session(context, session)?,
            Change::SessionDestroy { id } => self.end_session(context, id),
            Change::Txn(ops) => return Ok(txn::apply(self, context, ops)),
            Change::TombstonesReap { up_to } => self.kv.reap(*up_to),
            Change::Autopilot(change) => return Ok(self.set_autopilot(context, change)),
            Change::Acl(change) => self.acl.change(context, change)?,
            Change::Restore(restore) => self.restore(context, restore)?,
        }
        Ok(Reply::Done)
    }

    fn deregister(&mut self, context: &mut ApplyContext, what: &Deregister) -> Result<(), Refusal> {
        if what.node.is_empty() {
            return Err(Refusal::NodeNameMissing);
        }
        match (&what.service_id, &what.check_id) {
            (Some(service), _) => self.catalog.remove_service(context, &what.node, service),
            (None, Some(check)) => self.catalog.remove_check(context, &what.node, check),
            (None, None) => self.catalog.remove_node(context, &what.node),
        };
        Ok(())
    }

    /// One write to the key-value table; `Decided` where it can be lost.
    pub(super) fn change_key(
        &mut self,
        context: &mut ApplyContext,
        change: &KvChange,
    ) -> Result<Reply, Refusal> {
        let KvChange { verb, key, value, flags } = change;
        if key.is_empty() && *verb != KvVerb::DeleteTree {
            return Err(Refusal::KeyMissing);
        }
        let decided = match verb {
            KvVerb::Set => {
                self.kv.set(context, key, value, *flags);
                return Ok(Reply::Done);
            }
            KvVerb::Delete => {
                self.kv.delete(context, key);
                return Ok(Reply::Done);
            }
            KvVerb::DeleteTree => {
                self.kv.delete_tree(context, key);
                return Ok(Reply::Done);
            }
            KvVerb::Cas(expected) => self.kv.cas(context, key, value, *flags, *expected),
            KvVerb::DeleteCas(expected) => self.kv.delete_cas(context, key, *expected),
            KvVerb::Lock(session) => {
                self.sessions.forget_delays(context.at);
                if self.sessions.delayed(context.at, key) {
                    return Ok(Reply::Decided(false));
                }
                if session.is_empty() {
                    return Err(Refusal::SessionMissing);
                }
                validate_id(session)?;
                let Some(holder) = self.sessions.get(session).rows else {
                    return Err(Refusal::SessionUnknown(session.to_string()));
                };
                self.kv.lock(context, key, value, *flags, &holder.id)
            }
            KvVerb::Unlock(session) => {
                if session.is_empty() {
                    return Err(Refusal::SessionMissing);
                }
                self.kv.unlock(context, key, value, *flags, &canonical(session))
            }
        };
        Ok(Reply::Decided(decided))
    }

    fn create_session(
        &mut self,
        context: &mut ApplyContext,
        session: &Session,
    ) -> Result<(), Refusal> {
        if self.catalog.node_named(&session.node).is_none() {
            return Err(Refusal::MissingNode);
        }
        for id in session.check_ids() {
            match self.catalog.node_check(&session.node, id) {
                None => return Err(Refusal::MissingCheck(id.to_owned())),
                Some(check) if check.status == "critical" => {
                    return Err(Refusal::CriticalCheck(id.to_owned()));
                }
                Some(_) => {}
            }
        }
        self.sessions.create(context, session);
        Ok(())
    }

    /// Ends a session, if there is one: its locks are released or their keys deleted, and either
    /// way those keys cannot be locked for the session's lock-delay.
    pub(super) fn end_session(&mut self, context: &mut ApplyContext, id: &str) {
        self.sessions.forget_delays(context.at);
        let Some(session) = self.sessions.remove(context, id) else { return };
        for key in self.kv.held_by(&session.id) {
            match session.behavior {
                Behavior::Release => self.kv.release(context, &key),
                Behavior::Delete => self.kv.delete(context, &key),
            }
            self.sessions.delay(context, &session, key);
        }
    }

    /// Ends the sessions whose checks fell or whose nodes went in this step.
    pub(super) fn end_orphaned_sessions(&mut self, context: &mut ApplyContext) {
        let mut orphans = std::collections::BTreeSet::new();
        for (node, check) in std::mem::take(&mut context.fallen_checks) {
            orphans.extend(self.sessions.ids_bound_to(&node, &check));
        }
        for node in std::mem::take(&mut context.gone_nodes) {
            orphans.extend(self.sessions.ids_on(&node));
        }
        for id in orphans {
            self.end_session(context, &id);
        }
    }
}
