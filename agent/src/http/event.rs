//! `/v1/event/`: user events, fired and listed.
//!
//! An event is passed on once and kept in the memory of each agent that heard it, the newest 256
//! of them. The index of a list is made from the id of its last event: it is not an order, and
//! clients wait for it to be another one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::HeaderValue;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::AppState;
use super::encode::{self, Layout};
use super::error::Error;
use super::extract::Request;
use super::handler::{Answer, later};
use super::payload;
use super::reply::{Content, INDEX, Reply};
use super::routing::{self, Routes};
use super::stream;
use crate::acl::{Access, Resource, Token, authorize};
use crate::gossip::UserEvent;
use crate::local::EventFilter;
use crate::remote_exec;

pub(super) fn routes() -> Routes {
    Routes::new()
        .route("/v1/event/fire/", routing::put(fire))
        .route("/v1/event/list", routing::get(list).waits())
}

/// Events that are remembered.
const EVENTS_MAX: usize = 256;
/// Bytes of an event as it travels.
const EVENT_BYTES_MAX: usize = 512;
/// Of these, what is not name, filters or payload: keys, lengths, id and prefix.
const EVENT_BYTES_FIXED: usize = 96;
/// Bytes that the envelope adds to an event: above the limit before that, it is refused
/// with other words than above it after.
const EVENT_BYTES_ENVELOPE: usize = 30;
/// Texts from this length on take this much more room for their length.
const LONG_TEXT: (usize, usize) = (32, 3);

/// One event.
#[derive(Debug, Clone)]
struct Event {
    id: Uuid,
    name: String,
    payload: Bytes,
    node_filter: String,
    service_filter: String,
    tag_filter: String,
    ltime: u64,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(rename = "ID")]
    id: Uuid,
    #[serde(rename = "Name")]
    name: &'a str,
    #[serde(rename = "Payload")]
    payload: Option<String>,
    #[serde(rename = "NodeFilter")]
    node_filter: &'a str,
    #[serde(rename = "ServiceFilter")]
    service_filter: &'a str,
    #[serde(rename = "TagFilter")]
    tag_filter: &'a str,
    #[serde(rename = "Version")]
    version: u8,
    #[serde(rename = "LTime")]
    ltime: u64,
}

impl<'a> From<&'a Event> for Row<'a> {
    fn from(event: &'a Event) -> Self {
        let payload = &event.payload;
        Row {
            id: event.id,
            name: &event.name,
            payload: (!payload.is_empty()).then(|| BASE64_STANDARD.encode(payload)),
            node_filter: &event.node_filter,
            service_filter: &event.service_filter,
            tag_filter: &event.tag_filter,
            version: 1,
            ltime: event.ltime,
        }
    }
}

impl Event {
    /// Its filters.
    fn event_filter(&self) -> Result<EventFilter, Error> {
        let filters = [&self.node_filter, &self.service_filter, &self.tag_filter];
        EventFilter::of(filters.map(String::as_str))
            .map_err(|wrong| Error::refused(wrong.to_string()))
    }

    /// The bytes it would take on its way.
    fn size(&self) -> usize {
        let long = |text: &str| if text.len() >= LONG_TEXT.0 { LONG_TEXT.1 } else { 0 };
        let filter = |text: &str| if text.is_empty() { 0 } else { 4 + text.len() + long(text) };
        EVENT_BYTES_FIXED
            + 2 * self.name.len()
            + long(&self.name)
            + self.payload.len()
            + filter(&self.node_filter)
            + filter(&self.service_filter)
            + filter(&self.tag_filter)
    }
}

/// The events that this agent heard.
#[derive(Debug)]
pub(crate) struct Events {
    heard: Mutex<Heard>,
    /// Counts events: who waits for one waits for it to grow.
    count: watch::Sender<u64>,
}

#[derive(Debug)]
struct Heard {
    ring: VecDeque<Event>,
}

impl Events {
    /// None yet.
    pub(super) fn new() -> Events {
        Events { heard: Mutex::new(Heard { ring: VecDeque::new() }), count: watch::Sender::new(0) }
    }

    /// Keeps an event, once. Those of remote executions are no news for readers, as in the reference.
    fn hear(&self, event: Event) {
        if event.name == remote_exec::EVENT {
            return;
        }
        let mut heard = self.heard();
        if heard.ring.iter().any(|known| known.id == event.id) {
            return;
        }
        if heard.ring.len() == EVENTS_MAX {
            heard.ring.pop_front();
        }
        heard.ring.push_back(event);
        drop(heard);
        self.count.send_modify(|count| *count += 1);
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The index of a list that ends with this event.
fn index_of(last: Option<&Event>) -> u64 {
    last.map_or(1, |event| {
        let (high, low) = event.id.as_u64_pair();
        high ^ low
    })
}

fn fire(request: Request) -> Result<Answer, Error> {
    request.datacenter_is_here()?;
    let text = |name: &str| request.params.get(name).unwrap_or_default().to_owned();
    let mut event = Event {
        id: Uuid::new_v4(),
        name: request.rest().to_owned(),
        payload: Bytes::new(),
        node_filter: text("node"),
        service_filter: text("service"),
        tag_filter: text("tag"),
        ltime: 0,
    };
    if event.name.is_empty() {
        return Err(Error::invalid("Missing name"));
    }
    request.authorize(Resource::Event(&event.name), Access::Write)?;
    if !event.tag_filter.is_empty() && event.service_filter.is_empty() {
        return Err(Error::refused("Cannot provide tag filter without service filter"));
    }
    let event_filter = event.event_filter()?;
    let app = Arc::clone(&request.app);
    let layout = request.layout;
    let body = request.into_body();
    later(async move {
        let limit = EVENT_BYTES_MAX as u64;
        event.payload = match payload::collect(body, limit).await {
            Err(Error::TooLarge(_)) => return Err(too_large(usize::MAX)),
            payload => payload?,
        };
        if event.size() > EVENT_BYTES_MAX {
            return Err(too_large(event.size()));
        }
        let reply = Reply::json(&Row::from(&event), layout);
        let [node, service, tag] = [&event.node_filter, &event.service_filter, &event.tag_filter];
        let told = UserEvent {
            id: event.id,
            ltime: 0,
            name: event.name.clone(),
            payload: event.payload.clone(),
            filters: [node, service, tag].map(Clone::clone),
        };
        let fired = app.parts.pools.fire(told).await;
        event.ltime = fired.map_err(|stopped| Error::refused(stopped.to_string()))?;
        // Who fired it finds it in the list at once.
        if event_filter.includes(&app.parts.local) {
            app.events.hear(event);
        }
        Ok(reply)
    })
}

/// Keeps what the pool tells and the filters let pass, until nothing more can come.
pub(super) async fn listen(app: Arc<AppState>) {
    use tokio::sync::broadcast::error::RecvError;
    let mut told = app.parts.pools.events();
    loop {
        let told = match told.recv().await {
            Ok(told) => told,
            // Events are kept up to a number; those that were missed would be gone by now.
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        // As in the reference, users do not see what servers tell each other.
        if told.leader().is_some() {
            continue;
        }
        let [node_filter, service_filter, tag_filter] = told.filters.clone();
        let event = Event {
            id: told.id,
            name: told.name.clone(),
            payload: told.payload.clone(),
            node_filter,
            service_filter,
            tag_filter,
            ltime: told.ltime,
        };
        // Whoever fired it has looked at its filters; an agent of another version may know others.
        if event.event_filter().is_ok_and(|event_filter| event_filter.includes(&app.parts.local)) {
            app.events.hear(event);
        }
    }
}

fn too_large(size: usize) -> Error {
    let (what, when) = if size > EVENT_BYTES_MAX + EVENT_BYTES_ENVELOPE {
        ("user event", "before")
    } else {
        ("encoded user event", "after")
    };
    Error::refused(format!(
        "1 error occurred:\n\t* error broadcasting event to segment \"\": {what} exceeds \
         configured limit of {EVENT_BYTES_MAX} bytes {when} encoding\n\n"
    ))
}

/// Parameters of a list of events.
struct Listing {
    app: Arc<AppState>,
    name: String,
    token: Token,
    layout: Layout,
}

impl Listing {
    /// The list as it stands, encoded, and its index.
    fn look(&self) -> (u64, Vec<u8>) {
        let heard = self.app.events.heard();
        let shown: Vec<&Event> = heard
            .ring
            .iter()
            .filter(|event| self.name.is_empty() || event.name == self.name)
            .filter(|event| {
                authorize(&self.token, Resource::Event(&event.name), Access::Read).is_ok()
            })
            .collect();
        let index = index_of(shown.last().copied());
        let rows: Vec<Row> = shown.into_iter().map(Row::from).collect();
        (index, encode::json(&rows, self.layout))
    }

    /// The list once its index is another than `index`, or at the deadline as it is.
    async fn wait(&self, index: u64, deadline: Instant) -> (u64, Vec<u8>) {
        let mut count = self.app.events.count.subscribe();
        loop {
            let (found, bytes) = self.look();
            let waited = if found == index {
                tokio::time::timeout_at(deadline, count.changed()).await.is_err()
            } else {
                true
            };
            if waited {
                return (found, bytes);
            }
        }
    }
}

fn list(request: Request) -> Result<Answer, Error> {
    let (index, wait) = request.index_and_wait()?;
    let waits = request.app.settings.waits;
    let listing = Listing {
        app: Arc::clone(&request.app),
        name: request.params.get("name").unwrap_or_default().to_owned(),
        token: request.token.clone(),
        layout: request.layout,
    };
    if request.wants_events() {
        let seen = request.last_event().or((index > 0).then_some(index));
        drop(request);
        let pieces = futures::stream::unfold((listing, seen), move |(listing, seen)| async move {
            let deadline = Instant::now() + waits.bounded(stream::KEEP_ALIVE);
            // 0 is no index: the first look always answers.
            let (index, bytes) = listing.wait(seen.unwrap_or(0), deadline).await;
            let piece = if Some(index) == seen {
                stream::silence()
            } else {
                stream::piece(&index.to_string(), &bytes)
            };
            Some((piece, (listing, Some(index))))
        });
        let mut reply = stream::reply();
        reply.content = Content::Stream(Box::pin(pieces));
        return Ok(Answer::Now(reply));
    }
    drop(request);
    later(async move {
        let deadline = Instant::now() + waits.with_jitter(wait);
        let (found, bytes) =
            if index == 0 { listing.look() } else { listing.wait(index, deadline).await };
        Ok(Reply::encoded(bytes.into()).with(INDEX, HeaderValue::from(found)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, payload: usize) -> Event {
        Event {
            id: Uuid::nil(),
            name: name.to_owned(),
            payload: vec![b'a'; payload].into(),
            node_filter: String::new(),
            service_filter: String::new(),
            tag_filter: String::new(),
            ltime: 0,
        }
    }

    #[test]
    fn sizes_are_counted_as_the_reference_counts_them() {
        // The largest payloads that the reference took.
        for (name, payload) in
            [("e", 414), ("ev", 412), ("eventnamelongerthanthirtytwocharactersxx", 333)]
        {
            assert!(event(name, payload).size() <= EVENT_BYTES_MAX, "{name}");
            assert!(event(name, payload + 1).size() > EVENT_BYTES_MAX, "{name}");
        }
        let mut filtered = event("e", 400);
        filtered.node_filter = "abc".into();
        filtered.service_filter = "def".into();
        assert_eq!(filtered.size(), EVENT_BYTES_MAX);
    }

    #[test]
    fn the_index_is_made_from_the_id() {
        let mut last = event("e", 0);
        last.id = "19acf675-db01-0991-ec5a-4c370c7a1a08".parse().unwrap();
        assert_eq!(index_of(Some(&last)), 17_723_558_179_808_940_953);
        assert_eq!(index_of(None), 1);
    }

    #[test]
    fn only_the_newest_are_remembered() {
        let events = Events::new();
        for number in 0..EVENTS_MAX + 10 {
            let id = Uuid::from_u128(number as u128);
            events.hear(Event { id, ..event(&number.to_string(), 0) });
            events.hear(Event { id, ..event("again", 0) });
        }
        let heard = events.heard();
        assert_eq!(heard.ring.len(), EVENTS_MAX);
        assert_eq!(heard.ring[0].name, "10");
    }
}
