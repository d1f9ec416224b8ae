//! `acl token update`.

use muster_client::types::{AclPolicy, AclRole, AclToken};

use super::super::command::{Call, CommonFlags, FORMAT_FLAG, Failure, Flag, Outcome, Spec, wait};
use super::token::{
    ACCESSOR, DESCRIPTION, ID, NODE, POLICY_ID, POLICY_NAME, ROLE_ID, ROLE_NAME, SERVICE,
    TEMPLATED, VAR, id, whole,
};
use super::{META_FLAG, ids, show, shown};

pub(in crate::cli) static UPDATE: Spec = Spec {
    path: "acl token update",
    synopsis: "Changes a token",
    operands: "",
    about: "Gives a token the rights that the flags name IN PLACE OF those that it has: without further flags it has \
none. The -append flags add to what it has; so do the -merge flags, of each kind of right. The secret stays.

    $ muster acl token update -id=abcd -append-policy-name=db
    $ muster acl token update -id=abcd -policy-name=web -role-name=deploy",
    flags: &[
        ACCESSOR,
        Flag::texts("append-node-identity", "node:datacenter", "Add the rights of the agent of this node."),
        Flag::texts("append-policy-id", "uuid", "Add this policy."),
        Flag::texts("append-policy-name", "name", "Add this policy."),
        Flag::texts("append-role-id", "uuid", "Add this role."),
        Flag::texts("append-role-name", "name", "Add this role."),
        Flag::texts("append-service-identity", "service[:datacenters]", "Add the rights of instances of this service."),
        Flag::text("append-templated-policy", "name", "Add a policy from this template, filled in by -var."),
        DESCRIPTION,
        FORMAT_FLAG,
        ID,
        Flag::switch("merge-node-identities", "Keep the identities of nodes that it has."),
        Flag::switch("merge-policies", "Keep the policies that it has."),
        Flag::switch("merge-roles", "Keep the roles that it has."),
        Flag::switch("merge-service-identities", "Keep the identities of services that it has."),
        META_FLAG,
        NODE,
        POLICY_ID,
        POLICY_NAME,
        ROLE_ID,
        ROLE_NAME,
        SERVICE,
        TEMPLATED,
        Flag::switch(
            "upgrade-legacy",
            "Take the rules of a token of the time before Consul 1.4 away, in favor of policies.",
        ),
        VAR,
    ],
    common_flags: CommonFlags::StaleApi,
    run: |call| wait(update(call))?,
};

/// A kind of right: its flags, in the words of the reference.
struct Kind {
    flags: &'static [&'static str],
    append: &'static [&'static str],
    merge: &'static str,
}

const POLICIES: Kind = Kind {
    flags: &["policy-name", "policy-id"],
    append: &["append-policy-name", "append-policy-id"],
    merge: "merge-policies",
};
const ROLES: Kind = Kind {
    flags: &["role-name", "role-id"],
    append: &["append-role-name", "append-role-id"],
    merge: "merge-roles",
};
const SERVICES: Kind = Kind {
    flags: &["service-identity"],
    append: &["append-service-identity"],
    merge: "merge-service-identities",
};
const NODES: Kind = Kind {
    flags: &["node-identity"],
    append: &["append-node-identity"],
    merge: "merge-node-identities",
};
const TEMPLATES: Kind =
    Kind { flags: &["templated-policy"], append: &["append-templated-policy"], merge: "" };

impl Kind {
    /// Whether the token keeps the rights of this kind that it has.
    fn keeps(&self, call: &Call) -> Result<bool, Failure> {
        let given = |flags: &[&str]| flags.iter().any(|flag| !call.values.all(flag).is_empty());
        let appends = given(self.append);
        if appends && given(self.flags) {
            let flags = |flags: &[&str]| flags.join("/");
            let (append, replace) = (flags(self.append), flags(self.flags));
            return Err(Failure::new(format!("Cannot specify both {append} and {replace}")));
        }
        Ok(appends || call.values.on(self.merge))
    }
    /// Everything that the flags name, those that replace and those that add.
    fn texts(&self, call: &Call, place: usize) -> Vec<String> {
        let all = |flags: &[&str]| {
            flags.get(place).map(|flag| call.values.all(flag).to_vec()).unwrap_or_default()
        };
        [all(self.flags), all(self.append)].concat()
    }
}

async fn update(call: &Call) -> Outcome {
    let shown = shown(call)?;
    let Some(part) = id(call) else {
        return Err(Failure::new("Cannot update a token without specifying the -id parameter"));
    };
    // Everything that needs no server first: a mistake changes nothing.
    let keeps = [
        POLICIES.keeps(call)?,
        ROLES.keeps(call)?,
        SERVICES.keeps(call)?,
        NODES.keeps(call)?,
        TEMPLATES.keeps(call)?,
    ];
    let client = call.client()?;
    let id = whole(call, &client, part).await?;
    let old = client.acl().read::<AclToken>(&id, &call.options()).await;
    let old = old
        .map_err(|error| call.failed("Error when retrieving current token", &error))?
        .ok_or_else(|| Failure::new(format!("Token not found with ID {id:?}")))?;
    let mut token = old.clone();
    if call.values.on("upgrade-legacy") {
        if token.rules.is_empty() {
            return Err(Failure::new("Can't use -upgrade-legacy on a non-legacy token"));
        }
        token.rules.clear();
    }
    if let Some(description) = super::given(call, "description") {
        description.clone_into(&mut token.description);
    }
    for (keep, forget) in keeps.into_iter().zip(FORGET) {
        if !keep {
            forget(&mut token);
        }
    }
    ids::merge_services(&mut token.service_identities, ids::services(&SERVICES.texts(call, 0))?);
    ids::merge_nodes(&mut token.node_identities, ids::nodes(&NODES.texts(call, 0))?);
    for flag in ["templated-policy", "append-templated-policy"] {
        for templated in ids::templated(call, flag)? {
            if !token.templated_policies.contains(&templated) {
                token.templated_policies.push(templated);
            }
        }
    }
    let names = |kind: &Kind| (kind.texts(call, 0), kind.texts(call, 1));
    let ((policy_names, policy_ids), (role_names, role_ids)) = (names(&POLICIES), names(&ROLES));
    let policies = ids::links::<AclPolicy>(&client, call, &policy_names, &policy_ids).await?;
    ids::merge_links(&mut token.policies, policies);
    let roles = ids::links::<AclRole>(&client, call, &role_names, &role_ids).await?;
    ids::merge_links(&mut token.roles, roles);
    let what = format!("Failed to update token {id}");
    let token = client.acl().update(&token).await.map_err(|error| call.failed(&what, &error))?;
    let mut output = show::one(shown, &token)?;
    output.stderr = lost(&old, &token).map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
    Ok(output)
}

/// Takes the rights of one kind from a token each, in the order of the kinds in `update`.
const FORGET: [fn(&mut AclToken); 5] = [
    |token| token.policies.clear(),
    |token| token.roles.clear(),
    |token| token.service_identities.clear(),
    |token| token.node_identities.clear(),
    |token| token.templated_policies.clear(),
];

/// Says which rights an update took away: that of a description alone takes all, which surprises.
fn lost(old: &AclToken, new: &AclToken) -> Option<String> {
    fn gone<T: PartialEq>(old: &[T], new: &[T]) -> usize {
        old.iter().filter(|one| !new.contains(one)).count()
    }
    let kinds = [
        (
            gone(&old.policies, &new.policies),
            "policies (-append-policy-name adds, -merge-policies keeps)",
        ),
        (gone(&old.roles, &new.roles), "roles (-append-role-name adds, -merge-roles keeps)"),
        (
            gone(&old.service_identities, &new.service_identities),
            "service identities (-merge-service-identities keeps)",
        ),
        (
            gone(&old.node_identities, &new.node_identities),
            "node identities (-merge-node-identities keeps)",
        ),
    ];
    let lost: Vec<String> = kinds
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, kind)| format!("{count} of its {kind}"))
        .collect();
    (!lost.is_empty()).then(|| format!("this update took from the token {}", lost.join(", ")))
}

#[cfg(test)]
mod tests {
    use muster_client::types::AclLink;

    use super::*;

    #[test]
    fn rights_that_an_update_takes_away_are_named() {
        let link = |name: &str| AclLink { id: String::new(), name: name.to_owned() };
        let old = AclToken { policies: vec![link("a"), link("b")], ..AclToken::default() };
        let less = AclToken { policies: vec![link("b"), link("c")], ..AclToken::default() };
        let hint = lost(&old, &less).expect("one is gone");
        assert!(hint.starts_with("this update took from the token 1 of its policies"), "{hint}");
        assert_eq!(lost(&less, &less), None);
    }
}
