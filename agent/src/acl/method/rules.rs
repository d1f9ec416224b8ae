//! Binding rules: which rights a verified identity brings.
//!
//! A rule applies if its selector holds for the identity. It then binds a role, an identity of a service or node, or a
//! templated policy, whose name may hold variables of the identity: `web-${value.team}`.

use std::collections::{BTreeMap, BTreeSet};

use super::{Identity, Method, Refusal};
use crate::filter::Filter;

/// Longest name of a role, service or node that a rule makes.
const NAME_BYTES_MAX: usize = 256;

/// A rule as it is kept, borrowed from its row.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rule<'a> {
    /// Expression over the identity; empty holds for all.
    pub selector: &'a str,
    /// `service`, `node`, `role`, `templated-policy` or `policy`.
    pub bind_type: &'a str,
    /// Name of what is bound, with variables.
    pub bind_name: &'a str,
    /// The variable `name` of a templated policy, with variables of the identity in it.
    pub template_name: &'a str,
}

/// A rule that cannot be kept. `Display` is the reference's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// What the rules of a method bind, sorted, each once. Roles and policies by name; whether they exist is another question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// Service identities.
    pub services: BTreeSet<String>,
    /// Node identities.
    pub nodes: BTreeSet<String>,
    /// Roles.
    pub roles: BTreeSet<String>,
    /// Policies.
    pub policies: BTreeSet<String>,
    /// Templated policies: template, and the name that it is made for.
    pub templates: BTreeSet<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Service,
    Node,
    Role,
    Policy,
    Template,
}

impl Kind {
    fn parse(name: &str) -> Option<Kind> {
        Some(match name {
            "service" => Kind::Service,
            "node" => Kind::Node,
            "role" => Kind::Role,
            "policy" => Kind::Policy,
            "templated-policy" => Kind::Template,
            _ => return None,
        })
    }

    fn allows(self, name: &str) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return false;
        }
        match self {
            Kind::Role => name.bytes().all(plain),
            Kind::Policy => name.len() <= 128 && name.bytes().all(plain),
            Kind::Service | Kind::Node => {
                let ends = |byte: Option<u8>| {
                    byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
                };
                ends(name.bytes().next())
                    && ends(name.bytes().last())
                    && name.bytes().all(|byte| plain(byte) && !byte.is_ascii_uppercase())
            }
            Kind::Template => {
                name.strip_prefix("builtin/").is_some_and(|rest| rest.bytes().all(plain))
            }
        }
    }

    /// Names of services and nodes are in lower case here, whatever a provider writes.
    fn folds(self) -> bool {
        matches!(self, Kind::Service | Kind::Node)
    }
}

/// Judges a rule for a method before it is kept.
pub fn validate(rule: &Rule<'_>, method: &Method) -> Result<(), Invalid> {
    let invalid = |what: String| Invalid(format!("Invalid Binding Rule: {what}"));
    let Some(kind) = Kind::parse(rule.bind_type) else {
        return Err(invalid(format!("unknown BindType {:?}", rule.bind_type)));
    };
    if rule.bind_name.is_empty() {
        return Err(invalid("no BindName is set".to_owned()));
    }
    // Any value will do here: what it is is known when somebody logs in.
    let any = |name: &str| method.has_variable(name).then_some("fake");
    let name = interpolate(rule.bind_name, kind.folds(), any)
        .map_err(|what| invalid(format!("invalid BindName: {what}")))?;
    if !kind.allows(&name) {
        return Err(invalid("invalid BindName".to_owned()));
    }
    if !rule.template_name.is_empty() {
        if kind != Kind::Template {
            let what = "BindVars are only for the BindType \"templated-policy\"";
            return Err(invalid(what.to_owned()));
        }
        interpolate(rule.template_name, true, any)
            .map_err(|what| invalid(format!("invalid BindVars: {what}")))?;
    }
    Filter::parse(rule.selector, method.schema())
        .map(|_| ())
        .map_err(|error| Invalid(format!("invalid Binding Rule: Selector is invalid: {error}")))
}

/// Applies all rules of a method to an identity.
pub fn bind<'a>(
    identity: &Identity,
    rules: impl IntoIterator<Item = Rule<'a>>,
) -> Result<Grant, Refusal> {
    let mut grant = Grant::default();
    for rule in rules {
        // One that no longer fits its method binds nothing.
        let Ok(filter) = Filter::parse(rule.selector, identity.schema()) else { continue };
        let Some(kind) = Kind::parse(rule.bind_type).filter(|_| filter.matches(identity)) else {
            continue;
        };
        let value = |name: &str| identity.variable(name);
        let cannot = |what: String| {
            Refusal::rejected(format!(
                "cannot compute {:?} bind name for bind target: {what}",
                rule.bind_type
            ))
        };
        let name = interpolate(rule.bind_name, kind.folds(), value).map_err(cannot)?;
        if !kind.allows(&name) {
            return Err(Refusal::rejected(format!(
                "computed {:?} bind name for bind target is invalid: {name:?}",
                rule.bind_type
            )));
        }
        match kind {
            Kind::Service => grant.services.insert(name),
            Kind::Node => grant.nodes.insert(name),
            Kind::Role => grant.roles.insert(name),
            Kind::Policy => grant.policies.insert(name),
            Kind::Template => {
                let made_for = interpolate(rule.template_name, true, value).map_err(cannot)?;
                let needed = matches!(name.as_str(), "builtin/service" | "builtin/node");
                if needed && !Kind::Service.allows(&made_for) {
                    return Err(Refusal::rejected(format!(
                        "computed name for {name:?} is invalid: {made_for:?}"
                    )));
                }
                grant.templates.insert((name, made_for))
            }
        };
    }
    Ok(grant)
}

/// Replaces `${name}`; `$${` is a plain `${`. The error tells line and column.
fn interpolate<'v>(
    text: &str,
    folds: bool,
    value: impl Fn(&str) -> Option<&'v str>,
) -> Result<String, String> {
    let syntax = || "parse error: syntax error".to_owned();
    let mut filled = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(begin) = text[at..].find("${").map(|found| at + found) {
        if text[..begin].ends_with('$') && begin > at {
            filled.push_str(&text[at..begin - 1]);
            filled.push_str("${");
            at = begin + 2;
            continue;
        }
        filled.push_str(&text[at..begin]);
        let inside = &text[begin + 2..];
        let end = inside.find('}').ok_or_else(syntax)?;
        let name = inside[..end].trim();
        let blanks = inside[..end].len() - inside[..end].trim_start().len();
        let place = || {
            let before = &text[..begin + 2 + blanks];
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
            format!("{line}:{column}")
        };
        if let Some((function, _)) = name.split_once('(').filter(|_| name.ends_with(')')) {
            return Err(format!("{}: unknown function called: {function}", place()));
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_name) {
            return Err(syntax());
        }
        let found =
            value(name).ok_or_else(|| format!("{}: unknown variable accessed: {name}", place()))?;
        if folds {
            filled.push_str(&found.to_lowercase());
        } else {
            filled.push_str(found);
        }
        at = begin + 2 + end + 1;
    }
    filled.push_str(&text[at..]);
    Ok(filled)
}

impl Grant {
    /// Binds nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Grant::default()
    }
}

/// Description of a token that a log-in makes, with what the client says of itself.
pub fn description(prefix: &str, meta: &BTreeMap<String, String>) -> String {
    if meta.is_empty() {
        return prefix.to_owned();
    }
    let fields: Vec<String> = meta
        .iter()
        .map(|(name, value)| format!("{}:{}", crate::json::text(name), crate::json::text(value)))
        .collect();
    format!("{prefix}: {{{}}}", fields.join(","))
}
