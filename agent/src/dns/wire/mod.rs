//! DNS messages as bytes: queries in, answers out. Nothing here knows services or nodes.
//!
//! Written for this one use: a query is read without copying more than its name, an answer is
//! written straight into the buffer that is sent, and a record that does not fit is taken back
//! whole. What a general library does on top (zones, keys, updates) has no place in this interface.

mod message;
mod name;
mod query;
mod reply;

pub(super) use message::{Data, Flags, Owner, Record, Section, Soa, Writer, opt_bytes};
pub use name::Name;
pub(super) use query::{Edns, Fault, Query, parse};
pub(super) use reply::parse_reply;

/// Bytes of a message that every client must be able to take by UDP.
pub(super) const UDP_BYTES_MIN: usize = 512;
/// Bytes before the first question.
pub(super) const HEADER_BYTES: usize = 12;

/// Types of records, as far as anything is done with them here.
pub(super) mod kind {
    /// An IPv4 address.
    pub(crate) const A: u16 = 1;
    /// A name server.
    pub(crate) const NS: u16 = 2;
    /// Another name for the same thing.
    pub(crate) const CNAME: u16 = 5;
    /// The start of a zone.
    pub(crate) const SOA: u16 = 6;
    /// The name of an address.
    pub(crate) const PTR: u16 = 12;
    /// Text.
    pub(crate) const TXT: u16 = 16;
    /// An IPv6 address.
    pub(crate) const AAAA: u16 = 28;
    /// Service: host, port, weight.
    pub(crate) const SRV: u16 = 33;
    /// Not a record: what sender and receiver can do.
    pub(crate) const OPT: u16 = 41;
    /// Changes of a zone.
    pub(crate) const IXFR: u16 = 251;
    /// A whole zone.
    pub(crate) const AXFR: u16 = 252;
    /// Everything there is.
    pub(crate) const ANY: u16 = 255;
}

/// Classes.
pub(super) mod class {
    /// The Internet.
    pub(crate) const IN: u16 = 1;
    /// Any.
    pub(crate) const ANY: u16 = 255;
}

/// Response code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Rcode {
    /// As asked.
    NoError,
    /// The query is no query.
    FormErr,
    /// Not now.
    ServFail,
    /// There is no such name.
    NxDomain,
    /// Nobody does that here.
    NotImp,
    /// Not for you, not here.
    Refused,
    /// A version of EDNS that does not exist yet.
    BadVers,
}

impl Rcode {
    /// The number; above 15 its high bits go into the OPT record.
    pub(super) fn code(self) -> u16 {
        match self {
            Rcode::NoError => 0,
            Rcode::FormErr => 1,
            Rcode::ServFail => 2,
            Rcode::NxDomain => 3,
            Rcode::NotImp => 4,
            Rcode::Refused => 5,
            Rcode::BadVers => 16,
        }
    }
}

/// The two bytes at `at`, if they are there.
fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The four bytes at `at`, if they are there.
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
