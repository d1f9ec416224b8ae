//! Precedence of rules: by tables, and against a slow obvious model.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::acl::policy::{Rule, Rules};

fn sources(policies: &[&str]) -> Vec<Source> {
    let source = |(number, text): (usize, &&str)| Source {
        name: format!("p{number}").into(),
        rules: Arc::new(Rules::parse(text).expect(text)),
    };
    policies.iter().enumerate().map(source).collect()
}

fn authorizer(policies: &[&str]) -> Authorizer {
    Authorizer::new(&sources(policies), Options::default())
}

#[test]
fn rules_decide_as_documented() {
    use Access::{List, Read, Write};
    use Resource::{Acl, Intention, Key, KeyPrefix, Keyring, Node, Operator, Service, Snapshot};
    let rows: &[(&[&str], Resource<'_>, Access, bool)] = &[
        (&[], Key("a"), Read, false),
        (&[r#"key "a" { policy = "read" }"#], Key("a"), Read, true),
        (&[r#"key "a" { policy = "read" }"#], Key("ab"), Read, false),
        (&[r#"key_prefix "a" { policy = "read" }"#], Key("ab"), Read, true),
        (&[r#"key_prefix "a" { policy = "read" }"#], Key("ab"), Write, false),
        (&[r#"key_prefix "a" { policy = "read" }"#], Key("b"), Read, false),
        (
            &[r#"key_prefix "a/" { policy = "write" } key "a/b" { policy = "deny" }"#],
            Key("a/b"),
            Read,
            false,
        ),
        (
            &[r#"key_prefix "a/" { policy = "deny" }"#, r#"key "a/b" { policy = "read" }"#],
            Key("a/b"),
            Read,
            true,
        ),
        (
            &[r#"key_prefix "a" { policy = "deny" } key_prefix "a/b" { policy = "read" }"#],
            Key("a/bc"),
            Read,
            true,
        ),
        (
            &[r#"key_prefix "" { policy = "read" } key_prefix "a/b" { policy = "deny" }"#],
            Key("a/a"),
            Read,
            true,
        ),
        (
            &[r#"key "a" { policy = "write" }"#, r#"key "a" { policy = "deny" }"#],
            Key("a"),
            Read,
            false,
        ),
        (
            &[r#"key "a" { policy = "DENY" }"#, r#"key "a" { policy = "write" }"#],
            Key("a"),
            Read,
            false,
        ),
        (
            &[r#"key "a" { policy = "read" }"#, r#"key "a" { policy = "write" }"#],
            Key("a"),
            Write,
            true,
        ),
        (&[r#"key "a" { policy = "list" }"#], Key("a"), List, true),
        (&[r#"key "a" { policy = "read" }"#], Key("a"), List, false),
        (&[r#"key_prefix "a" { policy = "write" }"#], KeyPrefix("a/"), Write, true),
        (
            &[r#"key_prefix "a" { policy = "write" } key "a/x" { policy = "read" }"#],
            KeyPrefix("a/"),
            Write,
            false,
        ),
        (
            &[r#"key_prefix "a" { policy = "write" } key_prefix "a/x" { policy = "list" }"#],
            KeyPrefix("a/"),
            Write,
            false,
        ),
        (
            &[r#"key_prefix "a" { policy = "write" } key "b" { policy = "read" }"#],
            KeyPrefix("a/"),
            Write,
            true,
        ),
        (&[r#"key "a/b" { policy = "write" }"#], KeyPrefix("a/"), Write, false),
        (&[], KeyPrefix("a/"), Read, true),
        (&[r#"operator = "write""#], Operator, Write, true),
        (&[r#"operator = "WRITE""#], Operator, Read, false),
        (&[r#"operator = "write""#, r#"operator = "deny""#], Operator, Read, false),
        (&[r#"operator = "read" operator = "write""#], Operator, Write, true),
        (&[r#"operator = "write" operator = "read""#], Operator, Write, false),
        (&[r#"operator = "write""#], Keyring, Read, false),
        (&[r#"keyring = "read""#], Keyring, Read, true),
        (&[r#"acl = "read""#], Acl, Read, true),
        (&[r#"acl = "read""#], Snapshot, Read, false),
        (&[r#"acl = "write""#], Snapshot, Read, true),
        (&[r#"service "a" { policy = "write" }"#], Intention("a"), Read, true),
        (&[r#"service "a" { policy = "write" }"#], Intention("a"), Write, false),
        (&[r#"service "a" { policy = "deny" intentions = "write" }"#], Intention("a"), Write, true),
        (&[r#"service "a" { policy = "deny" }"#], Intention("a"), Read, false),
        (
            &[
                r#"service "a" { policy = "read" }"#,
                r#"service "a" { policy = "write" intentions = "deny" }"#,
            ],
            Intention("a"),
            Read,
            false,
        ),
        (&[r#"service "a" { policy = "read" }"#], Node("a"), Read, false),
        (&[r#"service "a" { policy = "read" }"#], Service("A"), Read, false),
    ];
    for (policies, resource, access, allowed) in rows {
        let decision = authorizer(policies).allows(*resource, *access);
        assert_eq!(decision.is_allowed(), *allowed, "{policies:?} {resource:?} {access:?}");
    }
}

#[test]
fn the_default_policy_allow_spares_tokens_and_snapshots() {
    let options = Options { default_policy: DefaultPolicy::Allow, ..Options::default() };
    let open = Authorizer::new([], options);
    assert!(open.allows(Resource::Key("a"), Access::Write).is_allowed());
    assert!(open.allows(Resource::Operator, Access::Write).is_allowed());
    assert!(open.allows(Resource::KeyPrefix("a"), Access::Write).is_allowed());
    assert!(!open.allows(Resource::Acl, Access::Read).is_allowed());
    assert!(!open.allows(Resource::Snapshot, Access::Read).is_allowed());
    let rules = sources(&[r#"key "a/b" { policy = "read" }"#]);
    let some = Authorizer::new(&rules, options);
    assert!(!some.allows(Resource::KeyPrefix("a/"), Access::Write).is_allowed());
    assert!(some.allows(Resource::KeyPrefix("b/"), Access::Write).is_allowed());
}

#[test]
fn listing_needs_list_where_the_option_says_so() {
    let options = Options { enable_key_list_policy: true, ..Options::default() };
    for (level, allowed) in [("read", false), ("list", true), ("write", true), ("deny", false)] {
        let rules = sources(&[&format!("key_prefix \"a/\" {{ policy = \"{level}\" }}")]);
        let made = Authorizer::new(&rules, options);
        for access in [Access::Read, Access::List] {
            assert_eq!(
                made.allows(Resource::KeyPrefix("a/"), access).is_allowed(),
                allowed,
                "{level}"
            );
        }
    }
}

#[test]
fn equal_rights_have_equal_authority_and_others_do_not() {
    let policies = [
        r#"key "a" { policy = "read" } node "n" { policy = "write" }"#,
        r#"node "n" { policy = "write" }"#,
        r#"key "a" { policy = "deny" }"#,
        r#"key_prefix "a" { policy = "read" }"#,
        r#"service "a" { policy = "read" }"#,
        r#"service "a" { policy = "read" intentions = "write" }"#,
        r#"operator = "read""#,
        r#"keyring = "read""#,
    ];
    let all: Vec<_> = policies.iter().map(|it| authorizer(&[it]).authority()).collect();
    for (at, one) in all.iter().enumerate() {
        assert!(all[at + 1..].iter().all(|other| other != one), "{at}");
    }
    let split = authorizer(&[policies[1], r#"key "a" { policy = "read" }"#]);
    assert_eq!(split.authority(), all[0], "the same rights from two policies");
    let (one, two) =
        (authorizer(&[policies[0], policies[2]]), authorizer(&[policies[2], policies[0]]));
    assert_eq!(one.authority(), two.authority(), "their order does not matter");
    assert_ne!(authorizer(&[]).authority(), Authority::OFF);
}

#[test]
fn who_reads_everything_needs_no_filter() {
    let all = r#"key_prefix "" { policy = "read" } node_prefix "" { policy = "read" }
        service_prefix "" { policy = "read" } session_prefix "" { policy = "read" }
        event_prefix "" { policy = "read" } query_prefix "" { policy = "read" }"#;
    assert!(authorizer(&[all]).reads_everything());
    assert!(!authorizer(&[all, r#"node "x" { policy = "deny" }"#]).reads_everything());
    assert!(authorizer(&[all, r#"node "x" { policy = "write" }"#]).reads_everything());
    assert!(!authorizer(&[r#"key_prefix "" { policy = "read" }"#]).reads_everything());
    assert!(Authorizer::off().reads_everything());
}

#[test]
fn filters_say_that_they_hid_something() {
    let some = authorizer(&[r#"service "web" { policy = "read" }"#]);
    let sees = |it: &Authorizer, name: &&str| it.sees_service(name);
    let left = some.filter(vec!["web", "db"], sees);
    assert_eq!(left, Filtered { rows: vec!["web"], hidden: true });
    assert!(!some.filter(vec!["web"], sees).hidden);
    assert!(!Authorizer::off().filter(vec!["web", "db"], sees).hidden);
}

#[test]
fn explanations_name_the_policy_and_the_rule() {
    let some = authorizer(&[
        r#"service_prefix "w" { policy = "read" } acl = "read""#,
        r#"service "web" { policy = "deny" } key_prefix "a" { policy = "write" } key "a/x" { policy = "read" }"#,
    ]);
    let told = |resource, access| match some.explain(resource, access).reason {
        Reason::Rule { policy, rule, level } => format!("{policy} {rule} {}", level.name()),
        other => format!("{other:?}"),
    };
    assert_eq!(told(Resource::Service("web"), Access::Read), "p1 service \"web\" deny");
    assert_eq!(told(Resource::Service("wiki"), Access::Read), "p0 service_prefix \"w\" read");
    assert_eq!(told(Resource::Service("db"), Access::Read), "Default");
    assert_eq!(told(Resource::Snapshot, Access::Read), "p0 acl read");
    assert_eq!(told(Resource::KeyPrefix("a/"), Access::Write), "p1 key \"a/x\" read");
    assert_eq!(told(Resource::KeyPrefix("b"), Access::Write), "Default");
}

/// The documented rules, word by word, over a plain list.
struct Model {
    rules: Vec<Rule>,
    default: bool,
}

impl Model {
    fn level<'a>(rules: impl Iterator<Item = &'a Rule>) -> Option<Level> {
        let levels: Vec<Level> = rules.map(|rule| rule.level).collect();
        [Level::Deny, Level::Write, Level::List, Level::Read]
            .into_iter()
            .find(|it| levels.contains(it))
    }

    fn prefix_level(&self, name: &str) -> Option<Level> {
        let above = |rule: &&Rule| rule.prefix && name.starts_with(&rule.name);
        let longest = self.rules.iter().filter(above).map(|rule| rule.name.len()).max()?;
        Self::level(self.rules.iter().filter(above).filter(|rule| rule.name.len() == longest))
    }

    fn allows(&self, name: &str, access: Access) -> bool {
        let exact = self.rules.iter().filter(|rule| !rule.prefix && rule.name == name);
        match Self::level(exact).or_else(|| self.prefix_level(name)) {
            None => self.default,
            Some(Level::Deny) => false,
            Some(Level::Read) => access == Access::Read,
            Some(Level::List) => access != Access::Write,
            Some(Level::Write) => true,
        }
    }

    fn writes_all_below(&self, prefix: &str) -> bool {
        let base = self.prefix_level(prefix).map_or(self.default, |it| it == Level::Write);
        let below = |rule: &&Rule| rule.name.starts_with(prefix);
        base && self.rules.iter().filter(below).all(|rule| {
            let same =
                self.rules.iter().filter(|it| it.prefix == rule.prefix && it.name == rule.name);
            Self::level(same) == Some(Level::Write)
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn decisions_agree_with_a_simple_model(
        policies in prop::collection::vec(prop::collection::vec(("[ab/]{0,4}", any::<bool>(), 0..4_u8), 0..6), 0..4),
        names in prop::collection::vec("[ab/]{0,6}", 1..8),
        default in any::<bool>(),
    ) {
        let rule = |(name, prefix, level): (String, bool, u8)| Rule {
            kind: Kind::Key,
            prefix,
            name,
            level: [Level::Deny, Level::Read, Level::List, Level::Write][usize::from(level)],
            intentions: None,
        };
        let policies: Vec<Vec<Rule>> =
            policies.into_iter().map(|it| it.into_iter().map(rule).collect()).collect();
        let model = Model { rules: policies.concat(), default };
        let sources: Vec<Source> = policies
            .into_iter()
            .map(|named| Source { name: "p".into(), rules: Arc::new(Rules { named, ..Rules::default() }) })
            .collect();
        let default_policy = if default { DefaultPolicy::Allow } else { DefaultPolicy::Deny };
        let options = Options { default_policy, ..Options::default() };
        let made = Authorizer::new(&sources, options);
        for name in &names {
            for access in [Access::Read, Access::List, Access::Write] {
                let decision = made.allows(Resource::Key(name), access);
                prop_assert_eq!(decision.is_allowed(), model.allows(name, access), "{} {:?}", name, access);
                prop_assert_eq!(made.explain(Resource::Key(name), access).decision, decision);
            }
            let decision = made.allows(Resource::KeyPrefix(name), Access::Write);
            prop_assert_eq!(decision.is_allowed(), model.writes_all_below(name), "all below {}", name);
        }
        let mut reversed = sources.clone();
        reversed.reverse();
        prop_assert_eq!(Authorizer::new(&reversed, options).authority(), made.authority());
    }
}
