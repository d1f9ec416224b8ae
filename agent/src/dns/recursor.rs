//! Names of the rest of the world: other servers are asked, one after the other.
//!
//! A query travels on as it came, under a number and from a port that only we know, and the first
//! answer that settles it comes back as it is. What does not belong to the question is passed over.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::settings::{Settings, Strategy};
use super::wire::{HEADER_BYTES, Name, Query, Record, Writer, class, kind, parse_reply};
use super::write::{Chance, Transport};

/// Names in a row that are followed elsewhere.
const ANSWER_BYTES_MAX: usize = 65_535;
/// The verdicts that settle a question: there, or not there.
const SETTLED: [u16; 2] = [0, 3];

/// Passes a query on and writes the answer behind what `out` holds. `false`: nobody knew.
pub(super) async fn relay(
    packet: &[u8],
    query: &Query,
    transport: Transport,
    settings: &Settings,
    chance: &mut Chance,
    out: &mut Vec<u8>,
) -> bool {
    match ask_all(packet, transport, settings, chance).await {
        Some(mut answer) => {
            answer[..2].copy_from_slice(&query.id.to_be_bytes());
            out.extend_from_slice(&answer);
            true
        }
        None => false,
    }
}

/// The addresses of a name, and the names on the way there.
pub(super) async fn addresses(
    name: &Name,
    settings: &Settings,
    chance: &mut Chance,
) -> Vec<Record> {
    if settings.recursors.is_empty() {
        return Vec::new();
    }
    let mut packet = Vec::new();
    {
        let mut writer = Writer::new(&mut packet, ANSWER_BYTES_MAX, true);
        writer.question(name, kind::A, class::IN);
        writer.finish_query();
    }
    let mut answer = ask_all(&packet, Transport::Udp, settings, chance).await;
    if answer.as_deref().and_then(parse_reply).is_some_and(|reply| reply.truncated) {
        answer = ask_all(&packet, Transport::Tcp, settings, chance).await;
    }
    answer.as_deref().and_then(parse_reply).map(|reply| reply.answers).unwrap_or_default()
}

async fn ask_all(
    packet: &[u8],
    transport: Transport,
    settings: &Settings,
    chance: &mut Chance,
) -> Option<Vec<u8>> {
    let mut recursors = settings.recursors.clone();
    if settings.recursor_strategy == Strategy::Random {
        for at in (1..recursors.len()).rev() {
            recursors.swap(at, chance.below(at + 1));
        }
    }
    let mut packet = packet.to_vec();
    for recursor in recursors {
        // Not `chance`: this number keeps forgers out.
        let id: u16 = rand::random();
        packet.get_mut(..2)?.copy_from_slice(&id.to_be_bytes());
        let asking = async {
            match transport {
                Transport::Udp => by_udp(recursor, &packet).await,
                Transport::Tcp => by_tcp(recursor, &packet).await,
            }
        };
        match tokio::time::timeout(settings.recursor_timeout.max(Duration::from_millis(1)), asking)
            .await
        {
            Ok(Ok(answer)) => {
                let settled =
                    parse_reply(&answer).is_some_and(|reply| SETTLED.contains(&reply.rcode));
                if settled {
                    return Some(answer);
                }
                tracing::debug!(%recursor, "a recursor did not know");
            }
            Ok(Err(error)) => tracing::debug!(%recursor, %error, "a recursor failed"),
            Err(_) => tracing::debug!(%recursor, "a recursor took too long"),
        }
    }
    None
}

async fn by_udp(recursor: SocketAddr, packet: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match recursor {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // The system then takes nobody else's packets.
    socket.connect(recursor).await?;
    socket.send(packet).await?;
    let mut buffer = vec![0; ANSWER_BYTES_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if answers(packet, &buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn by_tcp(recursor: SocketAddr, packet: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(recursor).await?;
    let length = u16::try_from(packet.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), packet].concat()).await?;
    let length = usize::from(stream.read_u16().await?);
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    if answers(packet, &answer) {
        Ok(answer)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is to another question"))
    }
}

/// Is this an answer to that question: the number, and every byte of name, type and class?
fn answers(packet: &[u8], answer: &[u8]) -> bool {
    let question = |message: &[u8]| {
        let (name, end) = Name::read(message, HEADER_BYTES)?;
        Some((name.folded(), message.get(end..end + 4)?.to_vec()))
    };
    let head = |message: &[u8]| Some((message.get(..2)?.to_vec(), message.get(4..6)?.to_vec()));
    let is_answer = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    is_answer && head(packet) == head(answer) && question(packet) == question(answer)
}
