//! `kv edit`: a value in the editor of whoever asks.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use muster_client::{PutOptions, ReadOptions};

use super::command::{Call, CommonFlags, Failure, Outcome, Spec, wait};

pub(super) static EDIT: Spec = Spec {
    path: "kv edit",
    synopsis: "Opens a key's value in an editor",
    operands: "KEY",
    about: "Opens the value of a key in the editor that VISUAL or EDITOR names, vi by default, and writes it \
back when the editor ends. Nothing is written if the value was not changed, or if somebody else changed the key \
meanwhile: then the edited text stays in a file, whose name is printed. A key that does not exist is created.

    $ EDITOR=nano muster kv edit config/app",
    flags: &[],
    common_flags: CommonFlags::Api,
    run: edit,
};

fn edit(call: &Call) -> Outcome {
    let [key] = call.operands.as_slice() else {
        return Err(call.misused("A single key must be given."));
    };
    let key = key.trim_start_matches('/');
    if key.is_empty() {
        return Err(Failure::new("Error! Missing KEY argument"));
    }
    let kv = call.client()?.kv();
    let before = wait(kv.get(key, &ReadOptions::default()))?
        .map_err(|error| call.failed("Error querying {} agent", &error))?
        .value;
    let value = before.as_ref().map(|pair| pair.value.clone()).unwrap_or_default();
    let file = temporary(key, &value)?;
    let edited = open(&file).and_then(|()| {
        std::fs::read(&file)
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", file.display())))
    });
    let remove = || {
        // A file that cannot be removed says no more than its own value.
        let _ = std::fs::remove_file(&file);
    };
    let edited = match edited {
        Ok(edited) => edited,
        Err(failure) => {
            remove();
            return Err(failure);
        }
    };
    if before.is_some() && *edited == *value {
        remove();
        return Ok("Nothing was changed.\n".to_owned().into());
    }
    let kept = || format!("your text is in {}", file.display());
    let options = PutOptions {
        cas: Some(before.as_ref().map_or(0, |pair| pair.modify_index)),
        flags: before.as_ref().map_or(0, |pair| pair.flags),
        ..PutOptions::default()
    };
    let written = wait(kv.put(key, edited, &options))?
        .map_err(|error| call.failed("Error! Failed writing data", &error).or_hint(kept()))?;
    if !written {
        let text = format!("Error! Did not write to {key}: it was changed meanwhile");
        return Err(Failure::new(text).or_hint(kept()));
    }
    remove();
    Ok(format!("Success! Data written to: {key}\n").into())
}

/// A file that only its owner can read, named so that editors know the kind of text.
fn temporary(key: &str, value: &[u8]) -> Result<PathBuf, Failure> {
    let name: String = key
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c))
        .take(100)
        .collect();
    let path = std::env::temp_dir().join(format!("muster-{}-{name}", std::process::id()));
    let write = || {
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(value)
    };
    write().map_err(|error: std::io::Error| {
        Failure::new(format!("cannot write {}: {error}", path.display()))
    })?;
    Ok(path)
}

fn open(file: &std::path::Path) -> Result<(), Failure> {
    let editor = ["VISUAL", "EDITOR"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|text| !text.trim().is_empty()))
        .unwrap_or_else(|| "vi".to_owned());
    // An editor may come with arguments: a shell takes them apart as people expect.
    let status = Command::new("/bin/sh")
        .arg("-c")
        .arg(format!("{editor} \"$1\""))
        .arg("sh")
        .arg(file)
        .status()
        .map_err(|error| Failure::new(format!("cannot start the editor `{editor}`: {error}")))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::new(format!("the editor `{editor}` failed: {status}; nothing was written")))
    }
}
