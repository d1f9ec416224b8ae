//! `catalog datacenters`, `catalog nodes`, `catalog services`.

use std::collections::{BTreeMap, BTreeSet};

use muster_client::types::Node;
use muster_client::{Error, ReadOptions, ServiceQuery};

use super::command::{
    Call, CommonFlags, FORMAT_FLAG, Failure, Flag, Outcome, Output, Spec, rows_of, wait,
};
use super::layout::{columns, document, objects};

pub(super) const ABOUT: &str = "What all agents of a datacenter have registered.

    $ muster catalog datacenters
    $ muster catalog nodes -service=web
    $ muster catalog services -tags";

pub(super) static DATACENTERS: Spec = Spec {
    path: "catalog datacenters",
    synopsis: "Lists the datacenters",
    operands: "",
    about: "Prints the name of every known datacenter, nearest first.",
    flags: &[FORMAT_FLAG],
    common_flags: CommonFlags::StaleApi,
    run: datacenters,
};

pub(super) static NODES: Spec = Spec {
    path: "catalog nodes",
    synopsis: "Lists the nodes",
    operands: "",
    about: "Prints the nodes of a datacenter, or those that run a service.

    $ muster catalog nodes
    $ muster catalog nodes -detailed -node-meta=rack=7
    $ muster catalog nodes -service=web -near=_agent
    $ muster catalog nodes -filter='Meta.rack != 7'",
    flags: &[
        Flag::switch("detailed", "Print whole ids, further addresses and meta too."),
        Flag::text("filter", "expression", "Only rows for which this expression holds."),
        FORMAT_FLAG,
        Flag::text("near", "node", "Nearest to this node first; `_agent` is the agent asked."),
        Flag::texts("node-meta", "key=value", "Only nodes with this pair."),
        Flag::text("service", "name", "Only nodes that run this service, once for each instance."),
    ],
    common_flags: CommonFlags::StaleApi,
    run: nodes,
};

pub(super) static SERVICES: Spec = Spec {
    path: "catalog services",
    synopsis: "Lists the services",
    operands: "",
    about: "Prints the names of the services in a datacenter, or of those on one node.

    $ muster catalog services -tags
    $ muster catalog services -node=n1",
    flags: &[
        FORMAT_FLAG,
        Flag::text("node", "name", "Only services on this node."),
        Flag::texts("node-meta", "key=value", "Only services on nodes with this pair."),
        Flag::switch("tags", "Print each service's tags too."),
    ],
    common_flags: CommonFlags::StaleApi,
    run: services,
};

fn datacenters(call: &Call) -> Outcome {
    call.no_operands()?;
    let json = call.json()?;
    let names = wait(call.client()?.catalog().datacenters())?
        .map_err(|error| call.failed("Error listing datacenters", &error))?;
    if json {
        return Ok(document(&names).into());
    }
    Ok(names.iter().fold(String::new(), |text, name| text + name + "\n").into())
}

/// Pairs given as `key=value`.
pub(super) fn pairs(call: &Call, flag: &str) -> Result<Vec<(String, String)>, Failure> {
    let split = |text: &String| match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Failure::new(format!(
            "invalid value {text:?} for flag -{flag}: Missing \"=\" value in argument: {text}"
        ))),
    };
    call.values.all(flag).iter().map(split).collect()
}

fn nodes(call: &Call) -> Outcome {
    call.no_operands()?;
    let text = |name: &str| call.values.text(name).filter(|text| !text.is_empty());
    let options = ReadOptions {
        near: text("near").map(str::to_owned),
        filter: text("filter").map(str::to_owned),
        node_meta: pairs(call, "node-meta")?,
        ..call.options()
    };
    let catalog = call.client()?.catalog();
    let found = wait(async {
        let Some(service) = text("service") else {
            return Ok(rows_of(catalog.nodes(&options).await?));
        };
        let found = catalog.service(service, &ServiceQuery::default(), &options).await?;
        Ok(rows_of(found)
            .into_iter()
            .map(|row| Node {
                id: row.id,
                node: row.node,
                address: row.address,
                datacenter: row.datacenter,
                tagged_addresses: row.tagged_addresses,
                meta: row.node_meta,
                create_index: row.create_index,
                modify_index: row.modify_index,
            })
            .collect())
    })?;
    let found = found.map_err(|error: Error| call.failed("Error listing nodes", &error))?;
    if found.is_empty() && !call.json()? {
        return Ok(nothing("nodes"));
    }
    call.table(&node_rows(&found, call.values.on("detailed")), 2)
}

fn node_rows(nodes: &[Node], detailed: bool) -> Vec<Vec<String>> {
    let mut head = vec!["Node", "ID", "Address", "DC"];
    if detailed {
        head.extend(["TaggedAddresses", "Meta"]);
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    let listed = |pairs: &BTreeMap<String, String>| {
        pairs.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", ")
    };
    for node in nodes {
        let id = if detailed { node.id.clone() } else { node.id.chars().take(8).collect() };
        let mut row = vec![node.node.clone(), id, node.address.clone(), node.datacenter.clone()];
        if detailed {
            row.extend([listed(&node.tagged_addresses), listed(&node.meta)]);
        }
        rows.push(row);
    }
    rows
}

fn services(call: &Call) -> Outcome {
    call.no_operands()?;
    let options = ReadOptions { node_meta: pairs(call, "node-meta")?, ..call.options() };
    let catalog = call.client()?.catalog();
    let node = call.values.text("node").filter(|node| !node.is_empty());
    let found = wait(async {
        let Some(node) = node else {
            return Ok(rows_of(catalog.services(&options).await?));
        };
        let mut tags: BTreeMap<String, Vec<String>> = BTreeMap::new();
        if let Some(found) = rows_of(catalog.node(node, &options).await?) {
            for service in found.services.into_values() {
                tags.entry(service.service).or_default().extend(service.tags);
            }
        }
        Ok(tags)
    })?;
    let found = found.map_err(|error: Error| {
        let what = if node.is_some() {
            "Error listing services for node"
        } else {
            "Error listing services"
        };
        call.failed(what, &error)
    })?;
    if call.json()? {
        let heading = vec!["Service".to_owned(), "Tags".to_owned()];
        let row = |(name, tags): (String, Vec<String>)| vec![name, tags.join(",")];
        let rows: Vec<_> = std::iter::once(heading).chain(found.into_iter().map(row)).collect();
        return Ok(objects(&rows).into());
    }
    if found.is_empty() {
        return Ok(nothing("services"));
    }
    let rows: Vec<Vec<String>> = found
        .into_iter()
        .map(|(name, tags)| {
            if call.values.on("tags") {
                let tags: BTreeSet<String> = tags.into_iter().collect();
                vec![name, tags.into_iter().collect::<Vec<_>>().join(",")]
            } else {
                vec![name]
            }
        })
        .collect();
    // Without any tag there is no second column, and so nothing to fill up to it.
    let bare = rows.iter().all(|row| row.get(1).is_none_or(String::is_empty));
    Ok(columns(&rows, if bare { 0 } else { 6 }).into())
}

fn nothing(what: &str) -> Output {
    let stderr = format!("No {what} match the given query - try expanding your search.\n");
    Output { stderr, ..Output::default() }
}
