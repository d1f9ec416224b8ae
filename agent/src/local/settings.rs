//! Settings of the local state.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::checks::{FlapLimit, Shared};
use crate::net::tls::Authorities;

/// Settings of the local state.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its datacenter.
    pub datacenter: String,
    /// Its name in the catalog.
    pub node_name: String,
    /// Its UUID.
    pub node_id: String,
    /// The address that others reach it at.
    pub address: String,
    /// `lan`, `wan`, `lan_ipv4`, `wan_ipv4`, ...
    pub tagged_addresses: BTreeMap<String, String>,
    /// User's pairs.
    pub node_meta: BTreeMap<String, String>,
    /// Its segment of the network; the default one has no name.
    pub segment: String,
    /// Folder of what must survive a restart; `None` keeps nothing (`-dev`).
    pub data_dir: Option<PathBuf>,
    /// Longest delay of a change of a check's output alone before it is written to the catalog.
    pub check_update_interval: Duration,
    /// Interval of looking for services that have been critical for too long.
    pub check_reap_interval: Duration,
    /// The least time for which a check must be critical before its service goes.
    pub check_deregister_after_min: Duration,
    /// Limit for checks that flap; `None` is no limit.
    pub check_flap_limit: Option<FlapLimit>,
    /// Bytes of a check's output that are kept at most.
    pub check_output_max_size: usize,
    /// Keep no output at all.
    pub discard_check_output: bool,
    /// Script checks from anywhere, the API included.
    pub enable_script_checks: bool,
    /// Script checks from configuration files.
    pub enable_local_script_checks: bool,
    /// Certificate authorities of checks, beside or instead of the system's.
    pub authorities: Authorities,
    /// Pause between two comparisons with the catalog, before it is scaled to the cluster's size
    /// and spread.
    pub sync_interval: Duration,
    /// Services from configuration files, as written.
    pub services: Vec<Value>,
    /// Checks from configuration files, as written.
    pub checks: Vec<Value>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            datacenter: "dc1".into(),
            node_name: String::new(),
            node_id: String::new(),
            address: "127.0.0.1".into(),
            tagged_addresses: BTreeMap::new(),
            node_meta: BTreeMap::new(),
            segment: String::new(),
            data_dir: None,
            check_update_interval: Duration::from_mins(5),
            check_reap_interval: Duration::from_secs(30),
            check_deregister_after_min: crate::checks::DEREGISTER_AFTER_MIN,
            check_flap_limit: None,
            check_output_max_size: crate::checks::OUTPUT_BYTES_MAX,
            discard_check_output: false,
            enable_script_checks: false,
            enable_local_script_checks: false,
            authorities: Authorities::default(),
            sync_interval: Duration::from_mins(1),
            services: Vec::new(),
            checks: Vec::new(),
        }
    }
}

impl Settings {
    /// Settings that checks share.
    pub(crate) fn shared(&self) -> Shared {
        Shared {
            output_bytes_max: self.check_output_max_size,
            deregister_after_min: self.check_deregister_after_min,
            flap_limit: self.check_flap_limit,
        }
    }
}
