//! A load of GETs and POSTs whose failures can be told apart.
//!
//! Four kinds of client take turns, each its own thread: GET and POST, each on fresh and on reused connections. Every
//! POST must get its own body back. What counts as failed: any status but 200, a wrong body, no connection, a broken
//! answer, or a connection that ends before the answer. With one exception, counted apart: a *reused* connection that
//! the proxy closed between two requests. A proxy that replaces its workers (nginx does so at each reload) closes idle
//! connections, a request can cross with that, and HTTP asks the client to send it again on a new connection, where it
//! must then succeed (RFC 9110, 9.2.2 and RFC 9112, 9.3.1).

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{
    http::{Connection, Fault, Reply},
    wait::{eventually, pause},
};

/// Failures kept for the report; more of them add nothing.
const SAMPLES_MAX: usize = 20;

/// How hard to press.
#[derive(Debug, Clone, Copy)]
pub struct Pressure {
    /// Clients of each of the four kinds.
    pub clients: usize,
    /// Pause of a client between two requests.
    pub pace: Duration,
}

/// What happened.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests that ended, well or not.
    pub requests: u64,
    /// Of these, the ones on a connection that had carried an answer before.
    pub reused: u64,
    /// Of these, the ones that failed.
    pub failed: u64,
    /// Reused connections that the proxy closed between two requests, whose request then went well on a new one.
    pub closed_between: u64,
    /// Answers by instance.
    pub instances: BTreeMap<String, u64>,
    /// The slowest request.
    pub slowest: Duration,
    /// The first failures, in words, with the time since the load began.
    pub samples: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.reused += other.reused;
        self.failed += other.failed;
        self.closed_between += other.closed_between;
        for (name, count) in other.instances {
            *self.instances.entry(name).or_default() += count;
        }
        self.slowest = self.slowest.max(other.slowest);
        self.samples.extend(other.samples);
        self.samples.truncate(SAMPLES_MAX);
    }

    /// One line for the report.
    pub fn summary(&self) -> String {
        format!(
            "{} requests, {} on reused connections, {} failed, {} idle connections closed by the proxy, slowest {:?}",
            self.requests, self.reused, self.failed, self.closed_between, self.slowest
        )
    }

    /// # Errors
    /// When a request failed: the first failures.
    pub fn ensure_flawless(&self) -> Result<()> {
        ensure!(self.failed == 0, "{}\n{}", self.summary(), self.samples.join("\n"));
        Ok(())
    }
}

/// A load under way. Dropped, it stops.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Tally>>,
}

#[derive(Debug)]
struct Shared {
    address: String,
    begin: Instant,
    stop: AtomicBool,
    requests: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Method {
    Get,
    Post,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Keep {
    Fresh,
    Reused,
}

impl Load {
    /// Starts to press on `address`, host and port.
    pub fn start(address: &str, pressure: Pressure) -> Self {
        let shared = Arc::new(Shared {
            address: address.to_owned(),
            begin: Instant::now(),
            stop: AtomicBool::new(false),
            requests: AtomicU64::new(0),
        });
        let kinds = [
            (Method::Get, Keep::Fresh),
            (Method::Get, Keep::Reused),
            (Method::Post, Keep::Fresh),
            (Method::Post, Keep::Reused),
        ];
        let clients = (0..pressure.clients)
            .flat_map(|_| kinds)
            .map(|(method, keep)| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || press(&shared, method, keep, pressure.pace))
            })
            .collect();
        Self { shared, clients }
    }

    /// Returns once `count` more requests have ended.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub fn wait_for(&self, count: u64, limit: Duration) -> Result<()> {
        let from = self.shared.requests.load(Ordering::Relaxed);
        eventually(limit, &format!("{count} more requests"), || {
            let done = self.shared.requests.load(Ordering::Relaxed) - from;
            ensure!(done >= count, "only {done}");
            Ok(())
        })?;
        Ok(())
    }

    /// Goes on until `total` requests have ended since the start, stops, and says what happened.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub fn finish(mut self, total: u64, limit: Duration) -> Result<Tally> {
        let done = self.shared.requests.load(Ordering::Relaxed);
        self.wait_for(total.saturating_sub(done), limit)?;
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut tally = Tally::default();
        for client in self.clients.drain(..) {
            tally.add(client.join().expect("a client does not panic"));
        }
        Ok(tally)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}

/// One client: requests until told to stop.
fn press(shared: &Shared, method: Method, keep: Keep, pace: Duration) -> Tally {
    let mut tally = Tally::default();
    let mut connection = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let body = match method {
            Method::Get => Vec::new(),
            // Of changing length, so that a wrong answer cannot be the right one by chance.
            Method::Post => vec![b'x'; 1 + usize::try_from(tally.requests % 2000).expect("small")],
        };
        let start = Instant::now();
        let outcome = attempt(shared, keep, &mut connection, &body, &mut tally);
        tally.slowest = tally.slowest.max(start.elapsed());
        tally.requests += 1;
        match outcome.and_then(|reply| judge(&reply, &body)) {
            Ok(instance) => *tally.instances.entry(instance).or_default() += 1,
            Err(why) => {
                connection = None;
                tally.failed += 1;
                if tally.samples.len() < SAMPLES_MAX {
                    let at = shared.begin.elapsed();
                    tally.samples.push(format!("{method:?} {keep:?} at {at:?}: {why:#}"));
                }
            }
        }
        shared.requests.fetch_add(1, Ordering::Relaxed);
        if !pace.is_zero() {
            pause(pace);
        }
    }
    tally
}

/// One request, on the connection there is or a new one. The only repetition is the one described above.
fn attempt(
    shared: &Shared,
    keep: Keep,
    kept: &mut Option<Connection>,
    body: &[u8],
    tally: &mut Tally,
) -> Result<Reply> {
    let mut closed_between = false;
    loop {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::open(&shared.address)?,
        };
        let reused = connection.is_reused();
        let (method, path) = if body.is_empty() { ("GET", "/") } else { ("POST", "/echo") };
        let fields: &[&str] = if keep == Keep::Fresh { &["Connection: close"] } else { &[] };
        match connection.send(method, path, fields, body) {
            Ok(reply) => {
                tally.reused += u64::from(reused);
                tally.closed_between += u64::from(closed_between);
                if keep == Keep::Reused && !connection.is_over() {
                    *kept = Some(connection);
                }
                return Ok(reply);
            }
            Err(Fault::BeforeAnswer(_)) if reused && !closed_between => closed_between = true,
            Err(fault) => return Err(fault.into()),
        }
    }
}

/// The instance that answered, if the answer is right.
fn judge(reply: &Reply, sent: &[u8]) -> Result<String> {
    ensure!(reply.status == 200, "status {}", reply.status);
    let instance = reply.header("x-instance").unwrap_or_default();
    ensure!(!instance.is_empty(), "an answer, but not of an instance: `{}`", reply.text());
    ensure!(sent.is_empty() || reply.body == sent, "another body came back");
    Ok(instance.to_owned())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    use super::*;

    /// Answers one request on each connection with `answer` (nothing, if empty) and closes without a word.
    fn serve_once_each(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        address
    }

    fn tally(address: &str, method: Method, keep: Keep) -> Tally {
        let shared = Arc::new(Shared {
            address: address.to_owned(),
            begin: Instant::now(),
            stop: AtomicBool::new(false),
            requests: AtomicU64::new(0),
        });
        let load = Load {
            clients: vec![{
                let shared = Arc::clone(&shared);
                thread::spawn(move || press(&shared, method, keep, Duration::ZERO))
            }],
            shared,
        };
        load.finish(10, Duration::from_secs(10)).unwrap()
    }

    #[test]
    fn tells_failures_apart() {
        let good = "HTTP/1.1 200 OK\r\nX-Instance: a\r\nContent-Length: 1\r\n\r\nx";
        let bad = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";
        let short = "HTTP/1.1 200 OK\r\nX-Instance: a\r\nContent-Length: 9\r\n\r\nx";
        let nobody = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let all_fail = |answer, method, keep| {
            let tally = tally(&serve_once_each(answer), method, keep);
            assert_eq!(tally.failed, tally.requests, "{answer:?} {}", tally.summary());
            assert!(tally.ensure_flawless().is_err());
        };
        all_fail(bad, Method::Get, Keep::Fresh);
        all_fail(short, Method::Get, Keep::Fresh);
        all_fail(nobody, Method::Get, Keep::Fresh);
        all_fail("", Method::Get, Keep::Reused);

        let fresh = tally(&serve_once_each(good), Method::Get, Keep::Fresh);
        assert_eq!((fresh.failed, fresh.closed_between, fresh.reused), (0, 0, 0));
        assert_eq!(fresh.instances["a"], fresh.requests);

        // The peer closes after each answer: every request but the first finds its connection gone, and goes well
        // on a new one.
        let reused = tally(&serve_once_each(good), Method::Get, Keep::Reused);
        assert_eq!((reused.failed, reused.closed_between), (0, reused.requests - 1));

        // The body that comes back is right for the first POST alone.
        let echo = tally(&serve_once_each(good), Method::Post, Keep::Fresh);
        assert_eq!(echo.failed, echo.requests - 1);
    }
}
