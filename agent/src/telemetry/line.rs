//! One event as a line of text or of JSON.

use std::fmt::{self, Write as _};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

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
        let mut text = format!("{moment} {level} {}: {}", self.part, self.message);
        for (position, (name, value)) in self.fields.iter().enumerate() {
            let before = if position == 0 && !self.message.is_empty() { ": " } else { " " };
            let _ = match value {
                Value::String(word) if is_plain(word) => write!(text, "{before}{name}={word}"),
                value => write!(text, "{before}{name}={value}"),
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
        Value::Object(object).to_string() + "\n"
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
    !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"')
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
}
