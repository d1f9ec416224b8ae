//! The hash by which clients wait for a change of one service (`?hash=`).
//!
//! Scripts keep it and compare it between agents, so it is the reference's value to the bit: every
//! value has a hash of 64 bits, fields of a record and entries of a map are joined so that their
//! order does not count, elements of a list so that it does. A record's name counts too.

use std::iter;

/// 64 bits of a value. FNV-1: equal on every machine and in every build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hash(u64);

impl Hash {
    fn of(bytes: impl IntoIterator<Item = u8>) -> Hash {
        Hash(bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte)
        }))
    }

    /// A text.
    pub(super) fn text(text: &str) -> Hash {
        Hash::of(text.bytes())
    }

    /// A number; also an index and what is not there (0).
    pub(super) fn number(number: i64) -> Hash {
        Hash::of(number.to_le_bytes())
    }

    /// Yes or no.
    pub(super) fn flag(flag: bool) -> Hash {
        Hash::of(iter::once(u8::from(flag)))
    }

    /// A list.
    pub(super) fn list(elements: impl IntoIterator<Item = Hash>) -> Hash {
        elements.into_iter().fold(Hash(0), Hash::then)
    }

    /// A map.
    pub(super) fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Hash)>) -> Hash {
        joined(Hash(0), entries)
    }

    /// A record with a name.
    pub(super) fn record<'a>(
        name: &str,
        fields: impl IntoIterator<Item = (&'a str, Hash)>,
    ) -> Hash {
        joined(Hash::text(name), fields)
    }

    fn then(self, next: Hash) -> Hash {
        Hash::of(self.0.to_le_bytes().into_iter().chain(next.0.to_le_bytes()))
    }

    /// As clients see it: hexadecimal, without leading zeroes.
    pub(super) fn shown(self) -> String {
        format!("{:x}", self.0)
    }
}

fn joined<'a>(start: Hash, entries: impl IntoIterator<Item = (&'a str, Hash)>) -> Hash {
    entries
        .into_iter()
        .fold(start, |joined, (key, value)| Hash(joined.0 ^ Hash::text(key).then(value).0))
}
