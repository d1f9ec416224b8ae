//! The keys that gossip is sealed with.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::acl::{Access, Resource};
use crate::gossip::{Keyring, Name, Order, Report};
use crate::http::decode::{Malformed, Object};
use crate::http::error::Error;
use crate::http::extract::Request;
use crate::http::payload::{self, BODY_BYTES_MAX};
use crate::http::reply::Reply;
use crate::http::routes::{Answer, later};

/// What all members of a pool have.
#[derive(Serialize)]
struct Pool<'a> {
    #[serde(rename = "WAN")]
    wan: bool,
    #[serde(rename = "Datacenter")]
    datacenter: &'a str,
    #[serde(rename = "Segment")]
    segment: &'static str,
    /// How many members have each.
    #[serde(rename = "Keys")]
    keys: BTreeMap<String, usize>,
    /// How many members use each.
    #[serde(rename = "PrimaryKeys")]
    primary: BTreeMap<String, usize>,
    #[serde(rename = "NumNodes")]
    nodes: usize,
}

/// Checks what the reference checks: answers go back directly here, and only one pool exists.
fn options(request: &Request, lists: bool) -> Result<(), Error> {
    let bad = |text: String| Err(Error::BadRequest(text));
    if let Some(text) = request.params.get("relay-factor").filter(|text| !text.is_empty()) {
        match text.parse::<i64>() {
            Ok(0..=5) => {}
            Ok(_) => {
                return bad(
                    "Invalid relay-factor: Relay factor must be in range: [0, 5]".to_owned()
                );
            }
            Err(_) => {
                return bad(format!(
                    "Error parsing relay factor: strconv.Atoi: parsing {text:?}: invalid syntax"
                ));
            }
        }
    }
    match request.params.get("local-only").unwrap_or_default() {
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(()),
        "1" | "t" | "T" | "true" | "TRUE" | "True" if lists => Ok(()),
        "1" | "t" | "T" | "true" | "TRUE" | "True" => {
            bad("Invalid use of local-only: local-only can only be set for list requests"
                .to_owned())
        }
        text => bad(format!(
            "Error parsing local-only: strconv.ParseBool: parsing {text:?}: invalid syntax"
        )),
    }
}

pub(super) fn list(request: Request) -> Result<Answer, Error> {
    request.authorize(Resource::Operator, Access::Read)?;
    options(&request, true)?;
    let (members, layout) = (request.door.parts.pools.own().clone(), request.layout);
    let datacenter = request.door.parts.datacenter.clone();
    later(async move {
        let reports = members.order_keys(&Order::List).await;
        failures(&datacenter, &reports)?;
        let mut pool = Pool {
            wan: false,
            datacenter: &datacenter,
            segment: "",
            keys: BTreeMap::new(),
            primary: BTreeMap::new(),
            nodes: reports.len(),
        };
        for (_, report) in &reports {
            for key in &report.keys {
                *pool.keys.entry(Keyring::write(key)).or_default() += 1;
            }
            if let Some(key) = report.keys.first() {
                *pool.primary.entry(Keyring::write(key)).or_default() += 1;
            }
        }
        Ok(Reply::json(&[pool], layout))
    })
}

pub(super) fn install(request: Request) -> Result<Answer, Error> {
    order(request, Order::Install)
}

pub(super) fn switch(request: Request) -> Result<Answer, Error> {
    order(request, Order::Use)
}

pub(super) fn remove(request: Request) -> Result<Answer, Error> {
    order(request, Order::Remove)
}

/// Gives all members an order about the key in the body.
fn order(request: Request, order: fn(Vec<u8>) -> Order) -> Result<Answer, Error> {
    request.authorize(Resource::Operator, Access::Write)?;
    options(&request, false)?;
    let members = request.door.parts.pools.own().clone();
    let datacenter = request.door.parts.datacenter.clone();
    let body = request.into_body();
    later(async move {
        let body = payload::collect(body, BODY_BYTES_MAX).await?;
        let read = || {
            let mut from = Object::parse(&body)?;
            let key = from.string("Key")?;
            from.finish()?;
            Ok(key)
        };
        let key = read().map_err(|error: Malformed| {
            Error::BadRequest(format!("Request decode failed: {error}"))
        })?;
        // Keys of a wrong size are for the members to refuse, as in the reference.
        let bytes = Keyring::decode(&key).ok_or_else(|| {
            listed(&[format!("{datacenter} (LAN) error: illegal base64 data at input byte 0")])
        })?;
        failures(&datacenter, &members.order_keys(&order(bytes)).await)?;
        Ok(Reply::empty())
    })
}

/// The members that could not do it.
fn failures(datacenter: &str, reports: &[(Name, Report)]) -> Result<(), Error> {
    let mut failed: Vec<String> = reports
        .iter()
        .filter(|(_, report)| !report.error.is_empty())
        .map(|(name, report)| format!("{name}: {}", report.error))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    failed.sort();
    let (some, all) = (failed.len(), reports.len());
    failed.insert(0, format!("{datacenter} (LAN) error: {some}/{all} nodes reported failure"));
    Err(listed(&failed))
}

/// The reference's way of listing several errors.
fn listed(errors: &[String]) -> Error {
    let plural = if errors.len() == 1 { "error" } else { "errors" };
    let lines = errors.join("\n\t* ");
    Error::refused(format!("{} {plural} occurred:\n\t* {lines}\n\n", errors.len()))
}
