//! Checks that ping over HTTP/2: whoever acknowledges is alive.
//!
//! The handshake is shared with the gRPC probe, which is a call over the same protocol.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use tokio::task::JoinHandle;

use super::{CheckResult, Status};
use crate::net::tls::{Inside, Tls, Verify};

/// Time for a run when the definition says nothing.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Target of the ping.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// `host:port`.
    pub address: String,
    /// Verification of the certificate; `None` is plain text.
    pub tls: Option<Verify>,
    /// Time for the whole run.
    pub timeout: Duration,
}

/// One run.
pub async fn probe(target: &Target, tls: &Tls) -> CheckResult {
    match tokio::time::timeout(target.timeout, ping(target, tls)).await {
        Ok(Ok(())) => CheckResult::new(Status::Passing, "HTTP2 ping was successful"),
        Ok(Err(error)) => CheckResult::critical(error),
        Err(_) => CheckResult::critical(format!(
            "HTTP2 ping of {} failed: context deadline exceeded",
            target.address
        )),
    }
}

async fn ping(target: &Target, tls: &Tls) -> Result<(), String> {
    let mut session = dial(&target.address, target.tls.as_ref(), tls)
        .await
        .map_err(|error| format!("Failed to dial to {}: {error}", target.address))?;
    let failed = |error: h2::Error| format!("HTTP2 ping of {} failed: {error}", target.address);
    // Taken by nobody else: the session is new.
    let Some(mut pings) = session.pings.take() else { return Err("no HTTP2 ping".to_owned()) };
    pings.ping(Ping::opaque()).await.map(|_| ()).map_err(failed)
}

/// An HTTP/2 connection that is open as long as this lives.
pub(super) struct Session {
    /// Sends requests.
    pub(super) requests: SendRequest<Bytes>,
    /// Sends pings, once taken.
    pub(super) pings: Option<PingPong>,
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        // A run that ran out of time must not leave its connection behind.
        self.driver.abort();
    }
}

/// Connects and greets. The error is ready for people.
pub(super) async fn dial(
    address: &str,
    verify: Option<&Verify>,
    tls: &Tls,
) -> Result<Session, String> {
    let stream = tls.dial(address, verify, Inside::H2).await?;
    let (requests, mut connection) =
        h2::client::handshake(stream).await.map_err(|error| error.to_string())?;
    let pings = connection.ping_pong();
    let driver = tokio::spawn(async move {
        // What goes wrong here is told to whoever waits for an answer.
        let _ = connection.await;
    });
    Ok(Session { requests, pings, driver })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::net::tls::tests::Authority;

    async fn run(address: &str, tls: Option<Verify>, with: &Tls) -> CheckResult {
        let timeout = Duration::from_secs(20);
        probe(&Target { address: address.to_owned(), tls, timeout }, with).await
    }

    #[tokio::test]
    async fn whoever_acknowledges_is_alive() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let served = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            // Answers pings, and ends with the client.
            assert!(connection.accept().await.is_none_or(|request| request.is_err()));
        });
        let outcome = run(&address, None, &Tls::default()).await;
        assert_eq!(outcome, CheckResult::new(Status::Passing, "HTTP2 ping was successful"));
        served.await.unwrap();
        let refused =
            format!("Failed to dial to {address}: dial tcp {address}: connect: connection refused");
        assert_eq!(run(&address, None, &Tls::default()).await, CheckResult::critical(refused));
    }

    #[tokio::test]
    async fn over_tls_the_certificate_counts() {
        let authority = Authority::new();
        let (address, _serving) = authority
            .serve(&["localhost"], |stream| async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let _ = connection.accept().await;
            })
            .await;
        let port = address.port();
        let known = authority.tls();
        let named = format!("localhost:{port}");
        let outcome = run(&named, Some(Verify::default()), &known).await;
        assert_eq!(outcome.status, Status::Passing, "{}", outcome.output);
        let outcome = run(&named, Some(Verify::default()), &Tls::default()).await;
        assert_eq!(
            outcome.output,
            format!("Failed to dial to {named}: x509: certificate signed by unknown authority")
        );
        let unseen = Verify { certificate: false, ..Verify::default() };
        let outcome = run(&format!("127.0.0.1:{port}"), Some(unseen), &Tls::default()).await;
        assert_eq!(outcome.status, Status::Passing, "{}", outcome.output);
        let renamed = Verify { name: "localhost".into(), ..Verify::default() };
        let outcome = run(&format!("127.0.0.1:{port}"), Some(renamed), &known).await;
        assert_eq!(outcome.status, Status::Passing, "{}", outcome.output);
    }

    #[tokio::test]
    async fn who_speaks_something_else_is_no_http2() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            use tokio::io::AsyncWriteExt as _;
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            let _ = stream.shutdown().await;
        });
        let outcome = run(&address, None, &Tls::default()).await;
        assert_eq!(outcome.status, Status::Critical);
        assert!(outcome.output.starts_with("HTTP2 ping of"), "{}", outcome.output);

        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let timeout = Duration::from_millis(50);
        let target = Target { address: address.clone(), tls: None, timeout };
        assert_eq!(
            probe(&target, &Tls::default()).await,
            CheckResult::critical(format!(
                "HTTP2 ping of {address} failed: context deadline exceeded"
            ))
        );
    }
}
