//! Where an agent is, and connections to it.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;

use crate::Error;
use crate::gate::Gate;

/// Either kind of address.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Tcp(String),
    Unix(PathBuf),
}

impl Target {
    /// Equal for equal targets.
    pub(crate) fn name(&self) -> String {
        match self {
            Target::Tcp(host) => host.clone(),
            Target::Unix(path) => format!("unix://{}", path.display()),
        }
    }
}

/// Where to connect, and what to call the host.
pub(crate) fn target(address: &str) -> Result<(Target, String), Error> {
    let refuse = |why: &str| Error::Address { address: address.to_owned(), why: why.to_owned() };
    if let Some(path) = address.strip_prefix("unix://") {
        return Ok((Target::Unix(path.into()), "localhost".into()));
    }
    if address.starts_with("https://") {
        return Err(refuse("HTTPS is not supported yet: use http://"));
    }
    let rest = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    if rest.contains("://") {
        return Err(refuse("use host:port, http://host:port or unix:///path"));
    }
    if rest.is_empty() || rest.contains(['/', ' ', '@', '?', '#']) {
        return Err(refuse("use host:port, without a path"));
    }
    let host = rest.strip_prefix(':').map(|port| format!("127.0.0.1:{port}"));
    let mut host = host.unwrap_or_else(|| rest.to_owned());
    let after_v6 = host.rsplit_once(']').map_or(host.as_str(), |(_, tail)| tail);
    if !after_v6.contains(':') {
        host.push_str(if address.starts_with("http://") { ":80" } else { ":8500" });
    }
    Ok((Target::Tcp(host.clone()), host))
}

/// Opens connections of either kind, whatever the URL says.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    target: Target,
    gate: Arc<Gate>,
}

impl Connector {
    pub(crate) fn new(target: Target, gate: Arc<Gate>) -> Connector {
        Connector { target, gate }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection of either kind, counted for as long as it is open.
pub(crate) struct Stream {
    socket: Box<dyn Duplex>,
    _counted: OwnedSemaphorePermit,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (target, gate) = (self.target.clone(), Arc::clone(&self.gate));
        Box::pin(async move {
            let counted = gate.connection().await;
            let connect = async {
                Ok::<Box<dyn Duplex>, io::Error>(match target {
                    Target::Tcp(host) => {
                        let stream = TcpStream::connect(host).await?;
                        stream.set_nodelay(true)?;
                        Box::new(stream)
                    }
                    Target::Unix(path) => Box::new(UnixStream::connect(path).await?),
                })
            };
            // A host that is gone does not refuse; it is silent.
            match tokio::time::timeout(Duration::from_secs(5), connect).await {
                Ok(socket) => Ok(TokioIo::new(Stream { socket: socket?, _counted: counted })),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let rows = [
            ("127.0.0.1:8500", Some("127.0.0.1:8500")),
            ("http://h:1/", Some("h:1")),
            ("http://h", Some("h:80")),
            ("h", Some("h:8500")),
            ("[::1]", Some("[::1]:8500")),
            ("[::1]:9", Some("[::1]:9")),
            (":8501", Some("127.0.0.1:8501")),
            ("unix:///run/x.sock", Some("localhost")),
            ("https://h", None),
            ("ftp://h", None),
            ("", None),
            ("h:1/path", None),
        ];
        for (address, host) in rows {
            assert_eq!(target(address).ok().map(|(_, host)| host).as_deref(), host, "{address}");
        }
    }
}
