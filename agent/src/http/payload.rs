//! The body of a request: whoever takes it, wherever it comes from, and never more of it than is allowed.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::error::Error;

/// JSON bodies without a limit of their own.
pub(crate) const BODY_BYTES_MAX: u64 = 8 << 20;

/// A request's body, for whoever takes it. What nobody took is read and thrown away before the
/// answer goes out: clients that still write would miss the answer for a broken pipe.
#[derive(Clone)]
pub(crate) struct RequestBody(Option<Arc<Mutex<Option<Source>>>>);

/// Where a body comes from.
enum Source {
    /// The connection, still unread.
    Connection(Incoming),
    /// The agent that passed the request on; `None`: it was too large for that.
    Agent(Option<Bytes>),
    /// The same agent, piece by piece.
    Pieces(mpsc::Receiver<io::Result<Bytes>>),
}

/// Bytes of a refused body that are read all the same.
const DRAIN_BYTES_MAX: u64 = 16 << 20;
/// How long that may take.
const DRAIN_WAIT: Duration = Duration::from_secs(5);

impl RequestBody {
    /// The body of a request that has none.
    pub(super) fn none() -> RequestBody {
        RequestBody(None)
    }

    /// Most requests have none, and cost nothing here.
    pub(super) fn new(body: Incoming) -> RequestBody {
        if body.is_end_stream() {
            return RequestBody(None);
        }
        RequestBody(Some(Arc::new(Mutex::new(Some(Source::Connection(body))))))
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
        if let Some(Source::Connection(body)) = self.take() {
            drain(body).await;
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

/// How long the next piece of a large body may take.
const PIECE_WAIT: Duration = Duration::from_secs(30);

/// Hands a body over piece by piece to whoever reads at the other end. A reader that has seen
/// enough closes its end, and the rest is read and thrown away.
pub(crate) async fn pour(body: RequestBody, to: mpsc::Sender<io::Result<Bytes>>) {
    let mut body = match body.take() {
        None => return,
        Some(Source::Connection(body)) => body,
        Some(Source::Agent(body)) => {
            let piece = body.ok_or_else(|| io::Error::other("too large to be passed on whole"));
            // Who reads may have seen enough.
            let _ = to.send(piece).await;
            return;
        }
        Some(Source::Pieces(mut pieces)) => loop {
            let piece = match tokio::time::timeout(PIECE_WAIT, pieces.recv()).await {
                Ok(None) => return,
                Ok(Some(piece)) => piece,
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
            };
            let failed = piece.is_err();
            if to.send(piece).await.is_err() || failed {
                return;
            }
        },
    };
    loop {
        let piece = match tokio::time::timeout(PIECE_WAIT, body.frame()).await {
            Ok(None) => return,
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Ok(data),
                Err(_) => continue,
            },
            Ok(Some(Err(error))) => Err(io::Error::other(error)),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
        };
        let failed = piece.is_err();
        if to.send(piece).await.is_err() {
            drain(body).await;
            return;
        }
        if failed {
            return;
        }
    }
}

/// The whole of a body, up to `bytes_max`.
pub(crate) async fn collect(body: RequestBody, bytes_max: u64) -> Result<Bytes, Error> {
    let too_large =
        || Error::TooLarge(format!("Request body too large, max size: {bytes_max} bytes."));
    let mut body = match body.take() {
        None => return Ok(Bytes::new()),
        Some(Source::Agent(Some(bytes))) if bytes.len() as u64 <= bytes_max => return Ok(bytes),
        Some(Source::Agent(_) | Source::Pieces(_)) => return Err(too_large()),
        Some(Source::Connection(body)) => body,
    };
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| Error::invalid(format!("Request body could not be read: {error}")))?;
        let Some(data) = frame.data_ref() else { continue };
        if (whole.len() + data.len()) as u64 > bytes_max {
            drop(whole);
            drain(body).await;
            return Err(too_large());
        }
        whole.extend_from_slice(data);
    }
    Ok(whole.freeze())
}
