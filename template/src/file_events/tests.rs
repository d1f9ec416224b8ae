use std::os::unix::fs::symlink;

use super::*;

/// Far below [`LOOK_EVERY`], so that only an event can have told.
const SOON: Duration = Duration::from_secs(10);

/// A folder, and who follows paths in it.
struct Bench {
    top: tempfile::TempDir,
    _events: FileEvents,
    followed: Followed,
    read: Option<String>,
}

impl Bench {
    fn new() -> Self {
        let events = FileEvents::start().unwrap();
        let followed = events.follow();
        Self { top: tempfile::tempdir().unwrap(), _events: events, followed, read: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Waits until who reads the file only when told has read this; `None`: there is no file.
    async fn tells(&mut self, name: &str, expected: Option<&str>) {
        let path = self.path(name);
        let told = async {
            while self.read.as_deref() != expected {
                self.followed.changed().await;
                self.read = fs::read_to_string(&path).ok();
            }
        };
        let told = tokio::time::timeout(SOON, told).await;
        assert!(told.is_ok(), "{name}: {expected:?} was not told, {:?} was", self.read);
    }
}

#[tokio::test]
async fn every_way_to_change_a_file_is_told() {
    let mut bench = Bench::new();
    bench.write("f", "one");
    bench.followed.set([bench.path("f")]);
    bench.tells("f", Some("one")).await;
    // In place.
    bench.write("f", "two");
    bench.tells("f", Some("two")).await;
    // Another file renamed onto it, several times in a row.
    for text in ["three", "four", "five"] {
        bench.write(".f.new", text);
        fs::rename(bench.path(".f.new"), bench.path("f")).unwrap();
        bench.tells("f", Some(text)).await;
    }
    // Gone, and back.
    fs::remove_file(bench.path("f")).unwrap();
    bench.tells("f", None).await;
    bench.write("f", "six");
    bench.tells("f", Some("six")).await;
    // Moved away, and back.
    fs::rename(bench.path("f"), bench.path("g")).unwrap();
    bench.tells("f", None).await;
    fs::rename(bench.path("g"), bench.path("f")).unwrap();
    bench.tells("f", Some("six")).await;
}

/// As Kubernetes mounts keys and secrets: the link to the folder of all files is replaced.
#[tokio::test]
async fn links_on_the_way_are_followed() {
    let mut bench = Bench::new();
    for (folder, text) in [("..one", "one"), ("..two", "two"), ("..three", "three")] {
        fs::create_dir(bench.path(folder)).unwrap();
        bench.write(&format!("{folder}/f"), text);
    }
    symlink("..one", bench.path("..data")).unwrap();
    symlink("..data/f", bench.path("f")).unwrap();
    bench.followed.set([bench.path("f")]);
    bench.tells("f", Some("one")).await;
    for (folder, before) in [("..two", "..one"), ("..three", "..two")] {
        symlink(folder, bench.path("..tmp")).unwrap();
        fs::rename(bench.path("..tmp"), bench.path("..data")).unwrap();
        fs::remove_dir_all(bench.path(before)).unwrap();
        bench.tells("f", Some(&folder[2..])).await;
    }
    // The file at the end of the links, in place.
    bench.write("..three/f", "four");
    bench.tells("f", Some("four")).await;
    // A link with the full path of a folder elsewhere, which is replaced there.
    let elsewhere = Bench::new();
    fs::create_dir(elsewhere.path("a")).unwrap();
    elsewhere.write("a/f", "five");
    symlink(elsewhere.path("a"), bench.path("..tmp")).unwrap();
    fs::rename(bench.path("..tmp"), bench.path("..data")).unwrap();
    bench.tells("f", Some("five")).await;
    fs::rename(elsewhere.path("a"), elsewhere.path("b")).unwrap();
    bench.tells("f", None).await;
    fs::create_dir(elsewhere.path("a")).unwrap();
    elsewhere.write("a/f", "six");
    bench.tells("f", Some("six")).await;
}

#[tokio::test]
async fn folders_come_and_go() {
    let mut bench = Bench::new();
    bench.followed.set([bench.path("a/b/c/f")]);
    for round in 0..20 {
        let text = round.to_string();
        fs::create_dir_all(bench.path("a/b/c")).unwrap();
        bench.write("a/b/c/f", &text);
        bench.tells("a/b/c/f", Some(&text)).await;
        // Removed and there again before anybody looks; a folder that takes the place of another one.
        fs::remove_dir_all(bench.path("a")).unwrap();
        fs::create_dir_all(bench.path("a/b/c")).unwrap();
        bench.write("a/b/c/f", "again");
        bench.tells("a/b/c/f", Some("again")).await;
        fs::create_dir_all(bench.path("z/c")).unwrap();
        bench.write("z/c/f", "other");
        fs::rename(bench.path("a/b/c"), bench.path("old")).unwrap();
        fs::rename(bench.path("z/c"), bench.path("a/b/c")).unwrap();
        bench.tells("a/b/c/f", Some("other")).await;
        fs::remove_dir_all(bench.path("old")).unwrap();
        fs::remove_dir_all(bench.path("a")).unwrap();
        bench.tells("a/b/c/f", None).await;
    }
}

#[tokio::test]
async fn a_folder_is_followed_with_what_is_in_it() {
    let bench = Bench::new();
    fs::create_dir(bench.path("d")).unwrap();
    bench.followed.set([bench.path("d")]);
    let told = async |what: &str| {
        let told = tokio::time::timeout(SOON, bench.followed.changed()).await;
        assert!(told.is_ok(), "{what} was not told");
    };
    told("the first look").await;
    bench.write("d/new", "1");
    told("a new file").await;
    fs::remove_file(bench.path("d/new")).unwrap();
    told("a file that is gone").await;
}

/// What others do in the same folder, and reading, tell nobody.
#[tokio::test]
async fn others_are_not_told() {
    let mut bench = Bench::new();
    bench.write("f", "one");
    bench.followed.set([bench.path("f")]);
    bench.tells("f", Some("one")).await;
    let shared = Arc::clone(&bench.followed.owner.0);
    for number in 0..5_000 {
        bench.write(&format!("other-{}", number % 10), "x");
        fs::read(bench.path("f")).unwrap();
    }
    // The same watch delivers in order: when this is told, all of before was heard.
    bench.write("f", "two");
    bench.tells("f", Some("two")).await;
    let state = shared.state();
    assert!(state.entries.len() <= 2 && state.changed.len() <= 1 && state.lost.is_empty());
}

#[test]
fn links_that_lead_nowhere_end() {
    let bench = tempfile::tempdir().unwrap();
    let path = |name: &str| bench.path().join(name);
    symlink("b", path("a")).unwrap();
    symlink("a", path("b")).unwrap();
    symlink("../../../../../../../../nowhere/at/all", path("c")).unwrap();
    let mut places = Places::default();
    places.add(1, &path("a"));
    assert_eq!(places.folders.len(), 1);
    places.add(1, &path("c"));
    assert!(places.entries.contains_key(Path::new("/nowhere")), "{places:?}");
}
