//! When checks run: one schedule for all of them.
//!
//! A check's next run is due its interval after the end of the last, so runs of one check never
//! overlap. The first run of a check is due at once, or at a random moment of its interval: when many
//! checks come at the same time (the agent starts), or when its owner said how it is. A TTL check has no runs; it is due when the time
//! for its report is over.
//!
//! A new check whose program does not listen yet is repeated quickly, see `warmup`.
//!
//! Two bounds hold whatever the number of checks: connections in flight, and processes. A run that
//! finds no place waits for one; how late runs begin is counted, and shown among the agent's figures.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use parking_lot::{Mutex, MutexGuard};
use rand::RngExt as _;
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lateness::{Late, Lateness};
use super::warmup::{Heard, Next, Warmup};
use super::{
    CheckResult, Definition, Probe, Resources, docker, grpc, h2ping, http, os_service, script, tcp,
    ttl, udp,
};
use crate::secrets;

/// Connections of probes at one time, if descriptors allow. Each may wait its whole timeout for a
/// target that hangs; too few places, and those would make all others late.
const CONNECTIONS_MAX: usize = 8192;
/// Programs of probes at one time: more would only slow each other down.
const PROCESSES_MAX: usize = 32;

/// Checks that start together are spread over this much at most: with long intervals their services
/// would stay critical for long after a restart.
const SPREAD_MAX: Duration = Duration::from_secs(30);

/// Told of every result: the check's id, the number of its registration, what was found.
pub type Report = Arc<dyn Fn(&Arc<str>, u64, CheckResult) + Send + Sync>;

/// When a check runs for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// At once: somebody waits for this instance.
    Now,
    /// At some moment of its interval: its status is known.
    Within,
    /// At some moment of its interval, and soon: many start together.
    Spread,
}

/// Handle on the schedule. Cheap to clone.
#[derive(Clone)]
pub struct Runner {
    inner: Arc<Inner>,
}

struct Inner {
    schedule: Mutex<Schedule>,
    /// The earliest due time may have become earlier.
    changed: Notify,
    connections: Arc<Semaphore>,
    processes: Arc<Semaphore>,
    resources: Resources,
    lateness: Lateness,
}

#[derive(Default)]
struct Schedule {
    checks: HashMap<Arc<str>, Entry>,
    /// At most one valid place for each check; others are passed over when their time comes.
    due: BinaryHeap<Reverse<(Instant, u64, Arc<str>)>>,
    registrations: u64,
}

struct Entry {
    definition: Arc<Definition>,
    registration: u64,
    /// When it is due, unless it runs or (a TTL check) has expired.
    due: Option<Instant>,
    /// There is a place for it in the heap.
    queued: bool,
    running: Option<AbortHandle>,
    /// Quick repeats of the first run.
    warmup: Warmup,
    /// The note of the last report, quoted on expiry.
    note: String,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("checks", &self.lock().checks.len()).finish_non_exhaustive()
    }
}

impl Default for Runner {
    fn default() -> Runner {
        Runner::new(Resources::default())
    }
}

impl Runner {
    /// An empty schedule; `resources` is what its probes will use.
    pub fn new(resources: Resources) -> Runner {
        Runner {
            inner: Arc::new(Inner {
                schedule: Mutex::default(),
                changed: Notify::new(),
                connections: Arc::new(Semaphore::new(connections_max())),
                processes: Arc::new(Semaphore::new(PROCESSES_MAX)),
                resources,
                lateness: Lateness::default(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Schedule> {
        self.inner.schedule.lock()
    }

    /// Puts a check on the schedule, in place of one with the same id. Answers the number of this
    /// registration, which its results carry. Alias checks have no schedule; they get a number only.
    pub fn add(&self, id: &Arc<str>, definition: Arc<Definition>, first: First) -> u64 {
        let now = Instant::now();
        let due = match (&definition.probe, first) {
            (Probe::Alias { .. }, _) => None,
            (Probe::Ttl(ttl), _) => Some(now + *ttl),
            (_, First::Now) => Some(now),
            (_, First::Within) => Some(now + jitter(definition.interval)),
            (_, First::Spread) => Some(now + jitter(definition.interval.min(SPREAD_MAX))),
        };
        let mut schedule = self.lock();
        schedule.forget(id);
        schedule.registrations += 1;
        let registration = schedule.registrations;
        let entry = Entry {
            definition,
            registration,
            due,
            queued: false,
            running: None,
            warmup: if first == First::Now { Warmup::Before } else { Warmup::Over },
            note: String::new(),
        };
        schedule.checks.insert(Arc::clone(id), entry);
        schedule.queue(id);
        drop(schedule);
        self.inner.changed.notify_one();
        registration
    }

    /// Takes a check off the schedule. A run under way ends, its processes too.
    pub fn remove(&self, id: &str) {
        self.lock().forget(id);
    }

    /// A TTL check was reported to: its time begins anew. `note` is quoted if the next does not come.
    pub fn renew(&self, id: &str, note: String) {
        let mut schedule = self.lock();
        let Some((id, entry)) = schedule.checks.get_key_value(id) else { return };
        let Probe::Ttl(ttl) = entry.definition.probe else { return };
        let id = Arc::clone(id);
        let entry = schedule.checks.get_mut(&id).expect("found above");
        entry.due = Some(Instant::now() + ttl);
        entry.note = note;
        schedule.queue(&id);
        drop(schedule);
        self.inner.changed.notify_one();
    }

    /// Numbers of checks that are run, and of checks that are reported to (`check_monitors`, `check_ttls`).
    pub fn counts(&self) -> (usize, usize) {
        let schedule = self.lock();
        let ttls =
            schedule.checks.values().filter(|entry| entry.definition.ttl().is_some()).count();
        (schedule.checks.len() - ttls, ttls)
    }

    /// Lateness of the last runs.
    pub fn late(&self) -> Late {
        self.inner.lateness.late()
    }

    /// Runs what is due until `shutdown`; then nothing is under way any more.
    pub async fn run(&self, report: Report, shutdown: CancellationToken) {
        loop {
            let next = self.start_due(&report);
            let sleep = async {
                match next {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.inner.changed.notified() => {}
                () = sleep => {}
            }
        }
        for entry in self.lock().checks.values_mut() {
            if let Some(running) = entry.running.take() {
                running.abort();
            }
        }
    }

    /// Starts everything that is due; answers when to look again.
    fn start_due(&self, report: &Report) -> Option<Instant> {
        let mut expired = Vec::new();
        let next = loop {
            let now = Instant::now();
            let mut schedule = self.lock();
            let Some(Reverse((at, _, _))) = schedule.due.peek() else { break None };
            if *at > now {
                break Some(*at);
            }
            let Some(Reverse((_, registration, id))) = schedule.due.pop() else { break None };
            let Some(entry) = schedule.checks.get_mut(&id) else { continue };
            if entry.registration != registration {
                continue;
            }
            entry.queued = false;
            match entry.due {
                // Renewed in the meantime: its place moves.
                Some(due) if due > now => schedule.queue(&id),
                Some(due) => {
                    entry.due = None;
                    if entry.definition.ttl().is_some() {
                        expired.push((id, registration, ttl::expired(&entry.note)));
                    } else {
                        self.start(&id, entry, due, report);
                    }
                }
                None => {}
            }
        };
        for (id, registration, outcome) in expired {
            report(&id, registration, outcome);
        }
        next
    }

    fn start(&self, id: &Arc<str>, entry: &mut Entry, due: Instant, report: &Report) {
        let places = match entry.definition.probe {
            Probe::Script(_) | Probe::Docker(_) => &self.inner.processes,
            _ => &self.inner.connections,
        };
        let (places, definition) = (Arc::clone(places), Arc::clone(&entry.definition));
        let (runner, report) = (self.clone(), Arc::clone(report));
        let (id, registration) = (Arc::clone(id), entry.registration);
        let task = tokio::spawn(async move {
            let outcome = {
                let _place = places.acquire().await;
                let late = due.elapsed();
                runner.inner.lateness.note(late);
                run_once(&definition.probe, &runner.inner.resources).await
            };
            if runner.finished(&id, registration, definition.interval, &outcome) {
                report(&id, registration, outcome);
            }
        });
        entry.running = Some(task.abort_handle());
    }

    /// A run ended: the next is due. Says whether the result counts: it does not if the check went
    /// away in the meantime, nor if a quick repeat failed.
    fn finished(
        &self,
        id: &Arc<str>,
        registration: u64,
        interval: Duration,
        outcome: &CheckResult,
    ) -> bool {
        let mut schedule = self.lock();
        let Some(entry) = schedule.checks.get_mut(id) else { return false };
        if entry.registration != registration {
            return false;
        }
        entry.running = None;
        let Next { due, counts } =
            entry.warmup.next(Instant::now(), interval, Heard::from(outcome));
        entry.due = Some(due);
        schedule.queue(id);
        drop(schedule);
        self.inner.changed.notify_one();
        counts
    }
}

impl Schedule {
    /// Gives a check its place in the heap, unless it has one (an earlier place is as good: it is
    /// moved when its time comes).
    fn queue(&mut self, id: &Arc<str>) {
        let Some(entry) = self.checks.get_mut(id) else { return };
        if let (Some(due), false) = (entry.due, entry.queued) {
            entry.queued = true;
            self.due.push(Reverse((due, entry.registration, Arc::clone(id))));
        }
    }

    fn forget(&mut self, id: &str) {
        if let Some(entry) = self.checks.remove(id)
            && let Some(running) = entry.running
        {
            running.abort();
        }
        // Places of checks that went away are passed over in time; without this they would pile up
        // when checks with long intervals come and go.
        if self.due.len() > 2 * self.checks.len() + 64 {
            let checks = &self.checks;
            self.due.retain(|Reverse((_, registration, id))| {
                checks.get(id).is_some_and(|entry| entry.registration == *registration)
            });
        }
    }
}

/// One run. Nobody reads the secrets of an address in its output.
async fn run_once(probe: &Probe, resources: &Resources) -> CheckResult {
    let mut result = ask(probe, resources).await;
    let target = match probe {
        Probe::Tcp(target) => &target.address,
        Probe::Udp(target) => &target.address,
        Probe::H2Ping(target) => &target.address,
        Probe::Grpc(target) => &target.target,
        _ => return result,
    };
    result.output = secrets::output(result.output, target);
    result
}

async fn ask(probe: &Probe, resources: &Resources) -> CheckResult {
    match probe {
        Probe::Http(target) => http::probe(target, &resources.tls).await,
        Probe::Tcp(target) => tcp::probe(target, &resources.tls).await,
        Probe::H2Ping(target) => h2ping::probe(target, &resources.tls).await,
        Probe::Grpc(target) => grpc::probe(target, &resources.tls).await,
        Probe::Udp(target) => udp::probe(target).await,
        Probe::OsService(target) => os_service::probe(target, &resources.bus).await,
        Probe::Script(command) => script::probe(command).await,
        Probe::Docker(command) => docker::probe(command, &resources.engine).await,
        Probe::Ttl(_) | Probe::Alias { .. } => unreachable!("not put on the schedule as runs"),
    }
}

/// Half of the descriptors are for everything else.
fn connections_max() -> usize {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(soft / 2).unwrap_or(CONNECTIONS_MAX).clamp(64, CONNECTIONS_MAX)
}

/// A moment of an interval.
fn jitter(interval: Duration) -> Duration {
    interval.mul_f64(rand::rng().random::<f64>())
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::checks::{Status, Thresholds};

    fn definition(probe: Probe, interval: Duration) -> Arc<Definition> {
        Arc::new(Definition {
            probe,
            interval,
            thresholds: Thresholds::default(),
            flap_limit: None,
            deregister_after: None,
            output_bytes_max: 4096,
        })
    }

    fn shell(text: &str) -> Probe {
        Probe::Script(script::Command {
            args: vec!["/bin/sh".into(), "-c".into(), text.into()],
            timeout: Duration::from_secs(30),
            output_bytes_max: 4096,
        })
    }

    struct Running {
        runner: Runner,
        results: mpsc::UnboundedReceiver<(Arc<str>, u64, CheckResult)>,
        _stop: tokio_util::sync::DropGuard,
    }

    fn start() -> Running {
        let (sender, results) = mpsc::unbounded_channel();
        let report: Report = Arc::new(move |id, registration, outcome| {
            let _ = sender.send((Arc::clone(id), registration, outcome));
        });
        let (runner, stop) = (Runner::default(), CancellationToken::new());
        let (running, token) = (runner.clone(), stop.clone());
        tokio::spawn(async move { running.run(report, token).await });
        Running { runner, results, _stop: stop.drop_guard() }
    }

    impl Running {
        async fn next(&mut self) -> (Arc<str>, u64, CheckResult) {
            tokio::time::timeout(Duration::from_secs(20), self.results.recv())
                .await
                .expect("a result in time")
                .expect("the runner lives")
        }
    }

    #[tokio::test]
    async fn the_first_run_is_at_once_and_the_next_after_the_interval() {
        let mut running = start();
        let begun = Instant::now();
        let interval = Duration::from_millis(300);
        let first =
            running.runner.add(&"a".into(), definition(shell("echo hi"), interval), First::Now);
        let (id, registration, outcome) = running.next().await;
        assert_eq!((&*id, registration), ("a", first));
        assert_eq!(outcome, CheckResult::new(Status::Passing, "hi\n"));
        let _ = running.next().await;
        assert!(begun.elapsed() >= interval, "{:?}", begun.elapsed());
    }

    /// A port that accepts and hangs up without a word, as an engine's proxy does for a program
    /// that does not listen yet; then it answers.
    #[tokio::test]
    async fn a_new_check_that_nobody_answers_is_repeated_quickly_and_in_silence() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (begun, silence) = (Instant::now(), Duration::from_millis(300));
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await;
                if begun.elapsed() >= silence {
                    let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
                }
            }
        });
        let probe = Probe::Http(http::Target {
            url,
            method: "GET".into(),
            headers: [].into(),
            body: String::new(),
            verify: crate::net::tls::Verify::default(),
            follow: true,
            timeout: Duration::from_secs(10),
            output_bytes_max: 4096,
        });
        let interval = Duration::from_secs(10);
        let mut running = start();
        running.runner.add(&"new".into(), definition(probe.clone(), interval), First::Now);
        let outcome = running.next().await.2;
        assert_eq!((outcome.status, outcome.unheard), (Status::Critical, true));
        // Repeats that fail are not reported: the next report is the first that is heard.
        let outcome = running.next().await.2;
        assert_eq!(outcome.status, Status::Passing, "{}", outcome.output);
        let taken = begun.elapsed();
        assert!(silence <= taken && taken < interval, "{taken:?}");
    }

    #[tokio::test]
    async fn a_ttl_runs_out_once_and_is_renewed() {
        let mut running = start();
        let ttl = Duration::from_millis(200);
        running.runner.add(&"t".into(), definition(Probe::Ttl(ttl), Duration::ZERO), First::Now);
        assert_eq!(running.next().await.2.output, "TTL expired");
        let idle = |runner: &Runner| {
            let schedule = runner.lock();
            schedule.checks["t"].due.is_none() && schedule.due.is_empty()
        };
        assert!(idle(&running.runner), "expired once, then silent");

        let begun = Instant::now();
        running.runner.renew("t", "early".into());
        tokio::time::sleep(ttl / 4).await;
        running.runner.renew("t", "late".into());
        let renewed = begun.elapsed();
        let mut outcome = running.next().await.2;
        if outcome.output.ends_with("early") {
            // A machine so slow that the second report came too late.
            outcome = running.next().await.2;
        }
        assert!(begun.elapsed() >= renewed + ttl);
        assert_eq!(outcome.output, "TTL expired (last output before timeout follows): late");
        assert!(idle(&running.runner));
    }

    #[tokio::test]
    async fn a_removed_check_is_silent_and_a_replaced_one_counts_anew() {
        let mut running = start();
        let hour = Duration::from_hours(1);
        running.runner.add(&"gone".into(), definition(shell("sleep 30"), hour), First::Now);
        running.runner.add(&"kept".into(), definition(shell("sleep 30"), hour), First::Now);
        let second =
            running.runner.add(&"kept".into(), definition(shell("echo new"), hour), First::Now);
        running.runner.remove("gone");
        let (id, registration, outcome) = running.next().await;
        assert_eq!((&*id, registration, &*outcome.output), ("kept", second, "new\n"));
        assert!(running.results.try_recv().is_err());
        assert_eq!(running.runner.counts(), (1, 0));
    }

    #[tokio::test]
    async fn places_of_gone_checks_do_not_pile_up() {
        let running = start();
        let hour = Duration::from_hours(1);
        for round in 0..1000 {
            let id: Arc<str> = format!("c{}", round % 3).into();
            running.runner.add(&id, definition(Probe::Ttl(hour), Duration::ZERO), First::Now);
        }
        let places = running.runner.lock().due.len();
        assert!(places <= 100, "{places} places for 3 checks");
    }

    #[test]
    fn the_spread_start_stays_in_the_interval() {
        let interval = Duration::from_secs(10);
        let moments: Vec<_> = (0..100).map(|_| jitter(interval)).collect();
        assert!(moments.iter().all(|moment| *moment < interval));
        let early = moments.iter().filter(|moment| **moment < interval / 2).count();
        assert!((10..=90).contains(&early), "{early} of 100 in the first half");
    }
}
