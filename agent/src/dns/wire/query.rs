//! A query as it came.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{HEADER_BYTES, Name, Rcode, kind, u16_at};

/// Number of the EDNS option that names the client's network.
const OPTION_SUBNET: u16 = 8;

/// A client's query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    /// To be sent back.
    pub id: u16,
    /// The client wishes other names to be looked up elsewhere.
    pub recursion_desired: bool,
    /// To be sent back.
    pub checking_disabled: bool,
    /// The name, spelt as the client did.
    pub name: Name,
    /// The type of records.
    pub kind: u16,
    /// The class.
    pub class: u16,
    /// EDNS options of the client, if any.
    pub edns: Option<Edns>,
}

/// EDNS options of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edns {
    /// Bytes that it can take by UDP.
    pub udp_bytes: u16,
    /// Version; 0 is all there is.
    pub version: u8,
    /// For whose network it asks.
    pub subnet: Option<Subnet>,
}

impl Edns {
    /// Of a client that says no more than that it knows EDNS.
    pub(crate) fn plain() -> Edns {
        Edns { udp_bytes: 512, version: 0, subnet: None }
    }
}

/// A client's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subnet {
    /// Its address; all beyond the prefix is zero.
    pub address: IpAddr,
    /// Bits that count.
    pub prefix_bits: u8,
}

/// A packet is no query that can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing may be answered: it is an answer itself, or too short to have an id.
    Silence,
    /// Say so, and no more.
    Tell {
        /// Of the packet.
        id: u16,
        /// Of the packet.
        opcode: u8,
        /// Of the packet.
        recursion_desired: bool,
        /// The response code.
        rcode: Rcode,
    },
}

/// Reads a packet. Everything but the question and the client's abilities is passed over.
pub(crate) fn parse(packet: &[u8]) -> Result<Query, Fault> {
    let (Some(id), Some(flags)) = (u16_at(packet, 0), u16_at(packet, 2)) else {
        return Err(Fault::Silence);
    };
    // An answer to an answer could go to and fro for ever.
    if packet.len() < HEADER_BYTES || flags & 0x8000 != 0 {
        return Err(Fault::Silence);
    }
    let opcode = u8::try_from(flags >> 11 & 0xF).unwrap_or(0);
    let recursion_desired = flags & 0x0100 != 0;
    let fault = |rcode| Fault::Tell { id, opcode, recursion_desired, rcode };
    if opcode != 0 {
        return Err(fault(Rcode::NotImp));
    }
    let count = |at| u16_at(packet, at).unwrap_or(0);
    let (questions, answers, authorities, additional) = (count(4), count(6), count(8), count(10));
    // One record of the old zone may travel with a question for its changes; nothing else may.
    if questions != 1 || answers > 1 || authorities > 1 || additional > 2 {
        return Err(fault(Rcode::FormErr));
    }
    let formerr = fault(Rcode::FormErr);
    let (name, at) = Name::read(packet, HEADER_BYTES).ok_or(formerr)?;
    let kind = u16_at(packet, at).ok_or(formerr)?;
    let class = u16_at(packet, at + 2).ok_or(formerr)?;
    let mut at = at + 4;
    let mut edns = None;
    for number in 0..answers + authorities + additional {
        let record = RawRecord::read(packet, at).ok_or(formerr)?;
        at = record.end;
        if record.kind == kind::OPT {
            // Its name is the root, it is one, and it is among the additional records.
            if edns.is_some() || record.named || number < answers + authorities {
                return Err(formerr);
            }
            edns = Some(read_edns(&record).ok_or(formerr)?);
        }
    }
    let checking_disabled = flags & 0x0010 != 0;
    Ok(Query { id, recursion_desired, checking_disabled, name, kind, class, edns })
}

/// A record without its name.
struct RawRecord<'a> {
    named: bool,
    kind: u16,
    class: u16,
    version: u8,
    data: &'a [u8],
    end: usize,
}

impl<'a> RawRecord<'a> {
    fn read(packet: &'a [u8], at: usize) -> Option<RawRecord<'a>> {
        let behind = Name::skip(packet, at)?;
        let length = usize::from(u16_at(packet, behind + 8)?);
        let (start, end) = (behind + 10, behind + 10 + length);
        Some(RawRecord {
            named: behind != at + 1,
            kind: u16_at(packet, behind)?,
            class: u16_at(packet, behind + 2)?,
            version: *packet.get(behind + 5)?,
            data: packet.get(start..end)?,
            end,
        })
    }
}

fn read_edns(record: &RawRecord<'_>) -> Option<Edns> {
    let mut subnet = None;
    let mut rest = record.data;
    while !rest.is_empty() {
        let (code, length) = (u16_at(rest, 0)?, usize::from(u16_at(rest, 2)?));
        let value = rest.get(4..4 + length)?;
        rest = &rest[4 + length..];
        if code == OPTION_SUBNET {
            subnet = Some(read_subnet(value)?);
        }
    }
    Some(Edns { udp_bytes: record.class, version: record.version, subnet })
}

fn read_subnet(value: &[u8]) -> Option<Subnet> {
    let (family, prefix_bits) = (u16_at(value, 0)?, *value.get(2)?);
    let given = value.get(4..)?;
    let whole = |length: usize, bits_max: u8| {
        let fits = prefix_bits <= bits_max && given.len() == usize::from(prefix_bits).div_ceil(8);
        fits.then(|| {
            let mut bytes = [0; 16];
            bytes[..given.len()].copy_from_slice(given);
            // Bits beyond the prefix say nothing.
            if let (Some(last), 1..) = (given.len().checked_sub(1), prefix_bits % 8) {
                bytes[last] &= 0xFF << (8 - prefix_bits % 8);
            }
            (bytes, length)
        })
    };
    let address = match family {
        1 => {
            let (bytes, _) = whole(4, 32)?;
            IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
        }
        2 => IpAddr::V6(Ipv6Addr::from(whole(16, 128)?.0)),
        _ => return None,
    };
    Some(Subnet { address, prefix_bits })
}

impl Subnet {
    /// The option as an answer carries it: good for everybody (scope 0).
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let (family, bytes) = match self.address {
            IpAddr::V4(address) => (1_u16, address.octets().to_vec()),
            IpAddr::V6(address) => (2, address.octets().to_vec()),
        };
        let used = usize::from(self.prefix_bits).div_ceil(8);
        let length = u16::try_from(4 + used).unwrap_or(0);
        out.extend_from_slice(&OPTION_SUBNET.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&family.to_be_bytes());
        out.extend_from_slice(&[self.prefix_bits, 0]);
        out.extend_from_slice(&bytes[..used]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query for `a.` with the given numbers of records and bytes behind the question.
    fn packet(flags: u16, counts: [u16; 4], rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 7];
        bytes.extend(flags.to_be_bytes());
        for count in counts {
            bytes.extend(count.to_be_bytes());
        }
        bytes.extend(b"\x01a\0\0\x01\0\x01");
        bytes.extend(rest);
        bytes
    }

    fn opt(size: u16, version: u8, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 41];
        bytes.extend(size.to_be_bytes());
        bytes.extend([0, version, 0, 0]);
        bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn reads_what_is_asked() {
        let plain = parse(&packet(0x0110, [1, 0, 0, 0], b"")).unwrap();
        assert!(plain.recursion_desired && plain.checking_disabled && plain.edns.is_none());
        assert_eq!((plain.id, plain.kind, plain.class), (7, 1, 1));
        assert_eq!(plain.name.to_string(), "a.");

        let subnet = b"\0\x08\0\x07\0\x01\x15\0\x0A\x01\xFF";
        let asked = parse(&packet(0, [1, 0, 0, 1], &opt(1232, 0, subnet))).unwrap();
        let expected = Subnet { address: "10.1.248.0".parse().unwrap(), prefix_bits: 21 };
        assert_eq!(asked.edns, Some(Edns { udp_bytes: 1232, version: 0, subnet: Some(expected) }));
        let mut echoed = Vec::new();
        expected.write(&mut echoed);
        assert_eq!(echoed, b"\0\x08\0\x07\0\x01\x15\0\x0A\x01\xF8");
    }

    #[test]
    fn what_is_no_query_gets_its_due() {
        let tell =
            |opcode, rcode| Err(Fault::Tell { id: 7, opcode, recursion_desired: false, rcode });
        let good = packet(0, [1, 0, 0, 0], b"");
        let rows: Vec<(Vec<u8>, Result<(), Fault>)> = vec![
            (vec![], Err(Fault::Silence)),
            (good[..11].to_vec(), Err(Fault::Silence)),
            (packet(0x8000, [1, 0, 0, 0], b""), Err(Fault::Silence)),
            (good[..12].to_vec(), tell(0, Rcode::FormErr)),
            (good[..18].to_vec(), tell(0, Rcode::FormErr)),
            (packet(0x2800, [1, 0, 0, 0], b""), tell(5, Rcode::NotImp)),
            (packet(0x2000, [1, 0, 0, 0], b""), tell(4, Rcode::NotImp)),
            (packet(0, [0, 0, 0, 0], b""), tell(0, Rcode::FormErr)),
            (packet(0, [2, 0, 0, 0], b"\x01b\0\0\x01\0\x01"), tell(0, Rcode::FormErr)),
            (packet(0, [1, 2, 0, 0], b""), tell(0, Rcode::FormErr)),
            (packet(0, [1, 0, 2, 0], b""), tell(0, Rcode::FormErr)),
            (packet(0, [1, 0, 0, 3], b""), tell(0, Rcode::FormErr)),
            (packet(0, [1, 0, 0, 1], b""), tell(0, Rcode::FormErr)),
            (packet(0, [1, 0, 0, 1], &opt(512, 0, b"\0\x08\0\xFF")), tell(0, Rcode::FormErr)),
            (
                packet(0, [1, 0, 0, 2], &[opt(512, 0, b""), opt(512, 0, b"")].concat()),
                tell(0, Rcode::FormErr),
            ),
            (packet(0, [1, 1, 0, 0], &opt(512, 0, b"")), tell(0, Rcode::FormErr)),
            // A prefix longer than the address, an address longer than its prefix, no family.
            (
                packet(
                    0,
                    [1, 0, 0, 1],
                    &opt(512, 0, b"\0\x08\0\x09\0\x01\x21\0\x01\x02\x03\x04\x05"),
                ),
                tell(0, Rcode::FormErr),
            ),
            (
                packet(0, [1, 0, 0, 1], &opt(512, 0, b"\0\x08\0\x06\0\x01\x08\0\x01\x02")),
                tell(0, Rcode::FormErr),
            ),
            (
                packet(0, [1, 0, 0, 1], &opt(512, 0, b"\0\x08\0\x04\0\x09\0\0")),
                tell(0, Rcode::FormErr),
            ),
        ];
        for (bytes, expected) in rows {
            assert_eq!(parse(&bytes).map(|_| ()), expected, "{bytes:?}");
        }
    }

    #[test]
    fn other_records_are_passed_over() {
        let other = b"\x01x\0\0\x10\0\x01\0\0\0\0\0\x02hi";
        let both = [&other[..], &opt(4096, 1, b"\0\x0A\0\x02ab")].concat();
        let asked = parse(&packet(0, [1, 0, 0, 2], &both)).unwrap();
        assert_eq!(asked.edns, Some(Edns { udp_bytes: 4096, version: 1, subnet: None }));
        // Bytes behind the last record are nobody's business.
        assert!(parse(&packet(0, [1, 0, 0, 0], b"rubbish")).is_ok());
    }
}
