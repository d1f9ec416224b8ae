//! The daemon as a process: its flags, its child, its signals, and what survives a crash.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod support;

use std::fs;
use std::path::Path;
use std::time::Instant;

use muster_testing::free_port;
use nix::sys::signal::Signal;
use support::{Daemon, FakeCatalog, eventually, instance, request};

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
async fn a_key_that_does_not_exist_is_said() {
    let bench = Bench::new().await;
    bench.write("in.tera", "{{ key(path=\"later\") }}\n");
    let daemon = bench.start(&["-template", &bench.template("")]);
    eventually("it is said", async || {
        daemon.log().contains("still waits: key(later) does not exist").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_run_that_ends_may_have_a_time_to_end() {
    let bench = Bench::new().await;
    bench.write("in.tera", "{{ key(path=\"later\") }}\n");
    let template = bench.template("");
    let mut daemon = bench.start(&["-template", &template, "-once", "-timeout", "300ms"]);
    assert_eq!(daemon.wait().await, Some(1), "{}", daemon.log());
    // Its time may be over before the catalog has said that the key does not exist.
    let told = "not done in time: group 0-out is waiting: key(later)";
    assert!(daemon.log().contains(told), "{}", daemon.log());
}

#[tokio::test]
async fn a_file_that_is_removed_or_changed_is_written_again() {
    let bench = Bench::new().await;
    let command = format!("echo told >> {}", bench.path("log"));
    let _daemon = bench.start(&["-template", &bench.template(&command)]);
    bench.reads("log", "told\n").await;
    fs::remove_file(bench.path("out")).unwrap();
    bench.reads("out", "one\n").await;
    bench.reads("log", "told\ntold\n").await;
    bench.write("out", "by hand\n");
    bench.reads("out", "one\n").await;
    bench.reads("log", "told\ntold\ntold\n").await;
}

#[tokio::test]
async fn a_leading_slash_of_a_key_means_nothing() {
    let bench = Bench::new().await;
    bench.write("in.tera", "{{ key(path=\"/word\") }} {{ key(path=\"/none\", default=\"x\") }} {{ key_exists(path=\"/word\") }}");
    let _daemon = bench.start(&["-template", &bench.template("")]);
    bench.reads("out", "one x true").await;
}

#[tokio::test]
async fn a_filter_that_is_none_is_told_from_an_absent_catalog() {
    let bench = Bench::new().await;
    bench.write("in.tera", "a\n{{ service(name=\"web\", filter=\"x ==\") | length }}\n");
    let status = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let address = status.to_string();
    let daemon = bench.start(&["-template", &bench.template(""), "-status-addr", &address]);
    let told = eventually("it is refused", async || {
        let (code, reasons) = request(status, "GET", "/readyz", "").await.ok()?;
        (code == 503 && reasons.contains("is failed")).then_some(reasons)
    })
    .await;
    assert!(told.contains("in.tera:2:4: service(): `service(web)|x ==` is refused:"), "{told}");
    assert!(told.contains("no match found"), "{told}");
    assert!(!told.contains("catalog is away"), "{told}");
    drop(daemon);
    let mut once = bench.start(&["-template", &bench.template(""), "-once"]);
    assert_eq!(once.wait().await, Some(1), "{}", once.log());
}

#[tokio::test]
async fn once_that_fails_leaves_a_missing_file_missing() {
    let bench = Bench::new().await;
    let once = || bench.start(&["-template", &bench.template(""), "-once", "-timeout", "10s"]);
    assert_eq!(once().wait().await, Some(0));
    let destination = bench.folder.path().join("out");
    std::fs::remove_file(&destination).unwrap();
    bench.write("in.tera", "{{ service(name=\"web\", dc=\"nowhere\") | length }}");
    let mut failed = once();
    assert_eq!(failed.wait().await, Some(1), "{}", failed.log());
    assert!(!destination.exists(), "{}", failed.log());
    let log = failed.log();
    assert!(log.contains("No path to datacenter") && log.contains("in.tera:1:"), "{log}");
    assert!(!log.contains("catalog is away"), "{log}");
}

#[tokio::test]
async fn nothing_is_ready_before_the_files_are_in_use() {
    let bench = Bench::new().await;
    bench.write("in.tera", "{{ key(path=\"later\") }}\n");
    let child = child(&bench, &[("TERM", "exit 0")]);
    let status = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (address, template) = (status.to_string(), bench.template(""));
    let _daemon = bench.start(&["-template", &template, "-exec", &child, "-status-addr", &address]);
    let mut seen = Vec::new();
    eventually("the key is asked", async || {
        if let Ok((code, _)) = request(status, "GET", "/readyz", "").await {
            seen.push(code);
        }
        (bench.catalog.asked("kv/later") > 0 && seen.len() > 10).then_some(())
    })
    .await;
    assert!(seen.iter().all(|code| *code == 503), "{seen:?}");
    bench.catalog.set_key("later", "now");
    eventually("all is in use", async || {
        let (code, _) = request(status, "GET", "/readyz", "").await.ok()?;
        (code == 200).then_some(())
    })
    .await;
    assert_eq!(bench.read("out").unwrap(), "now\n");
    bench.reads("log", "start\n").await;
}

#[tokio::test]
async fn a_reload_command_waits_for_the_child_that_shows_the_files() {
    let bench = Bench::new().await;
    let (log, out, port) = (bench.path("log"), bench.path("out"), free_port());
    let server = format!(
        "import http.server, os; os.chdir({:?}); http.server.HTTPServer((\"127.0.0.1\", {port}), http.server.SimpleHTTPRequestHandler).serve_forever()",
        bench.path("")
    );
    bench.write("server.py", &server);
    let config = format!(
        "[exec]\ncommand = [\"python3\", \"{}\"]\n[[group]]\nname = \"g\"\n\
         reload = {{ command = \"echo told >> {log}\" }}\n\
         verify = {{ url = \"http://127.0.0.1:{port}/out\" }}\n\
         [[group.template]]\nsource = \"{}\"\ndestination = \"{out}\"\n",
        bench.path("server.py"),
        bench.path("in.tera")
    );
    bench.write("config.toml", &config);
    let status = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let address = status.to_string();
    let _daemon = bench.start(&["-config", &bench.path("config.toml"), "-status-addr", &address]);
    eventually("all is in use", async || {
        let (code, _) = request(status, "GET", "/readyz", "").await.ok()?;
        (code == 200).then_some(())
    })
    .await;
    bench.reads("log", "told\n").await;
    bench.catalog.set_key("word", "two");
    bench.reads("out", "two\n").await;
    bench.reads("log", "told\ntold\n").await;
}

#[tokio::test]
async fn an_error_that_comes_during_a_change_is_not_forgotten() {
    let bench = Bench::new().await;
    let command = format!(
        "echo begin >> {0}; while [ -e {1} ] && [ ! -e {2} ]; do sleep 0.02; done; echo end >> {0}",
        bench.path("log"),
        bench.path("in.tera"),
        bench.path("gate")
    );
    bench.write("in.tera", "{{ key(path=\"word\", type=\"int\") }}\n");
    bench.catalog.set_key("word", "1");
    let status = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let address = status.to_string();
    let daemon = bench.start(&["-template", &bench.template(&command), "-status-addr", &address]);
    bench.reads("log", "begin\n").await;
    bench.catalog.set_key("word", "nonsense");
    eventually("it fails", async || daemon.log().contains("is not an integer").then_some(())).await;
    bench.write("gate", "");
    bench.reads("log", "begin\nend\n").await;
    eventually("the change is over", async || daemon.log().contains("changed").then_some(())).await;
    let (code, reasons) = request(status, "GET", "/readyz", "").await.unwrap();
    assert_eq!(code, 503);
    assert!(reasons.contains("`nonsense` is not an integer"), "{reasons}");
}

#[tokio::test]
async fn nothing_in_the_state_directory_is_for_others() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new().await;
    let mut daemon = bench.start(&["-template", &bench.template("")]);
    bench.reads("out", "one\n").await;
    eventually("it is noted", async || bench.read("state/0-out/good.json")).await;
    // Else files could be renamed and removed while they are looked at.
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().await, Some(0), "{}", daemon.log());
    let mut folders = vec![std::path::PathBuf::from(bench.path("state"))];
    while let Some(folder) = folders.pop() {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
            }
        }
    }
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
        bench.start(&["-template", &template, "-exec", &child, "-exec-kill-timeout", "1s"]);
    bench.reads("log", "start\n").await;
    let started = Instant::now();
    daemon.signal(Signal::SIGINT);
    assert_eq!(daemon.wait().await, Some(0), "{}", daemon.log());
    assert!(started.elapsed().as_millis() >= 1000);
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
        second.log().contains("another muster-template uses this folder for its state"),
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

/// As Kubernetes mounts them: a link to a folder is replaced, and with it all files.
#[tokio::test]
async fn files_behind_links_are_followed() {
    let bench = Bench::new().await;
    let mount = |name: &str, word: &str| {
        let folder = bench.folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        let out = bench.path("out");
        let config = format!(
            "[[group]]\nname = \"g\"\npartials = [\"{0}\"]\n[[group.template]]\nsource = \"{1}\"\ndestination = \"{out}\"\n\
             [[group]]\nname = \"{word}\"\n[[group.template]]\ncontents = \"{word}\"\ndestination = \"{2}\"\n",
            bench.path("partial.tera"),
            bench.path("main.tera"),
            bench.path(&format!("extra-{word}"))
        );
        fs::write(folder.join("config.toml"), config).unwrap();
        fs::write(folder.join("partial.tera"), format!("partial {word}")).unwrap();
        fs::write(folder.join("input"), format!("input {word}")).unwrap();
        let main = format!(
            "main {word}, {{% include \"{}\" %}}, {{{{ file(path=\"{}\") }}}}",
            bench.path("partial.tera"),
            bench.path("input")
        );
        fs::write(folder.join("main.tera"), main).unwrap();
        std::os::unix::fs::symlink(name, bench.path("..tmp")).unwrap();
        fs::rename(bench.path("..tmp"), bench.path("..data")).unwrap();
    };
    for name in ["config.toml", "partial.tera", "main.tera", "input"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), bench.path(name)).unwrap();
    }
    mount("..one", "one");
    let _daemon = bench.start(&["-config", &bench.path("config.toml")]);
    bench.reads("out", "main one, partial one, input one").await;
    bench.reads("extra-one", "one").await;
    mount("..two", "two");
    bench.reads("out", "main two, partial two, input two").await;
    bench.reads("extra-two", "two").await;
}

#[tokio::test]
async fn the_configuration_is_read_again_when_it_changes_unless_told_otherwise() {
    let bench = Bench::new().await;
    let config = |word: &str, more: &str| {
        format!(
            "{more}\n[[group]]\nname = \"g\"\n[[group.template]]\ncontents = \"{word}\"\ndestination = \"{}\"\n",
            bench.path("out")
        )
    };
    fs::create_dir(bench.path("conf.d")).unwrap();
    bench.write("conf.d/a.toml", &config("one", ""));
    let mut daemon = bench.start(&["-config", &bench.path("conf.d")]);
    bench.reads("out", "one").await;
    bench.write("conf.d/a.toml", &config("two", "nonsense = 1"));
    eventually("the mistake is told", async || {
        daemon.log().contains("unknown field `nonsense`").then_some(())
    })
    .await;
    bench.write("conf.d/a.toml", &config("three", ""));
    bench.reads("out", "three").await;
    let more = config("more", "").replace("\"g\"", "\"h\"").replace("/out\"", "/more\"");
    bench.write("conf.d/b.toml", &more);
    bench.reads("more", "more").await;
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().await, Some(0), "{}", daemon.log());

    bench.write("conf.d/a.toml", &config("four", "auto_reload_config = false"));
    let daemon = bench.start(&["-config", &bench.path("conf.d")]);
    bench.reads("out", "four").await;
    bench.write("conf.d/a.toml", &config("five", "auto_reload_config = false"));
    daemon.signal(Signal::SIGHUP);
    bench.reads("out", "five").await;
    assert_eq!(daemon.log().matches("read the configuration again").count(), 3);
}

#[tokio::test]
async fn a_full_state_directory_holds_up_no_change() {
    let bench = Bench::new().await;
    let status = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (address, template) = (status.to_string(), bench.template(""));
    let daemon = bench.start(&["-template", &template, "-status-addr", &address]);
    let ready = async |expected: u16| {
        eventually(&format!("/readyz answers {expected}"), async || {
            let (code, reasons) = request(status, "GET", "/readyz", "").await.ok()?;
            (code == expected).then_some(reasons)
        })
        .await
    };
    ready(200).await;
    // Folders in the way of the files that are written first: no file can be made, whoever asks.
    let obstacles =
        ["journal.new", "good.new"].map(|name| bench.path(&format!("state/0-out/{name}")));
    for path in &obstacles {
        fs::create_dir(path).unwrap();
    }
    bench.catalog.set_key("word", "two");
    bench.reads("out", "two\n").await;
    let reasons = ready(503).await;
    assert!(reasons.contains("the version in use cannot be noted"), "{reasons}");
    assert!(reasons.contains("good.new") && reasons.contains("`state_dir`"), "{reasons}");
    assert!(daemon.log().contains("a change cannot be noted"), "{}", daemon.log());
    bench.catalog.set_key("word", "three");
    bench.reads("out", "three\n").await;
    for path in &obstacles {
        fs::remove_dir(path).unwrap();
    }
    ready(200).await;
}

/// The state of two daemons that nobody gave a place for it.
#[tokio::test]
async fn daemons_with_other_files_have_other_states() {
    let bench = Bench::new().await;
    bench.write("two.tera", "second");
    let second = format!("{}:{}", bench.path("two.tera"), bench.path("two"));
    let first = bench.template("");
    // As systemd says where a service keeps its state.
    let base = bench.path("states");
    let start = |template: &str| {
        let arguments = ["-template", template];
        let environment = [("STATE_DIRECTORY", base.as_str())];
        Daemon::start_with(bench.folder.path(), bench.catalog.address, &arguments, &environment)
    };
    let _first = start(&first);
    let _second = start(&second);
    bench.reads("out", "one\n").await;
    bench.reads("two", "second").await;
    // The same files are the same daemon.
    let mut twin = start(&second);
    assert_eq!(twin.wait().await, Some(1));
    assert!(
        twin.log().contains("`state_dir`") && twin.log().contains("-state-dir"),
        "{}",
        twin.log()
    );
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

#[tokio::test]
async fn hundreds_of_services_are_followed_and_forgotten() {
    let bench = Bench::new().await;
    let address = instance("x").await;
    let names: Vec<_> = (0..250).map(|number| format!("s{number:03}")).collect();
    for name in &names {
        bench.catalog.set_service(name, &[(name.as_str(), address, "passing")]);
    }
    bench.write(
        "in.tera",
        "{% for s in services(on_empty=\"render\") %}{{ s.name }}={{ service(name=s.name) | length }} {% endfor %}",
    );
    let status = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let address = status.to_string();
    let template = bench.template("");
    let _daemon = bench.start(&["-template", &template, "-status-addr", &address]);
    let expected = names.join("=1 ") + "=1 ";
    bench.reads("out", &expected).await;
    for name in &names {
        bench.catalog.remove_service(name);
    }
    bench.reads("out", "").await;
    eventually("only the names are asked for", async || {
        let (_, report) = request(status, "GET", "/v1/templates", "").await.ok()?;
        let report: serde_json::Value = serde_json::from_str(&report).ok()?;
        (report["watches"] == 1).then_some(())
    })
    .await;
}

/// A service that is asked for and goes before it has answered must not be asked for ever.
#[tokio::test]
async fn questions_of_a_pass_that_never_ended_are_dropped() {
    let bench = Bench::new().await;
    let address = instance("x").await;
    for name in ["a", "b"] {
        bench.catalog.set_service(name, &[(name, address, "passing")]);
    }
    bench.write(
        "in.tera",
        "{% for s in services() %}{{ s.name }}={{ service(name=s.name) | length }} {{ key(path=s.name) }}{% endfor %}",
    );
    let status = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (address, template) = (status.to_string(), bench.template(""));
    let _daemon = bench.start(&["-template", &template, "-status-addr", &address]);
    let watches = async || {
        let (_, report) = request(status, "GET", "/v1/templates", "").await.ok()?;
        serde_json::from_str::<serde_json::Value>(&report).ok()?["watches"].as_u64()
    };
    eventually("all is asked", async || (watches().await? == 5).then_some(())).await;
    bench.catalog.remove_service("b");
    eventually("b is forgotten", async || (watches().await? == 3).then_some(())).await;
}
