//! Bootstrap: servers that know of each other become a cluster.
//!
//! ```text
//!   enough alive? ─▶ smallest ID? ─no─▶ wait to be invited
//!                         │ yes
//!                         ▼
//!                 promise oneself ─▶ invite the others ─▶ all have promised ─▶ initialise, lead
//! ```
//!
//! Only the founder initialises, once, and only when every first member has promised itself to its
//! cluster (see `promise`). Whatever each server believes about who is there, a server is a first
//! member of one cluster only.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use openraft::Raft;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::raft::Error;
use crate::raft::machine::Machine;
use crate::raft::membership::known_servers::{KnownServer, KnownServers};
use crate::raft::membership::promise::{Acceptance, Invitation, Promise};
use crate::raft::transport::Network;
use crate::raft::types::{Server, ServerId, Types};
use crate::rpc::{self, Method};

/// Between attempts when nothing is heard of a change.
const RETRY: Duration = Duration::from_millis(100);

/// For one invitation.
pub(in crate::raft) const INVITATION_MAX: Duration = Duration::from_secs(1);

/// Handles that the tasks for membership need.
#[derive(Clone)]
pub(in crate::raft) struct Servers {
    pub(in crate::raft) raft: Raft<Types, Machine>,
    pub(in crate::raft) network: Network,
    pub(in crate::raft) server: Server,
    /// Number of servers that form the cluster; 0: another server forms it.
    pub(in crate::raft) expect: u32,
    /// The condition that bootstrap waits for, in words.
    pub(in crate::raft) waits_for: watch::Sender<String>,
}

impl Servers {
    /// Until this server takes part in a cluster: forms one when its turn comes.
    pub(in crate::raft) async fn form(&self, stop: CancellationToken) {
        let mut known_servers = self.network.known_servers.clone();
        let mut promises = self.network.promises.watch();
        loop {
            match self.raft.is_initialized().await {
                Ok(false) => {}
                Ok(true) => {
                    self.waits_for.send_replace(String::new());
                    return self.note_formed();
                }
                Err(_) => return,
            }
            let waiting = match self.found().await {
                Ok(waiting) => waiting,
                Err(error) => Some(format!("cannot form a cluster: {error}")),
            };
            if let Some(waiting) = waiting.filter(|waiting| *waiting != *self.waits_for.borrow()) {
                tracing::info!("{waiting}");
                self.waits_for.send_replace(waiting);
            }
            tokio::select! {
                Ok(()) = known_servers.changed() => {}
                Ok(()) = promises.changed() => {}
                () = tokio::time::sleep(RETRY) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Writes down that the cluster exists, once this server has heard of it.
    pub(in crate::raft) fn note_formed(&self) {
        let promises = &self.network.promises;
        let (cluster, founder) = match promises.now() {
            Some(Promise { formed: true, .. }) => return,
            Some(promise) => (promise.cluster, promise.founder),
            None => (Uuid::new_v4(), self.network.me),
        };
        if let Err(error) = promises.bind(cluster, founder, true) {
            tracing::error!("cannot write down that the cluster was formed: {error}");
        }
    }

    /// One attempt. Returns what it waits for, if anything.
    async fn found(&self) -> Result<Option<String>, Error> {
        let me = self.network.me;
        if self.expect == 0 {
            return Ok(Some("waiting to be invited by the leader of a cluster".to_owned()));
        }
        let members = {
            let known_servers = self.network.known_servers.borrow();
            match first_members(&known_servers, me, &self.server, self.expect) {
                Ok(members) => members,
                Err(waiting) => return Ok(Some(waiting)),
            }
        };
        let promises = &self.network.promises;
        let promise = promises.now();
        if let Some(promise) = promise.filter(|promise| promise.founder != me) {
            let founder = promise.founder;
            return Ok(Some(format!("promised to the cluster that server {founder} forms")));
        }
        let first = members.keys().next().copied();
        if first != Some(me) {
            let first = first.and_then(|first| members.get(&first));
            let name = first.map_or("another server", |server| &server.name);
            return Ok(Some(format!("waiting for {name} to form the cluster")));
        }
        let cluster = if let Some(promise) = promise {
            promise.cluster
        } else {
            let _deciding = promises.deciding.lock().await;
            if promises.now().is_some() {
                return Ok(None);
            }
            let cluster = Uuid::new_v4();
            promises.bind(cluster, me, false).map_err(Error::Storage)?;
            cluster
        };
        let others: BTreeSet<ServerId> = members.keys().copied().filter(|id| *id != me).collect();
        let invitation = Invitation {
            to: me,
            from: Some(me),
            asks: false,
            cluster,
            founder: me,
            formed: false,
            void: Vec::new(),
        };
        if let Err(waiting) = self.invite_all(&others, invitation).await {
            return Ok(Some(waiting));
        }
        let _deciding = promises.deciding.lock().await;
        if promises.now().map(|promise| promise.cluster) != Some(cluster) {
            return Ok(None);
        }
        tracing::info!(%cluster, "all {} servers are ready: forming the cluster", members.len());
        self.initialise(members, cluster).await?;
        Ok(None)
    }

    /// Makes a cluster of these servers, and leads it. The caller holds `deciding`.
    pub(in crate::raft) async fn initialise(
        &self,
        members: BTreeMap<ServerId, Server>,
        cluster: Uuid,
    ) -> Result<(), Error> {
        let internal = |error: &dyn std::fmt::Display| Error::Internal(error.to_string());
        let me = self.network.me;
        self.network.promises.bind(cluster, me, false).map_err(Error::Storage)?;
        self.raft.initialize(members).await.map_err(|error| internal(&error))?;
        self.network.promises.bind(cluster, me, true).map_err(Error::Storage)?;
        self.raft.trigger().elect(false).await.map_err(|error| internal(&error))
    }

    /// Invites all, until all have accepted. What a server is bound to is void once its founder
    /// has accepted: then it is asked again.
    pub(in crate::raft) async fn invite_all(
        &self,
        servers: &BTreeSet<ServerId>,
        mut invitation: Invitation,
    ) -> Result<(), String> {
        let mut accepted = BTreeSet::new();
        loop {
            let left = servers.difference(&accepted);
            let answers = join_all(left.map(|id| {
                let invitation = Invitation { to: *id, ..invitation.clone() };
                async move { (*id, self.invite(&invitation).await) }
            }));
            let mut refused = Vec::new();
            for (id, answer) in answers.await {
                match answer {
                    Ok(Acceptance::Accepted) => {
                        accepted.insert(id);
                    }
                    Ok(Acceptance::Bound(promise)) => refused.push((id, promise)),
                    Ok(Acceptance::Stranger(other)) => {
                        return Err(format!("server {other} answers at the address of {id}"));
                    }
                    Err(error) => return Err(format!("waiting for server {id}: {error}")),
                }
            }
            if refused.is_empty() {
                return Ok(());
            }
            let before = invitation.void.len();
            for (id, promise) in &refused {
                if promise.formed {
                    return Err(format!("server {id} already belongs to another cluster"));
                }
                // What it was told in this server's name is no plan of this server, or one given up.
                let given_up = accepted.contains(&promise.founder)
                    || (promise.founder == self.network.me
                        && promise.cluster != invitation.cluster);
                if given_up && !invitation.void.contains(&promise.cluster) {
                    invitation.void.push(promise.cluster);
                }
            }
            if invitation.void.len() == before {
                let (id, promise) = refused[0];
                let founder = promise.founder;
                return Err(format!(
                    "server {id} is promised to a cluster that server {founder} wants to form; if that server is gone for good, remove the data directory of {id}"
                ));
            }
        }
    }

    async fn invite(&self, invitation: &Invitation) -> Result<Acceptance, String> {
        let address = self.network.known_servers.borrow().address(invitation.to);
        let Some(address) = address else {
            return Err("its address is not known".to_owned());
        };
        let deadline = Instant::now() + INVITATION_MAX;
        let answer: Result<Acceptance, rpc::Error> =
            self.network.pool.call(address, Method::Form, invitation, deadline).await;
        answer.map_err(|error| error.to_string())
    }
}

/// The servers that are to form a cluster, or what is still missing, in words.
fn first_members(
    known_servers: &KnownServers,
    me: ServerId,
    server: &Server,
    expect: u32,
) -> Result<BTreeMap<ServerId, Server>, String> {
    let counts = |listed: &KnownServer| listed.expect == expect && !listed.bootstrap;
    let others = known_servers.alive().filter(|(id, listed)| *id != me && counts(listed));
    let mut ready: BTreeMap<ServerId, Server> = others
        .map(|(id, it)| (id, Server { name: it.name.clone(), address: it.address.to_string() }))
        .collect();
    ready.insert(me, server.clone());
    let wanted = usize::try_from(expect).unwrap_or(usize::MAX);
    if ready.len() >= wanted {
        // With more than enough all see the same few, and the rest joins later.
        return Ok(ready.into_iter().take(wanted).collect());
    }
    let mut missing = String::new();
    let away = known_servers.servers.iter().filter(|(id, _)| !ready.contains_key(id));
    for (_, listed) in away {
        missing = format!(
            "{missing}, {} ({:?}, expects {})",
            listed.name, listed.presence, listed.expect
        );
    }
    let names: Vec<&str> = ready.values().map(|server| &*server.name).collect();
    let known =
        if missing.is_empty() { String::new() } else { format!("; know of{}", &missing[1..]) };
    Err(format!(
        "waiting for {} of {expect} servers: have {}{known}",
        wanted - ready.len(),
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::membership::known_servers::Presence;

    fn listed(number: u64, expect: u32, presence: Presence) -> (ServerId, KnownServer) {
        let address = format!("127.0.0.1:{}", 8300 + number).parse().unwrap();
        let name = format!("s{number}");
        (number.into(), KnownServer { name, address, expect, bootstrap: false, presence })
    }

    #[test]
    fn members_are_the_first_that_wait_for_as_many() {
        use Presence::{Alive, Failed};
        let own = Server { name: "s2".to_owned(), address: "127.0.0.1:8302".to_owned() };
        let check = |servers: Vec<(ServerId, KnownServer)>, expected: Result<&[u64], &str>| {
            let known_servers = KnownServers { servers: servers.into_iter().collect() };
            let members = first_members(&known_servers, 2.into(), &own, 3);
            let members = members.map(|members| members.into_keys().collect::<Vec<_>>());
            let expected = expected
                .map(|ids| ids.iter().map(|id| ServerId::from(*id)).collect::<Vec<_>>())
                .map_err(str::to_owned);
            assert_eq!(members, expected);
        };
        check(vec![], Err("waiting for 2 of 3 servers: have s2"));
        check(
            vec![listed(1, 3, Alive), listed(3, 3, Failed), listed(4, 5, Alive)],
            Err(
                "waiting for 1 of 3 servers: have s1, s2; know of s3 (Failed, expects 3), s4 (Alive, expects 5)",
            ),
        );
        check(vec![listed(3, 3, Alive), listed(1, 3, Alive)], Ok(&[1, 2, 3]));
        let four = vec![listed(3, 3, Alive), listed(1, 3, Alive), listed(4, 3, Alive)];
        check(four, Ok(&[1, 2, 3]));
    }
}
