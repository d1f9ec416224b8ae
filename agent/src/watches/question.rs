//! Query of a watch: its type and parameters, as the command line and configuration files write them,
//! and the shape in which programs behind a watch know the answers.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_client::types::KvPair;
use muster_client::{Answer, Query};
use serde_json::Value;

use crate::json;

/// Every type.
pub const TYPES: [&str; 7] =
    ["key", "keyprefix", "services", "nodes", "service", "checks", "event"];

/// A type with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Path below `/v1`.
    path: String,
    parameters: Vec<(String, String)>,
    shape: Shape,
}

/// Conversion of an answer's body to the watch's JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    AsIs,
    /// The first pair of a list, or `null`.
    Pair,
    /// A list of pairs, or `null`.
    Pairs,
}

/// Parameters of a question, however they were written.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    /// For type key.
    pub key: String,
    /// For type keyprefix.
    pub prefix: String,
    /// For types service and checks.
    pub service: String,
    /// For type service.
    pub tags: Vec<String>,
    /// For type service.
    pub passing_only: bool,
    /// For type checks.
    pub state: String,
    /// For type event.
    pub name: String,
}

impl Question {
    /// Joins a type with its parameters; the error is the reference's text.
    pub fn new(kind: &str, with: &Parameters) -> Result<Question, String> {
        let mut parameters = Vec::new();
        let mut add = |name: &str, value: &str| {
            parameters.push((name.to_owned(), value.to_owned()));
        };
        let need = |given: &str, what: &str| match given {
            "" => Err(format!("Must specify a single {what} to watch")),
            given => Ok(given.to_owned()),
        };
        // The reference follows the redirection that agents answer to leading slashes: they mean nothing.
        let below = |given: String| format!("/v1/kv/{}", given.trim_start_matches('/'));
        let (path, shape) = match kind {
            "key" => (below(need(&with.key, "key")?), Shape::Pair),
            "keyprefix" => {
                add("recurse", "");
                (below(need(&with.prefix, "prefix")?), Shape::Pairs)
            }
            "services" => ("/v1/catalog/services".to_owned(), Shape::AsIs),
            "nodes" => ("/v1/catalog/nodes".to_owned(), Shape::AsIs),
            "service" => {
                let path = format!("/v1/health/service/{}", need(&with.service, "service")?);
                with.tags.iter().for_each(|tag| add("tag", tag));
                if with.passing_only {
                    add("passing", "");
                }
                (path, Shape::AsIs)
            }
            "checks" => match (with.service.as_str(), with.state.as_str()) {
                ("", "") => ("/v1/health/state/any".to_owned(), Shape::AsIs),
                ("", state) => (format!("/v1/health/state/{state}"), Shape::AsIs),
                (service, "") => (format!("/v1/health/checks/{service}"), Shape::AsIs),
                _ => return Err("Cannot specify service and state".into()),
            },
            "event" => {
                if !with.name.is_empty() {
                    add("name", &with.name);
                }
                ("/v1/event/list".to_owned(), Shape::AsIs)
            }
            other => return Err(format!("Unsupported watch type: {other}")),
        };
        Ok(Question { path, parameters, shape })
    }

    /// For the client.
    pub fn query(&self) -> Query {
        Query::Path { path: self.path.clone(), parameters: self.parameters.clone() }
    }

    /// The answer as one line of JSON.
    pub fn json(&self, answer: Answer) -> Result<String, serde_json::Error> {
        // A watch on a path answers with a path's body, or with none.
        let Answer::Path(Some(body)) = answer else { return Ok("null".to_owned()) };
        if self.shape == Shape::AsIs {
            // Checked, but kept as it was written: names keep their order.
            serde_json::from_slice::<Value>(&body)?;
            return Ok(json::compact(&String::from_utf8_lossy(&body)));
        }
        let pairs: Option<Vec<KvPair>> = serde_json::from_slice(&body)?;
        let rows: Vec<String> = pairs.iter().flatten().map(pair).collect();
        Ok(match (self.shape, pairs) {
            (_, None) => "null".to_owned(),
            (Shape::Pair, _) => rows.into_iter().next().unwrap_or_else(|| "null".to_owned()),
            _ => format!("[{}]", rows.join(",")),
        })
    }
}

/// A pair with its fields in the order that programs behind a watch know.
fn pair(pair: &KvPair) -> String {
    let mut text = format!(
        r#"{{"Key":{},"CreateIndex":{},"ModifyIndex":{},"LockIndex":{},"Flags":{},"Value":"#,
        json::text(&pair.key),
        pair.create_index,
        pair.modify_index,
        pair.lock_index,
        pair.flags
    );
    if pair.value.is_empty() {
        text.push_str("null");
    } else {
        let _ = write!(text, "\"{}\"", STANDARD.encode(&pair.value));
    }
    let session = json::text(pair.session.as_deref().unwrap_or_default());
    let _ = write!(text, ",\"Session\":{session}}}");
    text
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn answers_become_json() {
        let list = r#"[ {"LockIndex":1,"Key":"a<b","Flags":2,"Value":"aGk=","CreateIndex":3,"ModifyIndex":4} ]"#;
        let row = r#"{"Key":"a\u003cb","CreateIndex":3,"ModifyIndex":4,"LockIndex":1,"Flags":2,"Value":"aGk=","Session":""}"#;
        let rows = [
            (Shape::Pair, Some(list), row.to_owned()),
            (Shape::Pairs, Some(list), format!("[{row}]")),
            (Shape::Pair, None, "null".to_owned()),
            (Shape::Pairs, None, "null".to_owned()),
            (Shape::AsIs, Some("{\n  \"web\": [ ]\n}\n"), r#"{"web":[]}"#.to_owned()),
        ];
        for (shape, body, expected) in rows {
            let question = Question { path: String::new(), parameters: Vec::new(), shape };
            let answer = Answer::Path(body.map(|body| Bytes::from(body.to_owned())));
            assert_eq!(question.json(answer).expect("JSON"), expected);
            let broken = Answer::Path(Some(Bytes::from_static(b"{")));
            assert!(question.json(broken).is_err());
        }
    }

    #[test]
    fn leading_slashes_of_keys_mean_nothing() {
        for (given, path) in
            [("a/b/", "/v1/kv/a/b/"), ("/a", "/v1/kv/a"), ("//a", "/v1/kv/a"), ("/", "/v1/kv/")]
        {
            let with =
                Parameters { key: given.into(), prefix: given.into(), ..Parameters::default() };
            for kind in ["key", "keyprefix"] {
                assert_eq!(Question::new(kind, &with).expect(kind).path, path);
            }
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let rows = [
            ("key", "Must specify a single key to watch"),
            ("keyprefix", "Must specify a single prefix to watch"),
            ("service", "Must specify a single service to watch"),
            ("keys", "Unsupported watch type: keys"),
        ];
        for (kind, expected) in rows {
            let error = Question::new(kind, &Parameters::default()).expect_err(kind);
            assert_eq!(error, expected);
        }
    }
}
