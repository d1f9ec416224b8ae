//! `operator recover`: brings back a cluster whose majority is gone.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::cli::command::{Call, CommonFlags, Failure, Flag, Outcome, Spec};
use crate::raft::recover::{Folder, FolderContent, Plan, Wanted};
use crate::raft::types::{Server, ServerId};

pub(in crate::cli) static RECOVER: Spec = Spec {
    path: "operator recover",
    synopsis: "Brings back a cluster whose majority is gone",
    operands: "",
    about: "Makes the servers that are left a cluster again, when more than half of them are lost \
for good. It works on the data directory of a server that does not run.

Servers that only moved need none of this: they are known by their IDs and find each other at new \
addresses by themselves.

Stop the servers that are left. Look at each with -dry-run, and choose the one with the highest \
term, and among those with the highest index. Recover that one alone, start it, and let the others \
join anew with empty data directories:

    $ muster operator recover -data-dir=/var/lib/muster -dry-run
    $ muster operator recover -data-dir=/var/lib/muster

Or recover several, each with the same list of all that are to take part:

    $ muster operator recover -data-dir=/var/lib/muster \\
        -server=ID1 -server=ID2=10.0.0.2:8300

A server that stops with an entry of its log that it cannot read, written by a newer version or by a \
faulty one, names that entry. Run the version that wrote it, or give up the change in it:

    $ muster operator recover -data-dir=/var/lib/muster -skip-entry=1234

Everything else that the server's log holds is kept, also what no majority confirmed. What only the \
lost servers knew is lost. The result is a cluster with an ID of its own: lost servers that come \
back cannot disturb it, and must be emptied before they can join.",
    flags: &[
        Flag::text("data-dir", "path", "The data directory of the server. Required."),
        Flag::switch("dry-run", "Only say what the directory holds and what would be done."),
        Flag::texts(
            "server",
            "id[=ip:port]",
            "A server that is to take part; several times for several. The address is needed only \
             for servers that were unknown. By default this server alone.",
        ),
        Flag::texts(
            "skip-entry",
            "index",
            "An entry of the log to leave out, which this version cannot read; several times for \
             several.",
        ),
    ],
    common_flags: CommonFlags::None,
    run: recover,
};

fn recover(call: &Call) -> Outcome {
    call.no_operands()?;
    let failed = |text: String| Failure::new(format!("Error recovering: {text}"));
    let data_dir: PathBuf = match call.values.text("data-dir") {
        Some(path) if !path.is_empty() => path.into(),
        _ => return Err(call.misused("Must specify -data-dir: the directory of a stopped server")),
    };
    let me = node_id(&data_dir).map_err(failed)?;
    let mut wanted = Vec::new();
    for text in call.values.all("server") {
        let (id, address) = match text.split_once('=') {
            Some((id, address)) => (id, Some(address.to_owned())),
            None => (text.as_str(), None),
        };
        let id = id
            .parse::<ServerId>()
            .map_err(|_| failed(format!("-server={text}: {id:?} is not the ID of a server")))?;
        if let Some(address) = &address
            && address.parse::<std::net::SocketAddr>().is_err()
        {
            return Err(failed(format!("-server={text}: {address:?} is not an IP and a port")));
        }
        wanted.push(Wanted { id, address, voter: true });
    }
    if wanted.is_empty() {
        wanted.push(Wanted { id: me, address: None, voter: true });
    } else if !wanted.iter().any(|server| server.id == me) {
        return Err(failed(format!(
            "the server of this directory, {me}, is not among those that are to take part"
        )));
    }
    let dry = call.values.on("dry-run");
    let io = |error: std::io::Error| {
        let hint = (error.kind() == std::io::ErrorKind::ResourceBusy)
            .then(|| "stop the agent first: nobody else may write there".to_owned());
        failed(error.to_string()).or_hint(hint)
    };
    let mut skipped = Vec::new();
    for text in call.values.all("skip-entry") {
        let index = text.parse::<u64>();
        let wrong = |_| failed(format!("-skip-entry={text}: {text:?} is not an entry's index"));
        skipped.push(index.map_err(wrong)?);
    }
    let folder = Folder::open(&data_dir).and_then(|it| it.skipping(&skipped)).map_err(io)?;
    let plan = folder.recover(me, &wanted, dry).map_err(io)?;
    let mut text = explain(&data_dir, me, &plan, dry);
    for index in skipped {
        let verb = if dry { "would be left out" } else { "was left out" };
        let _ = writeln!(text, "Entry {index} {verb}.");
    }
    Ok(text.into())
}

fn node_id(data_dir: &Path) -> Result<ServerId, String> {
    let path = data_dir.join("node-id");
    let text = std::fs::read_to_string(&path).map_err(|error| {
        format!("cannot read {}: {error}; is it the data directory of a server?", path.display())
    })?;
    text.trim().parse().map_err(|_| format!("{} does not hold a UUID", path.display()))
}

fn explain(data_dir: &Path, me: ServerId, plan: &Plan, dry: bool) -> String {
    let FolderContent { last: (term, index), servers, counts, .. } = &plan.kept;
    let mut text = format!(
        "{} of server {me} holds everything up to term {term}, index {index}:\n   {} keys, {} \
         nodes, {} instances of services, {} sessions\nThe servers were:\n",
        data_dir.display(),
        counts.keys,
        counts.nodes,
        counts.instances,
        counts.sessions,
    );
    list(&mut text, servers);
    text.push_str(if dry { "They would be:\n" } else { "They are now:\n" });
    list(&mut text, &plan.servers);
    if plan.kept.cluster == Some(plan.cluster) {
        let _ = writeln!(text, "The cluster's ID stays {}.", plan.cluster);
    } else {
        let verb = if dry { "would become" } else { "is now" };
        let _ = writeln!(text, "The cluster's ID {verb} {}.", plan.cluster);
    }
    let gone: Vec<&str> = servers
        .iter()
        .filter(|(id, ..)| !plan.servers.iter().any(|(kept, ..)| kept == id))
        .map(|(_, server, _)| server.name.as_str())
        .collect();
    if !gone.is_empty() {
        let _ = writeln!(
            text,
            "{} must never start again with the data they have; emptied, they can join.",
            gone.join(", ")
        );
    }
    text.push_str(if dry {
        "Nothing was changed.\n"
    } else if plan.servers.len() > 1 {
        "Do the same on the other servers, then start them.\n"
    } else {
        "Start the server; the others can join it.\n"
    });
    text
}

fn list(text: &mut String, servers: &[(ServerId, Server, bool)]) {
    for (id, server, voter) in servers {
        let kind = if *voter { "votes" } else { "listens" };
        let _ = writeln!(text, "   {id}  {}  {}  {kind}", server.name, server.address);
    }
}
