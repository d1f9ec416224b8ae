//! The same work on etcd, where its binary is on the path: what it has a word for, by its HTTP and JSON
//! gateway. That gateway costs etcd more than gRPC would; its ratios are the least exact ones here.

use std::path::Path;

use anyhow::Result;

use crate::scenario::{Figure, figure, figures, load, scaled};
use crate::server::{Server, free_ports};
use crate::watchers::{per_watcher, until_all_told};
use crate::wire::{Connection, request};

/// The work of this name on a fresh etcd; `None` if it has no word for it.
pub(crate) async fn run(name: &str, binary: &Path, scale: f64) -> Result<Option<Vec<Figure>>> {
    Ok(Some(match name {
        "start" => {
            let server = start(binary).await?;
            vec![figure("to first write", "ms", server.ready_after.as_secs_f64() * 1e3, false)]
        }
        "kv-get" => kv_get(&start(binary).await?, scale).await?,
        "kv-put" => kv_put(&start(binary).await?, scale).await?,
        "fanout-key-1000" => fanout(&start(binary).await?, 1_000).await?,
        "fanout-key-5000" => fanout(&start(binary).await?, 5_000).await?,
        "memory-kv" => memory_kv(&start(binary).await?, scale).await?,
        _ => return Ok(None),
    }))
}

async fn start(binary: &Path) -> Result<Server> {
    let ports = free_ports(2)?;
    let client = format!("http://127.0.0.1:{}", ports[0]);
    let peer = format!("http://127.0.0.1:{}", ports[1]);
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data").display().to_string();
    let cluster = format!("bench={peer}");
    let mut command = std::process::Command::new(binary);
    command.args(["--name", "bench", "--log-level", "error"]);
    command.args(["--data-dir", &data, "--initial-cluster", &cluster]);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    Server::launch(command, ports[0], None, dir, &put("bench/ready", b"yes")).await
}

fn put(key: &str, value: &[u8]) -> Vec<u8> {
    let body = format!(r#"{{"key":"{}","value":"{}"}}"#, base64(key.as_bytes()), base64(value));
    request("POST", "/v3/kv/put", body.as_bytes())
}

async fn kv_get(server: &Server, scale: f64) -> Result<Vec<Figure>> {
    let key = base64(b"bench/key");
    Connection::open(&server.address).await?.call(&put("bench/key", &[b'v'; 100])).await?;
    let mut out = Vec::new();
    // What etcd does when nothing is said is what is called consistent here.
    for (what, own_state) in [("default", false), ("stale", true), ("consistent", false)] {
        let body = format!(r#"{{"key":"{key}","serializable":{own_state}}}"#);
        let get = request("POST", "/v3/kv/range", body.as_bytes());
        let load = load(server, 32, scaled(100_000, scale), move |_| get.clone()).await?;
        out.extend(figures(what, &load));
    }
    Ok(out)
}

async fn kv_put(server: &Server, scale: f64) -> Result<Vec<Figure>> {
    let make = |n: usize| put(&format!("bench/{n}"), &[b'v'; 100]);
    let many = load(server, 64, scaled(60_000, scale), make).await?;
    let one = load(server, 1, scaled(5_000, scale), make).await?;
    let mut out = figures("64 conns", &many);
    out.extend(figures("1 conn", &one));
    Ok(out)
}

async fn memory_kv(server: &Server, scale: f64) -> Result<Vec<Figure>> {
    let before = server.resident()?;
    let total = scaled(100_000, scale);
    load(server, 64, total, |n| put(&format!("bench/{n}"), &[b'v'; 100])).await?;
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let per_key = server.resident()?.saturating_sub(before) as f64 / total as f64;
    Ok(vec![figure("a key", "B", per_key, false)])
}

/// Watches stay open here: each change is one more piece of an answer that never ends.
async fn fanout(server: &Server, watchers: usize) -> Result<Vec<Figure>> {
    let mut writer = Connection::open(&server.address).await?;
    let body = format!(r#"{{"create_request":{{"key":"{}"}}}}"#, base64(b"bench/key"));
    let watch = request("POST", "/v3/watch", body.as_bytes());
    let before = server.resident()?;
    let mut parked = Vec::new();
    for _ in 0..watchers {
        let mut connection = Connection::open(&server.address).await?;
        connection.send(&watch).await?;
        connection.begin_pieces().await?;
        connection.piece().await?; // "created"
        parked.push(connection);
    }
    let each = per_watcher(server, before, watchers)?;
    let mut last = Vec::new();
    for round in 1..=5 {
        let write = put("bench/key", round.to_string().as_bytes());
        let (latest, _) =
            until_all_told(&mut writer, &write, &mut parked, async |it| it.piece().await).await?;
        last.push(latest);
    }
    last.sort_unstable();
    Ok(vec![
        figure("last answer, median of 5", "ms", last[2].as_secs_f64() * 1e3, false),
        figure("memory a watcher, new connection", "KiB", each, false),
    ])
}

/// The gateway's keys and values; a dozen lines rather than a dependency of a load generator.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let byte = |at: usize| u32::from(part.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            let shown = if digit <= part.len() { DIGITS[value as usize] } else { b'=' };
            out.push(char::from(shown));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn keys_are_written_as_the_gateway_reads_them() {
        for (text, expected) in
            [("", ""), ("a", "YQ=="), ("ab", "YWI="), ("abc", "YWJj"), ("bench/?>", "YmVuY2gvPz4=")]
        {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }
}
