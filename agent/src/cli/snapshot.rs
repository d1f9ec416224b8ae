//! `snapshot save`, `restore` and `inspect`: the state of the servers as a file.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use muster_client::{Client, Error, Raw};
use serde_json::json;

use super::command::{Call, CommonFlags, Failure, Flag, Outcome, Spec, wait};
use super::layout;
use crate::archive::{self, Meta};
use crate::disk;

/// A large state takes its time.
const PATIENCE: Duration = Duration::from_mins(30);

const PATH: &str = "/v1/snapshot";

pub(super) const ABOUT: &str = "Saves the state of the servers (nodes, services, checks, keys, \
sessions) as of one moment, restores it, and tells what a file holds.

    $ muster snapshot save backup.snap
    $ muster snapshot inspect backup.snap
    $ muster snapshot restore backup.snap";

pub(super) static SAVE: Spec = Spec {
    path: "snapshot save",
    synopsis: "Saves the state of the servers to a file",
    operands: "FILE",
    about: "Saves the state of the servers to FILE. The file is verified before it gets its name: \
it is whole and sound, or it is not there. With -stale any server answers, even without a leader.

    $ muster snapshot save backup.snap",
    flags: &[],
    common_flags: CommonFlags::StaleApi,
    run: save,
};

pub(super) static RESTORE: Spec = Spec {
    path: "snapshot restore",
    synopsis: "Replaces the state of the servers by a saved one",
    operands: "FILE",
    about: "Replaces the whole state of the servers by the one in FILE, at once on all servers. \
What was written since it was saved is lost, and everybody who waits for a change looks again. \
Who takes part in the cluster does not change. A damaged file, or one of another program, changes \
nothing.

    $ muster snapshot restore backup.snap",
    flags: &[],
    common_flags: CommonFlags::Api,
    run: restore,
};

pub(super) static INSPECT: Spec = Spec {
    path: "snapshot inspect",
    synopsis: "Tells what a saved state holds",
    operands: "FILE",
    about: "Verifies FILE and tells which state it holds. Needs no agent.

    $ muster snapshot inspect backup.snap",
    flags: &[Flag::text("format", "pretty|json", "How to print it; pretty by default.")],
    common_flags: CommonFlags::None,
    run: inspect,
};

fn file(call: &Call) -> Result<&Path, Failure> {
    match call.operands.as_slice() {
        [] => Err(Failure::new("Missing FILE argument")),
        [file] => Ok(Path::new(file)),
        many => Err(Failure::new(format!("Too many arguments (expected 1, got {})", many.len()))),
    }
}

fn opened(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| {
        Failure::new(format!(
            "Error opening snapshot file: open {}: {}",
            path.display(),
            layout::system(&error)
        ))
    })
}

fn verified(path: &Path) -> Result<Meta, Failure> {
    archive::inspect(opened(path)?)
        .map_err(|error| Failure::new(format!("Error verifying snapshot: {error}")))
}

async fn ask(client: &Client, call: &Call, method: Method, body: Bytes) -> Result<Raw, Error> {
    let stale = call.values.on("stale").then(|| ("stale", String::new()));
    let query: Vec<_> = stale.into_iter().collect();
    let raw = client.call(method, PATH, &query, body, PATIENCE).await?;
    if raw.status.is_success() {
        return Ok(raw);
    }
    Err(Error::Status { code: raw.status, text: raw.text() })
}

fn save(call: &Call) -> Outcome {
    let path = file(call)?;
    let client = call.client()?;
    let raw = wait(ask(&client, call, Method::GET, Bytes::new()))?
        .map_err(|error| call.failed("Error saving snapshot", &error))?;
    // Beside its name until it proved sound, so that nobody takes half a file for a backup.
    let beside = PathBuf::from(format!("{}.unverified", path.display()));
    write(&beside, &raw.body).map_err(|error| {
        Failure::new(format!(
            "Error writing unverified snapshot file: open {}: {}",
            beside.display(),
            layout::system(&error)
        ))
    })?;
    let meta = verified(&beside).inspect_err(|_| {
        // A file that is not sound is of no use; that it stays would be the smaller harm.
        let _ = fs::remove_file(&beside);
    })?;
    fs::rename(&beside, path).map_err(|error| {
        Failure::new(format!(
            "Error renaming {:?} to {:?}: {}",
            beside.display().to_string(),
            path.display().to_string(),
            layout::system(&error)
        ))
    })?;
    Ok(format!("Saved and verified snapshot to index {}\n", meta.index).into())
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = disk::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn restore(call: &Call) -> Outcome {
    let path = file(call)?;
    opened(path)?;
    let bytes = fs::read(path).map_err(|error| {
        Failure::new(format!("Error restoring snapshot: read {}: {error}", path.display()))
    })?;
    let client = call.client()?;
    wait(ask(&client, call, Method::PUT, bytes.into()))?
        .map_err(|error| call.failed("Error restoring snapshot", &error))?;
    Ok("Restored snapshot\n".to_owned().into())
}

fn inspect(call: &Call) -> Outcome {
    let path = file(call)?;
    let meta = verified(path)?;
    match call.values.text("format").unwrap_or("pretty") {
        "pretty" => {
            let rows = [
                ("ID", meta.id),
                ("Size", meta.size.to_string()),
                ("Index", meta.index.to_string()),
                ("Term", meta.term.to_string()),
                ("Version", meta.version.to_string()),
            ];
            let rows: Vec<_> =
                rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
            // Wide enough for the names that later versions may add.
            Ok((layout::columns(&rows, 6) + "\n").into())
        }
        "json" => {
            let value = json!({
                "ID": meta.id,
                "Size": meta.size,
                "Index": meta.index,
                "Term": meta.term,
                "Version": meta.version,
                "StateFormat": meta.state_format,
            });
            Ok((layout::indent(&value.to_string(), "    ") + "\n").into())
        }
        other => {
            Err(Failure::new(format!("invalid format {other:?}, valid values are [pretty json]")))
        }
    }
}
