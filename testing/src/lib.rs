//! Free ports for programs under test.
//!
//! A program that cannot be handed an open socket gets a port number, and opens the socket a moment later. Two races
//! follow. An outgoing connection may take the port meanwhile: the ports given here are below the range that the system
//! uses for those. Another test may be given the same port: each port is reserved for as long as the process of its
//! test runs, by a Unix socket with an abstract name, which all processes of the network namespace see and the system
//! removes when the process ends, however it ends.

use std::net::{TcpListener, UdpSocket};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Mutex;

/// Below the range of outgoing connections, which begins at 32,768.
const PORTS: Range<u16> = 10_000..32_000;

/// The reservations of this process, and the offset of the next port to look at.
static RESERVED: Mutex<(Vec<UnixListener>, u32)> = Mutex::new((Vec::new(), 0));

/// `N` different ports of the loopback address that are free for TCP and UDP. No other call gets them, neither in this
/// process nor in another one, until this process ends.
///
/// # Panics
/// When the machine has none left.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let mut reserved = RESERVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let count = u32::from(PORTS.end - PORTS.start);
    // Processes begin at different places, so that few look at ports of others.
    let first = std::process::id().wrapping_mul(97);
    let (reservations, next) = &mut *reserved;
    [(); N].map(|()| {
        for _ in 0..count {
            let offset = next.wrapping_add(first) % count;
            *next = next.wrapping_add(1);
            let port = PORTS.start + u16::try_from(offset).expect("it is within the range");
            let Some(reservation) = reserve(port) else { continue };
            let address = ("127.0.0.1", port);
            if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
                reservations.push(reservation);
                return port;
            }
        }
        panic!("no port from {} to {} is free", PORTS.start, PORTS.end - 1)
    })
}

/// One port as [`free_ports`] gives them.
pub fn free_port() -> u16 {
    let [port] = free_ports();
    port
}

/// Reserves a port; `None` if a process of another test has it.
fn reserve(port: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("muster-test-port-{port}"));
    UnixListener::bind_addr(&name.expect("a short name without zero bytes")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once() {
        let mut seen = std::collections::BTreeSet::new();
        for port in free_ports::<200>() {
            assert!(PORTS.contains(&port) && seen.insert(port), "{port}");
            assert!(reserve(port).is_none(), "another process could have {port}");
            assert!(
                TcpListener::bind(("127.0.0.1", port)).is_ok(),
                "{port} is open to its program"
            );
        }
        assert!(seen.insert(free_port()));
    }
}
