//! HCL 1 and the JSON that may stand in its place, as a tree that keeps order, repetitions and positions.
//!
//! `scan` cuts the text into tokens, `parse` and `json` build the tree. Texts of errors and their
//! positions are the reference's: people search for them.
//!
//! | written | items |
//! |---|---|
//! | `a = 1` | keys `a`, value `1` |
//! | `a "x" { b = 1 }` | keys `a`, `x`; value an object |
//! | `{"a": {"x": {"b": 1}}}` | the same: objects of objects are unfolded into keys |

mod json;
mod parse;
mod scan;

use std::fmt;

/// Deeper nesting is refused: nobody writes it, and recursion has to end.
const DEPTH_MAX: usize = 64;

/// A place in the text; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// The text is in neither language: where and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Error {
    pub(crate) at: Option<Position>,
    pub(crate) what: String,
    /// The reference writes `At` before positions of its own language only.
    json: bool,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(at) if self.json => write!(f, "{at}: {}", self.what),
            Some(at) => write!(f, "At {at}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

impl std::error::Error for Error {}

/// One of an object's items: `a "b" = …`, `a "b" { … }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) keys: Vec<Key>,
    pub(crate) value: Value,
}

/// A name before a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) at: Position,
}

/// What an item is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// A text; a heredoc, too.
    Text(String, Position),
    /// A whole number as written.
    Number(String, Position),
    /// A number with a fraction as written.
    Float(String, Position),
    /// `true` or `false`.
    Flag(bool, Position),
    /// `[ … ]`
    List(Vec<Value>, Position),
    /// `{ … }`
    Object(Vec<Item>, Position),
}

impl Value {
    /// Its position.
    pub(crate) fn at(&self) -> Position {
        match self {
            Value::Text(_, at)
            | Value::Number(_, at)
            | Value::Float(_, at)
            | Value::Flag(_, at)
            | Value::List(_, at)
            | Value::Object(_, at) => *at,
        }
    }
}

/// A whole text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) items: Vec<Item>,
    /// It was written as JSON.
    pub(crate) json: bool,
}

/// Parses a text. One that begins with `{` is JSON.
pub(crate) fn parse(text: &str) -> Result<Document, Error> {
    if text.trim_start().starts_with('{') {
        json::parse(text).map(|items| Document { items, json: true })
    } else {
        let text = text.replace("\r\n", "\n");
        parse::parse(&text).map(|items| Document { items, json: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named_as_the_reference_names_them() {
        let rows = [
            ("key \"a\" { policy = \"read\"", "At 1:27: object expected closing RBRACE got: EOF"),
            ("key \"a\" {", "At 1:11: object expected closing RBRACE got: EOF"),
            (
                "key \"a\"",
                "At 1:8: key 'key \"a\"' expected start of object ('{') or assignment ('=')",
            ),
            ("key", "At 1:5: key 'key' expected start of object ('{') or assignment ('=')"),
            ("key \"a\" policy = \"read\"", "At 1:16: nested object expected: LBRACE got: ASSIGN"),
            (
                "key \"a\" { policy \"read\" }",
                "At 1:25: key 'policy \"read\"' expected start of object ('{') or assignment ('=')",
            ),
            ("key \"a\" { policy = }", "At 1:21: object expected closing RBRACE got: EOF"),
            ("key \"a\" { policy = read }", "At 1:20: Unknown token: 1:20 IDENT read"),
            ("= \"read\"", "At 1:1: no object keys found!"),
            ("}", "At 1:1: expected: IDENT | STRING | ASSIGN | LBRACE got: RBRACE"),
            ("[]", "At 1:1: expected: IDENT | STRING | ASSIGN | LBRACE got: LBRACK"),
            ("key \"a { policy = \"read\" }", "At 1:27: literal not terminated"),
            ("key \"a\" { policy = \"read\n}", "At 1:25: literal not terminated"),
            (
                "key \"a\" { policy = \"read\" } }",
                "At 1:29: expected: IDENT | STRING | ASSIGN | LBRACE got: RBRACE",
            ),
            (
                "key \"a\" { policy = \"read\" ]",
                "At 1:27: expected: IDENT | STRING | ASSIGN | LBRACE got: RBRACK",
            ),
            ("key 'a' { policy = \"read\" }", "At 1:5: illegal char"),
            ("key \"a\" { policy: \"read\" }", "At 1:17: illegal char"),
            ("/* open", "At 1:8: comment not terminated"),
            ("key \"a\" { policy = [ }", "At 1:23: object expected closing RBRACE got: EOF"),
            (
                "key \"a\" { policy = [ \"a\" \"b\" ] }",
                "At 1:26: error parsing list, expected comma or list end, got: STRING",
            ),
            (
                "key = [ { ]",
                "At 1:9: error while trying to parse object within list: At 1:11: expected: IDENT | STRING | ASSIGN | LBRACE got: RBRACK",
            ),
            ("key \"a\" { policy = \"re\\qad\" }", "At 1:24: illegal char escape"),
            (
                "key \"a\" { policy = 1z }",
                "At 1:23: key 'z' expected start of object ('{') or assignment ('=')",
            ),
            (
                "operator",
                "At 1:10: key 'operator' expected start of object ('{') or assignment ('=')",
            ),
            ("key \"a\" { policy = <<E\nread", "At 2:5: heredoc not terminated"),
            ("key \"a\" { policy = <<\nread", "At 1:22: zero-length heredoc anchor"),
            ("operator = <<E\nread\nE", "At 3:2: heredoc not terminated"),
            (
                "key 5 { policy = \"read\" }",
                "At 1:5: expected: IDENT | STRING | ASSIGN | LBRACE got: NUMBER",
            ),
            ("true = \"x\"", "At 1:1: expected: IDENT | STRING | ASSIGN | LBRACE got: BOOL"),
            ("key \"${a\" { policy = \"zap\" }", "At 1:29: literal not terminated"),
            ("{ key \"a\" { policy = \"read\" } }", "1:5: illegal char"),
            ("{ 'key': 1 }", "1:3: illegal char: '"),
            ("{ \"key\": 'x' }", "1:10: illegal char: '"),
            ("{ \"key\": tru }", "1:12: illegal char"),
            ("{ \"key\" 1 }", "expected: STRING got: NUMBER"),
            ("{ \"key: 1 }", "1:12: literal not terminated"),
        ];
        for (text, told) in rows {
            assert_eq!(
                parse(text).map_err(|error| error.to_string()),
                Err(told.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn what_the_reference_forgives_is_forgiven() {
        for text in [
            "",
            "{",
            "{}",
            "operator =",
            "{ \"key\": }",
            "{ \"key\" }",
            "{ \"key\": {\"a\": }",
            "{ \"a\": 1 \"b\": 2 }",
            "{\"a\": 1} x",
            "{\"a\": 1,}",
            "{ \"key\": [1 2] }",
            "a \"b\" { c = 1, }, d = [1, 2,] # e",
            "a = 0x1F b = 1.5 c = -2",
        ] {
            assert!(parse(text).is_ok(), "{text}: {:?}", parse(text));
        }
    }

    #[test]
    fn nesting_is_bounded() {
        for text in ["a {".repeat(10_000), format!("a = {}", "[".repeat(10_000))] {
            assert!(parse(&text).is_err());
        }
        for text in ["{\"a\":".repeat(10_000), format!("{{\"a\":{}", "[{\"a\":".repeat(10_000))] {
            assert!(parse(&text).is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[ a-z0-9_={}\\[\\],:\"\\\\<\n#/*$.-]{0,60}") {
            let _ = parse(&text);
            let _ = parse(&format!("{{{text}"));
        }
    }
}
