//! Reader of users' JSON, with the rules that the API's clients are used to: request bodies, and the
//! definitions in configuration files.
//!
//! Field names match without regard to case, `null` leaves a field at its default, what follows
//! the first value is ignored, and a field that nobody took is an error that names it.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// A body that is not what the end point takes. `Display` continues `Request decode failed: `.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) String);

/// Reads the first JSON value of a body.
pub(crate) fn value(body: &[u8]) -> Result<Value, Malformed> {
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    match values.next() {
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => Err(Malformed(error.to_string())),
        None => Err(Malformed("EOF".into())),
    }
}

/// The fields of a JSON object, taken one by one; what is left at the end is unknown.
#[derive(Debug)]
pub(crate) struct Object {
    fields: Map<String, Value>,
    /// Underscores in names do not count: `tagged_addresses` is `TaggedAddresses`.
    snake_case: bool,
}

impl Object {
    /// The object that a body holds; `null` is an empty one.
    pub(crate) fn parse(body: &[u8]) -> Result<Object, Malformed> {
        Object::from(value(body)?, "body")
    }

    /// An object without fields.
    pub(crate) fn empty() -> Object {
        Object { fields: Map::new(), snake_case: false }
    }

    /// The object that a value is; `name` is for the error.
    pub(crate) fn from(value: Value, name: &str) -> Result<Object, Malformed> {
        match value {
            Value::Object(fields) => Ok(Object { fields, snake_case: false }),
            Value::Null => Ok(Object { fields: Map::new(), snake_case: false }),
            other => Err(wrong_type(name, &other, "object")),
        }
    }

    /// Takes names in snake case too, as definitions in configuration files have them.
    pub(crate) fn snake_case(self) -> Object {
        Object { snake_case: true, ..self }
    }

    /// The field of this name, spelt exactly or else in any case. `null` counts as absent.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        let value = if let Some(value) = self.fields.remove(name) {
            Some(value)
        } else {
            let key = self.fields.keys().find(|key| self.is(key, name))?.clone();
            self.fields.remove(&key)
        };
        value.filter(|value| !value.is_null())
    }

    fn is(&self, key: &str, name: &str) -> bool {
        key.eq_ignore_ascii_case(name)
            || (self.snake_case
                && key.contains('_')
                && key.split('_').collect::<String>().eq_ignore_ascii_case(name))
    }

    /// Is the field there, as something else than `null`?
    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(key, value)| self.is(key, name) && !value.is_null())
    }

    /// A text; absent is empty.
    pub(crate) fn string(&mut self, name: &str) -> Result<String, Malformed> {
        match self.take(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(wrong_type(name, &other, "string")),
        }
    }

    /// A flag; absent is false.
    pub(crate) fn flag(&mut self, name: &str) -> Result<bool, Malformed> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(wrong_type(name, &other, "bool")),
        }
    }

    /// A whole number; absent is zero.
    pub(crate) fn integer(&mut self, name: &str) -> Result<i64, Malformed> {
        match self.take(name) {
            None => Ok(0),
            Some(value) => value.as_i64().ok_or_else(|| wrong_type(name, &value, "int")),
        }
    }

    /// A whole number that is not negative; absent is zero.
    pub(crate) fn unsigned(&mut self, name: &str) -> Result<u64, Malformed> {
        match self.take(name) {
            None => Ok(0),
            Some(value) => value.as_u64().ok_or_else(|| wrong_type(name, &value, "uint64")),
        }
    }

    /// A list; absent is empty.
    pub(crate) fn list(&mut self, name: &str) -> Result<Vec<Value>, Malformed> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items),
            Some(other) => Err(wrong_type(name, &other, "array")),
        }
    }

    /// A list of texts; absent is empty, `null` in it is an empty text.
    pub(crate) fn strings(&mut self, name: &str) -> Result<Vec<String>, Malformed> {
        self.list(name)?
            .into_iter()
            .map(|item| match item {
                Value::String(text) => Ok(text),
                Value::Null => Ok(String::new()),
                other => Err(wrong_type(name, &other, "string")),
            })
            .collect()
    }

    /// An object inside this one.
    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Object>, Malformed> {
        self.take(name).map(|value| Object::from(value, name)).transpose()
    }

    /// Objects in a list.
    pub(crate) fn objects(&mut self, name: &str) -> Result<Vec<Object>, Malformed> {
        self.list(name)?.into_iter().map(|value| Object::from(value, name)).collect()
    }

    /// Pairs of name and text, names as written.
    pub(crate) fn pairs(&mut self, name: &str) -> Result<Vec<(String, String)>, Malformed> {
        let Some(object) = self.object(name)? else { return Ok(Vec::new()) };
        object
            .fields
            .into_iter()
            .map(|(key, value)| match value {
                Value::String(text) => Ok((key, text)),
                Value::Null => Ok((key, String::new())),
                other => Err(wrong_type(name, &other, "string")),
            })
            .collect()
    }

    /// All fields that are left, names as written.
    pub(crate) fn rest(self) -> Map<String, Value> {
        self.fields
    }

    /// Ends the reading: a field that nobody took is unknown.
    pub(crate) fn finish(self) -> Result<(), Malformed> {
        match self.fields.keys().next() {
            None => Ok(()),
            Some(name) => Err(Malformed(format!("json: unknown field {name:?}"))),
        }
    }
}

/// The value of a field has another type than the field.
pub(crate) fn wrong_type(name: &str, value: &Value, wanted: &str) -> Malformed {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    Malformed(format!(
        "json: cannot unmarshal {found} into Go struct field {name} of type {wanted}"
    ))
}

/// JSON without blanks between its parts.
pub(crate) fn compact(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    parts(json, |part| {
        if !part.trim().is_empty() {
            text.push_str(part);
        }
    });
    text
}

/// Cuts JSON into its marks, texts and everything between; nothing is lost.
pub(crate) fn parts(json: &str, mut part: impl FnMut(&str)) {
    let bytes = json.as_bytes();
    let mut begin = 0;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at = (at + 1).min(bytes.len());
            }
            b'{' | b'}' | b'[' | b']' | b',' | b':' => at += 1,
            c if c.is_ascii_whitespace() => {
                while at < bytes.len() && bytes[at].is_ascii_whitespace() {
                    at += 1;
                }
            }
            _ => {
                while at < bytes.len()
                    && !bytes[at].is_ascii_whitespace()
                    && !br#"{}[],:""#.contains(&bytes[at])
                {
                    at += 1;
                }
            }
        }
        if let Some(found) = json.get(begin..at) {
            part(found);
        }
        begin = at;
    }
}

/// A text as JSON, with the escapes that the API uses.
pub(crate) fn text(text: &str) -> String {
    let quoted = serde_json::Value::String(text.to_owned()).to_string();
    let mut escaped = String::with_capacity(quoted.len());
    for c in quoted.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(escaped, "\\u{:04x}", u32::from(c));
            }
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_taken_in_any_case_and_the_rest_is_unknown() {
        let mut object =
            Object::parse(br#"{"NAME":"a","tags":["x",null],"Port":8,"n":null,"Bogus":1} tail"#)
                .unwrap();
        assert_eq!(object.string("Name").unwrap(), "a");
        assert_eq!(object.strings("Tags").unwrap(), ["x", ""]);
        assert_eq!(object.integer("Port").unwrap(), 8);
        assert_eq!(object.string("N").unwrap(), "");
        assert_eq!(object.finish(), Err(Malformed("json: unknown field \"Bogus\"".into())));
    }

    #[test]
    fn snake_case_is_taken_where_it_is_asked_for() {
        let fields = || Object::parse(br#"{"tagged_addresses":{},"ID":"x"}"#).unwrap();
        assert!(fields().take("TaggedAddresses").is_none());
        let mut loose = fields().snake_case();
        assert!(loose.take("TaggedAddresses").is_some());
        assert_eq!(loose.string("ID").unwrap(), "x");
        assert!(loose.finish().is_ok());
    }

    #[test]
    fn bodies_that_are_no_objects_are_refused() {
        for body in ["", "[]", "1", "\"x\"", "{", "nul"] {
            assert!(Object::parse(body.as_bytes()).is_err(), "{body}");
        }
        assert!(Object::parse(b"null").unwrap().finish().is_ok());
    }
}
