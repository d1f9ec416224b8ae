//! `debug`: what an agent says of itself over some time, in one archive.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{Method, StatusCode};
use muster_client::Client;
use muster_client::types::format_duration;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::command::{Call, CommonFlags, Failure, Flag, Outcome, Spec, wait};
use super::layout::{indent, system};
use super::lock::interrupted;
use crate::archive::tar;
use crate::disk;

const DURATION: Duration = Duration::from_mins(2);
const DURATION_MIN: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_secs(30);
const INTERVAL_MIN: Duration = Duration::from_secs(5);
/// Bytes of the log that are kept for one interval.
const LOG_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Everything that can be captured, in the order in which people are told of it.
const TARGETS: [&str; 6] = ["metrics", "logs", "pprof", "host", "agent", "cluster"];
/// Files of profiles, and where an agent that makes them has them.
const PROFILES: [(&str, &str); 4] = [
    ("heap.prof", "/debug/pprof/heap"),
    ("goroutine.prof", "/debug/pprof/goroutine"),
    ("profile.prof", "/debug/pprof/profile"),
    ("trace.out", "/debug/pprof/trace"),
];

pub(super) static DEBUG: Spec = Spec {
    path: "debug",
    synopsis: "Records what an agent says of itself, for those who look into troubles",
    operands: "",
    about: "Asks an agent for its configuration, host and members once, and for its figures and its log again \
and again, and puts all of it into an archive. Interrupted, it archives what there is. The archive names \
hosts and services: look at it before it is handed on. index.json in it says what was captured, and what \
could not be.

    $ muster debug -duration=1m -interval=10s
    $ muster debug -capture=agent -capture=metrics -output=./node-7

Profiles are captured from agents that make them; those of Muster make none.",
    flags: &[
        Flag::switch(
            "archive",
            "Make one compressed file; on by default, -archive=false leaves a folder.",
        ),
        Flag::texts(
            "capture",
            "target",
            "Only this: metrics, logs, pprof, host, agent or cluster. May be repeated.",
        ),
        Flag::duration("duration", "How long; 2m by default, 10s at least."),
        Flag::duration("interval", "How often figures are asked for; 30s by default, 5s at least."),
        Flag::text("output", "path", "Where; `.tar.gz` is added for an archive."),
    ],
    common_flags: CommonFlags::Api,
    run: debug,
};

fn debug(call: &Call) -> Outcome {
    let plan = Plan::read(call)?;
    let client = call.client()?;
    wait(async {
        let about = client.agent().self_().await.map_err(|error| {
            call.failed("Capture validation failed: error querying target agent", &error)
        })?;
        if let Some(elsewhere) = client.settings().datacenter.as_deref()
            && !elsewhere.is_empty()
            && about["Config"]["Datacenter"] != elsewhere
        {
            let text = format!(
                "==> Capture validation failed: the agent is not of datacenter {elsewhere:?}"
            );
            let hint = "an agent tells of itself only: give -http-addr of one there";
            return Err(Failure::new(text).or_hint(hint.to_owned()));
        }
        let mut capture = Capture { client: &client, plan: &plan, missing: Vec::new() };
        plan.introduce(&about);
        disk::folder(&plan.folder).map_err(|error| plan.cannot_write(&error))?;
        let done = tokio::select! {
            done = capture.whole(&about) => done,
            () = interrupted() => {
                println(&["==> Interrupted: what was captured so far is kept"]);
                Ok(())
            }
        };
        done.map_err(|error| plan.cannot_write(&error))?;
        let index = plan.index(&about, &capture.missing);
        write(&plan.folder, "index.json", &index).map_err(|error| plan.cannot_write(&error))?;
        let mut stderr = String::new();
        for (what, why) in &capture.missing {
            let _ = writeln!(stderr, "[WARN] Unable to capture {what}: {why}");
        }
        let saved = if plan.archive {
            let file = plan.archive_file();
            archive(&plan.folder, &file).and_then(|()| fs::remove_dir_all(&plan.folder)).map_err(
                |error| Failure::new(format!("Archive creation failed: {}", system(&error))),
            )?;
            file
        } else {
            plan.folder.clone()
        };
        let text = format!("Saved debug archive: {}\n", saved.display());
        Ok(super::command::Output { stdout: text.into_bytes(), stderr, code: 0 })
    })?
}

/// The requested captures.
struct Plan {
    targets: Vec<&'static str>,
    duration: Duration,
    interval: Duration,
    folder: PathBuf,
    archive: bool,
}

impl Plan {
    fn read(call: &Call) -> Result<Plan, Failure> {
        let values = &call.values;
        let failed = |why: String| Failure::new(format!("==> Capture validation failed: {why}"));
        if !call.operands.is_empty() {
            let count = call.operands.len();
            let text = format!("==> debug: Too many arguments provided, expected 0, got {count}");
            return Err(Failure::new(text));
        }
        let duration = values.duration("duration").unwrap_or(DURATION);
        let interval = values.duration("interval").unwrap_or(INTERVAL);
        let shown = format_duration;
        if duration < DURATION_MIN {
            return Err(failed(format!("duration must be longer than {}", shown(DURATION_MIN))));
        }
        if interval < INTERVAL_MIN {
            return Err(failed(format!("interval must be longer than {}", shown(INTERVAL_MIN))));
        }
        if duration < interval {
            let (duration, interval) = (shown(duration), shown(interval));
            return Err(failed(format!(
                "duration ({duration}) must be longer than interval ({interval})"
            )));
        }
        let mut targets = Vec::new();
        // Several may come in one, as people write lists.
        for name in values.all("capture").iter().flat_map(|text| text.split(',')) {
            let known = TARGETS.iter().find(|known| **known == name).ok_or_else(|| {
                failed(format!("target not found: {name}"))
                    .or_hint(format!("one of {}", TARGETS.join(", ")))
            })?;
            targets.push(*known);
        }
        if targets.is_empty() {
            targets = TARGETS.to_vec();
        }
        let folder = match values.text("output") {
            Some(path) if !path.is_empty() => PathBuf::from(path),
            _ => PathBuf::from(format!("{}-debug-{}", call.program.name, now())),
        };
        let plan = Plan {
            targets,
            duration,
            interval,
            folder,
            archive: values.text("archive") != Some("false"),
        };
        for path in [Some(plan.folder.clone()), plan.archive.then(|| plan.archive_file())] {
            if let Some(path) = path.filter(|path| path.exists()) {
                let text = format!("output directory already exists: {}", path.display());
                return Err(failed(text).or_hint("give another -output".to_owned()));
            }
        }
        Ok(plan)
    }

    fn wants(&self, target: &str) -> bool {
        self.targets.contains(&target)
    }

    fn archive_file(&self) -> PathBuf {
        let mut name = self.folder.clone().into_os_string();
        name.push(".tar.gz");
        name.into()
    }

    fn introduce(&self, about: &Value) {
        let output = if self.archive { self.archive_file() } else { self.folder.clone() };
        println(&[
            "==> Starting debugger and capturing static information...",
            &format!("     Agent Version: '{}'", version(about)),
            &format!("          Interval: '{}'", format_duration(self.interval)),
            &format!("          Duration: '{}'", format_duration(self.duration)),
            &format!("            Output: '{}'", output.display()),
            &format!("           Capture: '{}'", self.targets.join(", ")),
        ]);
    }

    fn cannot_write(&self, error: &io::Error) -> Failure {
        let text = format!("cannot write {}: {}", self.folder.display(), system(error));
        Failure::new(format!("Capture failed: {text}"))
    }

    /// Index of the archive: what it holds, and what is missing.
    fn index(&self, about: &Value, missing: &[(String, String)]) -> Value {
        let mut index = json!({
            "Version": 1,
            "AgentVersion": version(about),
            "Interval": format_duration(self.interval),
            "Duration": format_duration(self.duration),
            "Targets": self.targets,
        });
        if !missing.is_empty() {
            let missing = missing.iter().map(|(what, why)| (what.clone(), json!(why)));
            index["NotCaptured"] = missing.collect::<serde_json::Map<_, _>>().into();
        }
        index
    }
}

fn version(about: &Value) -> &str {
    about["Config"]["Version"].as_str().unwrap_or_default()
}

/// The work itself.
struct Capture<'a> {
    client: &'a Client,
    plan: &'a Plan,
    /// Captures that failed, with the reason.
    missing: Vec<(String, String)>,
}

impl Capture<'_> {
    async fn whole(&mut self, about: &Value) -> io::Result<()> {
        let plan = self.plan;
        let folder = &plan.folder;
        if plan.wants("agent") {
            write(folder, "agent.json", about)?;
        }
        for (target, path) in [("host", "/v1/agent/host"), ("cluster", "/v1/agent/members?wan=1")] {
            if plan.wants(target) {
                let found = self.ask(path).await;
                self.keep(target, found, folder, &format!("{target}.json"))?;
            }
        }
        if !["metrics", "logs", "pprof"].iter().any(|target| plan.wants(target)) {
            return Ok(());
        }
        let end = Instant::now() + plan.duration;
        for number in 0_u32.. {
            let left = end.saturating_duration_since(Instant::now());
            // A rest that is too short to be looked at is none.
            if left < Duration::from_secs(1) {
                return Ok(());
            }
            println(&[&format!("==> Beginning capture interval {number}")]);
            self.interval(left.min(plan.interval), about).await?;
        }
        Ok(())
    }

    async fn interval(&mut self, time: Duration, about: &Value) -> io::Result<()> {
        let plan = self.plan;
        let folder = plan.folder.join(now().to_string());
        disk::folder(&folder)?;
        let begin = Instant::now();
        let logs = async {
            if plan.wants("logs") { log(self.client, &folder, begin + time).await } else { Ok(()) }
        };
        let metrics = async {
            if plan.wants("metrics") { Some(self.ask("/v1/agent/metrics").await) } else { None }
        };
        let profiles = async {
            if plan.wants("pprof") { Some(self.profiles(time, about).await) } else { None }
        };
        let (logs, metrics, profiles) = tokio::join!(logs, metrics, profiles);
        if let Err(why) = logs {
            self.miss("logs", why);
        }
        if let Some(found) = metrics {
            self.keep("metrics", found, &folder, "metrics.json")?;
        }
        match profiles {
            None => {}
            Some(Err(why)) => self.miss("pprof", why),
            Some(Ok(files)) => {
                for (name, bytes) in files {
                    fs::write(folder.join(name), bytes)?;
                }
            }
        }
        tokio::time::sleep_until(begin + time).await;
        Ok(())
    }

    /// Profiles of this interval, where the agent makes them.
    async fn profiles(
        &self,
        time: Duration,
        about: &Value,
    ) -> Result<Vec<(&'static str, Bytes)>, String> {
        if about["DebugConfig"]["EnableDebug"] != true {
            return Err("the agent makes no profiles: its `enable_debug` is off, or it is none \
                        that can"
                .to_owned());
        }
        let seconds = time.as_secs().max(1);
        let one = |(name, path): (&'static str, &'static str)| async move {
            let measured = name == "profile.prof" || name == "trace.out";
            let query = [("seconds", seconds.to_string())];
            let query = if measured { &query[..] } else { &[] };
            let answer = self.client.call(Method::GET, path, query, Bytes::new(), time * 2).await;
            match answer.map_err(|error| super::layout::chain(&error))? {
                raw if raw.status == StatusCode::OK => Ok((name, raw.body)),
                raw => Err(format!("{path}: {}", raw.status)),
            }
        };
        futures::future::try_join_all(PROFILES.map(one)).await
    }

    async fn ask(&self, path: &str) -> Result<Bytes, String> {
        let (path, query) = match path.split_once("?wan=1") {
            Some((path, _)) => (path, vec![("wan", "1".to_owned())]),
            None => (path, Vec::new()),
        };
        let nothing = (Bytes::new(), Duration::ZERO);
        let answer = self.client.call(Method::GET, path, &query, nothing.0, nothing.1).await;
        match answer.map_err(|error| super::layout::chain(&error))? {
            raw if raw.status == StatusCode::OK => Ok(raw.body),
            raw => Err(format!("{path}: {}: {}", raw.status, raw.text().trim_end())),
        }
    }

    /// Writes down what was found, or that it was not.
    fn keep(
        &mut self,
        what: &str,
        found: Result<Bytes, String>,
        folder: &Path,
        file: &str,
    ) -> io::Result<()> {
        match found {
            Ok(body) => {
                let text = String::from_utf8_lossy(&body);
                fs::write(folder.join(file), indent(&text, "\t"))
            }
            Err(why) => {
                self.miss(what, why);
                Ok(())
            }
        }
    }

    fn miss(&mut self, what: &str, why: String) {
        if self.missing.iter().all(|(known, _)| known != what) {
            self.missing.push((what.to_owned(), why));
        }
    }
}

/// The agent's log until a moment. What comes after the limit is not kept, and the file says so.
async fn log(client: &Client, folder: &Path, until: Instant) -> Result<(), String> {
    let shown = |error: muster_client::Error| super::layout::chain(&error);
    let file = |error: io::Error| system(&error);
    let query = [("loglevel", "DEBUG".to_owned())];
    let mut pieces = client.stream("/v1/agent/monitor", &query).await.map_err(shown)?;
    let mut out = File::create(folder.join("consul.log")).map_err(file)?;
    let mut written = 0;
    loop {
        let piece = tokio::select! {
            piece = pieces.next() => piece.map_err(shown)?,
            () = tokio::time::sleep_until(until) => return Ok(()),
        };
        let Some(bytes) = piece else { return Ok(()) };
        if written > LOG_BYTES_MAX {
            continue;
        }
        written += bytes.len();
        out.write_all(&bytes).map_err(file)?;
        if written > LOG_BYTES_MAX {
            let text = format!("\n(what came after {LOG_BYTES_MAX} bytes was not kept)\n");
            out.write_all(text.as_bytes()).map_err(file)?;
        }
    }
}

fn write(folder: &Path, name: &str, value: &Value) -> io::Result<()> {
    fs::write(folder.join(name), indent(&value.to_string(), "\t"))
}

/// Puts a folder into a compressed file.
fn archive(folder: &Path, file: &Path) -> io::Result<()> {
    let mut out = GzEncoder::new(
        disk::options().write(true).create_new(true).open(file)?,
        Compression::default(),
    );
    let base = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    add(&mut out, folder, &base, now())?;
    tar::end(&mut out)?;
    out.finish()?.sync_all()
}

fn add(out: &mut impl io::Write, folder: &Path, base: &str, time: u64) -> io::Result<()> {
    let mut names: Vec<_> = fs::read_dir(folder)?.collect::<io::Result<_>>()?;
    names.sort_by_key(fs::DirEntry::file_name);
    for entry in names {
        let name = format!("{base}/{}", entry.file_name().to_string_lossy());
        let path = entry.path();
        if path.is_dir() {
            add(out, &path, &name, time)?;
            continue;
        }
        let file = File::open(&path)?;
        let size = file.metadata()?.len();
        tar::header(out, &name, size, time)?;
        // Exactly as many as announced, whatever happens to the file meanwhile.
        if io::copy(&mut io::Read::take(file, size), out)? != size {
            return Err(io::Error::other(format!("{} became shorter", path.display())));
        }
        tar::pad(out, size)?;
    }
    Ok(())
}

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "names of files tell when")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Says what is being done.
fn println(lines: &[&str]) {
    let mut out = io::stdout().lock();
    for line in lines {
        // Whoever closed the pipe has read enough; the archive is made all the same.
        let _ = writeln!(out, "{line}");
    }
    let _ = out.flush();
}
