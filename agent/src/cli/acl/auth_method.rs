//! `acl auth-method`.

use muster_client::types::{AuthMethod, format_duration};
use serde_json::{Value, json};

use super::super::command::{
    Call, CommonFlags, FORMAT_FLAG, Failure, Flag, Outcome, Spec, rows_of, wait,
};
use super::{META_FLAG, content, given, show, shown};

const CONFIG: Flag = Flag::text(
    "config",
    "json",
    "What its type needs. `@file` reads it from a file, `-` from the standard input.",
);
const DESCRIPTION: Flag = Flag::text("description", "text", "What it is for.");
const DISPLAY_NAME: Flag = Flag::text("display-name", "text", "Its name for people.");
const CA_CERT: Flag = Flag::text(
    "kubernetes-ca-cert",
    "pem",
    "Certificates that the Kubernetes API is trusted by. `@file` reads them from a file. For the type kubernetes.",
);
const HOST: Flag =
    Flag::text("kubernetes-host", "url", "Address of the Kubernetes API. For the type kubernetes.");
const JWT: Flag = Flag::text(
    "kubernetes-service-account-jwt",
    "jwt",
    "What the servers show the Kubernetes API. For the type kubernetes.",
);
const LOCALITY: Flag = Flag::text(
    "token-locality",
    "local|global",
    "Which tokens it makes: for their datacenter only, or for all; `local` by default.",
);
const MAX_TTL: Flag = Flag::duration("max-token-ttl", "Its tokens end after this time.");
const NAME: Flag = Flag::text("name", "name", "Its name.");

pub(in crate::cli) static CREATE: Spec = Spec {
    path: "acl auth-method create",
    synopsis: "Creates an auth method",
    operands: "",
    about: "Creates a method to log in by. Binding rules say what those get who log in. One of the same name is replaced.

    $ muster acl auth-method create -name=ci -type=jwt -config=@ci.json",
    flags: &[
        CONFIG,
        DESCRIPTION,
        DISPLAY_NAME,
        FORMAT_FLAG,
        CA_CERT,
        HOST,
        JWT,
        MAX_TTL,
        META_FLAG,
        NAME,
        LOCALITY,
        Flag::text("type", "type", "Its type: `jwt` or `kubernetes`."),
    ],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(create(call))?,
};

pub(in crate::cli) static READ: Spec = Spec {
    path: "acl auth-method read",
    synopsis: "Shows an auth method",
    operands: "",
    about: "Shows a method with its configuration.",
    flags: &[FORMAT_FLAG, META_FLAG, NAME],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(read(call))?,
};

pub(in crate::cli) static LIST: Spec = Spec {
    path: "acl auth-method list",
    synopsis: "Lists the auth methods",
    operands: "",
    about: "Lists all methods, without their configuration.",
    flags: &[FORMAT_FLAG, META_FLAG],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(list(call))?,
};

pub(in crate::cli) static UPDATE: Spec = Spec {
    path: "acl auth-method update",
    synopsis: "Changes an auth method",
    operands: "",
    about: "Changes what the flags name and keeps the rest; -config replaces the whole configuration. With -no-merge, \
what no flag names is emptied.

    $ muster acl auth-method update -name=ci -max-token-ttl=1h",
    flags: &[
        CONFIG,
        DESCRIPTION,
        DISPLAY_NAME,
        FORMAT_FLAG,
        CA_CERT,
        HOST,
        JWT,
        MAX_TTL,
        META_FLAG,
        NAME,
        Flag::switch("no-merge", "Empty what no flag names."),
        LOCALITY,
    ],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(update(call))?,
};

pub(in crate::cli) static DELETE: Spec = Spec {
    path: "acl auth-method delete",
    synopsis: "Removes an auth method",
    operands: "",
    about: "Removes a method with its binding rules and the tokens that it made.",
    flags: &[NAME],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(delete(call))?,
};

/// Flags of the type kubernetes, and the fields of its configuration.
const KUBERNETES: [(&str, &str); 3] = [
    ("kubernetes-host", "Host"),
    ("kubernetes-ca-cert", "CACert"),
    ("kubernetes-service-account-jwt", "ServiceAccountJWT"),
];

/// Settings that the flags name for the type kubernetes.
fn kubernetes(call: &Call) -> Result<Vec<(&'static str, &'static str, String)>, Failure> {
    let mut found = Vec::new();
    for (flag, field) in KUBERNETES {
        let Some(text) = given(call, flag) else { continue };
        let text = if field == "CACert" && text.starts_with('@') {
            content(text, "Invalid '-kubernetes-ca-cert' value")?
        } else {
            text.to_owned()
        };
        found.push((flag, field, text));
    }
    Ok(found)
}

/// The same as a whole configuration: nothing may be missing.
fn whole_kubernetes(call: &Call) -> Result<Value, Failure> {
    for (flag, _) in KUBERNETES {
        if given(call, flag).is_none() {
            return Err(Failure::new(format!("Missing required '-{flag}' flag")));
        }
    }
    Ok(kubernetes(call)?
        .into_iter()
        .map(|(_, field, text)| (field.to_owned(), json!(text)))
        .collect())
}

/// The configuration that `-config` gives.
fn config(call: &Call, flags: &str, what: &str) -> Result<Option<Value>, Failure> {
    let Some(text) = given(call, "config") else { return Ok(None) };
    if KUBERNETES.iter().any(|(flag, _)| given(call, flag).is_some()) {
        return Err(Failure::new(format!(
            "Cannot use command line arguments with '-config' {flags}"
        )));
    }
    let text = content(text, "Error loading configuration file")?;
    // The words of the reference for what goes wrong most often; ours for the rest.
    let wrong = |why: String| Failure::new(format!("{what}: {why}"));
    if text.trim().is_empty() {
        return Err(wrong("unexpected end of JSON input".to_owned()));
    }
    match serde_json::from_str::<Value>(&text) {
        Ok(config @ (Value::Object(_) | Value::Null)) => Ok(Some(config)),
        Ok(other) => {
            let kind = match other {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                _ => "number",
            };
            Err(wrong(format!(
                "json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
            )))
        }
        Err(error) if error.is_eof() => Err(wrong("unexpected end of JSON input".to_owned())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

async fn create(call: &Call) -> Outcome {
    let shown = shown(call)?;
    for flag in ["type", "name"] {
        if given(call, flag).is_none() {
            return Err(call.misused(&format!("Missing required '-{flag}' flag")));
        }
    }
    let text = |flag: &str| call.values.text(flag).unwrap_or_default().to_owned();
    let config = match config(call, "flags", "Error parsing JSON configuration file")? {
        None if text("type") == "kubernetes" => Some(whole_kubernetes(call)?),
        config => config,
    };
    let method = AuthMethod {
        name: text("name"),
        kind: text("type"),
        display_name: text("display-name"),
        description: text("description"),
        token_locality: text("token-locality"),
        max_token_ttl: max_ttl(call),
        config,
        ..AuthMethod::default()
    };
    let created = call.client()?.acl().create(&method).await;
    show::one(
        shown,
        &created.map_err(|error| call.failed("Failed to create new auth method", &error))?,
    )
}

fn max_ttl(call: &Call) -> Option<String> {
    call.values.duration("max-token-ttl").filter(|ttl| !ttl.is_zero()).map(format_duration)
}

async fn current(call: &Call, name: &str, what: &str) -> Result<AuthMethod, Failure> {
    let found = call.client()?.acl().read::<AuthMethod>(name, &call.options()).await;
    let found = found.map_err(|error| call.failed(what, &error))?;
    found.ok_or_else(|| Failure::new(format!("Auth method not found with name {name:?}")))
}

async fn read(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let Some(name) = given(call, "name") else {
        return Err(Failure::new("Must specify the -name parameter"));
    };
    show::one(shown, &current(call, name, &format!("Error reading auth method {name:?}")).await?)
}

async fn list(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let all = call.client()?.acl().list::<AuthMethod>(vec![], &call.options()).await;
    let all =
        all.map_err(|error| call.failed("Failed to retrieve the auth method list", &error))?;
    let all = rows_of(all);
    // Nothing at all, where other lists have an empty line.
    if all.is_empty() && !shown.json { Ok(String::new().into()) } else { show::list(shown, &all) }
}

async fn update(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let Some(name) = given(call, "name") else {
        return Err(Failure::new(
            "Cannot update an auth method without specifying the -name parameter",
        ));
    };
    let old = current(call, name, "Error when retrieving current auth method").await?;
    let whole = config(call, "flag", "Error parsing JSON for auth method config")?;
    let text = |flag: &str| given(call, flag).map(str::to_owned);
    let is_kubernetes = old.kind == "kubernetes";
    let method = if call.values.on("no-merge") {
        AuthMethod {
            config: match whole {
                None if is_kubernetes => Some(whole_kubernetes(call)?),
                whole => whole,
            },
            name: old.name,
            kind: old.kind,
            display_name: text("display-name").unwrap_or_default(),
            description: text("description").unwrap_or_default(),
            token_locality: text("token-locality").unwrap_or_default(),
            max_token_ttl: max_ttl(call),
            ..AuthMethod::default()
        }
    } else {
        let mut config = whole.or(old.config);
        if is_kubernetes {
            for (_, field, text) in kubernetes(call)? {
                if let Some(fields) = config.get_or_insert_with(|| json!({})).as_object_mut() {
                    fields.insert(field.to_owned(), json!(text));
                }
            }
        }
        AuthMethod {
            config,
            display_name: text("display-name").unwrap_or(old.display_name),
            description: text("description").unwrap_or(old.description),
            token_locality: text("token-locality").unwrap_or(old.token_locality),
            max_token_ttl: max_ttl(call).or(old.max_token_ttl),
            ..old
        }
    };
    let updated = call.client()?.acl().update(&method).await;
    let what = format!("Error updating auth method {name:?}");
    show::one(shown, &updated.map_err(|error| call.failed(&what, &error))?)
}

async fn delete(call: &Call) -> Outcome {
    let Some(name) = given(call, "name") else {
        return Err(Failure::new("Must specify the -name parameter"));
    };
    let deleted = call.client()?.acl().delete::<AuthMethod>(name).await;
    deleted
        .map_err(|error| call.failed(&format!("Error deleting auth method {name:?}"), &error))?;
    Ok(format!("Auth method {name:?} deleted successfully\n").into())
}
