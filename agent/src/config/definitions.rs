//! The keys of services, checks and segments in configuration files, so that a slip of the finger stops the start
//! and is named with its place (`services[0].checks[1].intervall`) instead of doing nothing.
//!
//! Only names and types are looked at here; what the values mean is up to `local`, which reads the same
//! definitions from the API.

use serde_json::{Map, Value};

use super::faults::Faults;
use crate::spelling;

/// Type of the value under a key of a definition.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Number,
    Switch,
    Texts,
    /// Text to text.
    Pairs,
    /// Text to texts.
    Headers,
    /// An object with these keys.
    Fields(&'static [Field]),
    /// A list of such objects.
    List(&'static [Field]),
    /// Objects under names that the user chose.
    Named(&'static [Field]),
    /// Whatever the mesh makes of it.
    Any,
}

/// A key, in lower case, and what it takes.
type Field = (&'static str, Shape);

const ADDRESS: &[Field] = &[("address", Shape::Text), ("port", Shape::Number)];

const WEIGHTS: &[Field] = &[("passing", Shape::Number), ("warning", Shape::Number)];

/// Spellings without underscores are those that the reference knows, too.
const CHECK: &[Field] = &[
    ("alias_node", Shape::Text),
    ("alias_service", Shape::Text),
    ("args", Shape::Texts),
    ("body", Shape::Text),
    ("deregister_critical_service_after", Shape::Text),
    ("deregistercriticalserviceafter", Shape::Text),
    ("disable_redirects", Shape::Switch),
    ("docker_container_id", Shape::Text),
    ("dockercontainerid", Shape::Text),
    ("failures_before_critical", Shape::Number),
    ("failures_before_warning", Shape::Number),
    ("grpc", Shape::Text),
    ("grpc_use_tls", Shape::Switch),
    ("h2ping", Shape::Text),
    ("h2ping_use_tls", Shape::Switch),
    ("header", Shape::Headers),
    ("http", Shape::Text),
    ("id", Shape::Text),
    ("interval", Shape::Text),
    ("method", Shape::Text),
    ("name", Shape::Text),
    ("notes", Shape::Text),
    ("os_service", Shape::Text),
    ("output_max_size", Shape::Number),
    ("scriptargs", Shape::Texts),
    ("service_id", Shape::Text),
    ("serviceid", Shape::Text),
    ("shell", Shape::Text),
    ("status", Shape::Text),
    ("success_before_passing", Shape::Number),
    ("tcp", Shape::Text),
    ("tcp_use_tls", Shape::Switch),
    ("timeout", Shape::Text),
    ("tls_server_name", Shape::Text),
    ("tls_skip_verify", Shape::Switch),
    ("tlsskipverify", Shape::Switch),
    ("token", Shape::Text),
    ("ttl", Shape::Text),
    ("udp", Shape::Text),
];

const CONNECT: &[Field] = &[("native", Shape::Switch), ("sidecar_service", Shape::Any)];

const PROXY: &[Field] = &[
    ("config", Shape::Any),
    ("destination_service_id", Shape::Text),
    ("destination_service_name", Shape::Text),
    ("expose", Shape::Any),
    ("local_service_address", Shape::Text),
    ("local_service_port", Shape::Number),
    ("mesh_gateway", Shape::Any),
    ("mode", Shape::Text),
    ("upstreams", Shape::Any),
];

const SERVICE: &[Field] = &[
    ("address", Shape::Text),
    ("check", Shape::Fields(CHECK)),
    ("checks", Shape::List(CHECK)),
    ("connect", Shape::Fields(CONNECT)),
    ("enable_tag_override", Shape::Switch),
    ("id", Shape::Text),
    ("kind", Shape::Text),
    ("meta", Shape::Pairs),
    ("name", Shape::Text),
    ("port", Shape::Number),
    ("proxy", Shape::Fields(PROXY)),
    ("tagged_addresses", Shape::Named(ADDRESS)),
    ("tags", Shape::Texts),
    ("token", Shape::Text),
    ("weights", Shape::Fields(WEIGHTS)),
];

const SEGMENT: &[Field] = &[
    ("advertise", Shape::Text),
    ("bind", Shape::Text),
    ("name", Shape::Text),
    ("port", Shape::Number),
    ("rpc_listener", Shape::Switch),
];

/// Looks at what stands under `service`, `services`, `check`, `checks` or `segments`; other definitions are checked
/// where they are used.
pub(super) fn check(path: &str, value: &Value, faults: &mut Faults) {
    let fields = match path {
        "service" | "services" => SERVICE,
        "check" | "checks" => CHECK,
        "segments" => SEGMENT,
        _ => return,
    };
    match value {
        // Blocks of the same name in HCL are a list as well.
        Value::Array(items) => list(path, items, fields, faults),
        Value::Object(object) => self::fields(path, object, fields, faults),
        _ => {}
    }
}

fn list(path: &str, items: &[Value], known: &'static [Field], faults: &mut Faults) {
    for (position, item) in items.iter().enumerate() {
        let path = format!("{path}[{position}]");
        look(&path, item, Shape::Fields(known), faults);
    }
}

fn fields(path: &str, object: &Map<String, Value>, known: &'static [Field], faults: &mut Faults) {
    for (name, value) in object {
        let lower = name.to_lowercase();
        let here = format!("{path}.{name}");
        if let Some((_, shape)) = known.iter().find(|(known, _)| *known == lower) {
            look(&here, value, *shape, faults);
        } else {
            let names: Vec<&'static str> = known.iter().map(|(name, _)| *name).collect();
            let near = near(&lower, &names).map(|near| format!("{path}.{near}"));
            faults.unknown.push((here, near));
        }
    }
}

/// The key that was probably meant: the one of today for one of long ago, one spelt without its underscores, or a
/// letter or two away.
fn near(name: &str, known: &[&'static str]) -> Option<&'static str> {
    if name == "script" && known.contains(&"args") {
        return Some("args");
    }
    let bare = |text: &str| text.replace(['_', '-'], "");
    known
        .iter()
        .find(|known| bare(known) == bare(name))
        .copied()
        .or_else(|| spelling::nearest(name, known.iter().copied()))
}

fn look(path: &str, value: &Value, shape: Shape, faults: &mut Faults) {
    let kind = super::file::kind_of(value);
    let mut type_is_wrong = |wanted: &str| {
        faults
            .misfits
            .push(format!("'{path}' expected type '{wanted}', got unconvertible type '{kind}'"));
    };
    match (shape, value) {
        (_, Value::Null)
        | (Shape::Any, _)
        | (Shape::Text, Value::String(_))
        | (Shape::Number, Value::Number(_))
        | (Shape::Switch, Value::Bool(_)) => {}
        (Shape::Text, _) => type_is_wrong("string"),
        (Shape::Number, _) => type_is_wrong("int"),
        (Shape::Switch, _) => type_is_wrong("bool"),
        (Shape::Texts, Value::Array(items)) => {
            for (position, item) in items.iter().enumerate() {
                look(&format!("{path}[{position}]"), item, Shape::Text, faults);
            }
        }
        (Shape::List(known), Value::Array(items)) => list(path, items, known, faults),
        // A list may be a single block in HCL.
        (Shape::List(known) | Shape::Fields(known), Value::Object(object)) => {
            fields(path, object, known, faults);
        }
        (Shape::Texts | Shape::List(_), _) => {
            faults
                .misfits
                .push(format!("'{path}': source data must be an array or slice, got {kind}"));
        }
        (Shape::Pairs | Shape::Headers | Shape::Named(_), Value::Object(object)) => {
            let inner = match shape {
                Shape::Pairs => Shape::Text,
                Shape::Headers => Shape::Texts,
                Shape::Named(known) => Shape::Fields(known),
                _ => Shape::Any,
            };
            for (name, value) in object {
                look(&format!("{path}[{name}]"), value, inner, faults);
            }
        }
        // Blocks in HCL come as lists; a list of one block is the block.
        (
            Shape::Fields(_) | Shape::Pairs | Shape::Headers | Shape::Named(_),
            Value::Array(items),
        ) if items.len() == 1 => {
            look(path, &items[0], shape, faults);
        }
        (Shape::Fields(_) | Shape::Pairs | Shape::Headers | Shape::Named(_), _) => {
            let kind = if kind == "array" { "slice" } else { kind };
            faults.misfits.push(format!("'{path}' expected a map, got '{kind}'"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(path: &str, value: &Value) -> Faults {
        let mut faults = Faults::default();
        check(path, value, &mut faults);
        faults
    }

    #[test]
    fn unknown_keys_are_named_with_their_place() {
        let services = json!([
            {"name": "a", "check": {"bogus": 1}, "checks": [{}, {"intervall": "1s"}]},
            {"name": "b", "EnableTagOverride": true,
             "weights": {"pass": 1}, "tagged_addresses": {"lan": {"adr": "x"}}},
        ]);
        let found = faults("services", &services);
        let mut unknown: Vec<_> =
            found.unknown.iter().map(|(path, near)| (path.as_str(), near.as_deref())).collect();
        unknown.sort_unstable();
        assert_eq!(
            unknown,
            [
                ("services[0].check.bogus", None),
                ("services[0].checks[1].intervall", Some("services[0].checks[1].interval")),
                ("services[1].EnableTagOverride", Some("services[1].enable_tag_override")),
                ("services[1].tagged_addresses[lan].adr", None),
                ("services[1].weights.pass", None),
            ]
        );
        assert!(found.misfits.is_empty(), "{:?}", found.misfits);
    }

    #[test]
    fn values_of_the_wrong_type_are_named() {
        let found = faults("service", &json!({"port": "x", "tags": "a", "meta": "m"}));
        assert_eq!(
            found.misfits,
            [
                "'service.meta' expected a map, got 'string'",
                "'service.port' expected type 'int', got unconvertible type 'string'",
                "'service.tags': source data must be an array or slice, got string",
            ]
        );
    }

    #[test]
    fn every_spelling_of_the_reference_is_known() {
        let check = json!({"ServiceID": "a", "ScriptArgs": ["x"], "TLSSkipVerify": true,
            "DeregisterCriticalServiceAfter": "1m", "HTTP": "u", "TTL": "1s", "header": {"a": ["b"]}});
        let found = faults("check", &check);
        assert!(found.unknown.is_empty() && found.misfits.is_empty(), "{found:?}");
    }

    /// A check with this key, and what else it takes to be one.
    fn with(key: &str, shape: Shape) -> Value {
        let value = match (key, shape) {
            ("status", _) => json!("passing"),
            ("http", _) => json!("http://127.0.0.1/"),
            ("tcp" | "udp" | "grpc" | "h2ping", _) => json!("127.0.0.1:1"),
            ("timeout" | "interval" | "ttl", _) => json!("11s"),
            ("deregister_critical_service_after" | "deregistercriticalserviceafter", _) => {
                json!("2m")
            }
            (_, Shape::Number) => json!(3),
            (_, Shape::Switch) => json!(true),
            (_, Shape::Texts) => json!(["a"]),
            (_, Shape::Headers) => json!({"h": ["v"]}),
            _ => json!("x"),
        };
        let base = match key {
            "ttl" | "alias_service" => json!({}),
            "alias_node" => json!({"alias_service": "x"}),
            "args" | "scriptargs" | "tcp" | "udp" | "grpc" | "h2ping" | "os_service" | "http" => {
                json!({"interval": "10s"})
            }
            "docker_container_id" | "dockercontainerid" => {
                json!({"args": ["a"], "interval": "10s"})
            }
            "shell" => json!({"docker_container_id": "x", "args": ["a"], "interval": "10s"}),
            "tcp_use_tls" => json!({"tcp": "127.0.0.1:1", "interval": "10s"}),
            "grpc_use_tls" => json!({"grpc": "127.0.0.1:1", "interval": "10s"}),
            "h2ping_use_tls" => json!({"h2ping": "127.0.0.1:1", "interval": "10s"}),
            _ => json!({"http": "http://127.0.0.1/", "interval": "10s"}),
        };
        let mut check = base;
        check[key] = value;
        check
    }

    /// `services register` tells an agent what a file says; each key must arrive there.
    #[test]
    fn every_key_of_a_file_can_be_told_to_an_agent() {
        use crate::config::written::Written;
        use crate::local::{Settings, Source, definition};
        let shared = Settings::default().shared();
        for (key, shape) in CHECK {
            let check = with(key, *shape);
            for service in [
                json!({"name": "web", "check": check}),
                json!({"name": "web", "checks": [check, {"ttl": "10s", "id": "second"}]}),
            ] {
                let written = Written::from_value(json!({"service": service})).expect(key);
                let [read] = &crate::config::judge::services(&written).expect(key)[..] else {
                    panic!("one service")
                };
                let mut read = read.clone();
                // A check in a service is that service's.
                read.check.iter_mut().chain(&mut read.checks).for_each(|it| it.service_id = None);
                let told = serde_json::to_value(&read).expect("JSON");
                let heard = definition::service(told, Source::Api, shared);
                assert_eq!(heard.as_ref().ok(), Some(&read), "{key}: {heard:?}");
            }
        }
    }
}
