//! What decides about definitions, for all containers.

use std::time::Duration;

use crate::address;
use crate::container::Container;

/// What decides about definitions, for all containers.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this registrator: the first part of ids, and the mark of ownership.
    pub instance: String,
    /// Where containers are reached.
    pub address: address::Settings,
    /// Host that checks use where the service has no address of its own: the agent's, once known.
    pub agent_host: Option<String>,
    /// Only ports that were given a name are registered.
    pub explicit: bool,
    /// Only containers with all these labels are registered.
    pub filters: Vec<Filter>,
    /// Tags of every service.
    pub tags: Vec<String>,
    /// When the port becomes part of the name.
    pub name_suffix: NameSuffix,
    /// Put before every service name.
    pub service_prefix: String,
    /// With it, every service has a TTL check that the registrator keeps passing.
    pub heartbeat: Option<Duration>,
    /// How long Docker's last verdict counts when nobody repeats it.
    pub health_ttl: Duration,
    /// False once the agent has refused to run commands.
    pub scripts_allowed: bool,
}

impl Settings {
    /// Settings with every default.
    pub fn new(instance: impl Into<String>) -> Self {
        Self {
            instance: instance.into(),
            address: address::Settings::default(),
            agent_host: None,
            explicit: false,
            filters: Vec::new(),
            tags: Vec::new(),
            name_suffix: NameSuffix::Auto,
            service_prefix: String::new(),
            heartbeat: None,
            health_ttl: Duration::from_mins(1),
            scripts_allowed: true,
        }
    }
}

/// A label that must be there, with a certain value if one is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Name of the label.
    pub label: String,
    /// Its value; `None` for any.
    pub value: Option<String>,
}

impl Filter {
    /// Reads `label=name` or `label=name=value`, as the engine's own tools write it. An empty
    /// value, such as a variable without one, is any value.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix("label=")?;
        let (label, value) = match text.split_once('=') {
            Some((label, value)) => (label, Some(value).filter(|value| !value.is_empty())),
            None => (text, None),
        };
        (!label.is_empty())
            .then(|| Self { label: label.to_owned(), value: value.map(ToOwned::to_owned) })
    }

    pub(super) fn admits(&self, container: &Container) -> bool {
        container
            .labels
            .get(&self.label)
            .is_some_and(|value| self.value.as_ref().is_none_or(|wanted| wanted == value))
    }
}

/// When `-<port>` is added to a name that was not given for that port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameSuffix {
    /// When the container has several registered ports.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Whether a service leaves the catalog when its container ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deregister {
    /// It does.
    #[default]
    Always,
    /// Only after exit code 0 or an end by signal; a crash stays visible.
    OnSuccess,
    /// It stays until somebody else removes it.
    Never,
}

impl Deregister {
    /// Reads the flag's and label's words.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "always" => Some(Self::Always),
            "on-success" => Some(Self::OnSuccess),
            "never" => Some(Self::Never),
            _ => None,
        }
    }

    /// Whether services stay after an end with this exit code. Codes above 128 are ends by
    /// signal, which is how a container that is told to stop ends.
    pub fn keeps(self, exit_code: i64) -> bool {
        match self {
            Self::Always => false,
            Self::OnSuccess => exit_code != 0 && exit_code & 128 == 0,
            Self::Never => true,
        }
    }
}
