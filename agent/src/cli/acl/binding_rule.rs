//! `acl binding-rule`.

use muster_client::Client;
use muster_client::types::BindingRule;

use super::super::command::{
    Call, CommonFlags, FORMAT_FLAG, Failure, Flag, Outcome, Spec, rows_of, wait,
};
use super::{META_FLAG, given, ids, show, shown};

const BIND_NAME: Flag = Flag::text(
    "bind-name",
    "name",
    "Name of the service, node or role. `${value.x}` stands for what the login says of x.",
);
const BIND_TYPE: Flag =
    Flag::text("bind-type", "type", "`service`, `node` or `role`; `service` by default.");
const DESCRIPTION: Flag = Flag::text("description", "text", "What it is for.");
const ID: Flag = Flag::text("id", "uuid", "Which rule, by its ID or the first characters of it.");
const SELECTOR: Flag =
    Flag::text("selector", "expression", "Only logins for which this holds, as `value.team==web`.");

pub(in crate::cli) static CREATE: Spec = Spec {
    path: "acl binding-rule create",
    synopsis: "Creates a binding rule",
    operands: "",
    about:
        "Says what those get who log in by a method: the rights of a service or a node, or a role.

    $ muster acl binding-rule create -method=ci -bind-type=role \\
                                     -bind-name='deploy-${value.team}'",
    flags: &[
        BIND_NAME,
        BIND_TYPE,
        DESCRIPTION,
        FORMAT_FLAG,
        META_FLAG,
        Flag::text("method", "name", "The method whose logins it is for."),
        SELECTOR,
    ],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(create(call))?,
};

pub(in crate::cli) static READ: Spec = Spec {
    path: "acl binding-rule read",
    synopsis: "Shows a binding rule",
    operands: "",
    about: "Shows a binding rule.",
    flags: &[FORMAT_FLAG, ID, META_FLAG],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(read(call))?,
};

pub(in crate::cli) static LIST: Spec = Spec {
    path: "acl binding-rule list",
    synopsis: "Lists the binding rules",
    operands: "",
    about: "Lists the binding rules of all methods, or of one.",
    flags: &[FORMAT_FLAG, META_FLAG, Flag::text("method", "name", "Only rules of this method.")],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(list(call))?,
};

pub(in crate::cli) static UPDATE: Spec = Spec {
    path: "acl binding-rule update",
    synopsis: "Changes a binding rule",
    operands: "",
    about: "Changes what the flags name and keeps the rest. With -no-merge, what no flag names is emptied.

    $ muster acl binding-rule update -id=43cb72df -selector=''",
    flags: &[
        BIND_NAME,
        BIND_TYPE,
        DESCRIPTION,
        FORMAT_FLAG,
        ID,
        META_FLAG,
        Flag::switch("no-merge", "Empty what no flag names."),
        SELECTOR,
    ],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(update(call))?,
};

pub(in crate::cli) static DELETE: Spec = Spec {
    path: "acl binding-rule delete",
    synopsis: "Removes a binding rule",
    operands: "",
    about: "Removes a binding rule. Tokens that were made by it keep their rights.",
    flags: &[ID],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(delete(call))?,
};

/// What a rule binds to unless a flag says otherwise.
const DEFAULT_TYPE: &str = "service";

async fn create(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let text = |flag: &str| call.values.text(flag).unwrap_or_default().to_owned();
    let bind_type = call.values.text("bind-type").unwrap_or(DEFAULT_TYPE);
    for (flag, missing) in [
        ("method", given(call, "method").is_none()),
        ("bind-type", bind_type.is_empty()),
        ("bind-name", given(call, "bind-name").is_none()),
    ] {
        if missing {
            return Err(call.misused(&format!("Missing required '-{flag}' flag")));
        }
    }
    let rule = BindingRule {
        description: text("description"),
        auth_method: text("method"),
        bind_type: bind_type.to_owned(),
        bind_name: text("bind-name"),
        selector: text("selector"),
        ..BindingRule::default()
    };
    let created = call.client()?.acl().create(&rule).await;
    show::one(
        shown,
        &created.map_err(|error| call.failed("Failed to create new binding rule", &error))?,
    )
}

async fn whole(call: &Call, client: &Client, part: &str) -> Result<String, Failure> {
    ids::whole::<BindingRule>(client, call, part)
        .await
        .map_err(|unresolved| unresolved.failure(call, "Error determining binding rule ID"))
}

async fn current(
    call: &Call,
    client: &Client,
    id: &str,
    what: &str,
) -> Result<BindingRule, Failure> {
    let found = client.acl().read::<BindingRule>(id, &call.options()).await;
    let found = found.map_err(|error| call.failed(what, &error))?;
    found.ok_or_else(|| Failure::new(format!("Binding rule not found with ID {id:?}")))
}

async fn read(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let Some(part) = given(call, "id") else {
        return Err(Failure::new("Must specify the -id parameter."));
    };
    let client = call.client()?;
    let id = whole(call, &client, part).await?;
    let what = format!("Error reading binding rule {id:?}");
    show::one(shown, &current(call, &client, &id, &what).await?)
}

async fn list(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let method = given(call, "method").map(|name| ("authmethod", name.to_owned()));
    let query = method.into_iter().collect();
    let all = call.client()?.acl().list::<BindingRule>(query, &call.options()).await;
    let all =
        all.map_err(|error| call.failed("Failed to retrieve the binding rule list", &error))?;
    let all = rows_of(all);
    // Nothing at all, where other lists have an empty line.
    if all.is_empty() && !shown.json { Ok(String::new().into()) } else { show::list(shown, &all) }
}

async fn update(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let Some(part) = given(call, "id") else {
        return Err(Failure::new(
            "Cannot update a binding rule without specifying the -id parameter",
        ));
    };
    let client = call.client()?;
    let id = whole(call, &client, part).await?;
    let what = "Error when retrieving current binding rule";
    let old = current(call, &client, &id, what).await?;
    let text = |flag: &str| given(call, flag).map(str::to_owned);
    let selector = call.values.text("selector").map(str::to_owned);
    let rule = if call.values.on("no-merge") {
        if given(call, "bind-name").is_none() {
            return Err(call.misused("Missing required '-bind-name' flag"));
        }
        BindingRule {
            id: old.id,
            auth_method: old.auth_method,
            description: text("description").unwrap_or_default(),
            bind_type: text("bind-type").unwrap_or_else(|| DEFAULT_TYPE.to_owned()),
            bind_name: text("bind-name").unwrap_or_default(),
            selector: selector.unwrap_or_default(),
            ..BindingRule::default()
        }
    } else {
        BindingRule {
            description: text("description").unwrap_or(old.description),
            bind_type: text("bind-type").unwrap_or(old.bind_type),
            bind_name: text("bind-name").unwrap_or(old.bind_name),
            selector: selector.unwrap_or(old.selector),
            ..old
        }
    };
    let updated = client.acl().update(&rule).await;
    let what = format!("Error updating binding rule {id:?}");
    show::one(shown, &updated.map_err(|error| call.failed(&what, &error))?)
}

async fn delete(call: &Call) -> Outcome {
    let Some(part) = given(call, "id") else {
        return Err(Failure::new("Must specify the -id parameter"));
    };
    let client = call.client()?;
    let id = whole(call, &client, part).await?;
    let deleted = client.acl().delete::<BindingRule>(&id).await;
    deleted.map_err(|error| call.failed(&format!("Error deleting binding rule {id:?}"), &error))?;
    Ok(format!("Binding rule {id:?} deleted successfully\n").into())
}
