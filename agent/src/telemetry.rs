//! Logs, set up once. One line per event, in the shape that log collectors know from the
//! reference: time, level, part, message, fields.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, time::FormatTime};
use tracing_subscriber::registry::LookupSpan;

/// What the log is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// JSON lines instead of text.
    pub json: bool,
}

/// Starts logging to standard output. A second call changes nothing.
pub fn start(settings: &Settings) {
    // Libraries below us log far more than an operator wants at the same level.
    let filter = match std::env::var("MUSTER_LOG") {
        Ok(directives) => EnvFilter::new(directives),
        Err(_) => EnvFilter::new(format!(
            "{},openraft=error,hyper=warn,h2=warn,sled=warn,tower=warn,bollard=warn",
            settings.level
        )),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stdout);
    let result = if settings.json {
        builder.json().flatten_event(true).try_init()
    } else {
        let fields = format::debug_fn(|out, field, value| {
            if field.name() == "message" {
                write!(out, "{value:?}")
            } else {
                write!(out, "{}={value:?}", field.name())
            }
        })
        .delimited(" ");
        builder.event_format(Line).fmt_fields(fields).try_init()
    };
    // Only a second call can fail here, and the first one's settings stand.
    let _ = result;
}

/// `2026-01-02T03:04:05.678Z [INFO]  local: message: key=value`
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        out.write_str("    ")?;
        Millis.format_time(&mut out)?;
        let level = match *event.metadata().level() {
            Level::ERROR => "[ERROR]",
            Level::WARN => "[WARN] ",
            Level::INFO => "[INFO] ",
            Level::DEBUG => "[DEBUG]",
            Level::TRACE => "[TRACE]",
        };
        let part = event.metadata().target();
        let part = part.strip_prefix("muster_agent::").unwrap_or(part).replace("::", ".");
        write!(out, " {level} agent.{part}: ")?;
        context.format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}

/// UTC with milliseconds.
struct Millis;

impl FormatTime for Millis {
    #[expect(clippy::disallowed_methods, reason = "log lines carry wall time")]
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        let since =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        out.write_str(&utc(since.as_secs(), since.subsec_millis()))
    }
}

/// RFC 3339 text of a Unix time (civil-from-days, valid for every year of this era).
fn utc(seconds: u64, millis: u32) -> String {
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
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn known_moments() {
        assert_eq!(utc(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(951_782_400, 7), "2000-02-29T00:00:00.007Z");
        assert_eq!(utc(1_795_253_094, 801), "2026-11-21T09:24:54.801Z");
    }
}
