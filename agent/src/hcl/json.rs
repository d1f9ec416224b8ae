//! JSON in place of HCL, with all that the reference forgives there: what is missing at the end, a comma too much.

use super::scan::{Kind, Language, Scanner, Token, unquote};
use super::{DEPTH_MAX, Error, Item, Key, Position, Value};

/// The items of a whole text, unfolded: an object of objects is as good as keys in a row.
pub(super) fn parse(text: &str) -> Result<Vec<Item>, Error> {
    let mut scanner = Scanner::new(text, Language::Json);
    let token = Token { kind: Kind::Eof, text: "", at: Position::default() };
    let mut parser = Parser { scanner: &mut scanner, token, depth: 0 };
    parser.scan();
    let found = parser.object();
    if let Some((at, what)) = scanner.fault.take() {
        return Err(Error { at: Some(at), what, json: true });
    }
    match found {
        Ok(Value::Object(items, _)) => Ok(unfold(items)),
        Ok(_) | Err(Fault::End) => Ok(Vec::new()),
        Err(Fault::Syntax(what)) => Err(Error { at: None, what, json: true }),
    }
}

enum Fault {
    /// The text ended early: what was read so far counts.
    End,
    Syntax(String),
}

struct Parser<'s, 'a> {
    scanner: &'s mut Scanner<'a>,
    token: Token<'a>,
    depth: usize,
}

impl<'a> Parser<'_, 'a> {
    fn scan(&mut self) -> Token<'a> {
        self.token = self.scanner.token();
        self.token
    }

    fn items(&mut self) -> Result<Vec<Item>, (Vec<Item>, Fault)> {
        let mut items = Vec::new();
        loop {
            match self.item() {
                Ok(item) => items.push(item),
                Err(Fault::End) => return Ok(items),
                Err(fault) => return Err((items, fault)),
            }
            if self.scan().kind != Kind::Comma {
                return Ok(items);
            }
        }
    }

    fn item(&mut self) -> Result<Item, Fault> {
        let mut keys = Vec::new();
        loop {
            let token = self.scan();
            match token.kind {
                Kind::Eof => return Err(Fault::End),
                Kind::Text => {
                    let name = unquote(token.text, Language::Json);
                    keys.push(Key { name, at: token.at });
                }
                Kind::Colon if !keys.is_empty() => break,
                Kind::Illegal => return Err(Fault::Syntax("illegal".to_owned())),
                kind => {
                    return Err(Fault::Syntax(format!("expected: STRING got: {}", kind.name())));
                }
            }
        }
        Ok(Item { keys, value: self.value()? })
    }

    fn literal(token: Token<'_>) -> Option<Value> {
        let (text, at) = (token.text, token.at);
        Some(match token.kind {
            Kind::Number => Value::Number(text.to_owned(), at),
            Kind::Float => Value::Float(text.to_owned(), at),
            Kind::Bool => Value::Flag(text == "true", at),
            Kind::Null => Value::Text(String::new(), at),
            Kind::Text => Value::Text(unquote(text, Language::Json), at),
            _ => return None,
        })
    }

    fn value(&mut self) -> Result<Value, Fault> {
        let token = self.scan();
        match token.kind {
            Kind::LBrace => self.object(),
            Kind::LBrack => self.list(),
            Kind::Eof => Err(Fault::End),
            kind => Self::literal(token).ok_or_else(|| {
                let told = format!("{} {} {}", token.at, kind.name(), token.text);
                Fault::Syntax(format!("Expected value, got unknown token: {told}"))
            }),
        }
    }

    fn deeper(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Fault::Syntax(format!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(())
    }

    /// The opening brace was read.
    fn object(&mut self) -> Result<Value, Fault> {
        let at = self.token.at;
        self.deeper()?;
        let items = match self.items() {
            Ok(items) => items,
            // A comma too much, or a value that is missing before the brace.
            Err((items, _)) if self.token.kind == Kind::RBrace => items,
            Err((_, fault)) => return Err(fault),
        };
        self.depth -= 1;
        Ok(Value::Object(items, at))
    }

    /// The opening bracket was read.
    fn list(&mut self) -> Result<Value, Fault> {
        let at = self.token.at;
        self.deeper()?;
        let mut values = Vec::new();
        loop {
            let token = self.scan();
            match token.kind {
                Kind::Comma | Kind::Bool | Kind::LBrack => {}
                Kind::RBrack => {
                    self.depth -= 1;
                    return Ok(Value::List(values, at));
                }
                Kind::LBrace => values.push(self.object()?),
                Kind::Number | Kind::Float | Kind::Text => values.extend(Self::literal(token)),
                kind => {
                    let got = kind.name();
                    return Err(Fault::Syntax(format!(
                        "unexpected token while parsing list: {got}"
                    )));
                }
            }
        }
    }
}

/// Makes `{"a": {"x": {…}}}` and `{"a": [{"x": {…}}]}` the items `a x {…}`.
fn unfold(items: Vec<Item>) -> Vec<Item> {
    let mut out = Vec::new();
    let mut waiting: Vec<Item> = items.into_iter().rev().collect();
    while let Some(Item { keys, value }) = waiting.pop() {
        match value {
            Value::Object(inner, _)
                if !inner.is_empty()
                    && inner.iter().all(|it| matches!(it.value, Value::Object(..))) =>
            {
                waiting.extend(inner.into_iter().rev().map(|it| Item {
                    keys: keys.iter().cloned().chain(it.keys).collect(),
                    value: it.value,
                }));
            }
            Value::List(inner, _)
                if !inner.is_empty() && inner.iter().all(|it| matches!(it, Value::Object(..))) =>
            {
                waiting.extend(
                    inner.into_iter().rev().map(|value| Item { keys: keys.clone(), value }),
                );
            }
            value => out.push(Item { keys, value: unfold_inside(value) }),
        }
    }
    out
}

fn unfold_inside(value: Value) -> Value {
    match value {
        Value::Object(items, at) => Value::Object(unfold(items), at),
        Value::List(values, at) => Value::List(values.into_iter().map(unfold_inside).collect(), at),
        other => other,
    }
}
