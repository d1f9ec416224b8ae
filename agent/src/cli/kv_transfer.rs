//! `kv export` and `kv import`: a tree of keys as one JSON text.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_client::PutOptions;
use serde::Deserialize;

use super::command::{Call, Door, Failure, Outcome, Output, Spec, wait};
use super::{kv, layout};

pub(super) static EXPORT: Spec = Spec {
    path: "kv export",
    synopsis: "Prints all keys under a prefix as JSON",
    operands: "[PREFIX]",
    about: "Prints every key that begins with the prefix as JSON, for `kv import`: a list of \
objects with `key`, `flags` and `value`, the last in base64.

    $ muster kv export config/ > config.json",
    flags: &[],
    door: Door::StaleApi,
    run: export,
};

pub(super) static IMPORT: Spec = Spec {
    path: "kv import",
    synopsis: "Writes keys from JSON",
    operands: "[DATA]",
    about: "Writes every key of the JSON that `kv export` printed. DATA is the text itself, @FILE \
or - for the standard input. Nothing is written if the text has a mistake anywhere; keys that are \
there already are overwritten.

    $ muster kv import @config.json
    $ muster kv export | ssh other muster kv import -",
    flags: &[],
    door: Door::Api,
    run: import,
};

fn export(call: &Call) -> Outcome {
    let prefix = match call.operands.as_slice() {
        [] => "",
        [prefix] => prefix.strip_prefix('/').unwrap_or(prefix),
        many => {
            return Err(Failure::new(format!(
                "Too many arguments (expected 1, got {})",
                many.len()
            )));
        }
    };
    let rows: Vec<String> = kv::pairs(call, prefix)?
        .iter()
        .map(|pair| {
            format!(
                r#"{{"key":{},"flags":{},"value":"{}"}}"#,
                layout::json_text(&pair.key),
                pair.flags,
                STANDARD.encode(&pair.value)
            )
        })
        .collect();
    Ok((layout::indent(&format!("[{}]", rows.join(",")), "\t") + "\n").into())
}

/// A key as exported.
#[derive(Deserialize)]
struct Exported {
    key: String,
    #[serde(default)]
    flags: u64,
    #[serde(default)]
    value: String,
}

fn import(call: &Call) -> Outcome {
    let operand = match call.operands.as_slice() {
        [] => return Err(Failure::new("Error! Missing DATA argument")),
        [operand] => operand,
        many => {
            return Err(Failure::new(format!(
                "Too many arguments (expected 1, got {})",
                many.len()
            )));
        }
    };
    let text = kv::data(operand)?;
    let rows: Vec<Exported> = serde_json::from_slice(&text)
        .map_err(|error| Failure::new(format!("Cannot unmarshal data: {error}")))?;
    // Every mistake is found before anything is written.
    let pairs = rows
        .into_iter()
        .map(|row| match STANDARD.decode(&row.value) {
            Ok(value) => Ok((row.key, row.flags, value)),
            Err(error) => Err(Failure::new(format!(
                "Error base 64 decoding value for key {}: {error}",
                row.key
            ))),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let client = call.client()?;
    let mut imported = String::new();
    let outcome = wait(async {
        for (key, flags, value) in pairs {
            let options = PutOptions { flags, ..PutOptions::default() };
            match client.kv().put(&key, value, &options).await {
                Ok(true) => {
                    let _ = writeln!(imported, "Imported: {key}");
                }
                Ok(false) => return Err(Failure::new(format!("Error! Did not write to {key}"))),
                Err(error) => {
                    let what = format!("Error! Failed writing data for key {key}");
                    return Err(call.failed(&what, &error));
                }
            }
        }
        Ok(())
    })?;
    match outcome {
        Ok(()) => Ok(Output::from(imported)),
        Err(failure) => Err(Failure { stdout: imported.into_bytes(), ..failure }),
    }
}
