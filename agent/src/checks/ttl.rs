//! Checks that are reported to: their owner says how it is, in time, or it is critical.

use super::CheckResult;

/// The result of a report that did not come, after the last one that did.
pub fn expired(last_note: &str) -> CheckResult {
    CheckResult::critical(if last_note.is_empty() {
        "TTL expired".to_owned()
    } else {
        format!("TTL expired (last output before timeout follows): {last_note}")
    })
}

/// A note as it is kept: its beginning, up to `bytes_max`, with a word on what was lost.
pub fn note(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = (0..=bytes_max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{} ... (captured {bytes_max} of {} bytes)", &text[..end], text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_cut_at_their_end() {
        assert_eq!(note("fine", 4), "fine");
        assert_eq!(note("fine!", 4), "fine ... (captured 4 of 5 bytes)");
        assert_eq!(note("a\u{e4}b", 2), "a ... (captured 2 of 4 bytes)");
        let long = "x".repeat(5000);
        assert_eq!(note(&long, 4096).len(), 4096 + " ... (captured 4096 of 5000 bytes)".len());
    }

    #[test]
    fn expiry_quotes_the_last_report() {
        assert_eq!(expired("").output, "TTL expired");
        assert_eq!(
            expired("fine").output,
            "TTL expired (last output before timeout follows): fine"
        );
    }
}
