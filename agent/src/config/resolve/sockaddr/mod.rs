//! Templates in addresses: `{{ GetPrivateIP }}`, `{{ GetAllInterfaces | include "network" "10.0.0.0/8" |
//! attr "address" }}`.
//!
//! The names are those that configurations of the reference use. Evaluation is a function of the list
//! of addresses that this host has; reading that list is the only thing done outside of it.

mod interfaces;

use crate::config::Error;
use crate::config::written::Written;
use interfaces::{Interface, NOT_FORWARDED, PRIVATE, attribute, of_this_host, sort, test, within};

/// Keys whose values may be templates.
const KEYS: [&str; 13] = [
    "addresses.dns",
    "addresses.http",
    "addresses.https",
    "advertise_addr",
    "advertise_addr_ipv4",
    "advertise_addr_ipv6",
    "advertise_addr_wan",
    "advertise_addr_wan_ipv4",
    "advertise_addr_wan_ipv6",
    "bind_addr",
    "client_addr",
    "serf_lan",
    "serf_wan",
];

/// The configuration with every template replaced by what it stands for on this host.
pub(super) fn expanded(written: &Written) -> Result<Written, Error> {
    let mut out = written.clone();
    let mut interfaces = None;
    for key in KEYS {
        let Some(text) = written.text(key).filter(|text| text.contains("{{")) else { continue };
        let interfaces = match &interfaces {
            Some(interfaces) => interfaces,
            None => interfaces.insert(of_this_host()?),
        };
        let value = meant(key, text, interfaces)?;
        if value.trim().is_empty() {
            return Err(Error(format!(
                "{key} cannot be empty\nhint: no address of this host fits `{text}`"
            )));
        }
        out.replace(key, value);
    }
    Ok(out)
}

/// Evaluates an address template on this host; `key` is the key it stands in.
pub(super) fn one(key: &str, text: &str) -> Result<String, Error> {
    if !text.contains("{{") {
        return Ok(text.to_owned());
    }
    meant(key, text, &of_this_host()?)
}

fn meant(key: &str, text: &str, interfaces: &[Interface]) -> Result<String, Error> {
    expand(text, interfaces).map_err(|why| Error(format!("{key}: template `{text}`: {why}")))
}

/// Replaces every `{{ ... }}` of a text.
fn expand(text: &str, interfaces: &[Interface]) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let (inside, behind) = after.split_once("}}").ok_or("`}}` is missing")?;
        out.push_str(&evaluate(inside.trim().trim_matches('-'), interfaces)?);
        rest = behind;
    }
    out.push_str(rest);
    Ok(out.trim().to_owned())
}

/// Value between two steps of a pipeline.
enum Value {
    Interfaces(Vec<Interface>),
    Text(String),
}

fn evaluate(pipeline: &str, interfaces: &[Interface]) -> Result<String, String> {
    let mut value = None;
    for call in split(pipeline)? {
        let (name, arguments) = call.split_first().ok_or("a function is missing")?;
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        value = Some(match value {
            None => source(name, &arguments, interfaces)?,
            Some(Value::Interfaces(list)) => step(name, &arguments, list)?,
            Some(Value::Text(_)) => return Err(format!("`{name}` needs a list of addresses")),
        });
    }
    match value {
        Some(Value::Text(text)) => Ok(text),
        Some(Value::Interfaces(_)) => {
            Err("a list is no address: end it with `| attr \"address\"`".into())
        }
        None => Ok(String::new()),
    }
}

/// Cuts a pipeline into calls, and calls into words; texts stand in quotes.
fn split(pipeline: &str) -> Result<Vec<Vec<String>>, String> {
    let mut calls = vec![Vec::new()];
    let mut letters = pipeline.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '|' => calls.push(Vec::new()),
            '"' | '`' => {
                let mut word = String::new();
                loop {
                    match letters.next() {
                        None => return Err("a quote is not closed".into()),
                        Some(end) if end == letter => break,
                        Some('\\') if letter == '"' => word.extend(letters.next()),
                        Some(other) => word.push(other),
                    }
                }
                calls.last_mut().expect("never empty").push(word);
            }
            letter if letter.is_whitespace() || letter == '(' || letter == ')' => {}
            letter => {
                let mut word = String::from(letter);
                while let Some(next) =
                    letters.next_if(|next| !next.is_whitespace() && !"|\"`()".contains(*next))
                {
                    word.push(next);
                }
                calls.last_mut().expect("never empty").push(word);
            }
        }
    }
    Ok(calls)
}

/// The addresses of a kind, the most likely one first.
fn usable(interfaces: &[Interface], keep: impl Fn(&Interface) -> bool) -> Vec<Interface> {
    let mut list: Vec<Interface> = interfaces
        .iter()
        .filter(|it| it.up && !within(it.address, &NOT_FORWARDED) && keep(it))
        .cloned()
        .collect();
    list.sort_by_key(|it| (!it.default, it.address.is_ipv6(), it.prefix));
    list
}

fn source(name: &str, arguments: &[&str], interfaces: &[Interface]) -> Result<Value, String> {
    let private = |it: &Interface| within(it.address, &PRIVATE);
    let public = |it: &Interface| !within(it.address, &PRIVATE);
    let named = |it: &Interface| arguments.first() == Some(&it.name.as_str());
    let first = |list: Vec<Interface>| {
        Value::Text(list.first().map(|it| it.address.to_string()).unwrap_or_default())
    };
    let every = |list: Vec<Interface>| Value::Text(joined(&list, "address", " "));
    Ok(match name {
        "GetAllInterfaces" => Value::Interfaces(interfaces.to_vec()),
        "GetDefaultInterfaces" => Value::Interfaces(usable(interfaces, |it| it.default)),
        "GetPrivateInterfaces" => Value::Interfaces(usable(interfaces, private)),
        "GetPublicInterfaces" => Value::Interfaces(usable(interfaces, public)),
        "GetPrivateIP" => first(usable(interfaces, private)),
        "GetPrivateIPs" => every(usable(interfaces, private)),
        "GetPublicIP" => first(usable(interfaces, public)),
        "GetPublicIPs" => every(usable(interfaces, public)),
        "GetInterfaceIP" => first(usable(interfaces, named)),
        "GetInterfaceIPs" => every(usable(interfaces, named)),
        _ => return Err(format!("there is no function `{name}`")),
    })
}

fn step(name: &str, arguments: &[&str], mut list: Vec<Interface>) -> Result<Value, String> {
    let needs = |count: usize| {
        if arguments.len() == count {
            Ok(())
        } else {
            Err(format!("`{name}` takes {count} arguments, not {}", arguments.len()))
        }
    };
    let count = |text: &str| {
        text.parse::<usize>().map_err(|_| format!("`{name}`: `{text}` is not a number"))
    };
    Ok(match name {
        "include" | "exclude" => {
            needs(2)?;
            let test = test(arguments[0], arguments[1])?;
            list.retain(|it| test(it) == (name == "include"));
            Value::Interfaces(list)
        }
        "sort" => {
            needs(1)?;
            for key in arguments[0].split(',').rev() {
                let (key, down) = match key.trim().strip_prefix('-') {
                    Some(key) => (key, true),
                    None => (key.trim().trim_start_matches('+'), false),
                };
                sort(&mut list, key, down)?;
            }
            Value::Interfaces(list)
        }
        "limit" => {
            needs(1)?;
            list.truncate(count(arguments[0])?);
            Value::Interfaces(list)
        }
        "offset" => {
            needs(1)?;
            list.drain(..count(arguments[0])?.min(list.len()));
            Value::Interfaces(list)
        }
        "unique" => {
            needs(1)?;
            let mut seen = Vec::new();
            list.retain(|it| {
                let value = attribute(it, arguments[0]).unwrap_or_default();
                let new = !seen.contains(&value);
                seen.push(value);
                new
            });
            Value::Interfaces(list)
        }
        "attr" => {
            needs(1)?;
            let first = list.first().map(|it| attribute(it, arguments[0])).transpose()?;
            Value::Text(first.unwrap_or_default())
        }
        "join" => {
            needs(2)?;
            for it in &list {
                attribute(it, arguments[0])?;
            }
            Value::Text(joined(&list, arguments[0], arguments[1]))
        }
        _ => return Err(format!("there is no filter `{name}`")),
    })
}

fn joined(list: &[Interface], name: &str, separator: &str) -> String {
    let values: Vec<String> = list.iter().filter_map(|it| attribute(it, name).ok()).collect();
    values.join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Vec<Interface> {
        let it = |name: &str, address: &str, prefix, default| Interface {
            name: name.into(),
            address: address.parse().expect("an address"),
            prefix,
            up: true,
            loopback: name == "lo",
            broadcast: name != "lo",
            multicast: name != "lo",
            default,
        };
        vec![
            it("lo", "127.0.0.1", 8, false),
            it("lo", "::1", 128, false),
            it("docker0", "172.17.0.1", 16, false),
            it("eth0", "10.1.2.3", 24, true),
            it("eth0", "fe80::1", 64, true),
            it("eth1", "203.0.113.9", 28, false),
            it("eth2", "10.9.0.4", 16, false),
        ]
    }

    #[test]
    fn templates_that_people_use() {
        let rows = [
            ("{{ GetPrivateIP }}", "10.1.2.3"),
            ("{{GetPublicIP}}", "203.0.113.9"),
            ("{{ GetInterfaceIP \"eth2\" }}", "10.9.0.4"),
            ("{{ GetInterfaceIP `eth1` }}", "203.0.113.9"),
            ("{{ GetInterfaceIP \"lo\" }}", ""),
            ("{{ GetInterfaceIP \"nope\" }}", ""),
            (
                "{{ GetPrivateInterfaces | include \"network\" \"10.9.0.0/16\" | attr \"address\" }}",
                "10.9.0.4",
            ),
            (
                "{{ GetAllInterfaces | include \"name\" \"^eth\" | include \"flags\" \"forwardable|up\" | sort \"-address\" | attr \"address\" }}",
                "203.0.113.9",
            ),
            (
                "{{ GetAllInterfaces | exclude \"type\" \"ipv6\" | include \"rfc\" \"1918\" | join \"address\" \" \" }}",
                "172.17.0.1 10.1.2.3 10.9.0.4",
            ),
            ("{{ GetDefaultInterfaces | attr \"address\" }}", "10.1.2.3"),
            ("{{ GetPrivateInterfaces | sort \"size\" | limit 1 | attr \"name\" }}", "docker0"),
            ("{{ GetPrivateInterfaces | sort \"-size,name\" | offset 1 | attr \"name\" }}", "eth2"),
            ("127.0.0.1 {{ GetPrivateIP }}", "127.0.0.1 10.1.2.3"),
            (
                "{{ GetAllInterfaces | include \"type\" \"ipv4\" | unique \"name\" | join \"name\" \",\" }}",
                "lo,docker0,eth0,eth1,eth2",
            ),
        ];
        for (template, expected) in rows {
            assert_eq!(expand(template, &host()).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_is_no_template_is_refused_by_name() {
        let rows = [
            ("{{ GetBogus }}", "there is no function `GetBogus`"),
            ("{{ GetPrivateIP", "`}}` is missing"),
            ("{{ GetAllInterfaces }}", "a list is no address"),
            ("{{ GetAllInterfaces | attr }}", "`attr` takes 1 arguments"),
            ("{{ GetAllInterfaces | attr \"x\" }}", "no attribute `x`"),
            ("{{ GetPrivateIP | attr \"x\" }}", "needs a list"),
            ("{{ GetAllInterfaces | include \"network\" \"x\" | attr \"name\" }}", "invalid CIDR"),
            ("{{ GetAllInterfaces | include \"name }}", "a quote is not closed"),
        ];
        for (template, expected) in rows {
            let error = expand(template, &host()).expect_err(template);
            assert!(error.contains(expected), "{template}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_template_panics(text in "\\{\\{[ a-zA-Z\"|`\\-0-9]{0,40}\\}?\\}?") {
            let _ = expand(&text, &host());
        }
    }
}
