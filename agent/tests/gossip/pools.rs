//! Pools over real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use muster_agent::gossip::{
    self, Keyring, Members, Order, Pools, Settings, Status, Timing, UserEvent,
};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// No single thing in these tests takes longer, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Agent {
    pub(crate) members: Members,
    stop: CancellationToken,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn settings(name: &str, dc: &str, keys: &[Vec<u8>]) -> Settings {
    let quick = Duration::from_millis(100);
    Settings {
        bind: "127.0.0.1:0".parse().unwrap(),
        advertise: "127.0.0.1:0".parse().unwrap(),
        name: name.into(),
        id: Uuid::new_v4(),
        tags: [("dc", dc), ("role", "node")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        timing: Timing {
            gossip_interval: quick,
            probe_interval: 2 * quick,
            probe_timeout: quick,
            exchange_interval: Duration::from_secs(2),
            ..Timing::default()
        },
        keyring: Keyring::new(keys).unwrap(),
        keyring_file: None,
        allowed: Vec::new(),
        connections_max: 64,
    }
}

pub(crate) async fn start(settings: Settings) -> Agent {
    let stop = CancellationToken::new();
    let (members, run) = gossip::start(settings, stop.clone()).await.unwrap();
    tokio::spawn(run);
    Agent { members, stop }
}

pub(crate) async fn pool(count: usize, keys: &[Vec<u8>]) -> Vec<Agent> {
    let mut agents = Vec::new();
    for number in 0..count {
        agents.push(start(settings(&format!("n{number}"), "dc1", keys)).await);
    }
    let first = agents[0].members.address();
    for agent in &agents[1..] {
        agent.members.join(first).await.unwrap();
    }
    for agent in &agents {
        until(agent, |members| members.live() == count).await;
    }
    agents
}

pub(crate) async fn until(agent: &Agent, done: impl Fn(&Members) -> bool) {
    let mut member_list = agent.members.watch();
    let waited = tokio::time::timeout(PATIENCE, async {
        while !done(&agent.members) {
            member_list.changed().await.unwrap();
        }
    });
    waited.await.expect("it comes to be in time");
}

pub(crate) fn sees(members: &Members, name: &str) -> Option<Status> {
    members.member_list().get(name).map(|member| member.status)
}

#[tokio::test]
async fn members_find_each_other_die_and_leave() {
    let mut agents = pool(4, &[]).await;
    let failed = agents.remove(3);
    failed.stop.cancel();
    until(&agents[0], |members| sees(members, "n3") == Some(Status::Failed)).await;
    agents[2].members.leave().await;
    until(&agents[0], |members| sees(members, "n2") == Some(Status::Left)).await;
    assert!(agents[0].members.force_leave("n3", false).await.unwrap());
    until(&agents[1], |members| sees(members, "n3") == Some(Status::Left)).await;
    assert!(!agents[0].members.force_leave("nobody", false).await.unwrap());
    let tags = [("dc", "dc1"), ("role", "x")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    agents[1].members.set_tags(tags.into()).await.unwrap();
    until(&agents[0], |members| members.member_list()["n1"].tag("role") == Some("x")).await;
}

#[tokio::test]
async fn what_cannot_be_one_pool_stays_apart() {
    let (here, there) =
        (start(settings("a", "dc1", &[])).await, start(settings("b", "dc2", &[])).await);
    let error = there.members.join(here.members.address()).await.unwrap_err();
    assert_eq!(error, "Member 'a' part of wrong datacenter 'dc1'");
    let twin =
        Settings { id: here.members.member_list()["a"].details.id, ..settings("c", "dc1", &[]) };
    let twin = start(twin).await;
    let error = twin.members.join(here.members.address()).await.unwrap_err();
    assert!(error.contains("has conflicting node ID"), "{error}");
    // Nor is one let in that has the id of a third, whose name is not its.
    let third = start(settings("third", "dc1", &[])).await;
    third.members.join(here.members.address()).await.unwrap();
    let id = third.members.member_list()["third"].details.id;
    let other = start(Settings { id, ..settings("fourth", "dc1", &[]) }).await;
    let error = other.members.join(here.members.address()).await.unwrap_err();
    assert!(error.contains("has conflicting node ID"), "{error}");
    assert!(here.members.member_list().get("fourth").is_none());
    third.members.leave().await;
    until(&here, |members| sees(members, "third") == Some(Status::Left)).await;
    let sealed = start(settings("d", "dc1", &[vec![1; 16]])).await;
    assert!(sealed.members.join(here.members.address()).await.is_err());
    assert!(here.members.join(sealed.members.address()).await.is_err());
    for agent in [&here, &there, &twin, &sealed, &other] {
        assert_eq!(agent.members.live(), 1);
    }
    assert!(sealed.members.stats().dropped() > 0);
}

/// Of a segment of the network; servers are the same agent in all of theirs.
fn in_segment(segment: &str, role: &str, base: &Settings) -> Settings {
    let mut settings = base.clone();
    settings.tags.insert("segment".into(), segment.into());
    settings.tags.insert("role".into(), role.into());
    settings
}

/// A server in the default segment and in `alpha`.
async fn server(name: &str, stop: &CancellationToken) -> Pools {
    let base = settings(name, "dc1", &[]);
    let mut pools = Vec::new();
    for segment in ["", "alpha"] {
        let (members, run) =
            gossip::start(in_segment(segment, "consul", &base), stop.clone()).await.unwrap();
        tokio::spawn(run);
        pools.push(members);
    }
    let (pools, run) = Pools::of(pools.remove(0), pools, stop.clone());
    tokio::spawn(run);
    pools
}

#[tokio::test]
async fn segments_stay_apart_and_servers_know_all_of_them() {
    let stop = CancellationToken::new();
    let servers = [server("s0", &stop).await, server("s1", &stop).await];
    for segment in ["", "alpha"] {
        let first = servers[0].segment(segment).unwrap().address();
        servers[1].segment(segment).unwrap().join(first).await.unwrap();
    }
    let client = async |name: &str, segment: &str, server: &Pools| {
        let base = settings(name, "dc1", &[]);
        let agent = start(in_segment(segment, "node", &base)).await;
        agent.members.join(server.segment(segment).unwrap().address()).await.unwrap();
        agent
    };
    let alpha = client("in-alpha", "alpha", &servers[0]).await;
    let home = client("at-home", "", &servers[1]).await;
    for agent in [&alpha, &home] {
        until(agent, |members| members.live() == 3).await;
    }
    for pools in &servers {
        let mut member_list = pools.watch();
        let whole = member_list.wait_for(|member_list| member_list.len() == 4);
        let whole = tokio::time::timeout(PATIENCE, whole).await.unwrap().unwrap();
        // A server is what the default segment says of it.
        let tag = |name: &str| whole[name].tag("segment");
        assert_eq!(
            (tag("s0"), tag("at-home"), tag("in-alpha")),
            (Some(""), Some(""), Some("alpha"))
        );
    }

    // Whoever fires an event, everybody hears it once.
    let mut ears: Vec<_> = servers.iter().map(Pools::events).collect();
    ears.extend([&alpha, &home].map(|agent| agent.members.events()));
    let event = |name: &str| UserEvent {
        id: Uuid::new_v4(),
        ltime: 0,
        name: name.into(),
        payload: bytes::Bytes::new(),
        filters: [const { String::new() }; 3],
    };
    for (from, name) in [(&alpha, "one"), (&home, "two")] {
        from.members.fire(event(name)).await.unwrap();
        for ear in &mut ears {
            let heard = tokio::time::timeout(PATIENCE, ear.recv()).await.unwrap().unwrap();
            assert_eq!(heard.name, name);
        }
    }
    servers[1].fire(event("three")).await.unwrap();
    for ear in &mut ears {
        let heard = tokio::time::timeout(PATIENCE, ear.recv()).await.unwrap().unwrap();
        assert_eq!(heard.name, "three");
        assert!(ear.is_empty());
    }

    // Who comes to the wrong place is told which one it is, by either side.
    let stray = start(in_segment("beta", "node", &settings("stray", "dc1", &[]))).await;
    let there = servers[0].segment("alpha").unwrap().address();
    let error = stray.members.join(there).await.unwrap_err();
    assert_eq!(error, "Member 's0' part of wrong segment 'alpha' (expected 'beta')");
    let error = servers[0].own().join(stray.members.address()).await.unwrap_err();
    assert_eq!(error, "Member 'stray' part of wrong segment 'beta' (expected '')");
    assert_eq!(stray.members.live(), 1);

    // Whoever goes is gone for the servers, and the other segment has never heard of it.
    alpha.stop.cancel();
    for pools in &servers {
        let mut member_list = pools.watch();
        let is_gone =
            |member_list: &gossip::MemberList| member_list["in-alpha"].status == Status::Failed;
        tokio::time::timeout(PATIENCE, member_list.wait_for(is_gone)).await.unwrap().unwrap();
    }
    assert!(home.members.member_list().get("in-alpha").is_none());
    assert!(servers[0].force_leave("in-alpha", true).await.unwrap());
    for pools in &servers {
        let mut member_list = pools.watch();
        let is_forgotten = |member_list: &gossip::MemberList| member_list.get("in-alpha").is_none();
        tokio::time::timeout(PATIENCE, member_list.wait_for(is_forgotten)).await.unwrap().unwrap();
    }
    // Leaving says good-bye everywhere.
    servers[1].leave().await;
    until(&home, |members| sees(members, "s1") == Some(Status::Left)).await;
    let rest = servers[0].segment("alpha").unwrap();
    let mut member_list = rest.watch();
    let has_left = |member_list: &gossip::MemberList| member_list["s1"].status == Status::Left;
    tokio::time::timeout(PATIENCE, member_list.wait_for(has_left)).await.unwrap().unwrap();
    stop.cancel();
}

#[tokio::test]
async fn who_has_too_much_to_say_of_itself_does_not_start() {
    let mut long = settings("long", "dc1", &[]);
    long.tags.insert("sl_alpha".into(), "x".repeat(2000));
    let error = gossip::start(long, CancellationToken::new()).await.err().unwrap().to_string();
    assert!(error.contains("a datagram has room for"), "{error}");
}

#[tokio::test]
async fn garbage_is_counted_and_dropped() {
    let agents = pool(2, &[vec![9; 32]]).await;
    let to: SocketAddr = agents[0].members.address();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let before = agents[0].members.stats().dropped();
    let garbage: [&[u8]; 5] = [b"", b"\x01", b"\x05short", b"\x01\x05\xff\xff\xff", &[5; 1400]];
    for bytes in garbage {
        socket.send_to(bytes, to).await.unwrap();
    }
    let counted = tokio::time::timeout(PATIENCE, async {
        while agents[0].members.stats().dropped() - before < 5 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    counted.await.expect("each is counted");
    assert_eq!(agents[0].members.live(), 2);
}

#[tokio::test]
async fn keys_are_rotated_under_way() {
    let (old, new) = (vec![1; 16], vec![2; 32]);
    let agents = pool(3, std::slice::from_ref(&old)).await;
    for order in [Order::Install(new.clone()), Order::Use(new.clone()), Order::Remove(old.clone())]
    {
        let reports = agents[1].members.order_keys(&order).await;
        assert_eq!(reports.len(), 3);
        assert!(reports.iter().all(|(_, report)| report.error.is_empty()), "{reports:?}");
    }
    assert!(agents.iter().all(|agent| agent.members.keyring().keys() == [new.clone()]));
    // Who has only the old key is not heard any more.
    let late = start(settings("late", "dc1", &[old])).await;
    assert!(late.members.join(agents[0].members.address()).await.is_err());
    let newer = start(settings("newer", "dc1", &[new])).await;
    newer.members.join(agents[0].members.address()).await.unwrap();
    for agent in &agents {
        until(agent, |members| members.live() == 4).await;
        assert!(agent.members.member_list().values().all(|it| it.status == Status::Alive));
    }
}

#[tokio::test]
async fn events_reach_everybody() {
    let agents = pool(3, &[]).await;
    let mut ears: Vec<_> = agents.iter().map(|agent| agent.members.events()).collect();
    let event = UserEvent {
        id: Uuid::new_v4(),
        ltime: 0,
        name: "deploy".into(),
        payload: bytes::Bytes::from_static(b"v42"),
        filters: ["n.*".into(), String::new(), String::new()],
    };
    agents[1].members.fire(event.clone()).await.unwrap();
    for ear in &mut ears {
        let heard = tokio::time::timeout(PATIENCE, ear.recv()).await.unwrap().unwrap();
        assert_eq!(
            (heard.id, &heard.payload, &heard.filters),
            (event.id, &event.payload, &event.filters)
        );
        assert!(heard.ltime > 0);
    }
}
