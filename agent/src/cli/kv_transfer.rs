//! `kv export` and `kv import`: a tree of keys as one JSON text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_client::PutOptions;
use serde_json::Value;

use super::command::{Call, CommonFlags, Failure, Outcome, Output, Spec, wait};
use super::{kv, layout};

pub(super) static EXPORT: Spec = Spec {
    path: "kv export",
    synopsis: "Prints all keys under a prefix as JSON",
    operands: "[PREFIX]",
    about: "Prints every key that begins with the prefix as JSON, for `kv import`: a list of \
objects with `key`, `flags` and `value`, the last in base64.

    $ muster kv export config/ > config.json",
    flags: &[],
    common_flags: CommonFlags::StaleApi,
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
    common_flags: CommonFlags::Api,
    run: import,
};

fn export(call: &Call) -> Outcome {
    let rows: Vec<String> = kv::pairs(call, kv::Searched::of(call)?.key)?
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

/// A key as exported. Nulls and what is not there are empty, and names are not particular about case, as where the
/// reference reads such texts.
#[derive(Debug, Default, PartialEq)]
struct Exported {
    key: String,
    flags: u64,
    value: String,
}

impl Exported {
    /// Reads all keys of a text; `null` is none.
    fn read(text: &[u8]) -> Result<Vec<Exported>, serde_json::Error> {
        let rows: Option<Vec<Option<BTreeMap<String, Value>>>> = serde_json::from_slice(text)?;
        rows.unwrap_or_default()
            .into_iter()
            .map(|row| Exported::of(row.unwrap_or_default()))
            .collect()
    }

    fn of(fields: BTreeMap<String, Value>) -> Result<Exported, serde_json::Error> {
        let mut row = Exported::default();
        for (name, field) in fields.into_iter().filter(|(_, field)| !field.is_null()) {
            match name.to_ascii_lowercase().as_str() {
                "key" => row.key = serde_json::from_value(field)?,
                "flags" => row.flags = serde_json::from_value(field)?,
                "value" => row.value = serde_json::from_value(field)?,
                _ => {}
            }
        }
        Ok(row)
    }
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
    let rows = Exported::read(&text)
        .map_err(|error| Failure::new(format!("Cannot unmarshal data: {error}")))?;
    if rows.iter().any(|row| row.key.is_empty()) {
        return Err(Failure::new("Error! A row of the data has no key: nothing was written"));
    }
    for row in &rows {
        let what = format!("Error! Failed writing data for key {}", row.key);
        kv::no_leading_slash(&row.key, &what)?;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_missing_fields_are_empty() {
        let row = |key: &str, flags: u64, value: &str| Exported {
            key: key.to_owned(),
            flags,
            value: value.to_owned(),
        };
        let text = br#"[{"key":"a","flags":0,"value":null},{"key":"b"},{"key":"c","flags":null,"value":""},
            {"Key":"d","VALUE":"YQ==","Flags":7,"other":{"x":1}},null]"#;
        let expected = [
            row("a", 0, ""),
            row("b", 0, ""),
            row("c", 0, ""),
            row("d", 7, "YQ=="),
            row("", 0, ""),
        ];
        assert_eq!(Exported::read(text).unwrap(), expected);
        assert_eq!(Exported::read(b"null").unwrap(), []);
        for wrong in [r#"[{"key":1}]"#, r#"[{"key":"a","flags":-1}]"#, r#"["a"]"#, "{}", "[", ""] {
            assert!(Exported::read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
