//! `acl policy`.

use muster_client::Client;
use muster_client::types::{AclPolicy, AclToken};

use super::super::command::{
    Call, CommonFlags, FORMAT_FLAG, Failure, Flag, Outcome, Spec, rows_of, wait,
};
use super::{META_FLAG, content, given, ids, setup, show, shown};

const ID: Flag = Flag::text("id", "uuid", "Which policy, by its ID or the first characters of it.");
const DESCRIPTION: Flag = Flag::text("description", "text", "What it is for.");
const RULES: Flag = Flag::text(
    "rules",
    "rules",
    "The rules. `@file` reads them from a file, `-` from the standard input.",
);
const DATACENTERS: Flag = Flag::texts(
    "valid-datacenter",
    "name",
    "A datacenter where it counts; it counts in all by default.",
);

pub(in crate::cli) static CREATE: Spec = Spec {
    path: "acl policy create",
    synopsis: "Creates a policy",
    operands: "",
    about: "Creates a policy. Rules may come from a file, the standard input, the command line, or from a token \
of the time before Consul 1.4, whose rules are translated.

    $ muster acl policy create -name=web -rules=@web.hcl
    $ muster acl policy create -name=old -from-token=c1e34113",
    flags: &[
        DESCRIPTION,
        FORMAT_FLAG,
        Flag::text("from-token", "token", "Take the rules of this token: its accessor ID, `@file` or `-`."),
        META_FLAG,
        Flag::text("name", "name", "Its name, made of letters, digits, `-` and `_`."),
        RULES,
        Flag::switch("token-secret", "-from-token is the token's secret, not its accessor ID."),
        DATACENTERS,
    ],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(create(call))?,
};

pub(in crate::cli) static READ: Spec = Spec {
    path: "acl policy read",
    synopsis: "Shows a policy",
    operands: "",
    about: "Shows a policy with its rules.

    $ muster acl policy read -name=web",
    flags: &[FORMAT_FLAG, ID, META_FLAG, Flag::text("name", "name", "Which policy, by its name.")],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(read(call))?,
};

pub(in crate::cli) static LIST: Spec = Spec {
    path: "acl policy list",
    synopsis: "Lists the policies",
    operands: "",
    about: "Lists all policies, without their rules.",
    flags: &[FORMAT_FLAG, META_FLAG],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(list(call))?,
};

pub(in crate::cli) static UPDATE: Spec = Spec {
    path: "acl policy update",
    synopsis: "Changes a policy",
    operands: "",
    about: "Changes what the flags name and keeps the rest. With -no-merge, what no flag names is emptied. It counts \
at once for every token that links to the policy.

    $ muster acl policy update -name=web -rules=@web.hcl
    $ muster acl policy update -id=0479e93e -name=frontend",
    flags: &[
        DESCRIPTION,
        FORMAT_FLAG,
        ID,
        META_FLAG,
        Flag::text("name", "name", "With -id its new name, without -id which policy."),
        Flag::switch("no-merge", "Empty what no flag names."),
        RULES,
        DATACENTERS,
    ],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(update(call))?,
};

pub(in crate::cli) static DELETE: Spec = Spec {
    path: "acl policy delete",
    synopsis: "Removes a policy",
    operands: "",
    about: "Removes a policy. Tokens and roles that link to it lose its rights at once.

    $ muster acl policy delete -name=web",
    flags: &[ID, Flag::text("name", "name", "Which policy, by its name.")],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(delete(call))?,
};

async fn create(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let Some(name) = given(call, "name") else {
        return Err(call.misused("Missing require '-name' flag"));
    };
    let client = call.client()?;
    let rules = rules(call, &client).await?;
    let policy = AclPolicy {
        name: name.to_owned(),
        description: call.values.text("description").unwrap_or_default().to_owned(),
        rules: Some(rules),
        datacenters: datacenters(call),
        ..AclPolicy::default()
    };
    let policy = client
        .acl()
        .create(&policy)
        .await
        .map_err(|error| call.failed("Failed to create new policy", &error))?;
    show::one(shown, &policy)
}

fn datacenters(call: &Call) -> Option<Vec<String>> {
    let all = call.values.all("valid-datacenter");
    (!all.is_empty()).then(|| all.to_vec())
}

async fn rules(call: &Call, client: &Client) -> Result<String, Failure> {
    let what = "Error loading rules";
    let (rules, token) = (given(call, "rules"), given(call, "from-token"));
    let Some(token) = token else { return content(rules.unwrap_or_default(), what) };
    if rules.is_some() {
        return Err(Failure::new(format!("{what}: Cannot specify both -rules and -from-token")));
    }
    let token = content(token, what)?;
    let by_secret = call.values.on("token-secret");
    let token = old_token(call, client, token.trim(), by_secret, what).await?;
    setup::translated(call, client, token.rules, what).await
}

/// A token with rules of its own, as releases before 1.4 made them.
pub(super) async fn old_token(
    call: &Call,
    client: &Client,
    name: &str,
    by_secret: bool,
    what: &str,
) -> Result<AclToken, Failure> {
    let id = ids::whole::<AclToken>(client, call, name)
        .await
        .map_err(|unresolved| unresolved.failure(call, what))?;
    let reading = if what.is_empty() {
        "Error reading token".to_owned()
    } else {
        format!("{what}: Error reading token")
    };
    let failed = |error| call.failed(&reading, &error);
    let token = if by_secret {
        let client = call.client_with_token(&id)?;
        Some(client.acl().token_self(&call.options()).await.map_err(failed)?)
    } else {
        client.acl().read::<AclToken>(&id, &call.options()).await.map_err(failed)?
    };
    match token {
        Some(token) if !token.rules.is_empty() => Ok(token),
        _ => {
            let text = "Token is not a legacy token with rules";
            let text = if what.is_empty() { text.to_owned() } else { format!("{what}: {text}") };
            Err(Failure::new(text))
        }
    }
}

/// The id of the policy that `-id` or `-name` name.
async fn named(call: &Call, client: &Client) -> Result<String, Failure> {
    let found = match (given(call, "id"), given(call, "name")) {
        (Some(part), _) => ids::whole::<AclPolicy>(client, call, part).await,
        (None, Some(name)) => {
            ids::named::<AclPolicy>(client, call, name, |policy| &policy.name).await
        }
        (None, None) => {
            return Err(Failure::new("Must specify either the -id or -name parameters"));
        }
    };
    found.map_err(|unresolved| unresolved.failure(call, "Error determining policy ID"))
}

async fn current(call: &Call, client: &Client) -> Result<AclPolicy, Failure> {
    let id = named(call, client).await?;
    let what = format!("Error reading policy {id:?}");
    let found = client.acl().read::<AclPolicy>(&id, &call.options()).await;
    let found = found.map_err(|error| call.failed(&what, &error))?;
    found.ok_or_else(|| Failure::new(format!("Policy not found with ID {id:?}")))
}

async fn read(call: &Call) -> Outcome {
    let shown = shown(call)?;
    show::one(shown, &current(call, &call.client()?).await?)
}

async fn list(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let all = call.client()?.acl().list::<AclPolicy>(vec![], &call.options()).await;
    let all = all.map_err(|error| call.failed("Failed to retrieve the policy list", &error))?;
    show::list(shown, &rows_of(all))
}

async fn update(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let client = call.client()?;
    // Before anything is asked: the standard input and files of the user.
    let rules = match call.values.text("rules") {
        Some(text) => Some(content(text, "Error loading data source")?),
        None => None,
    };
    let description = call.values.text("description").map(str::to_owned);
    let renamed =
        call.values.text("name").filter(|_| given(call, "id").is_some()).map(str::to_owned);
    let policy = if call.values.on("no-merge") {
        let id = named(call, &client).await?;
        AclPolicy {
            name: call.values.text("name").unwrap_or_default().to_owned(),
            description: description.unwrap_or_default(),
            rules: Some(rules.unwrap_or_default()),
            datacenters: datacenters(call),
            id,
            ..AclPolicy::default()
        }
    } else {
        let old = current(call, &client).await?;
        AclPolicy {
            name: renamed.unwrap_or(old.name),
            description: description.unwrap_or(old.description),
            rules: rules.or(old.rules),
            datacenters: datacenters(call).or(old.datacenters),
            ..old
        }
    };
    let what = format!("Error updating policy {:?}", policy.id);
    let policy = client.acl().update(&policy).await.map_err(|error| call.failed(&what, &error))?;
    show::one(shown, &policy)
}

async fn delete(call: &Call) -> Outcome {
    let client = call.client()?;
    let id = named(call, &client).await?;
    let deleted = client.acl().delete::<AclPolicy>(&id).await;
    deleted.map_err(|error| call.failed(&format!("Error deleting policy {id:?}"), &error))?;
    Ok(format!("Policy {id:?} deleted successfully\n").into())
}
