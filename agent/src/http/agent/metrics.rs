//! Figures of this agent.

use serde_json::{Map, Value, json};

use crate::acl::{Access, Resource};
use crate::gossip::{Members, Pools};
use crate::http::Backend;
use crate::http::error::Error;
use crate::http::extract::{self, Request};
use crate::http::handler::{Answer, now};
use crate::http::time::date_and_time;
use crate::read::Reader;
use crate::sessions::Lifetimes;
use crate::telemetry::metrics::{self, Row};

/// Names begin so, as clients of the reference expect.
const PREFIX: &str = "consul";

/// All figures as they are now, as gauges.
pub(super) fn metrics(request: Request) -> Result<Answer, Error> {
    let parts = &request.app.parts;
    request.authorize(Resource::Agent(&parts.node_name), Access::Read)?;
    let wants_prometheus = request.params.get("format") == Some("prometheus")
        || extract::accepts(&request.headers, "application/openmetrics-text");
    if wants_prometheus {
        return Err(Error::Unsupported(
            "Prometheus is not enabled since its retention time is not positive".into(),
        ));
    }
    let (monitors, ttls) = parts.local.check_counts();
    let late = parts.local.check_late();
    let memory = Memory::now();
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks() as u64;
    let mut figures = vec![
        // Dashboards know these three: what the program holds, what the system gave it, what runs.
        ("runtime.alloc_bytes", memory.private),
        ("runtime.sys_bytes", memory.resident),
        ("runtime.num_goroutines", tasks),
        ("runtime.rss_bytes", memory.resident),
        ("runtime.num_tasks", tasks),
        ("agent.services", parts.local.services().len() as u64),
        ("agent.checks", parts.local.checks().len() as u64),
        ("agent.check_monitors", monitors as u64),
        ("agent.check_ttls", ttls as u64),
        ("agent.check_runs", late.runs),
        ("agent.check_late_median_ms", late.median.into()),
        ("agent.check_late_p99_ms", late.p99.into()),
        ("agent.check_late_max_ms", late.max.into()),
    ];
    figures.extend(of_pools(&parts.pools));
    if let Backend::Here { reader, lifetimes, .. } = &parts.backend {
        figures.extend(of_server(reader));
        figures.extend(of_leader(reader, lifetimes));
    }
    figures.sort_unstable();
    let shown =
        |(name, value)| json!({"Name": format!("{PREFIX}.{name}"), "Value": value, "Labels": {}});
    let gauges: Vec<Value> = figures.into_iter().map(shown).collect();
    let last = metrics::last();
    let rows = |rows: &[Row]| -> Vec<Value> {
        rows.iter().map(|row| figure(row, &parts.node_name)).collect()
    };
    now(request.json(&json!({
        "Timestamp": timestamp(last.begun),
        "Gauges": gauges,
        "Points": [],
        "Counters": rows(&last.counters),
        "Samples": rows(&last.timings),
    })))
}

/// A figure over an interval, in the reference's form.
fn figure(row: &Row, node: &str) -> Value {
    let mut labels: Map<String, Value> =
        row.labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    if row.of_node {
        labels.insert("node".into(), node.into());
    }
    json!({
        "Name": format!("{PREFIX}.{}", row.name),
        "Count": row.count,
        "Rate": row.rate(),
        "Sum": row.sum,
        "Min": row.min,
        "Max": row.max,
        "Mean": row.mean(),
        "Stddev": row.deviation(),
        "Labels": labels,
    })
}

/// Metrics of the leader.
fn of_leader(reader: &Reader, lifetimes: &Lifetimes) -> Vec<(&'static str, u64)> {
    let Some(assessment) = reader.consensus().assessment() else { return Vec::new() };
    vec![
        ("autopilot.failure_tolerance", assessment.failure_tolerance as u64),
        ("autopilot.healthy", u64::from(assessment.healthy)),
        ("session_ttl.active", lifetimes.active() as u64),
    ]
}

/// Metrics of gossip, summed over all pools.
fn of_pools(pools: &Pools) -> [(&'static str, u64); 13] {
    let mut all = of_pool(pools.own());
    for pool in &pools.each()[1..] {
        for ((name, sum), (_, figure)) in all.iter_mut().zip(of_pool(pool)) {
            // It is no count: the agent is as well as it is where it does worst.
            *sum = if *name == HEALTH { figure.max(*sum) } else { *sum + figure };
        }
    }
    all
}

/// Metric of the health score; 0 is best.
const HEALTH: &str = "memberlist.health.score";

/// Metrics of one pool.
fn of_pool(members: &Members) -> [(&'static str, u64); 13] {
    let (stats, vitals) = (members.stats(), members.vitals());
    let ((heard, said), (heard_bytes, said_bytes)) = (stats.datagrams(), stats.bytes());
    let counters = vitals.counters;
    [
        ("memberlist.udp.received_packets", heard),
        ("memberlist.udp.sent_packets", said),
        ("memberlist.udp.received", heard_bytes),
        ("memberlist.udp.sent", said_bytes),
        ("memberlist.dropped", stats.dropped()),
        (HEALTH, vitals.health_score.into()),
        ("memberlist.probes", counters.probes),
        ("memberlist.probes_indirect", counters.probes_indirect),
        ("memberlist.suspicions", counters.suspicions),
        ("memberlist.refutations", counters.refutations),
        ("memberlist.failures", counters.failures),
        ("serf.queue.Event", vitals.updates as u64),
        ("serf.members", members.live() as u64),
    ]
}

/// Metrics of a server.
fn of_server(reader: &Reader) -> [(&'static str, u64); 15] {
    let consensus = reader.consensus();
    let store = consensus.store();
    let catalog = store.catalog();
    let reads = reader.counts();
    [
        ("raft.applied_index", consensus.applied()),
        ("raft.index", store.index()),
        ("raft.leader", u64::from(consensus.is_leader())),
        ("catalog.nodes", catalog.node_count() as u64),
        ("catalog.services", catalog.service_count() as u64),
        ("catalog.instances", catalog.instance_count() as u64),
        ("catalog.checks", catalog.check_count() as u64),
        ("kv.keys", store.kv().len() as u64),
        ("sessions", store.sessions().len() as u64),
        ("read.evaluations", reads.evaluations),
        ("read.shared", reads.shared),
        ("read.waits", reads.waits),
        ("read.wakes", reads.wakes),
        ("read.waiting", reads.waiting),
        ("rpc.queries_blocking", reads.waiting),
    ]
}

/// Memory of this process that is not swapped out, in bytes.
#[derive(Default)]
struct Memory {
    resident: u64,
    /// Of it, what no file stands behind and nobody else shares.
    private: u64,
}

impl Memory {
    fn now() -> Memory {
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
        let page = page.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096);
        let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        Memory::of_pages(&text, page).unwrap_or_default()
    }

    fn of_pages(text: &str, page: u64) -> Option<Memory> {
        let mut pages = text.split_whitespace().skip(1).map(str::parse::<u64>);
        let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
        Some(Memory { resident: resident * page, private: resident.saturating_sub(shared) * page })
    }
}

/// A time in the form of the reference's metrics.
fn timestamp(seconds: u64) -> String {
    let (date, time) = date_and_time(seconds);
    format!("{date} {time} +0000 UTC")
}
