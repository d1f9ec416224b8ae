//! An expression checked against a type of rows, and its value for a row.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use super::grammar::{self, Operator, Parsed};
use super::schema::{Kind, Schema};
use super::{
    Error, REGEX_BYTES_MAX, REGEX_CACHE_BYTES_MAX, REGEXES_BYTES_MAX, REGEXES_MAX, coerce,
};

/// Something that has the fields of a [`Schema`].
pub trait Row {
    /// The value of a field that the schema names. [`Value::Empty`] where a row has no such thing.
    fn field(&self, name: &str) -> Value<'_>;
}

/// The value of a field, borrowed from its row.
pub enum Value<'a> {
    /// A text.
    Text(&'a str),
    /// A number.
    Int(i64),
    /// A bool.
    Bool(bool),
    /// A list of texts.
    Texts(&'a [String]),
    /// Keys and texts.
    TextMap(&'a BTreeMap<String, String>),
    /// Keys and lists of texts.
    TextsMap(&'a BTreeMap<String, Vec<String>>),
    /// Fields in a field.
    Row(&'a dyn Row),
    /// A list of rows.
    Rows(&'a dyn RowList),
    /// Keys and rows.
    RowMap(&'a dyn RowMap),
    /// The empty value of whatever type the field has: no text, 0, false, nothing.
    Empty,
}

/// A list of rows.
pub trait RowList {
    /// Number of elements.
    fn count(&self) -> usize;
    /// The row at a place below the count.
    fn row(&self, place: usize) -> &dyn Row;
}

/// Rows under keys.
pub trait RowMap {
    /// Number of elements.
    fn count(&self) -> usize;
    /// The row under a key.
    fn row(&self, key: &str) -> Option<&dyn Row>;
}

impl<T: Row> RowList for Vec<T> {
    fn count(&self) -> usize {
        self.len()
    }
    fn row(&self, place: usize) -> &dyn Row {
        &self[place]
    }
}

impl<T: Row> RowMap for BTreeMap<String, T> {
    fn count(&self) -> usize {
        self.len()
    }
    fn row(&self, key: &str) -> Option<&dyn Row> {
        self.get(key).map(|row| row as &dyn Row)
    }
}

impl<T: Row + ?Sized> Row for Arc<T> {
    fn field(&self, name: &str) -> Value<'_> {
        (**self).field(name)
    }
}

/// A filter for one type of rows. Cheap to evaluate, free to send between threads.
#[derive(Debug)]
pub struct Filter {
    /// `None` holds for every row: the text was empty.
    root: Option<Expression>,
}

#[derive(Debug)]
enum Expression {
    Or(Vec<Expression>),
    And(Vec<Expression>),
    Not(Box<Expression>),
    Match { path: Vec<PathStep>, test: Test },
}

#[derive(Debug)]
enum PathStep {
    /// A field of a row.
    Field(&'static str),
    /// Any row of a list.
    Any,
    /// A key of a map.
    Key(String),
}

#[derive(Debug)]
enum Test {
    Text { is: String, negated: bool },
    Int { is: i64, negated: bool },
    Bool { is: bool, negated: bool },
    In { what: String, negated: bool },
    Empty { negated: bool },
    Regex { regex: Regex, negated: bool },
}

impl Filter {
    /// Reads an expression over rows of a type. An empty text holds for every row.
    pub fn parse(text: &str, schema: &Schema) -> Result<Filter, Error> {
        if text.is_empty() {
            return Ok(Filter { root: None });
        }
        let parsed = grammar::parse(text)?;
        let mut room = Room { regexes: REGEXES_MAX, bytes: REGEXES_BYTES_MAX };
        Ok(Filter { root: Some(check(&parsed, schema, &mut room)?) })
    }

    /// Does the expression hold for this row?
    pub fn matches(&self, row: &dyn Row) -> bool {
        self.root.as_ref().is_none_or(|root| holds(root, row))
    }
}

fn check(parsed: &Parsed, schema: &Schema, room: &mut Room) -> Result<Expression, Error> {
    let mut all = |parts: &[Rc<Parsed>]| {
        parts.iter().map(|part| check(part, schema, room)).collect::<Result<Vec<_>, _>>()
    };
    Ok(match parsed {
        Parsed::Or(parts) => Expression::Or(all(parts)?),
        Parsed::And(parts) => Expression::And(all(parts)?),
        Parsed::Not(inner) => Expression::Not(Box::new(check(inner, schema, room)?)),
        Parsed::Match(selector, operator, value) => {
            let (path, kind) = resolve(selector, schema)?;
            let test = test(selector, kind, *operator, value, room)?;
            Expression::Match { path, test }
        }
    })
}

/// Follows a selector through the schema.
fn resolve(selector: &[String], schema: &Schema) -> Result<(Vec<PathStep>, Kind), Error> {
    let mut path = Vec::with_capacity(selector.len());
    let mut inside = Some(schema);
    let mut kind = Kind::Text;
    // What is under a map's keys, until a key is named.
    let mut keyed: Option<Kind> = None;
    for (place, name) in selector.iter().enumerate() {
        let unknown = || Error::Selector(selector[..=place].join("."));
        if let Some(under_key) = keyed.take() {
            path.push(PathStep::Key(name.clone()));
            inside = match under_key {
                Kind::Struct(schema) => Some(schema),
                _ => None,
            };
            kind = under_key;
            continue;
        }
        let (field, found) = inside.and_then(|schema| schema.field(name)).ok_or_else(unknown)?;
        path.push(PathStep::Field(field));
        if matches!(found, Kind::Structs(_)) && place + 1 < selector.len() {
            path.push(PathStep::Any);
        }
        kind = found;
        inside = None;
        match found {
            Kind::Struct(schema) | Kind::Structs(schema) => inside = Some(schema),
            Kind::TextMap => keyed = Some(Kind::Text),
            Kind::TextsMap => keyed = Some(Kind::Texts),
            Kind::StructMap(schema) => keyed = Some(Kind::Struct(schema)),
            Kind::Text | Kind::Int | Kind::Bool | Kind::Texts => {}
        }
    }
    Ok((path, kind))
}

fn test(
    selector: &[String],
    kind: Kind,
    operator: Operator,
    value: &str,
    room: &mut Room,
) -> Result<Test, Error> {
    use Operator::{Equal, In, IsEmpty, IsNotEmpty, Matches, NotEqual, NotIn, NotMatches};
    let selector = || selector.join(".");
    let coerce = |why: String| Error::Coerce { value: value.to_owned(), selector: selector(), why };
    let negated = matches!(operator, NotEqual | NotIn | IsNotEmpty | NotMatches);
    Ok(match (kind, operator) {
        (Kind::Text, Equal | NotEqual) => Test::Text { is: value.to_owned(), negated },
        (Kind::Int, Equal | NotEqual) => {
            Test::Int { is: coerce::int(value).map_err(coerce)?, negated }
        }
        (Kind::Bool, Equal | NotEqual) => {
            Test::Bool { is: coerce::bool(value).map_err(coerce)?, negated }
        }
        (Kind::Text, Matches | NotMatches) => Test::Regex { regex: room.regex(value)?, negated },
        (
            Kind::Text | Kind::Texts | Kind::TextMap | Kind::TextsMap | Kind::StructMap(_),
            In | NotIn,
        ) => Test::In { what: value.to_owned(), negated },
        (
            Kind::Texts | Kind::TextMap | Kind::TextsMap | Kind::Structs(_) | Kind::StructMap(_),
            IsEmpty | IsNotEmpty,
        ) => Test::Empty { negated },
        _ => return Err(Error::Operator { operator: operator.name(), selector: selector() }),
    })
}

/// Memory that regular expressions of one expression may still take.
struct Room {
    regexes: usize,
    bytes: usize,
}

impl Room {
    fn regex(&mut self, text: &str) -> Result<Regex, Error> {
        self.regexes = self.regexes.checked_sub(1).ok_or(Error::TooManyRegexes)?;
        let max = REGEX_BYTES_MAX.min(self.bytes);
        // How large one is compiled is not told, only that it is above a limit.
        let mut limit = max.min(REGEX_BYTES_MAX / 32);
        let error = loop {
            match RegexBuilder::new(text)
                .size_limit(limit)
                .dfa_size_limit(REGEX_CACHE_BYTES_MAX)
                .build()
            {
                Ok(regex) => {
                    self.bytes -= limit;
                    return Ok(regex);
                }
                Err(regex::Error::CompiledTooBig(_)) if limit < max => limit = max.min(limit * 2),
                Err(error) => break error,
            }
        };
        let why = match error {
            regex::Error::CompiledTooBig(limit) => {
                format!("expression too large, more than {limit} bytes compiled: `{text}`")
            }
            // The engine draws a picture over several lines; its last line says what is wrong.
            other => {
                let picture = other.to_string();
                let last = picture.lines().last().unwrap_or_default().trim();
                format!("{}: `{text}`", last.strip_prefix("error: ").unwrap_or(last))
            }
        };
        Err(Error::Regex { value: text.to_owned(), why })
    }
}

fn holds(expression: &Expression, row: &dyn Row) -> bool {
    match expression {
        Expression::Or(parts) => parts.iter().any(|part| holds(part, row)),
        Expression::And(parts) => parts.iter().all(|part| holds(part, row)),
        Expression::Not(inner) => !holds(inner, row),
        Expression::Match { path, test } => reach(Value::Row(row), path, test),
    }
}

/// Follows a path to the value it names. In a list, one row for which the rest holds is enough; a
/// key that a map does not have is unlike everything.
fn reach(value: Value<'_>, path: &[PathStep], test: &Test) -> bool {
    let Some((step, rest)) = path.split_first() else {
        return test.holds(&value);
    };
    match (step, value) {
        (PathStep::Field(name), Value::Row(row)) => reach(row.field(name), rest, test),
        (PathStep::Any, Value::Rows(rows)) => {
            (0..rows.count()).any(|place| reach(Value::Row(rows.row(place)), rest, test))
        }
        (PathStep::Any, _) => false,
        (PathStep::Key(key), Value::TextMap(map)) => match map.get(key) {
            Some(text) => reach(Value::Text(text), rest, test),
            None => test.negated(),
        },
        (PathStep::Key(key), Value::TextsMap(map)) => match map.get(key) {
            Some(texts) => reach(Value::Texts(texts), rest, test),
            None => test.negated(),
        },
        (PathStep::Key(key), Value::RowMap(map)) => match map.row(key) {
            Some(row) => reach(Value::Row(row), rest, test),
            None => test.negated(),
        },
        (PathStep::Key(_), _) => test.negated(),
        // Fields of something empty are empty.
        (PathStep::Field(_), _) => reach(Value::Empty, rest, test),
    }
}

impl Test {
    /// The answer for a key that is not there.
    fn negated(&self) -> bool {
        match self {
            Test::Text { negated, .. }
            | Test::Int { negated, .. }
            | Test::Bool { negated, .. }
            | Test::In { negated, .. }
            | Test::Regex { negated, .. } => *negated,
            Test::Empty { negated } => !*negated,
        }
    }

    fn holds(&self, value: &Value<'_>) -> bool {
        let text = match value {
            Value::Text(text) => text,
            _ => "",
        };
        match self {
            Test::Text { is, negated } => (text == is) != *negated,
            Test::Regex { regex, negated } => regex.is_match(text) != *negated,
            Test::Int { is, negated } => {
                let number = if let Value::Int(number) = value { *number } else { 0 };
                (number == *is) != *negated
            }
            Test::Bool { is, negated } => (matches!(value, Value::Bool(true)) == *is) != *negated,
            Test::In { what, negated } => {
                let found = match value {
                    Value::Texts(texts) => texts.contains(what),
                    Value::TextMap(map) => map.contains_key(what),
                    Value::TextsMap(map) => map.contains_key(what),
                    Value::RowMap(map) => map.row(what).is_some(),
                    _ => text.contains(what),
                };
                found != *negated
            }
            Test::Empty { negated } => {
                let count = match value {
                    Value::Texts(texts) => texts.len(),
                    Value::TextMap(map) => map.len(),
                    Value::TextsMap(map) => map.len(),
                    Value::RowMap(map) => map.count(),
                    Value::Rows(rows) => rows.count(),
                    _ => 0,
                };
                (count == 0) != *negated
            }
        }
    }
}
