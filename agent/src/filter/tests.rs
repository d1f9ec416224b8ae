//! Rows of (expression, rows for which it holds) and (expression, error), all taken from what the
//! reference answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::rows::Placed;
use super::{DEPTH_MAX, Error, Filter, REGEXES_MAX, Row, schema};
use crate::store::{Check, Instance, Node, Service, ServiceAddress, Weights};

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn node() -> Node {
    Node {
        name: "n1".into(),
        address: "127.0.0.1".into(),
        datacenter: "dc1".into(),
        tagged_addresses: map(&[("lan", "127.0.0.1")]),
        meta: map(&[("rack", "7")]),
        ..Node::default()
    }
}

/// `web1` with everything and `web2` with hardly anything.
fn services() -> [Service; 2] {
    let bare = Service {
        kind: String::new(),
        id: "web2".into(),
        name: "web".into(),
        tags: vec![],
        address: String::new(),
        tagged_addresses: BTreeMap::new(),
        meta: BTreeMap::new(),
        port: 8080,
        weights: Weights { passing: 1, warning: 1 },
        enable_tag_override: false,
        node: "n1".into(),
        create_index: 1,
        modify_index: 1,
    };
    let lan = ServiceAddress { address: "10.0.0.1".into(), port: 80 };
    let full = Service {
        id: "web1".into(),
        tags: vec!["a".into(), "b c".into()],
        address: "10.0.0.1".into(),
        tagged_addresses: [("lan_ipv4".to_owned(), lan)].into(),
        meta: map(&[("v", "1"), ("env-name", "p"), ("num", "007")]),
        port: 80,
        enable_tag_override: true,
        ..bare.clone()
    };
    [full, bare]
}

fn check(id: &str, status: &str, service: &str) -> Arc<Check> {
    Arc::new(Check {
        node: "n1".into(),
        id: id.into(),
        name: String::new(),
        status: status.into(),
        notes: String::new(),
        output: String::new(),
        service_id: service.into(),
        service_name: String::new(),
        service_tags: vec![],
        kind: "ttl".into(),
        definition: "".into(),
        create_index: 1,
        modify_index: 1,
    })
}

fn instances() -> [Instance; 2] {
    let serf = || check("serfHealth", "passing", "");
    let [full, bare] = services().map(Arc::new);
    let node = Arc::new(node());
    [
        Instance {
            node: node.clone(),
            service: full,
            checks: vec![serf(), check("service:web1", "critical", "web1")],
        },
        Instance { node, service: bare, checks: vec![serf()] },
    ]
}

/// `b` holds for both rows, `1` for `web1`, `2` for `web2`, `-` for none.
fn which(filter: &Filter, rows: &[&dyn Row; 2]) -> &'static str {
    match rows.map(|row| filter.matches(row)) {
        [true, true] => "b",
        [true, false] => "1",
        [false, true] => "2",
        [false, false] => "-",
    }
}

#[test]
fn instances_of_the_catalog() {
    let node = node();
    let services = services();
    let [full, bare] = [0, 1].map(|i| Placed { node: &node, service: &services[i] });
    let table = [
        ("", "b"),
        ("ServiceID == web1", "1"),
        ("ServiceID==web1", "1"),
        ("  ServiceID   ==   web1  ", "1"),
        ("ServiceID\n==\tweb1", "1"),
        ("ServiceID != web1", "2"),
        ("not ServiceID==web1", "2"),
        ("not (ServiceID==web1)", "2"),
        ("not not ServiceID == web1", "1"),
        ("not ServiceID == web1 and ServicePort == 80", "-"),
        ("( ServiceID == web1 )", "1"),
        ("((ServiceID == web1))", "1"),
        ("(ServiceID == web1) and (ServicePort == 80)", "1"),
        ("ServiceID == web1 or ServiceID == web2 and ServicePort == 1", "1"),
        ("ServiceID == web1 and ServicePort == 80 or ServicePort == 1", "1"),
        ("ServiceID == web1 or ServiceID == web2", "b"),
        ("ServiceID == and", "-"),
        ("not in ServiceTags", "-"),
        ("ServicePort == 80", "1"),
        ("ServicePort == \"80\"", "1"),
        ("ServicePort == \"0x50\"", "1"),
        ("ServicePort != 80", "2"),
        ("ServicePort == -5", "-"),
        ("ServiceTags is empty", "2"),
        ("ServiceTags is not  empty", "1"),
        ("a in ServiceTags", "1"),
        ("`a` in ServiceTags", "1"),
        ("a not  in ServiceTags", "2"),
        ("\"b c\" in ServiceTags", "1"),
        ("b in ServiceTags", "-"),
        ("ServiceTags contains a", "1"),
        ("ServiceTags not contains a", "2"),
        ("a.b in ServiceTags", "-"),
        ("a[\"b\"] in ServiceTags", "-"),
        ("(1 in ServiceTags)", "-"),
        ("1.5 in ServiceTags", "-"),
        ("ServiceMeta.v == 1", "1"),
        ("ServiceMeta[\"v\"] == 1", "1"),
        ("ServiceMeta[ \"env-name\" ] == p", "1"),
        ("ServiceMeta.num == \"007\"", "1"),
        ("ServiceMeta.zz == 2", "-"),
        ("ServiceMeta.zz == \"\"", "-"),
        ("ServiceMeta.zz != 2", "b"),
        ("2 in ServiceMeta.zz", "-"),
        ("2 not in ServiceMeta.zz", "b"),
        // The reference finds both here; see the module's documentation.
        ("ServiceMeta.v matches \"^[0-9]$\"", "1"),
        ("ServiceMeta.zz not matches q", "b"),
        ("v in ServiceMeta", "1"),
        ("v not in ServiceMeta", "2"),
        ("ServiceEnableTagOverride == true", "1"),
        ("ServiceEnableTagOverride == T", "1"),
        ("ServiceEnableTagOverride != \"1\"", "2"),
        ("ServiceID matches \"w.*1\"", "1"),
        ("ServiceID matches `\\d`", "b"),
        ("ServiceID not matches 1", "2"),
        ("web in ServiceID", "b"),
        ("ServiceID contains b1", "1"),
        ("ServiceID == `web1`", "1"),
        ("ServiceID == \"\\u0077eb1\"", "1"),
        ("ServiceID == \"\\x77eb1\"", "1"),
        ("ServiceID == \"\\167eb1\"", "1"),
        ("ServiceID == \"\"", "-"),
        ("ServiceKind == \"\"", "b"),
        ("ServiceWeights.Passing == 1", "b"),
        ("ServiceTaggedAddresses is not empty", "1"),
        ("lan_ipv4 in ServiceTaggedAddresses", "1"),
        ("ServiceTaggedAddresses.lan_ipv4.Address == \"10.0.0.1\"", "1"),
        ("ServiceTaggedAddresses.lan_ipv4.Port == 80", "1"),
        ("ServiceTaggedAddresses.zz.Port == 0", "-"),
        ("ServiceTaggedAddresses.zz.Port != 1", "b"),
        ("TaggedAddresses.lan == \"127.0.0.1\"", "b"),
        ("NodeMeta.rack == 7", "b"),
        ("Node == n1 and Datacenter == dc1 and Address == \"127.0.0.1\"", "b"),
        ("ServiceName == web and ServiceAddress == \"10.0.0.1\"", "1"),
        ("ServiceProxy.DestinationServiceName == \"\"", "b"),
        ("ServiceConnect.Native == false", "b"),
    ];
    for (text, expected) in table {
        let filter = Filter::parse(text, &schema::CATALOG_SERVICE).expect(text);
        assert_eq!(which(&filter, &[&full, &bare]), expected, "{text}");
    }
}

#[test]
fn instances_with_their_checks() {
    let [full, bare] = instances();
    let table = [
        ("Node.Node == n1", "b"),
        ("Node.Meta is empty", "-"),
        ("Service.ID == web1", "1"),
        ("a in Service.Tags", "1"),
        ("Service.Port == 8080", "2"),
        ("Checks.Status == passing", "b"),
        ("Checks.Status != passing", "1"),
        ("Checks.Status == critical", "1"),
        ("not Checks.Status == critical", "2"),
        ("Checks.Status matches crit", "1"),
        ("Checks.ServiceID == web1", "1"),
        ("Checks.ServiceTags is empty", "b"),
        ("b not in Checks.ServiceTags", "b"),
        ("Checks is empty", "-"),
        ("Checks is not empty", "b"),
        ("Service.Proxy.LocalServicePort == 0", "b"),
        ("Service.Proxy.Upstreams is empty", "b"),
        ("Service.Proxy.Upstreams.DestinationName != x", "-"),
        ("Service.Proxy.Expose.Checks == true", "-"),
    ];
    for (text, expected) in table {
        let filter = Filter::parse(text, &schema::SERVICE_ENTRY).expect(text);
        assert_eq!(which(&filter, &[&full, &bare]), expected, "{text}");
    }
}

#[test]
fn errors_of_the_grammar() {
    let begin = r#"no match found, expected: "(", "-", "0", "\"", "`", "not", [ \t\r\n], [1-9] or [a-zA-Z]"#;
    let value = r#"no match found, expected: "-", "0", "\"", "`", [ \t\r\n], [1-9] or [a-zA-Z]"#;
    let after_name = r#"no match found, expected: "!=", ".", "==", "[", [ \t\r\n] or [a-zA-Z0-9_]"#;
    let blank = r"no match found, expected: [ \t\r\n]";
    let word_in = r#"no match found, expected: "in", "not" or [ \t\r\n]"#;
    let more = r#"no match found, expected: "and", "or", [ \t\r\n] or EOF"#;
    let name_or_end = r#"no match found, expected: ".", "[", [ \t\r\n], [a-zA-Z0-9_] or EOF"#;
    let any_word = r#"no match found, expected: "!=", "==", "contains", "in", "is", "matches", "not" or [ \t\r\n]"#;
    let number = "rule \"number\": Invalid number literal";
    let unterminated = "rule \"string\": Unterminated string literal";
    let syntax = "rule \"string\": invalid syntax";
    let index = "rule \"index\": Invalid index";
    let unmatched = "rule \"grouping\": Unmatched parentheses";
    let table: &[(&str, &[(&str, &str)])] = &[
        ("   ", &[("1:4 (3)", begin)]),
        ("é == 1", &[("1:1 (0)", begin)]),
        ("()", &[("1:2 (1)", begin)]),
        ("(", &[("1:2 (1)", begin)]),
        (")", &[("1:1 (0)", begin)]),
        ("ServiceID ==", &[("1:13 (12)", value)]),
        ("ServiceID == 'web1'", &[("1:14 (13)", value)]),
        ("ServiceID == \\", &[("1:14 (13)", value)]),
        ("ServiceMeta.x/y == 2", &[("1:14 (13)", after_name)]),
        ("ServiceEnableTagOverride", &[("1:25 (24)", after_name)]),
        ("ServiceID=web1", &[("1:10 (9)", after_name)]),
        ("not(ServiceID==web1)", &[("1:4 (3)", after_name)]),
        ("not", &[("1:4 (3)", after_name)]),
        ("ServiceID == web1 or x", &[("1:23 (22)", after_name)]),
        ("\n\n x", &[("3:3 (4)", after_name)]),
        ("ServiceTags.0 == a", &[("1:13 (12)", "no match found, expected: [a-zA-Z]")]),
        ("ServiceID == web1)", &[("1:18 (17)", name_or_end)]),
        ("ServiceID == wéb", &[("1:15 (14)", name_or_end)]),
        ("ServiceID == web1 and", &[("1:22 (21)", blank)]),
        ("ServiceID == web1 or", &[("1:21 (20)", blank)]),
        ("ServiceID is", &[("1:13 (12)", blank)]),
        ("ServiceID is not", &[("1:17 (16)", blank)]),
        ("a in", &[("1:5 (4)", blank)]),
        ("a notin ServiceTags", &[("1:6 (5)", blank)]),
        ("ServiceID == web1 AND ServicePort == 1", &[("1:19 (18)", more)]),
        ("ServiceID == web1 ServiceID", &[("1:19 (18)", more)]),
        ("ServiceID == web1\nfoo", &[("2:1 (18)", more)]),
        ("ServiceTagsis empty", &[("1:15 (14)", any_word)]),
        ("-5 == ServicePort", &[("1:4 (3)", word_in)]),
        ("5 == 5", &[("1:3 (2)", word_in)]),
        ("\"ServiceID\" == x", &[("1:13 (12)", word_in)]),
        ("-a in ServiceTags", &[("1:2 (1)", "no match found, expected: \"0\" or [1-9]")]),
        (
            "(ServicePort==80)and(ServicePort==80)",
            &[("1:18 (17)", r"no match found, expected: [ \t\r\n] or EOF")],
        ),
        ("ServicePort == 05", &[("1:17 (16)", number)]),
        ("5x in ServiceTags", &[("1:2 (1)", number)]),
        ("ServicePort == 1.", &[("1:17 (16)", number)]),
        ("ServicePort == 1a", &[("1:17 (16)", number)]),
        ("ServicePort == 1_000", &[("1:17 (16)", number)]),
        ("Address == 127.0.0.1", &[("1:17 (16)", number)]),
        ("a in 5", &[("1:6 (5)", "rule \"match\": Invalid selector")]),
        ("ServiceID == \"unterminated", &[("1:27 (26)", unterminated)]),
        ("ServiceID == \"a\\\"b\"", &[("1:14 (13)", syntax)]),
        ("ServiceID matches \"\\d\"", &[("1:19 (18)", syntax)]),
        ("ServiceID == \"\n\"", &[("1:14 (13)", syntax)]),
        ("ServiceTags[0] == a", &[("1:13 (12)", index)]),
        ("ServiceMeta[x] == 1", &[("1:13 (12)", index)]),
        ("ServiceMeta[\"x == 1", &[("1:20 (19)", unterminated), ("1:13 (12)", index)]),
        ("ServiceMeta[\"v\" == 1", &[("1:17 (16)", "rule \"index\": Unclosed index expression")]),
        ("(ServiceID == web1", &[("1:19 (18)", unmatched)]),
        ("(ServiceID == web1) and (ServicePort == 80", &[("1:43 (42)", unmatched)]),
        ("((ServiceID == web1) and", &[("1:22 (21)", unmatched)]),
    ];
    for (text, lines) in table {
        let expected: Vec<_> =
            lines.iter().map(|(place, what)| format!("{place}: {what}")).collect();
        let error = Filter::parse(text, &schema::CATALOG_SERVICE).expect_err(text);
        assert_eq!(error.to_string(), expected.join("\n"), "{text}");
    }
}

#[test]
fn errors_of_fields_and_values() {
    let operator = |operator: &str, selector: &str| {
        format!("Invalid match operator \"{operator}\" for selector \"{selector}\"")
    };
    let selector = |selector: &str| format!("Selector \"{selector}\" is not valid");
    let coerce = |value: &str, selector: &str, why: &str| {
        format!("Failed to coerce value \"{value}\" for selector \"{selector}\": strconv.{why}")
    };
    let table = [
        ("Foo == 1", selector("Foo")),
        ("serviceid == web1", selector("serviceid")),
        ("CreateIndex == 3", selector("CreateIndex")),
        ("ServiceTags.x == a", selector("ServiceTags.x")),
        ("a in ServiceTags.x", selector("ServiceTags.x")),
        ("ServiceMeta.v.x == a", selector("ServiceMeta.v.x")),
        ("ServiceMeta[\"v\"][\"x\"] == 1", selector("ServiceMeta.v.x")),
        ("ServiceTaggedAddresses.zz.Nope == 5", selector("ServiceTaggedAddresses.zz.Nope")),
        ("ServiceProxy.Config.x == 1", selector("ServiceProxy.Config")),
        ("ServicePort == 80 and Foo == 1", selector("Foo")),
        ("ServicePort matches 8", operator("Matches", "ServicePort")),
        ("Node is empty", operator("Is Empty", "Node")),
        ("ServiceTags == a", operator("Equal", "ServiceTags")),
        ("ServiceMeta != 1", operator("Not Equal", "ServiceMeta")),
        ("ServiceMeta.zz is empty", operator("Is Empty", "ServiceMeta.zz")),
        ("ServiceWeights == 1", operator("Equal", "ServiceWeights")),
        ("ServicePort is not empty", operator("Is Not Empty", "ServicePort")),
        ("ServicePort not contains 1", operator("Not In", "ServicePort")),
        ("true in ServiceEnableTagOverride", operator("In", "ServiceEnableTagOverride")),
        (
            "ServiceTaggedAddresses.lan_ipv4 == x",
            operator("Equal", "ServiceTaggedAddresses.lan_ipv4"),
        ),
        (
            "ServicePort == \"x\"",
            coerce("x", "ServicePort", "ParseInt: parsing \"x\": invalid syntax"),
        ),
        (
            "ServiceWeights.Passing == 1.5",
            coerce("1.5", "ServiceWeights.Passing", "ParseInt: parsing \"1.5\": invalid syntax"),
        ),
        (
            "ServicePort == 99999999999999999999",
            coerce(
                "99999999999999999999",
                "ServicePort",
                "ParseInt: parsing \"99999999999999999999\": value out of range",
            ),
        ),
        (
            "ServiceEnableTagOverride == yes",
            coerce("yes", "ServiceEnableTagOverride", "ParseBool: parsing \"yes\": invalid syntax"),
        ),
    ];
    for (text, expected) in table {
        let error = Filter::parse(text, &schema::CATALOG_SERVICE).expect_err(text);
        assert_eq!(error.to_string(), expected, "{text}");
    }
    let error = Filter::parse("ServiceID matches \"(\"", &schema::CATALOG_SERVICE).expect_err("(");
    assert!(
        error
            .to_string()
            .starts_with("Failed to compile regular expression \"(\": error parsing regexp: "),
        "{error}"
    );
    assert_eq!(error.to_string().lines().count(), 1);
}

#[test]
fn input_is_bounded() {
    let parse = |text: &str| Filter::parse(text, &schema::NODE).map(drop);
    let nested = |levels: usize| format!("{}Node == n1{}", "(".repeat(levels), ")".repeat(levels));
    assert_eq!(parse(&nested(DEPTH_MAX - 2)), Ok(()));
    assert_eq!(parse(&nested(20_000)), Err(Error::TooDeep));
    assert_eq!(parse(&"(".repeat(60_000)), Err(Error::TooDeep));
    assert_eq!(parse(&"not ".repeat(15_000)), Err(Error::TooDeep));
    assert_eq!(parse(&"x".repeat(70_000)), Err(Error::TooLong));
    let chain = |word: &str, count: usize| vec!["Node==n"; count].join(word);
    assert_eq!(parse(&chain(" or ", 5_000)), Ok(()));
    assert_eq!(parse(&chain(" and ", 5_000)), Ok(()));
    let regexes = |count: usize| vec!["Node matches a"; count].join(" or ");
    assert_eq!(parse(&regexes(REGEXES_MAX)), Ok(()));
    assert_eq!(parse(&regexes(REGEXES_MAX + 1)), Err(Error::TooManyRegexes));
    assert!(matches!(parse("Node matches `(\\pL{100}){100}`"), Err(Error::Regex { .. })));
    // Each is allowed, and all of them together are not.
    let large = |count: usize| vec!["Node matches `\\pL{2}`"; count].join(" or ");
    assert_eq!(parse(&large(2)), Ok(()));
    assert!(matches!(parse(&large(REGEXES_MAX)), Err(Error::Regex { .. })));
}

/// Pieces that the grammar is made of, in any order.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        " ",
        "\n",
        "(",
        ")",
        "[",
        "]",
        "\"",
        "`",
        ".",
        "-",
        "0",
        "7",
        "==",
        "!=",
        "=",
        "not ",
        "is ",
        "empty",
        " and ",
        " or ",
        " in ",
        "contains ",
        "matches ",
        "Checks",
        "Service",
        "Status",
        "Meta",
        "Tags",
        "Node",
        "x",
        "é",
        "\\",
        "\\x4",
        "\u{0}",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_panics(text in prop_oneof![pieces(), any::<String>()]) {
        let [full, bare] = instances();
        if let Ok(filter) = Filter::parse(&text, &schema::SERVICE_ENTRY) {
            let _ = which(&filter, &[&full, &bare]);
        }
    }

    #[test]
    fn negation_turns_every_answer(field in "(Service\\.ID|Node\\.Node)", value in "[a-z0-9]{1,4}", sign in "(==|!=|contains)") {
        let [full, bare] = instances();
        let inner = format!("{field} {sign} {value}z");
        let plain = Filter::parse(&inner, &schema::SERVICE_ENTRY);
        let turned = Filter::parse(&format!("not ({inner})"), &schema::SERVICE_ENTRY);
        if let (Ok(plain), Ok(turned)) = (plain, turned) {
            for row in [&full, &bare] {
                prop_assert_eq!(plain.matches(row), !turned.matches(row));
            }
        }
    }
}
