//! The rules by which checks change and the catalog follows, as a table recorded from the reference.
//!
//! ```text
//! @ what the rule says; a fresh agent        {"keys": "of its configuration"}
//! $ step                                     what is done, or looked at
//! = what comes of it
//! # differs: why                             before a step: here the reference says something else,
//! ! what the reference says                  and this is it
//! ```
//!
//! | step | what it does, and what comes of it |
//! |---|---|
//! | `put PATH BODY` | status, and the words of a refusal |
//! | `file BODY` | definitions of a file, and a reload |
//! | `run CHECK CODE` | one run is answered so: how the check is afterwards |
//! | `always CHECK CODE` | every run is answered so |
//! | `visited CHECK` | whether it ran by now |
//! | `check ID`, `catalog ID` | how it is, as the agent says, and as the catalog says |
//! | `now ...` | the same, at one look: a change that is to come later is not there yet |
//! | `services`, `health ID` | the agent's services; how one is, all in all |
//! | `gone ID` | whether the agent has let a service go |
//! | `count PATH` | rows of a list |
//! | `restart`, `kill` | the agent is asked to end, or killed, and starts again |
//!
//! `MUSTER_REFERENCE=/path/to/consul` holds the reference against its side of the table, with `MUSTER_RECORD=1` that
//! side is written anew. That takes minutes, since the reference looks for what is to go every 30 s only.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::{Agent, PROGRAM, moment};
use crate::stub::Stub;

/// How long a value may take to be as expected.
const PATIENCE: Duration = Duration::from_secs(40);
/// A recorded value has stayed the same for this long.
const STILL: Duration = Duration::from_millis(1500);
/// The reference looks only now and then for what is to go.
const GONE: Duration = Duration::from_mins(2);

#[derive(Debug, Clone, Default)]
struct Rule {
    title: String,
    keys: String,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Default)]
struct Step {
    /// Lines before it that are for people.
    comments: Vec<String>,
    /// Why the reference says something else, where it does.
    differs: Option<String>,
    line: String,
    ours: Option<String>,
    theirs: Option<String>,
}

fn parse(text: &str) -> (Vec<String>, Vec<Rule>) {
    let (mut head, mut rules, mut comments, mut differs) =
        (Vec::new(), Vec::new(), Vec::new(), None);
    for line in text.lines() {
        let (mark, rest) = line.split_at_checked(1).unwrap_or_default();
        let rest = rest.strip_prefix(' ').unwrap_or(rest).to_owned();
        let rule: Option<&mut Rule> = rules.last_mut();
        match (mark, rule) {
            ("", _) => {}
            ("#", None) => head.push(rest),
            ("#", Some(_)) => match rest.strip_prefix("differs: ") {
                Some(why) => differs = Some(why.to_owned()),
                None => comments.push(rest),
            },
            ("@", _) => {
                let (title, keys) = rest.split_once('{').unwrap_or((&rest, "}"));
                let (title, keys) = (title.trim().to_owned(), format!("{{{keys}"));
                rules.push(Rule { title, keys, steps: Vec::new() });
            }
            ("$", Some(rule)) => rule.steps.push(Step {
                comments: std::mem::take(&mut comments),
                differs: differs.take(),
                line: rest,
                ..Step::default()
            }),
            ("=", Some(rule)) => rule.steps.last_mut().unwrap().ours = Some(rest),
            ("!", Some(rule)) => rule.steps.last_mut().unwrap().theirs = Some(rest),
            _ => panic!("what is `{line}`?"),
        }
    }
    (head, rules)
}

fn print(head: &[String], rules: &[Rule]) -> String {
    let mut text = String::new();
    for line in head {
        writeln!(text, "# {line}").unwrap();
    }
    for rule in rules {
        let keys = if rule.keys == "{}" { String::new() } else { format!(" {}", rule.keys) };
        writeln!(text, "\n@ {}{keys}", rule.title).unwrap();
        for step in &rule.steps {
            for comment in &step.comments {
                writeln!(text, "# {comment}").unwrap();
            }
            if let Some(why) = &step.differs {
                writeln!(text, "# differs: {why}").unwrap();
            }
            writeln!(text, "$ {}", step.line).unwrap();
            for (mark, said) in [("=", &step.ours), ("!", &step.theirs)] {
                if let Some(said) = said {
                    writeln!(text, "{}", format!("{mark} {said}").trim_end()).unwrap();
                }
            }
        }
    }
    text
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Held against what the table says of ours.
    Ours,
    /// Held against what the table says of the reference.
    Theirs,
    /// What the reference says is written down.
    Record,
}

/// One rule on an agent of its own.
struct Play {
    agent: Agent,
    stub: Stub,
}

impl Play {
    fn start(program: &str, keys: &str) -> Play {
        let mut keys: Value = serde_json::from_str(keys).unwrap();
        let stub = Stub::start();
        // Most rules look at outputs as well; those about their delay say otherwise.
        let keys = keys.as_object_mut().unwrap();
        keys.entry("check_update_interval").or_insert_with(|| "0s".into());
        Play { agent: Agent::start(program, &json!(keys)), stub }
    }

    /// Does what is done once; `Some` is what came of it, `None` asks to look.
    fn act(&mut self, line: &str) -> Option<String> {
        let line = line.replace("{stub}", &self.stub.address.to_string());
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
        let done = match verb {
            "put" => {
                let (status, body) = self.agent.ask("PUT", first, second);
                if status == 200 { "200".to_owned() } else { format!("{status} {}", body.trim()) }
            }
            "file" => {
                self.agent.configure(&serde_json::from_str(rest).unwrap());
                self.agent.reload();
                String::new()
            }
            "run" => {
                self.stub.answer_one(first, second.parse().unwrap());
                self.look(&format!("check {first}"))
            }
            "always" => {
                self.stub.always(first, second.parse().unwrap());
                String::new()
            }
            "restart" | "kill" => {
                if verb == "kill" {
                    self.agent.kill();
                } else {
                    self.agent.stop();
                }
                self.agent.again();
                String::new()
            }
            "now" => self.look(rest),
            _ => return None,
        };
        Some(done)
    }

    fn look(&self, line: &str) -> String {
        let (verb, name) = line.split_once(' ').unwrap_or((line, ""));
        let said = |check: &Value| {
            let text = |key: &str| check[key].as_str().unwrap_or("nothing").to_owned();
            let said = format!("{} {}", text("Status"), text("Output").escape_debug());
            said.replace(&self.stub.address.to_string(), "{stub}").trim_end().to_owned()
        };
        match verb {
            "check" => said(&self.agent.json("/v1/agent/checks")[name]),
            "catalog" => {
                let checks = self.agent.json("/v1/health/node/one");
                let found = checks.as_array().unwrap().iter().find(|it| it["CheckID"] == name);
                found.map_or_else(|| "none".to_owned(), said)
            }
            "visited" => {
                let visited = self.stub.visits(name) > 0;
                if visited { "yes" } else { "no" }.to_owned()
            }
            "services" => {
                let services = self.agent.json("/v1/agent/services");
                services.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
            }
            "gone" => {
                let services = self.agent.json("/v1/agent/services");
                if services[name].is_null() { "yes" } else { "no" }.to_owned()
            }
            "health" => {
                let path = format!("/v1/agent/health/service/id/{name}?format=text");
                let (status, body) = self.agent.ask("GET", &path, "");
                format!("{status} {}", body.trim())
            }
            "count" => self.agent.json(name).as_array().unwrap().len().to_string(),
            other => panic!("what is `{other}`?"),
        }
    }

    /// What comes of a step, looked at until it is as `expected`, or, where nothing is, until it stays.
    fn step(&mut self, line: &str, expected: Option<&str>) -> String {
        if let Some(done) = self.act(line) {
            return done;
        }
        let (mut found, start) = (self.look(line), Instant::now());
        let mut since = start;
        let (patience, still) =
            if line.starts_with("gone ") { (GONE, GONE) } else { (PATIENCE, STILL) };
        loop {
            let enough = match expected {
                Some(expected) => found == expected || start.elapsed() > patience,
                None => since.elapsed() > still,
            };
            if enough {
                return found;
            }
            moment();
            let next = self.look(line);
            if next != found {
                (found, since) = (next, Instant::now());
            }
        }
    }
}

/// Plays a rule: what went wrong.
fn play(rule: &mut Rule, program: &str, mode: Mode) -> String {
    let mut faults = String::new();
    let mut play = Play::start(program, &rule.keys);
    for step in &mut rule.steps {
        let expected = match mode {
            Mode::Ours => Some(step.ours.clone().unwrap_or_default()),
            Mode::Theirs => Some(step.theirs.clone().or(step.ours.clone()).unwrap_or_default()),
            Mode::Record => None,
        };
        let found = play.step(&step.line, expected.as_deref());
        if let Some(expected) = expected {
            if found != expected {
                writeln!(
                    faults,
                    "@ {}\n$ {}\n  {found}\n  not\n  {expected}",
                    rule.title, step.line
                )
                .unwrap();
            }
        } else if step.differs.is_some() {
            step.theirs = Some(found);
        } else {
            step.ours = Some(found).filter(|found| !found.is_empty());
        }
    }
    faults
}

fn play_all(rules: &mut [Rule], program: &str, mode: Mode) -> String {
    let mut faults = String::new();
    // A few at a time: most of a rule is waiting.
    for some in rules.chunks_mut(4) {
        std::thread::scope(|scope| {
            let played: Vec<_> = some
                .iter_mut()
                .map(|rule| scope.spawn(move || play(rule, program, mode)))
                .collect();
            for played in played {
                faults +=
                    &played.join().unwrap_or_else(|_| "a rule could not be played\n".to_owned());
            }
        });
    }
    faults
}

#[test]
fn checks_change_by_the_reference_s_rules() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checks/rows/rules.txt");
    let (head, mut rules) = parse(&std::fs::read_to_string(&path).unwrap());
    assert!(rules.len() > 10, "the table has rows");
    let mut faults = String::new();
    if let Ok(reference) = std::env::var("MUSTER_REFERENCE") {
        if std::env::var_os("MUSTER_RECORD").is_some() {
            play_all(&mut rules, &reference, Mode::Record);
            std::fs::write(&path, print(&head, &rules)).unwrap();
        } else {
            faults += &play_all(&mut rules, &reference, Mode::Theirs);
        }
        assert!(faults.is_empty(), "the reference:\n{faults}");
    }
    faults += &play_all(&mut rules, PROGRAM, Mode::Ours);
    assert!(faults.is_empty(), "\n{faults}");
}
