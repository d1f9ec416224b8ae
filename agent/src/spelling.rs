//! Suggestions for misspelled names: keys, flags, commands, types of watches.

/// Names that are further away than this are no suggestion.
const DISTANCE_MAX: usize = 2;

/// The known name that was probably meant: at most [`DISTANCE_MAX`] letters away, and fewer than its length.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let known = known.into_iter().map(|known| (distance(name, known), known));
    let near = known.filter(|(far, known)| *far <= DISTANCE_MAX && *far < known.len());
    near.min().map(|(_, known)| known)
}

/// Levenshtein distance; names are short, so the quadratic form will do.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = if x == *y { corner } else { 1 + corner.min(row[j]).min(row[j + 1]) };
            corner = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}

/// A text from others on one line of a terminal: characters that steer it, or turn the order of letters, are escaped.
pub(crate) fn printable(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        for (text, shown) in [
            ("web-ü 1\\", "web-ü 1\\"),
            ("i\nd\t", r"i\nd\t"),
            ("\u{1b}[31m\u{9b}", r"\u{1b}[31m\u{9b}"),
            ("a\u{202e}b", r"a\u{202e}b"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }

    #[test]
    fn near_names_are_suggested() {
        let known = ["service", "services", "key", "up"];
        let rows =
            [("servce", Some("service")), ("kye", Some("key")), ("entirely", None), ("x", None)];
        for (name, expected) in rows {
            assert_eq!(nearest(name, known), expected, "{name}");
        }
        assert_eq!(
            (distance("kitten", "sitting"), distance("", "abc"), distance("a", "a")),
            (3, 3, 0)
        );
    }
}
