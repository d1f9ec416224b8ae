//! Checks that connect: whoever accepts is alive.

use std::time::Duration;

use super::{CheckResult, Status};
use crate::net::tls::{Inside, Tls, Verify};

/// Time for a connection when the definition says nothing.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Target of the connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// `host:port`.
    pub address: String,
    /// Complete a TLS handshake as well.
    pub tls: Option<Verify>,
    /// Time for the connection.
    pub timeout: Duration,
}

/// One run.
pub async fn probe(target: &Target, tls: &Tls) -> CheckResult {
    let connecting = tls.dial(&target.address, target.tls.as_ref(), Inside::Anything);
    let result = tokio::time::timeout(target.timeout, connecting).await;
    match result {
        Ok(Ok(_)) => {
            CheckResult::new(Status::Passing, format!("TCP connect {}: Success", target.address))
        }
        Ok(Err(error)) => CheckResult::critical(error),
        Err(_) => CheckResult::critical(format!("dial tcp {}: i/o timeout", target.address)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    async fn run(address: &str) -> (Status, String) {
        let timeout = Duration::from_secs(5);
        let target = Target { address: address.to_owned(), tls: None, timeout };
        let outcome = probe(&target, &Tls::default()).await;
        (outcome.status, outcome.output)
    }

    #[tokio::test]
    async fn whoever_accepts_is_alive() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert_eq!(
            run(&address).await,
            (Status::Passing, format!("TCP connect {address}: Success"))
        );
        drop(listener);
        assert_eq!(
            run(&address).await,
            (Status::Critical, format!("dial tcp {address}: connect: connection refused"))
        );
    }

    #[tokio::test]
    async fn no_answer_is_a_timeout() {
        // A full backlog on Linux drops further SYNs: the connection neither opens nor fails.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut held = Vec::new();
        loop {
            let connecting = TcpStream::connect(address.clone());
            match tokio::time::timeout(Duration::from_millis(200), connecting).await {
                Ok(stream) => held.push(stream.unwrap()),
                Err(_) => break,
            }
        }
        let timeout = Duration::from_millis(100);
        let target = Target { address: address.clone(), tls: None, timeout };
        let outcome = probe(&target, &Tls::default()).await;
        assert_eq!(outcome, CheckResult::critical(format!("dial tcp {address}: i/o timeout")));
    }

    #[tokio::test]
    async fn odd_addresses_are_reported_not_refused() {
        for (address, expected) in [
            ("127.0.0.1", "dial tcp: address 127.0.0.1: missing port in address"),
            ("no.such.invalid:1", "dial tcp: lookup no.such.invalid: no such host"),
        ] {
            assert_eq!(run(address).await, (Status::Critical, expected.to_owned()));
        }
    }
}
