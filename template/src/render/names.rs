//! Which names of services can be names of hosts in a configuration, where capital and small letters are the same.

use std::collections::BTreeMap;

use tera::value::Key;
use tera::{Map, Value};

use super::filters::text_of;

/// The longest name; the shipped nginx configuration has room for it and `.*`.
const NAME_BYTES_MAX: usize = 200;

/// Each name of the list with the `host` that it can be, and why it cannot (`odd`), in byte order. Of names that differ
/// in nothing but capital letters one can be used: `first`, else the one in small letters, else the first of them.
pub(super) fn host_names(list: &[Value], first: &str) -> Value {
    let names: Vec<_> = list.iter().map(text_of).collect();
    let mut chosen: BTreeMap<String, &str> = BTreeMap::new();
    let rank = |name: &str| (name != first, name.bytes().any(|byte| byte.is_ascii_uppercase()));
    for name in &names {
        let known = chosen.entry(name.to_ascii_lowercase()).or_insert(name);
        if (rank(name), name.as_str()) < (rank(known), *known) {
            *known = name;
        }
    }
    let row = |name: &String| {
        let host = name.to_ascii_lowercase();
        let odd = why_no_host(name).map(str::to_owned).or_else(|| {
            let twin = chosen.get(&host).filter(|twin| *twin != name)?;
            Some(format!("it differs from `{twin}` in capital letters alone"))
        });
        let odd = odd.map_or_else(Value::none, Value::from);
        let pairs: [(&'static str, Value); 3] =
            [("name", name.clone().into()), ("host", host.into()), ("odd", odd)];
        let map: Map = pairs.into_iter().map(|(key, value)| (Key::from(key), value)).collect();
        (name.clone(), Value::from(map))
    };
    let rows: BTreeMap<_, _> = names.iter().map(row).collect();
    Value::from(rows.into_values().collect::<Vec<_>>())
}

/// Why a name cannot be the name of a host.
fn why_no_host(name: &str) -> Option<&'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() {
        Some("it is empty")
    } else if name.len() > NAME_BYTES_MAX {
        Some("it is longer than 200 letters")
    } else if !name.bytes().all(plain) {
        Some("it has other letters than A to Z, a to z, 0 to 9, `.`, `_` and `-`")
    } else if name.split('.').any(str::is_empty) {
        Some("it begins or ends with a dot, or has two in a row")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hosts() {
        let long = "x".repeat(201);
        for (names, expected) in [
            (&["web", "my-api", "a.b_c"][..], &["a.b_c", "my-api", "web"][..]),
            (&["shop.", ".shop", "a..b", "", "good"], &["good"]),
            (&["Web", "web", "WEB"], &["web"]),
            (&["Main", "main"], &["main"]),
            (&["API", "Api"], &["api"]),
            (&["Alone"], &["alone"]),
            (&["a b", "a;b", "a\nb", "a\0", "\u{fc}", "*", "~x", &long], &[]),
        ] {
            let list: Vec<_> = names.iter().map(|name| Value::from(*name)).collect();
            let rows = host_names(&list, "Main");
            let rows = rows.as_array().unwrap();
            assert_eq!(rows.len(), names.len(), "each is named: {names:?}");
            let part = |row: &Value, key: &'static str| {
                row.as_map().unwrap().get(&Key::Str(key)).unwrap().clone()
            };
            let hosts = rows.iter().filter(|row| part(row, "odd").is_none());
            let hosts: Vec<_> = hosts.map(|row| text_of(&part(row, "host"))).collect();
            assert_eq!(hosts, expected, "{names:?}");
        }
        let rows = host_names(&["Main".into(), "main".into()], "Main");
        let main = &rows.as_array().unwrap()[0];
        assert_eq!(main.as_map().unwrap().get(&Key::Str("name")).unwrap().as_str(), Some("Main"));
    }
}
