//! How many durable changes a lone server takes a second.
//!
//! `propose [seconds] [proposers] [wal|sled|memory] [value bytes] [keys of each proposer]`; the
//! folder is made under `$TMPDIR`. First line: the disk alone, one `fdatasync` after the other into
//! a zero-filled file. Last line: what is on disk afterwards, and how long the next start takes.

#![expect(
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "its figures are what it is for; none needs 52 bits"
)]

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use muster_agent::raft::{Consensus, LogBackend, Settings};
use muster_agent::store::{Change, KvChange, KvVerb};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let seconds: u64 = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let proposers: u64 = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let kind = arguments.next().unwrap_or_else(|| "wal".to_owned());
    let bytes: usize = arguments.next().map_or(Ok(64), |text| text.parse())?;

    let keys: u64 = arguments.next().map_or(Ok(1000), |text| text.parse())?;

    let folder = std::env::temp_dir().join(format!("muster-propose-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let flushes = bare_flushes(&folder.join("flush"))?;
    println!("bare fdatasync: {flushes:.0}/s");

    let started = Instant::now();
    let settings = Settings {
        data_dir: (kind != "memory").then(|| folder.clone()),
        node_id: "6f9a3c1e-0000-4000-8000-000000000001".to_owned(),
        node_name: "bench".to_owned(),
        address: "127.0.0.1:8300".to_owned(),
        log_backend: if kind == "sled" { LogBackend::Sled } else { LogBackend::Wal },
        raft_multiplier: 1,
        snapshot_threshold: 16_384,
        trailing_logs: 10_240,
        autopilot: muster_agent::store::Autopilot::default(),
    };
    let consensus = Consensus::start(settings.clone()).await?;
    println!("start: {:.1} ms", started.elapsed().as_secs_f64() * 1e3);

    let done = Arc::new(AtomicU64::new(0));
    let value = bytes::Bytes::from(vec![b'x'; bytes]);
    let until = Instant::now() + Duration::from_secs(seconds);
    let cpu = cpu_seconds();
    let tasks: Vec<_> = (0..proposers)
        .map(|proposer| {
            let (consensus, done, value) = (consensus.clone(), Arc::clone(&done), value.clone());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                let mut count = 0_u64;
                while Instant::now() < until {
                    let begun = Instant::now();
                    let change = Change::Kv(KvChange {
                        verb: KvVerb::Set,
                        key: format!("bench/{proposer}/{}", count % keys),
                        value: value.clone(),
                        flags: 0,
                    });
                    consensus.propose(change).await?;
                    latencies.push(begun.elapsed());
                    count += 1;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(latencies)
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    latencies.sort();
    let count = latencies.len();
    let per_second = count as f64 / seconds as f64;
    println!(
        "{kind}, {proposers} proposers, {bytes} bytes: {per_second:.0}/s ({:.2} a flush of the bare disk), p50 {:?}, p99 {:?}, {:.1} us CPU each",
        per_second / flushes,
        latencies[count / 2],
        latencies[count * 99 / 100],
        (cpu_seconds() - cpu) / count as f64 * 1e6,
    );
    consensus.shutdown().await;
    if kind != "memory" {
        drop(consensus);
        let (started, cpu) = (Instant::now(), cpu_seconds());
        let again = Consensus::start(settings).await?;
        let (elapsed, cpu) = (started.elapsed(), cpu_seconds() - cpu);
        let mut state = std::io::sink();
        let mut counted = Counted { inner: &mut state, bytes: 0 };
        muster_agent::store::snapshot::write(&again.store(), &mut counted)?;
        println!(
            "restart to ready: {:.0} ms, {:.0} ms CPU; state {} KiB, log {} KiB, snapshots {} KiB",
            elapsed.as_secs_f64() * 1e3,
            cpu * 1e3,
            counted.bytes >> 10,
            bytes_in(&folder.join("raft").join(&kind))? >> 10,
            bytes_in(&folder.join("raft/snapshots"))? >> 10,
        );
        again.shutdown().await;
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

struct Counted<'a, W> {
    inner: &'a mut W,
    bytes: usize,
}

impl<W: std::io::Write> std::io::Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes += bytes.len();
        self.inner.write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

fn bytes_in(folder: &std::path::Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for file in std::fs::read_dir(folder)? {
        bytes += file?.metadata()?.len();
    }
    Ok(bytes)
}

/// One small write and flush after the other.
fn bare_flushes(path: &std::path::Path) -> anyhow::Result<f64> {
    const BYTES: usize = 4 << 20;
    let file = std::fs::File::create(path)?;
    file.write_all_at(&vec![0; BYTES], 0)?;
    file.sync_all()?;
    let (started, mut count) = (Instant::now(), 0_u64);
    while started.elapsed() < Duration::from_secs(1) {
        file.write_all_at(&[1; 256], count * 256 % BYTES as u64)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

/// What this process has used so far.
fn cpu_seconds() -> f64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
    usage.map_or(0.0, |usage| {
        let seconds =
            |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        seconds(usage.user_time()) + seconds(usage.system_time())
    })
}
