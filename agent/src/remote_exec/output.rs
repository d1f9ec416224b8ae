//! Output of a program, in pieces: a full one at once, a smaller one when nothing more came for a
//! moment.

use std::io::{self, PipeReader};
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::time::Instant;

/// Bytes of a piece.
const PIECE_BYTES_MAX: usize = 4096;
/// Bytes of all pieces together. Each is written by agreement of the servers: what is beyond this is
/// read and dropped.
const OUTPUT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// After this long without more, what is there is a piece.
const IDLE: Duration = Duration::from_millis(500);
/// Time for which a pipe is read after its program ended: a process that it left behind may hold the other
/// end for ever.
const AFTERWARDS: Duration = Duration::from_millis(300);

/// Next piece of the output.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Bytes(Vec<u8>),
    /// Nothing for as long as was asked.
    Silence,
    /// The program ended, and all of it was said.
    End,
}

/// The reading end.
#[derive(Debug)]
pub(super) struct Output {
    /// `None` once nobody can write any more.
    pipe: Option<pipe::Receiver>,
    held: Vec<u8>,
    said: usize,
    ended: bool,
}

impl Output {
    pub(super) fn new(reader: PipeReader) -> io::Result<Output> {
        let pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
        Ok(Output { pipe: Some(pipe), held: Vec::new(), said: 0, ended: false })
    }

    /// Waits for the next piece, at most `patience`.
    pub(super) async fn next(&mut self, child: &mut Child, patience: Duration) -> Piece {
        let begin = Instant::now();
        let mut heard = begin;
        loop {
            if self.held.len() >= PIECE_BYTES_MAX
                && let Some(piece) = self.piece()
            {
                return piece;
            }
            let quiet = match (self.ended, self.held.is_empty()) {
                (true, _) => AFTERWARDS,
                (false, false) => IDLE,
                (false, true) => patience,
            };
            if self.ended && self.pipe.is_none() {
                return self.piece().unwrap_or(Piece::End);
            }
            let Output { pipe, held, .. } = self;
            tokio::select! {
                biased;
                read = read(pipe, held) => {
                    heard = Instant::now();
                    if read == 0 {
                        self.pipe = None;
                    }
                }
                _ = child.wait(), if !self.ended => {
                    heard = Instant::now();
                    self.ended = true;
                }
                () = tokio::time::sleep_until(heard + quiet) => {
                    if self.ended {
                        self.pipe = None;
                    } else {
                        return self.piece().unwrap_or(Piece::Silence);
                    }
                }
            }
        }
    }

    /// Takes the held bytes, unless there are none or the limit is reached.
    fn piece(&mut self) -> Option<Piece> {
        let bytes = std::mem::take(&mut self.held);
        if bytes.is_empty() || self.said >= OUTPUT_BYTES_MAX {
            return None;
        }
        self.said += bytes.len();
        if self.said >= OUTPUT_BYTES_MAX {
            let mut bytes = bytes;
            let rest = format!("\n(what is printed after {OUTPUT_BYTES_MAX} bytes is not sent)\n");
            bytes.extend_from_slice(rest.as_bytes());
            return Some(Piece::Bytes(bytes));
        }
        Some(Piece::Bytes(bytes))
    }
}

/// Reads some more; 0 is the end.
async fn read(pipe: &mut Option<pipe::Receiver>, held: &mut Vec<u8>) -> usize {
    let Some(pipe) = pipe else { return std::future::pending().await };
    let room = PIECE_BYTES_MAX.saturating_sub(held.len());
    let mut more = pipe.take(room as u64);
    // A pipe that cannot be read has ended.
    more.read_buf(held).await.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::start;
    use super::*;

    async fn all(line: &str, patience: Duration) -> Vec<Piece> {
        let (mut child, _awaited, mut output) = start(&[line.to_owned()], true).expect("a shell");
        let mut pieces = Vec::new();
        loop {
            match output.next(&mut child, patience).await {
                Piece::End => return pieces,
                piece => pieces.push(piece),
            }
        }
    }

    fn text(pieces: &[Piece]) -> String {
        let bytes: Vec<u8> = pieces
            .iter()
            .flat_map(|piece| if let Piece::Bytes(bytes) = piece { bytes.clone() } else { vec![] })
            .collect();
        String::from_utf8(bytes).expect("text")
    }

    #[tokio::test]
    async fn both_streams_come_in_their_order() {
        let minute = Duration::from_mins(1);
        let pieces = all("echo one; echo two >&2; echo three", minute).await;
        assert_eq!(text(&pieces), "one\ntwo\nthree\n");
        assert_eq!(all("exit 3", minute).await, []);
    }

    #[tokio::test]
    async fn long_output_comes_in_pieces_up_to_a_limit() {
        let pieces = all("yes | head -c 10000", Duration::from_mins(1)).await;
        let sizes: Vec<usize> = pieces
            .iter()
            .map(|piece| if let Piece::Bytes(bytes) = piece { bytes.len() } else { 0 })
            .collect();
        assert_eq!((sizes.iter().sum::<usize>(), sizes[0]), (10_000, PIECE_BYTES_MAX));
        let line = format!("yes | head -c {}", OUTPUT_BYTES_MAX + 100_000);
        let kept = text(&all(&line, Duration::from_mins(1)).await);
        assert!(kept.len() < OUTPUT_BYTES_MAX + 200 && kept.ends_with("is not sent)\n"));
    }

    #[tokio::test]
    async fn silence_is_told_and_what_is_left_behind_holds_nobody_up() {
        let pieces = all("sleep 1; echo late", Duration::from_millis(250)).await;
        assert_eq!(pieces[0], Piece::Silence);
        assert_eq!(text(&pieces), "late\n");
        let begin = Instant::now();
        let left = text(&all("sleep 300 & echo $!", Duration::from_mins(2)).await);
        assert!(begin.elapsed() < Duration::from_mins(2));
        let left = nix::unistd::Pid::from_raw(left.trim().parse().expect("a process id"));
        nix::sys::signal::kill(left, nix::sys::signal::Signal::SIGKILL).expect("it is left behind");
    }
}
