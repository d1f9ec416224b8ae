//! The lines on which the keys of a file stand, so that a mistake is found by more than its name.
//!
//! One pass over the text, for JSON and HCL alike. It runs only when a mistake is to be told, on texts that have been
//! parsed already: what it does not understand has no line, and nothing else depends on it.

use std::collections::HashMap;

/// More ways to write the same place (`service.check`, `service[1].check`, ...) are not told apart.
const SPELLINGS_MAX: usize = 8;

/// Lines by the path of the key, in lower case.
pub(super) struct Places(HashMap<String, usize>);

impl Places {
    /// Reads a text.
    pub(super) fn of(text: &str) -> Places {
        let mut scan = Scan::new(text);
        scan.run();
        Places(scan.lines)
    }

    /// The line of the key at `path`, as faults write it: `ports.http`, `services[0].checks[1].interval`,
    /// `service.meta[a]`.
    pub(super) fn line(&self, path: &str) -> Option<usize> {
        let mut lower = path.to_lowercase();
        // A name in brackets is a key like others.
        while let Some(open) = lower
            .rmatch_indices('[')
            .map(|(at, _)| at)
            .find(|at| lower[at + 1..].chars().next().is_some_and(|first| !first.is_ascii_digit()))
        {
            lower = lower[..open].to_owned() + "." + &lower[open + 1..].replacen(']', "", 1);
        }
        self.0.get(&lower).copied()
    }
}

/// An object or a list that is open.
struct Open {
    /// Its place, in every spelling that faults may use.
    spellings: Vec<String>,
    list: bool,
    /// Items of a list so far.
    items: usize,
    /// Blocks by name so far.
    blocks: HashMap<String, usize>,
}

struct Scan<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
    lines: HashMap<String, usize>,
    open: Vec<Open>,
    /// Words since the last value: a key, or a block's name and labels.
    words: Vec<(String, usize)>,
    /// The key whose value comes next.
    key: Option<String>,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str) -> Scan<'a> {
        let whole =
            Open { spellings: vec![String::new()], list: false, items: 0, blocks: HashMap::new() };
        Scan {
            rest: text.chars().peekable(),
            line: 1,
            lines: HashMap::new(),
            open: vec![whole],
            words: Vec::new(),
            key: None,
        }
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn run(&mut self) {
        while let Some(c) = self.bump() {
            match c {
                '#' => self.skip_line(),
                '/' if self.rest.peek() == Some(&'/') => self.skip_line(),
                '/' if self.rest.peek() == Some(&'*') => self.skip_comment(),
                '<' if self.rest.peek() == Some(&'<') => self.skip_heredoc(),
                '"' => {
                    let line = self.line;
                    let text = self.string();
                    self.word(&text, line);
                }
                '=' | ':' => {
                    let words = std::mem::take(&mut self.words);
                    if let Some((name, line)) = words.into_iter().next() {
                        self.note(&name, line);
                        self.key = Some(name);
                    }
                }
                '{' => self.open_object(),
                '[' => {
                    let spellings = self.inside();
                    self.push(spellings, true);
                }
                '}' | ']' => {
                    if self.open.len() > 1 {
                        self.open.pop();
                    }
                    self.words.clear();
                    self.key = None;
                }
                ',' | ';' => {
                    self.words.clear();
                    self.key = None;
                    if let Some(list) = self.open.last_mut().filter(|open| open.list) {
                        list.items += 1;
                    }
                }
                c if c.is_whitespace() || c == '\u{feff}' => {}
                c => {
                    let mut text = String::from(c);
                    while let Some(more) =
                        self.rest.next_if(|c| c.is_alphanumeric() || "_-.+".contains(*c))
                    {
                        text.push(more);
                    }
                    let line = self.line;
                    self.word(&text, line);
                }
            }
        }
    }

    /// A word is a value if one is expected, else a key or part of a block's name.
    fn word(&mut self, text: &str, line: usize) {
        let in_list = self.open.last().is_some_and(|open| open.list);
        if self.key.take().is_none() && !in_list {
            self.words.push((text.to_lowercase(), line));
        }
    }

    fn note(&mut self, name: &str, line: usize) {
        for place in self.below(name) {
            self.lines.entry(place).or_insert(line);
        }
    }

    /// The place of a key in what is open.
    fn below(&self, name: &str) -> Vec<String> {
        let around = self.open.last().map(|open| open.spellings.as_slice()).unwrap_or_default();
        let join = |place: &String| {
            if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") }
        };
        around.iter().map(join).collect()
    }

    /// The place of the value that begins: after a key, or as an item of a list.
    fn inside(&mut self) -> Vec<String> {
        if let Some(key) = self.key.take() {
            return self.below(&key);
        }
        let Some(list) = self.open.last() else { return Vec::new() };
        let item = list.items;
        // A list of one block is the block.
        let both = |place: &String| [format!("{place}[{item}]"), place.clone()];
        list.spellings.iter().flat_map(both).collect()
    }

    fn open_object(&mut self) {
        if self.key.is_some() || self.words.is_empty() {
            let whole = self.open.len() == 1 && self.key.is_none();
            let spellings = if whole { vec![String::new()] } else { self.inside() };
            self.push(spellings, false);
            return;
        }
        let words = std::mem::take(&mut self.words);
        let (name, line) = &words[0];
        self.note(name, *line);
        let mut labels = String::new();
        for (label, _) in &words[1..] {
            labels.extend([".", label]);
        }
        let count = self.open.last_mut().map_or(0, |open| {
            let count = open.blocks.entry(name.clone()).or_insert(0);
            *count += 1;
            *count - 1
        });
        let both =
            |place: String| [format!("{place}{labels}"), format!("{place}[{count}]{labels}")];
        let spellings = self.below(name).into_iter().flat_map(both).collect();
        self.push(spellings, false);
    }

    fn push(&mut self, mut spellings: Vec<String>, list: bool) {
        spellings.truncate(SPELLINGS_MAX);
        self.words.clear();
        self.open.push(Open { spellings, list, items: 0, blocks: HashMap::new() });
    }

    fn skip_line(&mut self) {
        while self.rest.peek().is_some_and(|c| *c != '\n') {
            self.bump();
        }
    }

    fn skip_comment(&mut self) {
        let mut before = ' ';
        self.bump();
        while let Some(c) = self.bump() {
            if before == '*' && c == '/' {
                return;
            }
            before = c;
        }
    }

    fn skip_heredoc(&mut self) {
        let mark = self.rest_of_line();
        let mark = mark.trim_start_matches(['<', '-']).trim().to_owned();
        while self.rest.peek().is_some() {
            if self.rest_of_line().trim() == mark {
                break;
            }
        }
        self.key = None;
    }

    fn rest_of_line(&mut self) -> String {
        let mut line = String::new();
        while let Some(c) = self.bump() {
            if c == '\n' {
                break;
            }
            line.push(c);
        }
        line
    }

    fn string(&mut self) -> String {
        let mut text = String::new();
        while let Some(c) = self.bump() {
            match c {
                '"' => break,
                '\\' => text.extend(self.bump()),
                c => text.push(c),
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_lines_in_both_languages() {
        let json = "{\n \"a\": 1, \"b\": {\n  \"C\": [1, \"x\"],\n  \"d\": \"b: 1\"\n },\n \"services\": [\n  {\"name\": \"n\"},\n  {\n   \"check\": {\"http\": \"x\",\n    \"intervall\": \"1s\"}\n  }\n ]\n}\n";
        let hcl = "# a = 1\na = 1 b { /* d = 2\n */ c = [1]\n text = <<EOF\n d = 3\nEOF\n d = 2 }\nservice { name = \"n\" }\nservice {\n checks = [{ x = 1 },\n { y = 2 }]\n meta { k = \"v\" }\n}\nservice \"l\" {\n port = 1\n}\nports = [{ http = 1 }]\n";
        let rows = [
            (json, "a", Some(2)),
            (json, "b.c", Some(3)),
            (json, "b.d", Some(4)),
            (json, "services[1].check.intervall", Some(10)),
            (json, "services[0].name", Some(7)),
            (json, "services[2].name", None),
            (json, "c", None),
            (hcl, "a", Some(2)),
            (hcl, "b.c", Some(3)),
            (hcl, "b.d", Some(7)),
            (hcl, "service[1].checks[1].y", Some(11)),
            (hcl, "service[1].meta[k]", Some(12)),
            (hcl, "service[2].l.port", Some(15)),
            (hcl, "ports.http", Some(17)),
            (hcl, "d", None),
        ];
        for (text, path, line) in rows {
            assert_eq!(Places::of(text).line(path), line, "{path} in {text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[ a-c0-9_={}\\[\\],:\"\\\\<\n#/*$.-]{0,80}", path in "[a-c.\\[\\]0-9]{0,9}") {
            let _ = Places::of(&text).line(&path);
        }
    }
}
