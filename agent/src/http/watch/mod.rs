//! `POST /v1/watch`, our addition to the API: many questions on one event stream.
//!
//! A client of the reference needs a connection for each question that it follows, and an agent takes
//! `http_max_conns_per_client` of one address. Here it names its questions and gets the answers of all of them on one
//! connection. Each question is asked as if it had come alone, again and again: by the handler of its path, with its
//! limits, its rights, its consistency and its waits, and equal questions share one evaluation and one encoded body. One
//! that fails costs itself alone.
//!
//! | file | owns |
//! |---|---|
//! | `question` | one question: where it is, what its next request says, what comes of it |
//! | `places` | how many questions are followed, for each client and in total |
//!
//! The stream is pulled: while a client does not read, nothing is evaluated for it, and what changes meanwhile becomes
//! one answer.

mod places;
mod question;

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use serde::Deserialize;

use super::error::Error;
use super::extract::{LAST_EVENT_ID, Request, TOKEN};
use super::handler::{Answer, later};
use super::payload;
use super::reply::{Content, Reply};
use super::routing::{self, Routes};
use super::{AppState, stream};
use places::Place;
pub(super) use places::Places;
use question::Question;

pub(super) fn routes() -> Routes {
    Routes::new().route("/v1/watch", routing::post(watch))
}

/// Bytes of a request.
const REQUEST_BYTES_MAX: u64 = 4 << 20;
/// Questions of one stream.
const QUESTIONS_MAX: usize = 16_384;
/// Bytes of a question's name, which every answer to it repeats.
const NAME_BYTES_MAX: usize = 256;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Asked {
    watches: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Named {
    name: String,
    path: String,
}

fn watch(request: Request) -> Result<Answer, Error> {
    let (app, peer) = (Arc::clone(&request.app), request.peer);
    let headers = headers(&request);
    let body = request.into_body();
    later(async move {
        let body = payload::collect(body, REQUEST_BYTES_MAX).await?;
        let questions = parse(&body)?;
        let place = app.watching.enter(peer, questions.len())?;
        Ok(answers(Arc::new(Asker { app, peer, headers }), questions, place))
    })
}

/// The headers with which each question is asked.
fn headers(request: &Request) -> HeaderMap {
    let mut headers = request.headers.clone();
    for name in [ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LAST_EVENT_ID] {
        headers.remove(name);
    }
    let token = request.params.get("token").filter(|token| !token.is_empty());
    if let Some(mut token) = token.and_then(|token| HeaderValue::from_str(token).ok()) {
        token.set_sensitive(true);
        headers.insert(TOKEN, token);
    }
    headers
}

fn parse(body: &[u8]) -> Result<Vec<Question>, Error> {
    let asked: Asked = serde_json::from_slice(body)
        .map_err(|error| Error::invalid(format!("Request decode failed: {error}")))?;
    let count = asked.watches.len();
    if !(1..=QUESTIONS_MAX).contains(&count) {
        return Err(Error::invalid(format!(
            "Watches has `{count}` entries: use 1 to {QUESTIONS_MAX}"
        )));
    }
    let mut names = HashSet::with_capacity(count);
    for Named { name, .. } in &asked.watches {
        let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
        if !fits || name.chars().any(char::is_control) {
            return Err(Error::invalid(format!(
                "Name is {name:?}: use 1 to {NAME_BYTES_MAX} bytes without control characters"
            )));
        }
        if !names.insert(name.as_str()) {
            return Err(Error::invalid(format!(
                "Name `{name}` is given twice: give each watch a name of its own"
            )));
        }
    }
    drop(names);
    Ok(asked.watches.into_iter().map(|it| Question::new(it.name, &it.path)).collect())
}

/// Client of all queries of a stream.
struct Asker {
    app: Arc<AppState>,
    peer: Option<IpAddr>,
    headers: HeaderMap,
}

/// A question with the next that there is to say about it.
type Said = (Question, VecDeque<Bytes>);

/// The questions of a stream, each on its way to its next answer.
struct Following {
    asker: Arc<Asker>,
    asking: FuturesUnordered<BoxFuture<'static, Said>>,
    /// The rest of an event.
    pieces: VecDeque<Bytes>,
    _place: Place,
}

fn answers(asker: Arc<Asker>, questions: Vec<Question>, place: Place) -> Reply {
    let following = Following {
        asker,
        asking: FuturesUnordered::new(),
        pieces: VecDeque::new(),
        _place: place,
    };
    for question in questions {
        following.follow(question);
    }
    let pieces = futures::stream::unfold(following, |mut following| async move {
        let piece = following.next().await;
        Some((piece, following))
    });
    let mut reply = stream::reply();
    reply.content = Content::Stream(Box::pin(pieces));
    reply
}

impl Following {
    fn follow(&self, mut question: Question) {
        let asker = Arc::clone(&self.asker);
        self.asking.push(Box::pin(async move {
            let pieces = question.next(&asker).await;
            (question, pieces)
        }));
    }

    async fn next(&mut self) -> Bytes {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return piece;
            }
            match tokio::time::timeout(stream::KEEP_ALIVE, self.asking.next()).await {
                Ok(Some((question, pieces))) => {
                    self.pieces = pieces;
                    self.follow(question);
                }
                Ok(None) | Err(_) => return stream::silence(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_judged_before_anything_is_asked() {
        let check =
            |body: &str, expected: Result<usize, &str>| match (parse(body.as_bytes()), expected) {
                (Ok(questions), Ok(count)) => assert_eq!(questions.len(), count, "{body}"),
                (Err(error), Err(words)) => {
                    assert_eq!(error.status(), http::StatusCode::BAD_REQUEST);
                    assert!(error.to_string().contains(words), "{body}: {error}");
                }
                (Ok(_), Err(_)) => panic!("{body} is accepted"),
                (Err(error), Ok(_)) => panic!("{body}: {error}"),
            };
        let one = |name: &str| format!(r#"{{"Watches":[{{"Name":"{name}","Path":"/v1/kv/a"}}]}}"#);
        check(&one("web"), Ok(1));
        check(&one("a b ü"), Ok(1));
        check(&one(""), Err("Name is \"\""));
        check(&one(r"a\nb"), Err("Name is \"a\\nb\""));
        check(&one(&"n".repeat(NAME_BYTES_MAX)), Ok(1));
        check(&one(&"n".repeat(NAME_BYTES_MAX + 1)), Err("use 1 to 256 bytes"));
        check("", Err("Request decode failed"));
        check("[]", Err("Request decode failed"));
        check(r#"{"Watches":[]}"#, Err("`0` entries"));
        check(r#"{"Watches":[{"Name":"a","Path":"/v1/kv/a","Wait":"5s"}]}"#, Err("unknown field"));
        check(r#"{"Watches":[{"Name":"a"}]}"#, Err("missing field `Path`"));
        let pair = r#"{"Name":"a","Path":"/v1/kv/a"}"#;
        check(&format!(r#"{{"Watches":[{pair},{pair}]}}"#), Err("`a` is given twice"));
        let many = |count: usize| {
            let rows: Vec<String> = (0..count)
                .map(|number| format!(r#"{{"Name":"{number}","Path":"/v1/kv/a"}}"#))
                .collect();
            format!(r#"{{"Watches":[{}]}}"#, rows.join(","))
        };
        check(&many(QUESTIONS_MAX), Ok(QUESTIONS_MAX));
        check(&many(QUESTIONS_MAX + 1), Err("entries: use 1 to"));
    }
}
