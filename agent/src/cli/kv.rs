//! `kv get`, `kv put`, `kv delete`.

use std::fmt::Write as _;
use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_client::types::KvPair;
use muster_client::{Error, PutOptions, ReadOptions};

use super::command::{Call, CommonFlags, Failure, Flag, Outcome, Output, Spec, rows_of, wait};
use super::layout::document;

pub(super) const ABOUT: &str = "Keys and values that all agents of a datacenter agree on: for \
settings, switches and locks.

    $ muster kv put config/limit 5
    $ muster kv get config/limit
    $ muster kv get -recurse config/
    $ muster kv delete config/limit";

pub(super) static GET: Spec = Spec {
    path: "kv get",
    synopsis: "Prints a key's value, or the keys under a prefix",
    operands: "[KEY_OR_PREFIX]",
    about:
        "Prints the value of a key as it is, and a line end. Exits with 1 when there is no such \
key.

    $ muster kv get config/limit
    $ muster kv get -detailed config/limit
    $ muster kv get -recurse config/
    $ muster kv get -keys",
    flags: &[
        Flag::switch("base64", "Print values in base64: they may be any bytes."),
        Flag::switch("detailed", "Print indexes, flags and lock holder too."),
        Flag::text(
            "format",
            "pretty|json",
            "For people, or JSON for programs: rows as the API has them, values in base64.",
        ),
        Flag::switch("keys", "Print only the keys that begin with the prefix."),
        Flag::switch("recurse", "Print every key that begins with the prefix."),
        Flag::text(
            "separator",
            "text",
            "With -keys: cut keys after the first such text behind the prefix. \"/\" by default; \
             give an empty one to see every key.",
        ),
    ],
    common_flags: CommonFlags::StaleApi,
    run: get,
};

pub(super) static PUT: Spec = Spec {
    path: "kv put",
    synopsis: "Writes a key",
    operands: "KEY [DATA]",
    about: "Writes a value to a key, and creates the key if need be. DATA is the value itself, \
@FILE for the content of a file, or - for the standard input; without it the value is empty.

    $ muster kv put config/limit 5
    $ muster kv put config/app @app.json
    $ muster kv put -cas -modify-index=0 config/limit 5

The last one writes only if the key does not exist.",
    flags: &[
        Flag::switch("acquire", "Take the key's lock for -session."),
        Flag::switch("base64", "DATA is in base64."),
        Flag::switch("cas", "Write only if the key's ModifyIndex is still -modify-index."),
        Flag::number("flags", "A number to keep with the key; it means what you want it to."),
        Flag::number("modify-index", "For -cas. 0: only if the key does not exist."),
        Flag::switch("release", "Give the key's lock back from -session."),
        Flag::text("session", "uuid", "For -acquire and -release."),
    ],
    common_flags: CommonFlags::Api,
    run: put,
};

pub(super) static DELETE: Spec = Spec {
    path: "kv delete",
    synopsis: "Removes a key, or all keys under a prefix",
    operands: "KEY_OR_PREFIX",
    about: "Removes a key. A key that does not exist is fine.

    $ muster kv delete config/limit
    $ muster kv delete -recurse config/",
    flags: &[
        Flag::switch("cas", "Remove only if the key's ModifyIndex is still -modify-index."),
        Flag::number("modify-index", "For -cas."),
        Flag::switch("recurse", "Remove every key that begins with the prefix."),
    ],
    common_flags: CommonFlags::Api,
    run: delete,
};

fn get(call: &Call) -> Outcome {
    let values = &call.values;
    let Searched { shown, key } = Searched::of(call)?;
    if key.is_empty() && !values.on("recurse") && !values.on("keys") {
        return Err(Failure::new("Error! Missing KEY argument")
            .or_hint("-keys or -recurse look at all keys".to_owned()));
    }
    let json = call.json()?;
    let kv = call.client()?.kv();
    let options = call.options();
    let failed = |error: Error| call.failed("Error querying {} agent", &error);
    if values.on("keys") {
        let separator = values.text("separator").unwrap_or("/");
        let keys = rows_of(wait(kv.keys(key, separator, &options))?.map_err(failed)?);
        if json {
            return Ok(document(&keys).into());
        }
        return Ok(keys.iter().fold(String::new(), |text, key| text + key + "\n").into());
    }
    let shape = Shape { detailed: values.on("detailed"), base64: values.on("base64") };
    if values.on("recurse") {
        let pairs = rows_of(wait(kv.list(key, &options))?.map_err(failed)?);
        return Ok(if json { document(&pairs).into() } else { shape.list(&pairs).into() });
    }
    let pair = wait(kv.get(key, &options))?.map_err(failed)?.value;
    let pair = pair.ok_or_else(|| Failure::new(format!("Error! No key exists at: {shown}")))?;
    if json {
        return Ok(document(&pair).into());
    }
    let mut out = if shape.detailed { shape.details(&pair) } else { shape.value(&pair) };
    out.push(b'\n');
    Ok(out.into())
}

/// Key or prefix that a command looks for. No key begins with a slash, so those before it are passed over.
pub(super) struct Searched<'a> {
    /// As messages show it: the reference takes one slash away.
    pub(super) shown: &'a str,
    pub(super) key: &'a str,
}

impl Searched<'_> {
    /// Operand of a command that takes one at most.
    pub(super) fn of(call: &Call) -> Result<Searched<'_>, Failure> {
        let written = match call.operands.as_slice() {
            [] => "",
            [written] => written,
            many => {
                return Err(Failure::new(format!(
                    "Too many arguments (expected 1, got {})",
                    many.len()
                )));
            }
        };
        let shown = written.strip_prefix('/').unwrap_or(written);
        Ok(Searched { shown, key: written.trim_start_matches('/') })
    }
}

/// Print format of pairs.
#[derive(Clone, Copy)]
struct Shape {
    detailed: bool,
    base64: bool,
}

impl Shape {
    fn value(self, pair: &KvPair) -> Vec<u8> {
        if self.base64 { STANDARD.encode(&pair.value).into_bytes() } else { pair.value.clone() }
    }

    /// Without the last line end.
    fn details(self, pair: &KvPair) -> Vec<u8> {
        let mut text = String::new();
        let rows = [
            ("CreateIndex", pair.create_index.to_string()),
            ("Flags", pair.flags.to_string()),
            ("Key", pair.key.clone()),
            ("LockIndex", pair.lock_index.to_string()),
            ("ModifyIndex", pair.modify_index.to_string()),
            ("Session", pair.session.clone().unwrap_or_else(|| "-".to_owned())),
        ];
        for (name, value) in rows {
            let _ = writeln!(text, "{name:17}{value}");
        }
        text.push_str("Value");
        let mut out = text.into_bytes();
        let value = self.value(pair);
        if !value.is_empty() {
            out.extend_from_slice(&[b' '; 12]);
            out.extend(value);
        }
        out
    }

    fn list(self, pairs: &[KvPair]) -> Vec<u8> {
        let mut out = Vec::new();
        for (i, pair) in pairs.iter().enumerate() {
            if self.detailed {
                if i > 0 {
                    out.push(b'\n');
                }
                out.extend(self.details(pair));
            } else {
                out.extend(format!("{}:", pair.key).into_bytes());
                out.extend(self.value(pair));
            }
            out.push(b'\n');
        }
        out
    }
}

/// The text that an operand names: itself, a file's content, or the standard input.
pub(super) fn data(operand: &str) -> Result<Vec<u8>, Failure> {
    let reason = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    if let Some(path) = operand.strip_prefix('@') {
        return std::fs::read(path).map_err(|error| {
            Failure::new(format!("Error! Failed to read file: open {path}: {}", reason(error)))
        });
    }
    if operand != "-" {
        return Ok(operand.as_bytes().to_vec());
    }
    let mut read = Vec::new();
    std::io::stdin()
        .read_to_end(&mut read)
        .map_err(|error| Failure::new(format!("Error! Failed to read stdin: {}", reason(error))))?;
    Ok(read)
}

fn put(call: &Call) -> Outcome {
    let values = &call.values;
    let (key, operand) = match call.operands.as_slice() {
        [] => return Err(Failure::new("Error! Missing KEY argument")),
        [key] => (key, ""),
        [key, data] => (key, data.as_str()),
        many => {
            return Err(Failure::new(format!(
                "Error! Too many arguments (expected 1 or 2, got {})",
                many.len()
            ))
            .or_hint("a value with blanks needs quotes".to_owned()));
        }
    };
    no_leading_slash(key, "Error! Failed writing data")?;
    let session = values.text("session").filter(|session| !session.is_empty());
    if (values.on("acquire") || values.on("release")) && session.is_none() {
        return Err(Failure::new("Error! Missing -session (required with -acquire and -release)"));
    }
    let cas = match (values.on("cas"), values.number("modify-index")) {
        (true, None) => {
            return Err(Failure::new("Must specify -modify-index with -cas!")
                .or_hint("0 writes only if the key does not exist".to_owned()));
        }
        (true, index) => index,
        (false, _) => None,
    };
    let mut data = data(operand)?;
    if values.on("base64") {
        data = STANDARD
            .decode(data.trim_ascii())
            .map_err(|error| Failure::new(format!("Error! Cannot base 64 decode data: {error}")))?;
    }
    let [acquire, release] =
        ["acquire", "release"].map(|name| session.filter(|_| values.on(name)).map(str::to_owned));
    let options = PutOptions {
        flags: values.number("flags").unwrap_or(0),
        cas,
        acquire,
        release,
        datacenter: None,
    };
    let written = wait(call.client()?.kv().put(key, data, &options))?
        .map_err(|error| call.failed("Error! Failed writing data", &error))?;
    let (done, lost) = if options.acquire.is_some() {
        (format!("Success! Lock acquired on: {key}"), "Error! Did not acquire lock".to_owned())
    } else if options.release.is_some() {
        (format!("Success! Lock released on: {key}"), "Error! Did not release lock".to_owned())
    } else {
        (
            format!("Success! Data written to: {key}"),
            format!("Error! Did not write to {key}: CAS failed"),
        )
    };
    if written { Ok((done + "\n").into()) } else { Err(Failure::new(lost)) }
}

/// Refuses to change a key that agents know by another path; `what` says what was to be done.
pub(super) fn no_leading_slash(key: &str, what: &str) -> Result<(), Failure> {
    if key.starts_with('/') {
        let why = format!("{what}: Invalid key. Key must not begin with a '/': {key}");
        return Err(Failure::new(why));
    }
    Ok(())
}

fn delete(call: &Call) -> Outcome {
    let values = &call.values;
    let recurse = values.on("recurse");
    let key = match call.operands.as_slice() {
        [] if recurse => "",
        [] => return Err(Failure::new("Error! Missing KEY argument")),
        [key] => key.strip_prefix('/').unwrap_or(key),
        many => {
            return Err(Failure::new(format!(
                "Error! Too many arguments (expected 1, got {})",
                many.len()
            )));
        }
    };
    if key.is_empty() && !recurse {
        return Err(Failure::new("Error! Missing KEY argument"));
    }
    no_leading_slash(key, &format!("Error! Did not delete key {key}"))?;
    let index = values.number("modify-index");
    let cas = match (values.on("cas"), recurse, index) {
        (true, true, _) => return Err(Failure::new("Cannot specify both -cas and -recurse!")),
        (true, false, None | Some(0)) => {
            return Err(Failure::new("Must specify -modify-index with -cas!"));
        }
        (false, _, Some(1..)) => {
            return Err(Failure::new("Cannot specify -modify-index without -cas!"));
        }
        (true, false, index) => index,
        (false, _, _) => None,
    };
    let kv = call.client()?.kv();
    if recurse {
        wait(kv.delete_tree(key))?
            .map_err(|error| call.failed(&format!("Error! Did not delete prefix {key}"), &error))?;
        return Ok(format!("Success! Deleted keys with prefix: {key}\n").into());
    }
    let deleted = wait(kv.delete(key, cas))?
        .map_err(|error| call.failed(&format!("Error deleting key {key}"), &error))?;
    if deleted {
        Ok(Output::from(format!("Success! Deleted key: {key}\n")))
    } else {
        Err(Failure::new(format!("Error! Did not delete key {key}: CAS failed")))
    }
}

/// Reads every pair under a prefix. One that cannot be read is an error: what is made of these pairs
/// would pass for all of them.
pub(super) fn pairs(call: &Call, prefix: &str) -> Result<Vec<KvPair>, Failure> {
    let options: ReadOptions = call.options();
    let found = wait(call.client()?.kv().list(prefix, &options))?
        .map_err(|error| call.failed("Error querying {} agent", &error))?;
    match found.meta.odd_rows.first() {
        Some(odd) => Err(Failure::new(format!("Error! A key cannot be read: {odd}"))),
        None => Ok(found.value),
    }
}
