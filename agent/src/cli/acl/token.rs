//! `acl token`, but for `update`.

use std::fmt::Write as _;

use muster_client::types::{AclPolicy, AclRole, AclToken, format_duration};
use serde_json::Value;

use super::super::command::{
    Call, CommonFlags, FORMAT_FLAG, Failure, Flag, Outcome, Spec, rows_of, wait,
};
use super::{META_FLAG, given, ids, show, shown};

pub(super) const ACCESSOR: Flag = Flag::text("accessor-id", "uuid", "The same as -id.");
pub(super) const ID: Flag =
    Flag::text("id", "uuid", "Which token, by its accessor ID or the first characters of it.");
pub(super) const DESCRIPTION: Flag = Flag::text("description", "text", "What it is for.");
pub(super) const NODE: Flag =
    Flag::texts("node-identity", "node:datacenter", "The rights of the agent of this node.");
pub(super) const POLICY_ID: Flag =
    Flag::texts("policy-id", "uuid", "A policy, by its ID or the first characters of it.");
pub(super) const POLICY_NAME: Flag = Flag::texts("policy-name", "name", "A policy, by its name.");
pub(super) const ROLE_ID: Flag =
    Flag::texts("role-id", "uuid", "A role, by its ID or the first characters of it.");
pub(super) const ROLE_NAME: Flag = Flag::texts("role-name", "name", "A role, by its name.");
pub(super) const SERVICE: Flag = Flag::texts(
    "service-identity",
    "service[:datacenters]",
    "The rights of instances of this service, as `web` or `web:dc1,dc2`.",
);
pub(super) const TEMPLATED: Flag =
    Flag::text("templated-policy", "name", "A policy from this template, filled in by -var.");
pub(super) const VAR: Flag = Flag::texts("var", "name:value", "A value for -templated-policy.");

pub(in crate::cli) static CREATE: Spec = Spec {
    path: "acl token create",
    synopsis: "Creates a token",
    operands: "",
    about: "Creates a token with the rights that the flags name, and prints it. The SecretID is what its holder sends \
with requests; keep it as you keep a password.

    $ muster acl token create -description=web -policy-name=web
    $ muster acl token create -service-identity=web -expires-ttl=24h",
    flags: &[
        Flag::text("accessor", "uuid", "Its accessor ID; made by chance otherwise."),
        DESCRIPTION,
        Flag::duration("expires-ttl", "It ends after this time."),
        FORMAT_FLAG,
        Flag::switch("local", "Only its own datacenter knows it."),
        META_FLAG,
        NODE,
        POLICY_ID,
        POLICY_NAME,
        ROLE_ID,
        ROLE_NAME,
        Flag::text("secret", "uuid", "Its secret; made by chance otherwise. Others can see it in the list of processes."),
        SERVICE,
        TEMPLATED,
        VAR,
    ],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(create(call))?,
};

pub(in crate::cli) static READ: Spec = Spec {
    path: "acl token read",
    synopsis: "Shows a token",
    operands: "",
    about: "Shows a token, another one or the one that the command itself sends.

    $ muster acl token read -id=4be56c77
    $ muster acl token read -self -expanded",
    flags: &[
        ACCESSOR,
        Flag::switch(
            "expanded",
            "Also show the rules of its policies and roles, and the default policy.",
        ),
        FORMAT_FLAG,
        ID,
        META_FLAG,
        Flag::switch("self", "The token that this command sends."),
    ],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(read(call))?,
};

pub(in crate::cli) static LIST: Spec = Spec {
    path: "acl token list",
    synopsis: "Lists the tokens",
    operands: "",
    about: "Lists all tokens, without their secrets.",
    flags: &[FORMAT_FLAG, META_FLAG],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(list(call))?,
};

pub(in crate::cli) static DELETE: Spec = Spec {
    path: "acl token delete",
    synopsis: "Removes a token",
    operands: "",
    about: "Removes a token. Requests with its secret are refused at once.

    $ muster acl token delete -id=b6b85",
    flags: &[ACCESSOR, ID],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(delete(call))?,
};

pub(in crate::cli) static CLONE: Spec = Spec {
    path: "acl token clone",
    synopsis: "Makes a token with the rights of another",
    operands: "",
    about: "Makes a new token with the rights of another one. `anonymous` names the token of requests without one.

    $ muster acl token clone -id=abcd -description=replication",
    flags: &[ACCESSOR, DESCRIPTION, FORMAT_FLAG, ID],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(clone(call))?,
};

/// The id that the flags give.
pub(super) fn id(call: &Call) -> Option<&str> {
    given(call, "id").or_else(|| given(call, "accessor-id"))
}

/// The whole accessor ID of an id that flags give.
pub(super) async fn whole(
    call: &Call,
    client: &muster_client::Client,
    part: &str,
) -> Result<String, Failure> {
    ids::whole::<AclToken>(client, call, part)
        .await
        .map_err(|unresolved| unresolved.failure(call, "Error determining token ID"))
}

async fn create(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let all = |flag: &str| call.values.all(flag);
    let rights = [
        "policy-name",
        "policy-id",
        "role-name",
        "role-id",
        "service-identity",
        "node-identity",
        "templated-policy",
    ];
    if rights.iter().all(|flag| all(flag).is_empty()) {
        return Err(Failure::new(
            "Cannot create a token without specifying -policy-name, -policy-id, -role-name, -role-id, \
             -service-identity, or -node-identity at least once",
        ));
    }
    let ttl = call.values.duration("expires-ttl").filter(|ttl| !ttl.is_zero());
    let mut token = AclToken {
        accessor_id: call.values.text("accessor").unwrap_or_default().to_owned(),
        secret_id: given(call, "secret").map(str::to_owned),
        description: call.values.text("description").unwrap_or_default().to_owned(),
        local: call.values.on("local"),
        expiration_ttl: ttl.map(format_duration),
        service_identities: ids::services(all("service-identity"))?,
        node_identities: ids::nodes(all("node-identity"))?,
        templated_policies: ids::templated(call, "templated-policy")?,
        ..AclToken::default()
    };
    let client = call.client()?;
    token.policies =
        ids::links::<AclPolicy>(&client, call, all("policy-name"), all("policy-id")).await?;
    token.roles = ids::links::<AclRole>(&client, call, all("role-name"), all("role-id")).await?;
    let created = client.acl().create(&token).await;
    show::one(shown, &created.map_err(|error| call.failed("Failed to create new token", &error))?)
}

async fn read(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let own = call.values.on("self");
    let (client, options) = (call.client()?, call.options());
    let acl = client.acl();
    let (id, what) = if own {
        ("self".to_owned(), "Error reading token".to_owned())
    } else {
        let Some(part) = id(call) else {
            return Err(Failure::new("Must specify the -id parameter")
                .or_hint("-self shows the token that this command sends".to_owned()));
        };
        let id = whole(call, &client, part).await?;
        let what = format!("Error reading token {id:?}");
        (id, what)
    };
    let failed = |error| call.failed(&what, &error);
    if call.values.on("expanded") {
        let token = acl.token_expanded(&id, &options).await.map_err(failed)?;
        if shown.json {
            return show::one(shown, &token);
        }
        let mut output = show::one(shown, &token)?;
        output.stdout.extend(expansion(&token).into_bytes());
        if !token.more.contains_key("AgentACLDefaultPolicy") {
            output
                .stderr
                .push_str("hint: this server does not expand tokens; its version is older\n");
        }
        return Ok(output);
    }
    let token = if own {
        acl.token_self(&options).await.map_err(failed)?
    } else {
        let found = acl.read::<AclToken>(&id, &options).await.map_err(failed)?;
        found.ok_or_else(|| Failure::new(format!("Token not found with ID {id:?}")))?
    };
    show::one(shown, &token)
}

/// What an expanded token has beyond a token: roles and policies with their rules, and what counts without a rule.
fn expansion(token: &AclToken) -> String {
    let objects = |name: &str| token.more.get(name).and_then(Value::as_array);
    let field = |object: &Value, name: &str| object[name].as_str().unwrap_or_default().to_owned();
    let mut text = String::new();
    for role in objects("ExpandedRoles").into_iter().flatten() {
        let _ = writeln!(text, "Role {:?}:", field(role, "Name"));
        for link in role["Policies"].as_array().into_iter().flatten() {
            let _ = writeln!(text, "   Policy {:?}", field(link, "Name"));
        }
    }
    for policy in objects("ExpandedPolicies").into_iter().flatten() {
        let _ = writeln!(text, "Policy {:?}:", field(policy, "Name"));
        for line in field(policy, "Rules").trim().lines() {
            let _ = writeln!(text, "   {line}");
        }
    }
    for (label, name) in [
        ("Default Policy", "AgentACLDefaultPolicy"),
        ("Down Policy", "AgentACLDownPolicy"),
        ("Resolved By Agent", "ResolvedByAgent"),
    ] {
        if let Some(value) = token.more.get(name).and_then(Value::as_str) {
            let label = format!("{label}:");
            let _ = writeln!(text, "{label:<18} {value}");
        }
    }
    text
}

async fn list(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let all = call.client()?.acl().list::<AclToken>(vec![], &call.options()).await;
    let all = all.map_err(|error| call.failed("Failed to retrieve the token list", &error))?;
    let mut tokens = rows_of(all);
    for token in &mut tokens {
        // Servers leave it out where it is false; lists of the reference's program have it always.
        token.legacy.get_or_insert_default();
    }
    show::list(shown, &tokens)
}

async fn delete(call: &Call) -> Outcome {
    let Some(part) = id(call) else {
        return Err(Failure::new("Must specify the -id parameter"));
    };
    let client = call.client()?;
    let id = whole(call, &client, part).await?;
    let deleted = client.acl().delete::<AclToken>(&id).await;
    deleted.map_err(|error| call.failed(&format!("Error deleting token {id:?}"), &error))?;
    Ok(format!("Token {id:?} deleted successfully\n").into())
}

async fn clone(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let Some(part) = id(call) else {
        return Err(Failure::new("Cannot update a token without specifying the -id parameter"));
    };
    let client = call.client()?;
    let id = whole(call, &client, part).await?;
    let description = call.values.text("description").unwrap_or_default();
    let token = client.acl().token_clone(&id, description).await;
    show::one(shown, &token.map_err(|error| call.failed("Error cloning token", &error))?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_expanded_token_shows_the_rules() {
        let token: AclToken = serde_json::from_value(json!({
            "AccessorID": "1", "ExpandedRoles": [{"Name": "r", "Policies": [{"Name": "p"}]}],
            "ExpandedPolicies": [{"Name": "p", "Rules": "\nkey \"a\" {\n}\n"}],
            "AgentACLDefaultPolicy": "deny", "ResolvedByAgent": "n1"
        }))
        .expect("a token");
        assert_eq!(
            expansion(&token),
            "Role \"r\":\n   Policy \"p\"\nPolicy \"p\":\n   key \"a\" {\n   }\nDefault Policy:    deny\n\
             Resolved By Agent: n1\n"
        );
    }
}
