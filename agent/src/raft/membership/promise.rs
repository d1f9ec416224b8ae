//! To which cluster this server belongs. It belongs to one at most, and never leaves it for another.
//!
//! ```text
//!   none ──▶ promised to the cluster that a founder is about to form ──▶ member
//!                 │  ▲
//!                 └──┘ only if that plan was given up: then the founder itself has joined another
//! ```
//!
//! Two servers may have different views of who is there, and each may want to form a cluster. A
//! founder forms one only after all its first members have promised themselves to it, durably, and
//! nobody promises twice: so no two clusters ever share a server. Every message of agreement carries
//! the cluster's ID, and a server answers those of its own cluster only.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use uuid::Uuid;

use crate::disk;
use crate::raft::types::ServerId;

/// Promise of a server to take part in one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) struct Promise {
    /// The server that promised: a folder that was copied to another server does not bind that one.
    pub(in crate::raft) server: ServerId,
    /// The cluster's ID, chosen by its founder.
    pub(in crate::raft) cluster: Uuid,
    /// The one server that may form it.
    pub(in crate::raft) founder: ServerId,
    /// Is it known to exist?
    pub(in crate::raft) formed: bool,
}

/// Asks a server to belong to a cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::raft) struct Invitation {
    /// The invited server.
    pub(in crate::raft) to: ServerId,
    /// The inviting server: the founder, or later the leader. Servers that do not say so are taken for the founder.
    #[serde(default)]
    pub(in crate::raft) from: Option<ServerId>,
    /// Binds nobody: only asks whether the addressee is in that cluster, or forms it.
    #[serde(default)]
    pub(in crate::raft) asks: bool,
    /// To which cluster.
    pub(in crate::raft) cluster: Uuid,
    /// The server that forms it.
    pub(in crate::raft) founder: ServerId,
    /// It exists.
    pub(in crate::raft) formed: bool,
    /// Clusters that will never exist: their founder belongs to this one.
    pub(in crate::raft) void: Vec<Uuid>,
}

/// Answer of the invited server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) enum Acceptance {
    /// It belongs to that cluster now, durably.
    Accepted,
    /// It belongs to another.
    Bound(Promise),
    /// Another server answers at that address.
    Stranger(ServerId),
}

/// This server's bond, on disk and in memory.
#[derive(Debug)]
pub(in crate::raft) struct Promises {
    me: ServerId,
    path: Option<PathBuf>,
    now: watch::Sender<Option<Promise>>,
    /// Held while a decision is made: answering an invitation, forming a cluster.
    pub(in crate::raft) deciding: Mutex<()>,
}

impl Promises {
    /// Reads what was promised before.
    pub(in crate::raft) fn open(me: ServerId, directory: Option<&Path>) -> io::Result<Promises> {
        let path = directory.map(|directory| directory.join("cluster.json"));
        let kept = match &path {
            None => None,
            Some(path) => match fs::read(path) {
                Ok(bytes) => Some(serde_json::from_slice::<Promise>(&bytes).map_err(|error| {
                    let text = format!("cannot read {}: {error}", path.display());
                    io::Error::new(io::ErrorKind::InvalidData, text)
                })?),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            },
        };
        let kept = kept.filter(|promise| promise.server == me);
        Ok(Promises { me, path, now: watch::Sender::new(kept), deciding: Mutex::default() })
    }

    pub(in crate::raft) fn now(&self) -> Option<Promise> {
        *self.now.borrow()
    }

    /// Tells of changes.
    pub(in crate::raft) fn watch(&self) -> watch::Receiver<Option<Promise>> {
        self.now.subscribe()
    }

    /// Binds this server; durable on return.
    pub(in crate::raft) fn bind(
        &self,
        cluster: Uuid,
        founder: ServerId,
        formed: bool,
    ) -> io::Result<()> {
        let promise = Promise { server: self.me, cluster, founder, formed };
        if self.now() == Some(promise) {
            return Ok(());
        }
        if let Some(path) = &self.path {
            write(path, &promise)?;
        }
        self.now.send_replace(Some(promise));
        Ok(())
    }

    /// Is this server bound to that cluster already?
    pub(in crate::raft) fn is_of(&self, cluster: Uuid) -> bool {
        self.now().is_some_and(|promise| promise.cluster == cluster)
    }

    /// Answers an invitation. `taking_part`: has this server ever voted or kept an entry?
    pub(in crate::raft) async fn answer(
        &self,
        invitation: &Invitation,
        taking_part: impl Future<Output = bool>,
    ) -> io::Result<Acceptance> {
        if invitation.to != self.me {
            return Ok(Acceptance::Stranger(self.me));
        }
        if invitation.asks && !self.is_of(invitation.cluster) {
            return Ok(Acceptance::Stranger(self.me));
        }
        let _deciding = self.deciding.lock().await;
        if let Some(promise) = self.now() {
            if promise.cluster == invitation.cluster {
                return Ok(Acceptance::Accepted);
            }
            let member = promise.formed || taking_part.await;
            if member || !may_change(self.me, promise, invitation) {
                // Who knows the ID of a cluster that exists is taken for one of it: nobody is told who asks.
                let cluster = if member { Uuid::nil() } else { promise.cluster };
                return Ok(Acceptance::Bound(Promise { formed: member, cluster, ..promise }));
            }
        }
        self.bind(invitation.cluster, invitation.founder, false)?;
        Ok(Acceptance::Accepted)
    }
}

/// May a server that takes no part yet follow the invitation in spite of its promise?
fn may_change(me: ServerId, promise: Promise, invitation: &Invitation) -> bool {
    if promise.founder == me {
        // Its own plan, and nobody else can carry it out. Of two founders the smaller ID wins.
        invitation.formed || invitation.founder < me
    } else {
        invitation.void.contains(&promise.cluster)
    }
}

/// The server that the log in this data directory belongs to, if it ever was in a cluster.
pub fn owner_of_log(data_dir: &Path) -> Option<ServerId> {
    let bytes = fs::read(data_dir.join("raft").join("cluster.json")).ok()?;
    serde_json::from_slice::<Promise>(&bytes).ok().map(|promise| promise.server)
}

fn write(path: &Path, promise: &Promise) -> io::Result<()> {
    disk::replace(path, &serde_json::to_vec(promise).map_err(io::Error::other)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: u64 = 1;

    fn id(number: u64) -> ServerId {
        number.into()
    }

    fn cluster(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    /// From `founder` for its cluster, which has the same number.
    fn invitation(to: u64, founder: u64, formed: bool, void: &[u128]) -> Invitation {
        Invitation {
            to: id(to),
            from: Some(id(founder)),
            asks: false,
            cluster: cluster(founder.into()),
            founder: id(founder),
            formed,
            void: void.iter().map(|number| cluster(*number)).collect(),
        }
    }

    async fn ask(promises: &Promises, invitation: &Invitation) -> bool {
        let answer = promises.answer(invitation, std::future::ready(false)).await.unwrap();
        answer == Acceptance::Accepted
    }

    #[tokio::test]
    async fn a_promise_is_given_once_and_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let promises = Promises::open(id(5), Some(folder.path())).unwrap();
        assert!(ask(&promises, &invitation(5, 3, false, &[])).await);
        assert!(ask(&promises, &invitation(5, 3, false, &[])).await, "the same again");
        drop(promises);
        let promises = Promises::open(id(5), Some(folder.path())).unwrap();
        assert!(!ask(&promises, &invitation(5, 1, false, &[])).await);
        assert!(!ask(&promises, &invitation(5, 1, true, &[])).await);
        assert!(ask(&promises, &invitation(5, 1, true, &[3])).await, "its founder has given up");
        assert!(!ask(&promises, &invitation(5, 3, false, &[])).await);
    }

    #[tokio::test]
    async fn of_two_founders_the_smaller_wins_unless_a_cluster_exists() {
        let promises = Promises::open(id(3), None).unwrap();
        promises.bind(cluster(3), id(3), false).unwrap();
        assert!(!ask(&promises, &invitation(3, 7, false, &[])).await);
        assert!(ask(&promises, &invitation(3, ONE, false, &[])).await);

        let promises = Promises::open(id(3), None).unwrap();
        promises.bind(cluster(3), id(3), false).unwrap();
        assert!(ask(&promises, &invitation(3, 7, true, &[])).await);
    }

    #[tokio::test]
    async fn a_member_never_leaves_and_a_stranger_says_so() {
        let promises = Promises::open(id(3), None).unwrap();
        promises.bind(cluster(3), id(3), true).unwrap();
        assert!(!ask(&promises, &invitation(3, ONE, true, &[3])).await);
        let promises = Promises::open(id(4), None).unwrap();
        promises.bind(cluster(3), id(3), false).unwrap();
        let voted =
            promises.answer(&invitation(4, ONE, true, &[3]), std::future::ready(true)).await;
        let Acceptance::Bound(promise) = voted.unwrap() else { panic!("it has a bond") };
        assert!(promise.formed && promise.cluster.is_nil(), "nobody is told the ID of a cluster");
        let other = promises.answer(&invitation(9, 3, true, &[]), std::future::ready(false)).await;
        assert_eq!(other.unwrap(), Acceptance::Stranger(id(4)));
    }

    #[tokio::test]
    async fn a_question_binds_nobody() {
        let promises = Promises::open(id(3), None).unwrap();
        let question = Invitation { asks: true, ..invitation(3, ONE, false, &[]) };
        assert!(!ask(&promises, &question).await);
        assert_eq!(promises.now(), None);
        promises.bind(cluster(ONE.into()), id(ONE), false).unwrap();
        assert!(ask(&promises, &question).await);
    }

    #[test]
    fn a_copied_folder_binds_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let promises = Promises::open(id(5), Some(folder.path())).unwrap();
        promises.bind(cluster(1), id(1), true).unwrap();
        assert_eq!(Promises::open(id(6), Some(folder.path())).unwrap().now(), None);
    }
}
