//! Keys of the gossip pool: its paces, its keys, and where to find it.

use std::net::IpAddr;
use std::time::Duration;

use crate::config::written::Written;
use crate::config::{Error, list_errors};
use crate::gossip::{Keyring, Timing};
use crate::net::Network;
use crate::secrets;

/// The least an agent may ask others to wait before they forget it.
const RECONNECT_MIN: Duration = Duration::from_secs(30);
/// Pause between attempts to join unless told otherwise.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// Settings of the datacenter's gossip pool.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one switch of the reference's configuration"
)]
#[derive(Debug, Clone)]
pub struct GossipTuning {
    /// Address that it listens on, if it differs from `bind_addr`.
    pub bind: Option<IpAddr>,
    /// Its paces.
    pub timing: Timing,
    /// The key to begin with.
    pub encrypt: Option<Vec<u8>>,
    /// Refuse what is not encrypted.
    pub verify_incoming: bool,
    /// Encrypt what goes out.
    pub verify_outgoing: bool,
    /// Keep the keys in a file.
    pub keep_keyring: bool,
    /// Networks that are listened to; all if empty.
    pub allowed: Vec<Network>,
    /// Members to meet at the start, or there is none.
    pub start_join: Vec<String>,
    /// Members to meet as soon as one of them can be.
    pub retry_join: Vec<String>,
    /// Pause between attempts.
    pub retry_interval: Duration,
    /// Attempts; 0 is no limit.
    pub retry_max: u32,
    /// Time that the agent asks others to wait before they forget it, should it fail.
    pub advertise_reconnect_timeout: Option<Duration>,
    /// Join again after having left.
    pub rejoin_after_leave: bool,
}

impl GossipTuning {
    /// As the reference shows it: 0 is its own default.
    pub(crate) fn reconnect_timeout_shown(&self) -> String {
        let (set, default) = (self.timing.reconnect_timeout, Timing::default().reconnect_timeout);
        let shown = if set == default { Duration::ZERO } else { set };
        muster_client::types::format_duration(shown)
    }
}

pub(super) fn resolve(written: &Written, dev: bool) -> Result<GossipTuning, Error> {
    let mut invalid = Vec::new();
    let timing = timing(written, dev, &mut invalid);
    let reconnect = "advertise_reconnect_timeout";
    let advertise_reconnect_timeout =
        written.text(reconnect).map(|_| written.duration(reconnect, Duration::ZERO));
    if advertise_reconnect_timeout.is_some() && written.bool("server").unwrap_or(dev) {
        invalid.push(
            "advertise_reconnect_timeout can only be used on a client: a server that is forgotten \
             soon would leave the quorum with it"
                .to_owned(),
        );
    } else if advertise_reconnect_timeout.is_some_and(|time| time < RECONNECT_MIN) {
        invalid.push(format!(
            "advertise_reconnect_timeout: must be at least {}: agents that restart would be \
             forgotten with their services",
            muster_client::types::format_duration(RECONNECT_MIN)
        ));
    }
    let bind = match written.text("serf_lan").map(str::trim).filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => text
            .parse()
            .map_err(|_| invalid.push(format!("serf_lan: invalid ip address: {text}")))
            .ok(),
    };
    if !invalid.is_empty() {
        return Err(Error(list_errors(&invalid)));
    }
    let encrypt = match written.filled("encrypt") {
        None => None,
        Some(text) => Some(Keyring::read(text).map_err(|error| {
            Error(format!("encrypt has invalid key: {error}\nhint: `muster keygen` makes one"))
        })?),
    };
    let allowed = written
        .list("serf_lan_allowed_cidrs")
        .iter()
        .map(|text| {
            text.parse().map_err(|_| {
                let wrong = list_errors(&[format!("invalid cidr: {text}")]);
                Error(format!("serf_lan_allowed_cidrs: {wrong}"))
            })
        })
        .collect::<Result<_, _>>()?;
    let (start_join, retry_join) = (written.list("start_join"), written.list("retry_join"));
    if let Some(cloud) = retry_join.iter().find(|text| text.contains("provider=")) {
        let cloud = secrets::text(cloud);
        return Err(Error(format!(
            "retry_join: `{cloud}`: looking members up with a cloud's API is not supported\nhint: give addresses or a DNS name"
        )));
    }
    let on = |key: &str| written.bool(key).unwrap_or(true);
    Ok(GossipTuning {
        bind,
        timing,
        encrypt,
        verify_incoming: on("encrypt_verify_incoming"),
        verify_outgoing: on("encrypt_verify_outgoing"),
        keep_keyring: !written.on("disable_keyring_file"),
        allowed,
        start_join,
        retry_join,
        retry_interval: written.duration("retry_interval", RETRY_INTERVAL),
        retry_max: written.count("retry_max", 0),
        advertise_reconnect_timeout,
        rejoin_after_leave: written.on("rejoin_after_leave"),
    })
}

fn timing(written: &Written, dev: bool, invalid: &mut Vec<String>) -> Timing {
    let mut timing = Timing::default();
    if dev {
        let quick = Duration::from_millis(100);
        (timing.gossip_interval, timing.probe_interval) = (quick, quick);
        (timing.probe_timeout, timing.suspicion_mult) = (quick, 3);
    }
    for (key, pace) in [
        ("gossip_lan.gossip_interval", &mut timing.gossip_interval),
        ("gossip_lan.probe_interval", &mut timing.probe_interval),
        ("gossip_lan.probe_timeout", &mut timing.probe_timeout),
        ("reconnect_timeout", &mut timing.reconnect_timeout),
    ] {
        let given = written.duration(key, *pace);
        if given.is_zero() {
            let text = written.text(key).unwrap_or_default();
            invalid.push(format!("{key}: cannot be {text}: nothing would ever be done"));
        } else {
            *pace = given;
        }
    }
    let mut number = |key: &str, default: u32| match written.int(key).map(u32::try_from) {
        None => default,
        Some(Ok(number)) if (1..=1000).contains(&number) => number,
        Some(_) => {
            invalid.push(format!("{key}: must be between 1 and 1000"));
            default
        }
    };
    timing.suspicion_mult = number("gossip_lan.suspicion_mult", timing.suspicion_mult);
    timing.retransmit_mult = number("gossip_lan.retransmit_mult", timing.retransmit_mult);
    timing.gossip_nodes = number("gossip_lan.gossip_nodes", 3) as usize;
    timing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<GossipTuning, String> {
        let written = Written::from_text(json, "json").map_err(|error| error.to_string())?;
        resolve(&written, false).map_err(|error| error.to_string())
    }

    #[test]
    fn paces_and_keys_are_read() {
        let tuning = read(
            r#"{"encrypt":"AAAAAAAAAAAAAAAAAAAAAA==","retry_join":["a","b:1"],"retry_max":3,
                "reconnect_timeout":"8h","advertise_reconnect_timeout":"5m","serf_lan_allowed_cidrs":["10.0.0.0/8"],
                "gossip_lan":{"probe_interval":"2s","gossip_nodes":5,"suspicion_mult":7}}"#,
        )
        .unwrap();
        assert_eq!(tuning.encrypt, Some(vec![0; 16]));
        assert_eq!((tuning.retry_join.len(), tuning.retry_max), (2, 3));
        let timing = &tuning.timing;
        assert_eq!(timing.probe_interval, Duration::from_secs(2));
        assert_eq!((timing.gossip_nodes, timing.suspicion_mult), (5, 7));
        assert_eq!(timing.reconnect_timeout, Duration::from_hours(8));
        assert_eq!(tuning.advertise_reconnect_timeout, Some(Duration::from_mins(5)));
        assert_eq!(tuning.reconnect_timeout_shown(), "8h0m0s");
        assert_eq!(read("{}").unwrap().reconnect_timeout_shown(), "0s");
    }

    #[test]
    fn mistakes_are_named() {
        for (json, expected) in [
            (r#"{"encrypt":"xx"}"#, "encrypt has invalid key: illegal base64 data"),
            (r#"{"encrypt":"eHg="}"#, "key size must be 16, 24 or 32 bytes"),
            (r#"{"serf_lan":"x"}"#, "serf_lan: invalid ip address: x"),
            (r#"{"serf_lan_allowed_cidrs":["x"]}"#, "invalid cidr: x"),
            (r#"{"gossip_lan":{"probe_interval":"0s"}}"#, "gossip_lan.probe_interval: cannot be 0"),
            (r#"{"gossip_lan":{"gossip_nodes":0}}"#, "gossip_lan.gossip_nodes: must be between"),
            (r#"{"gossip_lan":{"nodes":0}}"#, "invalid config key gossip_lan.nodes"),
            (
                r#"{"server":true,"advertise_reconnect_timeout":"5m"}"#,
                "advertise_reconnect_timeout can only be used on a client",
            ),
            (r#"{"advertise_reconnect_timeout":"5s"}"#, "must be at least 30s"),
            (r#"{"retry_join":["provider=aws x=y"]}"#, "cloud's API is not supported"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
