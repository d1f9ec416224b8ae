//! Answer of another server, read only as far as following a name to its addresses needs.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Data, HEADER_BYTES, Name, Owner, Record, class, kind, u16_at, u32_at};

/// Records of an answer that are read at most.
const RECORDS_MAX: u16 = 256;

/// An answer of another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Number of its verdict.
    pub rcode: u16,
    /// Something was left out.
    pub truncated: bool,
    /// Addresses and other names among its answers.
    pub answers: Vec<Record>,
}

/// Reads an answer. `None` if it is none, or cannot be read.
pub(crate) fn parse_reply(packet: &[u8]) -> Option<Reply> {
    let flags = u16_at(packet, 2)?;
    if flags & 0x8000 == 0 {
        return None;
    }
    let (questions, count) = (u16_at(packet, 4)?, u16_at(packet, 6)?);
    let mut at = HEADER_BYTES;
    for _ in 0..questions {
        at = Name::skip(packet, at)? + 4;
    }
    let mut answers = Vec::new();
    for _ in 0..count.min(RECORDS_MAX) {
        let (owner, behind) = Name::read(packet, at)?;
        let start = behind + 10;
        let end = start + usize::from(u16_at(packet, behind + 8)?);
        let data = packet.get(start..end)?;
        let known = match u16_at(packet, behind)? {
            _ if u16_at(packet, behind + 2)? != class::IN => None,
            kind::A => Some(Data::A(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?))),
            kind::AAAA => Some(Data::Aaaa(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?))),
            kind::CNAME => {
                let (name, name_end) = Name::read(packet, start)?;
                if name_end != end {
                    return None;
                }
                Some(Data::Cname(name))
            }
            _ => None,
        };
        if let Some(data) = known {
            let ttl = u32_at(packet, behind + 4)?;
            answers.push(Record { owner: Owner::Other(owner), ttl, data });
        }
        at = end;
    }
    Some(Reply { rcode: flags & 0xF, truncated: flags & 0x0200 != 0, answers })
}
