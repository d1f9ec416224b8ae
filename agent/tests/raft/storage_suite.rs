//! The library's own suite over each log store.

use std::sync::Arc;

use muster_agent::raft::log::sled::Sled;
use muster_agent::raft::log::wal::Wal;
use muster_agent::raft::log::{DiskQuota, Log};
use muster_agent::raft::machine::{Machine, Published};
use muster_agent::raft::snapshot::files::Snapshots;
use muster_agent::raft::snapshot::policy::Policy;
use muster_agent::raft::types::Types;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

enum Kind {
    Memory,
    Wal,
    Sled,
}

impl StoreBuilder<Types, Log, Machine, TempDir> for Kind {
    async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError<Types>> {
        let folder = tempfile::tempdir().unwrap();
        let log = match self {
            Kind::Memory => Log::in_memory(),
            Kind::Wal => {
                let (store, recovered) =
                    Wal::open(&folder.path().join("wal"), &DiskQuota::default()).unwrap();
                Log::over(store, &recovered).unwrap()
            }
            Kind::Sled => {
                let (store, recovered) =
                    Sled::open(&folder.path().join("sled"), DiskQuota::default()).unwrap();
                Log::over(store, &recovered).unwrap()
            }
        };
        let snapshots = match self {
            Kind::Memory => None,
            Kind::Wal | Kind::Sled => Some(Snapshots::open(&folder.path().join("snap")).unwrap()),
        };
        let snapshot_policy = Arc::new(Policy::new(16_384));
        let machine =
            Machine::open(snapshots, None, Arc::new(Published::default()), snapshot_policy)
                .unwrap();
        Ok((folder, log, machine))
    }
}

#[tokio::test]
async fn memory() {
    Suite::test_all(Kind::Memory).await.unwrap();
}

#[tokio::test]
async fn wal() {
    Suite::test_all(Kind::Wal).await.unwrap();
}

#[tokio::test]
async fn sled() {
    Suite::test_all(Kind::Sled).await.unwrap();
}
