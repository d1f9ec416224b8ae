//! `/v1/session/`: lock holders.

use std::sync::Arc;
use std::time::Duration;

use muster_client::types::{format_nanos, parse_nanos};
use serde_json::{Value, json};

use super::Backend;
use super::decode::{Malformed, Object};
use super::encode;
use super::error::Error;
use super::extract::Request;
use super::handler::{Answer, later};
use super::page::Page;
use super::payload::{self, BODY_BYTES_MAX};
use super::reply::Reply;
use super::routing::{self, Routes};
use super::rows::{Rows, SessionRow};
use crate::acl::{Access, Authority, Resource};
use crate::http::read::Family;
use crate::read::{Body, Query};
use crate::store::{Behavior, Change, Found, Index, Session, Store};

pub(super) fn routes() -> Routes {
    Routes::new()
        .route("/v1/session/create", routing::put(create))
        .route("/v1/session/destroy/", routing::put(destroy))
        .route("/v1/session/renew/", routing::put(renew))
        .route("/v1/session/info/", routing::get(info).waits())
        .route("/v1/session/node/", routing::get(of_node).waits())
        .route("/v1/session/list", routing::get(list).waits())
}

/// The longest TTL.
const TTL_MAX: Duration = Duration::from_hours(24);
/// The lock-delay of a session that names none.
const LOCK_DELAY_DEFAULT_NS: u64 = 15_000_000_000;
/// Smaller numbers are meant as seconds, not as nanoseconds: nobody wants a delay of 30 ns.
const LOCK_DELAY_SECONDS_BELOW: u64 = 1000;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// A question about sessions.
#[derive(Debug)]
struct Sessions {
    what: What,
    page: Page,
    layout: encode::Layout,
    #[allow(
        dead_code,
        reason = "part of the key of shared answers, which is the `Debug` of the whole"
    )]
    authority: Authority,
}

#[derive(Debug)]
enum What {
    All,
    OfNode(String),
    One(String),
}

impl Query for Sessions {
    fn index(&self, store: &Store) -> Option<Index> {
        Some(store.sessions().index())
    }

    fn evaluate(&self, store: &Store) -> Found<Body> {
        let sessions = store.sessions();
        let found = match &self.what {
            What::All => sessions.list(),
            What::OfNode(node) => sessions.of_node(node),
            What::One(id) => {
                let found = sessions.get(id);
                let rows = found.rows.into_iter().collect();
                Found { rows, index: found.index, scopes: found.scopes }
            }
        };
        let (rows, next) = self.page.cut(&found.rows, |session| session.id.to_string());
        let rows = Rows(rows.iter().map(|session| SessionRow::from(&**session)));
        let body = Body::new(encode::json(&rows, self.layout)).with_next(next);
        Found { rows: body, index: found.index, scopes: found.scopes }
    }
}

fn read(request: Request, what: What) -> Result<Answer, Error> {
    let read = request.read_options()?;
    let query = Sessions {
        what,
        page: Page::of(&request.params)?,
        layout: request.layout,
        authority: request.token.authority(),
    };
    request.read(query, read, Family::Plain)
}

fn list(request: Request) -> Result<Answer, Error> {
    request.authorize(Resource::Session(""), Access::Read)?;
    read(request, What::All)
}

fn of_node(request: Request) -> Result<Answer, Error> {
    request.read_options()?;
    let node = request.rest().to_owned();
    if node.is_empty() {
        return Err(Error::invalid("Missing node name"));
    }
    request.authorize(Resource::Session(&node), Access::Read)?;
    read(request, What::OfNode(node))
}

fn info(request: Request) -> Result<Answer, Error> {
    request.read_options()?;
    let id = request.rest().to_owned();
    if id.is_empty() {
        return Err(Error::invalid("Missing session"));
    }
    request.authorize(Resource::Session(""), Access::Read)?;
    if let Err(error) = check_id(&id) {
        return super::handler::now(crate::http::read::failed(error, Family::Plain));
    }
    read(request, What::One(id))
}

/// The reference looks sessions up by the bytes of their id, and says so when there are none.
fn check_id(id: &str) -> Result<(), Error> {
    const PREFIX: &str = "failed session lookup: index error:";
    if id.len() != 36 {
        return Err(Error::refused(format!("{PREFIX} UUID must be 36 characters")));
    }
    let refuse = |what: String| Err(Error::refused(format!("{PREFIX} {what}")));
    let hyphens = id.bytes().filter(|byte| *byte == b'-').count();
    if hyphens > 4 {
        return refuse(format!("UUID should have maximum of 4 \"-\"; got {hyphens}"));
    }
    if !(id.len() - hyphens).is_multiple_of(2) {
        return refuse("Input (without hyphens) must be even length".into());
    }
    match id.bytes().find(|byte| *byte != b'-' && !byte.is_ascii_hexdigit()) {
        None => Ok(()),
        Some(byte) => {
            let shown = char::from(byte);
            refuse(format!("Invalid UUID: encoding/hex: invalid byte: U+{byte:04X} '{shown}'"))
        }
    }
}

/// Parses the body of a session's creation.
pub(super) fn definition(body: &[u8], node: &str) -> Result<Session, Malformed> {
    let mut session = Session {
        id: Arc::from(""),
        name: String::new(),
        node: node.to_owned(),
        lock_delay_ns: LOCK_DELAY_DEFAULT_NS,
        behavior: Behavior::Release,
        ttl: String::new(),
        node_checks: vec!["serfHealth".to_owned()],
        service_checks: Vec::new(),
        create_index: 0,
        modify_index: 0,
    };
    if body.is_empty() {
        return Ok(session);
    }
    let mut from = Object::parse(body)?;
    // Fields that nobody knows are ignored here, alone among the end points.
    session.name = from.string("Name")?;
    let named = from.string("Node")?;
    if !named.is_empty() {
        session.node = named;
    }
    session.ttl = from.string("TTL")?;
    match from.string("Behavior")?.as_str() {
        "" | "release" => {}
        "delete" => session.behavior = Behavior::Delete,
        other => return Err(Malformed(format!("Invalid Behavior setting '{other}'"))),
    }
    match from.take("LockDelay") {
        None => {}
        Some(Value::String(text)) => {
            let ns = parse_nanos(&text)
                .ok_or_else(|| Malformed(format!("time: invalid duration {text:?}")))?;
            session.lock_delay_ns = lock_delay(u64::try_from(ns).unwrap_or(0));
        }
        Some(Value::Number(number)) => {
            let number = number.as_f64().unwrap_or(0.0).max(0.0);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a float's cast saturates, and it is not negative"
            )]
            let number = number as u64;
            session.lock_delay_ns = lock_delay(number);
        }
        Some(_) => session.lock_delay_ns = 0,
    }
    let old = from.has("Checks").then(|| from.strings("Checks")).transpose()?;
    let node_checks = from.has("NodeChecks").then(|| from.strings("NodeChecks")).transpose()?;
    if let Some(checks) = node_checks.or(old) {
        session.node_checks = checks;
    }
    for mut check in from.objects("ServiceChecks")? {
        session.service_checks.push((check.string("ID")?, check.string("Namespace")?));
    }
    Ok(session)
}

fn lock_delay(number: u64) -> u64 {
    if number < LOCK_DELAY_SECONDS_BELOW { number * NS_PER_SECOND } else { number }
}

/// A TTL within its bounds, or none at all.
fn check_ttl(ttl: &str, min: Duration) -> Result<(), Error> {
    if ttl.is_empty() {
        return Ok(());
    }
    let ns = parse_nanos(ttl).ok_or_else(|| {
        Error::refused(format!("Session TTL '{ttl}' invalid: time: invalid duration {ttl:?}"))
    })?;
    let within = u64::try_from(ns)
        .is_ok_and(|ns| ns == 0 || (min..=TTL_MAX).contains(&Duration::from_nanos(ns)));
    if within {
        return Ok(());
    }
    let print = |d: Duration| format_nanos(i64::try_from(d.as_nanos()).unwrap_or(i64::MAX));
    Err(Error::refused(format!(
        "Invalid Session TTL '{ns}', must be between [{}={}]",
        print(min),
        print(TTL_MAX)
    )))
}

fn create(request: Request) -> Result<Answer, Error> {
    request.no_namespace()?;
    let datacenter = request.datacenter_is_here();
    let token = request.token.clone();
    let app = request.app.clone();
    let layout = request.layout;
    let body = request.into_body();
    later(async move {
        let body = payload::collect(body, BODY_BYTES_MAX).await?;
        let wanted = definition(&body, &app.parts.node_name);
        let mut session = match wanted {
            Ok(session) => session,
            Err(Malformed(text)) if text.starts_with("Invalid Behavior") => {
                return Err(Error::Refused(text));
            }
            Err(error) => return Err(Error::invalid(format!("Request decode failed: {error}"))),
        };
        datacenter?;
        crate::acl::authorize(&token, Resource::Session(&session.node), Access::Write)?;
        check_ttl(&session.ttl, app.settings.session_ttl_min)?;
        session.id = uuid::Uuid::new_v4().to_string().into();
        let id = Arc::clone(&session.id);
        app.propose(Change::SessionCreate(Box::new(session))).await?;
        Ok(Reply::json(&json!({ "ID": &*id }), layout))
    })
}

/// The session that a request wants to change, if it may and the name is one.
fn session_named(request: &Request) -> Result<String, Error> {
    let id = request.rest().to_owned();
    if id.is_empty() {
        return Err(Error::invalid("Missing session"));
    }
    request.no_namespace()?;
    request.datacenter_is_here()?;
    request.authorize(Resource::Session(""), Access::Write)?;
    check_id(&id)?;
    Ok(id)
}

fn destroy(request: Request) -> Result<Answer, Error> {
    let id = session_named(&request)?;
    let app = request.app.clone();
    let layout = request.layout;
    drop(request);
    later(async move {
        app.propose(Change::SessionDestroy { id: id.into() }).await?;
        Ok(Reply::json(&true, layout))
    })
}

fn renew(request: Request) -> Result<Answer, Error> {
    let id = session_named(&request)?;
    let app = request.app.clone();
    let layout = request.layout;
    drop(request);
    later(async move {
        let Backend::Here { reader, lifetimes, .. } = &app.parts.backend else {
            return Err(Error::NoServer);
        };
        let outcome =
            reader.read(crate::read::Options::default(), |store| store.sessions().get(&id)).await?;
        let Some(session) = &outcome.found.rows else {
            return Err(Error::NotFound(format!("Session id '{id}' not found")));
        };
        let deadline = tokio::time::Instant::now() + reader.leader_wait();
        lifetimes.renew(reader.consensus(), &session.id, deadline).await?;
        Ok(Reply::json(&[SessionRow::from(&**session)], layout))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_fill_in_what_clients_leave_out() {
        let session = definition(b"", "n1").unwrap();
        assert_eq!((session.node.as_str(), session.lock_delay_ns), ("n1", LOCK_DELAY_DEFAULT_NS));
        assert_eq!(session.node_checks, ["serfHealth"]);
        for (body, delay) in [
            (r#"{"LockDelay":30}"#, 30 * NS_PER_SECOND),
            (r#"{"LockDelay":"2m"}"#, 120 * NS_PER_SECOND),
            (r#"{"lockdelay":5000000000}"#, 5 * NS_PER_SECOND),
            (r#"{"LockDelay":0}"#, 0),
            (r#"{"LockDelay":true}"#, 0),
        ] {
            assert_eq!(definition(body.as_bytes(), "n1").unwrap().lock_delay_ns, delay, "{body}");
        }
        assert!(definition(br#"{"NodeChecks":[]}"#, "n").unwrap().node_checks.is_empty());
        assert_eq!(definition(br#"{"Checks":["a"]}"#, "n").unwrap().node_checks, ["a"]);
        assert!(definition(br#"{"LockDelay":"x"}"#, "n").is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_definition_is_read_or_refused(
            name in "Name|TTL|LockDelay|Behavior|NodeChecks|ServiceChecks|.{0,6}",
            value in "\\PC{0,20}|-?[0-9.e]{1,30}|\"[0-9a-z]{0,8}\"|\\[.{0,9}\\]|null|true",
        ) {
            let _ = definition(format!("{{{name:?}:{value}}}").as_bytes(), "n1");
        }

        #[test]
        fn any_id_is_good_or_refused(id in ".{0,40}|[-0-9a-g]{36}") {
            let _ = check_id(&id);
        }
    }

    #[test]
    fn ttls_have_bounds() {
        let min = Duration::from_secs(10);
        for (ttl, expected) in [
            ("", Ok(())),
            ("10s", Ok(())),
            ("24h", Ok(())),
            ("1s", Err("Invalid Session TTL '1000000000', must be between [10s=24h0m0s]")),
            ("x", Err("Session TTL 'x' invalid: time: invalid duration \"x\"")),
        ] {
            let found = check_ttl(ttl, min).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{ttl}");
        }
    }
}
