//! `acl role`.

use muster_client::Client;
use muster_client::types::{AclPolicy, AclRole};

use super::super::command::{
    Call, CommonFlags, FORMAT_FLAG, Failure, Flag, Outcome, Spec, rows_of, wait,
};
use super::{META_FLAG, given, ids, show, shown};

const ID: Flag = Flag::text("id", "uuid", "Which role, by its ID or the first characters of it.");
const DESCRIPTION: Flag = Flag::text("description", "text", "What it is for.");
const NODE: Flag =
    Flag::texts("node-identity", "node:datacenter", "The rights of the agent of this node.");
const POLICY_ID: Flag =
    Flag::texts("policy-id", "uuid", "A policy, by its ID or the first characters of it.");
const POLICY_NAME: Flag = Flag::texts("policy-name", "name", "A policy, by its name.");
const SERVICE: Flag = Flag::texts(
    "service-identity",
    "service[:datacenters]",
    "The rights of instances of this service, as `web` or `web:dc1,dc2`.",
);
const TEMPLATED: Flag =
    Flag::text("templated-policy", "name", "A policy from this template, filled in by -var.");
const VAR: Flag = Flag::texts("var", "name:value", "A value for -templated-policy.");

pub(in crate::cli) static CREATE: Spec = Spec {
    path: "acl role create",
    synopsis: "Creates a role",
    operands: "",
    about: "Creates a role with policies and identities.

    $ muster acl role create -name=deploy -policy-name=web \\
                             -service-identity=api",
    flags: &[
        DESCRIPTION,
        FORMAT_FLAG,
        META_FLAG,
        Flag::text("name", "name", "Its name, made of letters, digits, `-` and `_`."),
        NODE,
        POLICY_ID,
        POLICY_NAME,
        SERVICE,
        TEMPLATED,
        VAR,
    ],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(create(call))?,
};

pub(in crate::cli) static READ: Spec = Spec {
    path: "acl role read",
    synopsis: "Shows a role",
    operands: "",
    about: "Shows a role.

    $ muster acl role read -name=deploy",
    flags: &[FORMAT_FLAG, ID, META_FLAG, Flag::text("name", "name", "Which role, by its name.")],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(read(call))?,
};

pub(in crate::cli) static LIST: Spec = Spec {
    path: "acl role list",
    synopsis: "Lists the roles",
    operands: "",
    about: "Lists all roles.",
    flags: &[FORMAT_FLAG, META_FLAG],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(list(call))?,
};

pub(in crate::cli) static UPDATE: Spec = Spec {
    path: "acl role update",
    synopsis: "Changes a role",
    operands: "",
    about: "Adds what the flags name and keeps the rest. With -no-merge the role has nothing but what the flags name. It \
counts at once for every token that links to the role.

    $ muster acl role update -id=57147d87 -policy-name=db",
    flags: &[
        DESCRIPTION,
        FORMAT_FLAG,
        ID,
        META_FLAG,
        Flag::text("name", "name", "Its new name."),
        Flag::switch("no-merge", "Take away what no flag names."),
        NODE,
        POLICY_ID,
        POLICY_NAME,
        SERVICE,
        TEMPLATED,
        VAR,
    ],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(update(call))?,
};

pub(in crate::cli) static DELETE: Spec = Spec {
    path: "acl role delete",
    synopsis: "Removes a role",
    operands: "",
    about: "Removes a role. Tokens that link to it lose its rights at once.

    $ muster acl role delete -name=deploy",
    flags: &[ID, Flag::text("name", "name", "Which role, by its name.")],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(delete(call))?,
};

/// What the flags name.
async fn wanted(call: &Call, client: &Client) -> Result<AclRole, Failure> {
    let all = |flag: &str| call.values.all(flag);
    let text = |flag: &str| call.values.text(flag).unwrap_or_default().to_owned();
    Ok(AclRole {
        name: text("name"),
        description: text("description"),
        service_identities: ids::services(all("service-identity"))?,
        node_identities: ids::nodes(all("node-identity"))?,
        templated_policies: ids::templated(call, "templated-policy")?,
        policies: ids::links::<AclPolicy>(client, call, all("policy-name"), all("policy-id"))
            .await?,
        ..AclRole::default()
    })
}

async fn create(call: &Call) -> Outcome {
    let shown = shown(call)?;
    if given(call, "name").is_none() {
        return Err(call.misused("Missing require '-name' flag"));
    }
    let rights =
        ["policy-name", "policy-id", "service-identity", "node-identity", "templated-policy"];
    if rights.iter().all(|flag| call.values.all(flag).is_empty()) {
        return Err(Failure::new(
            "Cannot create a role without specifying -policy-name, -policy-id, -service-identity, or -node-identity at \
             least once",
        ));
    }
    let client = call.client()?;
    let role = wanted(call, &client).await?;
    let created = client.acl().create(&role).await;
    show::one(shown, &created.map_err(|error| call.failed("Failed to create new role", &error))?)
}

async fn read(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let client = call.client()?;
    let (role, unknown, name) = match (given(call, "id"), given(call, "name")) {
        (Some(part), _) => {
            let id = ids::whole::<AclRole>(&client, call, part)
                .await
                .map_err(|unresolved| unresolved.failure(call, "Error determining role ID"))?;
            let found = client.acl().read::<AclRole>(&id, &call.options()).await;
            (found, format!("Role not found with ID {id:?}"), id)
        }
        (None, Some(name)) => {
            let found = client.acl().role_by_name(name, &call.options()).await;
            (found, format!("Role not found with name {name:?}"), name.to_owned())
        }
        (None, None) => {
            return Err(Failure::new("Must specify either the -id or -name parameters"));
        }
    };
    let role =
        role.map_err(|error| call.failed(&format!("Error reading role {name:?}"), &error))?;
    show::one(shown, &role.ok_or_else(|| Failure::new(unknown))?)
}

async fn list(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let all = call.client()?.acl().list::<AclRole>(vec![], &call.options()).await;
    let all = all.map_err(|error| call.failed("Failed to retrieve the role list", &error))?;
    show::list(shown, &rows_of(all))
}

async fn update(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let Some(part) = given(call, "id") else {
        return Err(Failure::new("Cannot update a role without specifying the -id parameter"));
    };
    let client = call.client()?;
    let id = ids::whole::<AclRole>(&client, call, part)
        .await
        .map_err(|unresolved| unresolved.failure(call, "Error determining role ID"))?;
    let old = client.acl().read::<AclRole>(&id, &call.options()).await;
    let old = old
        .map_err(|error| call.failed("Error when retrieving current role", &error))?
        .ok_or_else(|| Failure::new(format!("Role not found with ID {id:?}")))?;
    let wanted = wanted(call, &client).await?;
    let role =
        if call.values.on("no-merge") { AclRole { id, ..wanted } } else { merged(old, wanted) };
    let what = format!("Error updating role {:?}", role.id);
    let updated = client.acl().update(&role).await;
    show::one(shown, &updated.map_err(|error| call.failed(&what, &error))?)
}

fn merged(mut role: AclRole, wanted: AclRole) -> AclRole {
    for (old, new) in [(&mut role.name, wanted.name), (&mut role.description, wanted.description)] {
        if !new.is_empty() {
            *old = new;
        }
    }
    ids::merge_links(&mut role.policies, wanted.policies);
    ids::merge_services(&mut role.service_identities, wanted.service_identities);
    ids::merge_nodes(&mut role.node_identities, wanted.node_identities);
    for templated in wanted.templated_policies {
        if !role.templated_policies.contains(&templated) {
            role.templated_policies.push(templated);
        }
    }
    role
}

async fn delete(call: &Call) -> Outcome {
    let client = call.client()?;
    let found = match (given(call, "id"), given(call, "name")) {
        (Some(part), _) => ids::whole::<AclRole>(&client, call, part).await,
        (None, Some(name)) => ids::named::<AclRole>(&client, call, name, |role| &role.name).await,
        (None, None) => return Err(Failure::new("Must specify the -id or -name parameters")),
    };
    let id = found.map_err(|unresolved| unresolved.failure(call, "Error determining role ID"))?;
    let deleted = client.acl().delete::<AclRole>(&id).await;
    deleted.map_err(|error| call.failed(&format!("Error deleting role {id:?}"), &error))?;
    Ok(format!("Role {id:?} deleted successfully\n").into())
}
