//! Reading flags: `-name value`, `-name=value`, with one or two dashes; a switch stands alone. The
//! first argument that is no flag, or `--`, ends them.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_client::types::parse_duration;

use super::command::{API_FLAGS, CommonFlags, Failure, Flag, STALE_FLAG, Spec, Takes};
use crate::spelling;

/// The flags that were given, with their texts in order.
#[derive(Debug, Default)]
pub(super) struct Values(BTreeMap<&'static str, Vec<String>>);

impl Values {
    /// The last text of a flag, if it was given.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.last().map(String::as_str)
    }
    /// Every text of a flag.
    pub(super) fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
    /// Says whether a switch is on.
    pub(super) fn on(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }
    /// A number; the parser has seen that it is one.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }
    /// The same for a number that may be below zero.
    pub(super) fn signed(&self, name: &str) -> Option<i64> {
        self.text(name)?.parse().ok()
    }
    /// A duration; the parser has seen that it is one.
    pub(super) fn duration(&self, name: &str) -> Option<Duration> {
        parse_duration(self.text(name)?).ok()
    }
}

/// Every flag of a command.
pub(super) fn of(spec: &'static Spec) -> impl Iterator<Item = &'static Flag> {
    let api: &[Flag] = if spec.common_flags == CommonFlags::None { &[] } else { API_FLAGS };
    let stale = (spec.common_flags == CommonFlags::StaleApi).then_some(&STALE_FLAG);
    spec.flags.iter().chain(api).chain(stale)
}

/// Flags of the reference that ask for something which is not here yet.
const TLS: [&str; 5] = ["ca-file", "ca-path", "client-cert", "client-key", "tls-server-name"];

/// Is `-help` among the flags? Operands may be another program's arguments, which are its own.
pub(super) fn asks_for_help(spec: &'static Spec, args: &[String]) -> bool {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if matches!(arg.as_str(), "-h" | "-help" | "--help") {
            return true;
        }
        let Some((name, inline)) = split(arg) else { return false };
        let alone = of(spec).any(|flag| flag.name == name && flag.takes == Takes::Switch);
        if inline.is_none() && !alone {
            args.next();
        }
    }
    false
}

/// Name and text of a flag; `None` for an operand and for `--`.
fn split(arg: &str) -> Option<(&str, Option<&str>)> {
    let body = arg.strip_prefix('-')?;
    let body = body.strip_prefix('-').unwrap_or(body);
    if body.is_empty() {
        return None;
    }
    Some(match body.split_once('=') {
        Some((name, text)) => (name, Some(text)),
        None => (body, None),
    })
}

/// Splits arguments into the command's flags and operands.
pub(super) fn parse(
    spec: &'static Spec,
    args: &[String],
) -> Result<(Values, Vec<String>), Failure> {
    let mut values = Values::default();
    let mut args = args.iter().peekable();
    while let Some(arg) = args.peek() {
        let Some((name, inline)) = split(arg) else {
            if *arg == "--" {
                args.next();
            }
            break;
        };
        if name.is_empty() || name.starts_with('-') {
            return Err(Failure::new(format!("bad flag syntax: {arg}")));
        }
        let Some(flag) = of(spec).find(|flag| flag.name == name) else {
            return Err(unknown(spec, name));
        };
        args.next();
        let text = match (flag.takes, inline) {
            (Takes::Switch, text) => switch(name, text)?.to_string(),
            (_, Some(text)) => text.to_owned(),
            (_, None) => args
                .next()
                .cloned()
                .ok_or_else(|| Failure::new(format!("flag needs an argument: -{name}")))?,
        };
        check(flag, &text)?;
        values.0.entry(flag.name).or_default().push(text);
    }
    Ok((values, args.cloned().collect()))
}

fn unknown(spec: &'static Spec, name: &str) -> Failure {
    let failure = Failure::new(format!("flag provided but not defined: -{name}"));
    if TLS.contains(&name) {
        return failure.or_hint("HTTPS is not supported yet".to_owned());
    }
    let known: Vec<_> = of(spec).map(|flag| flag.name).collect();
    failure.or_hint(
        spelling::nearest(name, known.iter().copied())
            .map(|near| format!("did you mean `-{near}`?")),
    )
}

fn switch(name: &str, text: Option<&str>) -> Result<bool, Failure> {
    match text {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => {
            Err(Failure::new(format!("invalid boolean value {other:?} for -{name}: parse error")))
        }
    }
}

fn check(flag: &Flag, text: &str) -> Result<(), Failure> {
    let fits = match flag.takes {
        Takes::Number => text.parse::<u64>().is_ok(),
        Takes::Signed => text.parse::<i64>().is_ok(),
        Takes::Duration => parse_duration(text).is_ok(),
        Takes::Switch | Takes::Text(_) | Takes::Texts(_) => true,
    };
    if fits {
        return Ok(());
    }
    Err(Failure::new(format!("invalid value {text:?} for flag -{}: parse error", flag.name)))
}
