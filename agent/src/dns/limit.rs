//! Rate limit of UDP answers per client network, where an operator sets one.
//!
//! A forged source address would make us send answers to somebody else. Above the limit
//! every other query is passed over, and every other gets an empty answer that says "ask by TCP": no
//! larger than the query, and who really asked from there still gets to know.

use std::net::IpAddr;
use std::time::Instant;

use parking_lot::Mutex;

/// Networks that are told apart. Two that share a place take it from each other, which errs on the
/// side of answering.
const SLOTS: usize = 8192;

/// Answers of each network in this second.
#[derive(Debug)]
pub(super) struct Limiter {
    began: Instant,
    slots: Mutex<Vec<Slot>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    network: u64,
    second: u64,
    answers: u32,
}

/// Decision about a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Answer it.
    Pass,
    /// Say "ask by TCP".
    Truncate,
    /// Pass over it.
    Silence,
}

impl Default for Limiter {
    fn default() -> Self {
        Limiter { began: Instant::now(), slots: Mutex::default() }
    }
}

impl Limiter {
    pub(super) fn pass(&self, peer: IpAddr, per_second: u32) -> Verdict {
        self.pass_at(peer, per_second, self.began.elapsed().as_secs() + 1)
    }

    fn pass_at(&self, peer: IpAddr, per_second: u32, second: u64) -> Verdict {
        let network = network(peer);
        let mut slots = self.slots.lock();
        if slots.is_empty() {
            slots.resize(SLOTS, Slot::default());
        }
        let mixed = network.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let slot = &mut slots[usize::try_from(mixed).unwrap_or(0) % SLOTS];
        if slot.network != network || slot.second != second {
            *slot = Slot { network, second, answers: 0 };
        }
        slot.answers = slot.answers.saturating_add(1);
        match slot.answers {
            answers if answers <= per_second => Verdict::Pass,
            answers if answers % 2 == 0 => Verdict::Truncate,
            _ => Verdict::Silence,
        }
    }
}

/// Network of a client: one client usually has neighbouring addresses, so 24 bits of IPv4, 56 of IPv6.
fn network(peer: IpAddr) -> u64 {
    match peer.to_canonical() {
        IpAddr::V4(ip) => u64::from(u32::from(ip) >> 8) | 1 << 63,
        IpAddr::V6(ip) => u64::try_from(u128::from(ip) >> 72).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_gets_so_many_in_a_second() {
        let limiter = Limiter::default();
        let ask = |peer: &str, second| limiter.pass_at(peer.parse().unwrap(), 3, second);
        for _ in 0..3 {
            assert_eq!(ask("10.0.0.1", 1), Verdict::Pass);
        }
        assert_eq!(ask("10.0.0.2", 1), Verdict::Truncate);
        assert_eq!(ask("10.0.0.1", 1), Verdict::Silence);
        assert_eq!(ask("10.0.1.1", 1), Verdict::Pass);
        assert_eq!(ask("::ffff:10.0.1.2", 1), Verdict::Pass);
        assert_eq!(ask("fd00::1", 1), Verdict::Pass);
        assert_eq!(ask("10.0.0.1", 2), Verdict::Pass);
    }
}
