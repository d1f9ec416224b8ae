//! `login` and `logout`.

use std::path::Path;

use muster_client::types::Login;

use super::super::catalog::pairs;
use super::super::command::{Call, CommonFlags, Failure, Flag, Outcome, Output, Spec, wait};
use super::super::layout::system;
use super::given;
use crate::disk;

pub(in crate::cli) static LOGIN: Spec = Spec {
    path: "login",
    synopsis: "Gets a token from an auth method",
    operands: "",
    about: "Exchanges the proof of another system, such as a JSON web token, for a token, and writes its secret into a \
file that nobody else may read. `logout` destroys it.

    $ muster login -method=ci -bearer-token-file=jwt -token-sink-file=token
    $ muster kv get -token-file=token greeting
    $ muster logout -token-file=token",
    flags: &[
        Flag::text("bearer-token-file", "path", "File that holds the proof."),
        Flag::texts("meta", "key=value", "A pair to keep with the token."),
        Flag::text("method", "name", "The auth method."),
        Flag::text("token-sink-file", "path", "Where the token's secret is to be written."),
        Flag::text("type", "type", "Type of the method; only methods that take a file work here."),
    ],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(login(call))?,
};

pub(in crate::cli) static LOGOUT: Spec = Spec {
    path: "logout",
    synopsis: "Destroys a token that a login made",
    operands: "",
    about: "Destroys the token that this command sends, if `login` has made it.

    $ muster logout -token-file=token",
    flags: &[],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(logout(call))?,
};

fn no_operands(call: &Call) -> Result<(), Failure> {
    if call.operands.is_empty() {
        return Ok(());
    }
    Err(Failure::new("Should have no non-flag arguments."))
}

async fn login(call: &Call) -> Outcome {
    no_operands(call)?;
    let required = |flag: &str| {
        given(call, flag).ok_or_else(|| Failure::new(format!("Missing required '-{flag}' flag")))
    };
    let method = required("method")?;
    let sink = required("token-sink-file")?;
    let bearer = required("bearer-token-file")?;
    if call.values.text("type") == Some("oidc") {
        return Err(Failure::new("logins by `oidc` are not supported here: they need a browser")
            .or_hint("a method of type `jwt` takes the provider's token from a file".to_owned()));
    }
    let proof = std::fs::read_to_string(bearer)
        .map_err(|error| Failure::new(format!("open {bearer}: {}", system(&error))))?;
    let proof = proof.trim();
    if proof.is_empty() {
        return Err(Failure::new(format!("No bearer token found in {bearer}")));
    }
    let login = Login {
        auth_method: method.to_owned(),
        bearer_token: proof.to_owned(),
        meta: pairs(call, "meta")?.into_iter().collect(),
    };
    let client = call.client()?;
    let token = client.acl().login(&login).await;
    let token = token.map_err(|error| call.failed("Error logging in", &error))?;
    let secret = token.secret_id.unwrap_or_default();
    if let Err(error) = disk::replace(Path::new(sink), secret.as_bytes()) {
        // A token that nobody has must not stay.
        let withdrawn = match call.client_with_token(&secret) {
            Ok(client) => client.acl().logout().await.is_ok(),
            Err(_) => false,
        };
        let kept = if withdrawn {
            "the token was destroyed again".to_owned()
        } else {
            format!("the token {} stays: delete it", token.accessor_id)
        };
        let why = system(&error);
        return Err(
            Failure::new(format!("Error writing token to file sink: {sink}: {why}")).or_hint(kept)
        );
    }
    Ok(Output::default())
}

async fn logout(call: &Call) -> Outcome {
    no_operands(call)?;
    let gone = call.client()?.acl().logout().await;
    gone.map_err(|error| call.failed("Error destroying token", &error))?;
    Ok(Output::default())
}
