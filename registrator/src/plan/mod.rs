//! What a container should have in the catalog. Pure: a container and settings in, definitions
//! and remarks out; the same input always gives the same answer.
//!
//! Names, ids and keys are those of the well-known registrator, so that existing labels and
//! scripts keep their meaning. Its traps are not: see the module docs of [`crate::metadata`],
//! [`crate::address`] and [`crate::check`].

mod ids;
mod settings;

use std::collections::BTreeMap;
use std::time::Duration;

use muster_client::types::{ServiceAddress, ServiceDefinition, Weights};

use crate::address::{self, Endpoint, Mode, Sandbox, Skip};
use crate::check::{self, Beat, Target};
use crate::container::{Container, Port, Protocol, Run};
use crate::metadata::{Metadata, parse_list, parse_seconds, parse_switch};

use ids::Ids;

pub use settings::{Deregister, Filter, NameSuffix, Settings};

/// Meta key that says which registrator owns a service.
pub const META_INSTANCE: &str = "muster-registrator";
/// Meta key that holds the full id of the container behind a service.
pub const META_CONTAINER: &str = "muster-container";
/// Meta key that fingerprints the checks, whose definitions the agent does not show.
pub const META_CHECKS: &str = "muster-checks";

/// Bounds of the catalog on Meta.
const META_PAIRS_MAX: usize = 64;
const META_KEY_MAX: usize = 128;
const META_VALUE_MAX: usize = 512;

/// Keys with a meaning of their own, which therefore do not go into Meta.
const KEYS: [&str; 13] = [
    "name",
    "id",
    "tags",
    "ignore",
    "ip",
    "port",
    "network",
    "address_mode",
    "weight",
    "weight_warning",
    "deregister",
    "drain",
    "enable_tag_override",
];

/// The answer for one container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What should be registered, ordered by port.
    pub services: Vec<Wanted>,
    /// What the user should look at.
    pub warnings: Vec<String>,
    /// Why ports are left out, for those who ask.
    pub remarks: Vec<String>,
}

/// One service that should be registered.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Its id, also in the definition.
    pub id: String,
    /// Id of the container behind it.
    pub container: String,
    /// All of it, checks included.
    pub definition: ServiceDefinition,
    /// The check that the registrator keeps alive, if there is one.
    pub beat: Option<Beat>,
    /// How long it is shown in maintenance between the stop signal and its removal; `None`
    /// removes it at the signal.
    pub drain: Option<Duration>,
}

/// What to do with a container's services when it ends: its own label, else the default.
pub fn deregister_policy(container: &Container, default: Deregister) -> Deregister {
    let metadata = Metadata::of(container);
    metadata.general("deregister").and_then(Deregister::parse).unwrap_or(default)
}

/// Plans the services of `container`. `joined` is the container whose network it shares, if it
/// does and that one is known.
pub fn plan(container: &Container, joined: Option<&Container>, settings: &Settings) -> Plan {
    let mut plan = Plan::default();
    if matches!(container.run, Run::Exited(_)) {
        return plan;
    }
    if !settings.filters.iter().all(|filter| filter.admits(container)) {
        plan.remarks.push("its labels do not match --filter".to_owned());
        return plan;
    }
    let metadata = Metadata::of(container);
    plan.warnings.extend_from_slice(metadata.warnings());
    if let Some(text) = metadata.general("deregister")
        && Deregister::parse(text).is_none()
    {
        let text = format!("`SERVICE_DEREGISTER`: `{text}` is not always, on-success or never");
        plan.warnings.push(text);
    }
    Planner { container, metadata: &metadata, settings, plan: &mut plan }.services(joined);
    plan
}

struct Planner<'a> {
    container: &'a Container,
    metadata: &'a Metadata,
    settings: &'a Settings,
    plan: &'a mut Plan,
}

/// A port that will be registered.
struct Chosen {
    port: Port,
    endpoint: Endpoint,
}

impl Planner<'_> {
    fn services(&mut self, joined: Option<&Container>) {
        let sandbox = Sandbox::of(self.container, joined);
        let general_mode = self.metadata.general("address_mode").and_then(parse_mode);
        let ports =
            sandbox.ports(self.metadata, general_mode.unwrap_or(self.settings.address.mode));
        if ports.is_empty() {
            self.plan.remarks.push("it has no ports".to_owned());
        }
        let chosen: Vec<Chosen> =
            ports.into_iter().filter_map(|port| self.choose(&sandbox, port)).collect();
        let several = chosen.len() > 1;
        let numbered: Vec<Port> = chosen.iter().map(|chosen| chosen.port).collect();
        let default = format!("{}:{}", self.settings.instance, self.container.name);
        let mut ids = Ids::new(&numbered, self.metadata, &default);
        for (port, (holder, id)) in &ids.losers {
            let text = format!("not registered: port {holder} has the id `{id}` already");
            self.warn(*port, &text);
        }
        for Chosen { port, endpoint } in chosen {
            if let Some(id) = ids.of.remove(&port)
                && let Some(wanted) = self.service(port, &endpoint, id, several)
            {
                self.plan.services.push(wanted);
            }
        }
    }

    fn choose(&mut self, sandbox: &Sandbox<'_>, port: Port) -> Option<Chosen> {
        let at = port.number;
        if let Some(text) = self.metadata.text(at, "ignore") {
            // Any value ignores, as ever; a no is most likely a misunderstanding.
            if parse_switch(text) == Some(false) {
                let text = format!("`SERVICE_IGNORE={text}` ignores too: leave it empty");
                self.warn(port, &text);
            }
            self.remark(port, "SERVICE_IGNORE is set");
            return None;
        }
        if self.settings.explicit && self.metadata.text(at, "name").is_none() {
            self.remark(port, "it has no SERVICE_NAME, which --explicit asks for");
            return None;
        }
        let mode = match self.metadata.text(at, "address_mode").map(|text| (text, parse_mode(text)))
        {
            Some((_, Some(mode))) => mode,
            Some((text, None)) => {
                let text =
                    format!("`SERVICE_ADDRESS_MODE`: `{text}` is not published, internal or auto");
                self.warn(port, &text);
                self.settings.address.mode
            }
            None => self.settings.address.mode,
        };
        let network = self.metadata.text(at, "network");
        let agent = self.settings.agent_host.as_deref().and_then(|host| host.parse().ok());
        let found = sandbox.endpoint(port, mode, network, &self.settings.address, agent);
        // Another family than the agent's is no fault where the user names the address.
        let unnamed = match &found {
            Err(skip @ Skip::FamilyUnknown { port, .. }) => Some((skip.clone(), *port)),
            _ => None,
        };
        let found = match &unnamed {
            Some((_, port)) => Ok(Endpoint { port: *port, ..Endpoint::default() }),
            None => found,
        };
        match found {
            Ok(mut endpoint) => {
                let mut warnings = Vec::new();
                address::override_endpoint(
                    &mut endpoint,
                    self.container,
                    self.metadata,
                    port,
                    &self.settings.address,
                    |text| warnings.push(text),
                );
                for text in &warnings {
                    self.warn(port, text);
                }
                if let Some((skip, _)) = unnamed.filter(|_| endpoint.address.is_none()) {
                    self.warn(port, &format!("not registered: {skip}"));
                    return None;
                }
                Some(Chosen { port, endpoint })
            }
            Err(skip @ (Skip::Loopback | Skip::NetworkMissing(_))) => {
                self.warn(port, &format!("not registered: {skip}"));
                None
            }
            Err(skip) => {
                self.remark(port, &skip.to_string());
                None
            }
        }
    }

    fn service(
        &mut self,
        port: Port,
        endpoint: &Endpoint,
        id: String,
        several: bool,
    ) -> Option<Wanted> {
        let name = self.name(port, several);
        let host = match (&endpoint.address, &self.settings.agent_host) {
            (Some(ip), _) => ip.to_string(),
            (None, Some(host)) => host.clone(),
            (None, None) => "127.0.0.1".to_owned(),
        };
        let target = Target {
            service_id: &id,
            service_name: &name,
            host: &host,
            port: endpoint.port,
            container_port: port,
            scripts_allowed: self.settings.scripts_allowed,
        };
        let mut warnings = Vec::new();
        let mut warn = |text| warnings.push(text);
        let mut checks = check::from_keys(self.container, self.metadata, &target, &mut warn);
        let mut own_check = check::from_docker_health(
            self.container,
            self.metadata,
            &target,
            self.settings.health_ttl,
            &mut warn,
        );
        for text in &warnings {
            self.warn(port, text);
        }
        if self.container.run == Run::Paused && own_check.is_none() {
            // Its sockets accept and nobody answers, so other checks may go on passing.
            self.remark(port, "the container is paused");
            return None;
        }
        if own_check.is_none() {
            own_check = self.settings.heartbeat.map(|ttl| check::heartbeat(&target, ttl));
        }
        let beat = own_check.map(|(check, beat)| {
            checks.push(check);
            beat
        });

        let mut meta = self.meta(port);
        if !checks.is_empty() {
            meta.insert(META_CHECKS.to_owned(), fingerprint(&checks, beat.as_ref()));
        }
        let definition = ServiceDefinition {
            id: Some(id.clone()),
            name,
            tags: self.tags(port),
            address: endpoint.address.map(|ip| ip.to_string()).unwrap_or_default(),
            port: endpoint.port.into(),
            meta,
            weights: self.weights(port),
            tagged_addresses: endpoint
                .tagged
                .iter()
                .map(|(name, ip)| {
                    let address =
                        ServiceAddress { address: ip.to_string(), port: endpoint.port.into() };
                    ((*name).to_owned(), address)
                })
                .collect(),
            enable_tag_override: self
                .parsed(port, "enable_tag_override", "a yes or no", parse_switch)
                .unwrap_or(false),
            checks,
            ..ServiceDefinition::default()
        };
        let container = self.container.id.clone();
        let drain = self
            .parsed(port, "drain", "a duration such as 5s", parse_seconds)
            .filter(|drain| !drain.is_zero());
        Some(Wanted { id, container, definition, beat, drain })
    }

    fn name(&self, port: Port, several: bool) -> String {
        let given = self.metadata.get(port.number, "name").filter(|name| !name.text.is_empty());
        let base = given.map_or_else(|| default_name(self.container), |name| name.text.to_owned());
        let suffix = match self.settings.name_suffix {
            NameSuffix::Auto => several,
            NameSuffix::Always => true,
            NameSuffix::Never => false,
        };
        let prefix = &self.settings.service_prefix;
        if suffix && !given.is_some_and(|name| name.for_port) {
            format!("{prefix}{base}-{}", port.number)
        } else {
            format!("{prefix}{base}")
        }
    }

    fn tags(&self, port: Port) -> Vec<String> {
        let mut tags = parse_list(self.metadata.text(port.number, "tags").unwrap_or_default());
        tags.extend_from_slice(&self.settings.tags);
        match port.protocol {
            Protocol::Tcp => {}
            Protocol::Udp => tags.push("udp".to_owned()),
            Protocol::Sctp => tags.push("sctp".to_owned()),
        }
        let mut unique: Vec<String> = Vec::with_capacity(tags.len());
        for tag in tags {
            if !unique.contains(&tag) {
                unique.push(tag);
            }
        }
        unique
    }

    /// The user's own keys within the catalog's bounds, and the marks of ownership. One bad pair
    /// would make the catalog refuse the whole service, so bad pairs are left out.
    fn meta(&mut self, port: Port) -> BTreeMap<String, String> {
        let mut meta = BTreeMap::from([
            (META_INSTANCE.to_owned(), self.settings.instance.clone()),
            (META_CONTAINER.to_owned(), self.container.id.clone()),
        ]);
        // One place is kept for the fingerprint.
        let room = META_PAIRS_MAX - 1;
        let mut warnings = Vec::new();
        for (key, value) in self.metadata.for_port(port.number) {
            if KEYS.contains(&key) || check::is_check_key(key) {
                continue;
            }
            let fault = if !key.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-')
            {
                "only letters, digits, `-` and `_` are allowed in its name"
            } else if key.len() > META_KEY_MAX {
                "its name is longer than 128 characters"
            } else if key.starts_with("consul-") || key.starts_with("muster-") {
                "its prefix is reserved"
            } else if value.len() > META_VALUE_MAX {
                "its value is longer than 512 characters"
            } else if meta.len() >= room {
                "there are more than 64"
            } else {
                meta.insert(key.to_owned(), value.to_owned());
                continue;
            };
            warnings.push(format!("`SERVICE_{}` is dropped: {fault}", key.to_ascii_uppercase()));
        }
        for text in &warnings {
            self.warn(port, text);
        }
        meta
    }

    fn weights(&mut self, port: Port) -> Option<Weights> {
        let passing = |text: &str| text.parse().ok().filter(|weight: &u16| *weight > 0);
        let warning = |text: &str| text.parse::<u16>().ok();
        let passing = self.parsed(port, "weight", "a weight from 1 to 65535", passing);
        let warning = self.parsed(port, "weight_warning", "a weight from 0 to 65535", warning);
        (passing.is_some() || warning.is_some()).then(|| Weights {
            passing: passing.unwrap_or(1).into(),
            warning: warning.unwrap_or(1).into(),
        })
    }

    fn parsed<T>(
        &mut self,
        port: Port,
        name: &str,
        wanted: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.metadata.text(port.number, name)?;
        let value = parse(text);
        if value.is_none() {
            let key = name.to_ascii_uppercase();
            self.warn(port, &format!("`SERVICE_{key}`: `{text}` is not {wanted}; ignored"));
        }
        value
    }

    /// Most faults are in keys for all ports, and would be reported once per port.
    fn warn(&mut self, port: Port, text: &str) {
        let known =
            self.plan.warnings.iter().any(|warning| warning.ends_with(&format!(": {text}")));
        if !known {
            self.plan.warnings.push(format!("port {port}: {text}"));
        }
    }

    fn remark(&mut self, port: Port, text: &str) {
        self.plan.remarks.push(format!("port {port}: {text}"));
    }
}

/// Reads the flag's and label's words.
pub fn parse_mode(text: &str) -> Option<Mode> {
    match text.to_ascii_lowercase().as_str() {
        "published" => Some(Mode::Published),
        "internal" => Some(Mode::Internal),
        "auto" => Some(Mode::Auto),
        _ => None,
    }
}

/// A swarm task is called by its service, any other container by the last part of its image
/// without tag and digest. An image that is only an id says nothing: the container's name does.
fn default_name(container: &Container) -> String {
    if let Some(name) = container.labels.get("com.docker.swarm.service.name") {
        return name.clone();
    }
    let image = container.image.split('@').next().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    let name = last.split(':').next().unwrap_or_default();
    let is_id = image.starts_with("sha256:")
        || (name.len() >= 12 && name.bytes().all(|c| c.is_ascii_hexdigit()));
    if name.is_empty() || is_id { container.name.clone() } else { name.to_owned() }
}

/// Sixteen digits that change when a check's definition does, but not with the health it reports
/// (FNV-1a: stable over versions and machines, and no secret depends on it).
fn fingerprint(checks: &[muster_client::types::CheckDefinition], beat: Option<&Beat>) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for check in checks {
        let mut check = check.clone();
        if beat.is_some_and(|beat| check.id.as_ref() == Some(&beat.check_id)) {
            check.status = None;
        }
        let text = serde_json::to_vec(&check).unwrap_or_default();
        for byte in text.iter().chain(b"\n") {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}
