//! A stand-in for an agent of the reference: keys that can be waited for, and nothing else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

pub(crate) struct Fake {
    pub(crate) address: String,
    state: Arc<State>,
}

struct State {
    inner: Mutex<Inner>,
    /// The index of the newest write.
    index: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    keys: BTreeMap<String, (u64, String)>,
    asked: Vec<String>,
    waiting: BTreeMap<String, usize>,
    refuse: usize,
    take: usize,
    open: usize,
    counts: Counts,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) connections_max: usize,
    pub(crate) refused: usize,
}

impl Fake {
    pub(crate) async fn start() -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let inner = Mutex::new(Inner { take: 200, ..Inner::default() });
        let state = Arc::new(State { inner, index: watch::Sender::new(1) });
        let serving = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&serving);
                {
                    let mut inner = state.lock();
                    if inner.open >= inner.take {
                        inner.counts.refused += 1;
                        continue;
                    }
                    inner.open += 1;
                    inner.counts.connections_max = inner.counts.connections_max.max(inner.open);
                }
                tokio::spawn(async move {
                    let _ = state.serve(stream).await;
                    state.lock().open -= 1;
                });
            }
        });
        Fake { address, state }
    }

    pub(crate) fn set(&self, key: &str, value: &str) {
        let index = *self.state.index.borrow() + 1;
        self.state.lock().keys.insert(key.to_owned(), (index, value.to_owned()));
        self.state.index.send_replace(index);
    }

    /// Answers 429 so many times.
    pub(crate) fn refuse_next(&self, count: usize) {
        self.state.lock().refuse = count;
    }

    /// Closes connections above this number.
    pub(crate) fn take_connections(&self, count: usize) {
        self.state.lock().take = count;
    }

    pub(crate) fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.lock().asked.clone()
    }

    /// Returns when nobody waits for anything but one key.
    pub(crate) async fn waits_for(&self, key: &str, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            let waiting = self.state.lock().waiting.clone();
            if waiting.len() == 1 && waiting.contains_key(key) {
                return;
            }
            assert!(Instant::now() < deadline, "still waiting: {waiting:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    async fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let mut length = 0;
            loop {
                let mut header = String::new();
                stream.read_line(&mut header).await?;
                let header = header.trim_end().to_lowercase();
                if header.is_empty() {
                    break;
                }
                if let Some(bytes) = header.strip_prefix("content-length: ") {
                    length = bytes.parse().unwrap();
                }
            }
            stream.read_exact(&mut vec![0; length]).await?;
            let mut words = line.split(' ');
            let (method, target) = (words.next().unwrap(), words.next().unwrap());
            let answer = self.answer(method, target);
            let (status, index, body) = tokio::select! {
                answer = answer => answer,
                // Who waits hears of a client that goes.
                gone = stream.fill_buf() => {
                    gone?;
                    return Ok(());
                }
            };
            let head = format!(
                "HTTP/1.1 {status} X\r\nX-Consul-Index: {index}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).await?;
        }
    }

    async fn answer(&self, method: &str, target: &str) -> (u16, u64, String) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if method != "GET" {
            return (404, 0, String::new());
        }
        if path == "/v1/catalog/datacenters" {
            return (200, 0, r#"["dc1"]"#.to_owned());
        }
        let key = path.strip_prefix("/v1/kv/").unwrap();
        {
            let mut inner = self.lock();
            inner.asked.push(target.to_owned());
            if inner.refuse > 0 {
                inner.refuse -= 1;
                return (429, 0, "too many".to_owned());
            }
        }
        let parameter = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        };
        if let Some(index) = parameter("index") {
            let index: u64 = index.parse().unwrap();
            let wait = milliseconds(parameter("wait").unwrap());
            let _waiting = Waiting::new(self, key);
            let mut newest = self.index.subscribe();
            let changed = async {
                while self.look(key).1 <= index {
                    newest.changed().await.unwrap();
                }
            };
            let _ = tokio::time::timeout(wait, changed).await;
        }
        self.look(key)
    }

    fn look(&self, key: &str) -> (u16, u64, String) {
        match self.lock().keys.get(key) {
            None => (404, 1, String::new()),
            Some((index, value)) => {
                use base64::Engine as _;
                let value = base64::prelude::BASE64_STANDARD.encode(value);
                (200, *index, format!(r#"[{{"Key":"{key}","Value":"{value}"}}]"#))
            }
        }
    }
}

/// Counts who waits for a key for as long as it lives.
struct Waiting<'a>(&'a State, String);

impl<'a> Waiting<'a> {
    fn new(state: &'a State, key: &str) -> Waiting<'a> {
        *state.lock().waiting.entry(key.to_owned()).or_default() += 1;
        Waiting(state, key.to_owned())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        let count = inner.waiting.get_mut(&self.1).unwrap();
        *count -= 1;
        if *count == 0 {
            inner.waiting.remove(&self.1);
        }
    }
}

/// A wait as the client writes it: `1m0s`, `116.279069ms`.
fn milliseconds(text: &str) -> Duration {
    let nanos = muster_client::types::parse_nanos(text).unwrap();
    Duration::from_nanos(u64::try_from(nanos).unwrap())
}
