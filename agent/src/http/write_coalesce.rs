//! A socket on which an answer's head and body go out in one piece.
//!
//! The HTTP library either copies each body behind its head, into a buffer that then stays as large as the largest body
//! ever sent for as long as the connection lives, or gives both to the system as they are. With watchers of a large service
//! the first would keep a copy of its answer for each of them: so it is the second. For small bodies one plain write is
//! cheaper than a gathering one, and a copy of a few hundred bytes is nothing.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::read::body;

/// Up to here pieces are copied together.
const COPIED_BYTES_MAX: usize = 1024;

pub(super) struct WriteCoalescer<S> {
    stream: S,
    stall: Stall,
}

impl<S> WriteCoalescer<S> {
    /// A client that takes nothing for `stall_max` is gone.
    pub(super) fn new(stream: S, stall_max: Duration) -> WriteCoalescer<S> {
        WriteCoalescer { stream, stall: Stall { max: stall_max, window: None } }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteCoalescer<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteCoalescer<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.stall.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut copied = [0; COPIED_BYTES_MAX];
        let written = match together(pieces, &mut copied) {
            Some(bytes) => Pin::new(&mut self.stream).poll_write(context, bytes),
            None => Pin::new(&mut self.stream).poll_write_vectored(context, pieces),
        };
        self.stall.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            // All that was ready is written.
            self.stall.window = None;
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Looks after a client that does not take what is ready for it: the answer stays in memory until it does.
struct Stall {
    max: Duration,
    /// From the first write that found no room until all is written. Most connections never have one.
    window: Option<Box<Window>>,
}

struct Window {
    begun: Instant,
    moved: usize,
    look: Pin<Box<Sleep>>,
}

/// Bytes within `Stall::max` that count as taking something.
const PROGRESS_BYTES: usize = 64 << 10;
/// Time-out of a client that reads nothing while answers take too much memory; also the interval of that check.
const HURRY: Duration = Duration::from_secs(2);

impl Stall {
    /// Result of a write, unless the client's time is over.
    fn judge(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                if let Some(window) = &mut self.window {
                    window.moved += bytes;
                    if window.moved >= PROGRESS_BYTES {
                        self.window = None;
                    }
                }
                written
            }
            Poll::Ready(Err(_)) => written,
            Poll::Pending => self.wait(context),
        }
    }

    fn wait(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let pause = HURRY.min(self.max);
        let window = self.window.get_or_insert_with(|| {
            let look = Box::pin(tokio::time::sleep(pause));
            Box::new(Window { begun: Instant::now(), moved: 0, look })
        });
        while window.look.as_mut().poll(context).is_ready() {
            let passed = window.begun.elapsed();
            if passed >= self.max || (passed >= HURRY && body::are_too_large()) {
                tracing::debug!(?passed, "a client takes nothing of its answer");
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::TimedOut)));
            }
            let next = Instant::now() + pause.min(self.max.saturating_sub(passed));
            window.look.as_mut().reset(next);
        }
        Poll::Pending
    }
}

/// The pieces in one, if they fit.
fn together<'a>(pieces: &'a [IoSlice<'_>], copied: &'a mut [u8]) -> Option<&'a [u8]> {
    if let [piece] = pieces {
        return Some(piece);
    }
    let mut filled = 0;
    for piece in pieces {
        copied.get_mut(filled..filled + piece.len())?.copy_from_slice(piece);
        filled += piece.len();
    }
    Some(&copied[..filled])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_goes_out_in_one_piece() {
        let check = |pieces: &[&[u8]], expected: Option<&[u8]>| {
            let mut copied = [0; 8];
            let pieces: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            assert_eq!(together(&pieces, &mut copied), expected);
        };
        check(&[b"a longer head"], Some(b"a longer head"));
        check(&[b"head", b"body"], Some(b"headbody"));
        check(&[b"head", b"", b"b"], Some(b"headb"));
        check(&[b"head", b"body1"], None);
        check(&[], Some(b""));
    }
}
