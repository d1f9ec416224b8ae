//! Random histories of changes on disks that fail, fill and empty: what is accepted is there and is kept, what is
//! refused is not there, and all works again as soon as the disk does. Reports to TTL checks count in any case, and
//! the next one is kept.
//!
//! `MUSTER_ROUNDS` histories (a few by default), from `MUSTER_SEED` on: `MUSTER_SEED=7 MUSTER_ROUNDS=1 cargo nextest run
//! -p muster-agent disks` is one of them again.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::local::persistence::keeper::faults::{self, Step};

/// Changes of one history.
const CHANGES: usize = 25;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Services and checks as everybody sees them.
type View = (Vec<String>, Vec<String>);

fn view(local: &Local) -> View {
    let services = local.services();
    let checks = local.checks();
    (
        services.values().map(|row| format!("{} {} {}", row.id, row.name, row.port)).collect(),
        checks
            .values()
            .map(|row| {
                let (id, service) = (&row.id, &row.service_id);
                format!("{id} {service} {} {} {}", row.status, row.output, row.notes)
            })
            .collect(),
    )
}

struct History {
    folder: PathBuf,
    consensus: Consensus,
    local: Local,
    chance: StdRng,
    /// History of operations, for failures.
    story: Vec<String>,
}

impl History {
    async fn begin(folder: PathBuf, consensus: Consensus, seed: u64) -> History {
        let local = open(&folder, &consensus).await;
        History { folder, consensus, local, chance: StdRng::seed_from_u64(seed), story: Vec::new() }
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.chance.random_range(0..of.len())]
    }

    /// One change; what it should lead to if it is accepted is checked by its name in the view.
    async fn change(&mut self) -> Result<(), Error> {
        let service = self.pick(&["a", "b", "c"]);
        let port: u16 = self.chance.random_range(1..60000);
        let local = self.local.clone();
        let kind = self.chance.random_range(0..8);
        self.story.push(format!("{kind} {service} {port}"));
        match kind {
            0 | 1 => {
                // Some are large, to make the file grow.
                let filler = "x".repeat(self.chance.random_range(0..3) * 20_000);
                let check = json!({"CheckID": format!("{service}-ttl"), "TTL": "10h"});
                let body = json!({"Name": service, "Port": port, "Check": check,
                    "Tags": [filler]});
                let definition = local.parse_service(body, Source::Api).unwrap();
                let existing = if kind == 0 { Existing::Replace } else { Existing::Keep };
                local.register_service(&definition, existing).await?;
                assert_eq!(
                    local.service(service).unwrap().port,
                    i64::from(port),
                    "{:?}",
                    self.story
                );
            }
            2 => {
                local.deregister_service(service).await?;
                assert!(local.service(service).is_none(), "{:?}", self.story);
            }
            3 => {
                let body = json!({"Name": "node", "TTL": "10h", "Notes": port.to_string()});
                let definition = local.parse_check(body, Source::Api).unwrap();
                local.register_check(&definition).await?;
                assert_eq!(
                    local.check("node").unwrap().notes,
                    port.to_string(),
                    "{:?}",
                    self.story
                );
            }
            4 => {
                local.deregister_check("node").await?;
                assert!(local.check("node").is_none(), "{:?}", self.story);
            }
            5 => {
                let id = format!("{service}-ttl");
                if local.check(&id).is_some() {
                    let kept = local.update_ttl(&id, Status::Warning, &port.to_string()).await;
                    let check = local.check(&id).unwrap();
                    assert_eq!((&*check.status, &*check.output), ("warning", &*port.to_string()));
                    kept?;
                }
            }
            6 => local.begin_node_maintenance(&port.to_string()).await?,
            _ => local.end_node_maintenance().await?,
        }
        Ok(())
    }

    /// A change that the disk did not take changed nothing, except the check of a report.
    fn assert_refused(&self, (services, mut checks): View, error: &Error) {
        let mut now = view(&self.local);
        if let Error::ReportNotKept { check, .. } = error {
            let of_others = |line: &String| !line.starts_with(&format!("{check} "));
            checks.retain(of_others);
            now.1.retain(of_others);
        }
        assert_eq!(now, (services, checks), "{:?}", self.story);
    }

    /// The same agent after its process ended, with a disk that works. What was refused while nothing at all could be
    /// written is undone by the next change.
    async fn restart(self) -> History {
        self.local.end_node_maintenance().await.unwrap();
        let definition = json!({"Name": "last", "Port": self.story.len()});
        let definition = self.local.parse_service(definition, Source::Api).unwrap();
        self.local.register_service(&definition, Existing::Keep).await.unwrap();
        let History { folder, consensus, local, chance, story } = self;
        for (id, check) in local.checks() {
            // Only reports make one of these a warning; the last may not have been kept.
            if &*check.status == "warning" {
                local.update_ttl(&id, Status::Warning, &check.output).await.unwrap();
            }
        }
        let before = view(&local);
        drop(local);
        let local = open(&folder, &consensus).await;
        assert_eq!(view(&local), before, "after a restart; {story:?}");
        History { folder, consensus, local, chance, story }
    }
}

/// Opens an agent whose predecessor may still be closing its database.
async fn open(folder: &Path, consensus: &Consensus) -> Local {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        match Local::open(settings(Some(folder)), Arc::new(consensus.clone())) {
            Ok(local) => return local,
            Err(error) if tokio::time::Instant::now() > deadline => panic!("{error:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

#[tokio::test]
async fn what_a_disk_that_fails_refuses_does_not_happen() {
    let (first, rounds) = (number("MUSTER_SEED", 1), number("MUSTER_ROUNDS", 12));
    println!("MUSTER_SEED={first} MUSTER_ROUNDS={rounds}");
    let consensus = consensus().await;
    let mut refused = 0;
    for seed in first..first + rounds {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("local");
        let mut history = History::begin(folder.path().to_owned(), consensus.clone(), seed).await;
        for _ in 0..CHANGES {
            if history.chance.random_bool(0.3) {
                let steps = [Step::Open, Step::Apply, Step::Flush, Step::Sync];
                let count = history.chance.random_range(1..4);
                let faults = (0..count).map(|_| steps[history.chance.random_range(0..4)]).collect();
                history.story.push(format!("{faults:?}"));
                faults::set(&database, faults);
            }
            let (before, faulty) = (view(&history.local), faults::left(&database) > 0);
            match history.change().await {
                Ok(()) => {}
                Err(error @ (Error::NotKept(_) | Error::ReportNotKept { .. })) if faulty => {
                    refused += 1;
                    history.assert_refused(before, &error);
                }
                Err(error) => panic!("seed {seed}: {error} {:?}", history.story),
            }
            if history.chance.random_bool(0.15) {
                faults::set(&database, Vec::new());
                history = history.restart().await;
            }
        }
        faults::set(&database, Vec::new());
        history.restart().await;
    }
    assert!(refused > 0);
}

/// A disk of its own, as long as it lives.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> SmallDisk {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", "size=6m", "muster-test"]).arg(folder.path());
        assert!(mount.status().unwrap().success(), "a disk of its own");
        SmallDisk(folder)
    }

    fn ballast(&self) -> PathBuf {
        self.0.path().join("ballast")
    }

    /// Fills it up to so many KiB.
    fn fill(&self, free_kib: u64) {
        self.empty();
        let disk = nix::sys::statvfs::statvfs(self.0.path()).unwrap();
        let free = disk.blocks_available() * disk.fragment_size();
        let ballast = vec![1; usize::try_from(free.saturating_sub(free_kib << 10)).unwrap()];
        // It may become full a little earlier.
        let _ = fs::write(self.ballast(), ballast);
    }

    fn empty(&self) {
        let _ = fs::remove_file(self.ballast());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn may_mount() -> bool {
    let may =
        nix::unistd::geteuid().is_root() || std::env::var_os("MUSTER_TESTS_WITHOUT_ROOT").is_none();
    if !may {
        println!("LEFT OUT: a disk of its own needs root");
    }
    may
}

/// With and without asking for room first: others may take it between the question and the write.
#[tokio::test]
async fn a_disk_that_fills_and_empties_loses_nothing() {
    if !may_mount() {
        return;
    }
    let (first, rounds) = (number("MUSTER_SEED", 1), number("MUSTER_ROUNDS", 8));
    println!("MUSTER_SEED={first} MUSTER_ROUNDS={rounds}");
    let consensus = consensus().await;
    let mut refused = 0;
    for seed in first..first + rounds {
        let disk = SmallDisk::mount();
        let database = disk.0.path().join("local");
        if seed % 2 == 0 {
            faults::be_careless(&database);
        }
        let mut history = History::begin(disk.0.path().to_owned(), consensus.clone(), seed).await;
        let mut full = false;
        for _ in 0..CHANGES {
            match history.chance.random_range(0..6) {
                0 => {
                    let left = [0, 4, 16, 64, 300, 600][history.chance.random_range(0..6)];
                    history.story.push(format!("fill up to {left}"));
                    (full, ()) = (true, disk.fill(left));
                }
                1 => {
                    history.story.push("empty".into());
                    (full, ()) = (false, disk.empty());
                }
                _ => {}
            }
            let before = view(&history.local);
            match history.change().await {
                Ok(()) => {}
                Err(error @ (Error::NotKept(_) | Error::ReportNotKept { .. })) if full => {
                    refused += 1;
                    history.assert_refused(before, &error);
                }
                Err(error) => panic!("seed {seed}: {error} {:?}", history.story),
            }
            if history.chance.random_bool(0.1) {
                // A server on a full disk does not start; that is another matter.
                (full, ()) = (false, disk.empty());
                history = history.restart().await;
            }
        }
        disk.empty();
        drop(history.restart().await);
    }
    assert!(refused > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_reports_count_and_removals_are_made() {
    if !may_mount() {
        return;
    }
    let disk = SmallDisk::mount();
    let agent = agent(settings(Some(disk.0.path()))).await;
    let local = &agent.local;
    let ttl = |name: &str| json!({"Name": name, "Check": {"CheckID": name, "TTL": "2s"}});
    for name in ["web", "gone"] {
        agent.register(ttl(name)).await;
    }
    let alone = local.parse_check(json!({"Name": "alone", "TTL": "1h"}), Source::Api).unwrap();
    local.register_check(&alone).await.unwrap();
    local.begin_node_maintenance("why").await.unwrap();
    local.begin_service_maintenance("web", "why").await.unwrap();

    // Nothing at all can be written: reports count, and put the end of their check off.
    disk.fill(0);
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < Duration::from_millis(2500) {
        count += 1;
        let output = format!("fine {count}");
        let error = local.update_ttl("web", Status::Passing, &output).await.unwrap_err();
        let (error, check) = (error.to_string(), local.check("web").unwrap());
        assert!(error.starts_with("failed persisting state for check \"web\": "), "{error}");
        assert_eq!((&*check.status, &*check.output), ("passing", &*output));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(&*local.check("web").unwrap().status, "passing");
    }
    agent.until(|_, checks| checks.contains(&"web=passing".to_owned())).await;

    // Too little for something new, enough to take things away.
    disk.fill(300);
    let more = local.parse_service(ttl("more"), Source::Api).unwrap();
    let refused = local.register_service(&more, Existing::Keep).await;
    assert!(matches!(refused, Err(Error::NotKept(_))), "{refused:?}");
    assert!(local.deregister_service("gone").await.unwrap());
    assert!(local.deregister_check("alone").await.unwrap());
    local.end_service_maintenance("web").await.unwrap();
    local.end_node_maintenance().await.unwrap();

    disk.empty();
    local.update_ttl("web", Status::Warning, "kept").await.unwrap();
    agent.register(ttl("more")).await;
    drop(agent);
    let again = open(disk.0.path(), &consensus().await).await;
    let (services, checks) = view(&again);
    assert_eq!(services, ["more more 0", "web web 0"]);
    assert_eq!(checks, ["more more critical  ", "web web warning kept "]);
}

#[tokio::test]
async fn a_full_disk_is_named_when_an_agent_cannot_start() {
    if !may_mount() {
        return;
    }
    let (disk, consensus) = (SmallDisk::mount(), consensus().await);
    let local = open(disk.0.path(), &consensus).await;
    local.begin_node_maintenance("why").await.unwrap();
    let before = view(&local);
    disk.fill(0);
    drop(local);
    let deadline = Instant::now() + Duration::from_secs(20);
    let start = || Local::open(settings(Some(disk.0.path())), Arc::new(consensus.clone()));
    let text = loop {
        match start() {
            Err(Error::Persistence(error @ persistence::Error::FullAtStart { .. })) => {
                break error.to_string();
            }
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let folder = disk.0.path().join("local");
    let named = format!("no room on the disk of `{}`: free at least 1 MiB", folder.display());
    assert!(text.starts_with(&named), "{text}");

    disk.empty();
    assert_eq!(view(&open(disk.0.path(), &consensus).await), before);
}
