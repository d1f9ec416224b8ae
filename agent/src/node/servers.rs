//! Feeds raft with the servers that gossip knows.

use std::net::SocketAddr;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::start::start_part;
use crate::config::Config;
use crate::gossip::{Member, MemberList, Members, Status};
use crate::raft::types::ServerId;
use crate::raft::{Consensus, KnownServer, KnownServers, Links, Presence};
use crate::rpc::Pool;
use crate::upstream::Server;

/// Connections of this server to the others.
pub(super) fn links(
    config: &Config,
    members: &Members,
    tasks: &mut JoinSet<&'static str>,
    shutdown: &CancellationToken,
) -> Links {
    let expect = if config.dev || config.bootstrap { 1 } else { config.bootstrap_expect };
    let known_servers = among(members, ("roster", servers), config, tasks, shutdown);
    Links { pool: Pool::default(), known_servers, expect }
}

/// Follows what `look` derives from the members of this datacenter; `name` is the part that follows.
pub(super) fn among<T: Clone + PartialEq + Send + Sync + 'static>(
    members: &Members,
    (name, look): (&'static str, fn(&MemberList, &str) -> T),
    config: &Config,
    tasks: &mut JoinSet<&'static str>,
    shutdown: &CancellationToken,
) -> watch::Receiver<T> {
    let (tell, seen) = watch::channel(look(&members.member_list(), &config.datacenter));
    let (mut member_list, datacenter) = (members.watch(), config.datacenter.clone());
    let stop = shutdown.child_token();
    start_part(tasks, name, async move {
        loop {
            let found = look(&member_list.borrow_and_update(), &datacenter);
            tell.send_if_modified(|known| {
                let is_other = *known != found;
                if is_other {
                    *known = found;
                }
                is_other
            });
            tokio::select! {
                () = stop.cancelled() => return,
                changed = member_list.changed() => if changed.is_err() {
                    // The pool is being left; the servers stay what they are.
                    return stop.cancelled().await;
                },
            }
        }
    });
    seen
}

/// The server that leads, as requests for the leader are passed on to it. That may come to be this one while requests
/// wait for the next leader: it answers them as if another server had passed them on.
pub(super) fn leader(
    consensus: &Consensus,
    tasks: &mut JoinSet<&'static str>,
    shutdown: &CancellationToken,
) -> watch::Receiver<Vec<Server>> {
    let (tell, known) = watch::channel(Vec::new());
    let (consensus, stop) = (consensus.clone(), shutdown.child_token());
    start_part(tasks, "leader's address", async move {
        let mut leader: Option<String> = None;
        loop {
            let address = leader.as_deref().and_then(|address| address.parse().ok());
            let server = address.map(|address| Server { name: "the leader".to_owned(), address });
            tell.send_replace(server.into_iter().collect());
            tokio::select! {
                now = consensus.leader_other_than(leader.as_deref()) => leader = now,
                () = stop.cancelled() => return,
            }
        }
    });
    known
}

/// The servers of a datacenter.
fn servers(member_list: &MemberList, datacenter: &str) -> KnownServers {
    let mut members: Vec<_> =
        member_list.values().filter(|member| member.tag("dc") == Some(datacenter)).collect();
    // A server that goes by another name now is still known by its old one: what it is now counts.
    let life = |member: &Member| {
        let is_there = matches!(member.status, Status::Alive | Status::Leaving);
        (is_there, member.details.incarnation)
    };
    members.sort_by_key(|member| life(member));
    KnownServers { servers: members.into_iter().filter_map(|member| listed(member)).collect() }
}

/// A member that is a server, as agreement needs it.
fn listed(member: &Member) -> Option<(ServerId, KnownServer)> {
    if !member.is_server() {
        return None;
    }
    let details = &member.details;
    let port = member.tag("port")?.parse().ok()?;
    let bootstrap = member.tag("bootstrap").is_some();
    let expect = member.tag("expect").and_then(|text| text.parse().ok()).unwrap_or(0);
    let listed = KnownServer {
        name: details.name.to_string(),
        address: SocketAddr::new(details.address.ip(), port),
        expect,
        bootstrap,
        presence: match member.status {
            Status::Alive | Status::Leaving => Presence::Alive,
            Status::Failed => Presence::Failed,
            Status::Left => Presence::Left,
        },
    };
    Some((ServerId(details.id), listed))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::gossip::Details;

    fn member(name: &str, status: Status, tags: &[(&str, &str)]) -> Arc<Member> {
        let tags: BTreeMap<String, String> =
            tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let details = Details {
            name: name.into(),
            id: Uuid::from_u128(name.len() as u128),
            address: "127.0.0.9:8301".parse().unwrap(),
            incarnation: 1,
            tags,
        };
        Arc::new(Member { details: Arc::new(details), status, conflict: None })
    }

    #[test]
    fn a_server_with_two_names_is_what_it_is_under_the_living_one() {
        use Status::{Alive, Failed, Left};
        let server = [("role", "consul"), ("dc", "dc1"), ("port", "8300")];
        // (status, incarnation) under `aa` and under `bb`, and whose name the one server has.
        for (first, second, expected) in [
            ((Failed, 1), (Alive, 2), "bb"),
            ((Left, 1), (Alive, 2), "bb"),
            ((Alive, 2), (Failed, 1), "aa"),
            ((Alive, 2), (Left, 9), "aa"),
            ((Alive, 2), (Alive, 1), "aa"),
            ((Left, 2), (Failed, 1), "aa"),
        ] {
            let named = |name: &str, (status, incarnation)| {
                let member = Member::clone(&member(name, status, &server));
                let details = Details { incarnation, ..Details::clone(&member.details) };
                (details.name.clone(), Arc::new(Member { details: Arc::new(details), ..member }))
            };
            let member_list: MemberList =
                [named("aa", first), named("bb", second)].into_iter().collect();
            let known_servers = servers(&member_list, "dc1");
            let names: Vec<_> =
                known_servers.servers.values().map(|listed| &*listed.name).collect();
            assert_eq!(names, [expected], "{first:?} {second:?}");
        }
    }

    #[test]
    fn members_become_servers_by_their_tags() {
        let server = [("role", "consul"), ("dc", "dc1"), ("port", "8300"), ("expect", "3")];
        let member_list: MemberList = [
            member("a", Status::Alive, &server),
            member("bb", Status::Left, &server[..3]),
            member("ccc", Status::Alive, &[("role", "node"), ("dc", "dc1")]),
            member("dddd", Status::Alive, &[("role", "consul"), ("dc", "dc2"), ("port", "8300")]),
        ]
        .into_iter()
        .map(|member| (member.details.name.clone(), member))
        .collect();
        let known_servers = servers(&member_list, "dc1");
        let found: Vec<_> = known_servers.servers.values().collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].expect, found[0].presence), (3, Presence::Alive));
        assert_eq!(found[0].address, "127.0.0.9:8300".parse().unwrap());
        assert_eq!((found[1].expect, found[1].presence), (0, Presence::Left));
    }
}
