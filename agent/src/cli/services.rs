//! `services register` and `services deregister`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use muster_client::types::{ServiceAddress, ServiceDefinition};
use serde_json::Value;

use super::catalog::pairs;
use super::command::{Call, CommonFlags, Failure, Flag, Outcome, Output, Spec, wait};
use crate::config;

pub(super) const ABOUT: &str = "Registers services with the agent, which keeps them in the \
catalog for as long as it runs.

    $ muster services register web.json
    $ muster services register -name=web -port=80
    $ muster services deregister -id=web";

pub(super) static REGISTER: Spec = Spec {
    path: "services register",
    synopsis: "Registers services with the agent",
    operands: "[FILE...]",
    about: "Registers the services that configuration files define, or one that flags describe. \
A service that is there already is changed.

    $ muster services register web.json
    $ muster services register -name=web -port=80 -tag=v2 -meta=team=shop",
    flags: &[
        Flag::text("address", "address", "Where it listens, if not at the agent's address."),
        Flag::text("id", "id", "Its id, if not its name."),
        Flag::text("kind", "kind", "Kept for scripts; only the empty kind is supported."),
        Flag::texts("meta", "key=value", "A pair to keep with it."),
        Flag::text("name", "name", "Its name."),
        Flag::signed("port", "Its port."),
        Flag::texts("tag", "tag", "A tag."),
        Flag::texts(
            "tagged-address",
            "name=address[:port]",
            "A further address, such as wan=203.0.113.5:80.",
        ),
    ],
    common_flags: CommonFlags::Api,
    run: register,
};

pub(super) static DEREGISTER: Spec = Spec {
    path: "services deregister",
    synopsis: "Removes services from the agent",
    operands: "[FILE...]",
    about: "Removes a service with its checks from the agent, by id or by the files that defined \
it. One that is not there is fine.

    $ muster services deregister -id=web
    $ muster services deregister web.json",
    flags: &[Flag::text("id", "id", "The service's id.")],
    common_flags: CommonFlags::Api,
    run: deregister,
};

/// The services that the operands define, as written.
fn definitions(call: &Call) -> Result<Vec<Value>, Failure> {
    config::service_definitions(&files(call))
        .map_err(|error| Failure::new(format!("Error: {error}")))
}

fn files(call: &Call) -> Vec<PathBuf> {
    call.operands.iter().map(PathBuf::from).collect()
}

/// A field of a definition as written, whose names are not particular about case.
fn field<'a>(definition: &'a Value, name: &str) -> Option<&'a str> {
    let fields = definition.as_object()?;
    let (_, value) = fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    value.as_str().filter(|text| !text.is_empty())
}

fn register(call: &Call) -> Outcome {
    let name = call.values.text("name").filter(|name| !name.is_empty());
    let definitions = match (call.operands.is_empty(), name) {
        (true, None) => {
            return Err(Failure::new(
                "Service registration requires at least one argument or flags.",
            ));
        }
        (false, Some(_)) => {
            return Err(Failure::new("Service registration requires arguments or -id, not both."));
        }
        (true, Some(name)) => vec![from_flags(call, name)?],
        // In the words of the API, which has other names for some keys of files.
        (false, None) => config::services(&files(call))
            .map_err(|error| Failure::new(format!("Error: {error}")))?,
    };
    let agent = call.client()?.agent();
    each(definitions, |mut definition| {
        let agent = &agent;
        for check in definition.check.iter_mut().chain(&mut definition.checks) {
            // It can only be the service that it stands in.
            check.service_id = None;
        }
        async move {
            let name = &definition.name;
            match agent.register_service(&definition, false).await {
                Ok(()) => Ok(format!("Registered service: {name}\n")),
                Err(error) => {
                    Err(call.failed(&format!("Error registering service {name:?}"), &error))
                }
            }
        }
    })
}

fn deregister(call: &Call) -> Outcome {
    let id = call.values.text("id").filter(|id| !id.is_empty());
    let ids = match (call.operands.is_empty(), id) {
        (true, None) => {
            return Err(Failure::new(
                "Service deregistration requires at least one argument or -id.",
            ));
        }
        (false, Some(_)) => {
            return Err(Failure::new(
                "Service deregistration requires arguments or -id, not both.",
            ));
        }
        (true, Some(id)) => vec![id.to_owned()],
        (false, None) => definitions(call)?
            .iter()
            .filter_map(|definition| field(definition, "id").or_else(|| field(definition, "name")))
            .map(str::to_owned)
            .collect(),
    };
    let agent = call.client()?.agent();
    each(ids, |id| {
        let agent = &agent;
        async move {
            match agent.deregister_service(&id).await {
                Ok(()) => Ok(format!("Deregistered service: {id}\n")),
                Err(error) => {
                    Err(call.failed(&format!("Error deregistering service {id:?}"), &error))
                }
            }
        }
    })
}

/// Does something for each until one fails, and says what was done before.
fn each<T, F>(items: Vec<T>, mut act: impl FnMut(T) -> F) -> Outcome
where
    F: Future<Output = Result<String, Failure>>,
{
    let mut done = String::new();
    let outcome = wait(async {
        for item in items {
            done.push_str(&act(item).await?);
        }
        Ok(())
    })?;
    match outcome {
        Ok(()) => Ok(Output::from(done)),
        Err(failure) => Err(Failure { stdout: done.into_bytes(), ..failure }),
    }
}

fn from_flags(call: &Call, name: &str) -> Result<ServiceDefinition, Failure> {
    let values = &call.values;
    let text = |flag: &str| values.text(flag).unwrap_or_default().to_owned();
    if !text("kind").is_empty() {
        return Err(Failure::new("-kind: services of the mesh are not supported"));
    }
    let mut tagged_addresses = BTreeMap::new();
    for (tag, address) in pairs(call, "tagged-address")? {
        tagged_addresses.insert(tag, tagged_address(&address)?);
    }
    Ok(ServiceDefinition {
        id: Some(text("id")).filter(|id| !id.is_empty()),
        name: name.to_owned(),
        tags: values.all("tag").to_vec(),
        address: text("address"),
        tagged_addresses,
        meta: pairs(call, "meta")?.into_iter().collect(),
        port: values.signed("port").unwrap_or(0),
        ..ServiceDefinition::default()
    })
}

/// `address` or `address:port`; an IPv6 address with a port stands in brackets.
fn tagged_address(text: &str) -> Result<ServiceAddress, Failure> {
    let (address, port) = match text.rsplit_once(':') {
        Some((address, port)) if !address.contains(':') || address.ends_with(']') => {
            let number = port.parse().map_err(|_| {
                Failure::new(format!("-tagged-address: `{port}` in `{text}` is not a number"))
            })?;
            (address, number)
        }
        _ => (text, 0),
    };
    let address = address.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(ServiceAddress { address, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tagged_addresses() {
        let rows = [
            ("1.2.3.4:80", Some(("1.2.3.4", 80))),
            ("1.2.3.4", Some(("1.2.3.4", 0))),
            ("[::1]:80", Some(("::1", 80))),
            ("::1", Some(("::1", 0))),
            ("[::1]", Some(("::1", 0))),
            ("h:99999", Some(("h", 99999))),
            ("h:-1", Some(("h", -1))),
            ("h:", None),
        ];
        for (text, expected) in rows {
            let found = tagged_address(text).ok();
            let found = found.as_ref().map(|a| (a.address.as_str(), a.port));
            assert_eq!(found, expected, "{text}");
        }
    }
}
