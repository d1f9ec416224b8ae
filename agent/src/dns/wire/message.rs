//! An answer on its way into bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Edns, HEADER_BYTES, Name, Rcode, class, kind};

/// A record of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Name of the record's owner.
    pub owner: Owner,
    /// For how many seconds it may be kept.
    pub ttl: u32,
    /// Content of the record.
    pub data: Data,
}

impl Record {
    /// Bytes of memory that it takes, about.
    pub(crate) fn memory(&self) -> usize {
        let owner = match &self.owner {
            Owner::Asked => 0,
            Owner::Other(name) => name.bytes().len(),
        };
        let data = match &self.data {
            Data::A(_) | Data::Aaaa(_) => 0,
            Data::Cname(name) | Data::Ns(name) | Data::Ptr(name) => name.bytes().len(),
            Data::Srv { target, .. } => target.bytes().len(),
            Data::Soa(soa) => {
                size_of::<Soa>() + soa.primary.bytes().len() + soa.mailbox.bytes().len()
            }
            Data::Txt(text) => text.len(),
        };
        size_of::<Record>() + owner + data
    }
}

/// Owner of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The name that was asked for, spelt as the client did: two bytes on the wire.
    Asked,
    /// Another one.
    Other(Name),
}

/// Content of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// Another name.
    Cname(Name),
    /// A name server.
    Ns(Name),
    /// The name of an address.
    Ptr(Name),
    /// The start of the zone.
    Soa(Box<Soa>),
    /// Host and port of a service.
    Srv {
        /// Lower is tried first.
        priority: u16,
        /// Share among equals.
        weight: u16,
        /// Port.
        port: u16,
        /// Host.
        target: Name,
    },
    /// Text: strings with their length before them.
    Txt(Box<[u8]>),
}

/// The start of a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Soa {
    /// The first name server.
    pub primary: Name,
    /// Mailbox of the administrator.
    pub mailbox: Name,
    /// Version of the zone; the time of the answer, since this zone changes all the time.
    pub serial: u32,
    /// Seconds between looks of a secondary.
    pub refresh: u32,
    /// Seconds after one that failed.
    pub retry: u32,
    /// Seconds until a secondary gives up.
    pub expire: u32,
    /// Seconds for which the absence of a name may be kept.
    pub minimum: u32,
}

impl Data {
    /// The type's number.
    pub(crate) fn kind(&self) -> u16 {
        match self {
            Data::A(_) => kind::A,
            Data::Aaaa(_) => kind::AAAA,
            Data::Cname(_) => kind::CNAME,
            Data::Ns(_) => kind::NS,
            Data::Ptr(_) => kind::PTR,
            Data::Soa(_) => kind::SOA,
            Data::Srv { .. } => kind::SRV,
            Data::Txt(_) => kind::TXT,
        }
    }

    /// Text of any length as the strings of at most 255 bytes that travel.
    pub(crate) fn txt(text: &[u8]) -> Data {
        let mut out = Vec::with_capacity(text.len() + 1 + text.len() / 255);
        if text.is_empty() {
            out.push(0);
        }
        for part in text.chunks(255) {
            out.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(part);
        }
        Data::Txt(out.into())
    }
}

/// The bits of an answer's header.
#[expect(clippy::struct_excessive_bools, reason = "each is one bit of the header")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    /// Of the query.
    pub opcode: u8,
    /// We know it ourselves.
    pub authoritative: bool,
    /// Something was left out.
    pub truncated: bool,
    /// Of the query.
    pub recursion_desired: bool,
    /// Names of others are looked up elsewhere.
    pub recursion_available: bool,
    /// Of the query.
    pub checking_disabled: bool,
}

impl Flags {
    fn bits(self) -> u16 {
        let bit = |on: bool, at: u16| u16::from(on) << at;
        1 << 15
            | u16::from(self.opcode & 0xF) << 11
            | bit(self.authoritative, 10)
            | bit(self.truncated, 9)
            | bit(self.recursion_desired, 8)
            | bit(self.recursion_available, 7)
            | bit(self.checking_disabled, 4)
    }
}

/// Number of a section in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    /// Answers.
    Answer = 1,
    /// Authority.
    Authority = 2,
    /// Additional records, which save the next question.
    Additional = 3,
}

/// Buckets of the table of written names; a power of two.
const BUCKETS: usize = 64;
/// Jumps reach this far.
const JUMP_MAX: usize = 0x3FFF;

/// Writes one message of a bounded size. Sections must come in their order.
#[derive(Debug)]
pub(crate) struct Writer<'o, 'a> {
    out: &'o mut Vec<u8>,
    /// The message begins here: frames of TCP have their length before it.
    base: usize,
    /// Bytes that the message may have, what is still to be written apart.
    limit: usize,
    compress: bool,
    counts: [u16; 4],
    /// Ends of names that were written, chained by bucket: (end, where, next in the bucket).
    ends: Vec<(&'a [u8], u16, u16)>,
    buckets: [u16; BUCKETS],
}

/// A place to go back to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    length: usize,
    counts: [u16; 4],
    ends: usize,
}

impl<'o, 'a> Writer<'o, 'a> {
    /// Begins a message of at most `limit` bytes behind what `out` holds.
    pub(crate) fn new(out: &'o mut Vec<u8>, limit: usize, compress: bool) -> Writer<'o, 'a> {
        let base = out.len();
        out.resize(base + HEADER_BYTES, 0);
        Writer {
            out,
            base,
            limit,
            compress,
            counts: [0; 4],
            ends: Vec::new(),
            buckets: [0; BUCKETS],
        }
    }

    /// The question, as it was asked.
    pub(crate) fn question(&mut self, name: &'a Name, kind: u16, class: u16) {
        self.name(name, true);
        self.out.extend_from_slice(&kind.to_be_bytes());
        self.out.extend_from_slice(&class.to_be_bytes());
        self.counts[0] += 1;
    }

    /// Current position in the message.
    pub(crate) fn mark(&self) -> Mark {
        Mark { length: self.out.len(), counts: self.counts, ends: self.ends.len() }
    }

    /// Takes back everything since `mark`.
    pub(crate) fn back_to(&mut self, mark: Mark) {
        self.out.truncate(mark.length);
        self.counts = mark.counts;
        while self.ends.len() > mark.ends {
            if let Some((end, _, next)) = self.ends.pop() {
                self.buckets[bucket(end)] = next;
            }
        }
    }

    /// Sets room aside for something that is written later.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.limit = self.limit.saturating_sub(bytes);
    }

    /// A record; `false` if it does not fit, and then it is not there.
    pub(crate) fn record(&mut self, section: Section, record: &'a Record, asked: &'a Name) -> bool {
        let mark = self.mark();
        match &record.owner {
            Owner::Asked => self.name(asked, true),
            Owner::Other(name) => self.name(name, true),
        }
        self.out.extend_from_slice(&record.data.kind().to_be_bytes());
        self.out.extend_from_slice(&class::IN.to_be_bytes());
        self.out.extend_from_slice(&record.ttl.to_be_bytes());
        let length_at = self.out.len();
        self.out.extend_from_slice(&[0, 0]);
        match &record.data {
            Data::A(address) => self.out.extend_from_slice(&address.octets()),
            Data::Aaaa(address) => self.out.extend_from_slice(&address.octets()),
            Data::Cname(name) | Data::Ns(name) | Data::Ptr(name) => self.name(name, true),
            Data::Soa(soa) => {
                self.name(&soa.primary, true);
                self.name(&soa.mailbox, true);
                for number in [soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum] {
                    self.out.extend_from_slice(&number.to_be_bytes());
                }
            }
            Data::Srv { priority, weight, port, target } => {
                for number in [priority, weight, port] {
                    self.out.extend_from_slice(&number.to_be_bytes());
                }
                // RFC 2782: a target is never compressed. What follows may point to it.
                self.name(target, false);
            }
            Data::Txt(strings) => self.out.extend_from_slice(strings),
        }
        let length = u16::try_from(self.out.len() - length_at - 2);
        let count = self.counts[section as usize].checked_add(1);
        match (length, count) {
            (Ok(length), Some(count)) if self.out.len() - self.base <= self.limit => {
                self.out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
                self.counts[section as usize] = count;
                true
            }
            _ => {
                self.back_to(mark);
                false
            }
        }
    }

    /// The header, and what we say to a client that said what it can do. Room for the latter must
    /// have been set aside with [`opt_bytes`].
    pub(crate) fn finish(mut self, id: u16, flags: Flags, rcode: Rcode, edns: Option<&Edns>) {
        if let Some(edns) = edns {
            self.out.push(0);
            self.out.extend_from_slice(&kind::OPT.to_be_bytes());
            self.out.extend_from_slice(&edns.udp_bytes.to_be_bytes());
            let high = u8::try_from(rcode.code() >> 4).unwrap_or(0);
            self.out.extend_from_slice(&[high, 0, 0, 0]);
            let length_at = self.out.len();
            self.out.extend_from_slice(&[0, 0]);
            if let Some(subnet) = &edns.subnet {
                subnet.write(self.out);
            }
            let length = u16::try_from(self.out.len() - length_at - 2).unwrap_or(0);
            self.out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
            self.counts[Section::Additional as usize] += 1;
        }
        let bits = flags.bits() | rcode.code() & 0xF;
        let header = &mut self.out[self.base..self.base + HEADER_BYTES];
        header[0..2].copy_from_slice(&id.to_be_bytes());
        header[2..4].copy_from_slice(&bits.to_be_bytes());
        for (at, count) in self.counts.iter().enumerate() {
            header[4 + 2 * at..6 + 2 * at].copy_from_slice(&count.to_be_bytes());
        }
    }

    /// The header of a query that wants its name followed. Its number comes later.
    pub(crate) fn finish_query(self) {
        let header = &mut self.out[self.base..self.base + HEADER_BYTES];
        header[2..6].copy_from_slice(&[1, 0, 0, 1]);
    }

    /// A name; the longest end of it that was written before becomes a jump, if that is allowed.
    fn name(&mut self, name: &'a Name, may_jump: bool) {
        let bytes = name.bytes();
        let mut at = 0;
        while bytes[at] != 0 {
            let end = &bytes[at..];
            if self.compress {
                let written = self.find(end);
                if let (Some(place), true) = (written, may_jump) {
                    self.out.extend_from_slice(&(0xC000 | place).to_be_bytes());
                    return;
                }
                if written.is_none() {
                    self.remember(end);
                }
            }
            let next = at + 1 + usize::from(bytes[at]);
            self.out.extend_from_slice(&bytes[at..next]);
            at = next;
        }
        self.out.push(0);
    }

    fn find(&self, end: &[u8]) -> Option<u16> {
        let mut next = self.buckets[bucket(end)];
        while next > 0 {
            let (known, place, before) = &self.ends[usize::from(next) - 1];
            if *known == end {
                return Some(*place);
            }
            next = *before;
        }
        None
    }

    fn remember(&mut self, end: &'a [u8]) {
        let place = self.out.len() - self.base;
        let number = u16::try_from(self.ends.len() + 1);
        if let (Ok(place), true, Ok(number)) = (u16::try_from(place), place <= JUMP_MAX, number) {
            let bucket = &mut self.buckets[bucket(end)];
            self.ends.push((end, place, *bucket));
            *bucket = number;
        }
    }
}

/// Bytes that the OPT record of an answer to such a client takes.
pub(crate) fn opt_bytes(edns: &Edns) -> usize {
    let subnet = edns.subnet.map_or(0, |it| 8 + usize::from(it.prefix_bits).div_ceil(8));
    11 + subnet
}

fn bucket(end: &[u8]) -> usize {
    // The first labels of names differ most; a few bytes and the length tell enough of them apart.
    let mixed = end
        .iter()
        .take(24)
        .fold(end.len(), |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    mixed % BUCKETS
}
