//! The members that an agent remembers from its last life, so that it finds its pool again by itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::disk;
use crate::gossip::{self, Members, Pools, Status};

/// Members' addresses that are kept.
const REMEMBERED_MAX: usize = 256;
/// Changes within this time are written down together.
const REMEMBER_PAUSE: Duration = Duration::from_secs(2);

/// Path of the file that lists the members of a pool.
pub(super) fn file(dir: &Path, pool: &Members) -> PathBuf {
    match pool.segment() {
        "" => dir.join("serf/local.members"),
        segment => dir.join(format!("serf/segments/{segment}.members")),
    }
}

/// Meets members of the last time, then writes down who is there whenever that changes. Who left on
/// purpose does not come back by itself.
pub(super) async fn remember(members: Members, file: &Path, again: bool, stop: CancellationToken) {
    let (left, known) = remembered(file);
    if !known.is_empty() && (!left || again) {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = gossip::rejoin(&members, &known) => {}
        }
    }
    let mut member_list = members.watch();
    let mut written = Vec::new();
    let mut failing = false;
    loop {
        let own = members.address();
        let there: Vec<String> = member_list
            .borrow_and_update()
            .values()
            .filter(|member| member.status == Status::Alive && member.details.address != own)
            .take(REMEMBERED_MAX)
            .map(|member| member.details.address.to_string())
            .collect();
        // Who is alone for now still wants to find the others after a restart. The first of them
        // are written down at once: this agent may be killed soon.
        if there != written && !there.is_empty() {
            let kept = write(file.to_owned(), there.join("\n")).await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(REMEMBER_PAUSE) => {}
            }
            match kept {
                Ok(()) => (written, failing) = (there, false),
                Err(error) => {
                    // Said once, and tried again until there is room.
                    if !std::mem::replace(&mut failing, true) {
                        warn!(%error, "the members of this cluster could not be written down");
                    }
                    continue;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = member_list.changed() => if changed.is_err() { return },
        }
    }
}

/// Writes down that this agent left on purpose.
pub(super) async fn forget(dir: Option<&Path>, pools: &Pools) {
    let Some(dir) = dir else { return };
    for pool in pools.each() {
        let file = file(dir, pool);
        let (_, known) = remembered(&file);
        let lines = std::iter::once(LEFT.to_owned()).chain(known.iter().map(ToString::to_string));
        let text = lines.collect::<Vec<_>>().join("\n");
        if let Err(error) = write(file, text).await {
            warn!(%error, "that this agent left could not be written down");
        }
    }
}

/// First line of the list of who left.
const LEFT: &str = "left";

/// Has this agent left, and whom did it know?
fn remembered(file: &Path) -> (bool, Vec<SocketAddr>) {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let left = text.lines().next() == Some(LEFT);
    (left, text.lines().filter_map(|line| line.parse().ok()).collect())
}

async fn write(file: PathBuf, text: String) -> std::io::Result<()> {
    let write = move || {
        if let Some(dir) = file.parent() {
            disk::folder(dir)?;
        }
        disk::replace(&file, text.as_bytes())
    };
    tokio::task::spawn_blocking(write).await.map_err(std::io::Error::other)?
}
