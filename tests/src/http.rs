//! One HTTP/1.1 connection, just enough of it for these tests.
//!
//! Libraries hide what the proofs must see: whether a connection was fresh or reused, and whether it broke before
//! or after the first byte of the answer. [`Fault`] says it.

use std::{
    fmt::Write as _,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use anyhow::{Context, Result};

/// No request of these tests may take longer, a blocking query apart.
pub const PATIENCE: Duration = Duration::from_secs(15);

const HEAD_BYTES_MAX: u64 = 64 * 1024;
const BODY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Where a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No connection came about.
    #[error("no connection")]
    Connect(#[source] io::Error),
    /// The connection ended before the first byte of an answer: on a reused one, the other side may have closed it
    /// between two requests, and the request was never read.
    #[error("closed before the answer")]
    BeforeAnswer(#[source] io::Error),
    /// The answer broke off, or is no HTTP.
    #[error("broken answer")]
    Broken(#[source] io::Error),
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The header fields in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The first value of a header field; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    /// The body as text, wrong bytes replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When the status is not 200 or the body is no JSON; both are in the message.
    pub fn json(&self) -> Result<serde_json::Value> {
        anyhow::ensure!(self.status == 200, "status {}: {}", self.status, self.text().trim());
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: `{}`", self.text()))
    }

    /// The `X-Consul-Index` of the answer.
    ///
    /// # Errors
    /// When it has none.
    pub fn index(&self) -> Result<u64> {
        let text = self.header("x-consul-index").context("no X-Consul-Index in the answer")?;
        text.parse().with_context(|| format!("X-Consul-Index `{text}`"))
    }

    /// Whether the other side closes the connection after this answer.
    fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// A connection that carries one request after the other.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    host: String,
    answered: u64,
    over: bool,
}

impl Connection {
    /// Connects to `address`, a host and port.
    ///
    /// # Errors
    /// [`Fault::Connect`].
    pub fn open(address: &str) -> Result<Self, Fault> {
        let open = || {
            let target = address
                .to_socket_addrs()?
                .next()
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address"))?;
            let stream = TcpStream::connect_timeout(&target, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        };
        let stream = open().map_err(Fault::Connect)?;
        let host = address.to_owned();
        Ok(Self { stream: BufReader::new(stream), host, answered: 0, over: false })
    }

    /// Whether the other side said that it closes: the next request needs a new connection.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Whether an answer has come over this connection before.
    pub fn is_reused(&self) -> bool {
        self.answered > 0
    }

    /// Sends a request and reads its whole answer. `fields` are header lines in addition, `X-Consul-Token: t`.
    ///
    /// # Errors
    /// [`Fault::BeforeAnswer`] or [`Fault::Broken`]; the connection is then of no more use.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        fields: &[&str],
        body: &[u8],
    ) -> Result<Reply, Fault> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.host);
        for field in fields {
            let _ = write!(head, "{field}\r\n");
        }
        if !body.is_empty() || matches!(method, "POST" | "PUT") {
            let _ = write!(head, "Content-Length: {}\r\n", body.len());
        }
        head.push_str("\r\n");
        let mut request = head.into_bytes();
        request.extend_from_slice(body);
        let sent = self.stream.get_mut().write_all(&request);
        // A server that refuses early may have answered and closed before it read the body: look for the answer first.
        let first = self.stream.fill_buf().map(<[u8]>::is_empty);
        match (sent, first) {
            (_, Ok(false)) => {}
            (Err(error), _) | (Ok(()), Err(error)) => return Err(Fault::BeforeAnswer(error)),
            (Ok(()), Ok(true)) => {
                return Err(Fault::BeforeAnswer(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        let reply = read_reply(&mut self.stream, method == "HEAD").map_err(Fault::Broken)?;
        self.answered += 1;
        self.over = reply.closes();
        Ok(reply)
    }
}

/// One GET on a connection of its own.
///
/// # Errors
/// When no complete answer came, whatever its status.
pub fn get(address: &str, path: &str) -> Result<Reply> {
    request("GET", address, path, b"")
}

/// One PUT on a connection of its own.
///
/// # Errors
/// When no complete answer came, whatever its status.
pub fn put(address: &str, path: &str, body: &[u8]) -> Result<Reply> {
    request("PUT", address, path, body)
}

fn request(method: &str, address: &str, path: &str, body: &[u8]) -> Result<Reply> {
    let send = || Connection::open(address)?.send(method, path, &["Connection: close"], body);
    send().with_context(|| format!("{method} http://{address}{path}"))
}

fn read_reply(stream: &mut impl BufRead, bodiless: bool) -> io::Result<Reply> {
    let mut head = stream.take(HEAD_BYTES_MAX);
    let status = line(&mut head)?
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| invalid("no status line"))?;
    let mut headers = Vec::new();
    loop {
        let line = line(&mut head)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| invalid("header without colon"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut reply = Reply { status, headers, body: Vec::new() };
    if bodiless || status == 204 || status == 304 {
        return Ok(reply);
    }
    reply.body = if reply.header("transfer-encoding").is_some_and(|it| it == "chunked") {
        read_chunks(stream)?
    } else if let Some(length) = reply.header("content-length") {
        let length: u64 = length.parse().map_err(|_| invalid("content-length"))?;
        read_exactly(stream, length)?
    } else {
        let mut body = Vec::new();
        stream.take(BODY_BYTES_MAX).read_to_end(&mut body)?;
        body
    };
    Ok(reply)
}

fn read_chunks(stream: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = line(stream)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| invalid("chunk size"))?;
        if body.len() as u64 + size > BODY_BYTES_MAX {
            return Err(invalid("body too long"));
        }
        body.append(&mut read_exactly(stream, size)?);
        // The chunk's own line end; after the last chunk, the end of the (empty) trailer.
        self::line(stream)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

fn read_exactly(stream: &mut impl BufRead, length: u64) -> io::Result<Vec<u8>> {
    if length > BODY_BYTES_MAX {
        return Err(invalid("body too long"));
    }
    let mut body = Vec::new();
    stream.take(length).read_to_end(&mut body)?;
    if body.len() as u64 == length { Ok(body) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    if !line.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        let check = |text: &str, expected: Option<&str>| {
            let reply = read_reply(&mut text.as_bytes(), false);
            assert_eq!(reply.ok().map(|it| it.text()).as_deref(), expected, "{text:?}");
        };
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokmore", Some("ok"));
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", None);
        check("HTTP/1.1 200 OK\r\n\r\nto the end", Some("to the end"));
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
            Some("ok0123456789"),
        );
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", None);
        check("HTTP/1.1 204 No Content\r\n\r\n", Some(""));
        check("HTTP/1.1\r\n\r\n", None);
        check("", None);
    }
}
