//! One question of many: where it is, what its next request says, and what comes of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::StatusCode;
use http::header::{HeaderName, RETRY_AFTER};
use http_body_util::BodyExt as _;
use muster_client::types::parse_nanos;
use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::extract::{Known, Position};
use super::super::params;
use super::super::reply::{Behind, CONTENT_HASH, INDEX};
use super::super::{service, stream};
use super::Asker;
use crate::read::{Body as Answer, Waits};
use crate::store::Found;

/// Wait of one evaluation, if the query names none.
const WAIT: Duration = Duration::from_mins(1);
/// And at least: nobody hears of a wait that ends without news.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// The pause after a first failure; doubled up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// An answer that a server sends in pieces is put together up to this size.
const PASSED_BYTES_MAX: usize = 128 << 20;
/// Answer of servers that know no leader.
const NO_LEADER: &str = "No cluster leader";

/// A question and where it is.
#[derive(Debug)]
pub(super) struct Question {
    name: String,
    /// Without what says where it is and how long it waits.
    path_and_query: String,
    wait: Duration,
    position: Option<Position>,
    failures: u32,
    /// Before the next request after a failure.
    pause: Duration,
    /// The last answer, if it was a failure.
    failure: Option<(StatusCode, String)>,
}

/// A failure as clients see it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Failed<'a> {
    name: &'a str,
    status: u16,
    error: &'a str,
}

/// Result of one request.
enum Came {
    /// Something at this position.
    Datum(Position, Arc<Found<Answer>>),
    Failure {
        status: StatusCode,
        text: String,
        pause: Duration,
    },
}

impl Question {
    /// A question as it would be asked alone.
    pub(super) fn new(name: String, path_and_query: &str) -> Question {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let (mut position, mut wait) = (None, WAIT);
        // What is no number and no duration stays: the handler has its words for it. So do wrong escapes.
        let rest = query.split(['&', ';']).filter(|pair| {
            let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
            let Some((name, text)) = params::unescape(name).zip(params::unescape(text)) else {
                return true;
            };
            match &*name {
                "index" => match params::go_unsigned(&text) {
                    Ok(index) => {
                        position =
                            position.take().or((index > 0).then_some(Position::Index(index)));
                        false
                    }
                    Err(_) => !text.is_empty(),
                },
                "hash" => {
                    position = (!text.is_empty()).then_some(Position::Hash(text));
                    false
                }
                "wait" => match parse_nanos(&text) {
                    Some(nanos) => {
                        wait = Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
                        false
                    }
                    None => !text.is_empty(),
                },
                _ => !pair.is_empty(),
            }
        });
        let query = rest.collect::<Vec<_>>().join("&");
        let path_and_query =
            if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        Question {
            name,
            path_and_query,
            // The handler that is asked has the last word, by the waits of its agent.
            wait: Waits::default().bounded(wait.max(WAIT_MIN)),
            position,
            failures: 0,
            pause: Duration::ZERO,
            failure: None,
        }
    }

    /// The answer that the next one is another than.
    fn known(&self) -> Option<Known> {
        let position = self.position.clone()?;
        Some(Known { position, wait: self.wait })
    }

    /// Asks until there is something to say: a first or changed answer, or a failure.
    pub(super) async fn next(&mut self, asker: &Asker) -> VecDeque<Bytes> {
        loop {
            if self.failures > 0 {
                sleep(self.pause).await;
            }
            let again = Instant::now() + WAIT_MIN;
            match ask(asker, &self.path_and_query, self.known()).await {
                Came::Datum(position, datum) => {
                    self.failures = 0;
                    let recovered = self.failure.take().is_some();
                    if recovered || self.position.as_ref() != Some(&position) {
                        let said = stream::event(&self.id(&position), &datum.rows);
                        self.position = Some(position);
                        return said;
                    }
                    // A path that answers at once, although nothing has changed, is asked no more often than one that
                    // waits for the shortest time.
                    sleep_until(again).await;
                }
                Came::Failure { status, text, pause } => {
                    self.failures = self.failures.saturating_add(1);
                    self.pause = pause.max(backoff(self.failures));
                    // Whoever answers next may be another server: from the beginning.
                    self.position = None;
                    let failure = Some((status, text));
                    if self.failure != failure {
                        self.failure = failure;
                        return self.failed().into();
                    }
                }
            }
        }
    }

    /// Name and position, as events carry them.
    fn id(&self, position: &Position) -> String {
        match position {
            Position::Index(index) => format!("{} {index}", self.name),
            Position::Hash(hash) => format!("{} {hash}", self.name),
        }
    }

    /// Says why there is no answer.
    fn failed(&self) -> [Bytes; 1] {
        let (status, text) = self.failure.as_ref().map_or((0, ""), |(s, t)| (s.as_u16(), t));
        let failed = Failed { name: &self.name, status, error: text };
        let datum = serde_json::to_string(&failed).expect("texts and a number are JSON");
        let event = if text == NO_LEADER { "unavailable" } else { "error" };
        [Bytes::from(format!("event: {event}\ndata: {datum}\n\n"))]
    }
}

/// The pause after so many failures in a row, spread so that many do not come back at once.
fn backoff(failures: u32) -> Duration {
    let doubled = PAUSE.saturating_mul(1 << failures.min(16).saturating_sub(1));
    doubled.min(PAUSE_MAX).mul_f64(0.5 + rand::random::<f64>() / 2.0)
}

async fn ask(asker: &Asker, path_and_query: &str, known: Option<Known>) -> Came {
    let (app, headers) = (&asker.app, asker.headers.clone());
    let response = service::ask(app, asker.peer, path_and_query, known, headers).await;
    let (mut head, body) = response.into_parts();
    let behind = head.extensions.remove::<Behind>();
    let header = |name: HeaderName| head.headers.get(name)?.to_str().ok();
    let index = header(INDEX).and_then(|text| text.parse().ok()).map(Position::Index);
    let position = index.or_else(|| Some(Position::Hash(header(CONTENT_HASH)?.to_owned())));
    let pause = header(RETRY_AFTER).and_then(|text| text.parse().ok()).unwrap_or(0);
    let pause = Duration::from_secs(pause).min(PAUSE_MAX);
    let (status, missing) = (head.status, head.status == StatusCode::NOT_FOUND);
    drop(head);
    let failure = |status, text: String| Came::Failure { status, text, pause };
    let answer = match behind {
        Some(Behind(found)) => found,
        None => match whole(body).await {
            Ok(bytes) => unshared(Answer::new(bytes)),
            Err((status, text)) => return failure(status, text),
        },
    };
    match position {
        Some(position) if status == StatusCode::OK => Came::Datum(position, answer),
        Some(position @ Position::Index(_)) if missing => {
            Came::Datum(position, unshared(Answer::missing()))
        }
        _ if status == StatusCode::OK => {
            let text = "the answer has no index to wait on: ask this path alone";
            failure(StatusCode::BAD_REQUEST, text.to_owned())
        }
        _ => failure(status, String::from_utf8_lossy(answer.rows.bytes()).trim_end().to_owned()),
    }
}

/// An answer that came alone.
fn unshared(rows: Answer) -> Arc<Found<Answer>> {
    Arc::new(Found { rows, index: 0, scopes: Vec::new() })
}

/// All of a body. What is one piece is not copied: others may be sending it, too.
async fn whole(mut body: Body) -> Result<Bytes, (StatusCode, String)> {
    let Some(first) = piece(&mut body).await? else { return Ok(Bytes::new()) };
    let Some(second) = piece(&mut body).await? else { return Ok(first) };
    let mut whole = BytesMut::from(first);
    let mut next = Some(second);
    while let Some(more) = next {
        if whole.len() + more.len() > PASSED_BYTES_MAX {
            let text = format!("the answer is larger than {PASSED_BYTES_MAX} bytes");
            return Err((StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        whole.put(more);
        next = piece(&mut body).await?;
    }
    Ok(whole.freeze())
}

/// The next piece of a body; `None` at its end.
async fn piece(body: &mut Body) -> Result<Option<Bytes>, (StatusCode, String)> {
    match body.frame().await.transpose() {
        Ok(frame) => Ok(frame.map(|frame| frame.into_data().unwrap_or_default())),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_asked_from_where_it_is() {
        let check = |asked: &str, expected: &str, known: &str| {
            let question = Question::new("n".into(), asked);
            assert_eq!(question.path_and_query, expected, "{asked}");
            let parameters = question.known().map(|known| known.parameters());
            assert_eq!(parameters.unwrap_or_default(), known, "{asked}");
        };
        check("/v1/kv/a", "/v1/kv/a", "");
        check("/v1/kv/a?", "/v1/kv/a", "");
        check("/v1/kv/a?index=0&wait=5s", "/v1/kv/a", "");
        check("/v1/kv/a?%69ndex=%37&w%61it=5s", "/v1/kv/a", "index=7&wait=5s");
        check("/v1/kv/a?index=%30", "/v1/kv/a", "");
        check("/v1/agent/service/a?hash=%26x", "/v1/agent/service/a", "hash=%26x&wait=1m0s");
        check("/v1/kv/a?x=%zz&index=7", "/v1/kv/a?x=%zz", "index=7&wait=1m0s");
        check("/v1/kv/a?index=7", "/v1/kv/a", "index=7&wait=1m0s");
        check("/v1/kv/a?index=7&stale&index=9", "/v1/kv/a?stale", "index=7&wait=1m0s");
        check(
            "/v1/kv/a%3F?wait=10m&index=7&dc=x%20y",
            "/v1/kv/a%3F?dc=x%20y",
            "index=7&wait=10m0s",
        );
        check("/v1/kv/a?index=7&wait=1ms", "/v1/kv/a", "index=7&wait=1s");
        check("/v1/kv/a?index=7&wait=90h", "/v1/kv/a", "index=7&wait=10m0s");
        check("/v1/kv/a?index=x&wait=y", "/v1/kv/a?index=x&wait=y", "");
        check("/v1/kv/a?index=7#b", "/v1/kv/a?index=7#b", "");
        check("/v1/agent/service/a?hash=1f", "/v1/agent/service/a", "hash=1f&wait=1m0s");
    }
}
