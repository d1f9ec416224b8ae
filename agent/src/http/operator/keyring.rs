//! The keys that gossip is sealed with.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::acl::{Access, Resource};
use crate::gossip::{Keyring, Name, Order, Pools, Report};
use crate::http::decode::{Malformed, Object};
use crate::http::error::Error;
use crate::http::extract::Request;
use crate::http::handler::{Answer, later};
use crate::http::payload::{self, BODY_BYTES_MAX};
use crate::http::reply::Reply;

/// Keys of all members of a pool.
#[derive(Serialize)]
struct Pool<'a> {
    #[serde(rename = "WAN")]
    wan: bool,
    #[serde(rename = "Datacenter")]
    datacenter: &'a str,
    #[serde(rename = "Segment")]
    segment: &'a str,
    /// Number of members that have each key.
    #[serde(rename = "Keys")]
    keys: BTreeMap<String, usize>,
    /// Number of members that use each key as primary.
    #[serde(rename = "PrimaryKeys")]
    primary: BTreeMap<String, usize>,
    #[serde(rename = "NumNodes")]
    nodes: usize,
}

/// Checks what the reference checks: answers go back directly here, and there is no wide area.
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
    let (pools, layout) = (request.app.parts.pools.clone(), request.layout);
    let datacenter = request.app.parts.datacenter.clone();
    later(async move {
        let all = order_all(&pools, &datacenter, &Order::List).await?;
        let shown: Vec<Pool> =
            all.iter().map(|(segment, reports)| Pool::of(&datacenter, segment, reports)).collect();
        Ok(Reply::json(&shown, layout))
    })
}

impl<'a> Pool<'a> {
    fn of(datacenter: &'a str, segment: &'a str, reports: &[(Name, Report)]) -> Pool<'a> {
        let mut pool = Pool {
            wan: false,
            datacenter,
            segment,
            keys: BTreeMap::new(),
            primary: BTreeMap::new(),
            nodes: reports.len(),
        };
        for (_, report) in reports {
            for key in &report.keys {
                *pool.keys.entry(Keyring::write(key)).or_default() += 1;
            }
            if let Some(key) = report.keys.first() {
                *pool.primary.entry(Keyring::write(key)).or_default() += 1;
            }
        }
        pool
    }
}

/// Gives an order to the members of all segments, one segment after the other: what servers were told in
/// the first, they need not do again. All are told, whatever some of them answer.
async fn order_all<'a>(
    pools: &'a Pools,
    datacenter: &str,
    order: &Order,
) -> Result<Vec<(&'a str, Vec<(Name, Report)>)>, Error> {
    let (mut all, mut failed) = (Vec::new(), Vec::new());
    for pool in pools.each() {
        let reports = pool.order_keys(order).await;
        failed.extend(failures(datacenter, pool.segment(), &reports));
        all.push((pool.segment(), reports));
    }
    if failed.is_empty() { Ok(all) } else { Err(listed(&failed)) }
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
    let pools = request.app.parts.pools.clone();
    let datacenter = request.app.parts.datacenter.clone();
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
        order_all(&pools, &datacenter, &order(bytes)).await?;
        Ok(Reply::empty())
    })
}

/// The members of a segment that could not do it, after a line of how many; none if all could.
fn failures(datacenter: &str, segment: &str, reports: &[(Name, Report)]) -> Vec<String> {
    let mut failed: Vec<String> = reports
        .iter()
        .filter(|(_, report)| !report.error.is_empty())
        .map(|(name, report)| format!("{name}: {}", report.error))
        .collect();
    if failed.is_empty() {
        return failed;
    }
    failed.sort();
    let (some, all) = (failed.len(), reports.len());
    let segment = if segment.is_empty() { String::new() } else { format!(" [{segment}]") };
    let summary = format!("{datacenter} (LAN){segment} error: {some}/{all} nodes reported failure");
    failed.insert(0, summary);
    failed
}

/// The reference's way of listing several errors.
fn listed(errors: &[String]) -> Error {
    let plural = if errors.len() == 1 { "error" } else { "errors" };
    let lines = errors.join("\n\t* ");
    Error::refused(format!("{} {plural} occurred:\n\t* {lines}\n\n", errors.len()))
}
