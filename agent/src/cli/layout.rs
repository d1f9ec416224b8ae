//! Columns, JSON and errors as people and scripts expect them.

use std::fmt::Write as _;

use crate::json::parts;
pub(super) use crate::json::{compact, text as json_text};

/// Rows in columns, each as wide as its widest cell and `gap` blanks; the last column ends where
/// its text ends.
pub(super) fn columns(rows: &[Vec<String>], gap: usize) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0) + gap).collect();
    let mut text = String::new();
    for row in rows {
        let last = row.len().saturating_sub(1);
        for (column, cell) in row.iter().enumerate() {
            if column == last {
                text.push_str(cell);
            } else {
                let _ = write!(text, "{cell:width$}", width = widths[column]);
            }
        }
        text.push('\n');
    }
    text
}

/// Rows under a row of headings as JSON: one object for each.
pub(super) fn objects(rows: &[Vec<String>]) -> String {
    let Some((headings, rows)) = rows.split_first() else { return "[]\n".to_owned() };
    let object = |row: &Vec<String>| {
        let fields: Vec<String> = headings
            .iter()
            .zip(row)
            .map(|(name, cell)| format!("{}:{}", json_text(name), json_text(cell)))
            .collect();
        format!("{{{}}}", fields.join(","))
    };
    let rows: Vec<String> = rows.iter().map(object).collect();
    indent(&format!("[{}]", rows.join(",")), "    ") + "\n"
}

/// Anything as JSON, as [`objects`] lays rows out.
pub(super) fn document(value: &impl serde::Serialize) -> String {
    // What is printed has texts for names: it can be written.
    indent(&escaped(&serde_json::to_string(value).unwrap_or_default()), "    ") + "\n"
}

/// JSON whose texts are escaped as the API does. The characters stand nowhere but in texts.
pub(super) fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        match letter {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(text, "\\u{:04x}", u32::from(letter));
            }
            _ => text.push(letter),
        }
    }
    text
}

/// Green or red on a terminal, plain anywhere else and for whoever sets NO_COLOR.
pub(super) fn colored(text: &str, good: bool) -> String {
    use std::io::IsTerminal as _;
    if !std::io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some() {
        return text.to_owned();
    }
    let color = if good { 32 } else { 31 };
    format!("\x1b[{color}m{text}\x1b[0m")
}

/// An error with everything that led to it, on one line, nothing said twice.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let words = source.to_string();
        if !text.ends_with(&words) {
            let _ = write!(text, ": {words}");
        }
        next = source.source();
    }
    text
}

/// An error of the system in the words of the C library, without its number.
pub(super) fn system(error: &std::io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or_default();
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().collect::<String>() + letters.as_str()
    })
}

/// JSON on lines, each level further in by `unit`. Names keep their order and texts their escapes.
pub(super) fn indent(json: &str, unit: &str) -> String {
    let json = compact(json);
    let mut text = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut before = "";
    parts(&json, |part| {
        let opened = matches!(before, "{" | "[");
        let closes = matches!(part, "}" | "]");
        if closes {
            depth = depth.saturating_sub(1);
        }
        // A line ends before what closes and after what opens, but not inside `[]` and `{}`.
        if opened != closes || before == "," {
            text.push('\n');
            text.extend(std::iter::repeat_n(unit, depth));
        }
        text.push_str(part);
        match part {
            "{" | "[" => depth += 1,
            ":" => text.push(' '),
            _ => {}
        }
        before = match part {
            "{" => "{",
            "[" => "[",
            "," => ",",
            _ => "",
        };
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_laid_out() {
        let rows = [
            ("null", "null", "null"),
            ("[ ]", "[]", "[]"),
            ("{ }\n", "{}", "{}"),
            (
                r#"{"a" : [1, "x, y: [\"{"],"b":{"c":[]}, "d":true}"#,
                r#"{"a":[1,"x, y: [\"{"],"b":{"c":[]},"d":true}"#,
                "{\n  \"a\": [\n    1,\n    \"x, y: [\\\"{\"\n  ],\n  \"b\": {\n    \"c\": []\n  },\n  \"d\": true\n}",
            ),
            (r"[[],[{}]]", r"[[],[{}]]", "[\n  [],\n  [\n    {}\n  ]\n]"),
        ];
        for (json, dense, lines) in rows {
            assert_eq!(compact(json), dense);
            assert_eq!(indent(json, "  "), lines);
        }
    }

    #[test]
    fn the_last_column_is_not_filled_up() {
        let row = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        let rows = [row(&["Node", "DC"]), row(&["n1-ü", "dc1"]), row(&["n", ""])];
        assert_eq!(columns(&rows, 2), "Node  DC\nn1-ü  dc1\nn     \n");
    }

    #[test]
    fn text_is_escaped_as_the_api_does() {
        assert_eq!(json_text("a<b>&\"\u{2028}"), "\"a\\u003cb\\u003e\\u0026\\\"\\u2028\"");
    }

    #[test]
    fn documents_are_escaped_alike() {
        let document = document(&serde_json::json!({"a<": "<b>&\"\u{2029}ü"}));
        assert_eq!(document, "{\n    \"a\\u003c\": \"\\u003cb\\u003e\\u0026\\\"\\u2029ü\"\n}\n");
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = (compact(&text), indent(&text, " "));
        }
    }
}
