//! Pools over real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use muster_agent::gossip::{self, Keyring, Members, Order, Settings, Status, Timing, UserEvent};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// No single thing in these tests takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Agent {
    members: Members,
    stop: CancellationToken,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn settings(name: &str, dc: &str, keys: &[Vec<u8>]) -> Settings {
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
    }
}

async fn start(settings: Settings) -> Agent {
    let stop = CancellationToken::new();
    let (members, run) = gossip::start(settings, stop.clone()).await.unwrap();
    tokio::spawn(run);
    Agent { members, stop }
}

async fn pool(count: usize, keys: &[Vec<u8>]) -> Vec<Agent> {
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

async fn until(agent: &Agent, done: impl Fn(&Members) -> bool) {
    let mut roll = agent.members.watch();
    let waited = tokio::time::timeout(PATIENCE, async {
        while !done(&agent.members) {
            roll.changed().await.unwrap();
        }
    });
    waited.await.expect("it comes to be in time");
}

fn sees(members: &Members, name: &str) -> Option<Status> {
    members.roll().get(name).map(|member| member.status)
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
    until(&agents[0], |members| members.roll()["n1"].tag("role") == Some("x")).await;
}

#[tokio::test]
async fn what_cannot_be_one_pool_stays_apart() {
    let (here, there) =
        (start(settings("a", "dc1", &[])).await, start(settings("b", "dc2", &[])).await);
    let error = there.members.join(here.members.address()).await.unwrap_err();
    assert_eq!(error, "Member 'a' part of wrong datacenter 'dc1'");
    let twin = Settings { id: here.members.roll()["a"].details.id, ..settings("c", "dc1", &[]) };
    let twin = start(twin).await;
    let error = twin.members.join(here.members.address()).await.unwrap_err();
    assert!(error.contains("has conflicting node ID"), "{error}");
    // Nor is one let in that has the id of a third, whose name is not its.
    let third = start(settings("third", "dc1", &[])).await;
    third.members.join(here.members.address()).await.unwrap();
    let id = third.members.roll()["third"].details.id;
    let other = start(Settings { id, ..settings("fourth", "dc1", &[]) }).await;
    let error = other.members.join(here.members.address()).await.unwrap_err();
    assert!(error.contains("has conflicting node ID"), "{error}");
    assert!(here.members.roll().get("fourth").is_none());
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
        assert!(agent.members.roll().values().all(|it| it.status == Status::Alive));
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
