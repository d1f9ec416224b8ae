//! Notifications to systemd: ready, reloading, stopping, and the watchdog's sign of life.
//! Without systemd nobody is told anything.
//!
//! Telling never waits. A manager that does not read would otherwise hold the agent's main loop, and with
//! it its signals.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The agent serves.
pub(super) fn ready() {
    tell("READY=1");
}

/// The configuration is being read again; `ready` ends this.
pub(super) fn reloading() {
    // The manager tells this reload from an earlier one by the moment.
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    if let Ok(now) = now {
        let micros = now.tv_sec() * 1_000_000 + now.tv_nsec() / 1_000;
        tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }
}

/// The agent is on its way out.
pub(super) fn stopping() {
    tell("STOPPING=1");
}

/// Interval of the watchdog's sign of life, if systemd wants one: half of what it asks for.
pub(super) fn watchdog() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    // Of another process: its children inherit the variables.
    if number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(std::process::id())) {
        return None;
    }
    let every = Duration::from_micros(number("WATCHDOG_USEC")?) / 2;
    (!every.is_zero()).then_some(every)
}

/// The agent is alive: whoever calls this could do its work.
pub(super) fn alive() {
    tell("WATCHDOG=1");
}

fn tell(state: &str) {
    let Ok(address) = std::env::var("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&address, state) {
        tracing::debug!(%error, state, "systemd was not told");
    }
}

fn send(address: &str, state: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    // An at sign stands for a name that is no file.
    let address = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}
