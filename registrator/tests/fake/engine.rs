//! A Docker engine behind a proxy that refuses everything but list, inspect and events.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc};

use super::{Body, Server, reply};

#[derive(Default)]
struct State {
    containers: BTreeMap<String, Value>,
    listeners: Vec<mpsc::UnboundedSender<Bytes>>,
    refused: Vec<String>,
    asked: usize,
    lists: usize,
    /// Requests for lists wait once this many were answered.
    lists_max: Option<usize>,
    event_queries: Vec<String>,
}

/// Containers are whole inspections.
pub(crate) struct Engine {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
    more_lists: Arc<Notify>,
    server: Option<Server>,
}

impl Engine {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, state: Arc::default(), more_lists: Arc::default(), server: None }
    }

    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub(crate) fn start(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        let listener = Arc::new(UnixListener::bind(&self.socket).expect("a socket"));
        let (state, more_lists) = (Arc::clone(&self.state), Arc::clone(&self.more_lists));
        self.server = Some(Server::start(
            move || {
                let listener = Arc::clone(&listener);
                async move { listener.accept().await.map(|(stream, _)| stream) }
            },
            move |request| {
                let (state, more_lists) = (Arc::clone(&state), Arc::clone(&more_lists));
                async move {
                    if request.uri().path() == "/containers/json" {
                        while !may_list(&state) {
                            more_lists.notified().await;
                        }
                    }
                    answer(&state, &request)
                }
            },
        ));
    }

    /// As a restart of the engine does: every connection is cut, the socket is gone.
    pub(crate) fn stop(&mut self) {
        self.server = None;
        self.state.lock().expect("state").listeners.clear();
        let _ = std::fs::remove_file(&self.socket);
    }

    /// Paths that were asked for and refused.
    pub(crate) fn refused(&self) -> Vec<String> {
        self.state.lock().expect("state").refused.clone()
    }

    /// How many requests were answered.
    pub(crate) fn asked(&self) -> usize {
        self.state.lock().expect("state").asked
    }

    /// Answers so many more requests for lists; the next ones wait. Says how many there will have
    /// been by then.
    pub(crate) fn limit_lists(&self, more: usize) -> usize {
        let mut state = self.state.lock().expect("state");
        let max = state.lists + more;
        state.lists_max = Some(max);
        drop(state);
        // The watcher asks for one list at a time.
        self.more_lists.notify_one();
        max
    }

    /// How many requests for lists were answered.
    pub(crate) fn lists(&self) -> usize {
        self.state.lock().expect("state").lists
    }

    /// Whole inspections.
    pub(crate) fn containers(&self) -> Vec<Value> {
        self.state.lock().expect("state").containers.values().cloned().collect()
    }

    /// Query strings of the requests for events.
    pub(crate) fn event_queries(&self) -> Vec<String> {
        self.state.lock().expect("state").event_queries.clone()
    }

    pub(crate) fn is_heard(&self) -> bool {
        let state = self.state.lock().expect("state");
        state.listeners.iter().any(|listener| !listener.is_closed())
    }

    pub(crate) fn put(&self, container: Value) {
        let id = container["Id"].as_str().expect("an id").to_owned();
        self.state.lock().expect("state").containers.insert(id, container);
    }

    pub(crate) fn change(&self, id: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state.lock().expect("state");
        change(state.containers.get_mut(id).expect("a container"));
    }

    pub(crate) fn remove(&self, id: &str) {
        self.state.lock().expect("state").containers.remove(id);
    }

    pub(crate) fn event(&self, id: &str, action: &str, attributes: &Value) {
        self.say(json!({
            "Type": "container",
            "Action": action,
            "Actor": { "ID": id, "Attributes": attributes },
        }));
    }

    /// An event of a network about a container.
    pub(crate) fn network_event(&self, container: &str, action: &str) {
        self.say(json!({
            "Type": "network",
            "Action": action,
            "Actor": { "ID": "extra", "Attributes": { "container": container } },
        }));
    }

    fn say(&self, mut event: Value) {
        event["scope"] = json!("local");
        event["timeNano"] = json!(clock());
        let line = Bytes::from(format!("{event}\n"));
        let mut state = self.state.lock().expect("state");
        state.listeners.retain(|listener| listener.send(line.clone()).is_ok());
    }
}

/// The engine's clock, in nanoseconds since the epoch.
#[expect(clippy::disallowed_methods, reason = "the engine counts in wall time")]
pub(crate) fn clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_nanos();
    u64::try_from(now).expect("a time")
}

fn may_list(state: &Mutex<State>) -> bool {
    let state = state.lock().expect("state");
    state.lists_max.is_none_or(|max| state.lists < max)
}

fn answer(state: &Mutex<State>, request: &Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    let mut state = state.lock().expect("state");
    let inspected = path.strip_prefix("/containers/").and_then(|path| path.strip_suffix("/json"));
    match (request.method(), path, inspected) {
        (&Method::GET, "/containers/json", _) => {
            let running = state.containers.values().filter(|c| c["State"]["Running"] == true);
            let list: Vec<Value> = running
                .map(|c| json!({ "Id": c["Id"], "Names": [c["Name"]], "State": "running" }))
                .collect();
            state.asked += 1;
            state.lists += 1;
            reply(200, Value::from(list).to_string())
        }
        (&Method::GET, "/events", _) => {
            let (sender, receiver) = mpsc::unbounded_channel();
            state.listeners.push(sender);
            state.asked += 1;
            state.event_queries.push(request.uri().query().unwrap_or_default().to_owned());
            Response::new(BodyExt::boxed(StreamBody::new(Lines(receiver))))
        }
        (&Method::GET, _, Some(id)) => {
            state.asked += 1;
            match state.containers.get(id) {
                Some(container) => reply(200, container.to_string()),
                None => {
                    reply(404, json!({ "message": format!("No such container: {id}") }).to_string())
                }
            }
        }
        _ => {
            let what = format!("{} {path}", request.method());
            state.refused.push(what);
            reply(403, "forbidden by the proxy")
        }
    }
}

struct Lines(mpsc::UnboundedReceiver<Bytes>);

impl futures::Stream for Lines {
    type Item = Result<Frame<Bytes>, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
