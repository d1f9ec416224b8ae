//! The machine this agent runs on, as far as the system tells every process.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::acl::{Access, Resource};
use crate::http::error::Error;
use crate::http::extract::Request;
use crate::http::handler::{Answer, later};
use crate::http::reply::Reply;

/// Memory, processors, system and disk.
pub(super) fn host(request: Request) -> Result<Answer, Error> {
    request.authorize(Resource::Operator, Access::Read)?;
    let layout = request.layout;
    let path = request.app.parts.local.settings().data_dir.clone().unwrap_or("/".into());
    drop(request);
    later(async move {
        let collected = tokio::task::spawn_blocking(move || {
            json!({
                "Memory": memory(&read("/proc/meminfo")),
                "CPU": processors(&read("/proc/cpuinfo")),
                "Host": system(),
                "Disk": disk(&path),
                "CollectionTime": now_ns(),
                "Errors": null,
            })
        })
        .await
        .map_err(|error| Error::refused(error.to_string()))?;
        Ok(Reply::json(&collected, layout))
    })
}

/// Reads a file of the system; empty if it cannot be read: another system, a container that hides it.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Bytes by the names of the reference.
fn memory(meminfo: &str) -> Value {
    let kib: BTreeMap<&str, u64> = meminfo
        .lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name, value.split_whitespace().next()?.parse().ok()?))
        })
        .collect();
    let bytes = |name: &str| kib.get(name).copied().unwrap_or(0) * 1024;
    let (total, free) = (bytes("MemTotal"), bytes("MemFree"));
    let cached = bytes("Cached") + bytes("SReclaimable");
    let used = total.saturating_sub(free + bytes("Buffers") + cached);
    json!({
        "total": total,
        "available": bytes("MemAvailable"),
        "used": used,
        "usedPercent": percent(used, total),
        "free": free,
        "active": bytes("Active"),
        "inactive": bytes("Inactive"),
        "wired": 0,
        "laundry": 0,
        "buffers": bytes("Buffers"),
        "cached": cached,
        "writeback": bytes("Writeback"),
        "dirty": bytes("Dirty"),
        "writebacktmp": bytes("WritebackTmp"),
        "shared": bytes("Shmem"),
        "slab": bytes("Slab"),
        "sreclaimable": bytes("SReclaimable"),
        "sunreclaim": bytes("SUnreclaim"),
        "pagetables": bytes("PageTables"),
        "swapcached": bytes("SwapCached"),
        "commitlimit": bytes("CommitLimit"),
        "committedas": bytes("Committed_AS"),
        "hightotal": bytes("HighTotal"),
        "highfree": bytes("HighFree"),
        "lowtotal": bytes("LowTotal"),
        "lowfree": bytes("LowFree"),
        "swaptotal": bytes("SwapTotal"),
        "swapfree": bytes("SwapFree"),
        "mapped": bytes("Mapped"),
        "vmalloctotal": bytes("VmallocTotal"),
        "vmallocused": bytes("VmallocUsed"),
        "vmallocchunk": bytes("VmallocChunk"),
        "hugepagestotal": bytes("HugePages_Total") / 1024,
        "hugepagesfree": bytes("HugePages_Free") / 1024,
        "hugepagesize": bytes("Hugepagesize"),
    })
}

fn processors(cpuinfo: &str) -> Vec<Value> {
    cpuinfo
        .split("\n\n")
        .map(|block| -> BTreeMap<&str, &str> {
            block
                .lines()
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.trim(), value.trim()))
                .collect()
        })
        .filter(|fields| fields.contains_key("processor"))
        .map(|fields| {
            let text = |name: &str| fields.get(name).copied().unwrap_or_default();
            let number = |name: &str| text(name).parse::<i64>().unwrap_or(0);
            let cache = text("cache size").split(' ').next().unwrap_or_default();
            json!({
                "cpu": number("processor"),
                "vendorId": text("vendor_id"),
                "family": text("cpu family"),
                "model": text("model"),
                "stepping": number("stepping"),
                "physicalId": text("physical id"),
                "coreId": text("core id"),
                "cores": 1,
                "modelName": text("model name"),
                "mhz": text("cpu MHz").parse::<f64>().unwrap_or(0.0),
                "cacheSize": cache.parse::<i64>().unwrap_or(0),
                "flags": text("flags").split_whitespace().collect::<Vec<_>>(),
                "microcode": text("microcode"),
            })
        })
        .collect()
}

fn system() -> Value {
    let release = read("/etc/os-release");
    let field = |name: &str| {
        release
            .lines()
            .filter_map(|line| line.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.trim_matches('"').to_owned())
            .unwrap_or_default()
    };
    let uptime = read("/proc/uptime");
    let uptime = uptime.split('.').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let processes = std::fs::read_dir("/proc").map_or(0, |entries| {
        entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
            .count()
    });
    json!({
        "hostname": read("/proc/sys/kernel/hostname").trim(),
        "uptime": uptime,
        "bootTime": (now_ns() / 1_000_000_000).saturating_sub(uptime),
        "procs": processes,
        "os": std::env::consts::OS,
        "platform": field("ID"),
        "platformFamily": field("ID"),
        "platformVersion": field("VERSION_ID"),
        "kernelVersion": read("/proc/sys/kernel/osrelease").trim(),
        "kernelArch": std::env::consts::ARCH,
        "virtualizationSystem": "",
        "virtualizationRole": "",
        "hostid": read("/etc/machine-id").trim(),
    })
}

fn disk(path: &std::path::Path) -> Value {
    let Ok(stat) = nix::sys::statvfs::statvfs(path) else {
        return json!({"path": path.to_string_lossy()});
    };
    let block = stat.fragment_size();
    let (total, free) = (stat.blocks() * block, stat.blocks_available() * block);
    let used = (stat.blocks() - stat.blocks_free()) * block;
    let (inodes, inodes_free) = (stat.files(), stat.files_free());
    let inodes_used = inodes.saturating_sub(inodes_free);
    json!({
        "path": path.to_string_lossy(),
        "fstype": "",
        "total": total,
        "free": free,
        "used": used,
        "usedPercent": percent(used, used + free),
        "inodesTotal": inodes,
        "inodesUsed": inodes_used,
        "inodesFree": inodes_free,
        "inodesUsedPercent": percent(inodes_used, inodes),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 }
}

#[expect(clippy::disallowed_methods, reason = "an interface tells its client the time")]
fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_s_files_are_read() {
        let read =
            memory("MemTotal:  100 kB\nMemFree:  20 kB\nBuffers: 10 kB\nCached: 30 kB\nodd\n");
        assert_eq!(read["total"], 102_400);
        assert_eq!(read["used"], 40_960);
        assert_eq!(read["usedPercent"], 40.0);
        let cpus = processors(
            "processor\t: 0\nmodel name\t: X\nflags\t: a b\ncache size\t: 512 KB\n\nprocessor\t: 1\n\n",
        );
        assert_eq!(cpus.len(), 2);
        assert_eq!(cpus[0]["flags"], json!(["a", "b"]));
        assert_eq!(cpus[0]["cacheSize"], 512);
        assert_eq!(memory("")["usedPercent"], 0.0);
    }
}
