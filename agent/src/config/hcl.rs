//! HCL 1, the configuration language of the reference, as a value.
//!
//! The first version of the language differs from today's: blocks may stand without `=`, several
//! items may share a line, commas are optional. What counts as configuration is small, so the
//! parser is, too: one pass over the characters, errors with line and column, nesting bounded.
//!
//! | written | value |
//! |---|---|
//! | `a = 1` | `{"a": 1}` |
//! | `a { b = 1 }`, `a = { b = 1 }` | `{"a": {"b": 1}}` |
//! | `a { … }` twice | `{"a": [{…}, {…}]}` |
//! | `a "x" { … }` | `{"a": {"x": {…}}}` |

use serde_json::{Map, Number, Value};

/// Deeper nesting is refused: configuration is never that deep, and recursion has to end.
const DEPTH_MAX: usize = 64;

/// A text is not HCL: position and reason.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("At {line}:{column}: {what}")]
pub(super) struct Error {
    line: usize,
    column: usize,
    what: String,
}

/// Parses a whole file into an object.
pub(super) fn parse(text: &str) -> Result<Value, Error> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    let object = parser.items(None)?;
    Ok(Value::Object(object))
}

/// JSON in a file of this language may have a comma after the last item; without it, at the same places.
pub(super) fn plain_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut comma = None;
    let (mut in_text, mut escaped) = (false, false);
    for c in text.trim_start_matches('\u{feff}').chars() {
        if in_text {
            in_text = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else {
            match c {
                '"' => (in_text, comma) = (true, None),
                ',' => comma = Some(out.len()),
                '}' | ']' => {
                    if let Some(at) = comma.take() {
                        out.replace_range(at..=at, " ");
                    }
                }
                c if c.is_whitespace() => {}
                _ => comma = None,
            }
        }
        out.push(c);
    }
    out
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn fail<T>(&self, what: impl Into<String>) -> Result<T, Error> {
        let before = &self.text[..self.at];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Err(Error { line, column, what: what.into() })
    }

    /// Skips white space and comments.
    fn space(&mut self) -> Result<(), Error> {
        loop {
            let rest = self.rest();
            if rest.starts_with('#') || rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                match rest.find("*/") {
                    Some(end) => self.at += end + 2,
                    None => return self.fail("comment not terminated"),
                }
            } else if rest.starts_with(|c: char| c.is_whitespace() || c == '\u{feff}') {
                self.bump();
            } else {
                return Ok(());
            }
        }
    }

    /// Items up to `end` (a closing brace) or the end of the text.
    fn items(&mut self, end: Option<char>) -> Result<Map<String, Value>, Error> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.fail(format!("nested deeper than {DEPTH_MAX} levels"));
        }
        let mut object = Map::new();
        loop {
            self.space()?;
            match self.peek() {
                None if end.is_none() => break,
                None => return self.fail("object not closed: expected `}`"),
                Some(c) if Some(c) == end => {
                    self.bump();
                    break;
                }
                Some(',' | ';') => {
                    self.bump();
                }
                Some(_) => {
                    let (key, value, block) = self.item()?;
                    put(&mut object, key, value, block);
                }
            }
        }
        self.depth -= 1;
        Ok(object)
    }

    /// `key = value`, `key { … }` or `key "label" … { … }`. The flag says: written as a block.
    fn item(&mut self) -> Result<(String, Value, bool), Error> {
        let key = self.key()?;
        let mut labels = Vec::new();
        loop {
            self.space()?;
            match self.peek() {
                Some('=') if labels.is_empty() => {
                    self.bump();
                    self.space()?;
                    return Ok((key, self.value()?, false));
                }
                Some('{') => {
                    self.bump();
                    let mut value = Value::Object(self.items(Some('}'))?);
                    for label in labels.into_iter().rev() {
                        let mut outer = Map::new();
                        outer.insert(label, value);
                        value = Value::Object(outer);
                    }
                    return Ok((key, value, true));
                }
                Some('"') => labels.push(self.string()?),
                Some(c) if is_name(c) && !labels.is_empty() => labels.push(self.key()?),
                Some(c) => {
                    return self.fail(format!("expected `=` or `{{` after `{key}`, found `{c}`"));
                }
                None => return self.fail(format!("expected `=` or `{{` after `{key}`")),
            }
        }
    }

    fn key(&mut self) -> Result<String, Error> {
        match self.peek() {
            Some('"') => self.string(),
            Some(c) if is_name(c) => {
                let rest = self.rest();
                let end = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
                let key = rest[..end].to_owned();
                self.at += end;
                Ok(key)
            }
            Some(c) => self.fail(format!("expected a key, found `{c}`")),
            None => self.fail("expected a key"),
        }
    }

    fn value(&mut self) -> Result<Value, Error> {
        match self.peek() {
            Some('"') => self.string().map(Value::String),
            Some('{') => {
                self.bump();
                self.items(Some('}')).map(Value::Object)
            }
            Some('[') => self.list(),
            Some('<') if self.rest().starts_with("<<") => self.heredoc().map(Value::String),
            Some(c) if c.is_ascii_digit() || c == '-' || c == '+' || c == '.' => self.number(),
            Some(c) if is_name(c) => {
                let start = self.at;
                match self.key()?.as_str() {
                    "true" => Ok(Value::Bool(true)),
                    "false" => Ok(Value::Bool(false)),
                    other => {
                        let what = format!("unknown value `{other}`: texts stand in double quotes");
                        self.at = start;
                        self.fail(what)
                    }
                }
            }
            Some(c) => self.fail(format!("expected a value, found `{c}`")),
            None => self.fail("expected a value"),
        }
    }

    fn list(&mut self) -> Result<Value, Error> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.fail(format!("nested deeper than {DEPTH_MAX} levels"));
        }
        self.bump();
        let mut items = Vec::new();
        let mut separated = true;
        loop {
            self.space()?;
            match self.peek() {
                Some(']') => {
                    self.bump();
                    self.depth -= 1;
                    return Ok(Value::Array(items));
                }
                Some(',') if separated => return self.fail("a value is missing before the comma"),
                Some(',') => {
                    self.bump();
                    separated = true;
                }
                Some(_) if !separated => return self.fail("expected `,` or `]` in a list"),
                Some(_) => {
                    items.push(self.value()?);
                    separated = false;
                }
                None => return self.fail("list not closed: expected `]`"),
            }
        }
    }

    fn number(&mut self) -> Result<Value, Error> {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+')))
            .unwrap_or(rest.len());
        let text = rest[..end].to_owned();
        let whole = match text.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16).ok(),
            None => text.parse::<i64>().ok(),
        };
        let number = match whole {
            Some(whole) => Some(Number::from(whole)),
            None => text.parse::<f64>().ok().and_then(Number::from_f64),
        };
        match number {
            Some(number) => {
                self.at += end;
                Ok(Value::Number(number))
            }
            None => self.fail(format!("`{text}` is not a number")),
        }
    }

    /// A text in double quotes; `${…}` is kept as written.
    fn string(&mut self) -> Result<String, Error> {
        self.bump();
        let mut out = String::new();
        let mut braces = 0_usize;
        loop {
            let Some(c) = self.bump() else { return self.fail("text not closed: expected `\"`") };
            match c {
                '"' if braces == 0 => return Ok(out),
                '\n' if braces == 0 => {
                    return self.fail("text not closed before the end of the line");
                }
                '\\' if braces == 0 => {
                    let escaped = self.escape()?;
                    out.push(escaped);
                }
                '$' if self.peek() == Some('{') => {
                    self.bump();
                    braces += 1;
                    out.push_str("${");
                }
                '}' if braces > 0 => {
                    braces -= 1;
                    out.push('}');
                }
                other => out.push(other),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Error> {
        let digits = match self.bump() {
            Some('n') => return Ok('\n'),
            Some('t') => return Ok('\t'),
            Some('r') => return Ok('\r'),
            Some(c @ ('"' | '\\')) => return Ok(c),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some(c) => return self.fail(format!("unknown escape `\\{c}`")),
            None => return self.fail("text not closed: expected `\"`"),
        };
        let code = self
            .rest()
            .get(..digits)
            .and_then(|hex| u32::from_str_radix(hex, 16).ok())
            .and_then(char::from_u32);
        match code {
            Some(c) => {
                self.at += digits;
                Ok(c)
            }
            None => self.fail(format!("expected {digits} hexadecimal digits of a character")),
        }
    }

    /// `<<END` … `END`; with `<<-` the common indentation goes.
    fn heredoc(&mut self) -> Result<String, Error> {
        self.at += 2;
        let indented = self.peek() == Some('-');
        if indented {
            self.bump();
        }
        let Some(line_end) = self.rest().find('\n') else {
            return self.fail("heredoc not terminated");
        };
        let mark = self.rest()[..line_end].trim().to_owned();
        if mark.is_empty() {
            return self.fail("a heredoc needs a name after `<<`");
        }
        self.at += line_end + 1;
        let mut lines = Vec::new();
        loop {
            let rest = self.rest();
            if rest.is_empty() {
                return self
                    .fail(format!("heredoc not terminated: expected `{mark}` alone on a line"));
            }
            let end = rest.find('\n').unwrap_or(rest.len());
            let line = rest[..end].trim_end_matches('\r').to_owned();
            let closes = line.trim() == mark;
            // The line end after the mark belongs to what follows.
            self.at += if closes { end } else { (end + 1).min(rest.len()) };
            if closes {
                break;
            }
            lines.push(line);
        }
        let cut = if indented {
            lines
                .iter()
                .filter(|line| !line.trim().is_empty())
                .map(|line| line.len() - line.trim_start().len())
                .min()
                .unwrap_or(0)
        } else {
            0
        };
        let mut out = String::new();
        for line in &lines {
            out += line.get(cut..).unwrap_or_default();
            out.push('\n');
        }
        Ok(out)
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// Repeated blocks become a list; a repeated plain key keeps its last value.
fn put(object: &mut Map<String, Value>, key: String, value: Value, block: bool) {
    match object.get_mut(&key) {
        Some(Value::Array(list)) if block => list.push(value),
        Some(first) if block && first.is_object() => {
            let first = first.take();
            object.insert(key, Value::Array(vec![first, value]));
        }
        _ => {
            object.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_people_write() {
        let rows = [
            ("", json!({})),
            ("a = 1", json!({"a": 1})),
            ("a = 1 b = 2", json!({"a": 1, "b": 2})),
            ("a = 1, b = \"x\"\n", json!({"a": 1, "b": "x"})),
            ("# c\n// d\n/* e\n*/ server = true", json!({"server": true})),
            ("ports { http = 8501 dns = -1 }", json!({"ports": {"http": 8501, "dns": -1}})),
            ("ports = { http = 8501 }", json!({"ports": {"http": 8501}})),
            (
                "service { name = \"a\" }\nservice { name = \"b\" }",
                json!({"service": [{"name": "a"}, {"name": "b"}]}),
            ),
            (
                "services = [{ name = \"a\", port = 1 }, { name = \"b\" },]",
                json!({"services": [{"name": "a", "port": 1}, {"name": "b"}]}),
            ),
            (
                "key \"x\" \"y\" { policy = \"read\" }",
                json!({"key": {"x": {"y": {"policy": "read"}}}}),
            ),
            ("\"quoted key\" = \"a\\n\\\"b\\u00e9\"", json!({"quoted key": "a\n\"b\u{e9}"})),
            (
                "a = \"{{ GetInterfaceIP \\\"eth0\\\" }}\"",
                json!({"a": "{{ GetInterfaceIP \"eth0\" }}"}),
            ),
            ("a = \"${x \"y\"}\"", json!({"a": "${x \"y\"}"})),
            ("a = <<EOF\n one\ntwo\nEOF\nb = 2", json!({"a": " one\ntwo\n", "b": 2})),
            ("a = <<-EOF\n   one\n     two\n   EOF\n", json!({"a": "one\n  two\n"})),
            ("a = 1.5 b = 0x10 c = 1e3", json!({"a": 1.5, "b": 16, "c": 1000.0})),
            ("a = []", json!({"a": []})),
        ];
        for (text, expected) in rows {
            assert_eq!(parse(text).as_ref(), Ok(&expected), "{text}");
        }
    }

    #[test]
    fn json_may_have_a_last_comma() {
        let text = r#"{"a": [1, 2, ], "b,]": "x,}\",]", "c": {"d": 1,},
        }"#;
        let value: Value = serde_json::from_str(&plain_json(text)).unwrap();
        assert_eq!(value, json!({"a": [1, 2], "b,]": "x,}\",]", "c": {"d": 1}}));
        assert!(serde_json::from_str::<Value>(&plain_json("{\"a\": 1,, }")).is_err());
        assert!(serde_json::from_str::<Value>(&plain_json("[,]")).is_ok());
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let rows = [
            ("a = ", 1, "expected a value"),
            ("a = 1\nb", 2, "expected `=` or `{` after `b`"),
            ("a = \"x\nb = 1", 2, "text not closed"),
            ("a {\n b = 1\n", 3, "object not closed"),
            ("a = [1 2]", 1, "expected `,` or `]`"),
            ("a = [1,,2]", 1, "a value is missing"),
            ("a = yes", 1, "unknown value `yes`"),
            ("= 1", 1, "expected a key"),
            ("a = {\"b\": 1}", 1, "expected `=` or `{` after `b`, found `:`"),
            ("/* x", 1, "comment not terminated"),
            ("a = <<EOF\nx", 2, "heredoc not terminated"),
            ("a = \"\\q\"", 1, "unknown escape"),
            ("a = 1z", 1, "`1z` is not a number"),
        ];
        for (text, line, what) in rows {
            let error = parse(text).expect_err(text);
            assert!(error.line == line && error.what.contains(what), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[ a-z0-9_={}\\[\\],\"\\\\<\n#/*$.-]{0,60}") {
            let _ = parse(&text);
        }
    }

    #[test]
    fn nesting_is_bounded() {
        assert!(parse(&"a {".repeat(10_000)).is_err());
        assert!(parse(&format!("a = {}", "[".repeat(10_000))).is_err());
    }
}
