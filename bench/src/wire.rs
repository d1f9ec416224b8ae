//! HTTP/1.1 over a raw socket, as cheap as it can be: the generator shares two cores with the
//! server that it measures, so every microsecond here is taken from the figures.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One keep-alive connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

/// What matters of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    /// Status code.
    pub(crate) status: u16,
    /// `X-Consul-Index`, 0 if absent.
    pub(crate) index: u64,
    /// Bytes of its body.
    pub(crate) bytes: usize,
}

impl Connection {
    /// Connects without Nagle's delay.
    pub(crate) async fn open(address: &str) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: vec![0; 4096], filled: 0 })
    }

    /// Sends a ready-made request and reads its whole answer.
    pub(crate) async fn call(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(request).await?;
        self.answer().await
    }

    /// Sends without waiting; [`Connection::answer`] follows.
    pub(crate) async fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).await
    }

    /// Reads one answer, plain or chunked; the body is dropped.
    pub(crate) async fn answer(&mut self) -> io::Result<Answer> {
        let head = loop {
            if let Some(end) = find(&self.buffer[..self.filled], b"\r\n\r\n") {
                break end + 4;
            }
            self.fill().await?;
        };
        let (status, length, index) = parse_head(&self.buffer[..head])?;
        let bytes = match length {
            Some(length) => {
                self.skip(head + length).await?;
                length
            }
            None => self.skip_chunks(head).await?,
        };
        Ok(Answer { status, index, bytes })
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let n = self.stream.read(&mut self.buffer[self.filled..]).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.filled += n;
        Ok(())
    }

    /// Drops the first `count` bytes of the stream, reading them if need be.
    async fn skip(&mut self, count: usize) -> io::Result<()> {
        let mut missing = count.saturating_sub(self.filled);
        let kept = self.filled.saturating_sub(count);
        self.buffer.copy_within(self.filled - kept..self.filled, 0);
        self.filled = kept;
        while missing > 0 {
            let want = missing.min(self.buffer.len());
            let n = self.stream.read(&mut self.buffer[..want]).await?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            missing -= n;
        }
        Ok(())
    }

    /// Drops a body in chunks; answers how long it was.
    async fn skip_chunks(&mut self, head: usize) -> io::Result<usize> {
        self.skip(head).await?;
        let mut bytes = 0;
        loop {
            match self.piece().await? {
                0 => return Ok(bytes),
                size => bytes += size,
            }
        }
    }

    /// Reads the head of an answer that comes in pieces; [`Connection::piece`] reads those.
    pub(crate) async fn begin_pieces(&mut self) -> io::Result<()> {
        let head = loop {
            if let Some(end) = find(&self.buffer[..self.filled], b"\r\n\r\n") {
                break end + 4;
            }
            self.fill().await?;
        };
        let (status, length, _) = parse_head(&self.buffer[..head])?;
        if status != 200 || length.is_some() {
            return Err(io::Error::other(format!("status {status}, and not in pieces")));
        }
        self.skip(head).await
    }

    /// Reads one piece and drops it; its size is 0 at the end of the answer.
    pub(crate) async fn piece(&mut self) -> io::Result<usize> {
        let line = loop {
            if let Some(end) = find(&self.buffer[..self.filled], b"\r\n") {
                break end;
            }
            self.fill().await?;
        };
        let text = std::str::from_utf8(&self.buffer[..line]).map_err(io::Error::other)?;
        let size = usize::from_str_radix(text.trim(), 16).map_err(io::Error::other)?;
        self.skip(line + 2 + size + 2).await?;
        Ok(size)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn parse_head(head: &[u8]) -> io::Result<(u16, Option<usize>, u64)> {
    let text = std::str::from_utf8(head).map_err(io::Error::other)?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| io::Error::other("no status line"))?;
    let (mut length, mut index, mut chunked) = (None, 0, false);
    for line in lines {
        let Some((name, value)) = line.split_once(": ") else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse().ok();
        } else if name.eq_ignore_ascii_case("x-consul-index") {
            index = value.parse().unwrap_or(0);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.eq_ignore_ascii_case("chunked");
        }
    }
    Ok((status, if chunked { None } else { Some(length.unwrap_or(0)) }, index))
}

/// A ready-made request.
pub(crate) fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let mut out = format!(
        "{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    out.extend_from_slice(body);
    out
}
