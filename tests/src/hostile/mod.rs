//! A peer of bad will at a server's port for agents. It knows the frames and every method, and sends what is well
//! formed and means harm: values at their limits, everything a thousand times, halves, mutations, and it seldom reads.
//!
//! It shares no code with the agent: it says what a stranger could say.

mod bodies;
mod value;

pub use bodies::{METHODS, Target};
pub use value::{Random, Value};

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// How long a server may refuse to take more before this peer does something else.
const WRITE_LIMIT: Duration = Duration::from_millis(100);

/// How long an answer is waited for, when one is.
const READ_LIMIT: Duration = Duration::from_millis(5);

/// Connections that are left open, half a frame sent or a thousand calls parked.
const KEPT: usize = 40;

/// The peer, with the connections that it has left open.
#[derive(Debug)]
pub struct Peer {
    address: String,
    target: Target,
    random: Random,
    kept: Vec<TcpStream>,
    id: u32,
}

/// A frame: length, kind, id, and what follows.
pub fn frame(kind: u8, id: u32, rest: &[u8]) -> Vec<u8> {
    let length = u32::try_from(5 + rest.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &[kind], &id.to_be_bytes(), rest].concat()
}

/// A request of a method, with the milliseconds that it may take.
pub fn request(id: u32, method: u16, within: u32, body: &[u8]) -> Vec<u8> {
    frame(1, id, &[&method.to_be_bytes()[..], &within.to_be_bytes(), body].concat())
}

impl Peer {
    /// A peer of the server whose port for agents is at `address`, which does the same again from the same seed.
    pub fn new(address: String, target: Target, seed: u64) -> Self {
        Self { address, target, random: Random::new(seed), kept: Vec::new(), id: 0 }
    }

    /// Opens a connection for a class of traffic, as its first byte says.
    ///
    /// # Errors
    /// When nobody answers there, or it is not taken.
    pub fn connect(&self, class: u8) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_LIMIT))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(&[class, 1])?;
        let mut greeting = [0; 2];
        stream.read_exact(&mut greeting)?;
        stream.set_read_timeout(Some(READ_LIMIT))?;
        Ok(stream)
    }

    /// One request of a random method with a body that its handler can read.
    fn well_formed(&mut self) -> (u8, Vec<u8>) {
        let (number, class, make) = METHODS[self.random.below(METHODS.len())];
        let mut body = Vec::new();
        make(&self.target, &mut self.random).encode(&mut body);
        // A few in between ask for nothing and for anything.
        let number = if self.random.chance(20) { self.random.number() } else { u64::from(number) };
        let within = u32::try_from(self.random.number()).unwrap_or(u32::MAX);
        self.id = self.id.wrapping_add(1);
        let number = u16::try_from(number & 0xffff).unwrap_or(0);
        (class, request(self.id, number, within, &body))
    }

    /// Sends one well-formed request of the method in this place of [`METHODS`], and says what came of it: the kind of
    /// the first frame that comes back, and what it carries.
    ///
    /// # Errors
    /// When nothing comes back.
    pub fn ask(&mut self, method: usize) -> io::Result<(u8, Vec<u8>)> {
        let (number, class, make) = METHODS[method];
        let mut body = Vec::new();
        make(&self.target, &mut self.random).encode(&mut body);
        let mut stream = self.connect(class)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(&request(1, number, 50, &body))?;
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let mut rest = vec![0; usize::try_from(length).unwrap_or(5).saturating_sub(5)];
        stream.read_exact(&mut rest)?;
        Ok((head[4], rest))
    }

    /// Does one thing, and says which. That the server ends the connection is its right.
    ///
    /// # Errors
    /// When the server cannot be reached any more.
    pub fn act(&mut self) -> io::Result<&'static str> {
        if self.kept.len() >= KEPT {
            let gone = self.random.below(self.kept.len());
            self.kept.swap_remove(gone);
        }
        let (class, bytes) = self.well_formed();
        let mut stream = self.connect(class)?;
        let what = match self.random.below(8) {
            0..=2 => {
                let mut ask = || -> io::Result<()> {
                    for _ in 0..5 {
                        stream.write_all(&bytes)?;
                        let mut answer = [0; 4096];
                        let _ = stream.read(&mut answer)?;
                    }
                    Ok(())
                };
                let _ = ask();
                "values at their limits"
            }
            3 => {
                self.repeat(&mut stream, &bytes);
                self.kept.push(stream);
                "one request a thousand times, never read"
            }
            4 => {
                let half = self.random.below(bytes.len()).max(1);
                let _ = stream.write_all(&bytes[..half]);
                self.kept.push(stream);
                "half a frame"
            }
            5 => {
                for _ in 0..20 {
                    let mut mutated = bytes.clone();
                    for _ in 0..=self.random.below(4) {
                        // The length stays: behind it all else is read.
                        let place = 4 + self.random.below(mutated.len() - 4);
                        mutated[place] = self.random.byte();
                    }
                    let _ = stream.write_all(&mutated);
                }
                "mutations"
            }
            6 => {
                self.announce(&mut stream);
                self.kept.push(stream);
                "a large frame that does not end"
            }
            _ => {
                self.out_of_order(&mut stream);
                "frames out of order"
            }
        };
        Ok(what)
    }

    /// The same under a thousand ids.
    fn repeat(&mut self, stream: &mut TcpStream, bytes: &[u8]) {
        for _ in 0..1000 {
            let mut again = bytes.to_vec();
            self.id = self.id.wrapping_add(1);
            again[5..9].copy_from_slice(&self.id.to_be_bytes());
            if stream.write_all(&again).is_err() {
                return;
            }
        }
    }

    /// Announces up to 16 MiB and sends all but a byte, as far as it is taken.
    fn announce(&mut self, stream: &mut TcpStream) {
        let length = (16 << 20) - self.random.below(8 << 20);
        let announced = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        if stream.write_all(&announced).is_err() {
            return;
        }
        let piece = vec![self.random.byte(); 256 << 10];
        for _ in 0..(length / piece.len()).saturating_sub(1) {
            if stream.write_all(&piece).is_err() {
                return;
            }
        }
    }

    /// Credit, cancellations, answers to no question, pings, and bytes of another protocol.
    fn out_of_order(&mut self, stream: &mut TcpStream) {
        for _ in 0..200 {
            let id = u32::try_from(self.random.number() & 0xffff_ffff).unwrap_or(0);
            let kind = u8::try_from(self.random.below(12)).unwrap_or(0);
            let rest = self.random.number().to_be_bytes();
            let length = self.random.below(9);
            if stream.write_all(&frame(kind, id, &rest[..length])).is_err() {
                return;
            }
        }
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    }

    /// Lets all go that it has left open.
    pub fn leave(&mut self) {
        self.kept.clear();
    }
}
