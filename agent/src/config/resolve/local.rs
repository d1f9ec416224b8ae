//! What this agent registers: itself, its services and its checks.

use std::net::IpAddr;
use std::path::Path;

use crate::checks::FlapLimit;
use crate::config::Error;
use crate::config::judge::{CHECKS, SERVICES};
use crate::config::written::Written;
use crate::local::Settings;
use crate::net::tls::Authorities;
use std::time::Duration;

/// Changes that are remembered of one check: more in one window is not told apart.
const FLAP_LIMIT_MAX: usize = 1000;
/// Window of the flap limit unless told otherwise.
const FLAP_WINDOW: Duration = Duration::from_mins(5);
/// Services that have been critical for too long are not looked for more often.
const REAP_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// What other parts are told of the node as well.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) datacenter: &'a str,
    pub(super) name: &'a str,
    pub(super) lan: IpAddr,
    pub(super) wan: IpAddr,
    pub(super) segment: &'a str,
    pub(super) data_dir: Option<&'a Path>,
}

/// Settings of the local state, but for the node's id, which may be made at the start.
pub(super) fn resolve(written: &Written, node: &Node<'_>) -> Result<Settings, Error> {
    if written.int("check_output_max_size").is_some_and(|bytes| bytes < 1) {
        return Err(Error("check_output_max_size must be positive, to discard check output use the discard_check_output flag".into()));
    }
    let node_meta = written.map("node_meta");
    super::identity::check_meta(&node_meta)?;
    let defaults = Settings::default();
    let time = |key: &str, default| written.duration(key, default);
    let reap_interval = time("check_reap_interval", defaults.check_reap_interval);
    Ok(Settings {
        datacenter: node.datacenter.to_owned(),
        node_name: node.name.to_owned(),
        address: node.lan.to_string(),
        tagged_addresses: written
            .map("tagged_addresses")
            .into_iter()
            .chain(own_addresses(node))
            .collect(),
        node_meta,
        segment: node.segment.to_owned(),
        data_dir: node.data_dir.map(Path::to_owned),
        check_update_interval: time("check_update_interval", defaults.check_update_interval),
        check_reap_interval: reap_interval.max(REAP_INTERVAL_MIN),
        check_deregister_after_min: time(
            "check_deregister_interval_min",
            defaults.check_deregister_after_min,
        ),
        check_flap_limit: flap_limit(written),
        check_output_max_size: written
            .count("check_output_max_size", defaults.check_output_max_size),
        discard_check_output: written.on("discard_check_output"),
        enable_script_checks: written.on("enable_script_checks"),
        enable_local_script_checks: written.on("enable_local_script_checks"),
        authorities: Authorities {
            file: written.file("ca_file"),
            folder: written.file("ca_path"),
            only: written.on("enable_agent_tls_for_checks"),
        },
        services: written.definitions(&SERVICES),
        checks: written.definitions(&CHECKS),
        ..defaults
    })
}

/// The names under which a node's addresses are looked up.
fn own_addresses(node: &Node<'_>) -> [(String, String); 4] {
    let family = |ip: IpAddr| if ip.is_ipv4() { "ipv4" } else { "ipv6" };
    let (lan, wan) = (node.lan, node.wan);
    [
        ("lan".to_owned(), lan.to_string()),
        (format!("lan_{}", family(lan)), lan.to_string()),
        ("wan".to_owned(), wan.to_string()),
        (format!("wan_{}", family(wan)), wan.to_string()),
    ]
}

fn flap_limit(written: &Written) -> Option<FlapLimit> {
    let changes_max: usize = written.count("check_flap_limit", 0);
    (changes_max > 0).then(|| FlapLimit {
        changes_max: changes_max.min(FLAP_LIMIT_MAX),
        window: written.duration("check_flap_window", FLAP_WINDOW),
    })
}
