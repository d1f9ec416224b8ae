//! Real files, changed in the ways in which files are changed.

use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

/// Longer than any change takes to be told.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longer than the pace of following takes to tell of a change.
const SILENCE: Duration = Duration::from_millis(300);

/// A follower of one path, told by events alone unless `look` is short.
struct Following {
    told: mpsc::Receiver<()>,
    path: PathBuf,
    source: watch::Sender<Followed>,
    stop: CancellationToken,
}

impl Following {
    fn of(path: &Path, look: Duration) -> Following {
        let pace =
            Pace { quiet: Duration::from_millis(20), quiet_max: Duration::from_millis(200), look };
        let (source, followed) = watch::channel(read(path));
        let (changed, told) = mpsc::channel(1);
        let stop = CancellationToken::new();
        tokio::spawn(follow(followed, pace, changed, stop.clone()));
        Following { told, path: path.to_owned(), source, stop }
    }

    fn by_events(path: &Path) -> Following {
        Following::of(path, Duration::from_hours(1))
    }

    /// A change is told; afterwards all is read, as a reload does.
    async fn is_told(&mut self, what: &str) {
        let told = tokio::time::timeout(PATIENCE, self.told.recv()).await;
        assert!(matches!(told, Ok(Some(()))), "not told: {what}");
        self.source.send_replace(read(&self.path));
    }

    /// All that was changed is told. A look while a file is being written, or before all was read again, tells of the same
    /// change once more.
    async fn is_silent(&mut self) {
        while self.is_told_within(SILENCE).await {
            self.source.send_replace(read(&self.path));
        }
    }

    async fn is_told_within(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.told.recv()).await.is_ok()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn read(path: &Path) -> Followed {
    let mut followed = Followed::default();
    followed.add([&path.to_owned()], Files::Configuration);
    followed
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

/// Puts a new file in the place of another one, as editors and deployments do.
fn rename_over(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    write(&beside, text);
    fs::rename(&beside, path).unwrap();
}

#[tokio::test]
async fn a_file_may_be_written_replaced_removed_and_come_back() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("a.json");
    write(&file, "1");
    let mut following = Following::by_events(&file);
    write(&file, "2");
    following.is_told("written").await;
    for round in 0..3 {
        rename_over(&file, &format!("new {round}"));
        following.is_told("replaced").await;
    }
    fs::remove_file(&file).unwrap();
    following.is_told("removed").await;
    write(&file, "back");
    following.is_told("back").await;
    following.is_silent().await;
    // What holds the same as before is no change, however it came.
    rename_over(&file, "back");
    write(&folder.path().join("other.json"), "of no concern");
    assert!(!following.is_told_within(SILENCE).await);
    write(&file, "last");
    following.is_told("written again").await;
}

#[tokio::test]
async fn links_are_followed_and_may_be_swapped_as_kubernetes_does() {
    let folder = TempDir::new().unwrap();
    let mount = folder.path().join("mount");
    let version = |name: &str, text: &str| {
        fs::create_dir_all(mount.join(name)).unwrap();
        write(&mount.join(name).join("a.json"), text);
    };
    let swap = |name: &str| {
        symlink(name, mount.join("..data_tmp")).unwrap();
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    };
    version("..1", "1");
    swap("..1");
    symlink("..data/a.json", mount.join("a.json")).unwrap();
    let mut file = Following::by_events(&mount.join("a.json"));
    let mut whole = Following::by_events(&mount);
    for round in 2..5 {
        let name = format!("..{round}");
        version(&name, &name);
        swap(&name);
        fs::remove_dir_all(mount.join(format!("..{}", round - 1))).unwrap();
        file.is_told("the file's link").await;
        whole.is_told("the folder's link").await;
    }
}

#[tokio::test]
async fn folders_on_the_way_may_be_links_and_may_be_made_anew() {
    let folder = TempDir::new().unwrap();
    let root = fs::canonicalize(folder.path()).unwrap();
    for release in ["1", "2"] {
        fs::create_dir_all(root.join("releases").join(release)).unwrap();
        write(&root.join("releases").join(release).join("a.hcl"), release);
    }
    symlink("releases/1", root.join("current")).unwrap();
    let mut following = Following::by_events(&root.join("current/a.hcl"));
    let swap = |to: &str| {
        symlink(root.join("releases").join(to), root.join("next")).unwrap();
        fs::rename(root.join("next"), root.join("current")).unwrap();
    };
    swap("2");
    following.is_told("another release").await;
    write(&root.join("releases/2/a.hcl"), "2.1");
    following.is_told("written behind the link").await;
    fs::remove_dir_all(root.join("releases/2")).unwrap();
    following.is_told("the folder is gone").await;
    fs::create_dir(root.join("releases/2")).unwrap();
    write(&root.join("releases/2/a.hcl"), "2.2");
    following.is_told("the folder is back").await;
    write(&root.join("releases/2/a.hcl"), "2.3");
    following.is_told("written in the new folder").await;
}

#[tokio::test]
async fn a_folder_is_followed_with_the_files_that_come_and_go() {
    let folder = TempDir::new().unwrap();
    let mut following = Following::by_events(folder.path());
    write(&folder.path().join("a.json"), "1");
    following.is_told("a new file").await;
    rename_over(&folder.path().join("a.json"), "2");
    following.is_told("replaced").await;
    let target = TempDir::new().unwrap();
    write(&target.path().join("real"), "1");
    symlink(target.path().join("real"), folder.path().join("b.hcl")).unwrap();
    following.is_told("a link").await;
    write(&target.path().join("real"), "2");
    following.is_told("behind the link").await;
    fs::remove_file(folder.path().join("a.json")).unwrap();
    following.is_told("removed").await;
    following.is_silent().await;
    write(&folder.path().join("notes.txt"), "not configuration");
    assert!(!following.is_told_within(SILENCE).await);
}

#[tokio::test]
async fn without_events_a_look_now_and_then_finds_the_change() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("a.json");
    write(&file, "1");
    let followed = read(&file);
    // Nothing has told of this one.
    write(&file, "2");
    let (_source, receiver) = watch::channel(followed);
    let (changed, mut told) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let pace = Pace { look: Duration::from_millis(20), ..Pace::default() };
    tokio::spawn(follow(receiver, pace, changed, stop.clone()));
    assert_eq!(tokio::time::timeout(PATIENCE, told.recv()).await, Ok(Some(())));
    stop.cancel();
}

#[test]
fn a_pipe_is_left_to_those_who_read_it() {
    let folder = TempDir::new().unwrap();
    let pipe = folder.path().join("a.json");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(read(&pipe).contents, BTreeMap::from([(pipe, None)]));
}

#[test]
fn a_path_in_circles_and_one_that_leads_nowhere_have_folders() {
    let folder = TempDir::new().unwrap();
    let root = fs::canonicalize(folder.path()).unwrap();
    symlink("b", root.join("a")).unwrap();
    symlink("a", root.join("b")).unwrap();
    for path in ["a", "not/there/a.json", "./x/../a"] {
        let mut folders = BTreeSet::new();
        lead_through(&root.join(path), &mut folders);
        assert_eq!(folders, BTreeSet::from([root.clone()]), "{path}");
    }
}
