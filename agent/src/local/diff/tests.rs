use std::time::{Duration, Instant};

use super::super::definition::{CheckRegistration, Registration, Source, maintenance};
use super::super::state::{Effect, Outputs};
use super::*;
use crate::checks::{CheckResult, Shared, Status};
use crate::store::{Command, Reply, Store, Timestamp};
use muster_client::types::{CheckDefinition, ServiceDefinition};

const AT_ONCE: Outputs = Outputs { discard: false, delay: Duration::ZERO };
const LATER: Outputs = Outputs { discard: false, delay: Duration::from_mins(5) };

fn node() -> Node {
    Node {
        id: "11111111-2222-3333-4444-555555555555".into(),
        name: "n1".into(),
        address: "127.0.0.1".into(),
        datacenter: "dc1".into(),
        ..Node::default()
    }
}

/// An agent's claims and a real store that they are written to.
struct World {
    registrations: Registrations,
    store: Store,
    index: u64,
}

impl World {
    fn new() -> World {
        World { registrations: Registrations::default(), store: Store::default(), index: 0 }
    }

    fn service(&mut self, definition: &ServiceDefinition) {
        let read = Registration::new(definition, "n1", Shared::default()).unwrap();
        self.registrations.put_service(read.row, Source::Api);
        for check in read.checks {
            self.registrations.put_check(check.row, Some(check.run), 1, Source::Api);
        }
    }

    fn node_check(&mut self, name: &str) {
        let written = ttl(name);
        let read = CheckRegistration::new(written, "n1", None, Shared::default()).unwrap();
        self.registrations.put_check(read.row, Some(read.run), 1, Source::Api);
    }

    fn apply(&mut self, change: Change) {
        self.index += 1;
        let command = Command { at: Timestamp(0), change };
        let applied = self.store.apply(self.index, &command);
        assert!(!matches!(applied.reply, Reply::Refused(_)), "{:?}", applied.reply);
    }

    fn held(&self) -> Held {
        Held::look(&self.store, "n1").0
    }

    /// Writes all that is not settled; answers what, in short.
    fn push(&mut self) -> Vec<String> {
        let steps = steps(&self.registrations, &node());
        let shown = steps.iter().map(|step| show(&step.change)).collect();
        for step in steps {
            self.apply(step.change);
            for (subject, version) in step.settles {
                self.registrations.settle(&subject, version);
            }
        }
        assert!(self.registrations.is_settled());
        shown
    }

    fn audit(&mut self) {
        let held = self.held();
        let read_at = self.registrations.version();
        audit(&mut self.registrations, &node(), &held, read_at);
    }

    fn observe(&mut self, id: &str, status: Status, output: &str, outputs: Outputs) -> Effect {
        let outcome = CheckResult::new(status, output);
        self.registrations.observe(id, 1, outcome, outputs, Instant::now(), 0.5)
    }
}

fn ttl(name: &str) -> CheckDefinition {
    CheckDefinition { name: name.into(), ttl: Some("10s".into()), ..CheckDefinition::default() }
}

fn web() -> ServiceDefinition {
    ServiceDefinition {
        name: "web".into(),
        checks: vec![ttl("a"), ttl("b")],
        ..ServiceDefinition::default()
    }
}

fn show(change: &Change) -> String {
    match change {
        Change::Register(register) => {
            let checks: Vec<&str> = register.checks.iter().map(|check| &*check.id).collect();
            format!(
                "{} {} [{}]",
                if register.skip_node_update { "put" } else { "node" },
                register.service.as_ref().map_or("-", |service| &*service.id),
                checks.join(" ")
            )
        }
        Change::Deregister(gone) => format!(
            "drop {} {}",
            gone.service_id.as_deref().unwrap_or("-"),
            gone.check_id.as_deref().unwrap_or("-")
        ),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_service_travels_with_its_checks_and_then_nothing_does() {
    let mut world = World::new();
    world.service(&web());
    world.node_check("disk");
    assert_eq!(
        world.push(),
        ["node - []", "put web [service:web:1 service:web:2]", "put - [disk]"]
    );
    assert_eq!(world.push(), Vec::<String>::new());
    world.audit();
    assert_eq!(world.push(), Vec::<String>::new(), "an audit of equal things writes nothing");
}

#[test]
fn only_what_changed_travels() {
    let mut world = World::new();
    world.service(&web());
    world.push();
    assert_eq!(world.observe("service:web:1", Status::Passing, "ok", LATER), Effect::Status);
    assert_eq!(world.push(), ["put web [service:web:1]"]);
    assert_eq!(world.observe("service:web:1", Status::Passing, "ok", LATER), Effect::None);
    assert_eq!(world.push(), Vec::<String>::new());
    assert_eq!(world.observe("unknown", Status::Passing, "ok", LATER), Effect::None);
}

#[test]
fn an_output_alone_waits_for_its_time() {
    let mut world = World::new();
    world.service(&web());
    world.push();
    let start = Instant::now();
    assert_eq!(world.observe("service:web:1", Status::Critical, "one", LATER), Effect::Deferred);
    assert_eq!(world.observe("service:web:1", Status::Critical, "two", LATER), Effect::Output);
    world.audit();
    assert_eq!(world.push(), Vec::<String>::new(), "neither at once nor by an audit");
    let due = world.registrations.release_outputs(start).expect("one output waits");
    assert!(due >= start + Duration::from_mins(5), "half the chance is the whole delay");
    assert_eq!(world.registrations.release_outputs(due), None);
    assert_eq!(world.push(), ["put web [service:web:1]"]);
    assert_eq!(world.held().checks[0].output, "two");

    // A status takes the output along, and without a delay nothing waits.
    world.observe("service:web:1", Status::Critical, "three", LATER);
    world.observe("service:web:1", Status::Passing, "four", LATER);
    assert_eq!(world.push(), ["put web [service:web:1]"]);
    assert_eq!(world.registrations.release_outputs(due), None);
    assert_eq!(world.observe("service:web:1", Status::Passing, "five", AT_ONCE), Effect::Status);
    assert_eq!(world.push(), ["put web [service:web:1]"]);
    let silent = Outputs { discard: true, delay: Duration::ZERO };
    world.observe("service:web:1", Status::Passing, "six", silent);
    world.push();
    assert_eq!(world.held().checks[0].output, "");
}

#[test]
fn what_is_given_up_goes() {
    let mut world = World::new();
    world.service(&web());
    world.node_check("disk");
    world.push();
    assert_eq!(world.registrations.remove_service("web").unwrap().len(), 2);
    assert!(world.registrations.remove_check("disk"));
    assert!(
        world.registrations.remove_service("web").is_none()
            && !world.registrations.remove_check("disk")
    );
    assert_eq!(world.push(), ["drop web -", "drop - disk"]);
    assert!(world.held().services.is_empty() && world.held().checks.is_empty());

    // Registered again before it went: it stays.
    world.service(&web());
    world.push();
    world.registrations.remove_service("web");
    world.service(&web());
    assert_eq!(world.push(), ["put web [service:web:1 service:web:2]"]);
}

#[test]
fn what_others_did_to_the_catalog_is_undone() {
    let mut world = World::new();
    world.service(&web());
    world.push();
    let stranger = ServiceDefinition { name: "ghost".into(), ..ServiceDefinition::default() };
    let ghost = Registration::new(&stranger, "n1", Shared::default()).unwrap().row;
    let leader = Service { id: LEADER_SERVICE.into(), name: "consul".into(), ..ghost.clone() };
    let serf = Check { id: LEADER_CHECK.into(), ..maintenance("n1", None, "") };
    let other = Check { id: "stray".into(), ..maintenance("n1", None, "") };
    world.apply(register(&node(), true, Some(ghost), vec![serf, other]));
    world.apply(register(&node(), true, Some(leader), vec![]));
    let dropped = Deregister { node: "n1".into(), service_id: Some("web".into()), check_id: None };
    world.apply(Change::Deregister(dropped));
    world.audit();
    assert_eq!(
        world.push(),
        ["drop ghost -", "drop - stray", "put web [service:web:1 service:web:2]"]
    );
    let ids: Vec<_> = world.held().services.iter().map(|s| s.id.to_string()).collect();
    assert_eq!(ids, ["consul", "web"]);
    let ids: Vec<_> = world.held().checks.iter().map(|c| c.id.to_string()).collect();
    assert_eq!(ids, ["serfHealth", "service:web:1", "service:web:2"]);

    // The whole node was deregistered.
    let all = Deregister { node: "n1".into(), service_id: None, check_id: None };
    world.apply(Change::Deregister(all));
    world.audit();
    assert_eq!(world.push(), ["node - []", "put web [service:web:1 service:web:2]"]);
}

#[test]
fn tags_belong_to_the_catalog_where_their_owner_says_so() {
    for (enable_tag_override, expected) in [(true, "theirs"), (false, "ours")] {
        let mut world = World::new();
        let ours = ServiceDefinition { tags: vec!["ours".into()], enable_tag_override, ..web() };
        world.service(&ours);
        world.push();
        let mut row = Service::clone(&world.held().services[0]);
        row.tags = vec!["theirs".into()];
        world.apply(register(&node(), true, Some(row), vec![]));
        // A check's news must not carry the old tags back.
        world.observe("service:web:1", Status::Passing, "ok", LATER);
        if enable_tag_override {
            assert_eq!(world.push(), ["put - [service:web:1]"]);
        }
        world.audit();
        world.push();
        assert_eq!(world.held().services[0].tags, [expected]);
        assert_eq!(world.registrations.services()["web"].row.tags, [expected]);
    }
}

#[test]
fn a_push_that_was_overtaken_settles_nothing() {
    let mut world = World::new();
    world.service(&web());
    world.push();
    world.observe("service:web:1", Status::Passing, "ok", LATER);
    let under_way = steps(&world.registrations, &node());
    world.observe("service:web:1", Status::Critical, "no", LATER);
    for step in under_way {
        world.apply(step.change);
        for (subject, version) in step.settles {
            world.registrations.settle(&subject, version);
        }
    }
    assert_eq!(world.push(), ["put web [service:web:1]"]);
    assert_eq!(world.held().checks[0].status, "critical");
}

#[test]
fn registered_again_a_check_keeps_its_status() {
    let mut world = World::new();
    world.service(&web());
    world.observe("service:web:1", Status::Passing, "ok", LATER);
    world.service(&web());
    let claim = &world.registrations.checks()["service:web:1"];
    assert_eq!((claim.row.status.as_str(), claim.row.output.as_str()), ("passing", "ok"));
    // Results of the earlier registration do not count.
    let outcome = CheckResult::critical("old");
    let effect =
        world.registrations.observe("service:web:1", 7, outcome, LATER, Instant::now(), 0.5);
    assert_eq!(effect, Effect::None);
}

#[test]
fn critical_time_begins_with_the_first_failure() {
    let mut world = World::new();
    world.service(&web());
    let since = |world: &World| world.registrations.checks()["service:web:1"].critical_since;
    assert_eq!(since(&world), None);
    world.observe("service:web:1", Status::Critical, "x", LATER);
    let first = since(&world).expect("critical");
    world.observe("service:web:1", Status::Critical, "y", LATER);
    assert_eq!(since(&world), Some(first));
    world.observe("service:web:1", Status::Warning, "y", LATER);
    assert_eq!(since(&world), None);
}

#[test]
fn a_restart_does_not_fail_what_was_well() {
    let http = CheckDefinition {
        name: "http".into(),
        http: Some("http://127.0.0.1:1/".into()),
        interval: Some("10s".into()),
        ..CheckDefinition::default()
    };
    let web = ServiceDefinition { checks: vec![http, ttl("ttl")], ..web() };
    let mut world = World::new();
    world.service(&web);
    world.observe("service:web:1", Status::Passing, "ok", LATER);
    world.observe("service:web:2", Status::Passing, "ok", LATER);
    world.push();

    world.registrations = Registrations::default();
    world.service(&web);
    world.registrations.recall();
    world.audit();
    // The one that will run again is as it was. The other's owner has to say so again.
    assert_eq!(world.push(), ["put web [service:web:2]"]);
    let held = world.held();
    let statuses: Vec<_> = held.checks.iter().map(|check| &*check.status).collect();
    assert_eq!(statuses, ["passing", "critical"]);

    // Once it has run, the agent knows better than the catalog.
    world.observe("service:web:1", Status::Critical, "refused", LATER);
    world.audit();
    assert_eq!(world.push(), ["put web [service:web:1]"]);
}
