//! `acl`: tokens, and what they may.
//!
//! | file | owns |
//! |---|---|
//! | `token`, `token_update`, `policy`, `role`, `auth_method`, `binding_rule`, `template` | one kind of object each |
//! | `setup` | the first token, the agent's own tokens, rules of earlier releases |
//! | `login` | tokens for those whom another system knows |
//! | `explain` | the rule that decides |
//! | `ids` | ids by their first characters, links, identities |
//! | `show` | objects as text and as JSON |

pub(super) mod auth_method;
pub(super) mod binding_rule;
pub(super) mod explain;
mod ids;
pub(super) mod login;
pub(super) mod policy;
pub(super) mod role;
pub(super) mod setup;
mod show;
pub(super) mod template;
pub(super) mod token;
pub(super) mod token_update;

use super::command::{Call, Failure, Flag, Group};

pub(super) const ABOUT: &str =
    "Access control: tokens, the policies that say what they may, and how \
people and programs come by them.

    $ muster acl bootstrap
    $ muster acl policy create -name=web -rules=@web.hcl
    $ muster acl token create -description='web servers' -policy-name=web
    $ muster acl explain service:write web";

/// The groups below `acl`.
pub(super) const GROUPS: [&Group; 6] = [
    &Group {
        path: "acl auth-method",
        synopsis: "Methods to log in by",
        about: "Methods by which people and programs that another system knows come by tokens.

    $ muster acl auth-method list
    $ muster acl auth-method create -name=ci -type=jwt -config=@ci.json",
    },
    &Group {
        path: "acl binding-rule",
        synopsis: "Rules that bind logins to rights",
        about: "Which services, nodes or roles those get who log in by a method.

    $ muster acl binding-rule list -method=ci
    $ muster acl binding-rule create -method=ci -bind-type=role \\
                                     -bind-name=deploy",
    },
    &Group {
        path: "acl policy",
        synopsis: "Policies: sets of rules",
        about: "Policies are named sets of rules. Tokens and roles link to them.

    $ muster acl policy create -name=web -rules=@web.hcl
    $ muster acl policy read -name=web
    $ muster acl policy delete -name=web",
    },
    &Group {
        path: "acl role",
        synopsis: "Roles: sets of policies",
        about: "Roles are named sets of policies and identities. Tokens link to them.

    $ muster acl role create -name=deploy -policy-name=web
    $ muster acl role list",
    },
    &Group {
        path: "acl templated-policy",
        synopsis: "Policies made from templates",
        about: "Templates of policies that the servers bring along, with a name to fill in.

    $ muster acl templated-policy list
    $ muster acl templated-policy preview -name=builtin/service -var=name:web",
    },
    &Group {
        path: "acl token",
        synopsis: "Tokens: secrets that carry rights",
        about: "A token has a secret, which its holder sends with each request, and an accessor ID, which \
names it to everybody else.

    $ muster acl token create -description='web servers' -policy-name=web
    $ muster acl token list
    $ muster acl token delete -id=986193",
    },
];

const META_FLAG: Flag = Flag::switch("meta", "Also show hashes and indexes.");

/// How objects are to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shown {
    json: bool,
    meta: bool,
}

/// Reads `-format` and `-meta`, before anything is changed.
fn shown(call: &Call) -> Result<Shown, Failure> {
    let json = match call.values.text("format").unwrap_or("pretty") {
        "pretty" => false,
        "json" => true,
        other => return Err(Failure::new(format!("Unknown format: {other}"))),
    };
    Ok(Shown { json, meta: call.values.on("meta") })
}

/// A flag that is given and not empty.
fn given<'a>(call: &'a Call, flag: &str) -> Option<&'a str> {
    call.values.text(flag).filter(|text| !text.is_empty())
}

/// The text of a flag: itself, a file's content after `@`, the standard input for `-`. `what` begins the error.
fn content(text: &str, what: &str) -> Result<String, Failure> {
    let bytes = super::kv::data(text).map_err(|failure| {
        let why = failure.text.strip_prefix("Error! ").unwrap_or(&failure.text);
        Failure::new(format!("{what}: {why}"))
    })?;
    String::from_utf8(bytes).map_err(|_| Failure::new(format!("{what}: `{text}` is not UTF-8")))
}
