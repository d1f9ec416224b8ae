//! From rows to an answer. Pure: chance and the time come in as arguments.
//!
//! ```text
//! rows, settings ─ prepare ─▶ Prepared ─ write(chance, size, time) ─▶ bytes
//!                 once per change          for every query
//! ```
//!
//! A [`Draft`] answer holds every record there is, in groups: an answer with what saves its
//! reader the next question.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::lookup::{Address, InstanceRow, NodeRow, OwnerRow, Rows};
use super::meta;
use super::name::{Asked, Domain, Question};
use super::settings::Settings;
use super::wire::{Data, Name, Owner, Rcode, Record, Soa, kind};
use crate::dns::draft::{Chase, Draft, DraftSection, Group, Order};

/// Name servers in an answer.
const SERVERS_MAX: usize = 3;

/// Prepares the answer to a question of type `kind`.
///
/// `rows` is what the catalog said, if it was asked; `asked_name` is the whole name, folded.
pub(super) fn prepare(
    question: &Question,
    kind: u16,
    asked_name: &Name,
    rows: Option<&Rows>,
    settings: &Settings,
    chase: &Chase,
) -> Draft {
    let mut work = Work {
        kind,
        asked_name,
        settings,
        chase,
        domain: settings.domain_of(question.domain),
        unknown: Vec::new(),
    };
    let mut draft = match (&question.asked, rows) {
        (Asked::Catalog(lookup), Some(Rows::Instances(rows))) => {
            work.service(lookup.service_name(), rows)
        }
        (Asked::Catalog(_), Some(Rows::Node(node))) => work.node(node.as_ref()),
        (Asked::Reverse(_), Some(Rows::Owner(Some(owner)))) => work.owner(owner),
        (Asked::Zone, Some(Rows::Instances(rows))) => work.zone(rows),
        (Asked::Address(address), _) => work.address(*address),
        (Asked::NoAddress, _) => Draft::empty(),
        (Asked::Transfer, _) => Draft::verdict(Rcode::NotImp),
        // Names of others, and addresses of others.
        (Asked::Elsewhere, _) | (Asked::Reverse(_), Some(Rows::Owner(None))) => {
            Draft { authoritative: false, ..Draft::verdict(Rcode::Refused) }
        }
        // In our domain, but nothing.
        _ => Draft::verdict(Rcode::NxDomain),
    };
    draft.domain = question.domain;
    draft.unknown = work.unknown;
    draft.settled()
}

impl Settings {
    fn domain_of(&self, domain: Domain) -> &Name {
        match (domain, &self.alt_domain) {
            (Domain::Alternative, Some(name)) => name,
            _ => &self.domain,
        }
    }

    /// The record that says where the zone starts.
    pub(super) fn soa(&self, domain: Domain, now: u32) -> Option<Record> {
        let domain = self.domain_of(domain);
        let soa = Soa {
            primary: domain.below("ns")?,
            mailbox: domain.below("hostmaster")?,
            serial: now,
            refresh: self.soa.refresh,
            retry: self.soa.retry,
            expire: self.soa.expire,
            minimum: self.soa.min_ttl,
        };
        Some(Record {
            owner: Owner::Other(domain.clone()),
            ttl: self.soa.min_ttl,
            data: Data::Soa(Box::new(soa)),
        })
    }
}

struct Work<'a> {
    kind: u16,
    asked_name: &'a Name,
    settings: &'a Settings,
    chase: &'a Chase,
    domain: &'a Name,
    unknown: Vec<Name>,
}

/// An address or a host name.
enum Host {
    /// At addresses, the first of which is its own; never empty.
    Ips(Vec<IpAddr>),
    Name(Name),
}

impl Work<'_> {
    fn wants(&self, kinds: &[u16]) -> bool {
        kinds.contains(&self.kind)
    }

    fn node_ttl(&self) -> u32 {
        seconds(self.settings.node_ttl)
    }

    /// Under its own name, in the domain that was asked in.
    fn node_name(&self, node: &str) -> Option<Name> {
        let name = format!("{node}.node.{}", self.settings.datacenter);
        self.domain.below(&name)
    }

    fn node(&mut self, node: Option<&NodeRow>) -> Draft {
        let Some(node) = node else { return Draft::verdict(Rcode::NxDomain) };
        let mut draft = Draft::empty();
        let ttl = self.node_ttl();
        if self.wants(&[kind::A, kind::AAAA, kind::ANY])
            && let Some(host) = self.host(&node.address)
        {
            let records = match host {
                Host::Ips(ips) => address_records(&ips, &Owner::Asked, ttl),
                Host::Name(name) => self.alias(name, None),
            };
            draft.groups.push(Group { records, extras: Vec::new() });
        }
        if self.wants(&[kind::TXT, kind::ANY]) {
            let pairs = meta::records(&node.meta, &Owner::Asked, ttl);
            draft.groups.extend(pairs.map(|it| Group { records: vec![it], extras: Vec::new() }));
        } else if self.settings.node_meta_txt && !node.meta.is_empty() {
            draft.extras.push(meta::records(&node.meta, &Owner::Asked, ttl).collect());
            if let Some(first) = draft.groups.first_mut() {
                first.extras.push(0);
            }
        }
        draft
    }

    fn service(&mut self, service: &str, rows: &[InstanceRow]) -> Draft {
        let only_passing = self.settings.only_passing;
        let rows: Vec<&InstanceRow> =
            rows.iter().filter(|row| row.passing || !only_passing).collect();
        if rows.is_empty() {
            return Draft::verdict(Rcode::NxDomain);
        }
        let ttl = seconds(self.settings.service_ttl.of(service));
        if self.kind == kind::SRV { self.places(&rows, ttl) } else { self.addresses(&rows, ttl) }
    }

    /// Addresses of instances; only if there are none at all, the name of one of them.
    fn addresses(&mut self, rows: &[&InstanceRow], ttl: u32) -> Draft {
        let mut draft = Draft { order: Order::Shuffled, ..Draft::empty() };
        let mut aliases = Vec::new();
        let mut known = std::collections::BTreeSet::new();
        for row in rows {
            match self.host_of(row) {
                Some(Host::Ips(mut ips)) => {
                    ips.retain(|ip| known.insert(*ip));
                    let records = address_records(&ips, &Owner::Asked, ttl);
                    if !records.is_empty() && self.wants(&[kind::A, kind::AAAA, kind::ANY]) {
                        draft.groups.push(Group { records, extras: Vec::new() });
                    }
                }
                Some(Host::Name(name)) => aliases.push(name),
                None => {}
            }
        }
        let limit = self.settings.a_record_limit;
        draft.limit = (limit > 0).then_some(limit);
        if draft.groups.is_empty() {
            aliases.sort();
            aliases.dedup();
            draft.limit = Some(1);
            for name in aliases {
                let records = self.alias(name, Some(ttl));
                draft.groups.push(Group { records, extras: Vec::new() });
            }
        }
        draft
    }

    /// Hosts, ports and weights.
    fn places(&mut self, rows: &[&InstanceRow], ttl: u32) -> Draft {
        let mut draft = Draft { order: Order::Shuffled, ..Draft::empty() };
        // What goes with several answers is said once.
        let mut known_targets: BTreeMap<Name, usize> = BTreeMap::new();
        let mut known_nodes: BTreeMap<&str, usize> = BTreeMap::new();
        let mut known = std::collections::BTreeSet::new();
        for row in rows {
            let Some(host) = self.host_of(row) else { continue };
            let Some((target, addresses)) = self.target(row, host, ttl) else { continue };
            let mut own = Vec::with_capacity(2);
            own.push(*known_targets.entry(target.clone()).or_insert_with(|| {
                draft.extras.push(addresses);
                draft.extras.len() - 1
            }));
            if self.settings.node_meta_txt
                && !row.node.meta.is_empty()
                && let Some(name) = self.node_name(&row.node.name)
            {
                own.push(*known_nodes.entry(&*row.node.name).or_insert_with(|| {
                    let owner = Owner::Other(name);
                    let pairs = meta::records(&row.node.meta, &owner, ttl);
                    draft.extras.push(pairs.collect());
                    draft.extras.len() - 1
                }));
            }
            // Weights may differ: the first of equal places counts.
            if !known.insert((target.clone(), row.port)) {
                continue;
            }
            let data = Data::Srv { priority: 1, weight: row.weight, port: row.port, target };
            let record = Record { owner: Owner::Asked, ttl, data };
            draft.groups.push(Group { records: vec![record], extras: own });
        }
        draft
    }

    /// Name under which an instance is reached, and the addresses of that name.
    fn target(&mut self, row: &InstanceRow, host: Host, ttl: u32) -> Option<(Name, Vec<Record>)> {
        match host {
            Host::Name(name) => {
                let chain = self.follow(&name, Some(ttl));
                Some((name, chain))
            }
            Host::Ips(mut ips) => {
                let own = !row.address.any.is_empty()
                    && name_of(&row.address.any).is_none_or(|name| name != *self.asked_name);
                // A node whose name no client could write is named by its address.
                let node = if own { None } else { self.node_name(&row.node.name) };
                let name = if let Some(name) = node {
                    name
                } else {
                    ips.truncate(1);
                    self.address_name(*ips.first()?)?
                };
                let records = address_records(&ips, &Owner::Other(name.clone()), ttl);
                Some((name, records))
            }
        }
    }

    /// Answers a reverse query with the owner of the address.
    fn owner(&self, owner: &OwnerRow) -> Draft {
        if !self.wants(&[kind::PTR, kind::ANY]) {
            return Draft::empty();
        }
        let datacenter = &self.settings.datacenter;
        let text = match owner {
            OwnerRow::Node(name) => format!("{name}.node.{datacenter}"),
            OwnerRow::Service(name) => format!("{name}.service.{datacenter}"),
        };
        match self.domain.below(&text) {
            Some(name) => {
                Draft::single(Record { owner: Owner::Asked, ttl: 0, data: Data::Ptr(name) })
            }
            None => Draft::verdict(Rcode::NxDomain),
        }
    }

    fn address(&self, address: IpAddr) -> Draft {
        let data = address_data(address);
        if self.wants(&[data.kind(), kind::ANY]) {
            Draft::single(Record { owner: Owner::Asked, ttl: self.node_ttl(), data })
        } else {
            Draft::empty()
        }
    }

    /// The servers of this datacenter, as name servers.
    fn zone(&mut self, rows: &[InstanceRow]) -> Draft {
        let ttl = self.node_ttl();
        let mut draft = Draft {
            order: Order::Shuffled,
            limit: Some(SERVERS_MAX),
            zone: None,
            ..Draft::empty()
        };
        if self.kind == kind::SOA {
            draft.zone = Some(DraftSection::Answer);
            draft.place = DraftSection::Authority;
        }
        for row in rows {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            if !row.node.name.bytes().all(plain) {
                continue;
            }
            let Some(name) = self.node_name(&row.node.name.to_lowercase()) else { continue };
            let glue = row.node.address.any.parse().ok().map(|ip| Record {
                owner: Owner::Other(name.clone()),
                ttl,
                data: address_data(ip),
            });
            draft.extras.push(glue.into_iter().collect());
            let owner = Owner::Other(self.domain.clone());
            let record = Record { owner, ttl, data: Data::Ns(name) };
            let extras = vec![draft.extras.len() - 1];
            draft.groups.push(Group { records: vec![record], extras });
        }
        draft
    }

    /// Host of an instance: its own address, else its node's.
    fn host_of(&self, row: &InstanceRow) -> Option<Host> {
        let own = &row.address;
        if own.any.is_empty() && own.v4.is_empty() && own.v6.is_empty() {
            return self.host(&row.node.address);
        }
        match self.host(own) {
            // An instance that is named by the very question is where its node is.
            Some(Host::Name(name)) if name.folded() == *self.asked_name => {
                match self.host(&row.node.address) {
                    Some(Host::Ips(ips)) => Some(Host::Ips(ips)),
                    _ => Some(Host::Name(name)),
                }
            }
            host => host,
        }
    }

    /// The addresses that suit the question's family, or a name.
    fn host(&self, address: &Address) -> Option<Host> {
        let (before, after): (&[&String], &[&String]) = match self.kind {
            kind::A => (&[&address.v4], &[]),
            kind::AAAA => (&[&address.v6], &[]),
            _ => (&[], &[&address.v4, &address.v6]),
        };
        let own = [&address.any];
        let mut ips = Vec::new();
        for text in before.iter().chain(&own).chain(after) {
            if let Ok(ip) = text.parse::<IpAddr>() {
                let ip = ip.to_canonical();
                let suits = match self.kind {
                    kind::A => ip.is_ipv4(),
                    kind::AAAA => ip.is_ipv6(),
                    // One of each family is enough.
                    _ => ips.iter().all(|it: &IpAddr| it.is_ipv4() != ip.is_ipv4()),
                };
                if suits {
                    ips.push(ip);
                }
            }
        }
        if self.kind == kind::A || self.kind == kind::AAAA {
            ips.truncate(1);
        }
        if !ips.is_empty() {
            return Some(Host::Ips(ips));
        }
        let no_address = address.any.parse::<IpAddr>().is_err();
        no_address.then(|| name_of(&address.any)).flatten().map(Host::Name)
    }

    /// `<digits>.addr.<datacenter>.<domain>`.
    fn address_name(&self, ip: IpAddr) -> Option<Name> {
        let digits = match ip {
            IpAddr::V4(ip) => format!("{:08x}", u32::from(ip)),
            IpAddr::V6(ip) => format!("{:032x}", u128::from(ip)),
        };
        self.domain.below(&format!("{digits}.addr.{}", self.settings.datacenter))
    }

    /// Another name, and where it leads.
    fn alias(&mut self, name: Name, ttl: Option<u32>) -> Vec<Record> {
        let chain = self.follow(&name, ttl);
        let ttl = ttl.unwrap_or_else(|| self.node_ttl());
        let alias = Record { owner: Owner::Asked, ttl, data: Data::Cname(name) };
        std::iter::once(alias).chain(chain).collect()
    }

    /// The records behind a name; without `ttl` each keeps its own.
    fn follow(&mut self, name: &Name, ttl: Option<u32>) -> Vec<Record> {
        if let Some(chain) = self.chase.get(&name.folded()) {
            let kept =
                |record: &Record| Record { ttl: ttl.unwrap_or(record.ttl), ..record.clone() };
            return chain.iter().map(kept).collect();
        }
        self.unknown.push(name.clone());
        Vec::new()
    }
}

/// A host name as it was registered. `None` if it is none.
fn name_of(text: &str) -> Option<Name> {
    (!text.is_empty()).then(|| Name::from_text(text)).flatten()
}

fn address_records(ips: &[IpAddr], owner: &Owner, ttl: u32) -> Vec<Record> {
    ips.iter().map(|ip| Record { owner: owner.clone(), ttl, data: address_data(*ip) }).collect()
}

fn address_data(ip: IpAddr) -> Data {
    match ip.to_canonical() {
        IpAddr::V4(ip) => Data::A(ip),
        IpAddr::V6(ip) => Data::Aaaa(ip),
    }
}

/// A TTL as it travels: whole seconds, at most what RFC 2181 allows.
fn seconds(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).min(i32::MAX.unsigned_abs())
}
