//! Every line of the table that leads from consul-template to here does what it says.
//!
//! A line of the document has a line here: the snippets in its second column, and templates that use them with what
//! they give. A snippet that no template uses, or a line that is on one side alone, fails.

use super::*;

/// First column of the line, and templates with what they give.
type Line = (&'static str, &'static [(&'static str, &'static str)]);

const LINES: &[Line] = &[
    (
        r#"`{{ range service "web" }}`"#,
        &[(
            r#"{% for s in service(name="web") %}{{ s.id }} {% else %}none{% endfor %}"#,
            "web-1 web-2 ",
        )],
    ),
    (
        r#"`service "v1.web@dc2~_agent\|any"`"#,
        &[(
            r#"{{ service(name="web", tag="v1", dc="dc2", near="_agent", status="any") | length }}"#,
            "incomplete",
        )],
    ),
    (
        r#"`service "web\|passing,warning"`"#,
        &[(r#"{{ service(name="web", status=["passing", "warning"]) | length }}"#, "3")],
    ),
    (r#"`services "@dc2"`"#, &[(r#"{{ services(dc="dc2") }}"#, "incomplete")]),
    (
        r#"`nodes`, `node "n1"`"#,
        &[(r#"{{ nodes() }}{% set n = node(name="n1") %}{{ n.address }}"#, "incomplete")],
    ),
    ("`datacenters`", &[(r#"{{ datacenters() | join(sep=",") }}"#, "dc1,dc2")]),
    (r#"`key "a/b"`"#, &[(r#"{{ key(path="a/b") }}"#, "incomplete")]),
    (r#"`keyOrDefault "a/b" "5"`"#, &[(r#"{{ key(path="a/b", default="5") }}"#, "incomplete")]),
    (r#"`keyExists "a/b"`"#, &[(r#"{{ key_exists(path="a/b") }}"#, "incomplete")]),
    (
        r#"`key "a" \| parseJSON`"#,
        &[(r#"{% set j = key(path="a", type="json") %}{{ j + 1 }}"#, "6")],
    ),
    (
        r#"`ls "app"`, `tree "app"`"#,
        &[(
            r#"{{ kv_list(prefix="app") | length }} {{ kv_list(prefix="app", recurse=true) | length }}"#,
            "1 2",
        )],
    ),
    ("`safeLs`, `safeTree`", &[(r#"{{ kv_list(prefix="app", on_empty="keep") | length }}"#, "1")]),
    (r#"`file "/p"`"#, &[(r#"{{ file(path="/p") }}"#, "incomplete")]),
    (
        r#"`env "X"`, `envOrDefault "X" "y"`, `mustEnv "X"`"#,
        &[
            (r#"[{{ env(name="X", default="") }}{{ env(name="X", default="y") }}]"#, "[y]"),
            (
                r#"{{ env(name="X") }}"#,
                "failed: t.tera:1:4: env(): the environment has no `X`, and no `default` is given",
            ),
        ],
    ),
    (r#"`executeTemplate "x"`"#, &[(r#"{% include "x" %}"#, "included")]),
    (
        "`scratch`",
        &[
            (r"{% set x = 1 %}{% for i in [1] %}{% set_global x = 2 %}{% endfor %}{{ x }}", "2"),
            (r"{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}", "1"),
        ],
    ),
    (
        "`scratch.MapSet`, computed keys of a map",
        &[(
            r#"{% set k = "a" %}{% set v = 5 %}{% set m = {} | insert(key=k, value=v) %}{{ m | get(key=k) }}"#,
            "5",
        )],
    ),
    (
        r#"`byKey`, `byTag`, `byMeta "a,b"`"#,
        &[(
            r#"{% set s = service(name="web") %}{% for k, l in s | group_by(attribute="port") %}{{ k }}={{ l | length }} {% endfor %}{% for k, l in s | by_tag %}{{ k }} {% endfor %}{% for k, l in s | by_meta(keys=["a", "b"]) %}{{ k }}{% endfor %}"#,
            "8080=2 http v1 _",
        )],
    ),
    (
        "`explode`, `mergeMap`",
        &[(
            r#"{{ kv_list(prefix="app", recurse=true) | explode | merge(with={}) | to_json }}"#,
            r#"{"x":"1","b":{"c":"2"}}"#,
        )],
    ),
    (
        "`parseJSON`, `parseBool`, `parseInt`, `parseFloat`",
        &[(
            r#"{{ "[1]" | from_json | length }} {{ "t" | parse_bool }} {{ "4" | int + 1 }} {{ "1.5" | float + 1 }}"#,
            "1 true 5 2.5",
        )],
    ),
    (
        "`toJSON`, `toJSONPretty`",
        &[(r"{{ [1] | to_json }}{{ [1] | to_json(pretty=true) }}", "[1][\n  1\n]")],
    ),
    (
        "`toLower`, `toUpper`, `toTitle`, `trimSpace`",
        &[(
            r#"{{ "Ab" | lower }}{{ "Ab" | upper }}{{ "ab" | title }}{{ " x " | trim }}"#,
            "abABAbx",
        )],
    ),
    (
        "`trimPrefix`, `trimSuffix`",
        &[(r#"{{ "aba" | trim_prefix(p="a") }}{{ "aba" | trim_suffix(p="a") }}"#, "baab")],
    ),
    (
        "`replaceAll`, `split`, `join`, `indent`",
        &[(
            r#"{{ "aa" | replace(from="a", to="b") }} {{ "1,2" | split(pat=",") | join(sep=",") }} {{ "x
y" | indent(width=2) }}"#,
            "bb 1,2 x\n  y",
        )],
    ),
    (
        "`regexMatch`, `regexReplaceAll`",
        &[(
            r#"{% if "caat" is matching(re="a+") %}yes{% endif %} {{ "caat" | regex_replace(re="a+", with="b") }}"#,
            "yes cbt",
        )],
    ),
    (
        "`contains`, `in`",
        &[(
            r#"{% if ["a"] is containing(pat="a") %}1{% endif %}{% if "cat" is containing(pat="a") %}2{% endif %}{% if "a" in ["a"] %}3{% endif %}"#,
            "123",
        )],
    ),
    (
        "`containsAll`, `containsAny`, `containsNone`",
        &[(
            r#"{{ ["a"] | contains_all(v=["a"]) }} {{ ["a"] | contains_any(v=["a"]) }} {{ ["a"] | contains_none(v=["a"]) }}"#,
            "true true false",
        )],
    ),
    (
        "`base64Encode`, `base64Decode`, `..URL..`",
        &[
            (r#"{{ "hi" | base64_encode }} {{ "aGk=" | base64_decode }}"#, "aGk= hi"),
            (r#"{{ "~~~" | base64_encode(url=true) }}"#, "fn5-"),
        ],
    ),
    ("`sha256Hex`", &[(r#"{{ "a" | sha256 | truncate(length=8, end="") }}"#, "ca978112")]),
    (
        "`add`, `subtract`, `multiply`, `divide`, `modulo`",
        &[(
            "{{ 7 + 2 }} {{ 7 - 2 }} {{ 7 * 2 }} {{ 7 // 2 }} {{ 7 % 2 }} {{ 7 / 2 }}",
            "9 5 14 3 1 3.5",
        )],
    ),
    (
        "`minimum`, `maximum`, `loop`",
        &[(
            "{{ [3, 1] | min }}{{ [3, 1] | max }}{{ [3, 1] | sum }} {% for i in range(end=3) %}{{ i }}{% endfor %}",
            "134 012",
        )],
    ),
    ("`timestamp`", &[("{{ timestamp() }}", "refused: t.tera:1:4: Unknown function `timestamp`")]),
    (
        "`secret`, `pkiCert`",
        &[(r#"{{ secret(path="x") }}"#, "refused: t.tera:1:4: Unknown function `secret`")],
    ),
];

/// The lines of the table: first and second column.
fn documented() -> Vec<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/template-functions.md");
    let text = std::fs::read_to_string(path).unwrap();
    let table = text.split("| consul-template | here | notes |").nth(1).expect("the table");
    let rows = table.trim_start().lines().skip(1).take_while(|line| line.starts_with('|'));
    let cells = |row: &str| {
        // A bar within a cell is written `\|`.
        let row = row.replace("\\|", "\u{1}");
        let mut cells = row.trim_matches('|').split(" | ").map(str::trim);
        let mut next = || cells.next().unwrap_or_default().to_owned();
        (next().replace('\u{1}', "\\|"), next().replace('\u{1}', "|"))
    };
    rows.map(cells).collect()
}

/// The texts in backticks.
fn snippets(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_line_of_the_table_does_what_it_says() {
    let documented = documented();
    assert_eq!(documented.len(), LINES.len(), "as many lines there as here");
    for ((first, second), (line, templates)) in documented.iter().zip(LINES) {
        assert!(first.starts_with(line), "{first} is tested as {line}");
        for (template, expected) in *templates {
            let source = |name: &str, text: &str| Source { name: name.into(), text: text.into() };
            let made = Engine::new(
                &[source("t.tera", template)],
                &[source("x", "included")],
                Surroundings::default(),
            );
            let given = match made {
                Err(error) => format!("refused: {error}"),
                Ok(engine) => {
                    match engine.render(&facts(), &Memory::default(), Instant::now()).result {
                        Rendered::Complete(texts) => texts.texts.concat(),
                        Rendered::Incomplete => "incomplete".to_owned(),
                        Rendered::Failed(error) => format!("failed: {error}"),
                        waiting @ Rendered::Waiting(_) => panic!("{template}: {waiting:?}"),
                    }
                }
            };
            assert_eq!(given, *expected, "{template}");
        }
        let all: String = templates.iter().map(|(template, _)| *template).collect();
        for snippet in snippets(second).into_iter().filter(|snippet| snippet.contains('(')) {
            let call = snippet.trim_start_matches("{% for s in ").trim_end_matches(" %}");
            assert!(all.contains(call), "{first}: no template uses `{call}`");
        }
    }
}
