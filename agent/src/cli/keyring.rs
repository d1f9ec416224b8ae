//! `keyring` and `keygen`: the keys that gossip is sealed with.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::command::{Call, CommonFlags, FORMAT_FLAG, Failure, Flag, Outcome, Output, Spec, wait};
use super::layout::document;

/// A new key has as many bytes: the longest there are.
const KEY_BYTES: usize = 32;
/// Large pools take their time.
const PATIENCE: Duration = Duration::from_mins(2);

pub(super) static KEYGEN: Spec = Spec {
    path: "keygen",
    synopsis: "Makes a key that gossip can be sealed with",
    operands: "",
    about: "Prints a new key, made by chance, as the configuration's `encrypt` and `keyring \
-install` take it.",
    flags: &[],
    common_flags: CommonFlags::None,
    run: keygen,
};

pub(super) static KEYRING: Spec = Spec {
    path: "keyring",
    synopsis: "Changes the keys that gossip is sealed with",
    operands: "",
    about:
        "Lists and changes the keys of all members. To change the key, install the new one, use \
it, and remove the old one; every member must have answered before the next step.

    $ muster keyring -list
    $ muster keyring -install=$(muster keygen)
    $ muster keyring -use=KEY
    $ muster keyring -remove=OLD_KEY

Exits with 1 if a member did not answer or could not do it.",
    flags: &[
        FORMAT_FLAG,
        Flag::text("install", "key", "Give all members this key; none uses it yet."),
        Flag::switch("list", "List the keys, and how many members have each."),
        Flag::switch("list-primary", "List the keys in use, and how many members use each."),
        Flag::switch("local-only", "Ask only this datacenter, which is all there is; for lists."),
        Flag::text("relay-factor", "number", "Taken for scripts: members answer directly."),
        Flag::text("remove", "key", "Make all members forget this key, which none may use."),
        Flag::text("use", "key", "Make all members seal with this key."),
    ],
    common_flags: CommonFlags::Api,
    run: keyring,
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pool {
    #[serde(rename = "WAN", default)]
    wan: bool,
    datacenter: String,
    #[serde(default)]
    segment: String,
    #[serde(default)]
    keys: BTreeMap<String, usize>,
    #[serde(default)]
    primary_keys: BTreeMap<String, usize>,
    num_nodes: usize,
}

fn keygen(call: &Call) -> Outcome {
    call.no_operands()?;
    let key: [u8; KEY_BYTES] = rand::random();
    Ok(format!("{}\n", BASE64_STANDARD.encode(key)).into())
}

fn keyring(call: &Call) -> Outcome {
    let values = &call.values;
    let given = |name: &str| values.text(name).filter(|text| !text.is_empty());
    let lists = (values.on("list"), values.on("list-primary"));
    let keys: Vec<_> = ["install", "use", "remove"]
        .into_iter()
        .filter_map(|name| given(name).map(|key| (name, key.to_owned())))
        .collect();
    let actions = keys.len() + usize::from(lists.0) + usize::from(lists.1);
    if actions == 0 {
        return Err(call.misused(""));
    }
    if actions > 1 {
        return Err(Failure::new("Only a single action is allowed".to_owned()));
    }
    let mut query = Vec::new();
    if let Some(factor) = given("relay-factor") {
        if !factor.parse::<u8>().is_ok_and(|factor| factor <= 5) {
            return Err(Failure::new(
                "Error parsing relay factor: Relay factor must be in range: [0, 5]".to_owned(),
            ));
        }
        query.push(("relay-factor", factor.to_owned()));
    }
    if values.on("local-only") {
        query.push(("local-only", "true".to_owned()));
    }
    let Some((action, key)) = keys.into_iter().next() else {
        return list(call, &query, lists.1);
    };
    let (said, method) = match action {
        "install" => ("==> Installing new gossip encryption key...\n", Method::POST),
        "use" => ("==> Changing primary gossip encryption key...\n", Method::PUT),
        _ => ("==> Removing gossip encryption key...\n", Method::DELETE),
    };
    let body = serde_json::json!({ "Key": key }).to_string();
    ask(call, method, &query, body.into()).map_err(|failure| said_first(said, failure))?;
    Ok(Output::from(said.to_owned()))
}

fn list(call: &Call, query: &[(&str, String)], primary: bool) -> Outcome {
    let json = call.json()?;
    let mut text = match (json, primary) {
        (true, _) => String::new(),
        (false, true) => "==> Gathering installed primary encryption keys...\n".to_owned(),
        (false, false) => "==> Gathering installed encryption keys...\n".to_owned(),
    };
    let answer = ask(call, Method::GET, query, Bytes::new())
        .map_err(|failure| said_first(&text, failure))?;
    let pools: Vec<Pool> = serde_json::from_slice(&answer)
        .map_err(|error| Failure::new(format!("error: the answer is not understood: {error}")))?;
    if json {
        let rows = pools.iter().flat_map(|pool| {
            let keys = if primary { &pool.primary_keys } else { &pool.keys };
            keys.iter().map(|(key, count)| {
                json!({
                    "Datacenter": pool.datacenter, "WAN": pool.wan, "Segment": pool.segment,
                    "Key": key, "Members": count, "NumNodes": pool.num_nodes,
                })
            })
        });
        return Ok(document(&rows.collect::<Vec<_>>()).into());
    }
    for pool in pools {
        let name = match (pool.wan, pool.segment.as_str()) {
            (true, _) => "WAN".to_owned(),
            (false, "") => format!("{} (LAN)", pool.datacenter),
            (false, segment) => format!("{} (LAN) [{segment}]", pool.datacenter),
        };
        let _ = writeln!(text, "\n{name}:");
        for (key, count) in if primary { &pool.primary_keys } else { &pool.keys } {
            let _ = writeln!(text, "  {key} [{count}/{}]", pool.num_nodes);
        }
    }
    Ok(text.into())
}

/// Puts output that was printed before the failure in front of it.
fn said_first(said: &str, failure: Failure) -> Failure {
    Failure { stdout: said.as_bytes().to_vec(), ..failure }
}

fn ask(
    call: &Call,
    method: Method,
    query: &[(&str, String)],
    body: Bytes,
) -> Result<Bytes, Failure> {
    let client = call.client()?;
    let asked = client.call(method, "/v1/operator/keyring", query, body, PATIENCE);
    let raw = wait(asked)?.map_err(|error| call.failed("error", &error))?;
    if raw.status.is_success() {
        return Ok(raw.body);
    }
    let error = muster_client::Error::Status { code: raw.status, text: raw.text() };
    Err(call.failed("error", &error))
}
