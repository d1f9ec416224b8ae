//! A peer that means harm: whoever reaches the port may send what it likes, with a key or without one. Afterwards the
//! honest members are in the pool as they were, and memory has a bound.
//!
//! The generator takes its seed from `MUSTER_HOSTILE_SEED` and its number of rounds from `MUSTER_HOSTILE_ROUNDS`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use muster_agent::gossip::message::{
    Claim, Knowledge, KnownMember, Message, Request, Response, Summary,
};
use muster_agent::gossip::{
    self, Details, Keyring, NEW_NAMES_A_MINUTE, Name, Order, Refused, State, Status, Tags,
    UserEvent, wire,
};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::pools::{Agent, PATIENCE, pool, settings, start, until};

/// What this process may take more than before: buffers of some questions at once, and what the allocator keeps.
const MEMORY_MAX: usize = 160 * 1024 * 1024;

/// Bytes that this process has in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn details(name: &str, tags: &[(&str, &str)]) -> Details {
    let tags = [("dc", "dc1"), ("role", "node")].iter().chain(tags);
    Details {
        name: name.into(),
        id: Uuid::new_v4(),
        address: "127.0.0.1:1".parse().unwrap(),
        incarnation: 1_800_000_000_000,
        tags: tags.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    }
}

fn knowledge(names: impl Iterator<Item = String>) -> Knowledge {
    let known = |name: String| KnownMember {
        details: Arc::new(details(&name, &[])),
        state: State::Alive,
        age: Duration::ZERO,
    };
    Knowledge {
        join: false,
        from: Arc::new(details("hostile", &[])),
        members: names.map(known).collect(),
        events: Vec::new(),
        event_clock: 1,
    }
}

fn event(name: &str, payload: usize) -> UserEvent {
    UserEvent {
        id: Uuid::new_v4(),
        ltime: 1,
        name: name.into(),
        payload: vec![b'x'; payload].into(),
        filters: Default::default(),
    }
}

/// Sends one frame and waits for what comes back, if anything does.
async fn ask(to: SocketAddr, frame: &[u8]) -> Option<Vec<u8>> {
    let asked = async {
        let mut stream = TcpStream::connect(to).await?;
        stream.write_u32(u32::try_from(frame.len()).unwrap()).await?;
        stream.write_all(frame).await?;
        let length = stream.read_u32().await?;
        let mut answer = Vec::new();
        stream.take(length.into()).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    timeout(PATIENCE, asked).await.expect("an answer or an end").ok()
}

async fn tell(to: SocketAddr, frame: &[u8]) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(frame, to).await.unwrap();
}

#[tokio::test]
async fn an_event_that_is_too_long_is_neither_fired_nor_heard() {
    let agents = pool(2, &[]).await;
    let mut heard = agents[1].members.events();
    let fired = agents[0].members.fire(event("long", 2000)).await.unwrap_err();
    assert!(matches!(&fired, Refused::Unfit(_)), "{fired}");
    assert!(fired.to_string().contains("event `long` takes"), "{fired}");
    // 30 MB of one letter and the same beside honest ones.
    let summary = |events: Vec<UserEvent>| {
        let events = events.into_iter().map(Arc::new).collect();
        wire::question(&Request::Compare(Box::new(Summary {
            digest: [0; 2],
            events,
            event_clock: 1,
        })))
    };
    let to = agents[1].members.address();
    ask(to, &summary(vec![event("huge", 30_000_000)])).await;
    ask(to, &summary(vec![event("long", 2000), event("a\nb", 1), event("good", 300)])).await;
    tell(to, &wire::datagram("", &[Message::Event(Arc::new(event("udp", 2000)))])).await;
    let first = timeout(PATIENCE, heard.recv()).await.unwrap().unwrap();
    assert_eq!(first.name, "good");
    // Nothing waits in the queue for a room that no packet has.
    for agent in &agents {
        timeout(PATIENCE, async {
            while agent.members.vitals().updates > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("all that waits is sent");
    }
    let begun = std::time::Instant::now();
    agents[1].members.leave().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn tags_that_no_datagram_has_room_for_are_refused_and_change_nothing() {
    let agents = pool(2, &[]).await;
    let before = agents[0].members.member_list()["n0"].details.clone();
    for value in ["x".repeat(2000), "a\nb".to_owned()] {
        let mut tags = before.tags.clone();
        tags.insert("k".into(), value);
        assert!(matches!(agents[0].members.set_tags(tags).await, Err(Refused::Unfit(_))));
    }
    assert_eq!(agents[0].members.member_list()["n0"].details, before);
}

#[tokio::test]
async fn names_that_no_node_may_have_do_not_come_in() {
    let agents = pool(2, &[]).await;
    let to = agents[0].members.address();
    let long = "x".repeat(1000);
    let wrong = ["a\nb", "a\0b", "\u{1b}[2J", "../../etc", "", &long, "a\u{2028}b", "..", "a/b"];
    for name in wrong {
        tell(to, &wire::datagram("", &[Message::Alive(Arc::new(details(name, &[])))])).await;
        let mut from = knowledge(std::iter::empty());
        from.from = Arc::new(details(name, &[]));
        ask(to, &wire::question(&Request::Exchange(Box::new(from)))).await;
    }
    let told = knowledge(wrong.iter().map(ToString::to_string).chain(["good".to_owned()]));
    ask(to, &wire::question(&Request::Exchange(Box::new(told)))).await;
    let tags: [(&str, &str); 3] = [("k\n", "v"), ("k", "v\n"), ("segment", "a\u{1b}b")];
    for tag in tags {
        tell(to, &wire::datagram("", &[Message::Alive(Arc::new(details("tagged", &[tag])))])).await;
    }
    for agent in &agents {
        until(agent, |members| members.member_list().contains_key("good")).await;
        let names: Vec<Name> = agent.members.member_list().keys().cloned().collect();
        assert_eq!(names, ["good", "hostile", "n0", "n1"].map(Name::from));
    }
    assert!(agents[0].members.vitals().counters.refused >= wrong.len() as u64);
    let named = gossip::start(settings("a\nb", "dc1", &[]), CancellationToken::new()).await;
    let error = named.err().expect("nor does it start").to_string();
    assert_eq!(error, "node name `a\\nb` contains a control character");
}

#[tokio::test]
async fn a_flood_of_names_comes_in_slowly_and_a_fleet_at_once() {
    let agent = start(settings("n0", "dc1", &[])).await;
    let to = agent.members.address();
    let begun = std::time::Instant::now();
    let fleet = knowledge((0..5_000).map(|number| format!("fleet-{number}")));
    ask(to, &wire::question(&Request::Exchange(Box::new(fleet)))).await.expect("an answer");
    assert_eq!(agent.members.member_list().len(), 5_002);
    let flood = knowledge((0..100_000).map(|number| format!("flood-{number}")));
    let frame = wire::question(&Request::Exchange(Box::new(flood)));
    ask(to, &frame).await.expect("an answer");
    let more = usize::try_from(begun.elapsed().as_secs()).unwrap() * 100 + 200;
    let known = agent.members.member_list().len();
    assert!(known <= NEW_NAMES_A_MINUTE as usize + more, "{known}");
    // Who wishes to join a large pool learns of all at once.
    let large = start(settings("large", "dc1", &[])).await;
    large.members.join(to).await.unwrap();
    assert!(large.members.member_list().len() >= known);
}

#[tokio::test]
async fn little_that_becomes_much_costs_little() {
    let agent = start(settings("n0", "dc1", &[])).await;
    let to = agent.members.address();
    // Many members that take as little as a member can, all alike: 98 KB become tens of megabytes.
    let mut one = details("m", &[]);
    one.tags = Tags::new();
    let one = KnownMember { details: Arc::new(one), state: State::Alive, age: Duration::ZERO };
    let frames: Vec<Vec<u8>> = [400_000, 120_000]
        .map(|count| {
            let members = vec![one.clone(); count];
            let all = Knowledge { members, ..knowledge(std::iter::empty()) };
            wire::question(&Request::Exchange(Box::new(all)))
        })
        .into();
    let before = resident();
    for frame in &frames {
        futures::future::join_all((0..8).map(|_| ask(to, frame))).await;
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < MEMORY_MAX, "{} MiB", grown >> 20);
}

#[tokio::test]
async fn orders_to_the_keyring_are_taken_only_if_they_are_sealed() {
    let (key, other) = (vec![1; 16], vec![2; 16]);
    let mut lenient = settings("n0", "dc1", &[]);
    lenient.keyring = Keyring::new(std::slice::from_ref(&key)).unwrap().verifying(false, false);
    let keyring = lenient.keyring.clone();
    let agent = start(lenient.clone()).await;
    let to = agent.members.address();
    for order in [
        Order::List,
        Order::Install(other.clone()),
        Order::Use(key.clone()),
        Order::Remove(other.clone()),
    ] {
        let answer = ask(to, &wire::question(&Request::Keys(order))).await.expect("an answer");
        assert!(!answer.windows(key.len()).any(|part| part == key), "a key in clear");
        let answer = wire::read_answer(&answer).expect("an answer in clear");
        let expected = "orders to the keyring are taken only if they are encrypted";
        assert_eq!(answer, Response::Refused(expected.into()));
    }
    assert_eq!(keyring.keys(), std::slice::from_ref(&key));
    // Members that say everything else openly seal these, and their answers.
    lenient.name = "n1".into();
    lenient.id = Uuid::new_v4();
    lenient.keyring = Keyring::new(std::slice::from_ref(&key)).unwrap().verifying(false, false);
    let second = start(lenient).await;
    second.members.join(to).await.unwrap();
    let reports = second.members.order_keys(&Order::Install(other.clone())).await;
    let errors: Vec<&str> = reports.iter().map(|(_, report)| report.error.as_str()).collect();
    assert_eq!(errors, ["", ""]);
    assert_eq!(keyring.keys(), [key, other]);
}

#[tokio::test]
async fn silent_connections_make_room_for_who_has_something_to_say() {
    let agent = start(settings("n0", "dc1", &[])).await;
    let to = agent.members.address();
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(to).await.unwrap());
    }
    let friend = start(settings("n1", "dc1", &[])).await;
    let begun = std::time::Instant::now();
    let joined = async {
        while friend.members.join(to).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(2), joined).await.expect("it joins at once");
    assert!(begun.elapsed() < Duration::from_secs(2));
    // Who goes on saying nothing is cut, and time counts from the beginning.
    let mut byte = [0];
    for stream in &mut silent {
        let end = stream.read(&mut byte);
        let ended = timeout(Duration::from_secs(6), end).await.expect("it is cut");
        assert!(!matches!(ended, Ok(1..)));
    }
}

/// Chooses what to send.
struct Hostile {
    rng: SmallRng,
    honest: Vec<Arc<Details>>,
    keyring: Keyring,
}

impl Hostile {
    fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all.choose(&mut self.rng).unwrap().clone()
    }

    fn number(&mut self) -> u64 {
        let own = self.one_of(&self.honest.clone()).incarnation;
        let any = self.rng.random();
        self.one_of(&[
            0,
            1,
            own,
            own + 1,
            own + 1000,
            own - 1,
            1 << 42,
            1 << 62,
            u64::MAX - 1,
            u64::MAX,
            any,
        ])
    }

    fn name(&mut self) -> Name {
        let honest = self.one_of(&self.honest.clone()).name.clone();
        let made_up = format!("made-up-{}", self.rng.random_range(0..50));
        let long = "x".repeat(self.rng.random_range(200..2000));
        let odd = self.one_of(&["", "a\nb", "\u{1b}[0m", "../x", "\0", "..", "ü", "a b"]);
        let choice = [&*honest, &honest, &made_up, &long, odd];
        (*choice.choose(&mut self.rng).unwrap()).into()
    }

    /// Only this machine's, and such that are nobody's.
    fn address(&mut self) -> SocketAddr {
        let honest = self.one_of(&self.honest.clone()).address;
        let odd = [
            "127.0.0.1:1",
            "0.0.0.0:0",
            "[::]:1",
            "224.0.0.1:1",
            "255.255.255.255:9",
            "127.0.0.1:0",
        ];
        let odd = self.one_of(&odd).parse().unwrap();
        self.one_of(&[honest, honest, odd])
    }

    fn details(&mut self) -> Arc<Details> {
        let honest = self.one_of(&self.honest.clone());
        let id = Uuid::from_u128(self.rng.random());
        let id = self.one_of(&[honest.id, id]);
        let mut tags = honest.tags.clone();
        if self.rng.random_bool(0.3) {
            let value = "v".repeat(self.rng.random_range(0..3000));
            tags.insert(self.name().to_string(), value);
        }
        if self.rng.random_bool(0.2) {
            tags.insert("rc_tm".into(), "99999999h".into());
        }
        let name = if self.rng.random_bool(0.5) { honest.name.clone() } else { self.name() };
        Arc::new(Details { name, id, address: self.address(), incarnation: self.number(), tags })
    }

    fn claim(&mut self) -> Arc<Claim> {
        let honest = self.one_of(&self.honest.clone());
        let id = self.one_of(&[honest.id, honest.id, Uuid::nil()]);
        let from = self.name();
        let from = self.one_of(&[from, honest.name.clone()]);
        Arc::new(Claim { name: honest.name.clone(), id, incarnation: self.number(), from })
    }

    fn event(&mut self) -> Arc<UserEvent> {
        let size = self.one_of(&[0, 100, 400, 512, 2000, 60_000]);
        let mut event = event(&self.name(), size);
        event.ltime = self.number();
        Arc::new(event)
    }

    fn message(&mut self) -> Message {
        let seq = self.rng.random();
        match self.rng.random_range(0..9) {
            0 => Message::Ping { seq, target: self.name(), reply_to: self.address() },
            1 => {
                let mut coordinate = gossip::vivaldi::Coordinate::default();
                coordinate.vec[0] = self.one_of(&[f64::NAN, f64::INFINITY, f64::MAX, -1e30, 0.0]);
                coordinate.height = self.one_of(&[f64::NAN, -1.0, 1e300]);
                Message::Ack { seq, digest: self.number(), coordinate: Some(Box::new(coordinate)) }
            }
            2 => {
                let (target, address) = (self.name(), self.address());
                Message::PingReq { seq, target, address, reply_to: self.address() }
            }
            3 => Message::Nack { seq },
            4 => Message::Alive(self.details()),
            5 => Message::Suspect(self.claim()),
            6 => Message::Failed(self.claim()),
            7 => Message::Left { claim: self.claim(), prune: self.rng.random() },
            _ => Message::Event(self.event()),
        }
    }

    fn request(&mut self) -> Request {
        let events: Vec<_> = (0..self.rng.random_range(0..80)).map(|_| self.event()).collect();
        match self.rng.random_range(0..4) {
            0 => Request::Ping { target: self.name() },
            1 => {
                let digest = [self.number(), self.number()];
                let event_clock = self.number();
                Request::Compare(Box::new(Summary { digest, events, event_clock }))
            }
            2 => {
                let key = vec![9; self.one_of(&[0, 15, 16, 32, 5000])];
                let order = [Order::List, Order::Install(key.clone()), Order::Remove(key)];
                Request::Keys(self.one_of(&order))
            }
            _ => {
                let states = [State::Alive, State::Suspect, State::Failed, State::Left];
                let count = self.one_of(&[0, 1, 10, 200]);
                let members = (0..count).map(|_| KnownMember {
                    details: self.details(),
                    state: self.one_of(&states),
                    age: Duration::from_secs(self.number()),
                });
                Request::Exchange(Box::new(Knowledge {
                    members: members.collect(),
                    join: self.rng.random(),
                    from: self.details(),
                    events,
                    event_clock: self.number(),
                }))
            }
        }
    }

    /// Some bytes are others than they were, or not there.
    fn damaged(&mut self, mut frame: Vec<u8>) -> Vec<u8> {
        for _ in 0..self.rng.random_range(1..10) {
            let at = self.rng.random_range(0..frame.len());
            frame[at] = self.rng.random();
        }
        frame.truncate(self.rng.random_range(0..=frame.len()));
        frame
    }

    fn sealed(&mut self, frame: Vec<u8>) -> Vec<u8> {
        if self.rng.random_bool(0.7) { self.keyring.seal(frame) } else { frame }
    }

    /// One attack. Connections that it leaves open go to `open`.
    async fn attack(&mut self, socket: &UdpSocket, to: SocketAddr, open: &mut Vec<TcpStream>) {
        let connect = || async { TcpStream::connect(to).await.unwrap() };
        match self.rng.random_range(0..8) {
            0..3 => {
                let count = self.rng.random_range(1..6);
                let messages: Vec<Message> = (0..count).map(|_| self.message()).collect();
                let frame = wire::datagram("", &messages);
                let frame = if self.rng.random_bool(0.2) { self.damaged(frame) } else { frame };
                let frame = self.sealed(frame);
                for _ in 0..self.one_of(&[1, 1, 50]) {
                    // Longer ones than a datagram can be do not leave here.
                    let _ = socket.send_to(&frame, to).await;
                }
            }
            3..6 => {
                let frame = wire::question(&self.request());
                let frame = if self.rng.random_bool(0.2) { self.damaged(frame) } else { frame };
                let frame = self.sealed(frame);
                let mut stream = connect().await;
                // It may be cut at any time, and the answer is not read.
                let _ = stream.write_u32(u32::try_from(frame.len()).unwrap()).await;
                let _ = stream.write_all(&frame).await;
                open.push(stream);
            }
            6 => {
                // Announced and half sent, or not at all.
                let mut stream = connect().await;
                let announced = self.one_of(&[0, 1, 100_000, 33_554_432, u32::MAX]);
                let _ = stream.write_u32(announced).await;
                let _ = stream.write_all(&vec![4; self.one_of(&[0, 10, 90_000])]).await;
                open.push(stream);
            }
            _ => {
                for _ in 0..self.rng.random_range(1..20) {
                    open.push(connect().await);
                }
            }
        }
    }
}

/// Is everybody honest where it was, and as it was?
async fn unharmed(agents: &[Agent], honest: &[Arc<Details>], replay: &str) {
    for agent in agents {
        let mut member_list = agent.members.watch();
        let whole = member_list.wait_for(|member_list| {
            honest.iter().all(|it| {
                member_list.get(&it.name).is_some_and(|member| {
                    let found = &member.details;
                    member.status == Status::Alive
                        && (found.id, found.address, &found.tags) == (it.id, it.address, &it.tags)
                })
            })
        });
        if timeout(PATIENCE, whole).await.is_err() {
            let (name, member_list) = (agent.members.name(), agent.members.member_list());
            let seen: Vec<_> = honest.iter().map(|it| member_list.get(&it.name)).collect();
            panic!("{name} does not see everybody: {seen:#?}\nbut {honest:#?}\n{replay}");
        }
        for name in agent.members.member_list().keys() {
            assert!(gossip::node_name(name).is_ok(), "{name:?}\n{replay}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_peer_harms_nobody() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let rounds: u64 = number("MUSTER_HOSTILE_ROUNDS").unwrap_or(60);
    let seed: u64 = number("MUSTER_HOSTILE_SEED").unwrap_or_else(rand::random);
    let replay = format!(
        "replay: MUSTER_HOSTILE_SEED={seed} MUSTER_HOSTILE_ROUNDS={rounds} cargo nextest run -p muster-agent --test gossip a_hostile_peer"
    );
    eprintln!("{replay}");
    let keys = [vec![7; 32]];
    // An open pool, and one that is sealed, against somebody inside.
    for keys in [&[][..], &keys] {
        let agents = pool(3, keys).await;
        let honest: Vec<Arc<Details>> = agents
            .iter()
            .map(|it| it.members.member_list()[it.members.name()].details.clone())
            .collect();
        let mut hostile = Hostile {
            rng: SmallRng::seed_from_u64(seed),
            honest: honest.clone(),
            keyring: Keyring::new(keys).unwrap(),
        };
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (before, mut open) = (resident(), Vec::new());
        for round in 0..rounds / 2 {
            let to = hostile.one_of(&honest).address;
            hostile.attack(&socket, to, &mut open).await;
            let surplus = open.len().saturating_sub(200);
            open.drain(..surplus);
            let grown = resident().saturating_sub(before);
            assert!(grown < MEMORY_MAX, "round {round}: {} MiB\n{replay}", grown >> 20);
            if round % 50 == 49 {
                unharmed(&agents, &honest, &replay).await;
            }
        }
        drop(open);
        unharmed(&agents, &honest, &replay).await;
        // They still hear each other's good-bye.
        agents[2].members.leave().await;
        let mut member_list = agents[0].members.watch();
        let has_left = |member_list: &gossip::MemberList| member_list["n2"].status == Status::Left;
        let left = timeout(PATIENCE, member_list.wait_for(has_left)).await;
        if left.is_err() {
            let seen: Vec<_> =
                agents.iter().map(|agent| agent.members.member_list().get("n2").cloned()).collect();
            panic!("n0 has not heard that n2 left: {seen:#?}\n{replay}");
        }
    }
}
