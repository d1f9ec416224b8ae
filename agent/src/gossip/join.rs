//! Finding a pool: addresses as users write them, tried until somebody answers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::members::Members;

/// Members remembered by name whose addresses are tried at most, one after the other.
const REMEMBERED_TRIED: usize = 32;

/// Attempts to find a pool.
#[derive(Debug, Clone)]
pub struct Joining {
    /// Addresses or names of possible members, with a port or without.
    pub addresses: Vec<String>,
    /// Port where none is said.
    pub port: u16,
    /// Pause between attempts.
    pub interval: Duration,
    /// Attempts before giving up; 0 is never.
    pub attempts_max: u32,
}

/// Nobody could be reached.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failed(pub String);

impl Members {
    /// Meets whoever can be reached at these addresses: names stand for all their addresses. Says
    /// how many were met; fails if none was.
    pub async fn join_all(&self, addresses: &[String], port: u16) -> Result<usize, Failed> {
        let (mut met, mut errors) = (0, Vec::new());
        for text in addresses {
            match resolve(text, port).await {
                Err(error) => errors.push(error),
                Ok(resolved) => {
                    for address in resolved {
                        match self.join(address).await {
                            Ok(()) => met += 1,
                            Err(error) => {
                                errors.push(format!("Failed to join {}: {error}", address.ip()));
                            }
                        }
                    }
                }
            }
        }
        if met == 0 && !errors.is_empty() {
            let plural = if errors.len() == 1 { "error" } else { "errors" };
            let lines = errors.join("\n\t* ");
            return Err(Failed(format!("{} {plural} occurred:\n\t* {lines}\n\n", errors.len())));
        }
        Ok(met)
    }
}

impl Joining {
    /// Looks for members whenever this one is alone: names are looked up anew each time, for all
    /// addresses may change while nobody is there. Returns with an error when the attempts are used
    /// up, otherwise at `stop`.
    pub async fn run(self, members: Members, stop: CancellationToken) -> Result<(), Failed> {
        let mut attempts = 0;
        let mut member_list = members.watch();
        loop {
            if member_list.borrow_and_update().values().filter(|member| is_there(member)).count()
                > 1
            {
                attempts = 0;
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    changed = member_list.changed() => if changed.is_err() { return Ok(()) },
                }
                continue;
            }
            attempts += 1;
            let met = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                met = members.join_all(&self.addresses, self.port) => met,
            };
            match met {
                Ok(_) if members.live() > 1 => {
                    info!(addresses = self.addresses.join(" "), "joined the cluster");
                    continue;
                }
                // Only this member itself answered: others may be about to start.
                Ok(_) => {}
                Err(error) if attempts == self.attempts_max => {
                    return Err(Failed(format!("max join retry exhausted, exiting: {error}")));
                }
                Err(error) => {
                    warn!(%error, "join failed, will retry in {:?}", self.interval);
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(self.interval) => {}
                // Somebody else may find this member first.
                changed = member_list.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }
}

/// Tries members that were there when this one last ran; says whether one answered.
pub async fn rejoin(members: &Members, remembered: &[SocketAddr]) -> bool {
    for address in remembered.iter().take(REMEMBERED_TRIED) {
        if *address != members.address() && members.join(*address).await.is_ok() {
            info!(%address, "rejoined the cluster through a member known from before");
            return true;
        }
    }
    false
}

fn is_there(member: &super::Member) -> bool {
    matches!(member.status, super::Status::Alive | super::Status::Leaving)
}

/// Addresses behind a text: `10.0.0.1`, `10.0.0.1:8301`, `fe80::1`, `[fe80::1]:8301`, `name`,
/// `name:8301`.
async fn resolve(text: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let failed = || format!("Failed to resolve {text}: lookup {text}: no such host");
    let text_ip = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = text_ip.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, number)) => (host, number.parse().map_err(|_| failed())?),
        None => (text, port),
    };
    if host.is_empty() {
        return Err(failed());
    }
    let found = tokio::net::lookup_host((host, port)).await.map_err(|_| failed())?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_are_read_as_users_write_them() {
        for (text, expected) in [
            ("10.0.0.1", "10.0.0.1:8301"),
            ("10.0.0.1:9", "10.0.0.1:9"),
            ("fe80::1", "[fe80::1]:8301"),
            ("[fe80::1]", "[fe80::1]:8301"),
            ("[fe80::1]:9", "[fe80::1]:9"),
        ] {
            let expected: SocketAddr = expected.parse().unwrap();
            assert_eq!(resolve(text, 8301).await.unwrap(), [expected], "{text}");
        }
        for wrong in ["", ":8301", "host:port"] {
            assert!(resolve(wrong, 8301).await.is_err(), "{wrong}");
        }
    }
}
