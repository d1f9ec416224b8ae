//! The agent's own drawer: what it must still know after a restart and what no server keeps for it.
//!
//! One sled database under `data_dir`, one tree for each kind of thing, values with a version in
//! their first byte. One thread owns it (`keeper.rs`): it takes all writes that wait, applies them, makes them
//! durable once, and answers all who asked. A drawer without a folder (`-dev`) keeps nothing.
//!
//! A change of the agent's state is first kept, then done: [`Persistence::write`] takes what is to be done along, and the
//! thread does it once the writes are durable, in the order of the calls. A change that cannot be kept does not happen.
//! Reports to TTL checks are the exception: they count at once, kept or not.

pub(super) mod keeper;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};

use muster_client::types::{CheckDefinition, ServiceDefinition};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use keeper::{Batch, Keeper};

/// The format of values that this build writes.
pub(super) const FORMAT: u8 = 1;

/// Local state could not be kept, or read back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder could not be made or opened.
    #[error("cannot open `{}`", path.display())]
    Open {
        /// Which one.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The disk has no room for what the database writes when it is opened.
    #[error(
        "no room on the disk of `{}`: free at least 1 MiB there and start the agent again",
        path.display()
    )]
    FullAtStart {
        /// The database's folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: Box<Error>,
    },
    /// The database refused to open.
    #[error("cannot open the database in `{}`", path.display())]
    Start {
        /// Its folder.
        path: PathBuf,
        /// The reason.
        #[source]
        source: Box<Error>,
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
        /// The reason.
        what: String,
    },
    /// The disk is too full to begin.
    #[error("no room on the disk of `{}`: {free} KiB are free, {needed} KiB are needed", path.display())]
    Full {
        /// The database's folder.
        path: PathBuf,
        /// KiB that can be written.
        free: u64,
        /// KiB that must be there.
        needed: u64,
    },
    /// Writes that were not made durable, and are not there.
    #[error("{0}")]
    NotKept(String),
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
    pub(super) const ALL: [Kind; 3] = [Kind::Services, Kind::Checks, Kind::Ttl];

    pub(super) fn tree(self) -> &'static str {
        match self {
            Kind::Services => "services",
            Kind::Checks => "checks",
            Kind::Ttl => "ttl",
        }
    }
}

/// A service as it is kept, without its checks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct PersistedService {
    pub(super) definition: ServiceDefinition,
}

/// A check as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum PersistedCheck {
    /// With its id and service filled in.
    Defined(Box<CheckDefinition>),
    /// A maintenance of a service or of the node.
    Maintenance { service_id: Option<String>, reason: String },
}

/// The last report to a TTL check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct PersistedReport {
    pub(super) status: muster_client::types::Status,
    pub(super) output: String,
    /// Milliseconds since the Unix epoch: after this it is worth nothing.
    pub(super) expires_ms: u64,
}

/// One change of the drawer.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) kind: Kind,
    pub(super) key: String,
    /// `None` removes.
    pub(super) value: Option<Vec<u8>>,
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
pub(super) struct Persistence {
    /// `None` keeps nothing. Not bounded here: everybody who sends waits for the answer.
    writes: Option<Sender<Batch>>,
}

/// Everything that was kept.
#[derive(Debug, Default)]
pub(super) struct PersistedState {
    pub(super) services: Vec<(String, PersistedService)>,
    pub(super) checks: Vec<(String, PersistedCheck)>,
    pub(super) reports: Vec<(String, PersistedReport)>,
}

impl Persistence {
    /// Opens the drawer below `data_dir` and reads all of it.
    pub(super) fn open(data_dir: Option<&Path>) -> Result<(Persistence, PersistedState), Error> {
        let Some(data_dir) = data_dir else {
            return Ok((Persistence { writes: None }, PersistedState::default()));
        };
        let path = data_dir.join("local");
        let (keeper, kept) = Keeper::open(&path)?;
        let (sender, receiver) = channel();
        std::thread::Builder::new()
            .name("drawer".into())
            .spawn(move || keeper.run(&receiver))
            .map_err(|source| Error::Open { path, source })?;
        Ok((Persistence { writes: Some(sender) }, kept))
    }

    /// Hands writes over, in the order of the calls; `then` is done once they are durable, before later ones are.
    /// Await the answer to know. Who does not await changes nothing about it.
    pub(super) fn write<R: Send + 'static>(
        &self,
        writes: Vec<Write>,
        then: impl FnOnce() -> R + Send + 'static,
    ) -> Pending<R> {
        let Some(sender) = self.writes.as_ref().filter(|_| !writes.is_empty()) else {
            return Pending::Done(then());
        };
        let (done, answer) = oneshot::channel();
        let finish = move |kept: Result<(), Error>| {
            // Whoever asked may have gone away.
            let _ = done.send(kept.map(|()| then()));
        };
        // If the thread is gone the answer says so: its sender is dropped.
        let _ = sender.send(Batch { writes, finish: Box::new(finish) });
        Pending::Waits(answer)
    }
}

/// Writes on their way to the disk, and what is to be done then.
#[derive(Debug)]
#[must_use = "not durable before it is awaited"]
pub(super) enum Pending<R> {
    Done(R),
    Waits(oneshot::Receiver<Result<R, Error>>),
}

impl<R> Pending<R> {
    /// Resolves once the writes are durable and the rest is done, or says why neither is.
    pub(super) async fn durable(self) -> Result<R, Error> {
        match self {
            Pending::Done(done) => Ok(done),
            Pending::Waits(answer) => answer.await.unwrap_or(Err(Error::Closed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_client::types::Status;

    use super::*;

    fn report(output: &str) -> PersistedReport {
        PersistedReport { status: Status::Passing, output: output.into(), expires_ms: 7 }
    }

    /// Opens a drawer that another handle may still be closing.
    fn reopen(folder: &Path) -> (Persistence, PersistedState) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            match Persistence::open(Some(folder)) {
                Ok(opened) => return opened,
                Err(error) if std::time::Instant::now() > deadline => panic!("{error:?}"),
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let (persistence, kept) = Persistence::open(Some(folder.path())).unwrap();
        assert!(kept.services.is_empty() && kept.checks.is_empty() && kept.reports.is_empty());
        let service = PersistedService {
            definition: ServiceDefinition { name: "web".into(), ..ServiceDefinition::default() },
        };
        let check = PersistedCheck::Maintenance { service_id: None, reason: "why".into() };
        let writes = vec![
            Write::put(Kind::Services, "web", &service),
            Write::put(Kind::Checks, "_node_maintenance", &check),
            Write::put(Kind::Ttl, "a", &report("one")),
            Write::put(Kind::Ttl, "b", &report("two")),
        ];
        persistence.write(writes, || ()).durable().await.unwrap();
        persistence.write(vec![Write::remove(Kind::Ttl, "a")], || ()).durable().await.unwrap();
        drop(persistence);
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
        let (persistence, _) = Persistence::open(Some(folder.path())).unwrap();
        for value in [vec![9, b'{'], vec![], vec![FORMAT, b'{']] {
            let write = Write { kind: Kind::Checks, key: "odd".into(), value: Some(value) };
            persistence.write(vec![write], || ()).durable().await.unwrap();
        }
        drop(persistence);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let error = loop {
            match Persistence::open(Some(folder.path())) {
                Err(error @ Error::Value { .. }) => break error,
                _ => assert!(std::time::Instant::now() < deadline, "the odd value was read"),
            }
        };
        assert!(error.to_string().starts_with("`odd` in `checks` cannot be read"), "{error}");
    }

    #[tokio::test]
    async fn without_a_folder_nothing_is_kept() {
        let (persistence, _) = Persistence::open(None).unwrap();
        persistence.write(vec![Write::remove(Kind::Ttl, "a")], || ()).durable().await.unwrap();
    }
}
