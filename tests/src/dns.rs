//! One question by DNS, and what came back.

use std::{net::UdpSocket, time::Duration};

use anyhow::{Context, Result};

/// The type of an IPv4 address.
pub const A: u16 = 1;
/// The type of a name of an address.
pub const PTR: u16 = 12;
/// The verdict that it cannot be said now.
pub const SERVFAIL: u8 = 2;
/// The verdict that there is no such name.
pub const NXDOMAIN: u8 = 3;

/// Longer than a server waits for a leader before it gives up.
const PATIENCE: Duration = Duration::from_secs(12);

/// What came back: the verdict, and the data of each answer.
pub type Answer = (u8, Vec<Vec<u8>>);

/// One question by UDP.
///
/// # Errors
/// When no answer came in time, or one that makes no sense.
pub fn ask(port: u16, name: &str, kind: u16) -> Result<Answer> {
    let mut question = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len())?);
        question.extend(label.as_bytes());
    }
    question.push(0);
    question.extend(kind.to_be_bytes());
    question.extend([0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(&question, ("127.0.0.1", port))?;
    let mut packet = [0; 1500];
    let length = socket.recv(&mut packet)?;
    let answer = packet.get(..length).context("a packet")?;
    parse(answer, question.len()).context("not an answer")
}

/// Reads the answers behind the question, which is repeated as it was.
fn parse(packet: &[u8], question: usize) -> Option<Answer> {
    let number =
        |at: usize| Some(usize::from(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?])));
    let (rcode, count) = (packet.get(3)? & 15, number(6)?);
    let (mut at, mut all) = (question, Vec::new());
    for _ in 0..count {
        // A name ends with an empty label or a pointer.
        loop {
            match *packet.get(at)? {
                0 => break at += 1,
                length if length >= 0xc0 => break at += 2,
                length => at += 1 + usize::from(length),
            }
        }
        let length = number(at + 8)?;
        all.push(packet.get(at + 10..at + 10 + length)?.to_vec());
        at += 10 + length;
    }
    Some((rcode, all))
}
