//! What the engine tells us happened, reduced to what matters here.
//!
//! An event is a hint to look at a container again. Only four kinds carry a fact that is used as
//! it is, because waiting for an inspection would cost time or come too late: a signal, a death, a
//! pause and a verdict of the health check.

use std::collections::HashMap;

use bollard::models::{EventMessage, EventMessageTypeEnum};

use crate::container::{DockerHealth, parse_signal};

/// One piece of news about the engine's containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// These containers (full ids) run or are paused; all others do not.
    Listed(Vec<String>),
    /// Something about this container may be different now.
    Changed(String),
    /// The networks of this container changed; means nothing for one that is not known yet, since
    /// its start follows.
    Attached(String),
    /// The container was sent a signal.
    Signalled {
        /// Full id.
        id: String,
        /// Number of the signal.
        signal: u8,
        /// When, in nanoseconds since the epoch by the engine's clock; 0 if unknown.
        at: u64,
    },
    /// The container's main process ended.
    Died {
        /// Full id.
        id: String,
        /// Its exit code.
        exit_code: i64,
        /// When, as above.
        at: u64,
    },
    /// The container is frozen (`true`) or goes on.
    Paused(String, bool),
    /// The container's health check has a new verdict.
    Health(String, DockerHealth),
    /// The container exists no more.
    Destroyed(String),
    /// The engine is out of reach; says why. What is known stays true until it is back.
    Lost(String),
}

/// Names of the events that matter, for the engine's own filter: it then never sends the flood of
/// `exec_*` events that health checks cause.
pub const WANTED: [&str; 12] = [
    "start",
    "restart",
    "kill",
    "die",
    "pause",
    "unpause",
    "rename",
    "update",
    "health_status",
    "destroy",
    "connect",
    "disconnect",
];

impl News {
    /// Reads one event; `None` for those that mean nothing here.
    pub fn read(event: EventMessage) -> Option<Self> {
        let at = event.time_nano.and_then(|at| u64::try_from(at).ok()).unwrap_or_default();
        let action = event.action?;
        let actor = event.actor?;
        let attributes = actor.attributes.unwrap_or_default();
        match event.typ? {
            EventMessageTypeEnum::CONTAINER => {
                let id = actor.id.filter(|id| !id.is_empty())?;
                Self::of_container(id, &action, &attributes, at)
            }
            EventMessageTypeEnum::NETWORK => {
                let id = attributes.get("container").filter(|id| !id.is_empty())?;
                matches!(action.as_str(), "connect" | "disconnect")
                    .then(|| Self::Attached(id.clone()))
            }
            _ => None,
        }
    }

    fn of_container(
        id: String,
        action: &str,
        attributes: &HashMap<String, String>,
        at: u64,
    ) -> Option<Self> {
        // `health_status: healthy`, `exec_start: /bin/sh -c …`
        let (action, detail) = action.split_once(':').unwrap_or((action, ""));
        match action {
            "start" | "restart" | "rename" | "update" => Some(Self::Changed(id)),
            "kill" => Some(match attributes.get("signal").and_then(|text| parse_signal(text)) {
                Some(signal) => Self::Signalled { id, signal, at },
                None => Self::Changed(id),
            }),
            "die" => Some(match attributes.get("exitCode").and_then(|text| text.parse().ok()) {
                Some(exit_code) => Self::Died { id, exit_code, at },
                None => Self::Changed(id),
            }),
            "pause" => Some(Self::Paused(id, true)),
            "unpause" => Some(Self::Paused(id, false)),
            "destroy" => Some(Self::Destroyed(id)),
            "health_status" => Some(match detail.trim() {
                "healthy" => Self::Health(id, DockerHealth::Healthy),
                "unhealthy" => Self::Health(id, DockerHealth::Unhealthy),
                "starting" => Self::Health(id, DockerHealth::Starting),
                _ => Self::Changed(id),
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<News> {
        News::read(serde_json::from_str(json).expect("event"))
    }

    /// Lines as engine 20.10 writes them.
    #[test]
    fn events_are_read_as_the_engine_writes_them() {
        let id = || "c0ffee".to_owned();
        let container = |action: &str, attributes: &str| {
            format!(
                r#"{{"status":"{action}","id":"c0ffee","from":"web","Type":"container",
                "Action":"{action}","Actor":{{"ID":"c0ffee","Attributes":{{"image":"web",
                "name":"web-1"{attributes}}}}},"scope":"local","time":1,"timeNano":1700000000}}"#
            )
        };
        let network = |action: &str, attributes: &str| {
            format!(
                r#"{{"Type":"network","Action":"{action}","Actor":{{"ID":"beef","Attributes":
                {{"name":"mesh","type":"bridge"{attributes}}}}},"scope":"local","time":1}}"#
            )
        };
        let at = 1_700_000_000;
        let rows = [
            (container("start", ""), Some(News::Changed(id()))),
            (container("rename", r#","oldName":"/a""#), Some(News::Changed(id()))),
            (
                container("kill", r#","signal":"15""#),
                Some(News::Signalled { id: id(), signal: 15, at }),
            ),
            (
                container("kill", r#","signal":"SIGHUP""#),
                Some(News::Signalled { id: id(), signal: 1, at }),
            ),
            (container("kill", ""), Some(News::Changed(id()))),
            (
                container("die", r#","exitCode":"137""#),
                Some(News::Died { id: id(), exit_code: 137, at }),
            ),
            (container("die", r#","exitCode":"?""#), Some(News::Changed(id()))),
            (container("pause", ""), Some(News::Paused(id(), true))),
            (container("unpause", ""), Some(News::Paused(id(), false))),
            (container("destroy", ""), Some(News::Destroyed(id()))),
            (
                container("health_status: healthy", ""),
                Some(News::Health(id(), DockerHealth::Healthy)),
            ),
            (
                container("health_status: unhealthy", ""),
                Some(News::Health(id(), DockerHealth::Unhealthy)),
            ),
            (container("health_status: odd", ""), Some(News::Changed(id()))),
            (container("exec_create: /bin/true", ""), None),
            (container("exec_die", r#","exitCode":"0""#), None),
            (container("create", ""), None),
            (network("connect", r#","container":"c0ffee""#), Some(News::Attached(id()))),
            (network("disconnect", r#","container":"c0ffee""#), Some(News::Attached(id()))),
            (network("create", ""), None),
            (network("connect", ""), None),
        ];
        for (json, expected) in rows {
            assert_eq!(read(&json), expected, "{json}");
        }
        assert_eq!(read("{}"), None);
    }
}
