//! A socket on which an answer's head and body go out in one piece.
//!
//! The HTTP library either copies each body behind its head, into a buffer that then stays as large as the largest body
//! ever sent for as long as the connection lives, or gives both to the system as they are. With watchers of a large service
//! the first would keep a copy of its answer for each of them: so it is the second. For small bodies one plain write is
//! cheaper than a gathering one, and a copy of a few hundred bytes is nothing.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Up to here pieces are copied together.
const COPIED_BYTES_MAX: usize = 1024;

pub(super) struct Gather<S>(pub(super) S);

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut copied = [0; COPIED_BYTES_MAX];
        match together(pieces, &mut copied) {
            Some(bytes) => Pin::new(&mut self.0).poll_write(context, bytes),
            None => Pin::new(&mut self.0).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
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
