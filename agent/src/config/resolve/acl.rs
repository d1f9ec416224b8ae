//! Access control: `acl`, the keys of versions before 1.4, and `primary_datacenter`.
//!
//! Every key is read here whatever its fate in the table of keys, so that switching a feature on is a change of
//! that table alone.

use std::time::Duration;

use super::Written;
use crate::acl::{DefaultPolicy, Token};
use crate::config::Error;

/// Time for which an agent uses what it knows of a token, a policy or a role, unless told otherwise.
const TTL: Duration = Duration::from_secs(30);

/// Settings of access control.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one switch of the reference's configuration"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AclSettings {
    /// Tokens are looked at (`acl.enabled`; `acl_datacenter` alone switches it on, too).
    pub enabled: bool,
    /// Answer where no rule decides.
    pub default_policy: DefaultPolicy,
    /// Behaviour of an agent that cannot ask a server about a token.
    pub down_policy: DownPolicy,
    /// Time for which a policy is kept.
    pub policy_ttl: Duration,
    /// Time for which a role is kept.
    pub role_ttl: Duration,
    /// Time for which a token is kept.
    pub token_ttl: Duration,
    /// Listing keys takes a right of its own.
    pub enable_key_list_policy: bool,
    /// Tokens that the API sets survive a restart.
    pub enable_token_persistence: bool,
    /// Tokens of the primary datacenter are copied to this one, not only its policies and roles.
    pub enable_token_replication: bool,
    /// Tokens that this agent is given.
    pub tokens: AclTokens,
    /// Datacenter whose tokens hold everywhere; this one unless told otherwise. Lower case.
    pub primary_datacenter: String,
}

/// Tokens that an agent is given, each for one purpose; `None` is not set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AclTokens {
    /// A token with all rights that servers make at their first start (`initial_management`, `master`).
    pub initial_management: Option<Token>,
    /// A token that this agent alone knows, for when no server can be asked (`agent_recovery`, `agent_master`).
    pub agent_recovery: Option<Token>,
    /// For requests without a token.
    pub default: Option<Token>,
    /// For what the agent does of its own accord.
    pub agent: Option<Token>,
    /// For copying from the primary datacenter.
    pub replication: Option<Token>,
    /// For questions of DNS.
    pub dns: Option<Token>,
    /// For services and checks of configuration files that name no token.
    pub config_file_service_registration: Option<Token>,
}

/// Behaviour of an agent that cannot ask a server about a token (`acl.down_policy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DownPolicy {
    /// Everything is allowed.
    Allow,
    /// Nothing is allowed.
    Deny,
    /// What is known is used for longer than its time.
    #[default]
    ExtendCache,
    /// What is known is used while a server is asked anew.
    AsyncCache,
}

impl DownPolicy {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            DownPolicy::Allow => "allow",
            DownPolicy::Deny => "deny",
            DownPolicy::ExtendCache => "extend-cache",
            DownPolicy::AsyncCache => "async-cache",
        }
    }
}

/// Reads all keys of access control. `datacenter` is the agent's own.
pub(super) fn resolve(written: &Written, datacenter: &str) -> Result<AclSettings, Error> {
    let old_datacenter = written.filled("acl_datacenter");
    let primary = written.filled("primary_datacenter").or(old_datacenter);
    let primary_datacenter = primary.unwrap_or(datacenter).to_lowercase();
    super::identity::check_datacenter("primary_datacenter", &primary_datacenter)?;
    let switch = |today: &str, before: &str| written.bool(today).or_else(|| written.bool(before));
    let ttl = |key: &str, default| written.duration_not_zero(key, default);
    let replicates = written.filled("acl_replication_token").is_some();
    Ok(AclSettings {
        enabled: written.bool("acl.enabled").unwrap_or(old_datacenter.is_some()),
        default_policy: default_policy(written)?,
        down_policy: down_policy(written)?,
        policy_ttl: ttl("acl.policy_ttl", TTL),
        role_ttl: ttl("acl.role_ttl", TTL),
        token_ttl: ttl("acl.token_ttl", ttl("acl_ttl", TTL)),
        enable_key_list_policy: switch("acl.enable_key_list_policy", "acl_enable_key_list_policy")
            .unwrap_or(false),
        enable_token_persistence: written.on("acl.enable_token_persistence"),
        enable_token_replication: switch("acl.enable_token_replication", "enable_acl_replication")
            .unwrap_or(replicates),
        tokens: tokens(written),
        primary_datacenter,
    })
}

/// Notes for the start.
pub(super) fn warnings(written: &Written, datacenter: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    if written.filled("acl_datacenter").is_some() {
        warnings.push(
            "The 'acl_datacenter' field is deprecated. Use the 'primary_datacenter' field instead."
                .to_owned(),
        );
    }
    let primary = written.filled("primary_datacenter");
    if let Some(primary) = primary.filter(|primary| primary.to_lowercase() != datacenter) {
        warnings.push(format!(
            "`primary_datacenter` has no effect yet: `{datacenter}` does not ask `{primary}` for anything"
        ));
    }
    warnings
}

/// Each token under its name of today, else under its earlier ones.
fn tokens(written: &Written) -> AclTokens {
    let first = |keys: &[&str]| keys.iter().find_map(|key| written.filled(key)).map(Token::new);
    AclTokens {
        initial_management: first(&[
            "acl.tokens.initial_management",
            "acl.tokens.master",
            "acl_master_token",
        ]),
        agent_recovery: first(&[
            "acl.tokens.agent_recovery",
            "acl.tokens.agent_master",
            "acl_agent_master_token",
        ]),
        default: first(&["acl.tokens.default", "acl_token"]),
        agent: first(&["acl.tokens.agent", "acl_agent_token"]),
        replication: first(&["acl.tokens.replication", "acl_replication_token"]),
        dns: first(&["acl.tokens.dns"]),
        config_file_service_registration: first(&["acl.tokens.config_file_service_registration"]),
    }
}

fn default_policy(written: &Written) -> Result<DefaultPolicy, Error> {
    match written.filled("acl.default_policy").or_else(|| written.filled("acl_default_policy")) {
        None | Some("allow") => Ok(DefaultPolicy::Allow),
        Some("deny") => Ok(DefaultPolicy::Deny),
        Some(other) => Err(Error(format!(
            "Unsupported default ACL policy: {other}\nhint: acl.default_policy is `allow` or `deny`"
        ))),
    }
}

fn down_policy(written: &Written) -> Result<DownPolicy, Error> {
    match written.filled("acl.down_policy").or_else(|| written.filled("acl_down_policy")) {
        None | Some("extend-cache") => Ok(DownPolicy::ExtendCache),
        Some("async-cache") => Ok(DownPolicy::AsyncCache),
        Some("allow") => Ok(DownPolicy::Allow),
        Some("deny") => Ok(DownPolicy::Deny),
        Some(other) => Err(Error(format!(
            "Unsupported down ACL policy: {other}\nhint: acl.down_policy is `allow`, `deny`, `extend-cache` or `async-cache`"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(keys: serde_json::Value) -> Result<AclSettings, String> {
        resolve(&Written::whatever_its_fate(keys), "dc1").map_err(|error| error.0)
    }

    #[test]
    fn what_is_not_written_is_as_in_the_reference() {
        let settings = read(json!({})).unwrap();
        let expected = AclSettings {
            enabled: false,
            default_policy: DefaultPolicy::Allow,
            down_policy: DownPolicy::ExtendCache,
            policy_ttl: TTL,
            role_ttl: TTL,
            token_ttl: TTL,
            enable_key_list_policy: false,
            enable_token_persistence: false,
            enable_token_replication: false,
            tokens: AclTokens::default(),
            primary_datacenter: "dc1".to_owned(),
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn every_key_of_today_is_read() {
        let settings = read(json!({
            "primary_datacenter": "DC2",
            "acl": {
                "enabled": true, "default_policy": "deny", "down_policy": "async-cache",
                "policy_ttl": "1s", "role_ttl": "2s", "token_ttl": "0s",
                "enable_key_list_policy": true, "enable_token_persistence": true,
                "enable_token_replication": true,
                "tokens": {
                    "initial_management": "im", "agent_recovery": "ar", "default": "de", "agent": "ag",
                    "replication": "re", "dns": "dn", "config_file_service_registration": "cf",
                    "master": "", "agent_master": "am",
                },
            },
        }))
        .unwrap();
        let token = |secret: &str| Some(Token::new(secret));
        let expected = AclSettings {
            enabled: true,
            default_policy: DefaultPolicy::Deny,
            down_policy: DownPolicy::AsyncCache,
            policy_ttl: Duration::from_secs(1),
            role_ttl: Duration::from_secs(2),
            token_ttl: TTL,
            enable_key_list_policy: true,
            enable_token_persistence: true,
            enable_token_replication: true,
            tokens: AclTokens {
                initial_management: token("im"),
                agent_recovery: token("ar"),
                default: token("de"),
                agent: token("ag"),
                replication: token("re"),
                dns: token("dn"),
                config_file_service_registration: token("cf"),
            },
            primary_datacenter: "dc2".to_owned(),
        };
        assert_eq!(settings, expected);
        let printed = format!("{settings:?}");
        for secret in ["\"im\"", "\"ar\"", "\"de\"", "\"ag\"", "\"re\"", "\"dn\"", "\"cf\""] {
            assert!(!printed.contains(secret), "{printed}");
        }
    }

    #[test]
    fn every_key_of_versions_before_1_4_is_read() {
        let settings = read(json!({
            "acl_datacenter": "DC2", "acl_default_policy": "deny", "acl_down_policy": "deny",
            "acl_ttl": "7s", "acl_enable_key_list_policy": true, "acl_master_token": "m",
            "acl_agent_master_token": "am", "acl_token": "d", "acl_agent_token": "a",
            "acl_replication_token": "r",
        }))
        .unwrap();
        assert!(settings.enabled && settings.enable_key_list_policy);
        assert!(settings.enable_token_replication, "a token for it asks for it");
        assert_eq!(settings.primary_datacenter, "dc2");
        assert_eq!(
            (settings.default_policy, settings.down_policy, settings.token_ttl),
            (DefaultPolicy::Deny, DownPolicy::Deny, Duration::from_secs(7))
        );
        let token = |secret: &str| Some(Token::new(secret));
        let expected = AclTokens {
            initial_management: token("m"),
            agent_recovery: token("am"),
            default: token("d"),
            agent: token("a"),
            replication: token("r"),
            ..AclTokens::default()
        };
        assert_eq!(settings.tokens, expected);
    }

    #[test]
    fn keys_of_today_win() {
        let settings = read(json!({
            "acl_datacenter": "dc3", "primary_datacenter": "dc2", "acl_default_policy": "allow",
            "acl_ttl": "7s", "acl_master_token": "old", "acl_replication_token": "r",
            "acl": {"enabled": false, "default_policy": "deny", "token_ttl": "8s",
                    "enable_token_replication": false, "tokens": {"master": "new"}},
        }))
        .unwrap();
        assert!(!settings.enabled && !settings.enable_token_replication);
        assert_eq!(settings.primary_datacenter, "dc2");
        assert_eq!(settings.default_policy, DefaultPolicy::Deny);
        assert_eq!(settings.token_ttl, Duration::from_secs(8));
        assert_eq!(settings.tokens.initial_management, Some(Token::new("new")));
    }

    #[test]
    fn mistakes_are_named() {
        for (keys, expected) in [
            (
                json!({"acl": {"default_policy": "zap"}}),
                "Unsupported default ACL policy: zap\nhint: ",
            ),
            (
                json!({"acl_default_policy": "ALLOW"}),
                "Unsupported default ACL policy: ALLOW\nhint: ",
            ),
            (json!({"acl": {"down_policy": "zap"}}), "Unsupported down ACL policy: zap\nhint: "),
            (json!({"acl_down_policy": "zap"}), "Unsupported down ACL policy: zap\nhint: "),
            (json!({"primary_datacenter": "a b"}), "primary_datacenter cannot be \"a b\""),
        ] {
            let error = read(keys).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
