//! Cuts a text into tokens with their positions.

use super::Position;

/// Kinds of tokens, by the names that errors show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Illegal,
    Eof,
    Comment,
    Ident,
    Number,
    Float,
    Bool,
    Null,
    Text,
    Heredoc,
    LBrack,
    LBrace,
    Comma,
    Period,
    RBrack,
    RBrace,
    Assign,
    Colon,
    Add,
    Sub,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Illegal => "ILLEGAL",
            Kind::Eof => "EOF",
            Kind::Comment => "COMMENT",
            Kind::Ident => "IDENT",
            Kind::Number => "NUMBER",
            Kind::Float => "FLOAT",
            Kind::Bool => "BOOL",
            Kind::Null => "NULL",
            Kind::Text => "STRING",
            Kind::Heredoc => "HEREDOC",
            Kind::LBrack => "LBRACK",
            Kind::LBrace => "LBRACE",
            Kind::Comma => "COMMA",
            Kind::Period => "PERIOD",
            Kind::RBrack => "RBRACK",
            Kind::RBrace => "RBRACE",
            Kind::Assign => "ASSIGN",
            Kind::Colon => "COLON",
            Kind::Add => "ADD",
            Kind::Sub => "SUB",
        }
    }
}

/// A token: its kind, its text as written, its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    pub(super) at: Position,
}

/// Which language the tokens are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Hcl,
    Json,
}

/// Reads characters. The end of the text counts as a column each time it is read: positions of errors depend on it.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    language: Language,
    offset: usize,
    line: usize,
    column: usize,
    line_length: usize,
    before: (usize, usize, usize),
    /// The last fault of the characters themselves; it outranks faults of the grammar.
    pub(super) fault: Option<(Position, String)>,
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || (!c.is_ascii() && c.is_alphabetic())
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str, language: Language) -> Self {
        let start = (0, 1, 0);
        let (offset, line, column) = start;
        Scanner { text, language, offset, line, column, line_length: 0, before: start, fault: None }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.offset..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let Some(c) = self.peek() else {
            self.column += 1;
            return None;
        };
        self.before = (self.offset, self.line, self.column);
        self.column += 1;
        self.offset += c.len_utf8();
        if c == '\n' {
            self.line += 1;
            self.line_length = self.column;
            self.column = 0;
        }
        if c == '\0' {
            self.fail("unexpected null character (0x00)");
            return None;
        }
        Some(c)
    }

    /// Gives the character back that was read last.
    fn unread(&mut self) {
        (self.offset, self.line, self.column) = self.before;
    }

    /// The place of the character that was read last.
    fn here(&self) -> Position {
        if self.column > 0 {
            Position { line: self.line, column: self.column }
        } else {
            Position { line: (self.line - 1).max(1), column: self.line_length.max(1) }
        }
    }

    fn fail(&mut self, what: &str) {
        self.fault = Some((self.here(), what.to_owned()));
    }

    /// The next token, comments included.
    pub(super) fn token(&mut self) -> Token<'a> {
        let mut c = self.next();
        while c.is_some_and(|c| matches!(c, ' ' | '\t' | '\n' | '\r')) {
            c = self.next();
        }
        let at = self.here();
        let begin = match c {
            Some(c) => self.offset - c.len_utf8(),
            None => self.offset,
        };
        let kind = match self.language {
            Language::Hcl => self.hcl_kind(c),
            Language::Json => self.json_kind(c),
        };
        let kind = match (kind, &self.text[begin..self.offset]) {
            (Kind::Ident, "true" | "false") => Kind::Bool,
            (Kind::Ident, "null") if self.language == Language::Json => Kind::Null,
            (Kind::Ident, _) if self.language == Language::Json => {
                self.fail("illegal char");
                Kind::Illegal
            }
            (kind, _) => kind,
        };
        Token { kind, text: &self.text[begin..self.offset], at }
    }

    fn hcl_kind(&mut self, c: Option<char>) -> Kind {
        let Some(c) = c else { return Kind::Eof };
        match c {
            c if is_letter(c) => self.identifier(),
            '0'..='9' => self.number(),
            '"' => self.string(),
            '#' | '/' => self.comment(c),
            '.' if self.peek().is_some_and(|c| c.is_ascii_digit()) => {
                self.digits();
                self.exponent();
                Kind::Float
            }
            '.' => Kind::Period,
            '[' => Kind::LBrack,
            ']' => Kind::RBrack,
            '{' => Kind::LBrace,
            '}' => Kind::RBrace,
            ',' => Kind::Comma,
            '=' => Kind::Assign,
            '+' => Kind::Add,
            '-' if self.peek().is_some_and(|c| c.is_ascii_digit()) => {
                self.next();
                self.number()
            }
            '-' => Kind::Sub,
            '<' => self.heredoc(),
            _ => {
                self.fail("illegal char");
                Kind::Illegal
            }
        }
    }

    fn json_kind(&mut self, c: Option<char>) -> Kind {
        let Some(c) = c else { return Kind::Eof };
        match c {
            c if is_letter(c) => self.identifier(),
            '0'..='9' => self.number(),
            '-' if self.peek().is_some_and(|c| c.is_ascii_digit()) => {
                self.next();
                self.number()
            }
            '"' => self.string(),
            '[' => Kind::LBrack,
            ']' => Kind::RBrack,
            '{' => Kind::LBrace,
            '}' => Kind::RBrace,
            ',' => Kind::Comma,
            ':' => Kind::Colon,
            c => {
                self.fail(&format!("illegal char: {c}"));
                Kind::Illegal
            }
        }
    }

    fn skip_while(&mut self, wanted: impl Fn(char) -> bool) {
        while let Some(c) = self.next() {
            if !wanted(c) {
                self.unread();
                return;
            }
        }
    }

    fn identifier(&mut self) -> Kind {
        self.skip_while(|c| is_letter(c) || c.is_numeric() || c == '-' || c == '.');
        Kind::Ident
    }

    fn digits(&mut self) {
        self.skip_while(|c| c.is_ascii_digit());
    }

    /// Its first digit was read.
    fn number(&mut self) -> Kind {
        if self.text[..self.offset].ends_with('0')
            && self.peek().is_some_and(|c| matches!(c, 'x' | 'X'))
        {
            self.next();
            if !self.peek().is_some_and(|c| c.is_ascii_hexdigit()) {
                self.next();
                self.fail("illegal hexadecimal number");
                return Kind::Number;
            }
            self.skip_while(|c| c.is_ascii_hexdigit());
            return Kind::Number;
        }
        self.digits();
        if self.peek() == Some('.') {
            self.next();
            self.digits();
            self.exponent();
            return Kind::Float;
        }
        self.exponent();
        Kind::Number
    }

    fn exponent(&mut self) {
        if self.peek().is_some_and(|c| matches!(c, 'e' | 'E')) {
            self.next();
            if self.peek().is_some_and(|c| matches!(c, '+' | '-')) {
                self.next();
            }
            self.digits();
        }
    }

    fn comment(&mut self, first: char) -> Kind {
        if first == '/' && self.peek() == Some('*') {
            self.next();
            let mut last = self.next();
            loop {
                if last.is_none() {
                    self.fail("comment not terminated");
                    return Kind::Comment;
                }
                let c = self.next();
                if last == Some('*') && c == Some('/') {
                    return Kind::Comment;
                }
                last = c;
            }
        }
        if first == '/' && self.peek() != Some('/') {
            self.fail("expected '/' for comment");
            return Kind::Comment;
        }
        self.skip_while(|c| c != '\n');
        Kind::Comment
    }

    /// The quotation mark was read. Inside `${ … }` quotation marks do not end the text.
    fn string(&mut self) -> Kind {
        let hcl = self.language == Language::Hcl;
        let mut braces = 0_usize;
        loop {
            let c = self.next();
            match c {
                None => {
                    self.fail("literal not terminated");
                    return Kind::Text;
                }
                Some('\n') if braces == 0 => {
                    self.fail("literal not terminated");
                    return Kind::Text;
                }
                Some('"') if braces == 0 => return Kind::Text,
                Some('$') if hcl && braces == 0 && self.peek() == Some('{') => {
                    self.next();
                    braces = 1;
                }
                Some('{') if braces > 0 => braces += 1,
                Some('}') if braces > 0 => braces -= 1,
                Some('\\') => self.escape(),
                Some(_) => {}
            }
        }
    }

    fn escape(&mut self) {
        let wanted = match self.next() {
            Some('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\' | '"') => return,
            Some('/') if self.language == Language::Json => return,
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => 0,
        };
        for _ in 0..wanted {
            if !self.peek().is_some_and(|c| c.is_ascii_hexdigit()) {
                self.next();
                self.fail("illegal char escape");
                self.unread();
                return;
            }
            self.next();
        }
        if wanted == 0 {
            self.fail("illegal char escape");
        }
    }

    /// `<` was read.
    fn heredoc(&mut self) -> Kind {
        if self.next() != Some('<') {
            self.fail("heredoc expected second '<', didn't see it");
            return Kind::Heredoc;
        }
        let begin = self.offset;
        let mut c = self.next();
        if c == Some('-') {
            c = self.next();
        }
        while c.is_some_and(|c| is_letter(c) || c.is_numeric()) {
            c = self.next();
        }
        match c {
            None => {
                self.fail("heredoc not terminated");
                return Kind::Heredoc;
            }
            Some('\n') => {}
            Some(_) => {
                self.fail("invalid characters in heredoc anchor");
                return Kind::Heredoc;
            }
        }
        let mark = self.text[begin..self.offset - 1].trim_start_matches('-');
        if mark.is_empty() {
            self.fail("zero-length heredoc anchor");
            return Kind::Heredoc;
        }
        let mut line = self.offset;
        loop {
            match self.next() {
                None => {
                    self.fail("heredoc not terminated");
                    return Kind::Heredoc;
                }
                Some('\n') => {
                    let found = &self.text[line..self.offset - 1];
                    if found.trim_start().trim_end_matches('\r') == mark {
                        return Kind::Heredoc;
                    }
                    line = self.offset;
                }
                Some(_) => {}
            }
        }
    }
}

/// The text that a literal means; `${ … }` stays as written.
pub(super) fn unquote(written: &str, language: Language) -> String {
    let inner = written.strip_prefix('"').unwrap_or(written);
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars().peekable();
    let mut braces = 0_usize;
    while let Some(c) = chars.next() {
        match c {
            '$' if language == Language::Hcl && braces == 0 && chars.peek() == Some(&'{') => {
                chars.next();
                braces = 1;
                out.push_str("${");
            }
            '{' if braces > 0 => {
                braces += 1;
                out.push(c);
            }
            '}' if braces > 0 => {
                braces -= 1;
                out.push(c);
            }
            '\\' if braces == 0 => out.push(unescape(&mut chars)),
            c => out.push(c),
        }
    }
    out
}

fn unescape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> char {
    let digits = match chars.next() {
        Some('a') => return '\u{7}',
        Some('b') => return '\u{8}',
        Some('f') => return '\u{c}',
        Some('n') => return '\n',
        Some('r') => return '\r',
        Some('t') => return '\t',
        Some('v') => return '\u{b}',
        Some('x') => 2,
        Some('u') => 4,
        Some('U') => 8,
        Some(c) => return c,
        None => return '\\',
    };
    let mut code = 0_u32;
    for _ in 0..digits {
        let Some(digit) = chars.peek().and_then(|c| c.to_digit(16)) else { break };
        chars.next();
        code = code.wrapping_mul(16).wrapping_add(digit);
    }
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The text between a heredoc's marks; with `<<-` the common indentation goes.
pub(super) fn heredoc_text(written: &str) -> String {
    let Some((head, body)) = written.split_once('\n') else { return String::new() };
    let mut lines: Vec<&str> = body.trim_end_matches('\n').split('\n').collect();
    lines.pop();
    let cut = if head.starts_with("<<-") {
        let indent = |line: &&str| line.len() - line.trim_start().len();
        lines.iter().filter(|line| !line.trim().is_empty()).map(indent).min().unwrap_or(0)
    } else {
        0
    };
    let mut text = String::with_capacity(body.len());
    for line in lines {
        text.push_str(line.get(cut..).unwrap_or_default());
        text.push('\n');
    }
    text
}
