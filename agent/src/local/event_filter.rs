//! Filters of an event: each agent decides whether the event concerns it.

use regex::Regex;

use crate::local::Local;

/// The filters of an event, understood.
#[derive(Debug)]
pub struct EventFilter {
    node: Option<Regex>,
    service: Option<Regex>,
    tag: Option<Regex>,
}

/// A filter that is no expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid {what} filter: error parsing regexp: {why}")]
pub struct InvalidFilter {
    what: &'static str,
    why: String,
}

impl EventFilter {
    /// Reads the filters on node, service and tag; an empty one lets everybody pass.
    pub fn of([node, service, tag]: [&str; 3]) -> Result<EventFilter, InvalidFilter> {
        let parse = |what: &'static str, text: &str| match text {
            "" => Ok(None),
            text => Regex::new(text)
                .map(Some)
                .map_err(|error| InvalidFilter { what, why: error.to_string() }),
        };
        Ok(EventFilter {
            node: parse("node", node)?,
            service: parse("service", service)?,
            tag: parse("tag", tag)?,
        })
    }

    /// Does the event concern this agent? The service filter looks at the ids of its own services, as
    /// in the reference.
    pub fn includes(&self, agent: &Local) -> bool {
        if self.node.as_ref().is_some_and(|filter| !filter.is_match(agent.node_name())) {
            return false;
        }
        let Some(service) = &self.service else { return true };
        agent.services().values().any(|instance| {
            let tagged = |tag: &Regex| instance.tags.iter().any(|it| tag.is_match(it));
            service.is_match(&instance.id) && self.tag.as_ref().is_none_or(tagged)
        })
    }
}
