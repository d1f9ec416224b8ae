//! `?filter=`: the boolean expressions of the API.
//!
//! ```text
//! Service.Port == 80 and ("v2" in Service.Tags or Service.Meta.env != prod) and not Node.Meta is empty
//! ```
//!
//! Two steps: [`Filter::parse`] once for a request, [`Filter::matches`] once for a row.
//!
//! ```
//! use muster_agent::filter::{Filter, rows::Placed, schema};
//! # use muster_agent::store::{Node, Service};
//! # fn example<'a>(text: &str, services: Vec<(&'a Node, &'a Service)>) -> Result<Vec<(&'a Node, &'a Service)>, String> {
//! let filter = Filter::parse(text, &schema::CATALOG_SERVICE)
//!     .map_err(|error| format!("Failed to create boolean expression evaluator: {error}"))?;
//! Ok(services.into_iter().filter(|(node, service)| filter.matches(&Placed { node, service })).collect())
//! # }
//! ```
//!
//! | rows of | schema | row |
//! |---|---|---|
//! | `catalog/nodes` | [`schema::NODE`] | `store::Node` |
//! | `catalog/service/:name` | [`schema::CATALOG_SERVICE`] | [`rows::Placed`] |
//! | services in `catalog/node/:node`, `catalog/node-services/:node` | [`schema::SERVICE`] | `store::Service` |
//! | `health/service/:name` | [`schema::SERVICE_ENTRY`] | `store::Instance` |
//! | `health/node`, `health/checks`, `health/state` | [`schema::CHECK`] | `store::Check` |
//! | `agent/services` | [`schema::SERVICE`] | `client::types::AgentService` |
//! | `agent/checks` | [`schema::CHECK`] | `client::types::AgentCheck` |
//!
//! Other row types implement [`Row`]. The reference puts `Failed to create boolean expression
//! evaluator: ` before the error's text everywhere but in `agent/checks`; the interface does that.
//!
//! The grammar, the checks and the words of every error are the reference's; `grammar.rs` says how.
//! On purpose different: a missing map key does not match a regular expression (in the reference it
//! matched all of them, which later versions mended), and what follows `error parsing regexp:` are
//! the words of our engine. Input is bounded: [`TEXT_BYTES_MAX`] bytes, [`DEPTH_MAX`] levels,
//! [`REGEXES_MAX`] regular expressions, which run in linear time.

mod coerce;
mod expression;
mod grammar;
pub mod rows;
pub mod schema;

pub use expression::{Filter, Row, RowList, RowMap, Value};

/// Longest expression, bytes.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;
/// Deepest nesting of parentheses and `not`; each level costs stack.
pub const DEPTH_MAX: usize = 64;
/// Most regular expressions in one expression; each may take [`REGEX_BYTES_MAX`] of memory.
pub const REGEXES_MAX: usize = 64;
/// Largest compiled regular expression, bytes.
pub const REGEX_BYTES_MAX: usize = 256 * 1024;
/// Bytes of all compiled regular expressions of one expression: a read that waits for a change keeps them.
pub const REGEXES_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes that a regular expression may use to be fast; with less it is slower.
pub(crate) const REGEX_CACHE_BYTES_MAX: usize = 64 * 1024;

/// A text is not a filter for a type of rows. `Display` is the reference's text where it has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not an expression: where, and what was expected there.
    #[error("{0}")]
    Syntax(String),
    /// The rows have no such field.
    #[error("Selector \"{0}\" is not valid")]
    Selector(String),
    /// The field's type knows no such operator.
    #[error("Invalid match operator \"{operator}\" for selector \"{selector}\"")]
    Operator {
        /// As the reference names it: `Is Not Empty`, ...
        operator: &'static str,
        /// The field.
        selector: String,
    },
    /// The value cannot be compared with the field.
    #[error("Failed to coerce value \"{value}\" for selector \"{selector}\": {why}")]
    Coerce {
        /// As written.
        value: String,
        /// The field.
        selector: String,
        /// In the words of the reference's number and bool parsers.
        why: String,
    },
    /// Not a regular expression.
    #[error("Failed to compile regular expression \"{value}\": error parsing regexp: {why}")]
    Regex {
        /// As written.
        value: String,
        /// The reason.
        why: String,
    },
    /// Longer than [`TEXT_BYTES_MAX`].
    #[error("the expression is longer than {TEXT_BYTES_MAX} bytes")]
    TooLong,
    /// Deeper than [`DEPTH_MAX`].
    #[error("the expression is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// More than [`REGEXES_MAX`].
    #[error("the expression has more than {REGEXES_MAX} regular expressions")]
    TooManyRegexes,
}

#[cfg(test)]
mod tests;
