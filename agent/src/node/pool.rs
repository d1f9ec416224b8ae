//! The gossip pool of an agent: what it says of itself, how it finds the others, what it remembers
//! of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_client::types::format_duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::start::start_part;
use super::{Error, REFERENCE_VERSION};
use crate::config::Config;
use crate::gossip::{self, Joining, Keyring, Members, Pools, Status};

/// Members' addresses that are kept.
const REMEMBERED_MAX: usize = 256;
/// Changes within this time are written down together.
const REMEMBER_PAUSE: Duration = Duration::from_secs(2);

/// Becomes a member of a pool, and looks for the others in the background.
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
    let settings = settings(config, node_id, keyring)?;
    let (members, run) = gossip::start(settings, stop.child_token()).await?;
    start_part(tasks, "gossip", run);
    let (tuning, port) = (&config.gossip, config.ports.serf_lan);
    if !tuning.start_join.is_empty() {
        let joined = members.join_all(&tuning.start_join, port).await;
        let met = joined.map_err(|failed| Error::NotSupported(failed.to_string()))?;
        info!(met, "joined the cluster");
    }
    if let Some(dir) = &config.data_dir {
        let file = dir.join("serf/local.members");
        let (pool, stop) = (members.clone(), stop.child_token());
        let again = tuning.rejoin_after_leave;
        start_part(tasks, "remembered members", async move {
            remember(pool, &file, again, stop).await;
        });
    }
    if !tuning.retry_join.is_empty() {
        let joining = Joining {
            addresses: tuning.retry_join.clone(),
            port,
            interval: tuning.retry_interval.max(Duration::from_millis(100)),
            attempts_max: tuning.retry_max,
        };
        let (pool, stop) = (members.clone(), stop.child_token());
        start_part(tasks, "retry_join", async move {
            if let Err(failed) = joining.run(pool, stop.clone()).await {
                // That this part ends unasked ends the agent.
                error!("{failed}");
            }
        });
    }
    Ok(members.into())
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
    })
}

/// Where the keys are kept, if they are.
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

/// What this agent says of itself, in the reference's tags.
fn tags(config: &Config, node_id: &str) -> gossip::Tags {
    let mut tags = BTreeMap::from([
        ("acls", "0".to_owned()),
        ("build", format!("{REFERENCE_VERSION}:")),
        ("dc", config.datacenter.clone()),
        ("id", node_id.to_owned()),
        ("role", if config.server { "consul" } else { "node" }.to_owned()),
        ("segment", String::new()),
        ("vsn", "2".to_owned()),
        ("vsn_max", "3".to_owned()),
        ("vsn_min", "2".to_owned()),
    ]);
    if config.server {
        tags.insert("ft_fs", "1".to_owned());
        tags.insert("port", config.ports.server.to_string());
        tags.insert("raft_vsn", "3".to_owned());
        if config.bootstrap || config.bootstrap_expect == 1 || config.dev {
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
    tags.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Meets members of the last time, then writes down who is there whenever that changes. Who left on
/// purpose does not come back by itself.
async fn remember(members: Members, file: &Path, again: bool, stop: CancellationToken) {
    let (left, known) = remembered(file);
    if !known.is_empty() && (!left || again) {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = gossip::rejoin(&members, &known) => {}
        }
    }
    let mut roll = members.watch();
    let mut written = Vec::new();
    loop {
        let own = members.address();
        let there: Vec<String> = roll
            .borrow_and_update()
            .values()
            .filter(|member| member.status == Status::Alive && member.details.address != own)
            .take(REMEMBERED_MAX)
            .map(|member| member.details.address.to_string())
            .collect();
        // Who is alone for now still wants to find the others after a restart. The first of them
        // are written down at once: this agent may be killed soon.
        if there != written && !there.is_empty() {
            written = there;
            let text = written.join("\n");
            if let Err(error) = write(file.to_owned(), text).await {
                warn!(%error, "the members of this cluster could not be written down");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(REMEMBER_PAUSE) => {}
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = roll.changed() => if changed.is_err() { return },
        }
    }
}

/// Writes down that this agent left on purpose.
pub(super) async fn forget(config_dir: Option<&Path>) {
    let Some(dir) = config_dir else { return };
    let file = dir.join("serf/local.members");
    let (_, known) = remembered(&file);
    let lines = std::iter::once(LEFT.to_owned()).chain(known.iter().map(ToString::to_string));
    let text = lines.collect::<Vec<_>>().join("\n");
    if let Err(error) = write(file, text).await {
        warn!(%error, "that this agent left could not be written down");
    }
}

/// First line of the list of who left.
const LEFT: &str = "left";

/// Has this agent left, and whom did it know?
fn remembered(file: &Path) -> (bool, Vec<SocketAddr>) {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let left = text.lines().next() == Some(LEFT);
    (left, text.lines().filter_map(|line| line.parse().ok()).collect())
}

async fn write(file: PathBuf, text: String) -> std::io::Result<()> {
    let write = move || {
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let beside = file.with_extension("new");
        std::fs::write(&beside, text)?;
        std::fs::rename(&beside, &file)
    };
    tokio::task::spawn_blocking(write).await.map_err(std::io::Error::other)?
}
