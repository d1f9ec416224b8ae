//! The end of an output: a bounded window over a stream of bytes.

/// The last bytes of a stream, and how many there were in all.
#[derive(Debug)]
pub struct Tail {
    /// A ring once it is full; `start` is its oldest byte.
    ring: Vec<u8>,
    start: usize,
    bytes_max: usize,
    total: u64,
}

impl Tail {
    /// Keeps at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Tail {
        Tail { ring: Vec::new(), start: 0, bytes_max, total: 0 }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let bytes = &bytes[bytes.len().saturating_sub(self.bytes_max)..];
        let room = self.bytes_max - self.ring.len();
        let (fill, wrap) = bytes.split_at(bytes.len().min(room));
        self.ring.extend_from_slice(fill);
        for byte in wrap {
            self.ring[self.start] = *byte;
            self.start = (self.start + 1) % self.bytes_max;
        }
    }

    /// The bytes that were kept, as text.
    pub fn text(&self) -> String {
        let mut bytes = Vec::with_capacity(self.ring.len());
        bytes.extend_from_slice(&self.ring[self.start..]);
        bytes.extend_from_slice(&self.ring[..self.start]);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The text, with a line that says so if its beginning was lost.
    pub fn captured(&self) -> String {
        let text = self.text();
        if self.total > self.bytes_max as u64 {
            format!("Captured {} of {} bytes\n...\n{text}", self.bytes_max, self.total)
        } else {
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_end() {
        let rows: [(usize, &[&str], &str, &str); 7] = [
            (5, &[], "", ""),
            (5, &["abc"], "abc", "abc"),
            (5, &["abcde"], "abcde", "abcde"),
            (5, &["abcdef"], "bcdef", "Captured 5 of 6 bytes\n...\nbcdef"),
            (5, &["abcd", "efg"], "cdefg", "Captured 5 of 7 bytes\n...\ncdefg"),
            (5, &["abcde", "fg", "hijklmno"], "klmno", "Captured 5 of 15 bytes\n...\nklmno"),
            (5, &["abc", "defg", "h"], "defgh", "Captured 5 of 8 bytes\n...\ndefgh"),
        ];
        for (max, pieces, text, captured) in rows {
            let mut tail = Tail::new(max);
            for piece in pieces {
                tail.push(piece.as_bytes());
            }
            assert_eq!(tail.text(), text);
            assert_eq!(tail.captured(), captured);
        }
        let mut nothing = Tail::new(0);
        nothing.push(b"abc");
        assert_eq!(nothing.captured(), "Captured 0 of 3 bytes\n...\n");
    }
}
