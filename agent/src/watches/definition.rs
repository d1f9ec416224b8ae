//! Watches as configuration files write them; the texts of errors are the reference's.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_client::types::parse_duration;
use serde_json::{Map, Value};

use super::question::{Parameters, Question, TYPES};
use crate::spelling;

/// Longest run of a request to a handler when nothing else is said.
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);

/// A question, and who is told of its answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// The query.
    pub question: Question,
    /// Its type, for handlers and the log.
    pub kind: String,
    /// Another datacenter than the agent's.
    pub datacenter: Option<String>,
    /// Token of the query.
    pub token: Option<String>,
    /// Any server may answer.
    pub stale: bool,
    /// Handler of changes.
    pub handler: Handler,
}

/// Handler of changes.
#[derive(Debug, Clone, PartialEq)]
pub enum Handler {
    /// A line for a shell, or a program with its arguments.
    Script {
        /// The words.
        words: Vec<String>,
        /// The one word is a line for a shell.
        shell: bool,
    },
    /// A request with the answer as its body.
    Http {
        /// URL.
        url: String,
        /// POST unless it says otherwise.
        method: String,
        /// Headers.
        headers: BTreeMap<String, Vec<String>>,
        /// For the whole request.
        timeout: Duration,
        /// Do not look at the certificate.
        skip_verify: bool,
    },
}

/// Reads one definition.
pub fn parse(value: &Value) -> Result<Definition, String> {
    let mut fields = Fields(value.as_object().cloned().unwrap_or_default());
    let handler_type = fields.text("handler_type")?;
    let handler = fields.take("handler");
    let arguments = fields.take("args");
    let http = fields.take("http_handler_config");
    let kind = fields.text("type")?;
    if kind.is_empty() {
        return Err("Watch type must be defined".into());
    }
    let handler = who(&handler_type, handler, arguments, http)?;
    let parameters = Parameters {
        key: fields.text("key")?,
        prefix: fields.text("prefix")?,
        service: fields.text("service")?,
        tags: fields.texts("tag")?,
        passing_only: fields.switch("passingonly")?,
        state: fields.text("state")?,
        name: fields.text("name")?,
    };
    let question = Question::new(&kind, &parameters).map_err(|why| {
        let near = spelling::nearest(&kind, TYPES.iter().copied());
        match near {
            Some(near) if !TYPES.contains(&kind.as_str()) => {
                format!("{why}\nhint: did you mean `{near}`?")
            }
            _ => why,
        }
    })?;
    let definition = Definition {
        question,
        kind,
        datacenter: Some(fields.text("datacenter")?).filter(|text| !text.is_empty()),
        token: Some(fields.text("token")?).filter(|text| !text.is_empty()),
        stale: fields.switch("stale")?,
        handler,
    };
    let left: Vec<&str> = fields.0.keys().map(String::as_str).collect();
    if left.is_empty() {
        Ok(definition)
    } else {
        Err(format!("Invalid parameters: [{}]", left.join(" ")))
    }
}

fn who(
    handler_type: &str,
    handler: Option<Value>,
    arguments: Option<Value>,
    http: Option<Value>,
) -> Result<Handler, String> {
    let is_http = match handler_type {
        "" | "script" => false,
        "http" => true,
        other => return Err(format!("Handler type '{other}' not recognized")),
    };
    match (handler, arguments, http) {
        (Some(_), _, _) | (_, Some(_), _) if is_http => {
            Err("Only one watch handler allowed".into())
        }
        (Some(_), Some(_), _) => Err("Only one watch handler allowed".into()),
        (None, None, Some(config)) if is_http => http_handler(&config),
        (None, None, None) if is_http => Err("http_handler_config is missing".into()),
        (Some(Value::String(line)), None, _) => {
            Ok(Handler::Script { words: vec![line], shell: true })
        }
        (Some(_), None, _) => Err("Watch handler must be a string".into()),
        (None, Some(Value::Array(words)), _) => {
            let words = words
                .iter()
                .map(|word| word.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
                .filter(|words| !words.is_empty())
                .ok_or("Watch args must be a list of strings")?;
            Ok(Handler::Script { words, shell: false })
        }
        (None, Some(_), _) => Err("Watch args must be a list of strings".into()),
        (None, None, _) => Err("Must define a watch handler".into()),
    }
}

fn http_handler(config: &Value) -> Result<Handler, String> {
    // Blocks in HCL come as lists.
    let config = config.as_array().and_then(|blocks| blocks.first()).unwrap_or(config);
    let mut fields = Fields(config.as_object().cloned().unwrap_or_default());
    let url = fields.text("path")?;
    if url.is_empty() {
        return Err("Requires 'path' to be set".into());
    }
    let timeout = match fields.text("timeout")?.as_str() {
        "" => HTTP_TIMEOUT,
        text => parse_duration(text)
            .map_err(|_| format!("Failed to parse timeout: time: invalid duration {text:?}"))?,
    };
    let method = match fields.text("method")?.as_str() {
        "" => "POST".to_owned(),
        method => method.to_uppercase(),
    };
    let mut headers = BTreeMap::new();
    for (name, values) in fields.object("header")? {
        let values = match values {
            Value::String(value) => vec![value],
            Value::Array(values) => {
                values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
            }
            _ => return Err(format!("header `{name}` must be a list of strings")),
        };
        headers.insert(name, values);
    }
    let skip_verify = fields.switch("tls_skip_verify")?;
    let left: Vec<&str> = fields.0.keys().map(String::as_str).collect();
    if !left.is_empty() {
        return Err(format!("Invalid parameters: http_handler_config [{}]", left.join(" ")));
    }
    Ok(Handler::Http { url, method, headers, timeout, skip_verify })
}

/// Fields of a definition, taken one by one.
struct Fields(Map<String, Value>);

impl Fields {
    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    fn text(&mut self, name: &str) -> Result<String, String> {
        match self.take(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(format!("Expecting {name} to be a string")),
        }
    }

    fn texts(&mut self, name: &str) -> Result<Vec<String>, String> {
        let wrong = || format!("Expecting {name} to be a string or []string");
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text]),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong))
                .collect(),
            Some(_) => Err(wrong()),
        }
    }

    fn switch(&mut self, name: &str) -> Result<bool, String> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(on)) => Ok(on),
            Some(Value::String(text)) if text == "true" || text == "false" => Ok(text == "true"),
            Some(_) => Err(format!("Expecting {name} to be a boolean")),
        }
    }

    fn object(&mut self, name: &str) -> Result<Map<String, Value>, String> {
        match self.take(name) {
            None => Ok(Map::new()),
            Some(Value::Object(fields)) => Ok(fields),
            Some(Value::Array(mut blocks)) if blocks.len() == 1 && blocks[0].is_object() => {
                match blocks.remove(0) {
                    Value::Object(fields) => Ok(fields),
                    _ => Ok(Map::new()),
                }
            }
            Some(_) => Err(format!("Expecting {name} to be an object")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn definitions_that_people_write() {
        let watches = json!([
            {"type": "key", "key": "a/b", "handler_type": "script", "args": ["/bin/x", "-y"]},
            {"type": "service", "service": "web", "tag": ["a", "b"], "passingonly": true, "handler": "x | y"},
            {"type": "checks", "state": "critical", "handler_type": "http",
             "http_handler_config": {"path": "https://h/x", "method": "put", "timeout": "5s",
                                     "header": {"a": ["b"]}, "tls_skip_verify": true}},
            {"type": "event", "datacenter": "dc2", "token": "t", "args": ["x"]},
        ]);
        let parsed = watches
            .as_array()
            .expect("a list")
            .iter()
            .map(parse)
            .collect::<Result<Vec<_>, _>>()
            .expect("valid");
        assert_eq!(parsed.len(), 4);
        assert!(matches!(&parsed[1].handler, Handler::Script { shell: true, .. }));
        let Handler::Http { method, timeout, skip_verify, .. } = &parsed[2].handler else {
            panic!("a request");
        };
        assert_eq!(
            (method.as_str(), *timeout, *skip_verify),
            ("PUT", Duration::from_secs(5), true)
        );
        assert_eq!(parsed[3].datacenter.as_deref(), Some("dc2"));
    }

    #[test]
    fn mistakes_are_named() {
        let rows = [
            (json!({"args": ["x"]}), "Watch type must be defined"),
            (json!({"type": "key", "key": "a"}), "Must define a watch handler"),
            (json!({"type": "key", "args": ["x"]}), "Must specify a single key to watch"),
            (
                json!({"type": "key", "key": "a", "args": "x"}),
                "Watch args must be a list of strings",
            ),
            (json!({"type": "key", "key": "a", "handler": 1}), "Watch handler must be a string"),
            (
                json!({"type": "key", "key": "a", "handler": "x", "args": ["x"]}),
                "Only one watch handler allowed",
            ),
            (
                json!({"type": "key", "key": "a", "args": ["x"], "bogus": 1, "zap": 2}),
                "Invalid parameters: [bogus zap]",
            ),
            (
                json!({"type": "key", "key": "a", "handler_type": "mail", "args": ["x"]}),
                "Handler type 'mail' not recognized",
            ),
            (json!({"type": "kye", "args": ["x"]}), "did you mean `key`?"),
            (
                json!({"type": "key", "key": "a", "handler_type": "http", "http_handler_config": {}}),
                "Requires 'path' to be set",
            ),
        ];
        for (watch, expected) in rows {
            let error = parse(&watch).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
    }
}
