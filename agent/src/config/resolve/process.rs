//! Settings of the process: its folder, its log, the files of its sockets.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::Error;
use crate::config::written::Written;
use crate::telemetry;

/// The log begins a new file after a day unless told otherwise.
const LOG_AGE: Duration = Duration::from_hours(24);

/// Owner and mode of the files of unix sockets; `None` leaves a thing as the system makes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnixSockets {
    /// Id of the user.
    pub user: Option<u32>,
    /// Id of the group.
    pub group: Option<u32>,
    /// Permission bits.
    pub mode: Option<u32>,
}

/// Folder of what must survive; development mode keeps nothing.
pub(super) fn data_dir(written: &Written, dev: bool) -> Result<Option<PathBuf>, Error> {
    if dev {
        return Ok(None);
    }
    let dir = written.file("data_dir").ok_or_else(|| {
        Error("data_dir cannot be empty\nhint: give -data-dir=/var/lib/muster, or -dev to try things out".into())
    })?;
    if dir.exists() && !dir.is_dir() {
        return Err(Error(format!("data_dir \"{}\" is not a directory", dir.display())));
    }
    Ok(Some(dir))
}

/// Settings of the log.
pub(super) fn log(written: &Written, dev: bool) -> Result<telemetry::Settings, Error> {
    let text = |key: &str| written.filled(key);
    let age_max = written.duration("log_rotate_duration", LOG_AGE);
    let file = written.file("log_file").map(|path| telemetry::LogFile {
        path,
        age_max: if age_max.is_zero() { LOG_AGE } else { age_max },
        bytes_max: written.count("log_rotate_bytes", 0),
        files_max: written.int("log_rotate_max_files").unwrap_or(0),
    });
    let facility = text("syslog_facility").unwrap_or("LOCAL0").to_owned();
    Ok(telemetry::Settings {
        level: level(text("log_level").unwrap_or(if dev { "debug" } else { "info" }))?,
        json: written.on("log_json"),
        file,
        syslog: written.on("enable_syslog").then_some(facility),
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
    let text = |key: &str| written.filled(key);
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
