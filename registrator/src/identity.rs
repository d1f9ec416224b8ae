//! Who this registrator is: the name that marks its services, and the networks it shares.
//!
//! The name must survive a restart, or the services of the former life are nobody's. The host's
//! name does. A container's default host name does not: it is the container's id, new with every
//! update of the image. Then the container's name is used, which Compose keeps.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use muster_client::chain;
use tracing::warn;

use crate::container::Container;
use crate::docker::Engine;

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// First part of ids and mark of ownership.
    pub instance: String,
    /// Ids of the networks that the registrator's own container is attached to.
    pub networks: BTreeSet<String>,
}

/// Finds out, waiting for the engine where it must be asked. `given` is the name from the flag.
pub async fn discover(engine: &Engine, given: Option<String>) -> Identity {
    let hostname = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned());
    let proc = |file: &str| fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let own_id = container_id(&proc("mountinfo"))
        .or_else(|| container_id(&proc("cgroup")))
        .or_else(|| is_short_id(&hostname).then(|| hostname.clone()));
    let mut own = None;
    if let Some(id) = own_id {
        let mut pause = Duration::from_millis(100);
        own = loop {
            match engine.inspect(&id).await {
                Ok(own) => break own,
                Err(error) => warn!(error = chain(&error), "waiting for Docker"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        };
    }
    identity(given, hostname, own.as_ref())
}

fn identity(given: Option<String>, hostname: String, own: Option<&Container>) -> Identity {
    let instance = match (given, own) {
        (Some(given), _) => given,
        (None, Some(own)) if own.id.starts_with(&hostname) && !own.name.is_empty() => {
            own.name.clone()
        }
        (None, _) => hostname,
    };
    let networks = own
        .into_iter()
        .flat_map(|own| own.networks.values())
        .map(|attachment| attachment.network_id.clone())
        .filter(|id| !id.is_empty())
        .collect();
    Identity { instance, networks }
}

/// Twelve hexadecimal digits: what Docker calls a host that was not given a name.
fn is_short_id(hostname: &str) -> bool {
    hostname.len() == 12 && hostname.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

/// The id in `…/containers/<64 digits>/hostname` of a mount table or `…/docker/<64 digits>` of a
/// list of control groups.
fn container_id(table: &str) -> Option<String> {
    table
        .lines()
        .filter(|line| line.contains("/containers/") || line.contains("docker"))
        .flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric()))
        .find(|word| word.len() == 64 && word.bytes().all(|c| c.is_ascii_hexdigit()))
        .map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{container, id_of};

    #[test]
    fn the_own_container_is_found_in_the_kernels_tables() {
        let id = id_of("me");
        for (table, expected) in [
            (format!("36 35 98:0 /docker/containers/{id}/hostname /etc/hostname rw"), true),
            (format!("12:pids:/docker/{id}\n11:cpu:/docker/{id}"), true),
            (format!("0::/system.slice/docker-{id}.scope"), true),
            (format!("36 35 98:0 /var/lib/other/{id}/x /y rw"), false),
            ("0::/user.slice".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(container_id(&table).as_ref() == Some(&id), expected, "{table}");
        }
    }

    #[test]
    fn names_survive_a_new_container() {
        let me = container("shop-registrator-1");
        let id12 = me.short_id().to_owned();
        let name = |given: Option<&str>, hostname: &str, own| {
            identity(given.map(ToOwned::to_owned), hostname.to_owned(), own).instance
        };
        assert_eq!(name(None, "node7", None), "node7");
        assert_eq!(name(None, &id12, Some(&me)), "shop-registrator-1");
        assert_eq!(name(None, "registrator", Some(&me)), "registrator");
        assert_eq!(name(None, "abcdefabcdef", None), "abcdefabcdef");
        assert_eq!(name(Some("mine"), &id12, Some(&me)), "mine");
        let networks = identity(None, id12, Some(&me)).networks;
        assert_eq!(networks, [me.networks["bridge"].network_id.clone()].into());
    }
}
