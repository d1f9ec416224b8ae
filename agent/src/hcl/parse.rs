//! The grammar of HCL 1.

use super::scan::{Kind, Language, Scanner, Token, heredoc_text, unquote};
use super::{DEPTH_MAX, Error, Item, Key, Position, Value};

/// The items of a whole text.
pub(super) fn parse(text: &str) -> Result<Vec<Item>, Error> {
    let mut scanner = Scanner::new(text, Language::Hcl);
    let token = Token { kind: Kind::Eof, text: "", at: Position::default() };
    let mut parser = Parser { scanner: &mut scanner, token, again: false, depth: 0 };
    let found = parser.items(false);
    if let Some((at, what)) = scanner.fault.take() {
        return Err(error(at, what));
    }
    match found {
        Ok(items) => Ok(items),
        Err(Fault::Syntax(error)) => Err(error),
        Err(Fault::End) => Ok(Vec::new()),
    }
}

/// Reason why a part of the text could not be read.
enum Fault {
    /// The text ended where an item could begin or a value was due: the reference takes it for the end.
    End,
    Syntax(Error),
}

fn error(at: Position, what: impl Into<String>) -> Error {
    Error { at: Some(at), what: what.into(), json: false }
}

struct Parser<'s, 'a> {
    scanner: &'s mut Scanner<'a>,
    token: Token<'a>,
    /// The last token was put back.
    again: bool,
    depth: usize,
}

impl<'a> Parser<'_, 'a> {
    fn scan(&mut self) -> Token<'a> {
        if self.again {
            self.again = false;
            return self.token;
        }
        self.token = self.scanner.token();
        while self.token.kind == Kind::Comment && self.scanner.fault.is_none() {
            self.token = self.scanner.token();
        }
        self.token
    }

    fn fail<T>(&self, what: impl Into<String>) -> Result<T, Fault> {
        Err(Fault::Syntax(error(self.token.at, what)))
    }

    fn items(&mut self, in_object: bool) -> Result<Vec<Item>, Fault> {
        let mut items = Vec::new();
        loop {
            if in_object {
                let token = self.scan();
                self.again = true;
                if token.kind == Kind::RBrace {
                    return Ok(items);
                }
            }
            match self.item() {
                Ok(item) => items.push(item),
                Err(Fault::End) => return Ok(items),
                Err(fault) => return Err(fault),
            }
            if self.scan().kind != Kind::Comma {
                self.again = true;
            }
        }
    }

    fn item(&mut self) -> Result<Item, Fault> {
        let (keys, written) = self.keys()?;
        let value = match self.token.kind {
            Kind::Assign => self.value()?,
            Kind::LBrace => self.object()?,
            _ => {
                let told =
                    format!("key '{written}' expected start of object ('{{') or assignment ('=')");
                let fault = error(self.token.at, told);
                if self.token.kind == Kind::RBrace {
                    // The brace does not end the object: the fault is this item's.
                    self.token.kind = Kind::Eof;
                }
                return Err(Fault::Syntax(fault));
            }
        };
        Ok(Item { keys, value })
    }

    /// The names before a value, and as they were written.
    fn keys(&mut self) -> Result<(Vec<Key>, String), Fault> {
        let mut keys: Vec<Key> = Vec::new();
        let mut written = String::new();
        loop {
            let token = self.scan();
            match token.kind {
                Kind::Eof if keys.is_empty() => return Err(Fault::End),
                Kind::Assign if keys.len() > 1 => {
                    return self.fail("nested object expected: LBRACE got: ASSIGN");
                }
                Kind::Assign if keys.is_empty() => return self.fail("no object keys found!"),
                Kind::LBrace if keys.is_empty() => {
                    return self.fail("expected: IDENT | STRING got: LBRACE");
                }
                Kind::RBrace if keys.is_empty() => {
                    return self.fail("expected: IDENT | STRING | ASSIGN | LBRACE got: RBRACE");
                }
                Kind::Assign | Kind::LBrace | Kind::RBrace | Kind::Eof => {
                    return Ok((keys, written));
                }
                Kind::Ident | Kind::Text => {
                    let name = if token.kind == Kind::Text {
                        unquote(token.text, Language::Hcl)
                    } else {
                        token.text.to_owned()
                    };
                    if !written.is_empty() {
                        written.push(' ');
                    }
                    written.push_str(token.text);
                    keys.push(Key { name, at: token.at });
                }
                Kind::Illegal => return self.fail("illegal character"),
                kind => {
                    let what =
                        format!("expected: IDENT | STRING | ASSIGN | LBRACE got: {}", kind.name());
                    return self.fail(what);
                }
            }
        }
    }

    fn literal(token: Token<'_>) -> Option<Value> {
        let (text, at) = (token.text, token.at);
        Some(match token.kind {
            Kind::Number => Value::Number(text.to_owned(), at),
            Kind::Float => Value::Float(text.to_owned(), at),
            Kind::Bool => Value::Flag(text == "true", at),
            Kind::Text => Value::Text(unquote(text, Language::Hcl), at),
            Kind::Heredoc => Value::Text(heredoc_text(text), at),
            _ => return None,
        })
    }

    fn value(&mut self) -> Result<Value, Fault> {
        let token = self.scan();
        match token.kind {
            Kind::LBrace => self.object(),
            Kind::LBrack => self.list(),
            Kind::Eof => Err(Fault::End),
            kind => match Self::literal(token) {
                Some(value) => Ok(value),
                None => {
                    self.fail(format!("Unknown token: {} {} {}", token.at, kind.name(), token.text))
                }
            },
        }
    }

    fn deeper(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.fail(format!("nested deeper than {DEPTH_MAX} levels"));
        }
        Ok(())
    }

    /// The opening brace was read.
    fn object(&mut self) -> Result<Value, Fault> {
        let at = self.token.at;
        self.deeper()?;
        let items = match self.items(true) {
            Ok(items) => items,
            // The brace that ends a broken item is the item's; another one has to follow.
            Err(Fault::Syntax(_)) if self.token.kind == Kind::RBrace => Vec::new(),
            Err(fault) => return Err(fault),
        };
        let end = self.scan();
        if end.kind != Kind::RBrace {
            return self.fail(format!("object expected closing RBRACE got: {}", end.kind.name()));
        }
        self.depth -= 1;
        Ok(Value::Object(items, at))
    }

    /// The opening bracket was read.
    fn list(&mut self) -> Result<Value, Fault> {
        let begin = self.token.at;
        self.deeper()?;
        let mut values = Vec::new();
        let mut separated = true;
        loop {
            let token = self.scan();
            if !separated && !matches!(token.kind, Kind::Comma | Kind::RBrack) {
                let got = token.kind.name();
                return self
                    .fail(format!("error parsing list, expected comma or list end, got: {got}"));
            }
            separated = false;
            match token.kind {
                Kind::Comma => separated = true,
                Kind::RBrack => {
                    self.depth -= 1;
                    return Ok(Value::List(values, begin));
                }
                Kind::LBrace => {
                    values.push(self.object().map_err(|it| within(it, "object", token.at))?);
                }
                Kind::LBrack => {
                    values.push(self.list().map_err(|it| within(it, "list", token.at))?);
                }
                kind => {
                    let Some(value) = Self::literal(token) else {
                        let got = kind.name();
                        return self.fail(format!("unexpected token while parsing list: {got}"));
                    };
                    values.push(value);
                }
            }
        }
    }
}

fn within(fault: Fault, what: &str, at: Position) -> Fault {
    match fault {
        Fault::Syntax(inner) => Fault::Syntax(error(
            at,
            format!("error while trying to parse {what} within list: {inner}"),
        )),
        Fault::End => Fault::End,
    }
}
