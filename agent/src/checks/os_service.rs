//! Checks that ask the operating system's service manager how a unit is.
//!
//! That is systemd, asked over the system's D-Bus with one question (`ListUnitsByNames`). Active is
//! passing, on its way up or down is warning, everything else critical; so is a machine without a bus,
//! such as most containers.

mod dbus;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{CheckResult, Status};

/// Time for a run when the definition says nothing.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Default socket of the system's bus, unless `$DBUS_SYSTEM_BUS_ADDRESS` is set.
const DEFAULT_SOCKET: &str = "/run/dbus/system_bus_socket";

/// Which unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Its name; without a suffix a service's.
    pub unit: String,
    /// Time for the whole run.
    pub timeout: Duration,
}

/// Address of the service manager's bus. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bus {
    socket: Arc<PathBuf>,
}

impl Default for Bus {
    /// The system's bus.
    fn default() -> Bus {
        let address = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_default();
        let path = address
            .split(';')
            .filter_map(|address| address.strip_prefix("unix:"))
            .flat_map(|pairs| pairs.split(','))
            .find_map(|pair| pair.strip_prefix("path="));
        Bus::new(path.unwrap_or(DEFAULT_SOCKET))
    }
}

impl Bus {
    /// A bus that listens at this path.
    pub fn new(socket: impl Into<PathBuf>) -> Bus {
        Bus { socket: Arc::new(socket.into()) }
    }
}

/// State of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unit {
    /// `loaded`, `not-found`, `masked`, ...
    load: String,
    /// `active`, `inactive`, `failed`, ...
    active: String,
    /// `running`, `exited`, `dead`, ...
    sub: String,
}

/// One run.
pub async fn probe(target: &Target, bus: &Bus) -> CheckResult {
    let name = if target.unit.contains('.') {
        target.unit.clone()
    } else {
        format!("{}.service", target.unit)
    };
    match tokio::time::timeout(target.timeout, dbus::unit(&bus.socket, &name)).await {
        Ok(Ok(unit)) => judge(&name, &unit),
        Ok(Err(error)) => CheckResult::critical(format!("systemd could not be asked: {error}")),
        Err(_) => CheckResult::critical("systemd could not be asked: no answer in time"),
    }
}

fn judge(name: &str, unit: &Unit) -> CheckResult {
    if unit.load == "not-found" {
        return CheckResult::critical(format!("systemd unit {name}: not found"));
    }
    let status = match &*unit.active {
        "active" | "reloading" | "refreshing" => Status::Passing,
        "activating" | "deactivating" | "maintenance" => Status::Warning,
        _ => Status::Critical,
    };
    CheckResult::new(status, format!("systemd unit {name}: {} ({})", unit.active, unit.sub))
}

#[cfg(test)]
mod tests;
