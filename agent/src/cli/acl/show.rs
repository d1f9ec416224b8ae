//! Objects of access control as text and as JSON, in the reference's words and columns: scripts cut them.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use muster_client::types::{
    AclLink, AclPolicy, AclRole, AclToken, AuthMethod, BindingRule, NodeIdentity, ServiceIdentity,
    TemplatedPolicy,
};
use serde::Serialize;
use serde_json::Value;

use super::super::command::Outcome;
use super::super::layout::{document, escaped, indent};
use super::Shown;

/// An object that can be shown.
pub(super) trait Show: Serialize {
    /// The object alone.
    fn one(&self, meta: bool) -> String;
    /// The object in a list.
    fn row(&self, meta: bool) -> String;
    /// Text between rows.
    const BETWEEN: &'static str = "";
}

/// One object.
#[expect(clippy::unnecessary_wraps, reason = "commands end with it")]
pub(super) fn one(shown: Shown, object: &impl Show) -> Outcome {
    Ok(if shown.json { document(object) } else { object.one(shown.meta) + "\n" }.into())
}

/// A list of objects.
#[expect(clippy::unnecessary_wraps, reason = "commands end with it")]
pub(super) fn list<T: Show>(shown: Shown, objects: &[T]) -> Outcome {
    if shown.json {
        return Ok(document(&objects).into());
    }
    let rows: Vec<String> = objects.iter().map(|object| object.row(shown.meta)).collect();
    Ok((rows.join(T::BETWEEN) + "\n").into())
}

/// Lines of a label and a value each, at one depth.
struct Lines {
    text: String,
    indent: &'static str,
    width: usize,
}

impl Lines {
    fn new(indent: &'static str, width: usize) -> Lines {
        Lines { text: String::new(), indent, width }
    }
    fn line(&mut self, label: &str, value: impl std::fmt::Display) {
        let label = format!("{label}:");
        let _ = writeln!(self.text, "{}{label:<width$}{value}", self.indent, width = self.width);
    }
    fn set(&mut self, label: &str, value: &str) {
        if !value.is_empty() {
            self.line(label, value);
        }
    }
    fn indexes(&mut self, create: u64, modify: u64) {
        self.line("Create Index", create);
        self.line("Modify Index", modify);
    }
    fn heading(&mut self, text: &str) {
        let _ = writeln!(self.text, "{}{text}:", self.indent);
    }
    fn items<T>(&mut self, heading: &str, items: &[T], text: impl Fn(&T) -> String) {
        if items.is_empty() {
            return;
        }
        self.heading(heading);
        for item in items {
            let _ = writeln!(self.text, "{}   {}", self.indent, text(item));
        }
    }
    /// The rights that tokens and roles have alike.
    fn identities(
        &mut self,
        services: &[ServiceIdentity],
        nodes: &[NodeIdentity],
        templated: &[TemplatedPolicy],
    ) {
        let datacenters = |all: &[String]| {
            if all.is_empty() { "all".to_owned() } else { all.join(", ") }
        };
        self.items("Service Identities", services, |one| {
            format!("{} (Datacenters: {})", one.service_name, datacenters(&one.datacenters))
        });
        self.items("Node Identities", nodes, |one| {
            format!("{} (Datacenter: {})", one.node_name, one.datacenter)
        });
        self.items("Templated Policies", templated, |one| {
            let name = &one.template_variables.name;
            let variables = if name.is_empty() { String::new() } else { format!("Name: {name}, ") };
            let datacenters = datacenters(&one.datacenters);
            format!("{} ({variables}Datacenters: {datacenters})", one.template_name)
        });
    }
}

fn link(link: &AclLink) -> String {
    format!("{} - {}", link.id, link.name)
}

/// A hash in hexadecimal.
fn hex(hash: Option<&String>) -> String {
    let bytes = hash.and_then(|text| BASE64_STANDARD.decode(text).ok()).unwrap_or_default();
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A time as people read it: `2026-11-30 22:11:41.5 +0000 UTC`.
fn time(text: &str) -> String {
    let text = text.replacen('T', " ", 1);
    if let Some(utc) = text.strip_suffix('Z') {
        return format!("{utc} +0000 UTC");
    }
    // The date has `-` as well: the offset is behind the seconds.
    match text.get(19..).and_then(|rest| rest.find(['+', '-'])) {
        Some(place) => {
            let (when, offset) = text.split_at(19 + place);
            let offset = offset.replace(':', "");
            format!("{when} {offset} {offset}")
        }
        None => text,
    }
}

fn token(token: &AclToken, meta: bool, in_list: bool) -> Lines {
    let mut lines = Lines::new("", 18);
    lines.line("AccessorID", &token.accessor_id);
    if let Some(secret) = &token.secret_id {
        lines.line("SecretID", secret);
    }
    lines.line("Description", &token.description);
    lines.line("Local", token.local);
    lines.set("Auth Method", &token.auth_method);
    lines.line("Create Time", time(token.create_time.as_deref().unwrap_or("0001-01-01T00:00:00Z")));
    if let Some(end) = &token.expiration_time {
        lines.line("Expiration Time", time(end));
    }
    if in_list {
        lines.line("Legacy", token.legacy.unwrap_or_default());
    }
    if meta {
        lines.line("Hash", hex(token.hash.as_ref()));
        lines.indexes(token.create_index, token.modify_index);
    }
    lines.items("Policies", &token.policies, link);
    lines.items("Roles", &token.roles, link);
    lines.identities(&token.service_identities, &token.node_identities, &token.templated_policies);
    lines
}

impl Show for AclToken {
    const BETWEEN: &'static str = "\n";
    fn one(&self, meta: bool) -> String {
        let mut lines = token(self, meta, false);
        if !self.rules.is_empty() {
            lines.heading("Rules");
            lines.text += &self.rules;
            lines.text.push('\n');
        }
        lines.text
    }
    fn row(&self, meta: bool) -> String {
        token(self, meta, true).text
    }
}

fn policy(policy: &AclPolicy, meta: bool, mut lines: Lines) -> Lines {
    lines.line("Description", &policy.description);
    lines.line("Datacenters", policy.datacenters.as_deref().unwrap_or_default().join(", "));
    if meta {
        lines.line("Hash", hex(policy.hash.as_ref()));
        lines.indexes(policy.create_index, policy.modify_index);
    }
    lines
}

impl Show for AclPolicy {
    fn one(&self, meta: bool) -> String {
        let mut lines = Lines::new("", 14);
        lines.line("ID", &self.id);
        lines.line("Name", &self.name);
        let mut lines = policy(self, meta, lines);
        lines.heading("Rules");
        lines.text + self.rules.as_deref().unwrap_or_default()
    }
    fn row(&self, meta: bool) -> String {
        let mut lines = Lines::new("   ", 14);
        lines.line("ID", &self.id);
        format!("{}:\n{}", self.name, policy(self, meta, lines).text)
    }
}

fn role(role: &AclRole, meta: bool, mut lines: Lines) -> Lines {
    lines.line("Description", &role.description);
    if meta {
        lines.line("Hash", hex(role.hash.as_ref()));
        lines.indexes(role.create_index, role.modify_index);
    }
    lines.items("Policies", &role.policies, link);
    lines.identities(&role.service_identities, &role.node_identities, &role.templated_policies);
    lines
}

impl Show for AclRole {
    fn one(&self, meta: bool) -> String {
        let mut lines = Lines::new("", 14);
        lines.line("ID", &self.id);
        lines.line("Name", &self.name);
        role(self, meta, lines).text
    }
    fn row(&self, meta: bool) -> String {
        let mut lines = Lines::new("   ", 14);
        lines.line("ID", &self.id);
        format!("{}:\n{}", self.name, role(self, meta, lines).text)
    }
}

impl Show for AuthMethod {
    fn one(&self, meta: bool) -> String {
        let mut lines = Lines::new("", 15);
        lines.line("Name", &self.name);
        lines.line("Type", &self.kind);
        lines.set("DisplayName", &self.display_name);
        lines.line("Description", &self.description);
        lines.set("MaxTokenTTL", self.max_token_ttl.as_deref().unwrap_or_default());
        lines.set("TokenLocality", &self.token_locality);
        if meta {
            lines.indexes(self.create_index, self.modify_index);
        }
        lines.heading("Config");
        let config = self.config.as_ref().unwrap_or(&Value::Null).to_string();
        lines.text + &indent(&escaped(&config), "  ")
    }
    fn row(&self, meta: bool) -> String {
        let mut lines = Lines::new("   ", 14);
        lines.line("Type", &self.kind);
        lines.set("DisplayName", &self.display_name);
        lines.line("Description", &self.description);
        if meta {
            lines.indexes(self.create_index, self.modify_index);
        }
        format!("{}:\n{}", self.name, lines.text)
    }
}

fn rule(rule: &BindingRule, meta: bool, mut lines: Lines) -> String {
    lines.line("AuthMethod", &rule.auth_method);
    lines.line("Description", &rule.description);
    lines.line("BindType", &rule.bind_type);
    lines.line("BindName", &rule.bind_name);
    lines.line("Selector", &rule.selector);
    if meta {
        lines.indexes(rule.create_index, rule.modify_index);
    }
    lines.text
}

impl Show for BindingRule {
    fn one(&self, meta: bool) -> String {
        let mut lines = Lines::new("", 14);
        lines.line("ID", &self.id);
        rule(self, meta, lines)
    }
    fn row(&self, meta: bool) -> String {
        format!("{}:\n{}", self.id, rule(self, meta, Lines::new("   ", 14)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_for_people() {
        for (given, expected) in [
            ("2026-11-30T22:11:41.58Z", "2026-11-30 22:11:41.58 +0000 UTC"),
            ("0001-01-01T00:00:00Z", "0001-01-01 00:00:00 +0000 UTC"),
            ("2026-11-30T22:11:41.5+01:00", "2026-11-30 22:11:41.5 +0100 +0100"),
            ("2026-11-30T22:11:41-02:30", "2026-11-30 22:11:41 -0230 -0230"),
            ("soon", "soon"),
            ("", ""),
        ] {
            assert_eq!(time(given), expected);
        }
    }

    #[test]
    fn hashes_are_hexadecimal() {
        assert_eq!(hex(Some(&"AP8Q".to_owned())), "00ff10");
        assert_eq!(hex(Some(&"?".to_owned())) + &hex(None), "");
    }
}
