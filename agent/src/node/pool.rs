//! The gossip pools of an agent: what it says of itself in them, and how it finds the others.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use muster_client::types::format_duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::start::start_part;
use super::{Error, REFERENCE_VERSION, descriptors, peers_file, segments};
use crate::config::{Config, Segment};
use crate::gossip::{self, Joining, Keyring, Members, Pools};

/// Becomes a member of the agent's pools, and looks for the others in the background.
pub(super) async fn start(
    config: &Config,
    node_id: &str,
    keyring: Keyring,
    tasks: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
) -> Result<Pools, Error> {
    let given = config.gossip.encrypt.as_ref();
    if given.is_some_and(|given| keyring.keys().first() != Some(given)) {
        warn!("the keyring file's key is used, not that of `encrypt`: {}", shown(config));
    }
    let own = settings(config, node_id, keyring)?;
    let served: Vec<_> = config.segments.served.iter().map(|it| in_segment(&own, it)).collect();
    let own = open(own, tasks, stop).await?;
    let mut others = Vec::new();
    for settings in served {
        others.push(open(settings, tasks, stop).await?);
    }
    let pools = if others.is_empty() {
        Pools::from(own)
    } else {
        let (pools, together) = Pools::of(own, others, stop.child_token());
        start_part(tasks, "segments", together);
        let meeting = segments::meet_servers(pools.clone(), stop.child_token());
        start_part(tasks, "servers in segments", meeting);
        pools
    };
    let (tuning, port, own) = (&config.gossip, config.ports.serf_lan, pools.own());
    if !tuning.start_join.is_empty() {
        let joined = own.join_all(&tuning.start_join, port).await;
        let met = joined.map_err(|failed| Error::NotSupported(failed.to_string()))?;
        info!(met, "joined the cluster");
    }
    if let Some(dir) = &config.data_dir {
        for pool in pools.each() {
            let (file, pool, stop) =
                (peers_file::file(dir, pool), pool.clone(), stop.child_token());
            let again = tuning.rejoin_after_leave;
            start_part(tasks, "remembered members", async move {
                peers_file::remember(pool, &file, again, stop).await;
            });
        }
    }
    if !tuning.retry_join.is_empty() {
        let joining = Joining {
            addresses: tuning.retry_join.clone(),
            port,
            interval: tuning.retry_interval.max(Duration::from_millis(100)),
            attempts_max: tuning.retry_max,
        };
        let (pool, stop) = (own.clone(), stop.child_token());
        start_part(tasks, "retry_join", async move {
            if let Err(failed) = joining.run(pool, stop.clone()).await {
                // That this part ends unasked ends the agent.
                error!("{failed}");
            }
        });
    }
    Ok(pools)
}

/// Becomes a member of one pool.
async fn open(
    settings: gossip::Settings,
    tasks: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
) -> Result<Members, Error> {
    let (members, run) = gossip::start(settings, stop.child_token()).await?;
    start_part(tasks, "gossip", run);
    Ok(members)
}

fn settings(config: &Config, node_id: &str, keyring: Keyring) -> Result<gossip::Settings, Error> {
    let (tuning, port) = (&config.gossip, config.ports.serf_lan);
    let id = node_id
        .parse()
        .map_err(|_| Error::NotSupported(format!("node_id `{node_id}` is not a UUID")))?;
    Ok(gossip::Settings {
        bind: SocketAddr::new(tuning.bind.unwrap_or(config.bind), port),
        advertise: SocketAddr::new(config.advertise, port),
        name: config.node_name.clone(),
        id,
        tags: tags(config, node_id),
        timing: tuning.timing.clone(),
        keyring,
        keyring_file: keyring_file(config),
        allowed: tuning.allowed.clone(),
        connections_max: connections_max(config),
    })
}

/// Connections that each pool may have. All pools together get an eighth of what may be open: HTTP, DNS and RPC have
/// to go on accepting, whatever comes to the ports of gossip.
fn connections_max(config: &Config) -> usize {
    /// More are never needed: a question takes milliseconds.
    const MAX: usize = 1024;
    let all = descriptors::limit() / 8 / (1 + config.segments.served.len());
    all.clamp(8, MAX)
}

/// The same agent in a segment that it serves. The keys are the same as everywhere.
fn in_segment(own: &gossip::Settings, segment: &Segment) -> gossip::Settings {
    let mut settings = own.clone();
    (settings.bind, settings.advertise) = (segment.bind, segment.advertise);
    // Where segments are is for servers, and these tell each other in the default one.
    settings.tags.retain(|key, _| !key.starts_with(segments::AT));
    settings.tags.insert(gossip::SEGMENT.to_owned(), segment.name.clone());
    settings
}

/// File of the keyring, if it is kept.
fn keyring_file(config: &Config) -> Option<PathBuf> {
    let dir = config.data_dir.as_ref().filter(|_| config.gossip.keep_keyring);
    dir.map(|dir| dir.join("serf/local.keyring"))
}

fn shown(config: &Config) -> String {
    keyring_file(config).map(|file| file.display().to_string()).unwrap_or_default()
}

/// Kept keys win over the configured one: they are what the pool agreed on since.
pub(super) fn keyring(config: &Config) -> Result<Keyring, Error> {
    let (tuning, file) = (&config.gossip, keyring_file(config));
    let kept = file.as_deref().map(Keyring::kept).transpose().map_err(|source| Error::Io {
        what: format!("cannot read the keyring {}", shown(config)),
        source,
    })?;
    let kept = kept.flatten().unwrap_or_default();
    let is_new = kept.is_empty();
    let keys = if is_new { tuning.encrypt.iter().cloned().collect() } else { kept };
    let keyring = Keyring::new(&keys)
        .map_err(|wrong| {
            Error::NotSupported(format!("Failed to configure keyring: Invalid key: {wrong}"))
        })?
        .verifying(tuning.verify_incoming, tuning.verify_outgoing);
    if let Some(file) = file.filter(|_| is_new && keyring.is_on()) {
        keyring.keep(&file).map_err(|source| Error::Io {
            what: format!("cannot write the keyring {}", file.display()),
            source,
        })?;
    }
    Ok(keyring)
}

/// Tags that this agent announces, under the reference's names.
fn tags(config: &Config, node_id: &str) -> gossip::Tags {
    let mut tags = BTreeMap::from([
        ("acls", "0".to_owned()),
        ("build", format!("{REFERENCE_VERSION}:")),
        ("dc", config.datacenter.clone()),
        ("id", node_id.to_owned()),
        ("role", if config.server { "consul" } else { "node" }.to_owned()),
        (gossip::SEGMENT, config.segments.own.clone()),
        ("vsn", "2".to_owned()),
        ("vsn_max", "3".to_owned()),
        ("vsn_min", "2".to_owned()),
    ]);
    if config.server {
        tags.insert("ft_fs", "1".to_owned());
        tags.insert("port", config.ports.server.to_string());
        tags.insert("raft_vsn", "3".to_owned());
        if config.bootstrap || config.bootstrap_expect == 1 {
            tags.insert("bootstrap", "1".to_owned());
        }
        if config.bootstrap_expect > 1 {
            tags.insert("expect", config.bootstrap_expect.to_string());
        }
        if let Some(port) = config.ports.serf_wan {
            tags.insert("wan_join_port", port.to_string());
        }
    }
    if let Some(after) = config.gossip.advertise_reconnect_timeout {
        tags.insert(gossip::RECONNECT_TIMEOUT, format_duration(after));
    }
    let at = |segment: &Segment| {
        (format!("{}{}", segments::AT, segment.name), segment.advertise.to_string())
    };
    let own = tags.into_iter().map(|(key, value)| (key.to_owned(), value));
    own.chain(config.segments.served.iter().map(at)).collect()
}
