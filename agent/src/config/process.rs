//! Settings of the process: its log, the files of its sockets, its limits on clients.

use std::time::Duration;

use super::file::Written;
use super::{Error, RequestLimits, RequestLimitsMode, UnixSockets};
use crate::telemetry;
use crate::upstream::Rate;

/// The log begins a new file after a day unless told otherwise.
const LOG_AGE: Duration = Duration::from_hours(24);

/// A duration under `key`.
pub(super) fn duration(written: &Written, key: &str, default: Duration) -> Result<Duration, Error> {
    let Some(text) = written.text(key) else { return Ok(default) };
    muster_client::types::parse_duration(text).map_err(|_| {
        Error(format!("{key}: invalid duration: \"{text}\": time: invalid duration \"{text}\""))
    })
}

/// Settings of the log.
pub(super) fn log(written: &Written, dev: bool) -> Result<telemetry::Settings, Error> {
    let text = |key: &str| written.text(key).filter(|text| !text.is_empty());
    let age_max = duration(written, "log_rotate_duration", LOG_AGE)?;
    let file = text("log_file").map(|path| telemetry::LogFile {
        path: path.into(),
        age_max: if age_max.is_zero() { LOG_AGE } else { age_max },
        bytes_max: written
            .int("log_rotate_bytes")
            .and_then(|bytes| u64::try_from(bytes).ok())
            .unwrap_or(0),
        files_max: written.int("log_rotate_max_files").unwrap_or(0),
    });
    let facility = text("syslog_facility").unwrap_or("LOCAL0").to_owned();
    Ok(telemetry::Settings {
        level: level(text("log_level").unwrap_or(if dev { "debug" } else { "info" }))?,
        json: written.bool("log_json").unwrap_or(false),
        file,
        syslog: written.bool("enable_syslog").unwrap_or(false).then_some(facility),
    })
}

fn level(text: &str) -> Result<String, Error> {
    let lower = text.to_lowercase();
    match lower.as_str() {
        "trace" | "debug" | "info" | "warn" | "error" => Ok(lower),
        "err" => Ok("error".into()),
        _ => Err(Error(format!(
            "Invalid log level: {}. Valid log levels are: [TRACE DEBUG INFO WARN ERR]",
            text.to_uppercase()
        ))),
    }
}

/// Owner, group and mode of the files of unix sockets.
pub(super) fn unix_sockets(written: &Written) -> Result<UnixSockets, Error> {
    let text = |key: &str| written.text(key).filter(|text| !text.is_empty());
    let mode = match text("unix_sockets.mode") {
        None => None,
        Some(text) => Some(u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777).ok_or_else(
            || {
                Error(format!(
                    "unix_sockets.mode: invalid mode \"{text}\"\nhint: give an octal number such as \"0770\""
                ))
            },
        )?),
    };
    Ok(UnixSockets {
        user: user(text("unix_sockets.user"))?,
        group: group(text("unix_sockets.group"))?,
        mode,
    })
}

/// The id of a user, given by number or by name.
fn user(text: Option<&str>) -> Result<Option<u32>, Error> {
    let Some(text) = text else { return Ok(None) };
    if let Ok(id) = text.parse() {
        return Ok(Some(id));
    }
    match nix::unistd::User::from_name(text) {
        Ok(Some(user)) => Ok(Some(user.uid.as_raw())),
        _ => Err(Error(format!("unix_sockets.user: there is no user \"{text}\""))),
    }
}

/// The id of a group, given by number or by name.
fn group(text: Option<&str>) -> Result<Option<u32>, Error> {
    let Some(text) = text else { return Ok(None) };
    if let Ok(id) = text.parse() {
        return Ok(Some(id));
    }
    match nix::unistd::Group::from_name(text) {
        Ok(Some(group)) => Ok(Some(group.gid.as_raw())),
        _ => Err(Error(format!("unix_sockets.group: there is no group \"{text}\""))),
    }
}

/// Rate limits of the HTTP interface.
pub(super) fn request_limits(written: &Written) -> Result<RequestLimits, Error> {
    let mode = match written.text("limits.request_limits.mode").unwrap_or("disabled") {
        "" | "disabled" => RequestLimitsMode::Disabled,
        "permissive" => RequestLimitsMode::Permissive,
        "enforcing" => RequestLimitsMode::Enforcing,
        other => {
            return Err(Error(format!(
                "limits.request_limits.mode cannot be \"{other}\". Must be \"disabled\", \"permissive\" or \"enforcing\""
            )));
        }
    };
    let rate = |key: &str| written.float(key).filter(|rate| *rate >= 0.0);
    Ok(RequestLimits {
        mode,
        reads: rate("limits.request_limits.read_rate"),
        writes: rate("limits.request_limits.write_rate"),
    })
}

/// Rate limit of requests to servers. A value that is not above zero is no limit, and the usual burst, as in the reference.
pub(super) fn rpc_rate(written: &Written) -> Option<Rate> {
    let per_second = written.float("limits.rpc_rate").filter(|rate| *rate > 0.0)?;
    let burst = written.int("limits.rpc_max_burst").filter(|burst| *burst > 0);
    let burst = burst.map_or(Rate::BURST, |burst| u32::try_from(burst).unwrap_or(u32::MAX));
    Some(Rate { per_second, burst })
}
