//! Rules as the reference takes them: rows that were recorded from it.

use std::sync::Arc;

use super::*;
use crate::acl::authorizer::Source;
use crate::acl::{Access, Authorizer, Options, Resource};

const ROWS: &str = include_str!("rows/rules.txt");

/// The rights of `rules` among those that the rows were recorded with.
fn effect(rules: Rules) -> String {
    let source = Source { name: "p".into(), rules: Arc::new(rules) };
    let made = Authorizer::new([&source], Options::default());
    let mut found = Vec::new();
    let mut probe = |resource: Resource<'_>, access: Access| {
        if made.allows(resource, access).is_allowed() {
            let name = resource.name().map(|name| format!(":{name}")).unwrap_or_default();
            found.push(format!("{}{name}:{}", resource.rule_kind(), access.name()));
        }
    };
    for kind in [Resource::Key, Resource::Service, Resource::Intention, Resource::Node] {
        for name in ["a", "ab", "b"] {
            probe(kind(name), Access::Read);
            probe(kind(name), Access::Write);
        }
    }
    for kind in [Resource::Operator, Resource::Acl, Resource::Keyring] {
        probe(kind, Access::Read);
        probe(kind, Access::Write);
    }
    probe(Resource::Key("a"), Access::List);
    probe(Resource::Agent("a"), Access::Read);
    probe(Resource::Event("a"), Access::Write);
    probe(Resource::Query("a"), Access::Write);
    probe(Resource::Session("a"), Access::Write);
    found.join(" ")
}

#[test]
fn rules_are_taken_as_the_reference_takes_them() {
    let mut count = 0;
    for row in ROWS.split("%%\n").skip(1) {
        let (text, told) = row.rsplit_once("\n=>").expect("a row has an answer");
        let told = told.trim();
        match (Rules::parse(text), told.strip_prefix("! ")) {
            (Ok(rules), None) => assert_eq!(effect(rules), told, "{text}"),
            (Err(error), Some(refusal)) => {
                let error = error.to_string();
                let rest = error.strip_prefix(refusal);
                assert!(rest.is_some(), "{text}\n ours:   {error}\n theirs: {refusal}");
                let rest = rest.unwrap_or_default();
                assert!(rest.is_empty() || rest.starts_with(": at "), "{text}: {error}");
            }
            (Ok(rules), Some(refusal)) => panic!("{text}: {rules:?} in place of {refusal}"),
            (Err(error), None) => panic!("{text}: {error} in place of {told}"),
        }
        count += 1;
    }
    assert!(count > 150, "{count}");
}

#[test]
fn a_level_in_upper_case_counts_as_in_lower_case_when_rules_meet() {
    // In the reference a `DENY` loses to every other rule of its name.
    let rules = Rules::parse(r#"key "a" { policy = "DENY" } key "a" { policy = "write" }"#);
    assert_eq!(effect(rules.unwrap()), "");
    let rules = Rules::parse(r#"key "a" { policy = "WRITE" } key "a" { policy = "read" }"#);
    assert_eq!(effect(rules.unwrap()), "key:a:read key:a:write key:a:list");
}

#[test]
fn every_error_names_line_and_column() {
    let rows = [
        ("key \"a\" {\n  policy = \"zap\"\n}", "1:5"),
        ("operator = \"read\"\nacl = \"zap\"", "2:7"),
        (
            "node \"x\" { policy = \"read\" }\nservice \"a\" { policy = \"read\" intentions = \"q\" }",
            "2:9",
        ),
        ("{\"key\":\n {\"a\": {\"policy\": \"zap\"}}}", "2:3"),
        ("{\"operator\":\n true}", "2:2"),
        ("key = [\n {} ]", "2:2"),
        ("operator = {}", "1:12"),
    ];
    for (text, place) in rows {
        let error = Rules::parse(text).expect_err(text).to_string();
        assert!(error.contains(place), "{text}: {error}");
    }
}

#[test]
fn kinds_that_nobody_knows_are_named() {
    let rules =
        Rules::parse("sevice \"x\" { policy = \"write\" }\nMesh = \"write\" ACL = \"read\"")
            .unwrap();
    let told: Vec<String> =
        rules.unknown.iter().map(|it| format!("{} {}", it.kind, it.place)).collect();
    assert_eq!(told, ["sevice 1:1", "Mesh 2:1"]);
    assert_eq!(rules.acl, Some(Level::Read));
}

#[test]
fn in_the_old_language_every_name_is_a_prefix() {
    let rules =
        Rules::parse_legacy(r#"key "a" { policy = "write" } operator = "read" acl = "write""#);
    assert_eq!(
        effect(rules.unwrap()),
        "key:a:read key:a:write key:ab:read key:ab:write operator:read key:a:list"
    );
    assert!(Rules::parse_legacy(r#"key "a" { policy = "zap" }"#).is_err());
    assert_eq!(effect(Rules::parse_legacy(r#"key_prefix "a" { policy = "read" }"#).unwrap()), "");
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "(key|service|operator|acl|node_prefix|[a-z\"{}=:,\\[\\] \n]){0,20}") {
        let _ = Rules::parse(&text);
        let _ = Rules::parse(&format!("{{{text}"));
    }
}
