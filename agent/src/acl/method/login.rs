//! Log-in and log-out as changes of the state: pure, with secrets, ids and time as arguments.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::rules::{Grant, Rule, bind, description};
use super::{Identity, Refusal};
use crate::store::Timestamp;
use crate::store::acl::{
    Acl, AclChange, AuthMethod, Expected, Grants, NodeIdentity, ServiceIdentity, TemplatedPolicy,
    Token,
};

/// What a log-in brings beside the verified identity.
#[derive(Debug, Clone, Copy)]
pub struct Login<'a> {
    /// What the client says of itself.
    pub meta: &'a BTreeMap<String, String>,
    /// The datacenter in which node identities count.
    pub datacenter: &'a str,
    /// When.
    pub at: Timestamp,
}

/// Names of the token that a log-in makes, both fresh and random.
pub struct Names {
    /// AccessorID.
    pub accessor: Arc<str>,
    /// SecretID.
    pub secret: Arc<str>,
}

/// The token for an identity that the provider of a method has verified. Without a right nothing is made.
pub fn login(
    acl: &Acl,
    method: &AuthMethod,
    identity: &Identity,
    login: Login<'_>,
    names: Names,
) -> Result<Token, Refusal> {
    let rules = acl.binding_rules().rows;
    let own = rules.iter().filter(|rule| rule.auth_method.eq_ignore_ascii_case(&method.name));
    let grant = bind(
        identity,
        own.map(|rule| Rule {
            selector: &rule.selector,
            bind_type: &rule.bind_type,
            bind_name: &rule.bind_name,
            template_name: rule.bind_variable.as_deref().unwrap_or_default(),
        }),
    )?;
    let (grants, roles) = resolve(acl, grant, login.datacenter);
    if grants == Grants::default() && roles.is_empty() {
        return Err(Refusal::Denied);
    }
    let prefix = match method.kind.as_str() {
        "oidc" => "token created via OIDC login",
        _ => "token created via login",
    };
    let lifetime_ms = method.token_ttl_ns / 1_000_000;
    let token = Token {
        accessor: names.accessor,
        secret: names.secret,
        description: description(prefix, login.meta),
        grants,
        roles,
        local: method.token_locality != "global",
        auth_method: Some(Arc::clone(&method.name)),
        expires: (lifetime_ms > 0).then(|| Timestamp(login.at.0.saturating_add(lifetime_ms))),
        created: login.at,
        legacy: None,
        hash: [0; 32],
        create_index: 0,
        modify_index: 0,
    };
    Ok(token.hashed())
}

/// Links to the roles and policies that exist; the others grant nothing.
fn resolve(acl: &Acl, grant: Grant, datacenter: &str) -> (Grants, Vec<Arc<str>>) {
    let mut roles = Vec::new();
    for role in grant.roles.iter().filter_map(|name| acl.role_named(name).rows) {
        // Names that differ in case alone are one.
        if !roles.contains(&role.id) {
            roles.push(Arc::clone(&role.id));
        }
    }
    let mut policies = Vec::new();
    for policy in grant.policies.iter().filter_map(|name| acl.policy_named(name).rows) {
        if !policies.contains(&policy.id) {
            policies.push(Arc::clone(&policy.id));
        }
    }
    let everywhere = Vec::new;
    let services = grant.services.into_iter();
    let nodes = grant.nodes.into_iter();
    let templates = grant.templates.into_iter();
    let grants = Grants {
        policies,
        service_identities: services
            .map(|service| ServiceIdentity { service, datacenters: everywhere() })
            .collect(),
        node_identities: nodes
            .map(|node| NodeIdentity { node, datacenter: datacenter.to_owned() })
            .collect(),
        templated_policies: templates
            .map(|(template, name)| TemplatedPolicy {
                template,
                name: Some(name).filter(|name| !name.is_empty()),
                datacenters: everywhere(),
            })
            .collect(),
    };
    (grants, roles)
}

/// The change that keeps the token of a log-in. If the method goes meanwhile, the state refuses it.
pub fn keep(token: Token) -> AclChange {
    AclChange::Token(Expected::Absent, Box::new(token))
}

/// The change that ends a log-in, for the token with the secret of the request. Only what a log-in made ends so.
pub fn logout(acl: &Acl, secret: &str, now: Timestamp) -> Result<AclChange, Refusal> {
    let found = acl.token_with_secret(secret).rows.filter(|_| !secret.is_empty());
    let token = found.filter(|token| !token.is_expired(now)).ok_or(Refusal::NotFound)?;
    if token.auth_method.is_none() {
        return Err(Refusal::Denied);
    }
    Ok(AclChange::TokensDelete(vec![Arc::clone(&token.accessor)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::acl::{BindingRule, Role};
    use crate::store::{Change, Command, Reply, Store};

    const AT: Timestamp = Timestamp(1_000_000);

    fn apply(state: &mut Store, change: AclChange) -> Reply {
        let index = state.index() + 1;
        state.apply(index, &Command { at: AT, change: Change::Acl(change) }).reply
    }

    fn method(name: &str) -> AuthMethod {
        AuthMethod {
            name: name.into(),
            kind: "jwt".to_owned(),
            display_name: String::new(),
            description: String::new(),
            token_ttl_ns: 0,
            token_locality: String::new(),
            config: "{}".into(),
            create_index: 0,
            modify_index: 0,
        }
    }

    fn rule(number: u32, auth_method: &str, bind_type: &str, bind_name: &str) -> AclChange {
        AclChange::BindingRule(
            Expected::Any,
            Box::new(BindingRule {
                id: format!("00000000-0000-4000-8000-{number:012}").into(),
                description: String::new(),
                auth_method: auth_method.into(),
                selector: String::new(),
                bind_type: bind_type.to_owned(),
                bind_name: bind_name.to_owned(),
                bind_variable: None,
                create_index: 0,
                modify_index: 0,
            }),
        )
    }

    fn names(number: u32) -> Names {
        Names {
            accessor: format!("00000000-0000-4000-9000-{number:012}").into(),
            secret: format!("00000000-0000-4000-a000-{number:012}").into(),
        }
    }

    fn ann() -> Identity {
        Identity::Claims {
            values: [("n".to_owned(), "Ann".to_owned())].into(),
            lists: BTreeMap::new(),
            names: vec!["n".to_owned()],
        }
    }

    #[test]
    fn a_login_makes_a_token_and_a_logout_ends_it() {
        let mut state = Store::default();
        let meta = [("pod".to_owned(), "p1".to_owned())].into();
        let login = Login { meta: &meta, datacenter: "dc1", at: AT };
        for name in ["m", "other"] {
            apply(&mut state, AclChange::AuthMethod(Expected::Any, Box::new(method(name))));
        }
        let made = |state: &Store, method: &AuthMethod, number| {
            super::login(state.acl(), method, &ann(), login, names(number))
        };
        // Without rules, with those of another method, and with roles that do not exist: nothing.
        assert_eq!(made(&state, &method("m"), 1).unwrap_err(), Refusal::Denied);
        apply(&mut state, rule(1, "other", "service", "other"));
        apply(&mut state, rule(2, "m", "role", "ops-${value.n}"));
        let denied = made(&state, &method("m"), 1).unwrap_err();
        assert_eq!(denied.to_string(), "Permission denied");

        let role = Role {
            id: "r1".into(),
            name: "OPS-ann".into(),
            description: String::new(),
            grants: Grants::default(),
            hash: [0; 32],
            create_index: 0,
            modify_index: 0,
        };
        apply(&mut state, AclChange::Role(Expected::Any, Box::new(role)));
        let links = made(&state, &method("m"), 1).unwrap();
        assert_eq!((links.roles.len(), &*links.roles[0]), (1, "r1"));
        apply(&mut state, rule(3, "m", "service", "web-${value.n}"));
        apply(&mut state, rule(4, "m", "node", "n-${value.n}"));
        let lasting = made(&state, &method("m"), 1).unwrap();
        assert_eq!(lasting.grants.service_identities[0].service, "web-ann");
        assert_eq!(lasting.grants.node_identities[0].datacenter, "dc1");
        assert_eq!(lasting.description, "token created via login: {\"pod\":\"p1\"}");
        assert_eq!((lasting.local, lasting.expires), (true, None));
        let short = AuthMethod {
            token_ttl_ns: 60_000_000_000,
            token_locality: "global".to_owned(),
            ..method("m")
        };
        let short = made(&state, &short, 2).unwrap();
        assert_eq!((short.local, short.expires), (false, Some(Timestamp(AT.0 + 60_000))));

        for token in [lasting.clone(), short.clone()] {
            assert_eq!(apply(&mut state, keep(token)), Reply::Done);
        }
        let plain = Token {
            auth_method: None,
            accessor: names(3).accessor,
            secret: names(3).secret,
            ..lasting.clone()
        };
        apply(&mut state, keep(plain.clone()));
        let rows = [
            (&*lasting.secret, AT, Ok(())),
            (&*short.secret, Timestamp(AT.0 + 60_000), Err("ACL not found")),
            (&*plain.secret, AT, Err("Permission denied")),
            ("nobody", AT, Err("ACL not found")),
            ("", AT, Err("ACL not found")),
        ];
        for (secret, now, expected) in rows {
            let ended = logout(state.acl(), secret, now).map(|change| apply(&mut state, change));
            let ended = ended.map(|_| ()).map_err(|refusal| refusal.to_string());
            assert_eq!(ended, expected.map_err(str::to_owned));
        }
        assert_eq!(state.acl().token_with_secret(&lasting.secret).rows, None);
        assert!(state.acl().token_with_secret(&plain.secret).rows.is_some());
        // A method takes its tokens along, and one that is gone makes none.
        apply(&mut state, AclChange::AuthMethodsDelete(vec!["m".into()]));
        assert_eq!(state.acl().token_with_secret(&short.secret).rows, None);
        assert!(matches!(apply(&mut state, keep(lasting)), Reply::Refused(_)));
    }
}
