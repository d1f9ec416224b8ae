//! The engine: three questions (list, inspect, events) over its socket, and the loop that keeps
//! listening.
//!
//! Nothing else is asked, so a proxy in front of the socket can refuse everything but
//! `GET /containers/json`, `GET /containers/{id}/json` and `GET /events`. The requests carry no
//! API version, so every engine answers in its own.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::Docker;
use bollard::query_parameters::{EventsOptions, EventsOptionsBuilder, ListContainersOptions};
use futures::StreamExt;
use muster_client::chain;
use tokio::sync::mpsc;
use tracing::{debug, info};

use crate::container::Container;
use crate::event::{self, News};

/// Longest time an answer may take; the engine answers a list of hundreds in well under a second.
const TIMEOUT: Duration = Duration::from_secs(20);
/// First and longest pause before the next attempt to listen.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A second list soon after the first: a container that starts after the list was taken and
/// before the engine has begun to send events would be missed otherwise.
const SECOND_LIST_AFTER: Duration = Duration::from_secs(1);

/// What can go wrong with the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be used.
    #[error("cannot use engine address `{address}`: {reason}")]
    Address {
        /// As given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The engine did not answer, or not as expected.
    #[error("the engine does not answer")]
    Call(#[from] bollard::errors::Error),
    /// It took too long.
    #[error("no answer from the engine within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// The stream of events came to its end.
    #[error("the engine closed the stream of events")]
    Closed,
}

/// A handle on the engine. Cheap to clone; connects for each question.
#[derive(Clone, Debug)]
pub struct Engine {
    address: String,
}

impl Engine {
    /// Takes `unix:///path`, `/path`, `tcp://host:port` or `http://host:port`. The engine need
    /// not be there yet.
    pub fn new(address: &str) -> Result<Self, Error> {
        let address = match address.strip_prefix('/') {
            Some(path) => format!("unix:///{path}"),
            None => address.to_owned(),
        };
        let known = ["unix://", "tcp://", "http://"];
        if known.iter().any(|scheme| address.starts_with(scheme)) {
            return Ok(Self { address });
        }
        let reason = "use unix:///path, tcp://host:port or http://host:port".to_owned();
        Err(Error::Address { address, reason })
    }

    /// The address, for messages.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn docker(&self) -> Result<Docker, Error> {
        Ok(Docker::connect_with_host(&self.address)?.with_timeout(TIMEOUT))
    }

    /// Ids of the containers that run or are paused.
    pub async fn list(&self) -> Result<Vec<String>, Error> {
        let docker = self.docker()?;
        let call = docker.list_containers(None::<ListContainersOptions>);
        let answer = tokio::time::timeout(TIMEOUT, call).await.map_err(|_| Error::Timeout)??;
        Ok(answer.into_iter().filter_map(|container| container.id).collect())
    }

    /// One container, by full id or name; `None` if there is none.
    pub async fn inspect(&self, id: &str) -> Result<Option<Container>, Error> {
        let docker = self.docker()?;
        let call = docker.inspect_container(id, None);
        match tokio::time::timeout(TIMEOUT, call).await.map_err(|_| Error::Timeout)? {
            Ok(answer) => Ok(Container::from_inspect(answer)),
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sends news until nobody listens: first a full list, then events as they come, the list
    /// again every `list_every`. When the engine goes away: [`News::Lost`], attempts with growing
    /// pauses, a full list once it is back.
    pub async fn watch(self, list_every: Duration, news: mpsc::Sender<News>) {
        let mut backoff = BACKOFF.0;
        let mut seen = None;
        loop {
            let mut listed = false;
            let error = match self.listen(list_every, &news, &mut seen, &mut listed).await {
                Ok(()) => return,
                Err(error) => error,
            };
            if listed {
                backoff = BACKOFF.0;
            }
            if news.send(News::Lost(chain(&error))).await.is_err() {
                return;
            }
            debug!(pause_ms = backoff.as_millis(), "trying the engine again after a pause");
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// One connection's worth of [`Engine::watch`]; `Ok` when nobody listens any more. `seen` is
    /// the time of the last event, from which the next connection goes on.
    async fn listen(
        &self,
        list_every: Duration,
        news: &mpsc::Sender<News>,
        seen: &mut Option<u64>,
        listed: &mut bool,
    ) -> Result<(), Error> {
        let docker = self.docker()?;
        let mut events = docker.events(Some(events_since(*seen)));
        let mut list = Box::pin(self.list());
        let mut pause = SECOND_LIST_AFTER;
        let mut listing = true;
        let timer = tokio::time::sleep(pause);
        tokio::pin!(timer);
        loop {
            tokio::select! {
                // Events come first so that the stream is asked for before the list is.
                biased;
                event = events.next() => {
                    let event = event.ok_or(Error::Closed)??;
                    if let Some(at) = event.time_nano.and_then(|at| u64::try_from(at).ok()) {
                        *seen = Some(at);
                    }
                    if let Some(piece) = News::read(event)
                        && news.send(piece).await.is_err()
                    {
                        return Ok(());
                    }
                }
                ids = &mut list, if listing => {
                    let ids = ids?;
                    listing = false;
                    if !*listed {
                        *listed = true;
                        info!(engine = self.address, containers = ids.len(), "listening to Docker");
                    }
                    if news.send(News::Listed(ids)).await.is_err() {
                        return Ok(());
                    }
                    timer.as_mut().reset(tokio::time::Instant::now() + pause);
                    pause = list_every;
                }
                () = &mut timer, if !listing => {
                    list = Box::pin(self.list());
                    listing = true;
                }
            }
        }
    }
}

/// Only what matters, from just after the last event seen; at first from a second ago, which
/// covers the moment between list and stream.
#[expect(clippy::disallowed_methods, reason = "the engine counts in wall time")]
fn events_since(seen: Option<u64>) -> EventsOptions {
    let second_ago = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_nanos()).unwrap_or_default().saturating_sub(1_000_000_000)
    };
    let since = seen.map_or_else(second_ago, |at| at + 1);
    let filters =
        HashMap::from([("type", vec!["container", "network"]), ("event", event::WANTED.to_vec())]);
    EventsOptionsBuilder::default()
        .since(&format!("{}.{:09}", since / 1_000_000_000, since % 1_000_000_000))
        .filters(&filters)
        .build()
}
