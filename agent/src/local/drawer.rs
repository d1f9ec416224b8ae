//! The agent's own drawer: what it must still know after a restart and what no server keeps for it.
//!
//! One sled database under `data_dir`, one tree for each kind of thing, values with a version in
//! their first byte. One thread owns it: it takes all writes that wait, applies them, makes them
//! durable once, and answers all who asked. Sled's `flush` alone hands them to the kernel, which is
//! enough to survive a crash of the process, and all that reports to TTL checks need: they are many,
//! and old in a moment. After definitions the file is synchronised as well. A drawer without a folder (`-dev`) keeps nothing.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use muster_client::types::{CheckDefinition, ServiceDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// The format of values that this build writes.
const FORMAT: u8 = 1;
/// sled keeps pages in memory up to this; the drawer is small.
const CACHE_BYTES: u64 = 4 << 20;
/// Writes that one sync makes durable at most.
const BATCH_MAX: usize = 1024;

/// Why something could not be kept, or was not found as it was left.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder could not be made or opened.
    #[error("cannot open `{}`", path.display())]
    Open {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The database refused.
    #[error("the agent's own database failed")]
    Database(#[from] sled::Error),
    /// A value of a newer build, or a damaged one.
    #[error("`{key}` in `{tree}` cannot be read: {what}")]
    Value {
        /// Kind of thing.
        tree: &'static str,
        /// Which one.
        key: String,
        /// Why.
        what: String,
    },
    /// The thread that owns the database is gone.
    #[error("the agent's own database is closed")]
    Closed,
}

/// Kinds of things, and the names of their trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Services,
    Checks,
    Ttl,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Services, Kind::Checks, Kind::Ttl];

    fn tree(self) -> &'static str {
        match self {
            Kind::Services => "services",
            Kind::Checks => "checks",
            Kind::Ttl => "ttl",
        }
    }
}

/// A service as it is kept, without its checks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct KeptService {
    pub(super) definition: ServiceDefinition,
}

/// A check as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum KeptCheck {
    /// With its id and service filled in.
    Defined(Box<CheckDefinition>),
    /// A maintenance of a service or of the node.
    Maintenance { service_id: Option<String>, reason: String },
}

/// The last report to a TTL check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct KeptReport {
    pub(super) status: muster_client::types::Status,
    pub(super) output: String,
    /// Milliseconds since the Unix epoch: after this it is worth nothing.
    pub(super) expires_ms: u64,
}

/// One change of the drawer.
#[derive(Debug)]
pub(super) struct Write {
    kind: Kind,
    key: String,
    /// `None` removes.
    value: Option<Vec<u8>>,
}

impl Write {
    /// Keeps a value.
    pub(super) fn put<T: Serialize>(kind: Kind, key: &str, value: &T) -> Write {
        let mut bytes = vec![FORMAT];
        serde_json::to_writer(&mut bytes, value).expect("kept values have text keys");
        Write { kind, key: key.to_owned(), value: Some(bytes) }
    }

    /// Forgets a value.
    pub(super) fn remove(kind: Kind, key: &str) -> Write {
        Write { kind, key: key.to_owned(), value: None }
    }
}

/// Handle on the drawer. Cheap to clone; the database closes with the last one.
#[derive(Debug, Clone)]
pub(super) struct Drawer {
    /// `None` keeps nothing. Not bounded here: everybody who sends waits for the answer.
    writes: Option<Sender<Batch>>,
}

#[derive(Debug)]
struct Batch {
    writes: Vec<Write>,
    done: oneshot::Sender<Result<(), Error>>,
}

/// Everything that was kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) services: Vec<(String, KeptService)>,
    pub(super) checks: Vec<(String, KeptCheck)>,
    pub(super) reports: Vec<(String, KeptReport)>,
}

impl Drawer {
    /// Opens the drawer below `data_dir` and reads all of it.
    pub(super) fn open(data_dir: Option<&Path>) -> Result<(Drawer, Kept), Error> {
        let Some(data_dir) = data_dir else {
            return Ok((Drawer { writes: None }, Kept::default()));
        };
        let path = data_dir.join("local");
        let failed = |source| Error::Open { path: path.clone(), source };
        // Definitions can hold secrets (headers of checks): nobody else may look.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed)?;
        let database = sled::Config::new()
            .path(&path)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .open()?;
        let kept = Kept {
            services: read(&database, Kind::Services)?,
            checks: read(&database, Kind::Checks)?,
            reports: read(&database, Kind::Ttl)?,
        };
        let trees = [
            database.open_tree(Kind::ALL[0].tree())?,
            database.open_tree(Kind::ALL[1].tree())?,
            database.open_tree(Kind::ALL[2].tree())?,
        ];
        let file = File::open(path.join("db")).map_err(failed)?;
        let (sender, receiver) = channel();
        std::thread::Builder::new()
            .name("drawer".into())
            .spawn(move || keep(&database, &trees, &file, &receiver))
            .map_err(failed)?;
        Ok((Drawer { writes: Some(sender) }, kept))
    }

    /// Hands writes over, in the order of the calls. Await the answer for them to be durable.
    pub(super) fn write(&self, writes: Vec<Write>) -> Pending {
        let Some(sender) = self.writes.as_ref().filter(|_| !writes.is_empty()) else {
            return Pending(None);
        };
        let (done, answer) = oneshot::channel();
        // If the thread is gone the answer says so: its sender is dropped.
        let _ = sender.send(Batch { writes, done });
        Pending(Some(answer))
    }
}

/// Writes on their way to the disk.
#[derive(Debug)]
#[must_use = "not durable before it is awaited"]
pub(super) struct Pending(Option<oneshot::Receiver<Result<(), Error>>>);

impl Pending {
    /// Resolves once the writes are durable.
    pub(super) async fn durable(self) -> Result<(), Error> {
        match self.0 {
            None => Ok(()),
            Some(answer) => answer.await.unwrap_or(Err(Error::Closed)),
        }
    }
}

fn read<T: DeserializeOwned>(database: &sled::Db, kind: Kind) -> Result<Vec<(String, T)>, Error> {
    let tree = kind.tree();
    database
        .open_tree(tree)?
        .iter()
        .map(|pair| {
            let (key, value) = pair?;
            let key = String::from_utf8_lossy(&key).into_owned();
            match value.split_first() {
                Some((&FORMAT, json)) => match serde_json::from_slice(json) {
                    Ok(value) => Ok((key, value)),
                    Err(error) => Err(Error::Value { tree, key, what: error.to_string() }),
                },
                Some((format, _)) => {
                    Err(Error::Value { tree, key, what: format!("format {format} is unknown") })
                }
                None => Err(Error::Value { tree, key, what: "it is empty".into() }),
            }
        })
        .collect()
}

/// The thread's life: ends when nobody holds the drawer any more.
fn keep(database: &sled::Db, trees: &[sled::Tree; 3], file: &File, batches: &Receiver<Batch>) {
    while let Ok(first) = batches.recv() {
        let mut waiting = vec![first];
        waiting.extend(batches.try_iter().take(BATCH_MAX - 1));
        let mut answers = Vec::with_capacity(waiting.len());
        let mut sync = false;
        for batch in waiting {
            sync |= batch.writes.iter().any(|write| write.kind != Kind::Ttl);
            let applied = apply(trees, batch.writes);
            answers.push((batch.done, applied));
        }
        let durable = database.flush().map_err(Error::Database).and_then(|_| {
            let synced = if sync { file.sync_data() } else { Ok(()) };
            synced.map_err(|error| Error::Database(sled::Error::Io(error)))
        });
        if let Err(error) = &durable {
            tracing::error!(%error, "the agent's own state could not be kept");
        }
        for (done, applied) in answers {
            let answer = match (&durable, applied) {
                (_, Err(error)) => Err(error),
                (Err(_), Ok(())) => Err(Error::Closed),
                (Ok(()), Ok(())) => Ok(()),
            };
            // Whoever asked may have gone away.
            let _ = done.send(answer);
        }
    }
}

fn apply(trees: &[sled::Tree; 3], writes: Vec<Write>) -> Result<(), Error> {
    for write in writes {
        let tree = &trees[write.kind as usize];
        match write.value {
            Some(value) => tree.insert(write.key, value)?,
            None => tree.remove(write.key)?,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use muster_client::types::Status;

    use super::*;

    fn report(output: &str) -> KeptReport {
        KeptReport { status: Status::Passing, output: output.into(), expires_ms: 7 }
    }

    /// Opens a drawer that another handle may still be closing.
    fn reopen(folder: &Path) -> (Drawer, Kept) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            match Drawer::open(Some(folder)) {
                Ok(opened) => return opened,
                Err(error) if std::time::Instant::now() > deadline => panic!("{error:?}"),
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let (drawer, kept) = Drawer::open(Some(folder.path())).unwrap();
        assert!(kept.services.is_empty() && kept.checks.is_empty() && kept.reports.is_empty());
        let service = KeptService {
            definition: ServiceDefinition { name: "web".into(), ..ServiceDefinition::default() },
        };
        let check = KeptCheck::Maintenance { service_id: None, reason: "why".into() };
        let writes = vec![
            Write::put(Kind::Services, "web", &service),
            Write::put(Kind::Checks, "_node_maintenance", &check),
            Write::put(Kind::Ttl, "a", &report("one")),
            Write::put(Kind::Ttl, "b", &report("two")),
        ];
        drawer.write(writes).durable().await.unwrap();
        drawer.write(vec![Write::remove(Kind::Ttl, "a")]).durable().await.unwrap();
        drop(drawer);
        let (_drawer, kept) = reopen(folder.path());
        assert_eq!(kept.services, [("web".to_owned(), service)]);
        assert_eq!(kept.checks, [("_node_maintenance".to_owned(), check)]);
        assert_eq!(kept.reports, [("b".to_owned(), report("two"))]);
        let mode = std::fs::metadata(folder.path().join("local")).unwrap().permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o700);
    }

    #[tokio::test]
    async fn values_of_another_format_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let (drawer, _) = Drawer::open(Some(folder.path())).unwrap();
        for value in [vec![9, b'{'], vec![], vec![FORMAT, b'{']] {
            let write = Write { kind: Kind::Checks, key: "odd".into(), value: Some(value) };
            drawer.write(vec![write]).durable().await.unwrap();
        }
        drop(drawer);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let error = loop {
            match Drawer::open(Some(folder.path())) {
                Err(error @ Error::Value { .. }) => break error,
                _ => assert!(std::time::Instant::now() < deadline, "the odd value was read"),
            }
        };
        assert!(error.to_string().starts_with("`odd` in `checks` cannot be read"), "{error}");
    }

    #[tokio::test]
    async fn without_a_folder_nothing_is_kept() {
        let (drawer, _) = Drawer::open(None).unwrap();
        drawer.write(vec![Write::remove(Kind::Ttl, "a")]).durable().await.unwrap();
    }
}
