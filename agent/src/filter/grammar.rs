//! From text to an expression, by the reference's parsing expression grammar.
//!
//! ```text
//! Input     ← _? "(" _? Or _? ")" _? EOF  /  _? Or _? EOF
//! Or        ← And (_ "or" _ And)*
//! And       ← Not (_ "and" _ Not)*
//! Not       ← "not" _ Not / Grouping
//! Grouping  ← "(" _? Or _? ")" / Match
//! Match     ← Selector (== != contains "not contains" matches "not matches") Value
//!           / Selector ("is empty" "is not empty")
//!           / Value (in "not in") Selector
//! Selector  ← Identifier ("." Identifier / "[" _? String _? "]")*
//! Value     ← Selector / Number / String
//! ```
//!
//! Written as ordered choices, one function for each rule, because the reference's error messages
//! come out of exactly that: they list everything that was tried at the farthest place reached.
//! `Not` and `Or` remember their result at each place, so that the choices that begin alike cost
//! linear and not exponential time.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use super::{DEPTH_MAX, Error, TEXT_BYTES_MAX, coerce};

/// A parsed expression, not yet checked against any type of rows.
#[derive(Debug)]
pub(super) enum Parsed {
    Or(Vec<Rc<Parsed>>),
    And(Vec<Rc<Parsed>>),
    Not(Rc<Parsed>),
    /// Selector, operator and value; the value is empty where the operator has none.
    Match(Vec<String>, Operator, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    In,
    NotIn,
    Matches,
    NotMatches,
    IsEmpty,
    IsNotEmpty,
}

impl Operator {
    /// The reference's name for it, used in its errors.
    pub(super) fn name(self) -> &'static str {
        match self {
            Operator::Equal => "Equal",
            Operator::NotEqual => "Not Equal",
            Operator::In => "In",
            Operator::NotIn => "Not In",
            Operator::Matches => "Matches",
            Operator::NotMatches => "Not Matches",
            Operator::IsEmpty => "Is Empty",
            Operator::IsNotEmpty => "Is Not Empty",
        }
    }
}

/// Parses a whole expression.
pub(super) fn parse(text: &str) -> Result<Rc<Parsed>, Error> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Error::TooLong);
    }
    let mut peg = Peg {
        text,
        farthest: 0,
        expected: BTreeSet::new(),
        inverted: false,
        errors: Vec::new(),
        depth: 0,
        too_deep: false,
        ors: HashMap::new(),
        nots: HashMap::new(),
    };
    let parsed = peg.input();
    if peg.too_deep {
        return Err(Error::TooDeep);
    }
    match parsed {
        Some(expression) if peg.errors.is_empty() => Ok(expression),
        _ => Err(Error::Syntax(peg.complaint())),
    }
}

/// Result of a rule: its value and the position after it; `None` if it does not apply.
type ParseResult<T> = Option<(T, usize)>;

struct Peg<'t> {
    text: &'t str,
    /// The farthest place where something was tried and not found, and what was tried there.
    farthest: usize,
    expected: BTreeSet<&'static str>,
    /// Inside "not followed by": success is what is noted there.
    inverted: bool,
    /// Mistakes that are named as such; any of them fails the whole text.
    errors: Vec<String>,
    depth: usize,
    too_deep: bool,
    ors: HashMap<usize, ParseResult<Rc<Parsed>>>,
    nots: HashMap<usize, ParseResult<Rc<Parsed>>>,
}

impl Peg<'_> {
    fn rest(&self, at: usize) -> &str {
        &self.text[at..]
    }

    fn note(&mut self, at: usize, succeeded: bool, wanted: &'static str) {
        if succeeded != self.inverted || at < self.farthest {
            return;
        }
        if at > self.farthest {
            self.farthest = at;
            self.expected.clear();
        }
        // In front of a failure inside "not followed by", only the end of the text is ever shown.
        if !self.inverted {
            self.expected.insert(wanted);
        }
    }

    /// Names a mistake at a place. Choices may meet the same one again.
    fn mistake(&mut self, at: usize, rule: &str, what: &str) {
        let text = format!("{}: rule \"{rule}\": {what}", self.place(at));
        if !self.errors.contains(&text) {
            self.errors.push(text);
        }
    }

    /// `line:column (offset)`; a line end already counts as column 0 of the next line.
    fn place(&self, at: usize) -> String {
        let (mut line, mut column) = (1, 0);
        let mut count = |c: Option<char>| {
            column += 1;
            if c == Some('\n') {
                (line, column) = (line + 1, 0);
            }
        };
        self.text[..at].chars().for_each(|c| count(Some(c)));
        count(self.rest(at).chars().next());
        format!("{line}:{column} ({at})")
    }

    fn complaint(&self) -> String {
        if !self.errors.is_empty() {
            return self.errors.join("\n");
        }
        let mut expected: Vec<_> = self.expected.iter().copied().filter(|w| *w != "EOF").collect();
        if self.expected.contains("EOF") {
            expected.push("EOF");
        }
        let list = match expected.split_last() {
            Some((last, [])) => (*last).to_owned(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => String::new(),
        };
        format!("{}: no match found, expected: {list}", self.place(self.farthest))
    }

    // Terminals: a literal with the form in which errors show it, and classes of characters.

    fn literal(&mut self, at: usize, literal: &str, shown: &'static str) -> Option<usize> {
        let found = self.rest(at).starts_with(literal);
        self.note(at, found, shown);
        found.then_some(at + literal.len())
    }

    fn class(&mut self, at: usize, shown: &'static str, is: impl Fn(u8) -> bool) -> Option<usize> {
        let found = self.rest(at).bytes().next().is_some_and(is);
        self.note(at, found, shown);
        found.then_some(at + 1)
    }

    fn eof(&mut self, at: usize) -> Option<usize> {
        let found = at == self.text.len();
        if !found {
            self.note(at, false, "EOF");
        }
        found.then_some(at)
    }

    fn space(&mut self, at: usize) -> Option<usize> {
        let blank = |c: u8| matches!(c, b' ' | b'\t' | b'\r' | b'\n');
        let mut at = self.class(at, r"[ \t\r\n]", blank)?;
        while let Some(next) = self.class(at, r"[ \t\r\n]", blank) {
            at = next;
        }
        Some(at)
    }

    fn optional_space(&mut self, at: usize) -> usize {
        self.space(at).unwrap_or(at)
    }

    fn not_followed_by<T>(&mut self, rule: impl FnOnce(&mut Self) -> Option<T>) -> bool {
        self.inverted = !self.inverted;
        let found = rule(self);
        self.inverted = !self.inverted;
        found.is_none()
    }

    // Rules.

    fn input(&mut self) -> Option<Rc<Parsed>> {
        let begin = self.optional_space(0);
        if let Some((expression, at)) = self.bracketed(begin) {
            let at = self.optional_space(at);
            if self.eof(at).is_some() {
                return Some(expression);
            }
        }
        let (expression, at) = self.or(begin)?;
        let at = self.optional_space(at);
        self.eof(at).map(|_| expression)
    }

    fn or(&mut self, at: usize) -> ParseResult<Rc<Parsed>> {
        if let Some(known) = self.ors.get(&at) {
            return known.clone();
        }
        let found = self.chain(at, "or", "\"or\"", Self::and, Parsed::Or);
        self.ors.insert(at, found.clone());
        found
    }

    fn and(&mut self, at: usize) -> ParseResult<Rc<Parsed>> {
        self.chain(at, "and", "\"and\"", Self::not, Parsed::And)
    }

    /// `part (_ word _ part)*`. A loop, not a recursion: a thousand terms are no thousand frames.
    fn chain(
        &mut self,
        at: usize,
        word: &str,
        shown: &'static str,
        part: fn(&mut Self, usize) -> ParseResult<Rc<Parsed>>,
        join: fn(Vec<Rc<Parsed>>) -> Parsed,
    ) -> ParseResult<Rc<Parsed>> {
        let (first, mut at) = part(self, at)?;
        let mut parts = vec![first];
        while let Some(next) = self
            .space(at)
            .and_then(|at| self.literal(at, word, shown))
            .and_then(|at| self.space(at))
            .and_then(|at| part(self, at))
        {
            parts.push(next.0);
            at = next.1;
        }
        let whole = if parts.len() == 1 { parts.remove(0) } else { Rc::new(join(parts)) };
        Some((whole, at))
    }

    fn not(&mut self, at: usize) -> ParseResult<Rc<Parsed>> {
        if let Some(known) = self.nots.get(&at) {
            return known.clone();
        }
        if self.depth >= DEPTH_MAX {
            self.too_deep = true;
        }
        if self.too_deep {
            return None;
        }
        self.depth += 1;
        let found = self.negated(at).or_else(|| self.grouping(at));
        self.depth -= 1;
        self.nots.insert(at, found.clone());
        found
    }

    fn negated(&mut self, at: usize) -> ParseResult<Rc<Parsed>> {
        let at = self.literal(at, "not", "\"not\"")?;
        let at = self.space(at)?;
        let (inner, at) = self.not(at)?;
        let expression = match &*inner {
            Parsed::Not(twice) => twice.clone(),
            _ => Rc::new(Parsed::Not(inner)),
        };
        Some((expression, at))
    }

    fn grouping(&mut self, at: usize) -> ParseResult<Rc<Parsed>> {
        if let Some(found) = self.bracketed(at).or_else(|| self.matching(at)) {
            return Some(found);
        }
        let at = self.literal(at, "(", "\"(\"")?;
        let at = self.optional_space(at);
        let (_, at) = self.or(at)?;
        let at = self.optional_space(at);
        if self.not_followed_by(|peg| peg.literal(at, ")", "\")\"")) {
            self.mistake(at, "grouping", "Unmatched parentheses");
        }
        None
    }

    fn bracketed(&mut self, at: usize) -> ParseResult<Rc<Parsed>> {
        let at = self.literal(at, "(", "\"(\"")?;
        let at = self.optional_space(at);
        let (expression, at) = self.or(at)?;
        let at = self.optional_space(at);
        let at = self.literal(at, ")", "\")\"")?;
        Some((expression, at))
    }

    fn matching(&mut self, at: usize) -> ParseResult<Rc<Parsed>> {
        let (selector, operator, value, at) = self
            .selector_operator_value(at)
            .or_else(|| self.selector_operator(at))
            .or_else(|| self.value_operator_selector(at))?;
        Some((Rc::new(Parsed::Match(selector, operator, value)), at))
    }

    fn selector_operator_value(
        &mut self,
        at: usize,
    ) -> Option<(Vec<String>, Operator, String, usize)> {
        let (selector, at) = self.selector(at)?;
        let (operator, at) = self
            .sign(at, "==", "\"==\"", Operator::Equal)
            .or_else(|| self.sign(at, "!=", "\"!=\"", Operator::NotEqual))
            .or_else(|| self.word(at, false, ("contains", "\"contains\""), Operator::In))
            .or_else(|| self.word(at, true, ("contains", "\"contains\""), Operator::NotIn))
            .or_else(|| self.word(at, false, ("matches", "\"matches\""), Operator::Matches))
            .or_else(|| self.word(at, true, ("matches", "\"matches\""), Operator::NotMatches))?;
        let (value, at) = self.value(at)?;
        Some((selector, operator, value, at))
    }

    fn selector_operator(&mut self, at: usize) -> Option<(Vec<String>, Operator, String, usize)> {
        let (selector, at) = self.selector(at)?;
        let (operator, at) = self
            .emptiness(at, false, Operator::IsEmpty)
            .or_else(|| self.emptiness(at, true, Operator::IsNotEmpty))?;
        Some((selector, operator, String::new(), at))
    }

    fn value_operator_selector(
        &mut self,
        at: usize,
    ) -> Option<(Vec<String>, Operator, String, usize)> {
        let (value, at) = self.value(at)?;
        let (operator, at) = self
            .word(at, false, ("in", "\"in\""), Operator::In)
            .or_else(|| self.word(at, true, ("in", "\"in\""), Operator::NotIn))?;
        if let Some((selector, at)) = self.selector(at) {
            return Some((selector, operator, value, at));
        }
        self.mistake(at, "match", "Invalid selector");
        None
    }

    /// `_? sign _?`
    fn sign(
        &mut self,
        at: usize,
        sign: &str,
        shown: &'static str,
        operator: Operator,
    ) -> ParseResult<Operator> {
        let at = self.optional_space(at);
        let at = self.literal(at, sign, shown)?;
        Some((operator, self.optional_space(at)))
    }

    /// `_ "not" _ word _`, the first two only if `negated`.
    fn word(
        &mut self,
        at: usize,
        negated: bool,
        (word, shown): (&str, &'static str),
        operator: Operator,
    ) -> ParseResult<Operator> {
        let mut at = self.space(at)?;
        if negated {
            at = self.literal(at, "not", "\"not\"")?;
            at = self.space(at)?;
        }
        let at = self.literal(at, word, shown)?;
        Some((operator, self.space(at)?))
    }

    /// `_ "is" _ "not" _ "empty"`
    fn emptiness(&mut self, at: usize, negated: bool, operator: Operator) -> ParseResult<Operator> {
        let at = self.space(at)?;
        let at = self.literal(at, "is", "\"is\"")?;
        let mut at = self.space(at)?;
        if negated {
            at = self.literal(at, "not", "\"not\"")?;
            at = self.space(at)?;
        }
        Some((operator, self.literal(at, "empty", "\"empty\"")?))
    }

    fn selector(&mut self, at: usize) -> ParseResult<Vec<String>> {
        let (first, mut at) = self.identifier(at)?;
        let mut path = vec![first];
        while let Some((step, next)) = self.step(at) {
            path.push(step);
            at = next;
        }
        Some((path, at))
    }

    fn identifier(&mut self, begin: usize) -> ParseResult<String> {
        let mut at = self.class(begin, "[a-zA-Z]", |c| c.is_ascii_alphabetic())?;
        while let Some(next) =
            self.class(at, "[a-zA-Z0-9_]", |c| c.is_ascii_alphanumeric() || c == b'_')
        {
            at = next;
        }
        Some((self.text[begin..at].to_owned(), at))
    }

    fn step(&mut self, begin: usize) -> ParseResult<String> {
        let dotted = self.literal(begin, ".", "\".\"").and_then(|at| self.identifier(at));
        if dotted.is_some() {
            return dotted;
        }
        let at = self.literal(begin, "[", "\"[\"")?;
        let at = self.optional_space(at);
        let Some((key, at)) = self.string(at) else {
            self.mistake(at, "index", "Invalid index");
            return None;
        };
        let at = self.optional_space(at);
        let closed = self.literal(at, "]", "\"]\"");
        if closed.is_none() {
            self.mistake(at, "index", "Unclosed index expression");
        }
        closed.map(|at| (key, at))
    }

    fn value(&mut self, at: usize) -> ParseResult<String> {
        if let Some((path, at)) = self.selector(at) {
            return Some((path.join("."), at));
        }
        self.number(at).or_else(|| self.string(at))
    }

    fn number(&mut self, begin: usize) -> ParseResult<String> {
        let at = self.literal(begin, "-", "\"-\"").unwrap_or(begin);
        let mut at = if let Some(at) = self.literal(at, "0", "\"0\"") {
            at
        } else {
            let at = self.class(at, "[1-9]", |c| matches!(c, b'1'..=b'9'))?;
            self.digits(at).unwrap_or(at)
        };
        if let Some(fraction) = self.literal(at, ".", "\".\"").and_then(|at| self.digits(at)) {
            at = fraction;
        }
        let ended = self.space(at).is_some()
            || self.eof(at).is_some()
            || self.literal(at, ")", "\")\"").is_some();
        if !ended {
            self.mistake(at, "number", "Invalid number literal");
            return None;
        }
        Some((self.text[begin..at].to_owned(), at))
    }

    fn digits(&mut self, at: usize) -> Option<usize> {
        let mut at = self.class(at, "[0-9]", |c| c.is_ascii_digit())?;
        while let Some(next) = self.class(at, "[0-9]", |c| c.is_ascii_digit()) {
            at = next;
        }
        Some(at)
    }

    fn string(&mut self, begin: usize) -> ParseResult<String> {
        let (quote, inner) = match self.literal(begin, "`", "\"`\"") {
            Some(at) => ('`', at),
            None => ('"', self.literal(begin, "\"", "\"\\\"\"")?),
        };
        let Some(length) = self.rest(inner).find(quote) else {
            self.mistake(self.text.len(), "string", "Unterminated string literal");
            return None;
        };
        let end = inner + length + 1;
        let unquoted = coerce::unquote(&self.text[begin..end]);
        if unquoted.is_none() {
            // The expression is lost, but what follows is still looked at.
            self.mistake(begin, "string", "invalid syntax");
        }
        Some((unquoted.unwrap_or_default(), end))
    }
}
