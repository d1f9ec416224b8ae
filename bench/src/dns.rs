//! Questions by UDP: how many a second, at what cost, how many lost; and how old answers are while
//! the catalog changes all the time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::net::UdpSocket;

use crate::scenario::{Figure, figure, registration};
use crate::server::Server;
use crate::wire::{Connection, request};

/// Sockets that ask, and questions of each that are under way.
const SOCKETS: usize = 8;
const UNDER_WAY: usize = 8;
/// An answer that is not there by then is lost.
const PATIENCE: Duration = Duration::from_secs(2);
/// Instances of the service that is asked for.
const INSTANCES: usize = 10;

/// A question with EDNS for 1232 bytes.
fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).unwrap_or(0));
        out.extend(label.as_bytes());
    }
    out.push(0);
    out.extend(kind.to_be_bytes());
    out.extend([0, 1]);
    out.extend([0, 0, 41, 0x04, 0xD0, 0, 0, 0, 0, 0, 0]);
    out
}

/// Half addresses of a service, a quarter places, a quarter nodes.
fn mix(id: u16) -> Vec<u8> {
    match id % 4 {
        0 | 1 => question(id, "web.service.consul", 1),
        2 => question(id, "web.service.consul", 33),
        _ => question(id, "node-1.node.consul", 1),
    }
}

struct Load {
    answered: usize,
    lost: usize,
    elapsed: Duration,
}

/// Keeps so many questions under way on each socket until all were asked.
async fn load(to: SocketAddr, total: usize) -> Result<Load> {
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..SOCKETS {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        socket.connect(to).await?;
        tasks.spawn(async move { asker(&socket, total / SOCKETS).await });
    }
    let (mut answered, mut lost) = (0, 0);
    while let Some(done) = tasks.join_next().await {
        let done: (usize, usize) = done??;
        answered += done.0;
        lost += done.1;
    }
    Ok(Load { answered, lost, elapsed: began.elapsed() })
}

async fn asker(socket: &UdpSocket, total: usize) -> Result<(usize, usize)> {
    let (mut asked, mut answered) = (0_usize, 0_usize);
    let mut buffer = [0; 4096];
    while asked < UNDER_WAY.min(total) {
        socket.send(&mix(u16::try_from(asked)?)).await?;
        asked += 1;
    }
    while answered < asked {
        match tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await {
            Err(_) => break,
            Ok(length) => {
                let verdict = buffer[3] & 0xF;
                ensure!(length? > 12 && verdict == 0, "an answer says that it failed");
                answered += 1;
            }
        }
        if asked < total {
            socket.send(&mix(u16::try_from(asked % 60_000)?)).await?;
            asked += 1;
        }
    }
    Ok((answered, total - answered))
}

async fn fill(server: &Server) -> Result<()> {
    let mut connection = Connection::open(&server.address).await?;
    for n in 0..INSTANCES {
        let answer = connection.call(&registration("web", n, "ok")).await?;
        ensure!(answer.status == 200, "a registration was refused");
    }
    Ok(())
}

/// Rate, cost, losses.
pub(crate) async fn rate(server: &Server, scale: f64) -> Result<Vec<Figure>> {
    fill(server).await?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive scale")]
    let total = ((200_000.0 * scale) as usize).max(1000);
    load(server.dns, total / 10).await?;
    let cpu = server.cpu()?;
    let load = load(server.dns, total).await?;
    let cpu = server.cpu()?.saturating_sub(cpu).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let (answered, lost) = (load.answered as f64, load.lost as f64);
    Ok(vec![
        figure("rate", "1/s", answered / load.elapsed.as_secs_f64(), true),
        figure("server cpu", "us", cpu * 1e6 / answered, false),
        figure("lost", "", lost, false),
    ])
}

/// One instance moves from port to port as fast as the catalog takes it, at most 1,000 times a
/// second; meanwhile others ask where it is. How long does an answer say what is not so any more?
pub(crate) async fn age(server: &Server, scale: f64) -> Result<Vec<Figure>> {
    fill(server).await?;
    let mut writer = Connection::open(&server.address).await?;
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(server.dns).await?;
    let (mut ended, mut oldest) = (HashMap::<u16, Instant>::new(), Duration::ZERO);
    let began = Instant::now();
    let (mut changes, mut answers) = (0_u16, 0_u32);
    let mut buffer = [0; 4096];
    let time = Duration::from_secs_f64((5.0 * scale).clamp(1.0, 20.0));
    let ask = question(7, "moving.service.consul", 33);
    while began.elapsed() < time && changes < 40_000 {
        let port = 10_000 + changes;
        let body = serde_json::json!({
            "Node": "mover", "Address": "10.0.0.1",
            "Service": {"ID": "moving", "Service": "moving", "Port": port},
        });
        let put = request("PUT", "/v1/catalog/register", body.to_string().as_bytes());
        ensure!(writer.call(&put).await?.status == 200, "a change was refused");
        // From now on the port before is wrong.
        if changes > 0 {
            ended.insert(port - 1, Instant::now());
        }
        changes += 1;
        for _ in 0..2 {
            socket.send(&ask).await?;
            let length = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await??;
            let asked = Instant::now();
            // The port stands behind the question, a jump, type, class, TTL, length and two numbers.
            let at = ask.len() - 11 + 2 + 10 + 4;
            ensure!(length > at + 2, "an answer without a place");
            let told = u16::from_be_bytes([buffer[at], buffer[at + 1]]);
            if let Some(end) = ended.get(&told) {
                oldest = oldest.max(asked - *end);
            }
            answers += 1;
        }
        let due = began + Duration::from_millis(u64::from(changes));
        tokio::time::sleep_until(due.into()).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(vec![
        figure("changes", "1/s", f64::from(changes) / seconds, true),
        figure("answers meanwhile", "1/s", f64::from(answers) / seconds, true),
        figure("oldest wrong answer", "ms", oldest.as_secs_f64() * 1e3, false),
    ])
}
