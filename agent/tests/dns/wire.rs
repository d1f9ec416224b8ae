//! Questions as bytes, and answers as text.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Edns, Message};
use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};

/// A question, as a line of a table: `NAME TYPE [tcp] [edns=1232] [ecs=10.0.0.0/8] [ch] [norec]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) name: String,
    pub(crate) kind: u16,
    pub(crate) tcp: bool,
    pub(crate) class: u16,
    recursion: bool,
    edns: Option<u16>,
    version: u8,
    subnet: Option<(u8, [u8; 4])>,
}

/// Numbers of the types that tables name.
const KINDS: [(&str, u16); 15] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
    ("NAPTR", 35),
    ("DS", 43),
    ("HTTPS", 65),
    ("IXFR", 251),
    ("AXFR", 252),
    ("ANY", 255),
];

impl Question {
    pub(crate) fn parse(line: &str) -> Question {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap().to_owned();
        let kind = words.next().unwrap();
        let kind = KINDS.iter().find(|(known, _)| *known == kind).expect("a known type").1;
        let mut question = Question {
            name,
            kind,
            tcp: false,
            class: 1,
            recursion: true,
            edns: None,
            version: 0,
            subnet: None,
        };
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("tcp", _) => question.tcp = true,
                ("ch", _) => question.class = 3,
                ("norec", _) => question.recursion = false,
                ("edns", size) => question.edns = Some(size.parse().unwrap()),
                ("version", version) => question.version = version.parse().unwrap(),
                ("ecs", subnet) => {
                    let (address, bits) = subnet.split_once('/').unwrap();
                    let address: std::net::Ipv4Addr = address.parse().unwrap();
                    question.subnet = Some((bits.parse().unwrap(), address.octets()));
                    question.edns.get_or_insert(4096);
                }
                other => panic!("what is {other:?}?"),
            }
        }
        question
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0x12, 0x34, u8::from(self.recursion), 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in self.name.split('.').filter(|label| !label.is_empty()) {
            out.push(u8::try_from(label.len()).unwrap());
            // A table cannot write a space inside a name.
            out.extend(label.replace('~', " ").as_bytes());
        }
        out.push(0);
        out.extend(self.kind.to_be_bytes());
        out.extend(self.class.to_be_bytes());
        if let Some(size) = self.edns {
            out[11] = 1;
            out.extend([0, 0, 41]);
            out.extend(size.to_be_bytes());
            out.extend([0, self.version, 0, 0]);
            let mut options = Vec::new();
            if let Some((bits, address)) = self.subnet {
                let used = usize::from(bits).div_ceil(8);
                options.extend([0, 8, 0, 4 + u8::try_from(used).unwrap(), 0, 1, bits, 0]);
                options.extend(&address[..used]);
            }
            out.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
            out.extend(options);
        }
        out
    }

    /// Asks, and takes whatever comes back in time.
    pub(crate) fn ask(&self, port: u16, patience: Duration) -> Option<Vec<u8>> {
        if self.tcp {
            by_tcp(port, &self.bytes(), patience)
        } else {
            by_udp(port, &self.bytes(), patience)
        }
    }
}

pub(crate) fn by_udp(port: u16, packet: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.send(packet).ok()?;
    let mut buffer = vec![0; 65_536];
    let length = socket.recv(&mut buffer).ok()?;
    buffer.truncate(length);
    Some(buffer)
}

pub(crate) fn by_tcp(port: u16, packet: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.write_all(&u16::try_from(packet.len()).unwrap().to_be_bytes()).ok()?;
    stream.write_all(packet).ok()?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).ok()?;
    Some(answer)
}

/// An answer as a table shows it: a line of what its header says, and its records by section,
/// sorted, since their order is chance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) head: String,
    pub(crate) records: Vec<String>,
}

pub(crate) fn show(packet: Option<&[u8]>, server_port: u16) -> Shown {
    let Some(packet) = packet else {
        return Shown { head: "silence".into(), records: Vec::new() };
    };
    let Ok(message) = Message::from_vec(packet) else {
        return Shown { head: "unreadable".into(), records: Vec::new() };
    };
    let meta = &message.metadata;
    let mut head = format!("{:?}", meta.response_code);
    for (on, name) in [
        (meta.authoritative, "aa"),
        (meta.truncation, "tc"),
        (meta.recursion_desired, "rd"),
        (meta.recursion_available, "ra"),
    ] {
        if on {
            let _ = write!(head, " {name}");
        }
    }
    let sections = [&message.answers, &message.authorities, &message.additionals];
    let _ = write!(head, " | {} {} {}", sections[0].len(), sections[1].len(), sections[2].len());
    if let Some(edns) = &message.edns {
        let _ = write!(head, " | {}", shown_edns(edns));
    }
    let mut records = Vec::new();
    for (section, name) in sections.iter().zip(["answer", "authority", "additional"]) {
        let mut lines: Vec<String> = section
            .iter()
            .map(|record| format!("{name} {}", shown_record(record, server_port)))
            .collect();
        lines.sort();
        records.extend(lines);
    }
    Shown { head, records }
}

fn shown_edns(edns: &Edns) -> String {
    let mut text = format!("edns {}", edns.max_payload());
    if let Some(EdnsOption::Subnet(subnet)) = edns.option(EdnsCode::Subnet) {
        let _ = write!(text, " {subnet:?}");
    }
    text
}

fn shown_record(record: &Record, server_port: u16) -> String {
    let text = record.to_string();
    // The time of the answer, and the port of the server under test.
    let words: Vec<&str> = text.split(' ').collect();
    if let Some(at) = words.iter().position(|word| *word == "SOA") {
        let mut words = words.clone();
        words[at + 3] = "<time>";
        return words.join(" ");
    }
    if words.contains(&"SRV") {
        let port = server_port.to_string();
        let masked = words.iter().map(|word| if **word == port { "<server>" } else { word });
        return masked.collect::<Vec<_>>().join(" ");
    }
    text
}
