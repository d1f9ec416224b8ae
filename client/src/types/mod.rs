//! What travels over the API: one Rust type for each JSON object, under the API's own names.
//!
//! Rows (what a reader gets) take whatever a catalog accepts, see `lenient`: ports that are none,
//! `null` for what is empty, missing and unknown fields. Definitions (what a writer sends) are stricter, but for
//! ports: whoever says -1 for "none" is understood everywhere.

mod acl;
mod agent;
mod catalog;
mod definition;
mod duration;
mod kv;
mod lenient;

pub use acl::{
    AclExplanation, AclExplanations, AclLink, AclPolicy, AclQuestion, AclRole, AclToken,
    AuthMethod, BindingRule, Login, NodeIdentity, PolicyTemplate, ServiceIdentity,
    TemplateVariables, TemplatedPolicy,
};
pub use agent::{AgentCheck, AgentService, CheckTimes, Member, MemberStatus};
pub(crate) use catalog::Tags;
pub use catalog::{
    CatalogAddress, CatalogDeregistration, CatalogNode, CatalogRegistration, CatalogService,
    HealthCheck, Node, ServiceEntry,
};
pub use definition::{CheckDefinition, ServiceAddress, ServiceDefinition, Status, Weights};
pub use duration::{NotADuration, format_duration, format_nanos, parse_duration, parse_nanos};
pub use kv::{KvPair, Session, SessionDefinition};
