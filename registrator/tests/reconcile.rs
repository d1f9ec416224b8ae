//! The reconciler against a simulated engine and agent in virtual time: events are lost, answers
//! come late and in any order, the agent forgets everything, the registrator is restarted. In the
//! end the agent shows what the containers ask for, and nothing is written any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_client::types::Status;
use muster_registrator::container::{
    Attachment, Binding, Container, DockerHealth, NetworkMode, Port, Run,
};
use muster_registrator::diff::{self, Seen, SeenCheck, Step, Target, Write};
use muster_registrator::event::News;
use muster_registrator::plan::{Deregister, META_CONTAINER, META_INSTANCE, Settings, plan};
use muster_registrator::reconcile::{
    Failure, Input, Observation, OnExit, Output, Policy, Reconciler,
};
use proptest::prelude::*;

const INSTANCE: &str = "host1";

fn id_of(name: &str) -> String {
    let hex = name.bytes().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    format!("{hex:0<64}")
}

/// A container with port 80 published at `8000 + n`.
fn container(name: &str, n: u16, labels: &[(&str, &str)]) -> Container {
    let port = Port::parse("80/tcp").expect("a port");
    Container {
        id: id_of(name),
        name: name.to_owned(),
        image: "shop/web:1".to_owned(),
        env: Vec::new(),
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        exposed: [port].into(),
        published: [(port, vec![Binding { ip: None, v6: false, port: 8000 + n }])].into(),
        network_mode: NetworkMode::Own,
        networks: [("bridge".to_owned(), Attachment::default())].into(),
        run: Run::Exited(0),
        started_at: 0,
        health: None,
        stop_signal: 15,
    }
}

/// Everything around the reconciler.
struct World {
    reconciler: Reconciler,
    policy: Policy,
    start: Instant,
    now: Instant,
    /// What exists in the engine.
    engine: BTreeMap<String, Container>,
    engine_connected: bool,
    /// Events are lost although the stream is up.
    deaf: bool,
    /// What the agent shows.
    agent: BTreeMap<String, Seen>,
    agent_up: bool,
    /// Asked for and not answered.
    asked: Vec<Output>,
    /// Answered; the answer is under way.
    answers: Vec<Input>,
    /// Calls that changed something in the agent, reports left out.
    writes: Vec<String>,
    /// When each beat was last reported.
    reported: BTreeMap<String, Instant>,
}

impl World {
    fn new() -> Self {
        Self::with(Policy::default())
    }

    fn with(policy: Policy) -> Self {
        let start = Instant::now();
        let mut world = Self {
            reconciler: Reconciler::new(Settings::new(INSTANCE), policy.clone()),
            policy,
            start,
            now: start,
            engine: BTreeMap::new(),
            engine_connected: true,
            deaf: false,
            agent: BTreeMap::new(),
            agent_up: true,
            asked: Vec::new(),
            answers: Vec::new(),
            writes: Vec::new(),
            reported: BTreeMap::new(),
        };
        world.step(Input::Timer);
        world
    }

    /// The engine's clock: nanoseconds that never stand still.
    fn clock(&self) -> u64 {
        u64::try_from((self.now - self.start).as_nanos()).expect("short") + 1_000
    }

    fn step(&mut self, input: Input) {
        let outputs = self.reconciler.step(self.now, input);
        self.take(outputs);
    }

    fn take(&mut self, outputs: Vec<Output>) {
        for output in &outputs {
            if let Output::Write(write) = output {
                let id = write.service();
                let busy =
                    |asked: &Output| matches!(asked, Output::Write(other) if other.service() == id);
                let answering = |answer: &Input| matches!(answer, Input::Written { write, .. } if write.service() == id);
                assert!(!self.asked.iter().any(busy), "two calls at once for {id}");
                assert!(!self.answers.iter().any(answering), "two calls at once for {id}");
            }
            if let Output::Inspect(id) = output {
                let same = |asked: &Output| matches!(asked, Output::Inspect(other) if other == id);
                assert!(!self.asked.iter().any(same), "two inspections at once of {id}");
            }
        }
        self.asked.extend(outputs);
    }

    fn news(&mut self, news: News) {
        if self.engine_connected && !self.deaf {
            self.step(Input::Engine(news));
        }
    }

    fn list(&mut self) {
        let running = self.engine.values().filter(|c| !matches!(c.run, Run::Exited(_)));
        let ids = running.map(|container| container.id.clone()).collect();
        self.step(Input::Engine(News::Listed(ids)));
    }

    /// Engine or agent work off one question; the answer is under way from then on.
    fn answer(&mut self, which: usize) {
        if self.asked.is_empty() {
            return;
        }
        let input = match self.asked.remove(which % self.asked.len()) {
            Output::Inspect(id) => {
                let outcome = if self.engine_connected {
                    Ok(self.engine.get(&id).cloned())
                } else {
                    Err("no engine".to_owned())
                };
                Input::Inspected { id, outcome }
            }
            Output::Observe(epoch) => {
                let observation = Observation { services: self.agent.clone(), agent_host: None };
                let outcome = if self.agent_up { Ok(observation) } else { Err("no".to_owned()) };
                Input::Observed { epoch, outcome }
            }
            Output::Write(write) => {
                let outcome = if self.agent_up {
                    self.obey(&write)
                } else {
                    Err(Failure::Unreachable("no agent".to_owned()))
                };
                Input::Written { write, outcome }
            }
        };
        self.answers.push(input);
    }

    fn obey(&mut self, write: &Write) -> Result<(), Failure> {
        let owned = |seen: &Seen| seen.belongs_to(INSTANCE);
        let service = write.service();
        if let Some(seen) = self.agent.get(service) {
            assert!(owned(seen), "a call about somebody else's service: {write:?}");
        }
        let missing = || Err(Failure::Refused("unknown service or check".to_owned()));
        match write {
            Write::Register { wanted, replace_checks } => {
                let before = self.agent.get(service);
                let after = Seen::after(&wanted.definition, before, *replace_checks);
                self.agent.insert(service.to_owned(), after);
                self.writes.push(format!("+{service}"));
            }
            Write::Deregister(_) => {
                self.agent.remove(service);
                self.writes.push(format!("-{service}"));
            }
            Write::Report { beat, .. } => {
                let Some(seen) = self.agent.get_mut(service) else { return missing() };
                let Some(check) = seen.checks.get_mut(&beat.check_id) else { return missing() };
                if check.status != beat.status {
                    self.writes.push(format!("={service} {}", beat.status));
                }
                check.status = beat.status;
                self.reported.insert(beat.check_id.clone(), self.now);
            }
            Write::Maintain { reason, .. } => {
                let Some(seen) = self.agent.get_mut(service) else { return missing() };
                let check = diff::maintenance_check(service);
                if let Some(notes) = reason.clone() {
                    seen.checks.insert(check, SeenCheck { status: Status::Critical, notes });
                    self.writes.push(format!("!{service}"));
                } else {
                    seen.checks.remove(&check);
                    self.writes.push(format!("~{service}"));
                }
            }
        }
        Ok(())
    }

    fn deliver(&mut self, which: usize) {
        if !self.answers.is_empty() {
            let input = self.answers.remove(which % self.answers.len());
            self.step(input);
        }
    }

    /// Lets everything happen that can happen without time passing.
    fn quiesce(&mut self) {
        for _ in 0..10_000 {
            if self.asked.is_empty() && self.answers.is_empty() {
                return;
            }
            self.answer(0);
            self.deliver(0);
        }
        panic!("it never comes to rest: {:?}", self.asked);
    }

    /// Lets time pass, with every deadline met on the way.
    fn pass(&mut self, duration: Duration) {
        self.quiesce();
        let end = self.now + duration;
        let mut rounds = 0;
        while let Some(at) = self.reconciler.deadline().filter(|at| *at <= end) {
            rounds += 1;
            assert!(rounds < 100_000, "it wakes without end");
            // A deadline must not lie in the past again once it was served.
            self.now = self.now.max(at);
            self.step(Input::Timer);
            self.quiesce();
        }
        self.now = end;
    }

    fn settle(&mut self) {
        self.quiesce();
        self.pass(Duration::from_secs(1));
    }

    // What users and containers do.

    fn run(&mut self, mut container: Container) {
        self.now += Duration::from_millis(1);
        container.run = Run::Running;
        container.started_at = self.clock();
        container.health = container.health.map(|_| DockerHealth::Starting);
        let id = container.id.clone();
        self.engine.insert(id.clone(), container);
        self.news(News::Changed(id));
    }

    fn signal(&mut self, name: &str, signal: u8) {
        let at = self.clock();
        self.news(News::Signalled { id: id_of(name), signal, at });
    }

    fn die(&mut self, name: &str, exit_code: i64) {
        let (id, at) = (id_of(name), self.clock());
        if let Some(container) = self.engine.get_mut(&id) {
            container.run = Run::Exited(exit_code);
            self.news(News::Died { id, exit_code, at });
        }
    }

    fn remove(&mut self, name: &str) {
        let id = id_of(name);
        if self.engine.remove(&id).is_some() {
            self.news(News::Destroyed(id));
        }
    }

    fn restart_registrator(&mut self) {
        self.reconciler = Reconciler::new(Settings::new(INSTANCE), self.policy.clone());
        self.asked.clear();
        self.answers.clear();
        self.step(Input::Timer);
        if self.engine_connected {
            self.list();
        }
    }

    fn owned(&self) -> BTreeSet<&str> {
        let owned = self.agent.iter().filter(|(_, seen)| seen.belongs_to(INSTANCE));
        owned.map(|(id, _)| id.as_str()).collect()
    }

    fn wrote(&mut self) -> Vec<String> {
        std::mem::take(&mut self.writes)
    }

    /// What should be registered when everything is at rest.
    fn wanted(&self) -> BTreeMap<String, Target> {
        let mut containers: Vec<&Container> = self.engine.values().collect();
        containers.sort_by_key(|container| (container.started_at, &container.id));
        containers
            .into_iter()
            .flat_map(|container| plan(container, None, &Settings::new(INSTANCE)).services)
            .map(|wanted| {
                let target = Target { wanted: Arc::new(wanted), maintenance: None };
                (target.wanted.id.clone(), target)
            })
            .collect()
    }

    #[track_caller]
    fn assert_converged(&self) {
        let wanted = self.wanted();
        let ids: BTreeSet<&str> = wanted.keys().map(String::as_str).collect();
        assert_eq!(self.owned(), ids);
        for (id, target) in &wanted {
            let step = diff::step(target, self.agent.get(id), INSTANCE);
            assert_eq!(step, Step::Equal, "{id} is {:?}", self.agent.get(id));
        }
        assert_eq!(self.reconciler.status().pending, 0);
    }
}

const WEB: &str = "host1:web:80";

fn web() -> Container {
    container("web", 0, &[])
}

#[test]
fn a_start_registers_and_a_death_deregisters() {
    let mut world = World::new();
    world.list();
    world.quiesce();
    world.run(web());
    world.quiesce();
    assert_eq!(world.wrote(), ["+host1:web:80"]);
    world.die("web", 0);
    world.quiesce();
    assert_eq!(world.wrote(), ["-host1:web:80"]);
    world.pass(Duration::from_mins(5));
    assert_eq!(world.wrote(), Vec::<String>::new());
    assert!(world.engine.len() == 1 && world.agent.is_empty());
}

#[test]
fn equal_costs_nothing_not_even_after_a_restart() {
    let mut world = World::new();
    let mut sick = container("sick", 1, &[("SERVICE_CHECK_TCP", "1"), ("SERVICE_WEIGHT", "5")]);
    sick.health = Some(DockerHealth::Starting);
    world.run(web());
    world.run(sick);
    world.list();
    world.settle();
    world.assert_converged();
    world.wrote();
    world.restart_registrator();
    world.pass(Duration::from_mins(30));
    world.assert_converged();
    assert_eq!(world.wrote(), Vec::<String>::new());
}

#[test]
fn the_stop_signal_takes_it_out_before_death_and_other_signals_do_not() {
    let mut quitter = container("quitter", 1, &[]);
    quitter.stop_signal = 3;
    let mut world = World::new();
    world.list();
    world.run(web());
    world.run(quitter);
    world.settle();
    world.wrote();
    for (name, signal, out) in [
        ("web", 1, false),
        ("web", 3, false),
        ("quitter", 15, false),
        ("web", 15, true),
        ("quitter", 3, true),
    ] {
        world.signal(name, signal);
        world.quiesce();
        let expected = if out { vec![format!("-host1:{name}:80")] } else { Vec::new() };
        assert_eq!(world.wrote(), expected, "{name} {signal}");
    }
    // The death that follows finds nothing left to do, and a new run is a new service.
    world.die("web", 0);
    world.settle();
    assert_eq!(world.wrote(), Vec::<String>::new());
    world.run(web());
    world.settle();
    assert_eq!(world.wrote(), ["+host1:web:80"]);
    // Replayed news about the former run changes nothing.
    world.step(Input::Engine(News::Signalled { id: id_of("web"), signal: 15, at: 5 }));
    world.step(Input::Engine(News::Died { id: id_of("web"), exit_code: 0, at: 5 }));
    world.settle();
    assert_eq!(world.wrote(), Vec::<String>::new());
    world.signal("web", 9);
    world.settle();
    assert_eq!(world.wrote(), ["-host1:web:80"]);
}

#[test]
fn a_signal_during_the_first_inspection_is_not_lost() {
    let mut world = World::new();
    world.list();
    world.quiesce();
    world.run(web());
    world.signal("web", 15);
    world.settle();
    assert_eq!(world.wrote(), Vec::<String>::new());
}

#[test]
fn an_inspection_from_before_a_death_is_not_believed() {
    let mut world = World::new();
    world.list();
    world.quiesce();
    world.run(web());
    world.answer(0);
    world.die("web", 1);
    world.settle();
    assert_eq!(world.wrote(), Vec::<String>::new());
}

#[test]
fn a_drain_shows_maintenance_first() {
    let mut world = World::new();
    world.list();
    world.run(container("web", 0, &[("SERVICE_DRAIN", "5s")]));
    world.settle();
    world.signal("web", 15);
    world.quiesce();
    assert_eq!(world.wrote(), ["+host1:web:80", "!host1:web:80"]);
    world.pass(Duration::from_secs(4));
    assert_eq!(world.wrote(), Vec::<String>::new());
    world.pass(Duration::from_secs(2));
    assert_eq!(world.wrote(), ["-host1:web:80"]);
    // It ignores its stop signal: after a while it counts as running again.
    world.pass(Duration::from_mins(4));
    assert_eq!(world.wrote(), Vec::<String>::new());
    world.pass(Duration::from_mins(2));
    assert_eq!(world.wrote(), ["+host1:web:80"]);
    // Death ends a drain at once.
    world.signal("web", 15);
    world.quiesce();
    world.die("web", 143);
    world.quiesce();
    assert_eq!(world.wrote(), ["!host1:web:80", "-host1:web:80"]);
}

#[test]
fn ghosts_of_a_crash_are_removed_at_the_next_start() {
    let mut world = World::new();
    world.list();
    world.run(web());
    world.run(container("other", 1, &[]));
    world.settle();
    world.wrote();
    // While nobody looks, one dies and one is removed; a third party has its own services.
    world.engine_connected = false;
    world.die("web", 137);
    world.remove("other");
    let foreign = Seen { name: "db".to_owned(), ..Seen::default() };
    world.agent.insert("db".to_owned(), foreign.clone());
    let mut elsewhere = foreign.clone();
    elsewhere.meta.insert(META_INSTANCE.to_owned(), "host2".to_owned());
    elsewhere.meta.insert(META_CONTAINER.to_owned(), id_of("unknown"));
    world.agent.insert("host2:x:80".to_owned(), elsewhere);
    world.restart_registrator();
    world.settle();
    // Without the engine's word nothing is removed.
    assert_eq!(world.wrote(), Vec::<String>::new());
    world.engine_connected = true;
    world.list();
    world.settle();
    let mut wrote = world.wrote();
    wrote.sort();
    assert_eq!(wrote, ["-host1:other:80", "-host1:web:80"]);
    let left: Vec<&String> = world.agent.keys().collect();
    assert_eq!(left, ["db", "host2:x:80"]);
}

#[test]
fn an_agent_that_lost_its_state_gets_everything_again() {
    let mut world = World::new();
    world.list();
    world.run(web());
    world.settle();
    world.wrote();
    world.agent_up = false;
    world.agent.clear();
    world.step(Input::AgentChanged);
    world.run(container("late", 1, &[]));
    world.pass(Duration::from_mins(10));
    assert_eq!(world.wrote(), Vec::<String>::new());
    assert!(!world.reconciler.status().agent);
    world.agent_up = true;
    // The longest pause between two attempts is five seconds.
    world.pass(Duration::from_secs(5));
    let mut wrote = world.wrote();
    wrote.sort();
    assert_eq!(wrote, ["+host1:late:80", "+host1:web:80"]);
}

#[test]
fn what_somebody_else_removes_or_changes_is_repaired_at_the_resync() {
    let mut world = World::new();
    world.list();
    world.run(web());
    world.run(container("other", 1, &[]));
    world.settle();
    world.wrote();
    world.agent.remove(WEB);
    world.agent.get_mut("host1:other:80").expect("registered").port = 1;
    world.pass(Duration::from_secs(61));
    let mut wrote = world.wrote();
    wrote.sort();
    assert_eq!(wrote, ["+host1:other:80", "+host1:web:80"]);
}

/// A restart with another port, a pause, a rename and so on while no event comes through.
#[test]
fn what_no_event_told_is_found_at_the_next_list() {
    type Change = fn(&mut World);
    let changed: fn(&mut World, fn(&mut Container)) = |world, change| {
        change(world.engine.get_mut(&id_of("web")).expect("there"));
    };
    let rows: [Change; 7] = [
        // another port
        |world| {
            world.die("web", 0);
            world.run(container("web", 7, &[]));
        },
        // a restart without a difference
        |world| {
            world.die("web", 0);
            world.run(web());
        },
        // an end
        |world| world.die("web", 0),
        // a removal
        |world| {
            world.die("web", 0);
            world.remove("web");
        },
        // a start
        |world| world.run(container("late", 2, &[])),
        // a pause
        |world| {
            world.engine.get_mut(&id_of("web")).expect("there").run = Run::Paused;
        },
        // a start during a drain
        |world| {
            world.deaf = false;
            world.signal("web", 15);
            world.deaf = true;
            world.die("web", 0);
            world.run(web());
        },
    ];
    for change in rows {
        let mut world = World::new();
        world.list();
        world.run(web());
        world.settle();
        world.deaf = true;
        change(&mut world);
        world.settle();
        world.list();
        world.quiesce();
        world.assert_converged();
    }
    let changes: [fn(&mut Container); 4] = [
        |web| web.name.push('x'),
        |web| drop(web.labels.insert("SERVICE_TAGS".to_owned(), "new".to_owned())),
        |web| web.published.values_mut().for_each(|bindings| bindings[0].port = 9),
        |web| web.health = Some(DockerHealth::Healthy),
    ];
    for change in changes {
        let mut world = World::new();
        world.list();
        world.run(web());
        world.settle();
        changed(&mut world, change);
        world.list();
        world.quiesce();
        world.assert_converged();
        assert_ne!(world.wrote().len(), 1, "more than the first registration");
    }
}

#[test]
fn a_new_container_does_not_wait_behind_the_routine_of_a_resync() {
    let mut world = World::new();
    for n in 0..50 {
        world.run(container(&format!("old-{n}"), n, &[]));
    }
    world.list();
    world.settle();
    world.wrote();
    world.list();
    world.run(container("new", 99, &[]));
    let inspections =
        |world: &World| world.asked.iter().filter(|o| matches!(o, Output::Inspect(_))).count();
    assert!(inspections(&world) <= 5, "{} at once", inspections(&world));
    assert!(world.asked.contains(&Output::Inspect(id_of("new"))));
    // All are inspected in the end.
    let mut inspected = 0;
    while !world.asked.is_empty() || !world.answers.is_empty() {
        inspected += usize::from(matches!(world.asked.first(), Some(Output::Inspect(_))));
        world.answer(0);
        world.deliver(0);
    }
    assert_eq!(inspected, 51);
    assert_eq!(world.wrote(), ["+host1:new:80"]);
}

#[test]
fn an_inspection_that_is_older_than_the_list_is_not_believed() {
    let mut world = World::new();
    world.list();
    world.quiesce();
    let mut ended = web();
    ended.run = Run::Exited(0);
    world.engine.insert(ended.id.clone(), ended);
    world.news(News::Changed(id_of("web")));
    world.answer(0);
    world.deaf = true;
    world.run(web());
    world.list();
    world.quiesce();
    world.assert_converged();
}

#[test]
fn a_container_that_restarts_all_the_time_costs_few_writes() {
    let mut world = World::new();
    world.list();
    world.run(web());
    world.quiesce();
    assert_eq!(world.wrote(), ["+host1:web:80"]);
    let restart = |world: &mut World| {
        world.die("web", 1);
        world.quiesce();
        world.run(web());
        world.quiesce();
    };
    // One restart is not held back at all.
    restart(&mut world);
    assert_eq!(world.wrote(), ["-host1:web:80", "+host1:web:80"]);
    world.pass(Duration::from_secs(40));
    for _ in 0..10 {
        restart(&mut world);
        world.pass(Duration::from_millis(800));
    }
    let wrote = world.wrote();
    assert!(wrote.len() <= 7, "{wrote:?}");
    assert!(world.agent.is_empty() && world.reconciler.status().pending > 0);
    // It lives: in the end it is back, and what is long past is no reproach.
    world.pass(Duration::from_secs(31));
    assert_eq!(world.wrote(), ["+host1:web:80"]);
    world.assert_converged();
    restart(&mut world);
    assert_eq!(world.wrote(), ["-host1:web:80", "+host1:web:80"]);

    // Without a bound there is no such thing.
    let mut world = World::with(Policy { hold_max: Duration::ZERO, ..Policy::default() });
    world.list();
    world.run(web());
    world.quiesce();
    (0..10).for_each(|_| restart(&mut world));
    assert_eq!(world.wrote().len(), 21);
}

#[test]
fn a_row_that_cannot_be_read_is_left_alone() {
    let mut world = World::new();
    world.list();
    world.run(web());
    world.run(container("other", 1, &[]));
    while let Some(output) = world.asked.iter().position(|o| !matches!(o, Output::Observe(_))) {
        world.answer(output);
        world.deliver(0);
    }
    let services = [(WEB.to_owned(), Seen::unreadable())].into();
    let outcome = Ok(Observation { services, agent_host: None });
    world.asked.clear();
    world.step(Input::Observed { epoch: 0, outcome });
    world.quiesce();
    assert_eq!(world.wrote(), ["+host1:other:80"]);
    // The next reading shows it again.
    world.step(Input::AgentChanged);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.wrote(), ["+host1:web:80"]);
}

#[test]
fn health_pause_and_rename_follow_the_events() {
    let mut world = World::new();
    world.list();
    let mut sick = container("sick", 1, &[]);
    sick.health = Some(DockerHealth::Starting);
    world.run(web());
    world.run(sick);
    world.settle();
    world.wrote();
    let health = |health| News::Health(id_of("sick"), health);
    let rows = [
        (health(DockerHealth::Healthy), vec!["=host1:sick:80 passing"]),
        (health(DockerHealth::Healthy), vec![]),
        (health(DockerHealth::Unhealthy), vec!["=host1:sick:80 critical"]),
        (health(DockerHealth::Healthy), vec!["=host1:sick:80 passing"]),
        (News::Paused(id_of("sick"), true), vec!["=host1:sick:80 critical"]),
        (News::Paused(id_of("sick"), false), vec!["=host1:sick:80 passing"]),
        (News::Paused(id_of("web"), true), vec!["-host1:web:80"]),
        (News::Paused(id_of("web"), false), vec!["+host1:web:80"]),
    ];
    for (news, expected) in rows {
        world.news(news.clone());
        world.quiesce();
        assert_eq!(world.wrote(), expected, "{news:?}");
    }
    world.engine.get_mut(&id_of("web")).expect("there").name = "shop".to_owned();
    world.news(News::Changed(id_of("web")));
    world.settle();
    let mut wrote = world.wrote();
    wrote.sort();
    assert_eq!(wrote, ["+host1:shop:80", "-host1:web:80"]);
}

#[test]
fn beats_keep_coming() {
    let mut world = World::new();
    world.list();
    let mut sick = container("sick", 1, &[]);
    sick.health = Some(DockerHealth::Starting);
    world.run(sick);
    world.settle();
    for _ in 0..20 {
        world.pass(Duration::from_secs(20));
        let last = world.reported["service:host1:sick:80:docker"];
        assert!(world.now - last <= Duration::from_secs(20));
    }
}

#[test]
fn deregister_policies() {
    for (flag, label, code, stays) in [
        (Deregister::Always, None, 1, false),
        (Deregister::OnSuccess, None, 0, false),
        (Deregister::OnSuccess, None, 1, true),
        (Deregister::OnSuccess, None, 137, false),
        (Deregister::Never, None, 0, true),
        (Deregister::Always, Some("never"), 0, true),
        (Deregister::Never, Some("always"), 1, false),
    ] {
        let mut world = World::with(Policy { deregister: flag, ..Policy::default() });
        world.list();
        let labels: Vec<(&str, &str)> =
            label.iter().map(|label| ("SERVICE_DEREGISTER", *label)).collect();
        world.run(container("web", 0, &labels));
        world.settle();
        world.die("web", code);
        world.settle();
        let what = format!("{flag:?} {label:?} {code}");
        assert_eq!(world.agent.contains_key(WEB), stays, "{what}");
        // The next start and the next list come to the same conclusion.
        world.restart_registrator();
        world.settle();
        world.list();
        world.settle();
        assert_eq!(world.agent.contains_key(WEB), stays, "{what}, after a restart");
        world.remove("web");
        world.settle();
        let stays = flag == Deregister::Never;
        assert_eq!(world.agent.contains_key(WEB), stays && label.is_none(), "{what}, removed");
    }
}

#[test]
fn the_end_leaves_what_was_asked_for() {
    for (on_exit, expected) in [
        (OnExit::Keep, vec![]),
        (OnExit::Deregister, vec!["-host1:web:80"]),
        (OnExit::Maintenance, vec!["!host1:web:80"]),
    ] {
        let mut world = World::new();
        world.agent.insert("db".to_owned(), Seen::default());
        world.list();
        world.run(web());
        world.settle();
        world.wrote();
        let outputs = world.reconciler.stop(world.now, on_exit);
        world.take(outputs);
        world.quiesce();
        assert!(world.reconciler.is_done());
        assert_eq!(world.wrote(), expected);
        // The next one finds its way back.
        world.restart_registrator();
        world.settle();
        world.assert_converged();
    }
}

#[test]
fn a_persons_maintenance_is_left_alone() {
    let mut world = World::new();
    world.list();
    world.run(web());
    world.settle();
    world.wrote();
    let notes = "disk swap".to_owned();
    let check = SeenCheck { status: Status::Critical, notes };
    let seen = world.agent.get_mut(WEB).expect("registered");
    seen.checks.insert(diff::maintenance_check(WEB), check);
    world.pass(Duration::from_mins(3));
    assert_eq!(world.wrote(), Vec::<String>::new());
}

#[test]
fn a_taken_id_is_left_alone() {
    let mut world = World::new();
    let foreign = Seen { name: "db".to_owned(), port: 5432, ..Seen::default() };
    world.agent.insert("db".to_owned(), foreign.clone());
    // What the old registrator left under the very id is taken over.
    world.agent.insert("host1:old:80".to_owned(), foreign.clone());
    world.list();
    world.run(container("thief", 0, &[("SERVICE_ID", "db")]));
    world.settle();
    assert_eq!(world.wrote(), Vec::<String>::new());
    assert_eq!(world.agent["db"], foreign);
}

#[test]
fn the_newer_container_gets_a_contested_id_and_keeps_it() {
    let mut world = World::new();
    world.list();
    let labels = [("SERVICE_ID", "shop")];
    world.run(container("zz-old", 0, &labels));
    world.settle();
    world.run(container("aa-new", 1, &labels));
    world.settle();
    assert_eq!(world.agent["shop"].port, 8001);
    world.wrote();
    world.die("zz-old", 0);
    world.settle();
    assert_eq!(world.wrote(), Vec::<String>::new());
}

#[test]
fn guests_follow_the_container_whose_network_they_share() {
    let mut world = World::new();
    world.list();
    let mut guest = container("guest", 0, &[]);
    guest.network_mode = NetworkMode::Container(id_of("web"));
    guest.published.clear();
    world.run(guest);
    world.settle();
    assert_eq!(world.wrote(), Vec::<String>::new());
    world.run(web());
    world.settle();
    assert_eq!(world.agent["host1:guest:80"].port, 8000);
    world.die("web", 0);
    world.settle();
    assert!(world.agent.is_empty());
}

#[test]
fn refused_commands_are_left_out_and_the_service_still_registers() {
    let mut world = World::new();
    world.list();
    world.run(container("web", 0, &[("SERVICE_CHECK_SCRIPT", "true")]));
    // Inspection and first reading, then the agent's refusal of the first registration.
    while !world.asked.iter().any(|output| matches!(output, Output::Write(_))) {
        world.answer(0);
        world.deliver(0);
    }
    let Output::Write(write) = world.asked.remove(0) else { panic!("{:?}", world.asked) };
    let reason = "Scripts are disabled on this agent from remote calls".to_owned();
    world.step(Input::Written { write, outcome: Err(Failure::Refused(reason)) });
    world.settle();
    assert!(world.agent[WEB].checks.is_empty());
}

#[test]
fn a_refused_service_is_tried_again_with_growing_pauses() {
    let mut world = World::new();
    world.list();
    world.run(web());
    let mut attempts = 0;
    for _ in 0..600 {
        while let Some(at) =
            world.asked.iter().position(|output| matches!(output, Output::Write(_)))
        {
            let Output::Write(write) = world.asked.remove(at) else { unreachable!() };
            attempts += 1;
            let outcome = Err(Failure::Refused("Invalid Service Meta".to_owned()));
            world.step(Input::Written { write, outcome });
        }
        // Only the rest is answered.
        for index in 0..world.asked.len() {
            world.answer(index);
            world.deliver(0);
        }
        world.now += Duration::from_secs(1);
        world.step(Input::Timer);
    }
    // 0.1 s doubling to 60 s, in ten minutes.
    assert!((15..=30).contains(&attempts), "{attempts} attempts");
}

#[derive(Clone, Debug)]
enum Op {
    Run(usize),
    Signal(usize, u8),
    Die(usize, i64),
    Remove(usize),
    Pause(usize, bool),
    Health(usize, bool),
    Rename(usize),
    Deafen(bool),
    LoseEngine,
    FindEngine,
    LoseAgent,
    FindAgent,
    WipeAgent,
    AgentChanged,
    RestartRegistrator,
    Answer(usize),
    Deliver(usize),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let which = 0..5_usize;
    prop_oneof![
        6 => which.clone().prop_map(Op::Run),
        2 => (which.clone(), prop_oneof![Just(1), Just(15), Just(9)])
            .prop_map(|(n, signal)| Op::Signal(n, signal)),
        4 => (which.clone(), 0..3_i64).prop_map(|(n, code)| Op::Die(n, code)),
        2 => which.clone().prop_map(Op::Remove),
        2 => (which.clone(), any::<bool>()).prop_map(|(n, paused)| Op::Pause(n, paused)),
        2 => (which.clone(), any::<bool>()).prop_map(|(n, healthy)| Op::Health(n, healthy)),
        1 => which.prop_map(Op::Rename),
        2 => any::<bool>().prop_map(Op::Deafen),
        1 => Just(Op::LoseEngine),
        2 => Just(Op::FindEngine),
        1 => Just(Op::LoseAgent),
        2 => Just(Op::FindAgent),
        1 => Just(Op::WipeAgent),
        1 => Just(Op::AgentChanged),
        1 => Just(Op::RestartRegistrator),
        20 => (0..8_usize).prop_map(Op::Answer),
        20 => (0..8_usize).prop_map(Op::Deliver),
        4 => (1..30_000_u64).prop_map(Op::Pass),
    ]
}

/// Five containers that differ in what matters; the last two want the same id.
fn cast(n: usize) -> Container {
    let name = ["plain", "sick", "slow", "twin-a", "twin-b"][n];
    let labels: &[(&str, &str)] = match n {
        2 => &[("SERVICE_DRAIN", "5s"), ("SERVICE_CHECK_TCP", "1")],
        3 | 4 => &[("SERVICE_ID", "twins")],
        _ => &[],
    };
    let mut container = container(name, u16::try_from(n).expect("small"), labels);
    if n == 1 {
        container.health = Some(DockerHealth::Starting);
    }
    container
}

fn perform(world: &mut World, op: &Op) {
    world.now += Duration::from_millis(1);
    match *op {
        Op::Run(n) => {
            let running = |c: &Container| !matches!(c.run, Run::Exited(_));
            let container = cast(n);
            if !world.engine.get(&container.id).is_some_and(running) {
                world.run(container);
            }
        }
        Op::Signal(n, signal) => {
            let container = cast(n);
            if world.engine.get(&container.id).is_some_and(|c| c.run == Run::Running) {
                world.signal(&container.name, signal);
                if signal == 9 {
                    world.die(&container.name, 137);
                }
            }
        }
        Op::Die(n, code) => {
            let container = cast(n);
            if world.engine.get(&container.id).is_some_and(|c| !matches!(c.run, Run::Exited(_))) {
                world.die(&container.name, code);
            }
        }
        Op::Remove(n) => {
            let container = cast(n);
            if world.engine.get(&container.id).is_some_and(|c| matches!(c.run, Run::Exited(_))) {
                world.remove(&container.name);
            }
        }
        Op::Pause(n, paused) => {
            let id = cast(n).id;
            let (from, to) =
                if paused { (Run::Running, Run::Paused) } else { (Run::Paused, Run::Running) };
            if let Some(container) = world.engine.get_mut(&id).filter(|c| c.run == from) {
                container.run = to;
                world.news(News::Paused(id, paused));
            }
        }
        Op::Health(n, healthy) => {
            let id = cast(n).id;
            let health = if healthy { DockerHealth::Healthy } else { DockerHealth::Unhealthy };
            let sick = |c: &&mut Container| c.health.is_some() && c.run == Run::Running;
            if let Some(container) = world.engine.get_mut(&id).filter(sick) {
                container.health = Some(health);
                world.news(News::Health(id, health));
            }
        }
        Op::Rename(n) => {
            let id = cast(n).id;
            if let Some(container) = world.engine.get_mut(&id) {
                container.name.push('x');
                world.news(News::Changed(id));
            }
        }
        Op::Deafen(deaf) => world.deaf = deaf,
        Op::LoseEngine => {
            if world.engine_connected {
                world.news(News::Lost("test".to_owned()));
                world.engine_connected = false;
            }
        }
        Op::FindEngine => {
            if !world.engine_connected {
                world.engine_connected = true;
                world.list();
            }
        }
        Op::LoseAgent => world.agent_up = false,
        Op::FindAgent => world.agent_up = true,
        Op::WipeAgent => world.agent.retain(|_, seen| !seen.belongs_to(INSTANCE)),
        Op::AgentChanged => world.step(Input::AgentChanged),
        Op::RestartRegistrator => world.restart_registrator(),
        Op::Answer(which) => world.answer(which),
        Op::Deliver(which) => world.deliver(which),
        Op::Pass(millis) => {
            world.now += Duration::from_millis(millis);
            world.step(Input::Timer);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Whatever happened: once engine and agent can be reached, the agent shows what the
    /// containers ask for within the longest drain, somebody else's services are untouched
    /// (checked at every call), and then there is silence.
    #[test]
    fn every_history_converges(ops in prop::collection::vec(op(), 0..200)) {
        let mut world = World::new();
        let foreign = Seen { name: "db".to_owned(), ..Seen::default() };
        world.agent.insert("db".to_owned(), foreign.clone());
        world.list();
        for op in &ops {
            perform(&mut world, op);
        }
        world.agent_up = true;
        world.deaf = false;
        if !world.engine_connected {
            world.engine_connected = true;
        }
        world.list();
        world.quiesce();
        world.pass(Duration::from_mins(6));
        world.list();
        world.quiesce();
        world.pass(Duration::from_mins(6));
        world.assert_converged();
        prop_assert_eq!(world.agent.get("db"), Some(&foreign));
        world.wrote();
        world.restart_registrator();
        world.pass(Duration::from_mins(10));
        world.list();
        world.pass(Duration::from_mins(10));
        prop_assert_eq!(world.wrote(), Vec::<String>::new());
        world.assert_converged();
    }
}
