//! The node's UUID: given, or kept in `node-id` beside the data.
//!
//! Log, votes and catalog rows belong to this id. A file that cannot be read is therefore an error: a
//! new id in its place would cut the agent off from all it had.

use std::fs;
use std::io;
use std::path::Path;

use uuid::Uuid;

use super::Error;
use crate::config::Config;
use crate::{disk, raft};

/// Bytes of an unreadable file that its error shows.
const SHOWN_MAX: usize = 64;

/// The id of this node. A new one, or another one than before, is kept.
pub(super) fn node_id(config: &Config) -> Result<String, Error> {
    let given = config.node_id.as_deref();
    let Some(dir) = &config.data_dir else {
        return Ok(given.map_or_else(new_id, str::to_owned));
    };
    disk::folder(dir).map_err(failed(format!("cannot make data_dir {}", dir.display())))?;
    if let Err(error) = disk::tighten(dir) {
        tracing::warn!(%error, "others may read what this agent keeps: its rights cannot be changed");
    }
    kept(dir, given, config.server)
}

/// Content of the file.
enum Kept {
    Nothing,
    Id(String),
    Unreadable(Vec<u8>),
}

fn kept(dir: &Path, given: Option<&str>, is_server: bool) -> Result<String, Error> {
    let file = dir.join("node-id");
    let kept = read(&file).map_err(failed(format!("cannot read {}", file.display())))?;
    let owner = raft::owner_of_log(dir).filter(|_| is_server).map(|owner| owner.to_string());
    let log = || format!("the log in {}", dir.join("raft").display());
    if let (Some(given), Some(owner)) = (given, &owner)
        && given != owner
    {
        return Err(Error::Identity(format!(
            "node_id is `{given}`, but {} belongs to the server `{owner}`; set node_id to that, or start in an empty data_dir",
            log()
        )));
    }
    if let (Kept::Id(id), None, Some(owner)) = (&kept, given, &owner)
        && id != owner
    {
        // Even the id of another server of its cluster: two would vote and answer as one.
        let what = format!("{} holds `{id}`", file.display());
        return Err(Error::Identity(lost(&what, &log(), Some(owner))));
    }
    let id = match (kept, given) {
        // What the operator says counts; the file stays as it is, for whoever looks into its damage.
        (Kept::Unreadable(_), Some(given)) => return Ok(given.to_owned()),
        (Kept::Unreadable(bytes), None) => {
            let what = format!("{} holds `{}`, which is no UUID", file.display(), shown(&bytes));
            return Err(Error::Identity(lost(&what, &log(), owner.as_deref())));
        }
        (Kept::Nothing, None) if owner.is_some() => {
            let what = format!("{} is missing", file.display());
            return Err(Error::Identity(lost(&what, &log(), owner.as_deref())));
        }
        (Kept::Id(id), None) => return Ok(id),
        (Kept::Id(id), Some(given)) if id == given => return Ok(id),
        (_, Some(given)) => given.to_owned(),
        (Kept::Nothing, None) => new_id(),
    };
    disk::replace(&file, id.as_bytes())
        .map_err(failed(format!("cannot write {}", file.display())))?;
    Ok(id)
}

fn failed(what: String) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { what, source }
}

/// Error text: the fault of the file, and the way out.
fn lost(what: &str, log: &str, owner: Option<&str>) -> String {
    match owner {
        Some(owner) => format!(
            "{what}; {log} belongs to the server `{owner}`: write that id into the file, or start in an empty data_dir"
        ),
        None => format!(
            "{what}; write this node's id into the file, or remove the file for a new one (the old one is shown by `muster catalog nodes -detailed` of the cluster)"
        ),
    }
}

fn read(file: &Path) -> io::Result<Kept> {
    match fs::read(file) {
        Ok(bytes) => {
            let text = std::str::from_utf8(&bytes).ok();
            let id = text.and_then(|text| Uuid::parse_str(text.trim()).ok());
            Ok(id.map_or(Kept::Unreadable(bytes), |id| Kept::Id(id.to_string())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Kept::Nothing),
        Err(error) => Err(error),
    }
}

fn shown(bytes: &[u8]) -> String {
    let end = if bytes.len() > SHOWN_MAX { "..." } else { "" };
    format!("{}{end}", bytes[..bytes.len().min(SHOWN_MAX)].escape_ascii())
}

fn new_id() -> String {
    Uuid::new_v4().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: &str = "6f9a3c1e-0000-4000-8000-000000000001";
    const OTHER: &str = "6f9a3c1e-0000-4000-8000-000000000002";

    /// A folder with this file and, if asked for, the log of `OWNER`.
    fn folder(file: Option<&[u8]>, has_log: bool) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        if let Some(bytes) = file {
            fs::write(dir.path().join("node-id"), bytes).unwrap();
        }
        if has_log {
            fs::create_dir(dir.path().join("raft")).unwrap();
            let bond = format!(
                r#"{{"server":"{OWNER}","cluster":"{OTHER}","founder":"{OWNER}","formed":true}}"#
            );
            fs::write(dir.path().join("raft/cluster.json"), bond).unwrap();
        }
        dir
    }

    fn bytes(dir: &tempfile::TempDir) -> Option<Vec<u8>> {
        fs::read(dir.path().join("node-id")).ok()
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_stays() {
        let rows: [Option<&[u8]>; 8] = [
            Some(b""),
            Some(b"\n"),
            Some(b"6f9a3c1e-0000-40"),
            Some(&[0; 36]),
            Some(b"\xff\xfe6f9a"),
            Some(b"not an id"),
            Some(&[b'x'; 4096]),
            None,
        ];
        for row in rows {
            let dir = folder(row, true);
            let error = kept(dir.path(), None, true).unwrap_err().to_string();
            assert!(error.contains("node-id") && error.contains(OWNER), "{error}");
            assert!(error.len() < 1024, "{error}");
            assert_eq!(bytes(&dir).as_deref(), row, "{row:?}");
            // Without a log nobody knows the id, and the file is named.
            let dir = folder(row, false);
            match (kept(dir.path(), None, false), row) {
                (Ok(_), None) => {}
                (Err(error), Some(row)) => {
                    assert!(error.to_string().contains("node-id"), "{error}");
                    assert_eq!(bytes(&dir).as_deref(), Some(row));
                }
                (other, _) => panic!("{row:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_id_is_made_once_and_read_in_every_spelling() {
        let dir = folder(None, false);
        let first = kept(dir.path(), None, true).unwrap();
        assert_eq!(kept(dir.path(), None, true).unwrap(), first);
        assert_eq!(bytes(&dir).unwrap(), first.as_bytes());
        assert!(!dir.path().join("node-id.new").exists(), "nothing is left beside it");
        let upper = format!("{}\n", OWNER.to_uppercase());
        let dir = folder(Some(upper.as_bytes()), true);
        assert_eq!(kept(dir.path(), None, true).unwrap(), OWNER);
        assert_eq!(bytes(&dir).unwrap(), upper.as_bytes(), "what can be read is not written anew");
    }

    #[test]
    fn an_id_that_is_not_the_one_of_the_log_is_an_error_and_stays() {
        for text in [OTHER.to_owned(), format!("{}\n", OTHER.to_uppercase())] {
            let dir = folder(Some(text.as_bytes()), true);
            let error = kept(dir.path(), None, true).unwrap_err().to_string();
            assert!(error.contains(&dir.path().join("node-id").display().to_string()), "{error}");
            assert!(error.contains(OTHER) && error.contains(OWNER), "{error}");
            assert_eq!(bytes(&dir).as_deref(), Some(text.as_bytes()));
            // What a server left behind does not matter to an agent that is none.
            assert_eq!(kept(dir.path(), None, false).unwrap(), OTHER);
            // The way out.
            assert_eq!(kept(dir.path(), Some(OWNER), true).unwrap(), OWNER);
            assert_eq!(bytes(&dir).unwrap(), OWNER.as_bytes());
        }
    }

    #[test]
    fn a_given_id_is_kept_unless_the_log_belongs_to_another() {
        let dir = folder(Some(OTHER.as_bytes()), false);
        assert_eq!(kept(dir.path(), Some(OWNER), true).unwrap(), OWNER);
        assert_eq!(bytes(&dir).unwrap(), OWNER.as_bytes());
        let dir = folder(Some(OWNER.as_bytes()), true);
        let error = kept(dir.path(), Some(OTHER), true).unwrap_err().to_string();
        assert!(error.contains(OTHER) && error.contains(OWNER), "{error}");
        assert_eq!(bytes(&dir).unwrap(), OWNER.as_bytes());
        // The way out of a torn file.
        let dir = folder(Some(b""), true);
        assert_eq!(kept(dir.path(), Some(OWNER), true).unwrap(), OWNER);
        assert_eq!(bytes(&dir).unwrap(), b"");
    }
}
