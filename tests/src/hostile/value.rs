//! Values as they go over the wire, and where they come from.

/// A value in MessagePack.
#[derive(Debug, Clone)]
pub enum Value {
    /// Nothing.
    Nil,
    /// A truth value.
    Bool(bool),
    /// A number.
    Number(u64),
    /// Text.
    Text(String),
    /// Bytes, identities among them.
    Bytes(Vec<u8>),
    /// Several.
    List(Vec<Value>),
    /// Fields by their names; an enumeration with content is a map of one.
    Map(Vec<(Value, Value)>),
}

/// Fields by their names.
pub(super) fn fields<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Map(fields.into_iter().map(|(name, value)| (text(name), value)).collect())
}

/// Text.
pub(super) fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

impl Value {
    /// Appends its bytes. Lengths take their longest form, which every reader knows.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let length = |out: &mut Vec<u8>, mark: u8, length: usize| {
            out.push(mark);
            out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        };
        match self {
            Value::Nil => out.push(0xc0),
            Value::Bool(value) => out.push(0xc2 + u8::from(*value)),
            Value::Number(value) => {
                out.push(0xcf);
                out.extend_from_slice(&value.to_be_bytes());
            }
            Value::Text(value) => {
                length(out, 0xdb, value.len());
                out.extend_from_slice(value.as_bytes());
            }
            Value::Bytes(value) => {
                length(out, 0xc6, value.len());
                out.extend_from_slice(value);
            }
            Value::List(values) => {
                length(out, 0xdd, values.len());
                for value in values {
                    value.encode(out);
                }
            }
            Value::Map(pairs) => {
                length(out, 0xdf, pairs.len());
                for (name, value) in pairs {
                    name.encode(out);
                    value.encode(out);
                }
            }
        }
    }
}

/// Numbers that follow from a seed (SplitMix64): the same seed does the same again.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or(0)
    }

    /// Once in so many times.
    pub fn chance(&mut self, once_in: usize) -> bool {
        self.below(once_in) == 0
    }

    /// Any byte.
    pub fn byte(&mut self) -> u8 {
        u8::try_from(self.next() & 0xff).unwrap_or(0)
    }

    /// A number at one of its limits, or a small one.
    pub fn number(&mut self) -> u64 {
        const LIMITS: [u64; 12] = [
            0,
            1,
            u32::MAX as u64,
            1 << 32,
            1 << 53,
            (1 << 62) - 1,
            1 << 62,
            1 << 63,
            u64::MAX - 6,
            u64::MAX - 1,
            u64::MAX,
            65_535,
        ];
        if self.chance(3) { self.next() % 100 } else { LIMITS[self.below(LIMITS.len())] }
    }

    /// Text that a name should not be, now and then a usual one.
    pub fn name(&mut self) -> String {
        match self.below(6) {
            0 => String::new(),
            1 => "x".repeat(self.below(100_000)),
            2 => "a\nb\u{1b}[31m\0../../etc".to_owned(),
            3 => "/".repeat(self.below(3000)),
            4 => "\u{202e}ä\u{fffd}".to_owned(),
            _ => format!("n{}", self.below(5)),
        }
    }
}
