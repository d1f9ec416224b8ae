//! Tables of templates and what they give; passes; the texts of errors.

mod documents;

use serde_json::json;

use super::*;
use crate::facts::Scope;

fn query_service(name: &str) -> Query {
    Query::Service { name: name.into(), scope: Scope::default() }
}

fn value(json: &serde_json::Value) -> tera::Value {
    tera::Value::from_serializable(json)
}

fn instance(id: &str, status: &str, tags: &[&str]) -> serde_json::Value {
    json!({
        "id": id, "name": "web", "address": "10.0.0.1", "port": 8080, "status": status, "tags": tags,
        "meta": {"zone": if id.ends_with('1') { "a" } else { "b" }, "example.com/rack": "r"}, "weight": 1,
    })
}

/// Facts about two services and a few keys.
fn facts() -> Facts {
    let mut facts = Facts::default();
    let web = json!([
        instance("web-1", "passing", &["http", "v1"]),
        instance("web-2", "passing", &["http"]),
        instance("web-3", "critical", &["http"]),
        instance("web-4", "warning", &[]),
    ]);
    facts.set(query_service("web"), value(&web));
    facts.set(query_service("empty"), value(&json!([])));
    let names = json!([{"name": "api", "tags": []}, {"name": "web", "tags": ["http", "v1"]}]);
    facts.set(Query::Services { scope: Scope::default() }, value(&names));
    let key = |path: &str| Query::Key { path: path.into(), scope: Scope::default() };
    facts.set(key("a"), value(&json!("5")));
    facts.set(key("none"), value(&json!(null)));
    facts.set(key("blank"), value(&json!("")));
    facts.set(key("json"), value(&json!("{\"z\":[1,2],\"a\":true}")));
    let pairs = json!([
        {"path": "app/", "value": ""}, {"path": "app/x", "value": "1"}, {"path": "app/b/c", "value": "2"},
    ]);
    facts.set(Query::KeyPrefix { prefix: "app".into(), scope: Scope::default() }, value(&pairs));
    facts.set(
        Query::Node { name: "n1".into(), scope: Scope::default() },
        value(&json!({"name": "n1", "address": "10.0.0.1", "services": [{"name": "web"}]})),
    );
    facts.set(Query::Node { name: "gone".into(), scope: Scope::default() }, value(&json!(null)));
    facts.set(Query::Datacenters, value(&json!(["dc1", "dc2"])));
    facts.set(Query::File { path: "/f".into() }, value(&json!("text\n")));
    facts.refuse(&query_service("refused"), Some("no such operator".into()));
    facts
}

fn engine(text: &str) -> Result<Engine, Error> {
    let environment = [("HOME".to_owned(), "/root".to_owned())].into();
    let surroundings = Surroundings { environment, limits: Limits::default() };
    Engine::new(&[Source { name: "t.tera".into(), text: text.into() }], &[], surroundings)
}

fn outcome(text: &str) -> Outcome {
    engine(text).unwrap().render(&facts(), &Memory::default(), Instant::now())
}

/// The text, or what else came out of it, on one line.
fn rendered(text: &str) -> String {
    let engine = match engine(text) {
        Ok(engine) => engine,
        Err(error) => return format!("refused: {error}"),
    };
    match engine.render(&facts(), &Memory::default(), Instant::now()).result {
        Rendered::Complete(texts) => texts.texts.concat(),
        Rendered::Incomplete => "incomplete".into(),
        Rendered::Waiting(reasons) => {
            format!("waiting: {}", reasons.into_iter().collect::<Vec<_>>().join("; "))
        }
        Rendered::Failed(error) => format!("failed: {error}"),
    }
}

#[test]
fn functions() {
    for (template, expected) in [
        (r#"{% for s in service(name="web") %}{{ s.id }} {% endfor %}"#, "web-1 web-2 "),
        (
            r#"{{ service(name="web", passing=false) | map(attr="id") | join(sep=",") }}"#,
            "web-1,web-2,web-3,web-4",
        ),
        (r#"{{ service(name="web", status="any", tag="http") | length }}"#, "3"),
        (r#"{{ service(name="web", status=["passing","warning"]) | length }}"#, "3"),
        (
            r#"{{ service(name="web", tags=["http","v1"]) | map(attr="id") | join(sep=",") }}"#,
            "web-1",
        ),
        (r#"{% for s in service(name="empty") %}x{% else %}nobody{% endfor %}"#, "nobody"),
        (r#"{{ service(name="empty", min=2) | length }}"#, "waiting: service(empty): empty"),
        (r#"{{ services() | map(attr="name") | join(sep=",") }}"#, "api,web"),
        (r#"{{ services(tag="http") | map(attr="name") | join(sep=",") }}"#, "web"),
        (r#"{{ key(path="a") }}"#, "5"),
        (r#"{{ key(path="a", type="int") + 1 }}"#, "6"),
        (r#"{{ key(path="none", default="9") }}"#, "9"),
        (r#"{{ key(path="blank", default="9") }}"#, "9"),
        (r#"{{ key(path="blank", default="9", empty_ok=true) }}"#, ""),
        (r#"{{ key(path="none") }}"#, "waiting: key(none) does not exist"),
        (r#"{{ key(path="json", type="json") | to_json }}"#, r#"{"a":true,"z":[1,2]}"#),
        (r#"{{ key_exists(path="a") }} {{ key_exists(path="none") }}"#, "true false"),
        (r#"{% for p in kv_list(prefix="app") %}{{ p.key }}={{ p.value }};{% endfor %}"#, "x=1;"),
        (
            r#"{% for p in kv_list(prefix="app", recurse=true) %}{{ p.key }}={{ p.value }};{% endfor %}"#,
            "x=1;b/c=2;",
        ),
        (
            r#"{{ kv_list(prefix="app", recurse=true) | explode | to_json }}"#,
            r#"{"x":"1","b":{"c":"2"}}"#,
        ),
        (r#"{{ key(path="/a") }}{{ key(path="//a", default="9") }}"#, "55"),
        (r#"{{ key_exists(path="/a") }} {{ key_exists(path="/none") }}"#, "true false"),
        (
            r#"{% for p in kv_list(prefix="/app", recurse=true) %}{{ p.key }};{% endfor %}"#,
            "x;b/c;",
        ),
        (
            r#"{{ services(tag="http", remember="1h") | map(attr="gone") | join(sep=",") }}"#,
            "false",
        ),
        (r#"{{ leave_out(what="service a`b", why="odd") }}"#, "left out service `a'b`: odd"),
        (r#"{% set n = node(name="n1") %}{{ n.address }} {{ n.services | length }}"#, "10.0.0.1 1"),
        (r#"{% if node(name="gone") %}there{% else %}gone{% endif %}"#, "gone"),
        (r#"{{ datacenters() | join(sep=",") }}"#, "dc1,dc2"),
        (r#"{{ file(path="/f") }}"#, "text\n"),
        (r#"{{ env(name="HOME") }} {{ env(name="NOPE", default="x") }}"#, "/root x"),
        ("<&\"'> {{ \"<&\" }}", "<&\"'> <&"),
    ] {
        assert_eq!(rendered(template), expected, "{template}");
    }
}

#[test]
fn filters() {
    for (template, expected) in [
        (r#"{{ "web-1" | trim_prefix(p="web-") }}{{ "a.b" | trim_suffix(p=".b") }}"#, "1a"),
        (
            r#"{{ service(name="web", passing=false) | where(attr="meta.zone", eq="a") | map(attr="id") }}"#,
            r#"["web-1"]"#,
        ),
        (
            r#"{{ service(name="web", passing=false) | where(attr="status", ne="passing") | length }}"#,
            "2",
        ),
        (
            r#"{{ service(name="web", passing=false) | where(attr="id", re="[34]$") | length }}"#,
            "2",
        ),
        (
            r#"{{ service(name="web", passing=false) | where(attr="tags", contains="v1") | length }}"#,
            "1",
        ),
        (
            r#"{{ service(name="web", passing=false) | where(attr="status", in=["passing","warning"]) | length }}"#,
            "3",
        ),
        (r#"{{ service(name="web", passing=false) | where(attr="port", gt=8000) | length }}"#, "4"),
        (
            r#"{{ service(name="web", passing=false) | where(attr="meta.example.com/rack", eq="r") | length }}"#,
            "4",
        ),
        (r#"{{ service(name="web", passing=false) | where(attr="nope") | length }}"#, "0"),
        (
            r#"{% for tag, list in service(name="web") | by_tag %}{{ tag }}:{{ list | length }} {% endfor %}"#,
            "http:2 v1:1 ",
        ),
        (
            r#"{% for k, list in service(name="web") | by_meta(keys=["zone"]) %}{{ k }}:{{ list | length }} {% endfor %}"#,
            "a:1 b:1 ",
        ),
        (r#"{{ service(name="web") | first | addr }}"#, "10.0.0.1:8080"),
        (r#"{{ "hi" | base64_encode }} {{ "aGk=" | base64_decode }}"#, "aGk= hi"),
        (r#"{{ "a" | sha256 | truncate(length=8, end="") }}"#, "ca978112"),
        (
            r#"{{ '{"b":1}' | from_json | get(key="b") }} {{ "x = 2" | from_toml | get(key="x") }}"#,
            "1 2",
        ),
        (
            r#"{{ "a;b" | nginx_quote }} {{ "web" | nginx_name }} {{ "my-api" | nginx_name }}"#,
            r#""a;b" web my_2dapi"#,
        ),
        ("{{ [3, 1, 2] | max }}{{ [3, 1, 2] | min }}{{ [3, 1, 2] | sum }}", "316"),
        (
            r#"{{ ["a","b"] | contains_any(v=["b","c"]) }} {{ ["a"] | contains_all(v=["a","b"]) }}"#,
            "true false",
        ),
        (r#"{% if "v12" is matching(re="^v[0-9]+$") %}yes{% endif %}"#, "yes"),
        (r#"{{ "a1b2" | regex_replace(re="[0-9]", with="") }} {{ "t" | parse_bool }}"#, "ab true"),
        (
            r#"{{ [{"n": 2}, {"n": 1}] | sort_by(attr="n") | map(attr="n") | join(sep=",") }}"#,
            "1,2",
        ),
        (r#"{{ ["a"] | concat(with=["b", "a"]) | unique | join(sep=",") }}"#, "a,b"),
        (r#"{{ {"a": 1} | merge(with={"b": 2}) | to_json }}"#, r#"{"a":1,"b":2}"#),
        (
            r#"{% set k = "b" %}{{ {"a": 1} | insert(key=k, value=2) | to_json }}"#,
            r#"{"a":1,"b":2}"#,
        ),
        (
            r#"{% for k, list in service(name="web", passing=false) | group_by(attribute="status") %}{{ k }}:{{ list | length }} {% endfor %}"#,
            "critical:1 passing:2 warning:1 ",
        ),
        (
            r#"{% for k, list in [{"n": 10}, {"n": 9}, {"n": true}, {"n": "x"}, {"n": 9}] | group_by(attribute="n") %}{{ k }}:{{ list | length }} {% endfor %}"#,
            "true:1 9:2 10:1 x:1 ",
        ),
        (
            r#"{{ [{"a": "1.2.3.4"}, {"a": "::1"}, {"a": "1.2.3.400"}, {"a": "x"}] | where(attr="a", ip=true) | length }}"#,
            "2",
        ),
        (
            r#"{% if "::1" is ip_address %}yes{% endif %}{% if "::g" is not ip_address %}no{% endif %}"#,
            "yesno",
        ),
    ] {
        assert_eq!(rendered(template), expected, "{template}");
    }
}

#[test]
fn errors_name_file_line_and_column() {
    let cases = [
        "line one\n{{ service(name=\"web\" }}",
        "{{ nope() }}",
        "a\nb {{ 1 | nope }}",
        "{{ missing_variable }}",
        "{% for s in service(name=\"web\") %}\n  {{ s.nope }}\n{% endfor %}",
        "{{ service(name=\"web\", pasing=true) }}",
        "{{ service() }}",
        "{{ service(name=\"web\", status=\"fine\") }}",
        "{{ service(name=\"web\", status=\"any\", passing=true) }}",
        "{{ service(name=\"web\", max_shrink=3.0) }}",
        "{{ service(name=\"web\", keep_for=\"soon\") }}",
        "{{ service(name=\"empty\", on_empty=\"error\") }}",
        "{{ service(name=\"web\") | where(attr=\"id\", equals=1) }}",
        "{{ env(name=\"NOPE\") }}",
        "{{ key(path=\"a\", type=\"bool\") }}",
        "{{ key(path=\"\") }}",
        "{{ key(path=\"/\") }}",
        "{{ key(path=\"a//b\") }}",
        "{{ key_exists(path=\"a/../b\") }}",
        "{{ kv_list(prefix=\"/./a\") }}",
        "{{ service(name=\"\") }}",
        "{{ node(name=\"\") }}",
        "x\n {{ service(name=\"refused\") | length }}",
        "{{ [{\"a\": 1}] | group_by(attribute=\"b\") }}",
        "{{ [{\"a\": [1]}] | group_by(attribute=\"a\") }}",
        "{{ \"a$b\" | nginx_quote }}",
        "{{ \"x\" | from_json }}",
        "{{ throw(message=\"no\") }}",
        "{% include \"nothing\" %}",
    ];
    let report: Vec<_> =
        cases.iter().map(|case| format!("{case:?}\n  {}", rendered(case))).collect();
    insta::assert_snapshot!(report.join("\n"));
}

#[test]
fn a_report_shows_the_line() {
    let error = engine("ok\n  {{ nope() }}").err().unwrap();
    insta::assert_snapshot!(error.report);
}

#[test]
fn passes_find_more_questions_until_nothing_is_missing() {
    let text = "{% for s in services() %}{% for i in service(name=s.name) %}{{ i.id }}{% endfor %}{% endfor %}";
    let engine = engine(text).unwrap();
    let all = Query::Services { scope: Scope::default() };
    let mut facts = Facts::default();
    let pass = |facts: &Facts| engine.render(facts, &Memory::default(), Instant::now());

    let first = pass(&facts);
    assert_eq!((first.result, first.missing), (Rendered::Incomplete, [all.clone()].into()));

    facts.set(all.clone(), value(&json!([{"name": "a", "tags": []}, {"name": "b", "tags": []}])));
    let second = pass(&facts);
    assert_eq!(second.result, Rendered::Incomplete);
    assert_eq!(
        second.missing,
        [query_service("a"), query_service("b")].into(),
        "both are found in one pass"
    );

    facts.set(query_service("a"), value(&json!([{"id": "a1", "status": "passing"}])));
    facts.set(query_service("b"), value(&json!([])));
    let third = pass(&facts);
    assert!(matches!(third.result, Rendered::Complete(texts) if texts.texts == ["a1"]));

    facts.set(all.clone(), value(&json!([{"name": "a", "tags": []}])));
    assert_eq!(
        pass(&facts).used,
        [all, query_service("a")].into(),
        "what is no longer asked is no longer used"
    );
}

#[test]
fn an_error_in_an_incomplete_pass_is_no_error() {
    let text = r#"{% set s = service(name="web") | first %}{{ s.id }}"#;
    assert_eq!(rendered(text), "web-1");
    let outcome =
        engine(text).unwrap().render(&Facts::default(), &Memory::default(), Instant::now());
    assert_eq!(outcome.result, Rendered::Incomplete, "the first of nothing");
    assert_eq!(rendered(r#"{{ key(path="later") }}{{ throw(message="x") }}"#), "incomplete");
}

#[test]
fn every_template_of_the_group_is_asked_in_one_pass() {
    let source = |name: &str, text: &str| Source { name: name.into(), text: text.into() };
    let sources = [
        source("a", r#"{% set s = service(name="one") | first %}{{ s.id }}"#),
        source("b", r#"{% include "p" %}{{ key(path="two") }}"#),
    ];
    let engine =
        Engine::new(&sources, &[source("p", "{{ datacenters() }}")], Surroundings::default())
            .unwrap();
    let outcome = engine.render(&Facts::default(), &Memory::default(), Instant::now());
    let asked: Vec<_> = outcome.missing.iter().map(ToString::to_string).collect();
    assert_eq!(asked, ["service(one)", "key(two)", "datacenters"]);
}

#[test]
fn the_version_is_a_hash_over_all_texts_and_can_be_shown() {
    let version = |a: &str, b: &str| {
        let source = |name: &str, text: &str| Source { name: name.into(), text: text.into() };
        let engine =
            Engine::new(&[source("a", a), source("b", b)], &[], Surroundings::default()).unwrap();
        match engine.render(&facts(), &Memory::default(), Instant::now()).result {
            Rendered::Complete(texts) => texts,
            other => panic!("{other:?}"),
        }
    };
    let shown = version("x {{ config_version() }}", "y");
    assert_eq!(shown.texts[0], format!("x {}", shown.version));
    assert!(shown.shows_version);
    assert_eq!(shown.version.len(), 16);
    assert_eq!(
        version("x {{ config_version() }}", "y").version,
        shown.version,
        "same texts, same version"
    );
    assert_ne!(version("x {{ config_version() }}", "z").version, shown.version);
    assert_ne!(version("ab", "c").version, version("a", "bc").version);
    assert!(!version("a", "b").shows_version);
}

#[test]
fn an_empty_service_keeps_what_was_served() {
    let engine =
        engine(r#"{{ service(name="s", keep_for="10s") | map(attr="id") | join(sep=",") }}"#)
            .unwrap();
    let now = Instant::now();
    let mut facts = Facts::default();
    facts.set(query_service("s"), value(&json!([instance("s-1", "passing", &[])])));
    let good = engine.render(&facts, &Memory::default(), now);
    assert!(good.holds.is_empty());

    facts.set(query_service("s"), value(&json!([instance("s-1", "critical", &[])])));
    let kept = engine.render(&facts, &good.memory, now);
    assert!(matches!(&kept.result, Rendered::Complete(texts) if texts.texts == ["s-1"]));
    assert_eq!(kept.holds, [Hold { query: query_service("s"), reason: Reason::Empty }].into());
    let again_at = kept.again_at.unwrap();
    assert_eq!(again_at, now + std::time::Duration::from_secs(10));

    let given_up = engine.render(&facts, &kept.memory, again_at);
    assert!(matches!(given_up.result, Rendered::Complete(texts) if texts.texts == [""]));
}

#[test]
fn a_key_of_many_levels_is_left_out_and_named() {
    let deep = format!("a{}", "/x".repeat(30_000));
    let pairs =
        json!([{"path": "app/b/c", "value": "1"}, {"path": format!("app/{deep}"), "value": "2"}]);
    let mut facts = Facts::default();
    let query = Query::KeyPrefix { prefix: "app".into(), scope: Scope::default() };
    facts.set(query, value(&pairs));
    let text = r#"{{ kv_list(prefix="app", recurse=true) | explode | to_json }}"#;
    let outcome = engine(text).unwrap().render(&facts, &Memory::default(), Instant::now());
    let Rendered::Complete(texts) = outcome.result else { panic!("{:?}", outcome.result) };
    assert_eq!(texts.texts, [r#"{"b":{"c":"1"}}"#]);
    let (what, why) = outcome.left_out.first_key_value().unwrap();
    assert!(what.starts_with("key `a/x/x/x"), "{what}");
    assert_eq!(why, "it has 30001 levels; `explode` makes at most 64");
}

#[test]
fn the_same_facts_give_the_same_text() {
    let text = r#"{% for k, v in service(name="web") | by_tag %}{{ k }}{{ v }}{% endfor %}{{ node(name="n1") }}"#;
    let first = rendered(text);
    for _ in 0..20 {
        assert_eq!(rendered(text), first);
    }
    assert!(outcome(text).missing.is_empty());
}
