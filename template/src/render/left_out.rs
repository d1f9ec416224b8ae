//! What a text goes without: a service, an instance or a key that is odd costs itself alone, is named, and everything
//! else goes on.
//!
//! A template says so by `leave_out(what=, why=)`, some filters say so themselves. What was left out is shown in the
//! log, on the status page and as a metric.

use super::Pass;

/// So much of a name or a reason is shown: both come from whoever may register a service.
const SHOWN_LETTERS_MAX: usize = 80;

/// So many are remembered of one pass; the rest is left out as well, but not named one by one.
const NAMED_MAX: usize = 1000;

/// A text in quotes, on one line and not too long, fit for a log and a comment.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_LETTERS_MAX).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    let mut quoted = String::from("`");
    for letter in shown.chars() {
        match letter {
            '`' => quoted.push('\''),
            letter if letter.is_control() || is_break(letter) => {
                quoted.extend(letter.escape_default());
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('`');
    quoted
}

/// Letters that end a line, or turn the direction of what follows, for some readers.
fn is_break(letter: char) -> bool {
    matches!(letter, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl Pass {
    /// Notes that the text goes without `what` (a kind and a name, such as `service web`).
    pub(super) fn leave_out(&mut self, what: &str, why: &str) -> String {
        let (kind, name) = what.split_once(' ').unwrap_or(("", what));
        let named = format!("{kind} {}", shown(name)).trim_start().to_owned();
        let why: String = why.chars().filter(|letter| !letter.is_control()).take(200).collect();
        if self.left_out.len() < NAMED_MAX {
            self.left_out.insert(named.clone(), why.clone());
        }
        format!("left out {named}: {why}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_stays_on_its_line() {
        for (text, expected) in [
            ("web", "`web`"),
            ("a\nb", "`a\\nb`"),
            ("a`b", "`a'b`"),
            ("a\u{2028}b", "`a\\u{2028}b`"),
            ("\u{1b}[31m", "`\\u{1b}[31m`"),
        ] {
            assert_eq!(shown(text), expected);
        }
        assert!(shown(&"x".repeat(1000)).len() < 100);
    }
}
