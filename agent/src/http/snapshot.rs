//! `/v1/snapshot`: the whole state as a file, and back.
//!
//! Both directions stream: the archive is never in memory, neither as it comes nor as it goes.

use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::AppState;
use super::error::Error;
use super::extract::Request;
use super::handler::{Answer, later};
use super::payload::{self, Pace};
use super::reply::{Content, Reply};
use super::routing::{self, Routes};
use crate::acl::{Access, Resource};
use crate::archive::{self, Meta};
use crate::raft::{self, Configuration, Consensus};
use crate::read::{Consistency, Options};
use crate::store::{Found, Store};

pub(super) fn routes() -> Routes {
    Routes::new().route("/v1/snapshot", routing::get(save).put(restore))
}

/// States that are encoded at one time: each takes a processor.
const SAVES_MAX: usize = 2;

/// Pieces of a body between the connection and who makes or takes them.
const PIECES: usize = 4;

/// Bytes of a piece.
const PIECE_BYTES: usize = 64 << 10;

/// Time that a save waits for another one to end.
const SAVE_WAIT: Duration = Duration::from_secs(2);

/// When to come again for what another one has.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// A leader that appears so late was not there.
const RETRY: Duration = Duration::from_millis(50);

/// Bounds what snapshots take of this server.
#[derive(Debug)]
pub(crate) struct Gate {
    saves: Arc<Semaphore>,
    restores: Arc<Semaphore>,
}

impl Default for Gate {
    fn default() -> Self {
        // A state on its way in is in memory beside the present one: one of them is enough.
        Gate { saves: Arc::new(Semaphore::new(SAVES_MAX)), restores: Arc::new(Semaphore::new(1)) }
    }
}

fn save(request: Request) -> Result<Answer, Error> {
    request.authorize(Resource::Operator, Access::Write)?;
    request.datacenter_is_here()?;
    let consistency = if request.params.has("stale") {
        Consistency::Stale { max: None }
    } else {
        Consistency::Consistent
    };
    let app = Arc::clone(&request.app);
    drop(request);
    later(async move {
        let saves = Arc::clone(&app.snapshots.saves);
        let permit = tokio::time::timeout(SAVE_WAIT, saves.acquire_owned())
            .await
            .map_err(|_| Error::Taken {
                text: "other snapshots are being saved on this agent",
                retry_after: RETRY_AFTER,
            })?
            .map_err(|_| raft::Error::Shutdown)?;
        let reader = app.reader()?;
        let options = Options { consistency, ..Options::default() };
        let outcome = reader
            .read(options, |store| Found {
                rows: store.settled(),
                index: store.index(),
                scopes: Vec::new(),
            })
            .await?;
        let meta = meta(&reader.consensus().configuration(), &outcome.found.rows);
        let mut reply =
            Reply::empty().with(CONTENT_TYPE, HeaderValue::from_static("application/x-gzip"));
        reply.meta(outcome.index, outcome.known_leader, outcome.last_contact.as_millis());
        reply.content = {
            let stall_max = app.settings.stall_max;
            Content::Stream(Box::pin(pieces(meta, outcome.found.rows.clone(), permit, stall_max)))
        };
        Ok(reply)
    })
}

#[expect(clippy::disallowed_methods, reason = "a saved state says when it was saved")]
fn meta(configuration: &Configuration, state: &Store) -> Meta {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let servers = configuration.servers.iter().map(|server| archive::Server {
        suffrage: u8::from(!server.voter),
        id: server.id.to_string(),
        address: server.address.clone(),
    });
    Meta::new(
        state.index(),
        configuration.term,
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        servers.collect(),
        configuration.index,
    )
}

/// The archive, encoded as fast as the client takes it.
fn pieces(
    meta: Meta,
    state: Store,
    permit: OwnedSemaphorePermit,
    stall_max: Duration,
) -> impl futures::Stream<Item = Bytes> + Send {
    let (hand, taken) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut out = BufWriter::with_capacity(PIECE_BYTES, BodyWriter::new(hand, stall_max));
        if let Err(error) = archive::write(&meta, &state, &mut out).and_then(|()| out.flush()) {
            // The client sees an archive without its end, which no reader takes for sound.
            tracing::warn!(%error, "a snapshot was not sent whole");
        }
        drop(permit);
    });
    futures::stream::unfold(taken, |mut taken| async {
        let piece = taken.recv().await?;
        Some((piece, taken))
    })
}

/// The writing end of a body.
struct BodyWriter {
    pieces: mpsc::Sender<Bytes>,
    runtime: Handle,
    pace: Pace,
    stall_max: Duration,
}

impl BodyWriter {
    fn new(pieces: mpsc::Sender<Bytes>, stall_max: Duration) -> BodyWriter {
        BodyWriter { pieces, runtime: Handle::current(), pace: Pace::new(), stall_max }
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Whoever takes nothing keeps others from saving.
        let send = self.pieces.send(Bytes::copy_from_slice(bytes));
        let until = self.pace.deadline(self.stall_max);
        let sent = self.runtime.block_on(async { tokio::time::timeout_at(until, send).await });
        sent.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "its reader takes nothing"))?
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        self.pace.moved(bytes.len());
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn restore(request: Request) -> Result<Answer, Error> {
    request.authorize(Resource::Operator, Access::Write)?;
    request.datacenter_is_here()?;
    if request.params.has("stale") {
        return Err(Error::refused("stale not allowed for restore"));
    }
    let app = Arc::clone(&request.app);
    let body = request.into_body();
    later(async move {
        let restores = Arc::clone(&app.snapshots.restores);
        let permit = restores.try_acquire_owned().map_err(|_| Error::Taken {
            text: "another restore is under way on this agent",
            retry_after: RETRY_AFTER,
        })?;
        let (hand, taken) = mpsc::channel(PIECES);
        let reading = tokio::task::spawn_blocking(move || archive::read(Taken::new(taken)));
        payload::pour(body, hand).await;
        let (meta, state) = reading.await.map_err(|error| Error::refused(error.to_string()))??;
        // From here on it does not depend on the client's patience.
        let work = tokio::spawn(async move {
            let _permit = permit;
            bring(&app, state).await
        });
        let index = work.await.map_err(|error| Error::refused(error.to_string()))??;
        tracing::info!(saved = meta.id, index, "the state was replaced by a saved one");
        Ok(Reply::empty())
    })
}

/// Has the cluster take the state; waits for a leader as other writes do.
async fn bring(app: &AppState, state: Store) -> Result<u64, Error> {
    let reader = app.reader()?;
    let deadline = tokio::time::Instant::now() + reader.leader_wait();
    let consensus: &Consensus = reader.consensus();
    loop {
        match consensus.restore(state.clone()).await {
            Err(raft::Error::NoLeader) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(RETRY).await;
            }
            done => return Ok(done?),
        }
    }
}

/// The reading end of a body.
struct Taken {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Taken {
    fn new(pieces: mpsc::Receiver<io::Result<Bytes>>) -> Taken {
        Taken { pieces, piece: Bytes::new() }
    }
}

impl Read for Taken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}
