//! `explain`: why each instance of a service is served, or is not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use muster_client::types::{CheckTimes, HealthCheck, ServiceEntry};
use muster_client::{ReadOptions, ServiceQuery};
use serde_json::{Value, json};

use super::command::{Call, CommonFlags, FORMAT_FLAG, Failure, Flag, Outcome, Spec, rows_of, wait};
use super::{help, layout};
use crate::spelling::printable;

pub(super) static EXPLAIN: Spec = Spec {
    path: "explain",
    synopsis: "Says why instances of a service are served or not",
    operands: "NAME",
    about: "Prints every instance of a service, whether it is served over HTTP (with ?passing) and over DNS, \
and the check, rule or filter that decides, with the last output of every check that does not pass. Of checks of \
the agent that is asked it says when they last ran, and since when they are as they are. Exits with 1 when no instance is served by either.

    $ muster explain web
    $ muster explain -tag=v2 -filter='Service.Meta.zone == a' web",
    flags: &[
        Flag::text("filter", "expression", "The filter that the caller uses, to see what it leaves."),
        FORMAT_FLAG,
        Flag::texts("tag", "tag", "The tag that the caller asks for."),
    ],
    common_flags: CommonFlags::StaleApi,
    run: explain,
};

/// Decision about an instance at one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    served: bool,
    why: String,
}

/// Settings that decide beside the instance itself.
struct Rules {
    /// DNS leaves instances with warnings out, too.
    only_passing: bool,
    /// The name can be asked for by DNS.
    dns_name: bool,
    /// Instances that the filter leaves, as node and id; `None` without a filter.
    left: Option<BTreeSet<(String, String)>>,
    tags: Vec<String>,
}

/// When checks were last heard of, as far as the agent that is asked knows.
#[derive(Default)]
struct Known {
    /// Its node.
    node: String,
    times: BTreeMap<String, CheckTimes>,
}

/// Lines of a check's output that are shown, and letters of each.
const LINES_MAX: usize = 10;
const LETTERS_MAX: usize = 200;

fn explain(call: &Call) -> Outcome {
    let [name] = call.operands.as_slice() else {
        return Err(call.misused("A single service name must be given."));
    };
    let client = call.client()?;
    let tags = call.values.all("tag").to_vec();
    let filter = call.values.text("filter").filter(|text| !text.is_empty()).map(str::to_owned);
    let options = call.options();
    let failed = |error| call.failed("Error querying {} agent", &error);
    let (mut entries, left, about, times, known) = wait(async {
        let all = ServiceQuery::default();
        let entries = rows_of(client.health().service(name, &all, &options).await?);
        let left = match filter {
            None => None,
            Some(filter) => {
                let options = ReadOptions { filter: Some(filter), ..options.clone() };
                let left = client.health().service(name, &all, &options).await?.value;
                Some(left.iter().map(identity).collect())
            }
        };
        let about = client.agent().self_().await?;
        // Only an addition: without it the rest is still worth saying.
        let times = client.agent().check_times().await.unwrap_or_default();
        let known = if entries.is_empty() {
            client.catalog().services(&options).await?.value.into_keys().collect()
        } else {
            Vec::new()
        };
        Ok((entries, left, about, times, known))
    })?
    .map_err(failed)?;
    if entries.is_empty() {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        return Err(Failure::new(format!("There is no service {name:?} in the catalog"))
            .or_hint(help::similar(name, &known)));
    }
    let heard =
        Known { node: about["Config"]["NodeName"].as_str().unwrap_or_default().to_owned(), times };
    heard.complete(&mut entries);
    let rules = Rules {
        only_passing: about["DebugConfig"]["DNSOnlyPassing"].as_bool().unwrap_or(false),
        dns_name: name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'),
        left,
        tags,
    };
    let rows: Vec<(&ServiceEntry, Verdict, Verdict)> = entries
        .iter()
        .map(|entry| (entry, over_http(entry, &rules), over_dns(entry, &rules)))
        .collect();
    let none = rows.iter().all(|(_, http, dns)| !http.served && !dns.served);
    let text = if call.json()? { as_json(&rows, &heard) } else { as_text(name, &rows, &heard) };
    let mut output = super::command::Output::from(text);
    output.code = u8::from(none);
    Ok(output)
}

fn identity(entry: &ServiceEntry) -> (String, String) {
    (entry.node.node.clone(), entry.service.id.clone())
}

/// Reasons that exclude an instance at every interface.
fn asked_for(entry: &ServiceEntry, rules: &Rules) -> Result<(), String> {
    let has = |tag: &String| entry.service.tags.iter().any(|own| own.eq_ignore_ascii_case(tag));
    if let Some(tag) = rules.tags.iter().find(|tag| !has(tag)) {
        return Err(format!("it has no tag {tag:?}"));
    }
    if rules.left.as_ref().is_some_and(|left| !left.contains(&identity(entry))) {
        return Err("the filter does not hold for it".to_owned());
    }
    Ok(())
}

fn over_http(entry: &ServiceEntry, rules: &Rules) -> Verdict {
    decide(entry, rules, |check| check.status == "passing", "every check passes")
}

fn over_dns(entry: &ServiceEntry, rules: &Rules) -> Verdict {
    if !rules.dns_name {
        let why = "the service's name has characters that names in DNS have not".to_owned();
        return Verdict { served: false, why };
    }
    if rules.only_passing {
        let why = "every check passes (dns_config.only_passing)";
        decide(entry, rules, |check| check.status == "passing", why)
    } else {
        decide(entry, rules, |check| check.status != "critical", "no check is critical")
    }
}

fn decide(
    entry: &ServiceEntry,
    rules: &Rules,
    holds: impl Fn(&HealthCheck) -> bool,
    otherwise: &str,
) -> Verdict {
    if let Err(why) = asked_for(entry, rules) {
        return Verdict { served: false, why };
    }
    match entry.checks.iter().find(|check| !holds(check)) {
        Some(check) => Verdict { served: false, why: reason(check) },
        None if entry.checks.is_empty() => {
            Verdict { served: true, why: "it has no checks".to_owned() }
        }
        None => Verdict { served: true, why: otherwise.to_owned() },
    }
}

/// A check that decides, in words.
fn reason(check: &HealthCheck) -> String {
    let whose = if check.service_id.is_empty() { "the node's" } else { "its" };
    let what = match check.check_id.as_str() {
        "serfHealth" => "the node does not answer its cluster".to_owned(),
        "_node_maintenance" => format!("the node is in maintenance: {}", check.notes),
        id if id.starts_with("_service_maintenance:") => {
            format!("it is in maintenance: {}", check.notes)
        }
        id => format!("{whose} check {id:?} is {}", check.status),
    };
    match check.output.lines().find(|line| !line.trim().is_empty()) {
        Some(line) => format!("{what}: {}", line.trim()),
        None => what.trim_end_matches(": ").to_owned(),
    }
}

fn address(entry: &ServiceEntry) -> String {
    let (own, node) = (&entry.service.address, &entry.node.address);
    let host = if own.is_empty() { node } else { own };
    if host.contains(':') {
        format!("[{host}]:{}", entry.service.port)
    } else {
        format!("{host}:{}", entry.service.port)
    }
}

impl Known {
    /// When a check of an instance was last heard of.
    fn times(&self, entry: &ServiceEntry, check: &HealthCheck) -> Option<&CheckTimes> {
        let here = entry.node.node.eq_ignore_ascii_case(&self.node);
        self.times.get(&check.check_id).filter(|_| here)
    }

    /// Gives checks of the agent that is asked the outputs that it has: the catalog may lag behind.
    fn complete(&self, entries: &mut [ServiceEntry]) {
        for entry in entries {
            let outputs: Vec<Option<String>> = (entry.checks.iter())
                .map(|check| self.times(entry, check).and_then(|times| times.output.clone()))
                .collect();
            for (check, output) in entry.checks.iter_mut().zip(outputs) {
                check.output = output.unwrap_or_else(|| std::mem::take(&mut check.output));
            }
        }
    }

    /// The checks of an instance that do not pass: since when, when they last ran, and what they said.
    fn describe(&self, entry: &ServiceEntry, text: &mut String) {
        for check in entry.checks.iter().filter(|check| check.status != "passing") {
            let times = self.times(entry, check);
            let when = times.filter(|times| !times.last_run.is_empty()).map(|times| {
                let since = match times.since.as_str() {
                    // It has its first status: nobody noted since when.
                    "" => String::new(),
                    since => format!(" since {since}"),
                };
                format!("{since}, last run {}", times.last_run)
            });
            if when.is_none() && check.output.trim().is_empty() {
                continue;
            }
            let (id, status) = (&check.check_id, &check.status);
            let _ = writeln!(text, "    check {id:?} {status}{}", when.unwrap_or_default());
            let lines = check.output.lines().filter(|line| !line.trim().is_empty());
            for line in lines.take(LINES_MAX) {
                let shown: String = line.trim_end().chars().take(LETTERS_MAX).collect();
                let _ = writeln!(text, "        {}", printable(&shown));
            }
        }
    }
}

fn as_text(name: &str, rows: &[(&ServiceEntry, Verdict, Verdict)], heard: &Known) -> String {
    let mut text = String::new();
    for (entry, http, dns) in rows {
        let headline = format!("{} on {} at {}", entry.service.id, entry.node.node, address(entry));
        let _ = writeln!(text, "{}", printable(&headline));
        for (common_flags, verdict) in [("HTTP", http), ("DNS", dns)] {
            let word = if verdict.served { "served" } else { "not served" };
            let word = layout::colored(word, verdict.served);
            let _ = writeln!(text, "    {common_flags:<5} {word}: {}", printable(&verdict.why));
        }
        heard.describe(entry, &mut text);
    }
    let count = |served: fn(&(&ServiceEntry, Verdict, Verdict)) -> bool| {
        rows.iter().filter(|row| served(row)).count()
    };
    let (http, dns) = (count(|row| row.1.served), count(|row| row.2.served));
    let name = printable(name);
    let _ =
        writeln!(text, "{name}: {} instances, {http} served over HTTP, {dns} over DNS", rows.len());
    text
}

fn as_json(rows: &[(&ServiceEntry, Verdict, Verdict)], heard: &Known) -> String {
    let rows: Vec<Value> = rows
        .iter()
        .map(|(entry, http, dns)| {
            let verdict = |it: &Verdict| json!({"Served": it.served, "Why": it.why});
            let failing = entry.checks.iter().filter(|check| check.status != "passing");
            let checks: Vec<Value> = failing
                .map(|check| {
                    let times = heard.times(entry, check).cloned().unwrap_or_default();
                    json!({"CheckID": check.check_id, "Status": check.status,
                           "Output": check.output, "LastRun": times.last_run,
                           "Since": times.since})
                })
                .collect();
            json!({"Checks": checks, "ID": entry.service.id, "Node": entry.node.node, "Address": address(entry),
                   "HTTP": verdict(http), "DNS": verdict(dns)})
        })
        .collect();
    layout::indent(&Value::Array(rows).to_string(), "    ") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(checks: &[(&str, &str, &str)]) -> ServiceEntry {
        let mut entry = ServiceEntry::default();
        entry.service.id = "web-1".to_owned();
        entry.service.tags = vec!["v2".to_owned()];
        entry.node.node = "n1".to_owned();
        entry.checks = checks
            .iter()
            .map(|(id, service, status)| HealthCheck {
                check_id: (*id).to_owned(),
                service_id: (*service).to_owned(),
                status: (*status).to_owned(),
                ..HealthCheck::default()
            })
            .collect();
        entry
    }

    fn rules() -> Rules {
        Rules { only_passing: false, dns_name: true, left: None, tags: Vec::new() }
    }

    #[test]
    fn the_check_that_decides_is_named() {
        let warning = entry(&[("serfHealth", "", "passing"), ("c", "web-1", "warning")]);
        assert_eq!(over_http(&warning, &rules()).why, "its check \"c\" is warning");
        assert!(over_dns(&warning, &rules()).served);
        let strict = Rules { only_passing: true, ..rules() };
        assert!(!over_dns(&warning, &strict).served);
        let dead = entry(&[("serfHealth", "", "critical")]);
        assert_eq!(over_dns(&dead, &rules()).why, "the node does not answer its cluster");
        assert_eq!(over_http(&entry(&[]), &rules()).why, "it has no checks");
    }

    #[test]
    fn what_checks_said_and_when_is_told() {
        let mut entry = entry(&[("c", "web-1", "critical"), ("d", "web-1", "passing")]);
        entry.checks[0].output = "dial tcp: refused\n\n\u{1b}[31msecond".to_owned();
        let times = |since: &str| CheckTimes {
            last_run: "LAST".into(),
            since: since.into(),
            output: Some("now".into()),
        };
        let known = |node: &str, since: &str| Known {
            node: node.to_owned(),
            times: BTreeMap::from([("c".to_owned(), times(since))]),
        };
        let told = |node: &str, since: &str| {
            let known = known(node, since);
            let mut text = String::new();
            known.describe(&entry, &mut text);
            text
        };
        let output = "        dial tcp: refused\n        \\u{1b}[31msecond\n";
        let first = "    check \"c\" critical since THEN, last run LAST\n";
        assert_eq!(told("N1", "THEN"), format!("{first}{output}"));
        let first = "    check \"c\" critical, last run LAST\n";
        assert_eq!(told("n1", ""), format!("{first}{output}"));
        // Another agent's checks have the same names.
        assert_eq!(told("n2", "THEN"), format!("    check \"c\" critical\n{output}"));
        // The catalog's output may be older than the agent's.
        for (node, output) in [("N1", "now"), ("n2", &*entry.checks[0].output)] {
            let mut entries = [entry.clone()];
            known(node, "").complete(&mut entries);
            assert_eq!(entries[0].checks[0].output, output);
        }
    }

    #[test]
    fn names_and_addresses_do_not_steer_the_terminal() {
        let mut entry = entry(&[("_node_maintenance", "", "critical")]);
        entry.service.id = "i\nd".to_owned();
        entry.service.address = "\u{1b}[2J".to_owned();
        entry.checks[0].notes = "a\rb".to_owned();
        let verdict = over_http(&entry, &rules());
        let rows = [(&entry, verdict.clone(), verdict)];
        let text = as_text("we\u{7}b", &rows, &Known::default());
        assert!(text.starts_with("i\\nd on n1 at \\u{1b}[2J:0\n"), "{text}");
        assert!(
            text.contains("maintenance: a\\rb\n") && text.contains("we\\u{7}b: 1 inst"),
            "{text}"
        );
        assert!(text.lines().all(|line| !line.contains(char::is_control)), "{text}");
    }

    #[test]
    fn tags_names_and_filters_decide_as_well() {
        let fine = entry(&[("c", "web-1", "passing")]);
        let tagged = Rules { tags: vec!["V2".to_owned()], ..rules() };
        assert!(over_http(&fine, &tagged).served);
        let other = Rules { tags: vec!["v3".to_owned()], ..rules() };
        assert_eq!(over_http(&fine, &other).why, "it has no tag \"v3\"");
        let filtered = Rules { left: Some(BTreeSet::new()), ..rules() };
        assert_eq!(over_dns(&fine, &filtered).why, "the filter does not hold for it");
        let odd = Rules { dns_name: false, ..rules() };
        assert!(over_http(&fine, &odd).served && !over_dns(&fine, &odd).served);
    }
}
