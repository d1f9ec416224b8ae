//! From a prepared answer to the bytes that one client gets. Pure.

use super::settings::Settings;
use super::wire::{
    Edns, Flags, Name, Query, Rcode, Record, Section, UDP_BYTES_MIN, Writer, opt_bytes,
};
use crate::dns::draft::{Draft, DraftSection, Order};

/// The largest message.
const BYTES_MAX: usize = u16::MAX as usize;
/// No datagram carries more than this behind the headers of IP and UDP.
const UDP_BYTES_MAX: usize = BYTES_MAX - 68;
/// Answers in a message of 512 bytes, whatever the settings say.
const PLAIN_UDP_ANSWERS_MAX: usize = 8;

/// Transport of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// On a connection.
    Tcp,
}

/// A source of chance that costs next to nothing. Not for secrets.
#[derive(Debug, Clone)]
pub(super) struct Chance(u64);

impl Chance {
    /// From any number.
    pub(super) fn new(seed: u64) -> Chance {
        Chance(seed | 1)
    }

    /// Below `bound`, which must not be 0. The bias is far below what a shuffle shows.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        (usize::try_from(high).unwrap_or(0) * bound) >> 32
    }
}

/// Writes the answer behind what `out` holds.
pub(super) fn write(
    query: &Query,
    draft: &Draft,
    settings: &Settings,
    transport: Transport,
    now: u32,
    chance: &mut Chance,
    out: &mut Vec<u8>,
) {
    let edns = query.edns.as_ref();
    let limit = match transport {
        Transport::Tcp => BYTES_MAX,
        Transport::Udp => {
            let asked = edns.map_or(0, |edns| usize::from(edns.udp_bytes));
            asked.clamp(UDP_BYTES_MIN, UDP_BYTES_MAX)
        }
    };
    let soa = draft.zone.and_then(|_| settings.soa(draft.domain, now));
    let order = order(draft, chance);
    let wanted = order.len();
    let plain = transport == Transport::Udp && limit == UDP_BYTES_MIN;
    let most = if plain && draft.place == DraftSection::Answer && draft.order == Order::Shuffled {
        wanted.min(settings.udp_answer_limit).min(PLAIN_UDP_ANSWERS_MAX)
    } else {
        wanted
    };
    let attempt = Attempt { query, draft, soa: soa.as_ref(), order: &order, edns, limit };
    let base = out.len();
    let compress = !settings.disable_compression;
    let flags = |left_out: bool| Flags {
        opcode: 0,
        authoritative: draft.authoritative,
        truncated: left_out && settings.enable_truncate,
        recursion_desired: query.recursion_desired,
        recursion_available: !settings.recursors.is_empty(),
        checking_disabled: query.checking_disabled,
    };
    // All of it nearly always fits. Else what merely helps goes first, then answers.
    let fits = |count: usize, extras: Extras, out: &mut Vec<u8>| {
        out.truncate(base);
        let mut writer = Writer::new(out, limit, compress);
        let done = attempt.fill(&mut writer, count, extras);
        if done {
            writer.finish(query.id, flags(count < wanted), draft.rcode, edns);
        }
        done
    };
    if fits(most, Extras::All, out) || fits(most, Extras::NoText, out) {
        return;
    }
    let (mut good, mut bad) = (0, most);
    while bad - good > 1 {
        let middle = good.midpoint(bad);
        if fits(middle, Extras::NoText, out) { good = middle } else { bad = middle }
    }
    // A single answer counts more than what goes with it.
    if good > 0 && fits(good, Extras::NoText, out)
        || fits(most.min(1), Extras::WhatFits, out)
        || fits(0, Extras::WhatFits, out)
    {
        return;
    }
    // Not even the question and the zone fit into 512 bytes: cannot be, both are short.
    out.truncate(base);
    Writer::new(out, limit, compress).finish(query.id, flags(true), Rcode::ServFail, None);
}

/// Choice of additional records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extras {
    /// All.
    All,
    /// All but the pairs of nodes, which are most of the bytes and help the fewest.
    NoText,
    /// As many as fit.
    WhatFits,
}

struct Attempt<'a> {
    query: &'a Query,
    draft: &'a Draft,
    soa: Option<&'a Record>,
    order: &'a [usize],
    edns: Option<&'a Edns>,
    limit: usize,
}

impl<'a> Attempt<'a> {
    /// Writes the first `count` groups and what goes with them. `false`: not all of it fits.
    fn fill(&self, writer: &mut Writer<'_, 'a>, count: usize, extras: Extras) -> bool {
        let Attempt { query, draft, .. } = self;
        let asked: &'a Name = &query.name;
        debug_assert!(self.limit >= UDP_BYTES_MIN, "a question and its OPT record always fit");
        writer.reserve(self.edns.map_or(0, opt_bytes));
        writer.question(asked, query.kind, query.class);
        if draft.zone == Some(DraftSection::Answer)
            && !self.soa.is_none_or(|soa| writer.record(Section::Answer, soa, asked))
        {
            return false;
        }
        let section = match draft.place {
            DraftSection::Answer => Section::Answer,
            DraftSection::Authority => Section::Authority,
        };
        let chosen = || self.order[..count].iter().map(|at| &draft.groups[*at]);
        for group in chosen() {
            if !group.records.iter().all(|it| writer.record(section, it, asked)) {
                return false;
            }
        }
        if draft.zone == Some(DraftSection::Authority)
            && !self.soa.is_none_or(|soa| writer.record(Section::Authority, soa, asked))
        {
            return false;
        }
        let mut written = vec![false; draft.extras.len()];
        for extra in chosen().flat_map(|group| group.extras.iter().copied()) {
            if std::mem::replace(&mut written[extra], true) {
                continue;
            }
            for record in &draft.extras[extra] {
                if extras == Extras::NoText && record.data.kind() == super::wire::kind::TXT {
                    continue;
                }
                if !writer.record(Section::Additional, record, asked) && extras != Extras::WhatFits
                {
                    return false;
                }
            }
        }
        true
    }
}

/// The groups that are wanted, in the order of this answer: a shuffle of as many as that.
fn order(draft: &Draft, chance: &mut Chance) -> Vec<usize> {
    let count = draft.groups.len();
    let wanted = draft.limit.unwrap_or(count).min(count);
    let mut order: Vec<usize> = (0..count).collect();
    if draft.order == Order::Shuffled {
        for at in 0..wanted {
            order.swap(at, at + chance.below(count - at));
        }
    }
    order.truncate(wanted);
    order
}
