//! The daemon as a process: its flags, its child, its signals, and what survives a crash.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod support;

use std::fs;
use std::path::Path;
use std::time::Instant;

use nix::sys::signal::Signal;
use support::{Daemon, FakeCatalog, eventually, free_port, instance, request};

/// A folder with a template, and a catalog with one key.
struct Bench {
    folder: tempfile::TempDir,
    catalog: FakeCatalog,
}

impl Bench {
    async fn new() -> Self {
        let catalog = FakeCatalog::start().await;
        catalog.set_key("word", "one");
        let bench = Self { folder: tempfile::tempdir().unwrap(), catalog };
        bench.write("in.tera", "{{ key(path=\"word\") }}\n");
        bench
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.folder.path().join(name)).ok()
    }

    /// `-template in:out[:command]`
    fn template(&self, command: &str) -> String {
        let (source, out) = (self.path("in.tera"), self.path("out"));
        if command.is_empty() {
            format!("{source}:{out}")
        } else {
            format!("{source}:{out}:{command}")
        }
    }

    fn start(&self, arguments: &[&str]) -> Daemon {
        let state = self.path("state");
        let all = [&["-state-dir", &state, "-log-level", "debug"], arguments].concat();
        Daemon::start(self.folder.path(), self.catalog.address, &all)
    }

    async fn reads(&self, name: &str, expected: &str) {
        let what = format!("{name} is {expected:?}, not {:?}", self.read(name));
        eventually(&what, async || (self.read(name).as_deref() == Some(expected)).then_some(()))
            .await;
    }
}

/// A child in shell that notes the signals it gets in `log`. It ends with the test's folder if nobody ends it before: a
/// test that fails between two daemons leaves nobody who would.
fn child(bench: &Bench, traps: &[(&str, &str)]) -> String {
    let log = bench.path("log");
    let trap = |(signal, action): &(&str, &str)| {
        format!("trap 'echo {signal} >> {log}; {action}' {signal}\n")
    };
    let traps: String = traps.iter().map(trap).collect();
    let script = bench.path("child.sh");
    let text = format!("{traps}echo start >> {log}\nwhile [ -e {script} ]; do sleep 0.02; done\n");
    bench.write("child.sh", &text);
    format!("sh {script}")
}

#[tokio::test]
async fn once_writes_and_runs_the_command() {
    let bench = Bench::new().await;
    let command = format!("cp {} {}", bench.path("out"), bench.path("copy"));
    let mut daemon = bench.start(&["-template", &bench.template(&command), "-once"]);
    assert_eq!(daemon.wait().await, Some(0), "{}", daemon.log());
    assert_eq!(bench.read("out").unwrap(), "one\n");
    assert_eq!(bench.read("copy").unwrap(), "one\n");
}

#[tokio::test]
async fn once_fails_when_the_command_does_and_puts_the_old_file_back() {
    let bench = Bench::new().await;
    bench.write("out", "by hand\n");
    let mut daemon = bench.start(&["-template", &bench.template("echo wrong; false"), "-once"]);
    assert_eq!(daemon.wait().await, Some(1), "{}", daemon.log());
    assert_eq!(bench.read("out").unwrap(), "by hand\n");
    assert!(daemon.log().contains("wrong"), "{}", daemon.log());
}

#[tokio::test]
async fn a_failing_group_does_not_stop_another() {
    let bench = Bench::new().await;
    bench.write("bad.tera", "{{ nope }}");
    let bad = format!("{}:{}", bench.path("bad.tera"), bench.path("bad"));
    let mut daemon = bench.start(&["-template", &bad, "-template", &bench.template(""), "-once"]);
    assert_eq!(daemon.wait().await, Some(1), "{}", daemon.log());
    assert_eq!(bench.read("out").unwrap(), "one\n");
    assert_eq!(bench.read("bad"), None);
}

#[tokio::test]
async fn a_key_that_does_not_exist_is_waited_for() {
    let bench = Bench::new().await;
    bench.write("in.tera", "{{ key(path=\"later\") }}\n");
    let _daemon = bench.start(&["-template", &bench.template("")]);
    eventually("it is asked", async || (bench.catalog.asked("kv/later") > 0).then_some(())).await;
    assert_eq!(bench.read("out"), None);
    bench.catalog.set_key("later", "now");
    bench.reads("out", "now\n").await;
}

#[tokio::test]
async fn a_question_that_is_refused_is_named() {
    let bench = Bench::new().await;
    bench.write("in.tera", "{{ key(path=\"word\") }}{{ key(path=\"forbidden\") }}\n");
    let status = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let address = status.to_string();
    let _daemon = bench.start(&["-template", &bench.template(""), "-status-addr", &address]);
    let told = eventually("it is refused", async || {
        let (code, reasons) = request(status, "GET", "/readyz", "").await.ok()?;
        (code == 503 && reasons.contains("key(forbidden) is refused")).then_some(reasons)
    })
    .await;
    assert!(told.contains("Permission denied"), "{told}");
    assert!(!told.contains("catalog is away"), "{told}");
    assert_eq!(bench.read("out"), None);
}

#[tokio::test]
async fn the_child_follows_the_files_and_ends_with_the_daemon() {
    let bench = Bench::new().await;
    let child = child(&bench, &[("HUP", ":"), ("QUIT", "exit 5"), ("USR1", ":")]);
    let signals = ["-exec-reload-signal", "HUP", "-exec-kill-signal", "QUIT"];
    let template = bench.template("");
    let arguments = [&["-template", &template, "-exec", &child][..], &signals].concat();
    let mut daemon = bench.start(&arguments);
    bench.reads("log", "start\n").await;
    assert_eq!(bench.read("out").unwrap(), "one\n", "the files are there before the child");

    bench.catalog.set_key("word", "two");
    bench.reads("log", "start\nHUP\n").await;
    assert_eq!(bench.read("out").unwrap(), "two\n");
    daemon.signal(Signal::SIGUSR1);
    bench.reads("log", "start\nHUP\nUSR1\n").await;
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().await, Some(0), "a clean end: {}", daemon.log());
    assert_eq!(bench.read("log").unwrap(), "start\nHUP\nUSR1\nQUIT\n");
}

#[tokio::test]
async fn a_child_that_does_not_end_is_killed() {
    let bench = Bench::new().await;
    let child = child(&bench, &[("TERM", ":")]);
    let template = bench.template("");
    let mut daemon =
        bench.start(&["-template", &template, "-exec", &child, "-exec-kill-timeout", "300ms"]);
    bench.reads("log", "start\n").await;
    let started = Instant::now();
    daemon.signal(Signal::SIGINT);
    assert_eq!(daemon.wait().await, Some(0), "{}", daemon.log());
    assert!(started.elapsed().as_millis() >= 300);
    assert_eq!(bench.read("log").unwrap(), "start\nTERM\n");
}

#[tokio::test]
async fn the_end_of_the_child_is_the_end_of_the_daemon() {
    let bench = Bench::new().await;
    let template = bench.template("");
    let mut daemon = bench.start(&["-template", &template, "-exec", "exit 7"]);
    assert_eq!(daemon.wait().await, Some(7), "{}", daemon.log());
}

#[tokio::test]
async fn without_a_reload_signal_the_child_is_started_again() {
    let bench = Bench::new().await;
    let child = child(&bench, &[("TERM", "exit 0")]);
    let template = bench.template("");
    let _daemon = bench.start(&["-template", &template, "-exec", &child]);
    bench.reads("log", "start\n").await;
    bench.catalog.set_key("word", "two");
    bench.reads("log", "start\nTERM\nstart\n").await;
}

#[tokio::test]
async fn a_child_that_crashes_is_started_again_with_pauses() {
    let bench = Bench::new().await;
    let (log, out, source) = (bench.path("log"), bench.path("out"), bench.path("in.tera"));
    let config = format!(
        "[exec]\ncommand = [\"sh\", \"-c\", \"echo start >> {log}; exit 1\"]\nrestart = \"always\"\n\
         pause = {{ min = \"100ms\", max = \"200ms\" }}\n\
         [[group]]\nname = \"g\"\nreload = {{ child = true }}\n\
         [[group.template]]\nsource = \"{source}\"\ndestination = \"{out}\"\n"
    );
    bench.write("config.toml", &config);
    let started = Instant::now();
    let mut daemon = bench.start(&["-config", &bench.path("config.toml")]);
    let starts = || bench.read("log").unwrap_or_default().lines().count();
    eventually("it was started four times", async || (starts() >= 4).then_some(())).await;
    assert!(started.elapsed().as_millis() >= 100 + 200 + 200, "{:?}", started.elapsed());
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().await, Some(0));
}

/// The reload that consul-template loses: the file is written, the daemon dies before the command has ended, and at
/// the next start the file is equal.
#[tokio::test]
async fn a_reload_that_a_crash_interrupted_is_made_up_for() {
    let bench = Bench::new().await;
    // Waits for the gate, and for nothing any more when the folder is gone: the command outlives the daemon that is
    // killed, and may look only after the test is over.
    let (gate, source) = (bench.path("gate"), bench.path("in.tera"));
    let command = format!(
        "echo begin >> {0}; while [ -e {source} ] && [ ! -e {gate} ]; do sleep 0.02; done; echo end >> {0}",
        bench.path("log")
    );
    let template = bench.template(&command);
    let mut daemon = bench.start(&["-template", &template]);
    bench.reads("log", "begin\n").await;
    assert_eq!(bench.read("out").unwrap(), "one\n");
    daemon.kill().await;
    bench.write("gate", "");
    // The command of the dead daemon may end or not; the new daemon runs it anyway.
    let mut daemon = bench.start(&["-template", &template]);
    let ran =
        || bench.read("log").unwrap_or_default().lines().filter(|line| *line == "begin").count();
    eventually("the command runs again", async || (ran() == 2).then_some(())).await;
    assert_eq!(bench.read("out").unwrap(), "one\n");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().await, Some(0));
}

#[tokio::test]
async fn a_child_left_behind_by_a_crash_is_ended_before_another_starts() {
    let bench = Bench::new().await;
    let child = child(&bench, &[("TERM", "exit 0")]);
    let template = bench.template("");
    let arguments = ["-template", &template, "-exec", &child];
    let mut daemon = bench.start(&arguments);
    bench.reads("log", "start\n").await;
    // Noted a moment after the child was started; a crash in between leaves a child that nobody knows.
    eventually("the child is noted", async || {
        bench.read("state/child").filter(|text| text.ends_with(char::is_whitespace))
    })
    .await;
    daemon.kill().await;
    let _daemon = bench.start(&arguments);
    bench.reads("log", "start\nTERM\nstart\n").await;
}

#[tokio::test]
async fn two_daemons_do_not_share_a_state() {
    let bench = Bench::new().await;
    let template = bench.template("");
    let _first = bench.start(&["-template", &template]);
    bench.reads("out", "one\n").await;
    let mut second = bench.start(&["-template", &template]);
    assert_eq!(second.wait().await, Some(1));
    assert!(
        second.log().contains("another muster-template uses this state_dir"),
        "{}",
        second.log()
    );
}

#[tokio::test]
async fn a_changed_template_is_rendered_again() {
    let bench = Bench::new().await;
    let _daemon = bench.start(&["-template", &bench.template("")]);
    bench.reads("out", "one\n").await;
    bench.write("in.tera", "new {{ key(path=\"word\") }}\n");
    bench.reads("out", "new one\n").await;
}

#[tokio::test]
async fn files_can_be_read() {
    let bench = Bench::new().await;
    let text = format!("{{{{ file(path=\"{}\") }}}}", bench.path("input"));
    bench.write("in.tera", &text);
    let _daemon = bench.start(&["-template", &bench.template("")]);
    bench.write("input", "hello");
    bench.reads("out", "hello").await;
    bench.write("input", "hello again");
    bench.reads("out", "hello again").await;
}

#[tokio::test]
async fn wrong_use_is_refused_by_name() {
    let bench = Bench::new().await;
    bench.write("unknown.toml", "[[group]]\nname = \"g\"\ncolour = 1\n");
    let unknown = bench.path("unknown.toml");
    let template = bench.template("");
    for (arguments, code, expected) in [
        (&["-config", &unknown][..], 2, "unknown field `colour`"),
        (&["-config", "/nope.toml"], 2, "`/nope.toml`: No such file"),
        (&["-template", "only-one-part"], 2, "is not `in:out[:command]`"),
        (&["-vault-addr=x"], 2, "Vault is not supported"),
        (&["-nope"], 2, "unexpected argument '--nope'"),
        (&[], 1, "no template is given"),
        (&["-template", &template, "-wait", "soon"], 2, "`soon` is not a duration"),
        (&["-template", &template, "-consul-addr", "ftp://x"], 1, "catalog:"),
        (&["check", "-template", "/nope:/tmp/x"], 1, ""),
    ] {
        let _ = fs::remove_file(Path::new(&bench.path("daemon.log")));
        let mut daemon = bench.start(arguments);
        assert_eq!(daemon.wait().await, Some(code), "{arguments:?}: {}", daemon.log());
        assert!(daemon.log().contains(expected), "{arguments:?}: {}", daemon.log());
    }
}

#[tokio::test]
async fn check_lists_what_is_asked_and_render_needs_no_catalog() {
    let bench = Bench::new().await;
    bench.write("in.tera", "{% for s in service(name=\"web\") %}{{ s | addr }}\n{% endfor %}");
    let template = bench.template("");
    let mut check = bench.start(&["check", "-template", &template]);
    assert_eq!(check.wait().await, Some(0), "{}", check.log());
    assert!(check.log().contains("asks   service(web)"), "{}", check.log());

    bench.write("data.json", r#"{"services": {"web": [{"address": "10.0.0.1", "port": 80}]}}"#);
    let data = bench.path("data.json");
    let mut render = bench.start(&["render", "--stdout", "--data", &data, "-template", &template]);
    assert_eq!(render.wait().await, Some(0), "{}", render.log());
    assert!(render.log().contains("10.0.0.1:80\n"), "{}", render.log());
    assert_eq!(bench.read("out"), None);
}

#[tokio::test]
async fn many_services_share_watches_and_one_change() {
    let bench = Bench::new().await;
    let address = instance("x").await;
    for name in ["a", "b", "c"] {
        bench.catalog.set_service(name, &[(name, address, "passing")]);
    }
    let loops =
        "{% for s in services() %}{{ s.name }}={{ service(name=s.name) | length }} {% endfor %}";
    bench.write("in.tera", loops);
    let second = format!("{}:{}", bench.path("in.tera"), bench.path("out2"));
    let _daemon = bench.start(&["-template", &bench.template(""), "-template", &second]);
    bench.reads("out", "a=1 b=1 c=1 ").await;
    bench.reads("out2", "a=1 b=1 c=1 ").await;
    for path in ["services", "health/a", "health/b", "health/c"] {
        assert_eq!(bench.catalog.asked(path), 1, "{path}");
    }
}
