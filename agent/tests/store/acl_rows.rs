//! Rows of access control: the rules of their tables, and random changes of a handful of them for `log`.

use std::sync::Arc;

use muster_agent::store::acl::{
    AclChange, AuthMethod, BindingRule, Expected, Grants, NodeIdentity, Policy, Role,
    ServiceIdentity, Token,
};
use muster_agent::store::{Applied, Change, Command, Reply, Scope, Store, Timestamp};
use proptest::prelude::*;
use proptest::sample::select;

pub(crate) fn id(number: u8) -> Arc<str> {
    format!("{number:08}-aaaa-bbbb-cccc-dddddddddddd").into()
}

pub(crate) fn token(number: u8, secret: u8) -> Token {
    Token {
        accessor: id(number),
        secret: format!("{secret:08}-5555-5555-5555-555555555555").into(),
        description: "a token".into(),
        grants: Grants {
            policies: vec![id(1), id(9)],
            service_identities: vec![ServiceIdentity {
                service: "web".into(),
                datacenters: vec!["dc1".into()],
            }],
            ..Grants::default()
        },
        roles: vec![id(1)],
        local: false,
        auth_method: None,
        expires: None,
        created: Timestamp(1_000),
        legacy: None,
        hash: [0; 32],
        create_index: 0,
        modify_index: 0,
    }
    .hashed()
}

pub(crate) fn policy(number: u8, name: &str) -> Policy {
    Policy {
        id: id(number),
        name: name.into(),
        description: String::new(),
        rules: r#"key "a" { policy = "read" }"#.into(),
        datacenters: vec![],
        hash: [0; 32],
        create_index: 0,
        modify_index: 0,
    }
    .hashed()
}

pub(crate) fn role(number: u8, name: &str) -> Role {
    Role {
        id: id(number),
        name: name.into(),
        description: String::new(),
        grants: Grants {
            node_identities: vec![NodeIdentity { node: "n1".into(), datacenter: "dc1".into() }],
            ..Grants::default()
        },
        hash: [0; 32],
        create_index: 0,
        modify_index: 0,
    }
    .hashed()
}

pub(crate) fn method(name: &str) -> AuthMethod {
    AuthMethod {
        name: name.into(),
        kind: "jwt".into(),
        display_name: String::new(),
        description: String::new(),
        token_ttl_ns: 60_000_000_000,
        token_locality: "local".into(),
        config: "{}".into(),
        create_index: 0,
        modify_index: 0,
    }
}

pub(crate) fn rule(number: u8, method: &str) -> BindingRule {
    BindingRule {
        id: id(number),
        description: String::new(),
        auth_method: method.into(),
        selector: String::new(),
        bind_type: "service".into(),
        bind_name: "web".into(),
        bind_variable: None,
        create_index: 0,
        modify_index: 0,
    }
}

pub(crate) fn change() -> impl Strategy<Value = AclChange> {
    let expected =
        || select(&[Expected::Absent, Expected::Absent, Expected::Present, Expected::Any][..]);
    let ids = || proptest::collection::vec((1..4_u8).prop_map(id), 1..3);
    let names = || select(&["p1", "P1", "p2"][..]);
    let made = (1..4_u8, 1..4_u8, proptest::option::of(0..5_000_u64), any::<bool>());
    let token = made.prop_map(|(number, secret, expires, login)| Token {
        expires: expires.map(|later| Timestamp(1_000_000 + later)),
        auth_method: login.then(|| "p1".into()),
        ..token(number, secret)
    });
    prop_oneof![
        4 => (expected(), token.clone()).prop_map(|(it, row)| AclChange::Token(it, Box::new(row))),
        1 => (token, 0..30_u64)
            .prop_map(|(row, reset)| AclChange::Bootstrap { token: Box::new(row), reset }),
        1 => ids().prop_map(AclChange::TokensDelete),
        1 => ids().prop_map(AclChange::TokensExpire),
        3 => (expected(), 1..4_u8, names())
            .prop_map(|(it, number, name)| AclChange::Policy(it, Box::new(policy(number, name)))),
        1 => ids().prop_map(AclChange::PoliciesDelete),
        2 => (expected(), 1..4_u8, names())
            .prop_map(|(it, number, name)| AclChange::Role(it, Box::new(role(number, name)))),
        1 => ids().prop_map(AclChange::RolesDelete),
        2 => (expected(), names())
            .prop_map(|(it, name)| AclChange::AuthMethod(it, Box::new(method(name)))),
        1 => names().prop_map(|name| AclChange::AuthMethodsDelete(vec![name.into()])),
        2 => (expected(), 1..4_u8, names())
            .prop_map(|(it, number, name)| AclChange::BindingRule(it, Box::new(rule(number, name)))),
        1 => ids().prop_map(AclChange::BindingRulesDelete),
    ]
}

/// A state, and the next index.
struct World(Store, u64);

impl World {
    fn new() -> World {
        World(Store::default(), 10)
    }

    fn at(&mut self, at: u64, change: AclChange) -> Applied {
        self.1 += 1;
        self.0.apply(self.1, &Command { at: Timestamp(at), change: Change::Acl(change) })
    }

    fn done(&mut self, change: AclChange) {
        assert_eq!(self.at(2_000, change).reply, Reply::Done);
    }

    fn refused(&mut self, change: AclChange, text: &str) {
        let applied = self.at(2_000, change);
        assert_eq!(applied.reply, Reply::Refused(text.to_owned()));
        assert_eq!(applied.touched, []);
    }
}

fn new_token(row: Token) -> AclChange {
    AclChange::Token(Expected::Absent, Box::new(row))
}

#[test]
fn neither_public_name_nor_secret_of_a_token_is_given_twice() {
    let mut world = World::new();
    world.done(new_token(token(1, 1)));
    world.refused(new_token(token(1, 2)), "Invalid Token: AccessorID is already in use");
    world.refused(new_token(token(2, 1)), "Invalid Token: SecretID is already in use");
    world.refused(
        AclChange::Token(Expected::Present, Box::new(token(3, 3))),
        &format!("Cannot find token \"{}\"", id(3)),
    );
    world.done(AclChange::Token(Expected::Present, Box::new(token(1, 1))));
    let row = world.0.acl().token(&id(1).to_uppercase()).rows.expect("it is there, in any case");
    assert_eq!((row.create_index, row.modify_index), (11, 15));
    let secret = row.secret.clone();
    assert_eq!(world.0.acl().token_with_secret(&secret).rows.unwrap().accessor, id(1));
    world.done(AclChange::TokensDelete(vec![id(1)]));
    assert!(world.0.acl().token_with_secret(&secret).rows.is_none());
    world.done(new_token(token(2, 1)));
}

#[test]
fn a_change_of_tokens_wakes_who_reads_them() {
    let mut world = World::new();
    assert_eq!(world.at(1, new_token(token(1, 1))).touched, [Scope::AclTokens]);
    assert_eq!(world.at(1, AclChange::TokensDelete(vec![id(2)])).touched, []);
    assert_eq!(world.at(1, AclChange::TokensDelete(vec![id(1)])).touched, [Scope::AclTokens]);
}

#[test]
fn the_first_token_of_all_rights_is_made_once_for_each_reset() {
    let mut world = World::new();
    let bootstrap =
        |number, reset| AclChange::Bootstrap { token: Box::new(token(number, number)), reset };
    world.done(bootstrap(1, 0));
    let told = "Permission denied: ACL bootstrap no longer allowed (reset index: 11)";
    world.refused(bootstrap(2, 0), told);
    world.refused(bootstrap(2, 12), told);
    world.done(bootstrap(2, 11));
    assert_eq!(world.0.acl().bootstrapped(), 14);
}

#[test]
fn names_of_policies_and_roles_are_unique_in_any_case() {
    let mut world = World::new();
    world.done(AclChange::Policy(Expected::Absent, Box::new(policy(1, "p1"))));
    world.refused(
        AclChange::Policy(Expected::Absent, Box::new(policy(2, "P1"))),
        "Invalid Policy: A Policy with Name \"P1\" already exists",
    );
    world.done(AclChange::Policy(Expected::Present, Box::new(policy(1, "other"))));
    world.done(AclChange::Policy(Expected::Absent, Box::new(policy(2, "P1"))));
    assert_eq!(world.0.acl().policy_named("p1").rows.unwrap().id, id(2));
    world.done(AclChange::PoliciesDelete(vec![id(2), id(3)]));
    assert!(world.0.acl().policy_named("p1").rows.is_none());
    world.refused(
        AclChange::Policy(Expected::Present, Box::new(policy(2, "p1"))),
        &format!("cannot find policy {}", id(2)),
    );
    world.done(AclChange::Role(Expected::Absent, Box::new(role(1, "r1"))));
    world.refused(
        AclChange::Role(Expected::Absent, Box::new(role(2, "R1"))),
        "Invalid Role: A Role with Name \"R1\" already exists",
    );
}

#[test]
fn a_way_to_log_in_takes_its_rules_and_tokens_along() {
    let mut world = World::new();
    world.refused(
        AclChange::BindingRule(Expected::Absent, Box::new(rule(1, "jwt1"))),
        "cannot find auth method with name \"jwt1\"",
    );
    let login = |number| Token { auth_method: Some("JWT1".into()), ..token(number, number) };
    world.refused(new_token(login(1)), "cannot find auth method with name \"JWT1\"");
    world.done(AclChange::AuthMethod(Expected::Any, Box::new(method("jwt1"))));
    world.done(AclChange::AuthMethod(Expected::Any, Box::new(method("jwt1"))));
    let other = AuthMethod { kind: "kubernetes".into(), ..method("jwt1") };
    world.refused(
        AclChange::AuthMethod(Expected::Any, Box::new(other)),
        "the Type field of an Auth Method is immutable",
    );
    world.done(AclChange::BindingRule(Expected::Absent, Box::new(rule(1, "jwt1"))));
    world.done(new_token(login(1)));
    world.done(new_token(token(2, 2)));
    world.done(AclChange::AuthMethodsDelete(vec!["jwt1".into()]));
    let acl = world.0.acl();
    assert!(acl.binding_rules().rows.is_empty());
    let left: Vec<_> = acl.tokens().rows.iter().map(|row| row.accessor.clone()).collect();
    assert_eq!(left, [id(2)]);
}

#[test]
fn only_what_has_expired_goes() {
    let mut world = World::new();
    for (number, end) in [(1, Some(5_000)), (2, Some(9_000)), (3, None)] {
        world.done(new_token(Token { expires: end.map(Timestamp), ..token(number, number) }));
    }
    assert_eq!(world.0.acl().next_expiration(), Some(Timestamp(5_000)));
    assert!(world.0.acl().expired(Timestamp(4_999), 10).is_empty());
    let due = |world: &World, now| -> Vec<Arc<str>> {
        let rows = world.0.acl().expired(Timestamp(now), 10);
        rows.iter().map(|row| row.accessor.clone()).collect()
    };
    assert_eq!(due(&world, 5_000), [id(1)]);
    // The row was prolonged, or the clock of who proposed ran ahead: then it stays.
    assert_eq!(world.at(4_000, AclChange::TokensExpire(vec![id(1), id(2), id(3)])).touched, []);
    world.at(6_000, AclChange::TokensExpire(vec![id(1), id(2), id(3)]));
    assert_eq!(world.0.acl().token_count(), 2);
    assert_eq!(world.0.acl().next_expiration(), Some(Timestamp(9_000)));
}

#[test]
fn hashes_cover_what_a_row_grants_and_nothing_else() {
    let base = token(1, 1);
    let mut same = Token { expires: Some(Timestamp(1)), created: Timestamp(7), ..token(2, 2) };
    same.auth_method = Some("m".into());
    assert_eq!(same.hashed().hash, base.hash);
    let differ = [
        Token { description: "other".into(), ..base.clone() },
        Token { local: true, ..base.clone() },
        Token { roles: vec![], ..base.clone() },
        Token { grants: Grants::default(), ..base.clone() },
    ];
    for other in differ {
        assert_ne!(other.hashed().hash, base.hash);
    }
    let base = policy(1, "p");
    assert_eq!(policy(2, "p").hash, base.hash);
    assert_ne!(Policy { datacenters: vec!["dc1".into()], ..base.clone() }.hashed().hash, base.hash);
    assert_ne!(Policy { rules: "".into(), ..base.clone() }.hashed().hash, base.hash);
}

#[test]
fn a_token_is_never_printed() {
    assert!(!format!("{:?}", new_token(token(1, 1))).contains("5555"));
}
