//! Reasons for refusing a command, with the reference's texts: clients match on them.

use std::fmt::{self, Write as _};

/// A command that cannot be done as it stands. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("Must provide node")]
    NodeNameMissing,
    #[error("Must provide address if SkipNodeUpdate is not set")]
    AddressMissing,
    #[error("Must provide service name with ID")]
    ServiceNameMissing,
    #[error("Bad node ID: {0}")]
    NodeId(&'static str),
    #[error("Must provide key")]
    KeyMissing,
    #[error("failed inserting check: object missing primary index")]
    CheckIdMissing,
    #[error("Missing node registration")]
    MissingNode,
    #[error("Missing service registration")]
    MissingService,
    #[error("failed inserting node: {0}")]
    Node(#[source] Box<Refusal>),
    #[error("failed inserting service: {0}")]
    Service(#[source] Box<Refusal>),
    #[error("failed inserting check: {refusal} on node {}", Quoted(node))]
    Check { node: String, refusal: Box<Refusal> },
    #[error("check node {} does not match node {}", Quoted(check), Quoted(node))]
    CheckOfOtherNode { check: String, node: String },
    #[error("Error while renaming Node ID: {}{}: {conflict}", Quoted(id), address.as_ref().map(|a| format!(" ({a})")).unwrap_or_default())]
    Rename { id: String, address: Option<String>, conflict: Box<Refusal> },
    #[error("Node name {wanted} is reserved by node {id} with name {name} ({address})")]
    NameReserved { wanted: String, id: String, name: String, address: String },
    #[error("Invalid Service Meta for node {node} and serviceID {service}: {what}")]
    ServiceMeta { node: String, service: String, what: String },
    #[error("Missing check '{0}' registration")]
    MissingCheck(String),
    #[error("Check '{0}' is in critical state")]
    CriticalCheck(String),
    #[error("missing session")]
    SessionMissing,
    #[error("invalid session {}", Quoted(.0))]
    SessionUnknown(String),
    #[error("failed session lookup: index error: {0}")]
    SessionId(String),
    #[error("the restore cannot go on: {0}")]
    Restore(String),
    #[error("{0}")]
    Text(String),
}

/// A name in quotation marks, escaped as the reference prints it.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\u{7}' => f.write_str("\\a")?,
                '\u{8}' => f.write_str("\\b")?,
                '\u{c}' => f.write_str("\\f")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                '\u{b}' => f.write_str("\\v")?,
                c if c.is_ascii_control() => write!(f, "\\x{:02x}", u32::from(c))?,
                c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::Quoted;

    #[test]
    fn names_are_quoted_as_the_reference_does() {
        for (name, quoted) in [
            ("plain/key", r#""plain/key""#),
            ("a\"b\\c", r#""a\"b\\c""#),
            ("tab\tnul\0", r#""tab\tnul\x00""#),
            ("ümläut", r#""ümläut""#),
            ("it's", r#""it's""#),
        ] {
            assert_eq!(Quoted(name).to_string(), quoted);
        }
    }
}
