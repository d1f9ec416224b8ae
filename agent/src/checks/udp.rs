//! Checks that send a datagram: an answer, or silence, is passing.
//!
//! UDP has no connections, so silence proves nothing; what fails is what the network itself reports:
//! nobody listens there (ICMP port unreachable), or there is no way.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;

use super::{CheckResult, Status};
use crate::net::tcp;

/// Default time-out of a check.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read; nobody looks at them.
const ANSWER_BYTES_MAX: usize = 64;

/// Target of the datagram.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// `host:port`.
    pub address: String,
    /// Time to wait for an answer or an error of the network.
    pub timeout: Duration,
}

/// One run.
pub async fn probe(target: &Target) -> CheckResult {
    match tokio::time::timeout(target.timeout, ask(&target.address)).await {
        Ok(Err(error)) => CheckResult::critical(error),
        Ok(Ok(())) | Err(_) => {
            CheckResult::new(Status::Passing, format!("UDP connect {}: Success", target.address))
        }
    }
}

/// Sends an empty datagram and waits for anything to come back.
async fn ask(address: &str) -> Result<(), String> {
    let to = tcp::resolve(address, "udp").await?[0];
    let failed = |what: &str, error: &io::Error| {
        format!("{what} udp {to}: {}", tcp::reason(error).replace("connect: ", ""))
    };
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await.map_err(|error| failed("dial", &error))?;
    // Connected, it is told what the network reports of this peer.
    socket.connect(to).await.map_err(|error| failed("dial", &error))?;
    socket.send(&[]).await.map_err(|error| failed("write", &error))?;
    socket
        .recv(&mut [0; ANSWER_BYTES_MAX])
        .await
        .map(|_| ())
        .map_err(|error| failed("read", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(address: &str, timeout: Duration) -> CheckResult {
        probe(&Target { address: address.to_owned(), timeout }).await
    }

    #[tokio::test]
    async fn an_answer_and_silence_pass_and_a_refusal_fails() {
        let long = Duration::from_secs(20);
        let echo = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = echo.local_addr().unwrap().to_string();
        let passing = CheckResult::new(Status::Passing, format!("UDP connect {address}: Success"));
        let answering = async {
            let (count, from) = echo.recv_from(&mut [0; 16]).await.unwrap();
            assert_eq!(count, 0, "an empty datagram");
            echo.send_to(b"here", from).await.unwrap();
        };
        let begun = tokio::time::Instant::now();
        let (outcome, ()) = tokio::join!(run(&address, long), answering);
        assert_eq!(outcome, passing);
        assert!(begun.elapsed() < long, "an answer ends the run");

        assert_eq!(run(&address, Duration::from_millis(50)).await, passing);

        drop(echo);
        let refused = format!("read udp {address}: connection refused");
        assert_eq!(run(&address, long).await, CheckResult::critical(refused));
    }

    #[tokio::test]
    async fn both_families_and_odd_addresses() {
        let echo = UdpSocket::bind("[::1]:0").await;
        if let Ok(echo) = echo {
            let address = echo.local_addr().unwrap().to_string();
            let outcome = run(&address, Duration::from_millis(50)).await;
            assert_eq!(outcome.status, Status::Passing, "{}", outcome.output);
        }
        for (address, expected) in [
            ("127.0.0.1", "dial udp: address 127.0.0.1: missing port in address"),
            ("no.such.invalid:1", "dial udp: lookup no.such.invalid: no such host"),
        ] {
            let outcome = run(address, Duration::from_secs(20)).await;
            assert_eq!(outcome, CheckResult::critical(expected));
        }
    }
}
