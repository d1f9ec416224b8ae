//! `members`.

use muster_client::types::{Member, MemberStatus};
use regex::Regex;

use super::command::{
    Call, CommonFlags, FORMAT_FLAG, Failure, Flag, Outcome, Output, Spec, rows_of, wait,
};

pub(super) static MEMBERS: Spec = Spec {
    path: "members",
    synopsis: "Lists the members of the cluster",
    operands: "",
    about: "Prints the members of the gossip pool as the agent knows them. Exits with 2 when \
-status leaves none.

    $ muster members
    $ muster members -status='left|failed'
    $ muster members -wan",
    flags: &[
        Flag::switch("detailed", "Print every member's tags instead of the usual columns."),
        FORMAT_FLAG,
        Flag::text("segment", "name", "Only members of this network segment."),
        Flag::text("status", "regexp", "Only members whose status matches, all by default."),
        Flag::switch("wan", "The servers of all datacenters instead of the agent's own pool."),
    ],
    common_flags: CommonFlags::Api,
    run: members,
};

fn members(call: &Call) -> Outcome {
    let values = &call.values;
    let pattern = values.text("status").unwrap_or(".*");
    let wanted = Regex::new(pattern).map_err(|error| {
        let picture = error.to_string();
        let last = picture.lines().last().unwrap_or_default();
        Failure::new(format!("Failed to compile status regexp: {last}"))
    })?;
    let mut query = Vec::new();
    if values.on("wan") {
        query.push(("wan", "1".to_owned()));
    } else {
        query.push(("segment", values.text("segment").unwrap_or("_all").to_owned()));
    }
    let client = call.client()?;
    let found = wait(client.rows::<Vec<Member>>("/v1/agent/members", query, &call.options()))?
        .map_err(|error| call.failed("Error retrieving members", &error))?;
    let mut members = rows_of(found);
    let everywhere = values.text("segment").is_none_or(|segment| segment == "_all");
    for member in &mut members {
        name_segment(member, everywhere);
    }
    members.retain(|member| wanted.is_match(status(member)));
    if members.is_empty() {
        return Ok(Output { code: 2, ..Output::default() });
    }
    members.sort_by(|a, b| (tag(a, "segment"), &a.name).cmp(&(tag(b, "segment"), &b.name)));
    let rows = if values.on("detailed") { detailed(&members) } else { usual(&members) };
    call.table(&rows, 2)
}

/// Servers are in all segments, which is of interest when all are looked at; who names none is in the
/// default segment.
fn name_segment(member: &mut Member, everywhere: bool) {
    let is_server = tag(member, "role") == "consul";
    let segment = member.tags.entry("segment".to_owned()).or_default();
    if everywhere && is_server {
        "<all>".clone_into(segment);
    } else if segment.is_empty() {
        segment.push_str("<default>");
    }
}

fn tag<'a>(member: &'a Member, name: &str) -> &'a str {
    member.tags.get(name).map_or("", String::as_str)
}

/// The word for how a member is.
pub(super) fn status(member: &Member) -> &'static str {
    match member.status() {
        MemberStatus::None => "none",
        MemberStatus::Alive => "alive",
        MemberStatus::Leaving => "leaving",
        MemberStatus::Left => "left",
        MemberStatus::Failed => "failed",
    }
}

fn address(member: &Member) -> String {
    if member.addr.contains(':') {
        format!("[{}]:{}", member.addr, member.port)
    } else {
        format!("{}:{}", member.addr, member.port)
    }
}

fn usual(members: &[Member]) -> Vec<Vec<String>> {
    let mut rows =
        vec![row(["Node", "Address", "Status", "Type", "Build", "Protocol", "DC", "Segment"])];
    for member in members {
        // A build is `1.2.3:revision`.
        let build = tag(member, "build").split(':').next().unwrap_or_default();
        let (kind, protocol) = match tag(member, "role") {
            "consul" => ("server", tag(member, "vsn")),
            "node" => ("client", tag(member, "vsn")),
            _ => ("unknown", ""),
        };
        let address = address(member);
        rows.push(row([
            &member.name,
            &address,
            status(member),
            kind,
            build,
            protocol,
            tag(member, "dc"),
            tag(member, "segment"),
        ]));
    }
    rows
}

fn detailed(members: &[Member]) -> Vec<Vec<String>> {
    let mut rows = vec![row(["Node", "Address", "Status", "Tags"])];
    for member in members {
        let tags: Vec<_> = member.tags.iter().map(|(k, v)| format!("{k}={v}")).collect();
        rows.push(row([&member.name, &address(member), status(member), &tags.join(",")]));
    }
    rows
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}
