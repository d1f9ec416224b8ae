//! A change of files is all or nothing, whatever fails and whenever the daemon dies.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use muster_template::render::Texts;
use muster_template::transaction::{
    Acknowledged, After, Committed, Failed, Ledger, Recovered, Reload, Settings, Step, Target,
    Told, Transaction, Validate, Verify, World, install_last_good, recover,
};
use sha2::{Digest as _, Sha256};

/// A program that reads the files when told, in memory.
struct Program {
    files: Vec<PathBuf>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What it read at the last reload.
    uses: Option<Vec<Option<String>>>,
    running: bool,
    reloads: u32,
    /// Steps that fail, and how often.
    fail: BTreeMap<Step, u32>,
    /// The step before which everything ends at once, as with `kill -9`; the count says at which time.
    die: Option<(Step, u32)>,
    /// The mode of the shadow that the check was shown.
    shadow_mode: Option<u32>,
    /// Texts that the check refuses and the program does not load.
    refuses: Option<String>,
    /// Texts that only loading finds out about.
    breaks: Option<String>,
}

impl Program {
    fn read(&self) -> Vec<Option<String>> {
        self.files.iter().map(|file| fs::read_to_string(file).ok()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts anew, reading the files as they are.
    fn start(&self) {
        let read = self.read();
        let mut state = self.state();
        state.running = true;
        state.uses = Some(read);
    }

    fn uses(&self) -> Vec<Option<String>> {
        self.state().uses.clone().unwrap_or_default()
    }
}

fn has_word(texts: &[Option<String>], word: Option<&String>) -> bool {
    word.is_some_and(|word| texts.iter().flatten().any(|text| text.contains(word)))
}

#[async_trait]
impl World for Program {
    async fn run(
        &self,
        command: &[String],
        _: &[(String, String)],
        _: Duration,
    ) -> Result<(), String> {
        let read = if command[1] == "in-place" {
            self.read()
        } else {
            // The check is shown a shadow of the main configuration.
            let shadow = fs::read_to_string(&command[1]).map_err(|error| error.to_string())?;
            let mode = fs::metadata(&command[1]).unwrap().permissions().mode() & 0o7777;
            self.state().shadow_mode = Some(mode);
            shadow.lines().map(|line| fs::read_to_string(line).ok()).collect()
        };
        let refuses = self.state().refuses.clone();
        if has_word(&read, refuses.as_ref()) { Err("unknown word".into()) } else { Ok(()) }
    }

    async fn reload_child(&self) -> Result<Told, String> {
        let read = self.read();
        let mut state = self.state();
        if !state.running {
            return Ok(Told::NotRunning);
        }
        state.reloads += 1;
        let broken = [&state.refuses, &state.breaks].iter().any(|it| has_word(&read, it.as_ref()));
        if !broken {
            state.uses = Some(read);
        }
        Ok(Told::Yes)
    }

    fn workers(&self) -> BTreeSet<i32> {
        BTreeSet::new()
    }

    async fn get(&self, _: &str) -> Result<String, String> {
        Ok(self.uses().into_iter().flatten().collect())
    }

    fn before(&self, step: Step) -> io::Result<()> {
        let mut state = self.state();
        if let Some((at, times)) = &mut state.die
            && *at == step
        {
            *times -= 1;
            assert!(*times > 0, "died before {step}");
        }
        if let Some(times) = state.fail.get_mut(&step)
            && *times > 0
        {
            *times -= 1;
            return Err(io::Error::other("injected"));
        }
        Ok(())
    }
}

/// A folder with two files, their ledger and the program that reads them.
struct Bench {
    _temporary: tempfile::TempDir,
    folder: PathBuf,
    program: Arc<Program>,
    settings: Settings,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Check {
    Shadow,
    InPlace,
}

impl Bench {
    fn new(check: Check) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().to_path_buf();
        let files: Vec<_> = ["a.conf", "b.conf"].iter().map(|name| folder.join(name)).collect();
        let main = folder.join("main.conf");
        let lines: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        fs::write(&main, lines.join("\n")).unwrap();
        let target = |file: &PathBuf| Target {
            destination: file.clone(),
            mode: None,
            uid: None,
            gid: None,
            create_folders: true,
        };
        let (word, shadow) = match check {
            Check::Shadow => ("{config}", Some(main)),
            Check::InPlace => ("in-place", None),
        };
        let settings = Settings {
            name: "test".into(),
            targets: files.iter().map(target).collect(),
            validate: Some(Validate {
                command: vec!["check".into(), word.into()],
                shadow,
                timeout: Duration::from_secs(1),
            }),
            reload: Reload::Child,
            verify: Verify {
                url: Some("http://version".into()),
                workers: false,
                timeout: Duration::from_millis(150),
            },
        };
        let program = Program { files, state: Mutex::default() };
        program.start();
        Self { _temporary: temporary, folder, program: program.into(), settings }
    }

    fn ledger(&self) -> Ledger {
        Ledger::open(&self.folder.join("state"), "test").unwrap()
    }

    async fn commit(&self, version: &str) -> Result<Committed, Failed> {
        let ledger = self.ledger();
        Transaction::new(&self.settings, &ledger, &*self.program).commit(&texts(version)).await
    }

    async fn acknowledge(&self, fresh: bool) -> Result<Committed, Failed> {
        let ledger = self.ledger();
        Transaction::new(&self.settings, &ledger, &*self.program).acknowledge(fresh).await
    }

    /// Commits in a task of its own that may die on the way. Returns whether it did.
    async fn commit_and_die(&self, version: &str, step: Step, times: u32) -> bool {
        self.state().die = Some((step, times));
        let (settings, ledger) = (self.settings.clone(), self.ledger());
        let (program, texts) = (Arc::clone(&self.program), texts(version));
        let task = tokio::spawn(async move {
            let _ = Transaction::new(&settings, &ledger, &*program).commit(&texts).await;
        });
        let died = task.await.is_err();
        self.state().die = None;
        died
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.program.state()
    }

    /// From now on the state directory takes no file.
    fn fill_state(&self) {
        self.obstacles().for_each(|path| fs::create_dir(path).unwrap());
    }

    fn empty_state(&self) {
        self.obstacles().for_each(|path| fs::remove_dir(path).unwrap());
    }

    /// Folders where files are written before they are renamed: opening these for writing fails, whoever asks.
    fn obstacles(&self) -> impl Iterator<Item = PathBuf> {
        let folder = self.folder.join("state/test");
        let versions = ["v1", "v2", "v3", "v4", "bad"].iter().flat_map(|it| texts(it).texts);
        let texts = versions.chain(["by hand\n".to_owned()]).map(|text| {
            let digest = Sha256::digest(text.as_bytes());
            let number = u128::from_be_bytes(digest[..16].try_into().unwrap());
            format!("texts/{number:032x}.new")
        });
        let files = ["journal.new", "good.new"].map(str::to_owned).into_iter();
        files.chain(texts).map(move |name| folder.join(name))
    }

    fn on_disk(&self) -> Vec<Option<String>> {
        self.program.read()
    }

    /// Names in the folder that are neither the files nor the state.
    fn leftovers(&self) -> Vec<String> {
        let names = fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().file_name());
        let known = ["a.conf", "b.conf", "main.conf", "state"];
        let names = names.map(|name| name.into_string().unwrap());
        names.filter(|name| !known.contains(&name.as_str())).collect()
    }
}

fn texts(version: &str) -> Texts {
    Texts {
        texts: vec![format!("a {version}\n"), format!("b {version}\n")],
        version: version.into(),
        shows_version: true,
    }
}

fn contents(version: &str) -> Vec<Option<String>> {
    texts(version).texts.into_iter().map(Some).collect()
}

fn bench() -> Bench {
    Bench::new(Check::Shadow)
}

#[tokio::test]
async fn a_change_is_put_in_place_and_used() {
    for check in [Check::Shadow, Check::InPlace] {
        let bench = Bench::new(check);
        let committed = bench.commit("v1").await.unwrap();
        assert_eq!(committed.changed.len(), 2);
        assert_eq!(committed.acknowledged, Acknowledged::Yes);
        assert_eq!(bench.on_disk(), contents("v1"));
        assert_eq!(bench.program.uses(), contents("v1"));
        assert_eq!(bench.ledger().journal().unwrap(), None);
        assert_eq!(bench.ledger().good().unwrap().unwrap().version, "v1");
        assert_eq!(bench.leftovers(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn no_difference_means_no_reload() {
    let bench = bench();
    bench.commit("v1").await.unwrap();
    let again = bench.commit("v1").await.unwrap();
    assert_eq!(again.changed, Vec::<PathBuf>::new());
    assert_eq!(bench.state().reloads, 1);
}

#[tokio::test]
async fn only_the_texts_of_the_last_good_version_are_kept() {
    let bench = bench();
    for version in ["v1", "v2", "v3"] {
        bench.commit(version).await.unwrap();
    }
    assert_eq!(fs::read_dir(bench.folder.join("state/test/texts")).unwrap().count(), 2);
}

#[tokio::test]
async fn what_the_check_refuses_is_never_used() {
    for (check, after) in [(Check::Shadow, After::Untouched), (Check::InPlace, After::RolledBack)] {
        let bench = Bench::new(check);
        bench.commit("v1").await.unwrap();
        bench.state().refuses = Some("bad".into());
        let failed = bench.commit("bad").await.unwrap_err();
        assert_eq!((failed.step, failed.after), (Step::Validate, after));
        assert_eq!(failed.message, "unknown word");
        assert_eq!(bench.on_disk(), contents("v1"));
        assert_eq!(bench.state().reloads, 1, "the program saw nothing, so it is told nothing");
        assert_eq!(bench.ledger().journal().unwrap(), None);
        assert_eq!(bench.leftovers(), Vec::<String>::new());
        bench.commit("v2").await.unwrap();
        assert_eq!(bench.program.uses(), contents("v2"));
    }
}

#[tokio::test]
async fn what_the_program_does_not_load_is_rolled_back() {
    let bench = bench();
    bench.commit("v1").await.unwrap();
    bench.state().breaks = Some("v2".into());
    let failed = bench.commit("v2").await.unwrap_err();
    assert_eq!((failed.step, failed.after), (Step::Verify, After::RolledBack));
    assert!(failed.message.contains("does not show version v2"), "{}", failed.message);
    assert_eq!(bench.on_disk(), contents("v1"));
    assert_eq!(bench.program.uses(), contents("v1"));
    assert_eq!(bench.ledger().journal().unwrap(), None);
}

#[tokio::test]
async fn the_first_change_rolls_back_to_what_was_there() {
    let bench = bench();
    fs::write(bench.folder.join("a.conf"), "by hand\n").unwrap();
    bench.program.start();
    bench.state().breaks = Some("v1".into());
    let failed = bench.commit("v1").await.unwrap_err();
    assert_eq!(failed.after, After::RolledBack);
    let before = [Some("by hand\n".into()), None];
    assert_eq!(bench.on_disk(), before, "and what was not there is gone again");
    assert_eq!(bench.program.uses(), before);
}

#[tokio::test]
async fn any_failing_step_leaves_the_old_version_in_use() {
    let steps =
        [Step::Stage, Step::Validate, Step::Journal, Step::Install, Step::Reload, Step::Verify];
    for (check, step) in [Check::Shadow, Check::InPlace]
        .into_iter()
        .flat_map(|check| steps.into_iter().map(move |step| (check, step)))
    {
        let bench = Bench::new(check);
        bench.commit("v1").await.unwrap();
        // A reload is tried three times; the fourth is the way back and works.
        bench.state().fail.insert(step, if step == Step::Reload { 3 } else { 1 });
        let failed = bench.commit("v2").await.unwrap_err();
        assert_eq!(failed.step, step, "{check:?}");
        assert!(!matches!(failed.after, After::Stuck(_)), "{check:?} {step}: {failed}");
        assert_eq!(bench.on_disk(), contents("v1"), "{check:?} {step}");
        assert_eq!(bench.program.uses(), contents("v1"), "{check:?} {step}");
        assert_eq!(bench.leftovers(), Vec::<String>::new(), "{check:?} {step}");
        assert_eq!(
            bench.commit("v2").await.unwrap().acknowledged,
            Acknowledged::Yes,
            "{check:?} {step}"
        );
        assert_eq!(bench.program.uses(), contents("v2"), "{check:?} {step}");
    }
}

#[tokio::test]
async fn a_reload_that_fails_twice_is_tried_again() {
    let bench = bench();
    bench.state().fail.insert(Step::Reload, 2);
    assert_eq!(bench.commit("v1").await.unwrap().acknowledged, Acknowledged::Yes);
    assert_eq!(bench.program.uses(), contents("v1"));
}

#[tokio::test]
async fn a_way_back_that_fails_is_finished_later() {
    let bench = bench();
    bench.commit("v1").await.unwrap();
    bench.state().fail.insert(Step::Reload, 6);
    let failed = bench.commit("v2").await.unwrap_err();
    assert!(matches!(failed.after, After::Stuck(_)), "{failed}");
    assert_eq!(bench.on_disk(), contents("v1"));
    assert!(bench.ledger().journal().unwrap().is_some());
    let reloads = bench.state().reloads;
    bench.commit("v1").await.unwrap();
    let told = bench.state().reloads;
    assert_eq!(told, reloads + 1, "equal files, but the program was not told yet");
    assert_eq!(bench.ledger().journal().unwrap(), None);
}

/// Dies before every step of a change, then starts again as the daemon does.
#[tokio::test]
async fn a_crash_at_any_step_is_repaired_at_the_next_start() {
    let deaths = [
        (Step::Stage, 1),
        (Step::Validate, 1),
        (Step::Journal, 1),
        (Step::Install, 1),
        (Step::Install, 2),
        (Step::Reload, 1),
        (Step::Verify, 1),
        (Step::Acknowledge, 1),
    ];
    for check in [Check::Shadow, Check::InPlace] {
        for (first, (step, times)) in
            [true, false].into_iter().flat_map(|first| deaths.map(|death| (first, death)))
        {
            let case = format!("{check:?} first={first} {step} {times}");
            let bench = Bench::new(check);
            if !first {
                bench.commit("v1").await.unwrap();
            }
            let before = bench.on_disk();
            assert!(bench.commit_and_die("v2", step, times).await, "{case}");

            let recovered = recover(&bench.ledger()).unwrap();
            let now = bench.on_disk();
            assert!(now == before || now == contents("v2"), "{case}: half a change: {now:?}");
            let expected = match step {
                Step::Stage | Step::Journal => Recovered::Clean,
                Step::Validate if check == Check::Shadow => Recovered::Clean,
                Step::Install => Recovered::Undone,
                _ => Recovered::Pending,
            };
            assert_eq!(recovered, expected, "{case}");

            // The same content again must not hide that the program was never told.
            assert_eq!(bench.commit("v2").await.unwrap().acknowledged, Acknowledged::Yes, "{case}");
            assert_eq!(bench.program.uses(), contents("v2"), "{case}");
            assert_eq!(bench.ledger().journal().unwrap(), None, "{case}");
            assert_eq!(bench.leftovers(), Vec::<String>::new(), "{case}");
        }
    }
}

#[tokio::test]
async fn a_crash_while_going_back_is_repaired_too() {
    let bench = bench();
    bench.commit("v1").await.unwrap();
    bench.state().breaks = Some("v2".into());
    // The first verification fails, the one on the way back is where it dies.
    assert!(bench.commit_and_die("v2", Step::Verify, 2).await);
    assert_eq!(recover(&bench.ledger()).unwrap(), Recovered::Pending);
    assert_eq!(bench.acknowledge(false).await.unwrap().version, "v1");
    assert_eq!(bench.on_disk(), contents("v1"));
    assert_eq!(bench.program.uses(), contents("v1"));
}

#[tokio::test]
async fn a_program_that_does_not_run_yet_is_asked_later() {
    let bench = bench();
    bench.state().running = false;
    let committed = bench.commit("v1").await.unwrap();
    assert_eq!(committed.acknowledged, Acknowledged::NotRunning);
    assert!(bench.ledger().journal().unwrap().is_some(), "the change waits");
    bench.program.start();
    assert_eq!(bench.acknowledge(true).await.unwrap().acknowledged, Acknowledged::Yes);
    assert_eq!(bench.state().reloads, 0, "it has read the files when it started");
    assert_eq!(bench.ledger().good().unwrap().unwrap().version, "v1");
}

#[tokio::test]
async fn missing_files_are_made_from_the_last_good_version() {
    let bench = bench();
    bench.commit("v1").await.unwrap();
    fs::remove_file(bench.folder.join("a.conf")).unwrap();
    fs::write(bench.folder.join("b.conf"), "newer\n").unwrap();
    let made = install_last_good(&bench.settings, &bench.ledger()).unwrap();
    assert_eq!(made, [bench.folder.join("a.conf")]);
    let expected = [Some("a v1\n".into()), Some("newer\n".into())];
    assert_eq!(bench.on_disk(), expected, "what is there stays");
}

#[tokio::test]
async fn mode_and_links_are_kept() {
    let mut bench = bench();
    let real = bench.folder.join("state/real.conf");
    fs::create_dir_all(real.parent().unwrap()).unwrap();
    fs::write(&real, "old").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o600)).unwrap();
    let (link, plain) = (bench.folder.join("a.conf"), bench.folder.join("b.conf"));
    std::os::unix::fs::symlink(&real, &link).unwrap();
    bench.settings.targets[1].mode = Some(0o640);
    bench.commit("v1").await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!((fs::read_to_string(&real).unwrap().as_str(), mode(&real)), ("a v1\n", 0o600));
    assert_eq!(mode(&plain), 0o640);
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o600)).unwrap();
    let changed = bench.commit("v1").await.unwrap().changed;
    assert_eq!(changed, [plain], "a wrong mode is a difference");
}

#[tokio::test]
async fn a_target_that_cannot_be_written_says_which() {
    let mut bench = bench();
    bench.settings.targets[0].destination = bench.folder.join("main.conf/below");
    let failed = bench.commit("v1").await.unwrap_err();
    assert_eq!((failed.step, &failed.after), (Step::Stage, &After::Untouched));
    assert!(failed.message.contains("main.conf"), "{}", failed.message);
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_check_leaves_everything_as_it_was() {
    for check in [Check::Shadow, Check::InPlace] {
        let bench = Bench::new(check);
        bench.commit("v1").await.unwrap();
        bench.state().refuses = Some("bad".into());
        let ledger = bench.ledger();
        for (version, expected) in [("v2", true), ("bad", false)] {
            let transaction = Transaction::new(&bench.settings, &ledger, &*bench.program);
            assert_eq!(transaction.check(&texts(version)).await.is_ok(), expected, "{check:?}");
            assert_eq!(bench.on_disk(), contents("v1"), "{check:?}");
            assert_eq!(bench.leftovers(), Vec::<String>::new(), "{check:?}");
            assert_eq!(ledger.journal().unwrap(), None, "{check:?}");
        }
        assert_eq!(bench.state().reloads, 1, "{check:?}");
    }
}

#[tokio::test]
async fn a_full_state_directory_is_no_reason_to_reload_again() {
    let bench = bench();
    bench.state().fail.insert(Step::Acknowledge, 3);
    let why =
        |acknowledged| matches!(acknowledged, Acknowledged::NotNoted(why) if why == "injected");
    assert!(why(bench.commit("v1").await.unwrap().acknowledged));
    for _ in 0..2 {
        assert!(why(bench.acknowledge(true).await.unwrap().acknowledged));
    }
    assert_eq!(bench.program.uses(), contents("v1"));
    assert_eq!(bench.acknowledge(true).await.unwrap().acknowledged, Acknowledged::Yes);
    assert_eq!(bench.state().reloads, 1);
    assert_eq!(bench.ledger().good().unwrap().unwrap().version, "v1");
}

#[tokio::test]
async fn what_a_full_disk_does_not_take_leaves_nothing_behind() {
    let bench = bench();
    bench.commit("v1").await.unwrap();
    // The journal is too large for the disk.
    let journal = bench.folder.join("state/test/journal.new");
    std::os::unix::fs::symlink("/dev/full", &journal).unwrap();
    let committed = bench.commit("v2").await.unwrap();
    assert_eq!(committed.acknowledged, Acknowledged::Yes);
    assert_eq!(bench.program.uses(), contents("v2"));
    assert_eq!(bench.leftovers(), Vec::<String>::new());
    assert!(fs::symlink_metadata(&journal).is_err(), "the half of it is gone");
}

#[tokio::test]
async fn a_change_does_not_wait_for_room_in_the_state_directory() {
    let bench = bench();
    bench.commit("v1").await.unwrap();
    bench.fill_state();
    // All on one ledger, as in a daemon that goes on.
    let ledger = bench.ledger();
    let commit = async |version: &str| {
        Transaction::new(&bench.settings, &ledger, &*bench.program).commit(&texts(version)).await
    };
    for version in ["v2", "v3"] {
        let committed = commit(version).await.unwrap();
        let Acknowledged::NotNoted(why) = committed.acknowledged else { panic!("{committed:?}") };
        assert!(why.contains("state/test/"), "{why}");
        assert_eq!(bench.program.uses(), contents(version));
    }
    // What the program does not load goes back to the last acknowledged version.
    bench.state().breaks = Some("bad".into());
    let failed = commit("bad").await.unwrap_err();
    assert_eq!((failed.step, failed.after), (Step::Verify, After::RolledBack));
    assert_eq!(bench.program.uses(), contents("v1"));
    commit("v4").await.unwrap();

    bench.empty_state();
    let acknowledged =
        Transaction::new(&bench.settings, &ledger, &*bench.program).acknowledge(true).await;
    assert_eq!(acknowledged.unwrap().acknowledged, Acknowledged::Yes);
    assert_eq!(bench.program.uses(), contents("v4"));
    assert_eq!(bench.ledger().good().unwrap().unwrap().version, "v4");
    assert_eq!(bench.ledger().journal().unwrap(), None);
    assert_eq!(fs::read_dir(bench.folder.join("state/test/texts")).unwrap().count(), 2);
}

#[tokio::test]
async fn the_first_change_on_a_full_disk_can_be_undone() {
    let bench = bench();
    fs::write(bench.folder.join("a.conf"), "by hand\n").unwrap();
    bench.program.start();
    drop(bench.ledger());
    bench.fill_state();
    bench.state().breaks = Some("v1".into());
    let failed = bench.commit("v1").await.unwrap_err();
    assert_eq!(failed.after, After::RolledBack, "{failed}");
    assert_eq!(bench.on_disk(), [Some("by hand\n".into()), None]);
    bench.state().breaks = None;
    bench.commit("v1").await.unwrap();
    assert_eq!(bench.program.uses(), contents("v1"));
}

/// The journal was in memory only: the next start finds files that were never acknowledged.
#[tokio::test]
async fn a_crash_on_a_full_disk_loses_no_reload() {
    for step in [Step::Install, Step::Reload, Step::Verify, Step::Acknowledge] {
        let bench = bench();
        bench.commit("v1").await.unwrap();
        bench.fill_state();
        assert!(bench.commit_and_die("v2", step, 1).await);
        for room in [false, true] {
            if room {
                bench.empty_state();
            }
            // What was started before the files were written uses the old ones until it is told.
            let ledger = bench.ledger();
            let installed = step != Step::Install;
            let expected = if installed { Recovered::Pending } else { Recovered::Clean };
            assert_eq!(recover(&ledger).unwrap(), expected, "{step}");
            Transaction::new(&bench.settings, &ledger, &*bench.program)
                .commit(&texts("v2"))
                .await
                .unwrap();
            assert_eq!(bench.program.uses(), contents("v2"), "{step}");
            if room {
                break;
            }
            bench.program.state().uses = Some(contents("v1"));
            if !installed {
                break;
            }
        }
        assert_eq!(bench.on_disk(), contents("v2"), "{step}");
    }
}

#[tokio::test]
async fn what_is_remembered_is_read_by_nobody_else() {
    let mut bench = bench();
    bench.settings.targets[0].mode = Some(0o600);
    bench.commit("v1").await.unwrap();
    let ledger = bench.ledger();
    ledger.save_kept(&["secret"]).unwrap();
    let mut folders = vec![bench.folder.join("state")];
    while let Some(folder) = folders.pop() {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
            }
        }
    }
}

#[tokio::test]
async fn the_shadow_is_as_protected_as_what_it_is_made_of() {
    let bench = bench();
    let main = bench.folder.join("main.conf");
    fs::set_permissions(&main, fs::Permissions::from_mode(0o640)).unwrap();
    bench.commit("v1").await.unwrap();
    assert_eq!(bench.state().shadow_mode, Some(0o640));
}

#[test]
fn a_ledger_of_another_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path(), "g").unwrap();
    let journal = r#"{"format":9,"version":"","shows_version":false,"files":[]}"#;
    fs::write(folder.path().join("g/journal.json"), journal).unwrap();
    let error = recover(&ledger).unwrap_err().to_string();
    assert!(error.contains("has format 9"), "{error}");
}
