//! Access control: tokens, and what they may.
//!
//! Fields stand in the order in which the reference's own client writes them: programs print these
//! objects. Fields of newer servers that have no name here are kept, so that an update loses nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lenient::{integer, list, null_as_default};

/// A policy or role by id, by name, or by both.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AclLink {
    /// UUID.
    #[serde(rename = "ID", skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Unique name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// Rights of an instance of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceIdentity {
    /// Name of the service.
    pub service_name: String,
    /// Where it counts; everywhere if empty.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub datacenters: Vec<String>,
}

/// Rights of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NodeIdentity {
    /// Name of the node.
    pub node_name: String,
    /// Where it counts.
    pub datacenter: String,
}

/// A policy that the server makes from a template.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TemplatedPolicy {
    /// Such as `builtin/service`.
    pub template_name: String,
    /// Values of its variables.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "TemplateVariables::is_empty"
    )]
    pub template_variables: TemplateVariables,
    /// Where it counts; everywhere if empty.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub datacenters: Vec<String>,
}

/// Values of the variables of a template.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TemplateVariables {
    /// The only variable of the built-in templates.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
}

impl TemplateVariables {
    fn is_empty(&self) -> bool {
        self.name.is_empty()
    }
}

/// A token.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AclToken {
    /// Index of its creation.
    #[serde(deserialize_with = "integer")]
    pub create_index: u64,
    /// Index of its last change.
    #[serde(deserialize_with = "integer")]
    pub modify_index: u64,
    /// Its public name, a UUID.
    #[serde(rename = "AccessorID", deserialize_with = "null_as_default")]
    pub accessor_id: String,
    /// The secret. Lists do not have it.
    #[serde(rename = "SecretID", skip_serializing_if = "Option::is_none")]
    pub secret_id: Option<String>,
    /// For people.
    #[serde(deserialize_with = "null_as_default")]
    pub description: String,
    /// What it may.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<AclLink>,
    /// Policies by way of roles.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<AclLink>,
    /// Rights of services.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub service_identities: Vec<ServiceIdentity>,
    /// Rights of agents.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub node_identities: Vec<NodeIdentity>,
    /// Policies made from templates.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub templated_policies: Vec<TemplatedPolicy>,
    /// Known to its own datacenter only.
    #[serde(deserialize_with = "null_as_default")]
    pub local: bool,
    /// The method that it was made by, if by login.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub auth_method: String,
    /// Lifetime, in a request to create it.
    #[serde(rename = "ExpirationTTL", skip_serializing_if = "Option::is_none")]
    pub expiration_ttl: Option<String>,
    /// End of its life, as RFC 3339 writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration_time: Option<String>,
    /// Time of its creation, as RFC 3339 writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_time: Option<String>,
    /// Of its content, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Rules of a token of releases before 1.4.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub rules: String,
    /// In lists: whether it has rules of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub legacy: Option<bool>,
    /// Fields without a name here.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AclPolicy {
    /// UUID; empty in a request to create it.
    #[serde(rename = "ID", skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Unique name.
    #[serde(deserialize_with = "null_as_default")]
    pub name: String,
    /// For people.
    #[serde(deserialize_with = "null_as_default")]
    pub description: String,
    /// HCL or JSON. Lists do not have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<String>,
    /// Where it counts; everywhere if there are none.
    pub datacenters: Option<Vec<String>>,
    /// Of its content, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Index of its creation.
    #[serde(deserialize_with = "integer")]
    pub create_index: u64,
    /// Index of its last change.
    #[serde(deserialize_with = "integer")]
    pub modify_index: u64,
    /// Fields without a name here.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// A role.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AclRole {
    /// UUID; empty in a request to create it.
    #[serde(rename = "ID", skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Unique name.
    #[serde(deserialize_with = "null_as_default")]
    pub name: String,
    /// For people.
    #[serde(deserialize_with = "null_as_default")]
    pub description: String,
    /// What its tokens may.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<AclLink>,
    /// Rights of services.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub service_identities: Vec<ServiceIdentity>,
    /// Rights of agents.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub node_identities: Vec<NodeIdentity>,
    /// Policies made from templates.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub templated_policies: Vec<TemplatedPolicy>,
    /// Of its content, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Index of its creation.
    #[serde(deserialize_with = "integer")]
    pub create_index: u64,
    /// Index of its last change.
    #[serde(deserialize_with = "integer")]
    pub modify_index: u64,
    /// Fields without a name here.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// A method by which others prove who they are.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AuthMethod {
    /// Lifetime of the tokens that it makes.
    #[serde(rename = "MaxTokenTTL", skip_serializing_if = "Option::is_none")]
    pub max_token_ttl: Option<String>,
    /// Unique name.
    #[serde(deserialize_with = "null_as_default")]
    pub name: String,
    /// Such as `jwt`.
    #[serde(rename = "Type", deserialize_with = "null_as_default")]
    pub kind: String,
    /// Name for people.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub display_name: String,
    /// For people.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// `local` or `global`: which tokens it makes.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub token_locality: String,
    /// What its type needs. Lists do not have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
    /// Index of its creation.
    #[serde(deserialize_with = "integer")]
    pub create_index: u64,
    /// Index of its last change.
    #[serde(deserialize_with = "integer")]
    pub modify_index: u64,
    /// Fields without a name here.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// Which tokens a login gets.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct BindingRule {
    /// UUID; empty in a request to create it.
    #[serde(rename = "ID", skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// For people.
    #[serde(deserialize_with = "null_as_default")]
    pub description: String,
    /// Name of the method.
    #[serde(deserialize_with = "null_as_default")]
    pub auth_method: String,
    /// Only logins for which this expression holds.
    #[serde(deserialize_with = "null_as_default")]
    pub selector: String,
    /// `service`, `node` or `role`.
    #[serde(deserialize_with = "null_as_default")]
    pub bind_type: String,
    /// Name of the service, node or role, with `${variables}`.
    #[serde(deserialize_with = "null_as_default")]
    pub bind_name: String,
    /// Index of its creation.
    #[serde(deserialize_with = "integer")]
    pub create_index: u64,
    /// Index of its last change.
    #[serde(deserialize_with = "integer")]
    pub modify_index: u64,
    /// Fields without a name here.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// A template of policies.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PolicyTemplate {
    /// Such as `builtin/service`.
    #[serde(deserialize_with = "null_as_default")]
    pub template_name: String,
    /// JSON schema of its variables.
    #[serde(deserialize_with = "null_as_default")]
    pub schema: String,
    /// The rules, with variables in them.
    #[serde(deserialize_with = "null_as_default")]
    pub template: String,
    /// For people.
    #[serde(deserialize_with = "null_as_default")]
    pub description: String,
    /// Fields without a name here.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// A request to log in by an auth method.
#[derive(Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Login {
    /// Name of the method.
    pub auth_method: String,
    /// What proves who asks. Never printed.
    pub bearer_token: String,
    /// Kept in the description of the token.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("auth_method", &self.auth_method)
            .field("bearer_token", &"<hidden>")
            .field("meta", &self.meta)
            .finish()
    }
}

/// May a token do that?
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AclQuestion {
    /// Kind of the resource, as `service`.
    pub resource: String,
    /// Name of the resource; empty for `acl`, `keyring`, `operator` and `snapshot`.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub segment: String,
    /// `read`, `list` or `write`.
    pub access: String,
}

/// Answer to an [`AclQuestion`], with what decided.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AclExplanation {
    /// What was asked.
    #[serde(flatten)]
    pub question: AclQuestion,
    /// Whether the token may.
    pub allow: bool,
    /// `rule`, `default`, or `off` while access control is off.
    pub reason: String,
    /// Where the rule stands: the name of a policy or identity.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub policy: String,
    /// Kind and name of the rule, as `service_prefix "web"`.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// `deny`, `read`, `list` or `write`.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub level: String,
}

/// Answer of `/v1/acl/explain`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AclExplanations {
    /// The token that the questions are about; empty if it has no accessor.
    #[serde(rename = "AccessorID", deserialize_with = "null_as_default")]
    pub accessor_id: String,
    /// `allow` or `deny`: what counts where no rule decides.
    #[serde(deserialize_with = "null_as_default")]
    pub default_policy: String,
    /// One answer for each question, in their order.
    #[serde(deserialize_with = "list")]
    pub answers: Vec<AclExplanation>,
}
