//! The body of a request: whoever takes it, wherever it comes from, and never more of it than is allowed.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::AppState;
use super::error::Error;
use super::intake::{self, Intake, Share};

/// JSON bodies without a limit of their own.
pub(crate) const BODY_BYTES_MAX: u64 = 8 << 20;

/// A request's body, for whoever takes it. What nobody took is read and thrown away before the
/// answer goes out: clients that still write would miss the answer for a broken pipe.
#[derive(Clone)]
pub(crate) struct RequestBody(Option<Arc<Mutex<Option<Source>>>>);

/// Source of a body.
enum Source {
    /// The connection, still unread.
    Connection(Upload),
    /// The agent that passed the request on; `None`: it was too large for that.
    Agent(Option<Bytes>),
    /// The same agent, piece by piece.
    Pieces(mpsc::Receiver<io::Result<Bytes>>),
}

/// A body that a client sends, and the bounds on it.
struct Upload {
    body: Incoming,
    intake: Arc<Intake>,
    client: Option<IpAddr>,
    idle_max: Duration,
}

/// A body has ended early.
enum Broken {
    /// Nothing came for too long, or all of it takes too long.
    Slow(String),
    /// The connection failed.
    Failed(hyper::Error),
}

impl Upload {
    /// The next bytes; `None` at the end.
    async fn next(&mut self, pace: &Pace) -> Option<Result<Bytes, Broken>> {
        loop {
            let until = pace.deadline(self.idle_max);
            return Some(match tokio::time::timeout_at(until, self.body.frame()).await {
                Ok(None) => return None,
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => Ok(data),
                    Err(_) => continue,
                },
                Ok(Some(Err(error))) => Err(Broken::Failed(error)),
                Err(_) => Err(Broken::Slow(pace.reproach(self.idle_max))),
            });
        }
    }
}

/// Slowest accepted pace of a body or an answer: never nothing for long, and not less than [`PACE_BYTES`] a second
/// on the whole.
pub(super) struct Pace {
    begun: Instant,
    moved: u64,
}

/// Bytes a second of what moves too slowly to be worth its place.
const PACE_BYTES: u64 = 16 << 10;

impl Pace {
    /// It begins now.
    pub(super) fn new() -> Pace {
        Pace { begun: Instant::now(), moved: 0 }
    }

    /// So many bytes moved.
    pub(super) fn moved(&mut self, bytes: usize) {
        self.moved += bytes as u64;
    }

    /// By when the next bytes must have moved, if nothing may move for `idle_max`.
    pub(super) fn deadline(&self, idle_max: Duration) -> Instant {
        (Instant::now() + idle_max).min(self.begun + self.time_for(idle_max))
    }

    /// The time for what has moved: twice the idle time to begin with.
    fn time_for(&self, idle_max: Duration) -> Duration {
        2 * idle_max + Duration::from_secs(self.moved / PACE_BYTES)
    }

    fn reproach(&self, idle_max: Duration) -> String {
        if self.begun.elapsed() >= self.time_for(idle_max) {
            format!("less than {PACE_BYTES} bytes a second")
        } else {
            format!("nothing for {} s", idle_max.as_secs())
        }
    }
}

/// Bytes of a refused body that are read all the same.
const DRAIN_BYTES_MAX: u64 = 16 << 20;
/// Time-out of draining.
const DRAIN_WAIT: Duration = Duration::from_secs(5);

impl RequestBody {
    /// The body of a request that has none.
    pub(super) fn none() -> RequestBody {
        RequestBody(None)
    }

    /// Most requests have none, and cost nothing here.
    pub(super) fn new(body: Incoming, app: &AppState, client: Option<IpAddr>) -> RequestBody {
        if body.is_end_stream() {
            return RequestBody(None);
        }
        let upload = Upload {
            body,
            intake: Arc::clone(&app.intake),
            client,
            idle_max: app.settings.body_idle_max,
        };
        RequestBody(Some(Arc::new(Mutex::new(Some(Source::Connection(upload))))))
    }

    /// The body of a request that another agent passed on.
    pub(super) fn passed(body: Option<Bytes>) -> RequestBody {
        RequestBody(Some(Arc::new(Mutex::new(Some(Source::Agent(body))))))
    }

    /// The body of a request that another agent passes on piece by piece.
    pub(super) fn uploaded(pieces: mpsc::Receiver<io::Result<Bytes>>) -> RequestBody {
        RequestBody(Some(Arc::new(Mutex::new(Some(Source::Pieces(pieces))))))
    }

    fn take(&self) -> Option<Source> {
        self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Is there something that nobody took?
    pub(super) fn is_left(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|body| body.lock().unwrap_or_else(PoisonError::into_inner).is_some())
    }

    /// Reads what nobody took.
    pub(super) async fn drain(&self) {
        if let Some(Source::Connection(upload)) = self.take() {
            drain(upload.body).await;
        }
    }
}

async fn drain(mut body: Incoming) {
    let read = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
            if bytes > DRAIN_BYTES_MAX {
                break;
            }
        }
    };
    // A client that is slower than that misses the answer: nothing to be done.
    let _ = tokio::time::timeout(DRAIN_WAIT, read).await;
}

/// Time-out of the next piece of a body that another agent forwards.
const PIECE_WAIT: Duration = Duration::from_mins(1);

/// Hands a body over piece by piece to whoever reads at the other end. A reader that has seen
/// enough closes its end, and the rest is read and thrown away.
pub(crate) async fn pour(body: RequestBody, to: mpsc::Sender<io::Result<Bytes>>) {
    let mut upload = match body.take() {
        None => return,
        Some(Source::Connection(upload)) => upload,
        Some(Source::Agent(body)) => {
            let piece = body.ok_or_else(|| io::Error::other("too large to be passed on whole"));
            // Who reads may have seen enough.
            let _ = to.send(piece).await;
            return;
        }
        Some(Source::Pieces(pieces)) => return relay(pieces, to).await,
    };
    let mut pace = Pace::new();
    loop {
        let piece = match upload.next(&pace).await {
            None => return,
            Some(Ok(data)) => Ok(data),
            Some(Err(Broken::Failed(error))) => Err(io::Error::other(error)),
            Some(Err(Broken::Slow(why))) => Err(io::Error::new(io::ErrorKind::TimedOut, why)),
        };
        pace.moved(piece.as_ref().map_or(0, Bytes::len));
        let failed = piece.is_err();
        if to.send(piece).await.is_err() {
            drain(upload.body).await;
            return;
        }
        if failed {
            return;
        }
    }
}

/// The same for a body that another agent passes on.
async fn relay(mut pieces: mpsc::Receiver<io::Result<Bytes>>, to: mpsc::Sender<io::Result<Bytes>>) {
    let mut pace = Pace::new();
    loop {
        let piece = match tokio::time::timeout_at(pace.deadline(PIECE_WAIT), pieces.recv()).await {
            Ok(None) => return,
            Ok(Some(piece)) => piece,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, pace.reproach(PIECE_WAIT))),
        };
        pace.moved(piece.as_ref().map_or(0, Bytes::len));
        let failed = piece.is_err();
        if to.send(piece).await.is_err() || failed {
            return;
        }
    }
}

/// The whole of a body, up to `bytes_max`.
pub(crate) async fn collect(body: RequestBody, bytes_max: u64) -> Result<Bytes, Error> {
    let too_large =
        || Error::TooLarge(format!("Request body too large, max size: {bytes_max} bytes."));
    let mut upload = match body.take() {
        None => return Ok(Bytes::new()),
        Some(Source::Agent(Some(bytes))) if bytes.len() as u64 <= bytes_max => return Ok(bytes),
        Some(Source::Agent(_) | Source::Pieces(_)) => return Err(too_large()),
        Some(Source::Connection(upload)) => upload,
    };
    let announced = upload.body.size_hint().exact().unwrap_or(0).min(bytes_max);
    let announced = usize::try_from(announced).unwrap_or(usize::MAX);
    let mut share = Share::new(Arc::clone(&upload.intake), upload.client);
    share.grow(announced).await?;
    let mut whole = BytesMut::with_capacity(announced.min(intake::FREE_BYTES));
    let mut pace = Pace::new();
    while let Some(data) = upload.next(&pace).await {
        let data = data.map_err(|broken| match broken {
            Broken::Slow(why) => Error::TooSlow(why),
            Broken::Failed(error) => {
                Error::invalid(format!("Request body could not be read: {error}"))
            }
        })?;
        let length = whole.len() + data.len();
        if length as u64 > bytes_max {
            drop((whole, share));
            drain(upload.body).await;
            return Err(too_large());
        }
        // What the pieces of an unannounced body need beyond their number is at most as much again.
        share.grow(length).await?;
        if length > whole.capacity() {
            whole.reserve((announced.max(length) - whole.len()).max(data.len()));
        }
        whole.extend_from_slice(&data);
        pace.moved(data.len());
    }
    Ok(share.bytes(whole.freeze()))
}
