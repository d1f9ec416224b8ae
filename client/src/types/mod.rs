//! What travels over the API: one Rust type for each JSON object, under the API's own names.

mod agent;
mod catalog;
mod definition;
mod duration;
mod kv;

pub use agent::{AgentCheck, AgentService, Member, MemberStatus};
pub use catalog::{
    CatalogDeregistration, CatalogNode, CatalogRegistration, CatalogService, HealthCheck, Node,
    ServiceEntry,
};
pub use definition::{CheckDefinition, ServiceAddress, ServiceDefinition, Status, Weights};
pub use duration::{NotADuration, format_duration, format_nanos, parse_duration, parse_nanos};
pub use kv::{KvPair, Session, SessionDefinition};

/// The API writes `null` for some empty lists and maps.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + serde::Deserialize<'de>,
{
    Ok(<Option<T> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or_default())
}
