//! One event as a line of text or of JSON.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// Could the character begin another line, move a terminal's cursor, or turn the order of what is read?
pub(crate) fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A text without such characters: whoever chose it cannot write lines of their own into the log.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| {
        let (plain, odd) =
            if is_unsafe(c) { (None, Some(c.escape_default())) } else { (Some(c), None) };
        plain.into_iter().chain(odd.into_iter().flatten())
    };
    Cow::Owned(text.chars().flat_map(escape).collect())
}

/// JSON in which such characters are written as numbers. They stand only within its texts.
fn json_escaped(json: &str) -> Cow<'_, str> {
    if !json.contains(is_unsafe) {
        return Cow::Borrowed(json);
    }
    let mut text = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_unsafe(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                // Writing to a text cannot fail.
                let _ = write!(text, "\\u{unit:04x}");
            }
        } else {
            text.push(c);
        }
    }
    Cow::Owned(text)
}

/// Content of one log event.
pub(super) struct Record {
    /// RFC 3339, without its end: digits of the second's fraction and `Z` follow.
    moment: Moment,
    level: Level,
    /// `agent.http`: the part that says it.
    part: String,
    message: String,
    fields: Vec<(&'static str, Value)>,
}

#[derive(Clone, Copy)]
struct Moment {
    seconds: u64,
    nanos: u32,
}

impl Record {
    pub(super) fn of(event: &Event<'_>) -> Record {
        let metadata = event.metadata();
        let target = metadata.target();
        let part = match target.strip_prefix("muster_agent") {
            Some(rest) => format!("agent{}", rest.replace("::", ".")),
            None => format!("agent.{}", target.replace("::", ".")),
        };
        let mut record = Record {
            moment: now(),
            level: *metadata.level(),
            part,
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut record);
        record
    }

    /// `2026-01-02T03:04:05.678Z [INFO]  agent.local: message: key=value`
    pub(super) fn text(&self) -> String {
        let level = match self.level {
            Level::ERROR => "[ERROR]",
            Level::WARN => "[WARN] ",
            Level::INFO => "[INFO] ",
            Level::DEBUG => "[DEBUG]",
            Level::TRACE => "[TRACE]",
        };
        let moment = utc(self.moment.seconds, self.moment.nanos / 1_000_000, 3);
        let message = escaped(&self.message);
        let mut text = format!("{moment} {level} {}: {message}", self.part);
        for (position, (name, value)) in self.fields.iter().enumerate() {
            let before = if position == 0 && !message.is_empty() { ": " } else { " " };
            let _ = match value {
                Value::String(word) if is_plain(word) => write!(text, "{before}{name}={word}"),
                value => write!(text, "{before}{name}={}", json_escaped(&value.to_string())),
            };
        }
        text.push('\n');
        text
    }

    /// `{"@level":"info","@message":"...","@module":"agent.local","@timestamp":"...","key":"value"}`
    pub(super) fn json(&self) -> String {
        let mut object = Map::new();
        object.insert("@level".into(), self.level.as_str().to_lowercase().into());
        object.insert("@message".into(), self.message.clone().into());
        object.insert("@module".into(), self.part.clone().into());
        let moment = utc(self.moment.seconds, self.moment.nanos / 1_000, 6);
        object.insert("@timestamp".into(), moment.into());
        for (name, value) in &self.fields {
            object.insert((*name).to_owned(), value.clone());
        }
        json_escaped(&Value::Object(object).to_string()).into_owned() + "\n"
    }

    fn take(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        } else {
            self.fields.push((field.name(), value));
        }
    }
}

impl Visit for Record {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.take(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.take(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.take(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.take(field, value.into());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format!("{value:?}").into());
    }
}

/// Can the word stand without quotes? A line break in it would be a second line.
fn is_plain(word: &str) -> bool {
    !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || is_unsafe(c) || c == '"')
}

#[expect(clippy::disallowed_methods, reason = "log lines carry wall time")]
fn now() -> Moment {
    let since =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Moment { seconds: since.as_secs(), nanos: since.subsec_nanos() }
}

/// RFC 3339 text of a Unix time (civil-from-days, valid for every year of this era).
pub(super) fn utc(seconds: u64, fraction: u32, digits: usize) -> String {
    let days = seconds / 86_400;
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:0digits$}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        assert_eq!(utc(0, 0, 3), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(951_782_400, 7, 3), "2000-02-29T00:00:00.007Z");
        assert_eq!(utc(1_795_253_094, 801, 3), "2026-11-21T09:24:54.801Z");
        assert_eq!(utc(1_795_253_094, 801, 6), "2026-11-21T09:24:54.000801Z");
    }

    fn record(fields: Vec<(&'static str, Value)>) -> Record {
        Record {
            moment: Moment { seconds: 1_795_253_094, nanos: 801_234_567 },
            level: Level::WARN,
            part: "agent.local".into(),
            message: "it is so".into(),
            fields,
        }
    }

    #[test]
    fn an_event_is_one_line() {
        let record = record(vec![("id", "web".into()), ("why", "a\nb".into()), ("n", 3.into())]);
        assert_eq!(
            record.text(),
            "2026-11-21T09:24:54.801Z [WARN]  agent.local: it is so: id=web why=\"a\\nb\" n=3\n"
        );
        let json: Value = serde_json::from_str(&record.json()).expect("JSON");
        assert_eq!(json["@level"], "warn");
        assert_eq!(json["@timestamp"], "2026-11-21T09:24:54.801234Z");
        assert_eq!((json["@message"].as_str(), json["n"].as_u64()), (Some("it is so"), Some(3)));
    }

    #[test]
    fn nobody_writes_lines_of_their_own() {
        let forged = "x\n2026-01-01T00:00:00.000Z [ERROR] agent: forged";
        for odd in [
            forged,
            "a\rb",
            "a\r\nb",
            "a\0b",
            "\u{1b}[2Jb",
            "\u{9b}2Jb",
            "a\u{85}b",
            "a\u{2028}b",
            "a\u{202e}b",
            "a\u{7f}b",
        ] {
            let mut record = record(vec![
                ("name", odd.into()),
                ("names", vec![odd, "b"].into()),
                ("debug", format!("{odd:?}").into()),
            ]);
            record.message = format!("the name {odd} is taken");
            for line in [record.text(), record.json()] {
                let body = line.strip_suffix('\n').expect("one end");
                assert!(!body.contains(is_unsafe), "{odd:?}: {body:?}");
            }
            let json: Value = serde_json::from_str(&record.json()).expect("JSON");
            assert_eq!((json["name"].as_str(), &json["names"][0]), (Some(odd), &json["name"]));
        }
        assert_eq!(escaped("Knoten ü"), "Knoten ü");
        assert_eq!(escaped("a\nb\u{1b}"), "a\\nb\\u{1b}");
    }
}
