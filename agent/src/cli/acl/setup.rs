//! `acl bootstrap`, `acl set-agent-token`, `acl translate-rules`.

use http::StatusCode;
use muster_client::{Client, Error};

use super::super::command::{Call, CommonFlags, FORMAT_FLAG, Failure, Flag, Outcome, Spec, wait};
use super::{policy, show, shown};
use crate::cli::kv;

pub(in crate::cli) static BOOTSTRAP: Spec = Spec {
    path: "acl bootstrap",
    synopsis: "Makes the first token",
    operands: "",
    about: "Makes the first token of a cluster, which may do everything, and prints it. This can be done once. If all \
such tokens are lost, it can be done again after whoever runs the leader has allowed it by a file; the error says how.

    $ muster acl bootstrap",
    flags: &[FORMAT_FLAG],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(bootstrap(call))?,
};

pub(in crate::cli) static SET_AGENT_TOKEN: Spec = Spec {
    path: "acl set-agent-token",
    synopsis: "Gives the agent a token for its own work",
    operands: "TYPE TOKEN",
    about: "Gives the agent that is asked a token, in place of the one in its configuration. An empty TOKEN takes it \
away. It is lost when the agent ends, unless its configuration says `acl { enable_token_persistence = true }`.

    default        for requests over HTTP without a token, and for all
                   that follows here if not given
    agent          for the agent's own node in the catalog
    recovery       opens the agent's own interface when no server can
                   be asked; also called master
    replication    for copying tokens and policies from the primary
                   datacenter
    config_file_service_registration
                   for services of configuration files without one
    dns            for questions over DNS

    $ muster acl set-agent-token agent c4d0f8df-3aba-4ab6-a7a0-35b760dc29a1",
    flags: &[],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(set_agent_token(call))?,
};

pub(in crate::cli) static TRANSLATE: Spec = Spec {
    path: "acl translate-rules",
    synopsis: "Translates rules of earlier releases",
    operands: "RULES",
    about: "Prints rules in the language of releases before Consul 1.4 in today's. RULES are the rules themselves, \
`@file`, or `-` for the standard input; with one of the flags they name a token that has rules.

    $ muster acl translate-rules @old.hcl
    $ muster acl translate-rules 'key \"\" { policy = \"write\" }'
    $ muster acl translate-rules -token-accessor 429cd746",
    flags: &[
        Flag::switch("token-accessor", "RULES is the accessor ID of a token."),
        Flag::switch("token-secret", "RULES is the secret of a token."),
    ],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(translate(call))?,
};

async fn bootstrap(call: &Call) -> Outcome {
    let shown = shown(call)?;
    call.no_operands()?;
    let token = call.client()?.acl().bootstrap().await;
    let token = token.map_err(|error| {
        // This hint first: what is said of refusals in general does not help here.
        let hint = again(&error);
        let failure = call.failed("Failed ACL bootstrapping", &error);
        Failure { hint: hint.or(failure.hint), ..failure }
    })?;
    show::one(shown, &token)
}

/// How to bootstrap again, if that is what is missing.
fn again(error: &Error) -> Option<String> {
    let Error::Status { text, .. } = error else { return None };
    let (_, rest) = text.split_once("reset index: ")?;
    let index = rest.trim_end_matches(')');
    index.parse::<u64>().ok()?;
    Some(format!(
        "if all tokens with full rights are lost: write `{index}` into the file `acl-bootstrap-reset` in the leader's \
         data directory, then bootstrap again"
    ))
}

/// The kinds of tokens that an agent has, by their names here, with the names that agents know them by.
const KINDS: [(&str, &[&str]); 8] = [
    ("default", &["default", "acl_token"]),
    ("agent", &["agent", "acl_agent_token"]),
    ("master", RECOVERY),
    ("recovery", RECOVERY),
    ("agent_recovery", RECOVERY),
    ("replication", &["replication", "acl_replication_token"]),
    ("config_file_service_registration", &["config_file_service_registration"]),
    ("dns", &["dns"]),
];
const RECOVERY: &[&str] = &["agent_master", "agent_recovery", "acl_agent_master_token"];

async fn set_agent_token(call: &Call) -> Outcome {
    let (kind, token) = match call.operands.as_slice() {
        [] => return Err(Failure::new("Error! Missing TYPE and TOKEN arguments")),
        [_] => return Err(Failure::new("Error! Missing TOKEN argument")),
        [kind, token] => (kind, token),
        many => {
            let text = format!("Error! Too many arguments: expected 2 got {}", many.len());
            return Err(Failure::new(text));
        }
    };
    let Some((_, names)) = KINDS.iter().find(|(known, _)| known == kind) else {
        let known: Vec<_> = KINDS.iter().map(|(known, _)| *known).collect();
        return Err(
            Failure::new("Unknown token type").or_hint(format!("use one of {}", known.join(", ")))
        );
    };
    let set = call.client()?.acl().set_agent_token(names, token).await;
    set.map_err(|error| call.failed(&format!("Failed to set ACL token {kind:?}"), &error))?;
    Ok(format!("ACL token {kind:?} set successfully\n").into())
}

async fn translate(call: &Call) -> Outcome {
    let [operand] = call.operands.as_slice() else {
        return Err(Failure::new(match call.operands.len() {
            0 => "Error! Missing TRANSLATE argument".to_owned(),
            many => format!("Error! Too many arguments: expected 1 got {many}"),
        }));
    };
    let (accessor, secret) = (call.values.on("token-accessor"), call.values.on("token-secret"));
    if accessor && secret {
        let text = "Error - cannot specify both -token-secret and -token-accessor";
        return Err(Failure::new(text));
    }
    let text = String::from_utf8_lossy(&kv::data(operand)?).into_owned();
    let client = call.client()?;
    let rules = if accessor || secret {
        policy::old_token(call, &client, text.trim(), secret, "").await?.rules
    } else {
        text
    };
    Ok((translated(call, &client, rules, "Error translating rules").await? + "\n").into())
}

/// Rules in today's language, without what servers put around their errors.
pub(super) async fn translated(
    call: &Call,
    client: &Client,
    rules: String,
    what: &str,
) -> Result<String, Failure> {
    match client.acl().translate_rules(rules).await {
        Ok(text) => Ok(text.trim_end_matches('\n').to_owned()),
        Err(Error::Status { code: StatusCode::BAD_REQUEST, text }) => {
            let why = text.strip_prefix("Bad request: ").unwrap_or(&text);
            Err(Failure::new(format!("{what}: {why}")))
        }
        Err(error) => Err(call.failed(what, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bootstrapping_again_is_explained() {
        let error =
            |text: &str| Error::Status { code: StatusCode::FORBIDDEN, text: text.to_owned() };
        let refused = "Permission denied: ACL bootstrap no longer allowed (reset index: 14)";
        assert!(again(&error(refused)).expect("a hint").contains("write `14` into"));
        for other in ["Permission denied", "reset index: zap", "(reset index: )"] {
            assert_eq!(again(&error(other)), None, "{other}");
        }
    }
}
