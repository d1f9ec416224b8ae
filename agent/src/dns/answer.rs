//! From rows to an answer. Pure: chance and the time come in as arguments.
//!
//! ```text
//! rows, settings ─ prepare ─▶ Prepared ─ write(chance, size, time) ─▶ bytes
//!                 once per change          for every query
//! ```
//!
//! A [`Prepared`] answer holds every record there is, in groups: an answer with what saves its
//! reader the next question. Writing shuffles the groups, takes as many as the client can hold and
//! says so when it left some out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::lookup::{Address, InstanceRow, NodeRow, OwnerRow, Rows};
use super::name::{Asked, Domain, Question};
use super::settings::Settings;
use super::wire::{Data, Name, Owner, Rcode, Record, Soa, kind};

/// Name servers in an answer.
const SERVERS_MAX: usize = 3;

/// An answer to one name and type, before anything is left out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Prepared {
    /// In which of our domains.
    pub domain: Domain,
    /// The verdict.
    pub rcode: Rcode,
    /// Is it ours to say?
    pub authoritative: bool,
    /// What is chosen from.
    pub groups: Vec<Group>,
    /// What goes with them; groups share it.
    pub extras: Vec<Vec<Record>>,
    /// How many groups are chosen at most, however large the message; `None`: all.
    pub limit: Option<usize>,
    /// In which order.
    pub order: Order,
    /// Into which section.
    pub place: Place,
    /// Where the start of the zone goes.
    pub zone: Option<Place>,
    /// Names that must be followed first, by [`Chase`]; without it the answer is what it is.
    pub unknown: Vec<Name>,
}

/// Records that only make sense together.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    /// In their order.
    pub records: Vec<Record>,
    /// Place in [`Prepared::extras`].
    pub extra: Option<usize>,
}

/// The order of groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// As they are.
    Fixed,
    /// Another one each time, so that clients spread over instances.
    Shuffled,
}

/// A section of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// What was asked for.
    Answer,
    /// Who knows.
    Authority,
}

/// Where names lead: what was found out about them elsewhere. Names are folded.
pub(super) type Chase = BTreeMap<Name, Vec<Record>>;

impl Prepared {
    /// There, but nothing of this type.
    fn empty() -> Prepared {
        Prepared {
            domain: Domain::Main,
            rcode: Rcode::NoError,
            authoritative: true,
            groups: Vec::new(),
            extras: Vec::new(),
            limit: None,
            order: Order::Fixed,
            place: Place::Answer,
            zone: Some(Place::Authority),
            unknown: Vec::new(),
        }
    }

    /// Nothing but a verdict.
    pub(super) fn verdict(rcode: Rcode) -> Prepared {
        let zone = (rcode == Rcode::NxDomain).then_some(Place::Authority);
        Prepared { rcode, zone, ..Prepared::empty() }
    }

    /// One answer.
    fn single(record: Record) -> Prepared {
        let mut prepared = Prepared { zone: None, ..Prepared::empty() };
        prepared.groups.push(Group { records: vec![record], extra: None });
        prepared
    }

    /// Addresses and other names that `owner` has, for an answer that leads there.
    pub(super) fn into_chain(self, owner: &Name) -> Vec<Record> {
        let follows =
            |record: &Record| matches!(record.data, Data::A(_) | Data::Aaaa(_) | Data::Cname(_));
        let limit = self.limit.unwrap_or(usize::MAX);
        let records = self.groups.into_iter().take(limit).flat_map(|group| group.records);
        let named = |record: Record| match record.owner {
            Owner::Asked => Record { owner: Owner::Other(owner.clone()), ..record },
            Owner::Other(_) => record,
        };
        records.filter(follows).map(named).collect()
    }

    /// Without answers the zone's start says for how long that may be kept.
    fn settled(mut self) -> Prepared {
        if !self.groups.is_empty() && self.zone == Some(Place::Authority) {
            self.zone = None;
        }
        self
    }
}

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
) -> Prepared {
    let mut work = Work {
        kind,
        asked_name,
        settings,
        chase,
        domain: settings.domain_of(question.domain),
        unknown: Vec::new(),
    };
    let mut prepared = match (&question.asked, rows) {
        (Asked::Catalog(lookup), Some(Rows::Instances(rows))) => {
            work.service(lookup.service_name(), rows)
        }
        (Asked::Catalog(_), Some(Rows::Node(node))) => work.node(node.as_ref()),
        (Asked::Reverse(_), Some(Rows::Owner(Some(owner)))) => work.owner(owner),
        (Asked::Zone, Some(Rows::Instances(rows))) => work.zone(rows),
        (Asked::Address(address), _) => work.address(*address),
        (Asked::NoAddress, _) => Prepared::empty(),
        (Asked::Transfer, _) => Prepared::verdict(Rcode::NotImp),
        (Asked::Elsewhere, _) => {
            Prepared { authoritative: false, ..Prepared::verdict(Rcode::Refused) }
        }
        // Nothing of ours, or an address that nobody has.
        _ => Prepared::verdict(Rcode::NxDomain),
    };
    prepared.domain = question.domain;
    prepared.unknown = work.unknown;
    prepared.settled()
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

/// Where something is.
enum Host {
    Ip(IpAddr),
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

    fn node(&mut self, node: Option<&NodeRow>) -> Prepared {
        let Some(node) = node else { return Prepared::verdict(Rcode::NxDomain) };
        let mut prepared = Prepared::empty();
        let ttl = self.node_ttl();
        if self.wants(&[kind::A, kind::AAAA, kind::ANY])
            && let Some(host) = self.host(&node.address)
        {
            let records = match host {
                Host::Ip(ip) => self.address_record(ip, Owner::Asked, ttl).into_iter().collect(),
                Host::Name(name) => self.alias(name, ttl),
            };
            if !records.is_empty() {
                prepared.groups.push(Group { records, extra: None });
            }
        }
        if self.wants(&[kind::TXT, kind::ANY]) {
            let pairs = meta(&node.meta, &Owner::Asked, ttl);
            prepared.groups.extend(pairs.map(|it| Group { records: vec![it], extra: None }));
        } else if self.settings.node_meta_txt && !node.meta.is_empty() {
            prepared.extras.push(meta(&node.meta, &Owner::Asked, ttl).collect());
            if let Some(first) = prepared.groups.first_mut() {
                first.extra = Some(0);
            }
        }
        prepared
    }

    fn service(&mut self, service: &str, rows: &[InstanceRow]) -> Prepared {
        let only_passing = self.settings.only_passing;
        let rows: Vec<&InstanceRow> =
            rows.iter().filter(|row| row.passing || !only_passing).collect();
        if rows.is_empty() {
            return Prepared::verdict(Rcode::NxDomain);
        }
        let ttl = seconds(self.settings.service_ttl.of(service));
        if self.kind == kind::SRV { self.places(&rows, ttl) } else { self.addresses(&rows, ttl) }
    }

    /// Addresses of instances; only if there are none at all, the name of one of them.
    fn addresses(&mut self, rows: &[&InstanceRow], ttl: u32) -> Prepared {
        let mut prepared = Prepared { order: Order::Shuffled, ..Prepared::empty() };
        let mut aliases = Vec::new();
        let mut known = std::collections::BTreeSet::new();
        for row in rows {
            match self.host_of(row) {
                Some(Host::Ip(ip)) => {
                    if let Some(record) = self.address_record(ip, Owner::Asked, ttl)
                        && known.insert(ip)
                    {
                        prepared.groups.push(Group { records: vec![record], extra: None });
                    }
                }
                Some(Host::Name(name)) => aliases.push(name),
                None => {}
            }
        }
        let limit = self.settings.a_record_limit;
        prepared.limit = (limit > 0).then_some(limit);
        if prepared.groups.is_empty() {
            aliases.sort();
            aliases.dedup();
            prepared.limit = Some(1);
            for name in aliases {
                let records = self.alias(name, ttl);
                prepared.groups.push(Group { records, extra: None });
            }
        }
        prepared
    }

    /// Hosts, ports and weights.
    fn places(&mut self, rows: &[&InstanceRow], ttl: u32) -> Prepared {
        let mut prepared = Prepared { order: Order::Shuffled, ..Prepared::empty() };
        let mut extras: BTreeMap<(Name, &str), usize> = BTreeMap::new();
        let mut known = std::collections::BTreeSet::new();
        for row in rows {
            if !known.insert((&*row.node.name, &row.address.any, row.port)) {
                continue;
            }
            let Some(host) = self.host_of(row) else { continue };
            let Some((target, addresses)) = self.target(row, host, ttl) else { continue };
            let number = *extras.entry((target.clone(), &*row.node.name)).or_insert_with(|| {
                let mut more = addresses;
                if self.settings.node_meta_txt
                    && let Some(name) = self.node_name(&row.node.name)
                {
                    more.extend(meta(&row.node.meta, &Owner::Other(name), ttl));
                }
                prepared.extras.push(more);
                prepared.extras.len() - 1
            });
            let data = Data::Srv { priority: 1, weight: row.weight, port: row.port, target };
            let record = Record { owner: Owner::Asked, ttl, data };
            prepared.groups.push(Group { records: vec![record], extra: Some(number) });
        }
        prepared
    }

    /// Where an instance is reached by name, and the addresses of that name.
    fn target(&mut self, row: &InstanceRow, host: Host, ttl: u32) -> Option<(Name, Vec<Record>)> {
        match host {
            Host::Name(name) => {
                let chain = self.follow(&name, ttl);
                Some((name, chain))
            }
            Host::Ip(ip) => {
                let own = !row.address.any.is_empty()
                    && name_of(&row.address.any).is_none_or(|name| name != *self.asked_name);
                // A node whose name no client could write is named by its address.
                let node = if own { None } else { self.node_name(&row.node.name) };
                let name = node.or_else(|| self.address_name(ip))?;
                let record = address_data(ip);
                let owner = Owner::Other(name.clone());
                Some((name, vec![Record { owner, ttl, data: record }]))
            }
        }
    }

    fn owner(&self, owner: &OwnerRow) -> Prepared {
        let datacenter = &self.settings.datacenter;
        let text = match owner {
            OwnerRow::Node(name) => format!("{name}.node.{datacenter}"),
            OwnerRow::Service(name) => format!("{name}.service.{datacenter}"),
        };
        match self.domain.below(&text) {
            Some(name) => {
                Prepared::single(Record { owner: Owner::Asked, ttl: 0, data: Data::Ptr(name) })
            }
            None => Prepared::verdict(Rcode::NxDomain),
        }
    }

    fn address(&self, address: IpAddr) -> Prepared {
        match self.address_record(address, Owner::Asked, self.node_ttl()) {
            Some(record) => Prepared::single(record),
            None => Prepared::empty(),
        }
    }

    /// The servers of this datacenter, as name servers.
    fn zone(&mut self, rows: &[InstanceRow]) -> Prepared {
        let ttl = self.node_ttl();
        let mut prepared = Prepared {
            order: Order::Shuffled,
            limit: Some(SERVERS_MAX),
            zone: None,
            ..Prepared::empty()
        };
        if self.kind == kind::SOA {
            prepared.zone = Some(Place::Answer);
            prepared.place = Place::Authority;
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
            prepared.extras.push(glue.into_iter().collect());
            let owner = Owner::Other(self.domain.clone());
            let record = Record { owner, ttl, data: Data::Ns(name) };
            let extra = Some(prepared.extras.len() - 1);
            prepared.groups.push(Group { records: vec![record], extra });
        }
        prepared
    }

    /// Where an instance is: at its own address, else at its node's.
    fn host_of(&self, row: &InstanceRow) -> Option<Host> {
        match self.host(&row.address) {
            // An instance that is named by the very question is where its node is.
            Some(Host::Name(name)) if name.folded() == *self.asked_name => {
                match self.host(&row.node.address) {
                    Some(Host::Ip(ip)) => Some(Host::Ip(ip)),
                    _ => Some(Host::Name(name)),
                }
            }
            None => self.host(&row.node.address),
            host => host,
        }
    }

    /// The address that suits the question's family.
    fn host(&self, address: &Address) -> Option<Host> {
        let special = match self.kind {
            kind::A => &address.v4,
            kind::AAAA => &address.v6,
            _ => &address.any,
        };
        let text = if special.is_empty() { &address.any } else { special };
        match text.parse::<IpAddr>() {
            Ok(ip) => {
                let ip = ip.to_canonical();
                let suits = match self.kind {
                    kind::A => ip.is_ipv4(),
                    kind::AAAA => ip.is_ipv6(),
                    _ => true,
                };
                suits.then_some(Host::Ip(ip))
            }
            Err(_) => name_of(text).map(Host::Name),
        }
    }

    fn address_record(&self, ip: IpAddr, owner: Owner, ttl: u32) -> Option<Record> {
        let data = address_data(ip);
        self.wants(&[data.kind(), kind::ANY]).then_some(Record { owner, ttl, data })
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
    fn alias(&mut self, name: Name, ttl: u32) -> Vec<Record> {
        let chain = self.follow(&name, ttl);
        let alias = Record { owner: Owner::Asked, ttl, data: Data::Cname(name) };
        std::iter::once(alias).chain(chain).collect()
    }

    fn follow(&mut self, name: &Name, ttl: u32) -> Vec<Record> {
        if let Some(chain) = self.chase.get(&name.folded()) {
            return chain.iter().map(|record| Record { ttl, ..record.clone() }).collect();
        }
        self.unknown.push(name.clone());
        Vec::new()
    }
}

/// A host name as it was registered. `None` if it is none.
fn name_of(text: &str) -> Option<Name> {
    (!text.is_empty()).then(|| Name::from_text(text)).flatten()
}

fn address_data(ip: IpAddr) -> Data {
    match ip.to_canonical() {
        IpAddr::V4(ip) => Data::A(ip),
        IpAddr::V6(ip) => Data::Aaaa(ip),
    }
}

/// The pairs of a node as text, as RFC 1464 writes them.
fn meta<'a>(
    pairs: &'a BTreeMap<String, String>,
    owner: &'a Owner,
    ttl: u32,
) -> impl Iterator<Item = Record> + 'a {
    pairs.iter().map(move |(key, value)| {
        // Keys that begin so hold text of other standards, which is not to be touched.
        let text = if key.to_lowercase().starts_with("rfc1035-") {
            value.clone()
        } else {
            format!("{}={value}", quoted(key))
        };
        Record { owner: owner.clone(), ttl, data: Data::txt(text.as_bytes()) }
    })
}

/// RFC 1464: what could be taken for the separator, and spaces at the ends, get a grave accent.
fn quoted(key: &str) -> String {
    let last = key.len() - key.len().min(key.trim_end_matches([' ', '\t']).len());
    let ends = key.len() - last;
    let begins = key.len() - key.trim_start_matches([' ', '\t']).len();
    let mut out = String::with_capacity(key.len());
    for (at, letter) in key.char_indices() {
        let space = (at < begins || at >= ends) && matches!(letter, ' ' | '\t');
        if space || matches!(letter, '=' | '`') {
            out.push('`');
        }
        out.push(letter);
    }
    out
}

/// A TTL as it travels: whole seconds, at most what RFC 2181 allows.
fn seconds(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).min(i32::MAX.unsigned_abs())
}
