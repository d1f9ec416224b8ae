//! Ids by their first characters, links, identities: what flags say of them.

use muster_client::types::{
    AclLink, AclPolicy, AclRole, AclToken, BindingRule, NodeIdentity, ServiceIdentity,
    TemplateVariables, TemplatedPolicy,
};
use muster_client::{AclObject, Client, Error};

use super::super::command::{Call, Failure, rows_of};
use super::super::layout::chain;

/// The token that requests without a token have.
const ANONYMOUS: &str = "00000000-0000-0000-0000-000000000002";
/// Characters of a whole id.
const ID_CHARACTERS: usize = 36;

/// An id by which an object can be found, and the name of its kind in texts.
pub(super) trait Prefixed: AclObject {
    const KIND: &'static str;
}

impl Prefixed for AclToken {
    const KIND: &'static str = "token";
}
impl Prefixed for AclPolicy {
    const KIND: &'static str = "policy";
}
impl Prefixed for AclRole {
    const KIND: &'static str = "role";
}
impl Prefixed for BindingRule {
    const KIND: &'static str = "rule";
}

/// An id that cannot be told from its first characters.
pub(super) enum Unresolved {
    Failed(Error),
    None(String),
    Several(&'static str),
}

impl Unresolved {
    /// The failure of the command; `what` begins its text if there is any.
    pub(super) fn failure(self, call: &Call, what: &str) -> Failure {
        let text = match self {
            Unresolved::Failed(error) if what.is_empty() => {
                let text = chain(&error);
                return Failure { text, ..call.failed(what, &error) };
            }
            Unresolved::Failed(error) => return call.failed(what, &error),
            Unresolved::None(text) => text,
            Unresolved::Several(kind) => format!("Partial {kind} ID is not unique"),
        };
        Failure::new(if what.is_empty() { text } else { format!("{what}: {text}") })
    }
}

/// The id that begins with these characters, if only one does.
pub(super) async fn whole<T: Prefixed>(
    client: &Client,
    call: &Call,
    part: &str,
) -> Result<String, Unresolved> {
    if part.len() == ID_CHARACTERS {
        return Ok(part.to_owned());
    }
    if T::KIND == AclToken::KIND && part == "anonymous" {
        return Ok(ANONYMOUS.to_owned());
    }
    let all = client.acl().list::<T>(vec![], &call.options()).await.map_err(Unresolved::Failed)?;
    let mut found = rows_of(all).into_iter().filter(|object| object.id().starts_with(part));
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only.id().to_owned()),
        (Some(_), Some(_)) => Err(Unresolved::Several(T::KIND)),
        (None, _) => Err(Unresolved::None(format!("No such {} ID with prefix: {part}", T::KIND))),
    }
}

/// The id of the policy or role that has this name.
pub(super) async fn named<T: Prefixed>(
    client: &Client,
    call: &Call,
    name: &str,
    name_of: fn(&T) -> &str,
) -> Result<String, Unresolved> {
    let all = client.acl().list::<T>(vec![], &call.options()).await.map_err(Unresolved::Failed)?;
    let found = rows_of(all).into_iter().find(|object| name_of(object) == name);
    found
        .map(|object| object.id().to_owned())
        .ok_or_else(|| Unresolved::None(format!("No such {} with name {name}", T::KIND)))
}

/// The links that flags name: by names first, then by ids. Ids may be given by their first characters.
pub(super) async fn links<T: Prefixed>(
    client: &Client,
    call: &Call,
    names: &[String],
    ids: &[String],
) -> Result<Vec<AclLink>, Failure> {
    let mut links: Vec<_> =
        names.iter().map(|name| AclLink { name: name.clone(), ..AclLink::default() }).collect();
    for part in ids {
        let id = whole::<T>(client, call, part).await.map_err(|unresolved| {
            unresolved.failure(call, &format!("Error resolving {} ID ", T::KIND))
        })?;
        links.push(AclLink { id, ..AclLink::default() });
    }
    Ok(links)
}

/// Adds the links that are not there yet.
pub(super) fn merge_links(links: &mut Vec<AclLink>, new: Vec<AclLink>) {
    for link in new {
        let same = |known: &AclLink| {
            if link.id.is_empty() { known.name == link.name } else { known.id == link.id }
        };
        if !links.iter().any(same) {
            links.push(link);
        }
    }
}

/// Identities of services, as `web` or `web:dc1,dc2`.
pub(super) fn services(texts: &[String]) -> Result<Vec<ServiceIdentity>, Failure> {
    let parse = |text: &String| match text.split(':').collect::<Vec<_>>()[..] {
        [name] => Ok(ServiceIdentity { service_name: name.to_owned(), datacenters: Vec::new() }),
        [name, datacenters] => Ok(ServiceIdentity {
            service_name: name.to_owned(),
            datacenters: datacenters.split(',').map(str::to_owned).collect(),
        }),
        _ => Err(Failure::new(format!("Malformed -service-identity argument: {text:?}"))
            .or_hint("write `web`, or `web:dc1,dc2` for some datacenters only".to_owned())),
    };
    texts.iter().map(parse).collect()
}

/// Puts identities of services in the place of those for the same services, or adds them.
pub(super) fn merge_services(identities: &mut Vec<ServiceIdentity>, new: Vec<ServiceIdentity>) {
    for identity in new {
        match identities.iter_mut().find(|known| known.service_name == identity.service_name) {
            Some(known) => *known = identity,
            None => identities.push(identity),
        }
    }
}

/// Identities of nodes, as `n1:dc1`.
pub(super) fn nodes(texts: &[String]) -> Result<Vec<NodeIdentity>, Failure> {
    let parse = |text: &String| match text.split(':').collect::<Vec<_>>()[..] {
        [node, datacenter] => {
            Ok(NodeIdentity { node_name: node.to_owned(), datacenter: datacenter.to_owned() })
        }
        _ => Err(Failure::new(format!("Malformed -node-identity argument: {text:?}"))
            .or_hint("write the node and its datacenter, as `n1:dc1`".to_owned())),
    };
    texts.iter().map(parse).collect()
}

/// Adds the identities of nodes that are not there yet.
pub(super) fn merge_nodes(identities: &mut Vec<NodeIdentity>, new: Vec<NodeIdentity>) {
    for identity in new {
        if !identities.contains(&identity) {
            identities.push(identity);
        }
    }
}

/// The templated policy that a flag names, with the values of `-var`.
pub(super) fn templated(call: &Call, flag: &str) -> Result<Vec<TemplatedPolicy>, Failure> {
    let Some(name) = super::given(call, flag) else { return Ok(Vec::new()) };
    Ok(vec![TemplatedPolicy {
        template_name: name.to_owned(),
        template_variables: TemplateVariables { name: variable(call)? },
        datacenters: Vec::new(),
    }])
}

/// The value of the variable `name`, the only one that templates have.
pub(super) fn variable(call: &Call) -> Result<String, Failure> {
    let mut value = String::new();
    for text in call.values.all("var") {
        match text.split_once(':') {
            Some(("name", text)) => text.clone_into(&mut value),
            Some((other, _)) => {
                return Err(Failure::new(format!("templates have no variable `{other}`"))
                    .or_hint("their only variable is `name`, as in -var=name:web".to_owned()));
            }
            None => {
                return Err(Failure::new(format!("Malformed -var argument: {text:?}"))
                    .or_hint("write the name and the value, as in -var=name:web".to_owned()));
            }
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn identities_are_read() {
        let found = services(&texts(&["web", "db:dc1,dc2", ""])).expect("well formed");
        let datacenters: Vec<_> = found.iter().map(|one| one.datacenters.len()).collect();
        assert_eq!(datacenters, [0, 2, 0]);
        for bad in ["web:a:b", "::"] {
            assert!(services(&texts(&[bad])).is_err(), "{bad}");
        }
        assert_eq!(nodes(&texts(&["n1:dc1"])).expect("well formed")[0].datacenter, "dc1");
        for bad in ["", "n1", "n1:dc1:x"] {
            assert!(nodes(&texts(&[bad])).is_err(), "{bad}");
        }
    }

    #[test]
    fn merging_replaces_what_is_named_and_keeps_the_rest() {
        let link = |id: &str, name: &str| AclLink { id: id.to_owned(), name: name.to_owned() };
        let mut links = vec![link("1", "a"), link("2", "b")];
        merge_links(&mut links, vec![link("", "a"), link("2", ""), link("", "c"), link("3", "")]);
        assert_eq!(links, [link("1", "a"), link("2", "b"), link("", "c"), link("3", "")]);
        let mut found = services(&texts(&["web:dc1", "db"])).expect("well formed");
        merge_services(&mut found, services(&texts(&["web", "api"])).expect("well formed"));
        assert_eq!(found, services(&texts(&["web", "db", "api"])).expect("well formed"));
        let mut found = nodes(&texts(&["n1:dc1"])).expect("well formed");
        merge_nodes(&mut found, nodes(&texts(&["n1:dc1", "n1:dc2"])).expect("well formed"));
        assert_eq!(found, nodes(&texts(&["n1:dc1", "n1:dc2"])).expect("well formed"));
    }
}
