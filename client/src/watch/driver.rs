//! The task that asks for a set of questions.
//!
//! ```text
//!            ┌── answers POST /v1/watch ──▶ one event stream for all that can wait
//!  agent ────┤                              (opened anew, from where each is, when questions come or go)
//!            └── knows no such path ──────▶ each asked alone, in turns; looked again now and then
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::StatusCode;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::Instant;

use super::events::{Asked, Event, Events, Request};
use super::pacing::backoff;
use super::question::Found;
use super::rotation::{Id, Rotation};
use super::set::Shared;
use crate::Error;

/// Questions often come in crowds: they are looked at once they have come.
const CROWD_PAUSE: Duration = Duration::from_millis(5);
/// The same for each question that the set has, so that large sets are not asked anew all the time.
const REPEAT_PAUSE: Duration = Duration::from_micros(20);
/// Answers to questions that went cost little until the stream is opened anew for that alone.
const WENT_PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked for another token.
const TOKEN_EVERY: Duration = Duration::from_secs(2);
/// An agent without event streams may be replaced by one that has them.
const PROBE_EVERY: Duration = Duration::from_mins(5);
/// The pauses between attempts to reach an agent that is away.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// The least pause after the agent said that there are too many connections or requests.
const TOO_MANY_PAUSE: Duration = Duration::from_secs(1);
/// One stream asks at most so much; agents take somewhat more. The rest is asked in turns.
const QUESTIONS_MAX: usize = 10_000;
const REQUEST_BYTES_MAX: usize = 3 << 20;
/// What stands around one question there.
const FRAME_BYTES: usize = 64;

/// The event stream.
enum Link {
    Closed,
    Opening(BoxFuture<'static, Result<Events, Error>>),
    Open(Events),
}

/// What the event stream does.
enum Linked {
    Opened(Result<Events, Error>),
    Event(Event),
    Ended(Option<Error>),
}

impl Link {
    async fn next(&mut self) -> Linked {
        match self {
            Link::Closed => std::future::pending().await,
            Link::Opening(opening) => Linked::Opened(opening.await),
            Link::Open(events) => match events.next().await {
                Ok(Some(event)) => Linked::Event(event),
                Ok(None) => Linked::Ended(None),
                Err(error) => Linked::Ended(Some(error)),
            },
        }
    }
}

/// A question that was asked alone.
struct Alone {
    id: Id,
    asked: u64,
    began: Instant,
    wait: Duration,
    outcome: Result<Found, Error>,
}

pub(super) struct Driver {
    shared: Arc<Shared>,
    edition: u64,
    /// When it is looked at who came and who went.
    look_at: Option<Instant>,
    /// All questions, and the bytes of their requests; `None`: no server can wait for them.
    wanted: BTreeMap<Id, Option<usize>>,
    link: Link,
    /// Those that the stream is asked, or will be when it opens.
    streamed: BTreeSet<Id>,
    /// When the stream is opened, if it is to be.
    open_at: Option<Instant>,
    failures: u32,
    /// The agent knows no event streams.
    alone: bool,
    rotation: Rotation,
    tasks: JoinSet<Alone>,
    running: BTreeMap<Id, AbortHandle>,
    /// Failures to reach the agent in a row, of questions asked alone.
    misses: u32,
    /// The edition of the token that the questions under way were sent with, and when to look for another; `None` if the
    /// token never changes.
    token: Option<(u64, Instant)>,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>) -> Driver {
        let slots = shared.client.waits_max();
        let edition = shared.client.token_edition();
        let token = edition.map(|edition| (edition, Instant::now() + TOKEN_EVERY));
        Driver {
            shared,
            edition: 0,
            look_at: None,
            wanted: BTreeMap::new(),
            link: Link::Closed,
            streamed: BTreeSet::new(),
            open_at: None,
            failures: 0,
            alone: false,
            rotation: Rotation::new(slots),
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            misses: 0,
            token,
        }
    }

    /// Runs until it is aborted.
    pub(super) async fn run(mut self) {
        loop {
            self.look_at_questions();
            self.look_at_token();
            self.open_when_due();
            self.ask_in_turn();
            let token = self.token.map(|(_, at)| at);
            let due = [self.look_at, self.open_at, self.rotation.due(), token];
            let due = due.into_iter().flatten().min();
            tokio::select! {
                () = self.shared.changed.notified() => self.look_soon(),
                linked = self.link.next() => self.linked(linked),
                Some(done) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => {
                    self.heard_alone(done);
                }
                () = until(due) => {}
            }
        }
    }

    /// Asks everything anew with another token: it may see more, or less.
    fn look_at_token(&mut self) {
        let now = Instant::now();
        let Some((asked_with, at)) = self.token.filter(|(_, at)| *at <= now) else { return };
        let edition = self.shared.client.token_edition().unwrap_or(asked_with);
        self.token = Some((edition, at.max(now) + TOKEN_EVERY));
        if edition == asked_with {
            return;
        }
        self.shared.lost(&self.wanted.keys().copied().collect(), None);
        let running = std::mem::take(&mut self.running);
        for (id, task) in running {
            task.abort();
            self.rotation.done(id, now);
        }
        if !self.alone && !matches!(self.link, Link::Closed) {
            self.open_at = Some(now);
        }
    }

    fn look_soon(&mut self) {
        let questions = u32::try_from(self.wanted.len()).unwrap_or(u32::MAX);
        let pause = CROWD_PAUSE + REPEAT_PAUSE * questions;
        self.look_at.get_or_insert(Instant::now() + pause);
    }

    /// Takes over who came and who went.
    fn look_at_questions(&mut self) {
        let now = Instant::now();
        if self.look_at.is_none_or(|at| at > now) {
            return;
        }
        self.look_at = None;
        let Some((edition, wanted)) = self.shared.since(self.edition) else { return };
        self.edition = edition;
        self.wanted = wanted;
        let streamable = self.streamable();
        // An agent that is away is not asked earlier for that.
        let waits = matches!(self.link, Link::Closed) && self.open_at.is_some();
        if !self.alone && !waits && streamable != self.streamed {
            let came = streamable.iter().any(|id| !self.streamed.contains(id));
            let at = if came { now } else { now + WENT_PAUSE };
            self.open_at = Some(self.open_at.map_or(at, |before| before.min(at)));
        }
        self.share_out();
    }

    /// Those that one stream is asked.
    fn streamable(&self) -> BTreeSet<Id> {
        let mut room = REQUEST_BYTES_MAX;
        let fits = |(id, bytes): (&Id, &Option<usize>)| {
            room = room.checked_sub(bytes.as_ref()? + FRAME_BYTES)?;
            Some(*id)
        };
        self.wanted.iter().filter_map(fits).take(QUESTIONS_MAX).collect()
    }

    /// Asks in turns what no stream is asked.
    fn share_out(&mut self) {
        let streamed = if self.alone { BTreeSet::new() } else { self.streamable() };
        let alone = self.wanted.keys().filter(|id| !streamed.contains(id)).copied().collect();
        for id in self.rotation.want(&alone) {
            self.cancel(id);
        }
    }

    fn cancel(&mut self, id: Id) {
        if let Some(task) = self.running.remove(&id) {
            task.abort();
        }
    }

    fn open_when_due(&mut self) {
        if self.open_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.open_at = None;
        // The one before ends first: never two connections for one set.
        self.link = Link::Closed;
        self.streamed = self.streamable();
        if self.streamed.is_empty() {
            return;
        }
        let ask = |id: &Id| {
            let (question, index) = self.shared.get(*id)?;
            Some(Asked { name: id.to_string(), path: question.request(&self.shared.client, index) })
        };
        let watches = self.streamed.iter().filter_map(ask).collect();
        let body = serde_json::to_vec(&Request { watches }).expect("texts are JSON");
        let opening = Events::open(self.shared.client.clone(), Bytes::from(body));
        self.link = Link::Opening(opening.boxed());
    }

    fn linked(&mut self, linked: Linked) {
        match linked {
            Linked::Opened(Ok(events)) => {
                self.link = Link::Open(events);
                if self.alone {
                    self.alone = false;
                    self.share_out();
                }
            }
            Linked::Opened(Err(error)) if knows_no_streams(&error) => {
                self.link = Link::Closed;
                self.failures = 0;
                self.streamed.clear();
                self.open_at = Some(Instant::now() + PROBE_EVERY);
                if !self.alone {
                    tracing::debug!(%error, "the agent has no event streams: asking in turns");
                    self.alone = true;
                    self.share_out();
                }
            }
            Linked::Opened(Err(error)) => self.lost(Some(&error)),
            Linked::Ended(error) => {
                let error = error.unwrap_or_else(|| {
                    self.shared.client.unreachable("it ended the event stream".into())
                });
                tracing::debug!(%error, "the event stream is over");
                // It was there: perhaps it is there again at once. Else the next attempt tells.
                let told = self.failures > 0;
                self.lost(Some(&error).filter(|_| told));
            }
            Linked::Event(event) => {
                self.failures = 0;
                self.heard(event);
            }
        }
    }

    /// The stream is opened anew after a pause.
    fn lost(&mut self, error: Option<&Error>) {
        self.link = Link::Closed;
        self.failures = self.failures.saturating_add(1);
        let mut pause = backoff(self.failures, BACKOFF.0, BACKOFF.1);
        if error.is_some_and(too_many) {
            pause += TOO_MANY_PAUSE;
        }
        self.open_at = Some(Instant::now() + pause);
        if !self.alone {
            self.shared.lost(&self.streamed, error);
        }
    }

    fn heard(&mut self, event: Event) {
        match event {
            Event::Silence => {}
            Event::Answer { name, index, datum } => {
                if let Ok(id) = name.parse() {
                    self.shared.streamed(id, datum, index);
                }
            }
            Event::Failed { name, status, text } => {
                if let Ok(id) = name.parse() {
                    // The agent asks again by itself.
                    self.shared.failed(id, Error::Status { code: status, text });
                }
            }
        }
    }

    /// Sends the questions whose turn it is.
    fn ask_in_turn(&mut self) {
        let now = Instant::now();
        for id in self.rotation.overdue(now) {
            self.cancel(id);
        }
        let shared = Arc::clone(&self.shared);
        let wait_of = |id| shared.get(id).map_or(Duration::ZERO, |it| it.0.settings.wait);
        while let Some((id, wait)) = self.rotation.next(now, wait_of) {
            let Some((question, asked)) = self.shared.get(id) else {
                // Its end is looked at soon.
                self.rotation.forget(id);
                continue;
            };
            let client = self.shared.client.clone();
            let task = self.tasks.spawn(async move {
                let began = Instant::now();
                let outcome = question.ask(&client, asked, wait).await;
                Alone { id, asked, began, wait, outcome }
            });
            self.running.insert(id, task);
        }
    }

    fn heard_alone(&mut self, done: Result<(tokio::task::Id, Alone), JoinError>) {
        let (task, alone) = match done {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Nobody wanted it any more, or its turn was over.
            Err(_) => return,
        };
        let Alone { id, asked, began, wait, outcome } = alone;
        if self.running.get(&id).is_none_or(|running| running.id() != task) {
            return;
        }
        self.running.remove(&id);
        let now = Instant::now();
        match outcome {
            Ok(found) => {
                self.misses = 0;
                let pace = self.shared.answered(id, found, asked, began, wait);
                self.rotation.done(id, began + pace);
            }
            Err(error) => {
                let (busy, away) = (too_many(&error), is_away(&error));
                let pause = self.shared.failed(id, error);
                if !busy && !away {
                    self.rotation.done(id, now + pause);
                    return;
                }
                // What holds for one question holds for all of them.
                self.misses = self.misses.saturating_add(1);
                let least = if busy { TOO_MANY_PAUSE } else { Duration::ZERO };
                let pause = least + backoff(self.misses, BACKOFF.0, BACKOFF.1);
                self.rotation.refused(id, now, now + pause);
            }
        }
    }
}

/// Does the agent have no event streams of many questions, or does it, or what stands before it, refuse them?
fn knows_no_streams(error: &Error) -> bool {
    matches!(error, Error::Status { code, .. } if matches!(
        *code,
        StatusCode::FORBIDDEN
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED
    ))
}

fn too_many(error: &Error) -> bool {
    matches!(error, Error::Status { code, .. } if *code == StatusCode::TOO_MANY_REQUESTS)
}

fn is_away(error: &Error) -> bool {
    matches!(error, Error::Unreachable { .. } | Error::TimedOut { .. })
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
