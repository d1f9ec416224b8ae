//! Claims of a token: whether they hold now, and which of them the method maps to names of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::jws::Claims;
use super::weak::{self, Leeway, Weak};
use super::{Identity, Refusal};

/// Leeway of a time that is derived from the other one, seconds.
const DERIVED_LEEWAY: i64 = 150;
/// Leeway of clocks, seconds.
const CLOCK_LEEWAY: i64 = 60;

/// How much clocks may differ, by what they are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leeways {
    expiration: Leeway,
    not_before: Leeway,
    clock: Leeway,
}

impl Leeways {
    pub(super) fn take(weak: &mut Weak) -> Leeways {
        Leeways {
            expiration: weak.leeway("ExpirationLeeway"),
            not_before: weak.leeway("NotBeforeLeeway"),
            clock: weak.leeway("ClockSkewLeeway"),
        }
    }
}

fn invalid(what: &str) -> Refusal {
    Refusal::rejected(format!("error validating claims: {what}"))
}

/// A claim in seconds since 1970; 0 if it is not there. What no clock shows is long ago.
fn seconds(claims: &Claims, name: &str) -> Result<i64, Refusal> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(0),
        Some(Value::Number(number)) => Ok(weak::whole(number).unwrap_or(i64::MIN)),
        Some(_) => Err(invalid(&format!("`{name}` is no number of seconds"))),
    }
}

fn text<'a>(claims: &'a Claims, name: &str) -> Result<&'a str, Refusal> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(invalid(&format!("`{name}` is no text"))),
    }
}

/// A list of audiences, or a single one.
pub(super) fn audiences(claims: &Claims) -> Result<Vec<&str>, Refusal> {
    let wrong = || invalid("`aud` is neither a text nor a list of texts");
    match claims.get("aud") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one]),
        Some(Value::Array(all)) => all.iter().map(|it| it.as_str().ok_or_else(wrong)).collect(),
        Some(_) => Err(wrong()),
    }
}

/// Judges issuer and times. One of the three times must be there; the others are derived from it.
pub(super) fn judge(
    claims: &Claims,
    issuer: &str,
    leeways: Leeways,
    now: Duration,
) -> Result<(), Refusal> {
    let issued = seconds(claims, "iat")?;
    let mut expires = seconds(claims, "exp")?;
    let mut begins = seconds(claims, "nbf")?;
    let found = text(claims, "iss")?;
    if issued == 0 && expires == 0 && begins == 0 {
        let what = "no issue time, notbefore, or expiration time encoded in token";
        return Err(Refusal::rejected(what));
    }
    if expires == 0 {
        expires = issued.max(begins).saturating_add(leeways.expiration.seconds_or(DERIVED_LEEWAY));
    }
    if begins == 0 {
        begins = if issued == 0 {
            expires.saturating_sub(leeways.not_before.seconds_or(DERIVED_LEEWAY))
        } else {
            issued
        };
    }
    if !issuer.is_empty() && found != issuer {
        return Err(invalid("square/go-jose/jwt: validation failed, invalid issuer claim (iss)"));
    }
    // In milliseconds: a token that ends with this second has ended within it.
    let now = i128::try_from(now.as_millis()).unwrap_or(i128::MAX);
    let leeway = i128::from(leeways.clock.seconds_or(CLOCK_LEEWAY)) * 1000;
    let at = |seconds: i64| i128::from(seconds) * 1000;
    let early = now.saturating_add(leeway);
    if early < at(begins) {
        return Err(invalid("square/go-jose/jwt: validation failed, token not valid yet (nbf)"));
    }
    if now.saturating_sub(leeway) > at(expires) {
        return Err(invalid("square/go-jose/jwt: validation failed, token is expired (exp)"));
    }
    if early < at(issued) {
        let what = "square/go-jose/jwt: validation field, token issued in the future (iat)";
        return Err(invalid(what));
    }
    Ok(())
}

/// Compares audiences. A strict method refuses tokens that are meant for somebody when it expects nobody.
pub(super) fn judge_audience(
    claims: &Claims,
    bound: &[String],
    strict: bool,
) -> Result<(), Refusal> {
    let found = audiences(claims)?;
    if bound.is_empty() {
        if strict && found.iter().any(|audience| !audience.is_empty()) {
            return Err(invalid("audience claim found in JWT but no audiences are bound"));
        }
        return Ok(());
    }
    if found.iter().any(|audience| bound.iter().any(|bound| bound == audience)) {
        return Ok(());
    }
    Err(invalid("aud claim does not match any bound audience"))
}

/// Names for claims.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mappings {
    values: BTreeMap<String, String>,
    lists: BTreeMap<String, String>,
}

impl Mappings {
    pub(super) fn take(weak: &mut Weak) -> Mappings {
        Mappings { values: weak.pairs("ClaimMappings"), lists: weak.pairs("ListClaimMappings") }
    }

    /// Two claims cannot have one name.
    pub(super) fn validate(&self) -> Result<(), String> {
        for (field, mapped) in [("ClaimMappings", &self.values), ("ListClaimMappings", &self.lists)]
        {
            let mut seen = BTreeSet::new();
            if let Some(twice) = mapped.values().find(|name| !seen.insert(*name)) {
                return Err(format!("{field} contains multiple mappings for key {twice:?}"));
            }
        }
        Ok(())
    }

    /// May a rule speak of `value.<name>`?
    pub(super) fn has_value(&self, name: &str) -> bool {
        self.values.values().any(|known| known == name)
    }

    /// The claims that have names.
    pub(super) fn identity(&self, claims: &Claims) -> Result<Identity, Refusal> {
        let mut values = BTreeMap::new();
        for (claim, name) in &self.values {
            let Some(value) = find(claims, claim) else { continue };
            let text = scalar(value).ok_or_else(|| {
                Refusal::rejected(format!(
                    "error converting claim '{claim}' to string from unknown type {}",
                    weak::kind(value)
                ))
            })?;
            values.insert(name.clone(), text);
        }
        let mut lists = BTreeMap::new();
        for (claim, name) in &self.lists {
            let Some(value) = find(claims, claim) else { continue };
            lists.insert(name.clone(), list(claim, value)?);
        }
        let names = self.values.values().cloned().collect();
        Ok(Identity::Claims { values, lists, names })
    }
}

/// A claim by its name, or by a pointer such as `/realm/roles`. `null` counts as absent.
fn find<'a>(claims: &'a Claims, claim: &str) -> Option<&'a Value> {
    let found = match claim.strip_prefix('/') {
        None => claims.get(claim),
        Some(rest) => {
            let (first, rest) = match rest.split_once('/') {
                Some((first, rest)) => (first, format!("/{rest}")),
                None => (rest, String::new()),
            };
            let first = first.replace("~1", "/").replace("~0", "~");
            claims.get(&first).and_then(|value| value.pointer(&rest))
        }
    };
    found.filter(|value| !value.is_null())
}

/// A text, a flag or a number without its fraction, as a text.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(match weak::whole(number) {
            Some(whole) => whole.to_string(),
            None => number.to_string(),
        }),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A list, or the one value that a provider did not put into one.
fn list(claim: &str, value: &Value) -> Result<Vec<String>, Refusal> {
    let items = match value {
        Value::Array(items) => &items[..],
        Value::Object(_) => {
            let what = format!("{claim:?} list claim could not be converted to string list");
            return Err(Refusal::rejected(what));
        }
        one => std::slice::from_ref(one),
    };
    let text = |item: &Value| {
        scalar(item).ok_or_else(|| {
            let found = match item {
                Value::Null => "<nil>".to_owned(),
                other => format!("of type {}", weak::kind(other)),
            };
            let what =
                format!("value {found} in {claim:?} list claim could not be parsed as string");
            Refusal::rejected(what)
        })
    };
    items.iter().map(text).collect()
}
