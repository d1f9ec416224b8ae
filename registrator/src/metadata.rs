//! The `SERVICE_*` keys of a container: which are there, and which wins.
//!
//! A key is `SERVICE_<NAME>`, `SERVICE_<port>_<NAME>` or `SERVICE_<first>-<last>_<NAME>`, in the
//! environment or as a label; the port is the container's, not the host's. The prefix is
//! case-sensitive, the rest is not. What wins, first rule first:
//!
//! | several keys | winner |
//! |---|---|
//! | for the port, for a range, for all | the port, then the narrowest range, then all |
//! | label and environment | the label |
//! | that differ only in case | the upper-case one, then the first in byte order; with a warning |
//!
//! An empty value counts: `SERVICE_80_IGNORE=` takes back `SERVICE_IGNORE=1` for port 80.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_client::types::parse_duration;

use crate::container::Container;

const PREFIX: &str = "SERVICE_";

/// All keys of one container, ready to be asked per port.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    /// By lower-case name; the strongest entry for a port is the last that covers it.
    keys: BTreeMap<String, Vec<Entry>>,
    warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    ports: Option<(u16, u16)>,
    source: Source,
    /// As the user wrote it.
    written: String,
    value: String,
}

/// Weaker first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Environment,
    Label,
}

/// A value and whether it was given for this port (or a range with it) rather than for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    /// The text, possibly empty.
    pub text: &'a str,
    /// True for `SERVICE_<port>_…` and ranges.
    pub for_port: bool,
}

impl Metadata {
    /// Collects the keys of a container.
    pub fn of(container: &Container) -> Self {
        let mut metadata = Self::default();
        let environment =
            container.env.iter().map(|(key, value)| (Source::Environment, key, value));
        let labels = container.labels.iter().map(|(key, value)| (Source::Label, key, value));
        for (source, key, value) in environment.chain(labels) {
            if let Some(rest) = key.strip_prefix(PREFIX).filter(|rest| !rest.is_empty()) {
                metadata.add(source, key, rest, value);
            }
        }
        for entries in metadata.keys.values_mut() {
            entries.sort_by_key(|entry| (std::cmp::Reverse(width(entry.ports)), entry.source));
        }
        metadata
    }

    fn add(&mut self, source: Source, written: &str, rest: &str, value: &str) {
        let (ports, name) = split_ports(rest);
        let entry = Entry { ports, source, written: written.to_owned(), value: value.to_owned() };
        let entries = self.keys.entry(name.to_ascii_lowercase()).or_default();
        let rival = entries.iter_mut().find(|rival| rival.ports == ports && rival.source == source);
        match rival {
            None => entries.push(entry),
            // The engine merges equal keys itself; should one come twice, the later one counts.
            Some(rival) if rival.written == entry.written => *rival = entry,
            Some(rival) => {
                let winner = strongest_case(&rival.written, &entry.written);
                self.warnings.push(format!(
                    "`{}` and `{}` are the same key: `{winner}` is used",
                    rival.written, entry.written
                ));
                if winner == entry.written {
                    *rival = entry;
                }
            }
        }
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The value of `name` (lower-case, without prefix) that applies to `port`.
    pub fn get(&self, port: u16, name: &str) -> Option<Value<'_>> {
        let entries = self.keys.get(name)?;
        let entry = entries.iter().rev().find(|entry| covers(entry.ports, port))?;
        Some(Value { text: &entry.value, for_port: entry.ports.is_some() })
    }

    /// The value of `name` for `port`, unless it is missing or empty.
    pub fn text(&self, port: u16, name: &str) -> Option<&str> {
        self.get(port, name).map(|value| value.text).filter(|text| !text.is_empty())
    }

    /// The value of `name` that was given for the whole container, unless missing or empty.
    pub fn general(&self, name: &str) -> Option<&str> {
        let entries = self.keys.get(name)?;
        let entry = entries.iter().rev().find(|entry| entry.ports.is_none())?;
        Some(entry.value.as_str()).filter(|text| !text.is_empty())
    }

    /// All names and values that apply to `port`, ordered by name.
    pub fn for_port(&self, port: u16) -> impl Iterator<Item = (&str, &str)> {
        self.keys.keys().filter_map(move |name| Some((name.as_str(), self.get(port, name)?.text)))
    }

    /// Ports with keys of their own, in order; ranges are not listed.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        let mut ports: Vec<u16> = self
            .keys
            .values()
            .flatten()
            .filter_map(|entry| entry.ports)
            .filter_map(|(first, last)| (first == last).then_some(first))
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports.into_iter()
    }

    /// What was odd about the keys themselves.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

fn covers(ports: Option<(u16, u16)>, port: u16) -> bool {
    ports.is_none_or(|(first, last)| (first..=last).contains(&port))
}

fn width(ports: Option<(u16, u16)>) -> u32 {
    ports.map_or(u32::MAX, |(first, last)| u32::from(last - first))
}

/// Splits `8080_NAME` and `9300-9400_IGNORE`. A number alone (`SERVICE_8080=…`) is a name, as in
/// the old tool.
fn split_ports(rest: &str) -> (Option<(u16, u16)>, &str) {
    let Some((head, name)) = rest.split_once('_').filter(|(_, name)| !name.is_empty()) else {
        return (None, rest);
    };
    let (first, last) = head.split_once('-').unwrap_or((head, head));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) if first <= last => (Some((first, last)), name),
        _ => (None, rest),
    }
}

fn strongest_case<'a>(one: &'a str, other: &'a str) -> &'a str {
    let rank = |key: &str| (key != key.to_ascii_uppercase(), key.to_owned());
    if rank(one) <= rank(other) { one } else { other }
}

/// Reads a yes or no as people write it: `true 1 yes on` and `false 0 no off` in any case.
pub fn parse_switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" | "t" | "y" => Some(true),
        "false" | "0" | "no" | "off" | "f" | "n" => Some(false),
        _ => None,
    }
}

/// Reads a duration such as `10s`; a bare number means seconds, as the old tool's flags do.
pub fn parse_seconds(text: &str) -> Option<Duration> {
    match text.trim().parse::<u32>() {
        Ok(seconds) => Some(Duration::from_secs(seconds.into())),
        Err(_) => parse_duration(text.trim()).ok(),
    }
}

/// Splits a list of tags: a JSON array of strings, or text separated by commas where `\,` is a
/// comma. Empty parts are dropped; the order is kept (the old tool turned it round).
pub fn parse_list(text: &str) -> Vec<String> {
    if text.trim_start().starts_with('[')
        && let Ok(list) = serde_json::from_str::<Vec<String>>(text)
    {
        return list.into_iter().filter(|part| !part.is_empty()).collect();
    }
    let mut parts = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, characters.peek()) {
            ('\\', Some(',')) => {
                characters.next();
                push(&mut parts, ',');
            }
            (',', _) => parts.push(String::new()),
            (character, _) => push(&mut parts, character),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn push(parts: &mut [String], character: char) {
    if let Some(part) = parts.last_mut() {
        part.push(character);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::container;

    /// `E:` marks environment, `L:` a label.
    fn metadata(keys: &[&str]) -> Metadata {
        let mut container = container("web");
        for key in keys {
            let (source, rest) = key.split_once(':').expect("source");
            let (key, value) = rest.split_once('=').expect("value");
            if source == "E" {
                container.env.push((key.to_owned(), value.to_owned()));
            } else {
                container.labels.insert(key.to_owned(), value.to_owned());
            }
        }
        Metadata::of(&container)
    }

    #[test]
    fn the_strongest_key_wins() {
        let rows: &[(&[&str], u16, &str, Option<&str>)] = &[
            (&["E:SERVICE_NAME=a"], 80, "name", Some("a")),
            (&["E:SERVICE_NAME=a", "L:SERVICE_NAME=b"], 80, "name", Some("b")),
            (&["E:SERVICE_80_NAME=a", "L:SERVICE_NAME=b"], 80, "name", Some("a")),
            (&["E:SERVICE_80_NAME=a", "L:SERVICE_80_NAME=b"], 80, "name", Some("b")),
            (&["L:SERVICE_80_NAME=a", "E:SERVICE_NAME=b"], 81, "name", Some("b")),
            (&["L:SERVICE_80_NAME=a"], 81, "name", None),
            (&["L:SERVICE_80-90_NAME=a", "L:SERVICE_NAME=b"], 81, "name", Some("a")),
            (&["L:SERVICE_80-90_NAME=a", "E:SERVICE_81_NAME=b"], 81, "name", Some("b")),
            (&["L:SERVICE_80-90_NAME=a", "E:SERVICE_80-85_NAME=b"], 81, "name", Some("b")),
            (&["L:SERVICE_90-80_NAME=a"], 85, "90-80_name", Some("a")),
            (&["L:SERVICE_Name=a"], 80, "name", Some("a")),
            (&["L:SERVICE_Name=a", "L:SERVICE_NAME=b"], 80, "name", Some("b")),
            (&["L:SERVICE_Name=a", "L:SERVICE_name=b"], 80, "name", Some("a")),
            (&["L:service_name=a"], 80, "name", None),
            (&["L:SERVICE_=a"], 80, "", None),
            (&["E:SERVICE_8080=x"], 80, "8080", Some("x")),
            (&["E:SERVICE_80_IGNORE=", "E:SERVICE_IGNORE=1"], 80, "ignore", Some("")),
            (&["E:SERVICE_99999_NAME=x"], 80, "99999_name", Some("x")),
            (&["E:SERVICE_CHECK_2_HTTP=/x"], 80, "check_2_http", Some("/x")),
        ];
        for (keys, port, name, expected) in rows {
            let metadata = metadata(keys);
            let found = metadata.get(*port, name).map(|value| value.text);
            assert_eq!(found, *expected, "{keys:?} {port} {name}");
        }
    }

    #[test]
    fn bare_numbers_are_seconds() {
        for (text, expected) in
            [("10", Some(10_000)), ("1.5s", Some(1_500)), (" 2 ", Some(2_000)), ("-1", None)]
        {
            assert_eq!(parse_seconds(text), expected.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn a_clash_of_case_is_reported() {
        assert_eq!(
            metadata(&["L:SERVICE_Name=a", "L:SERVICE_NAME=b"]).warnings(),
            ["`SERVICE_NAME` and `SERVICE_Name` are the same key: `SERVICE_NAME` is used"]
        );
        assert!(metadata(&["E:SERVICE_NAME=a", "L:SERVICE_NAME=b"]).warnings().is_empty());
    }

    #[test]
    fn lists_keep_order_and_escaped_commas() {
        let rows: &[(&str, &[&str])] = &[
            ("", &[]),
            ("a", &["a"]),
            ("a,b\\,c,d", &["a", "b,c", "d"]),
            (",a,,b,", &["a", "b"]),
            ("a\\b", &["a\\b"]),
            ("a\\", &["a\\"]),
            (r#"["a,b","","c"]"#, &["a,b", "c"]),
            ("[a", &["[a"]),
            ("[1]", &["[1]"]),
        ];
        for (text, expected) in rows {
            assert_eq!(parse_list(text), *expected, "{text}");
        }
    }
}
