//! Handles one DNS packet. Most are answered at once: the state is at hand and the answer was
//! drafted for an earlier query. The rest waits for a leader, a server or a recursor.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use crate::dns::answer::prepare;
use crate::dns::cache::{Cache, CachedAnswer};
use crate::dns::draft::{Chase, Draft};
use crate::dns::limit::{Limiter, Verdict};
use crate::dns::lookup::{Lookup, Rows, look};
use crate::dns::name::{Asked, Question, understand};
use crate::dns::recursor;
use crate::dns::settings::Settings;
use crate::dns::source::Source;
use crate::dns::stale_cache::StaleCache;
use crate::dns::wire::{
    Edns, Fault, Flags, Name, Query, Rcode, UDP_BYTES_MIN, Writer, class, kind, parse,
};
use crate::dns::write::{Chance, Transport, write};
use crate::store::Store;
use crate::telemetry::metrics::{Timing, names};

/// The service whose instances are the servers.
const SERVERS: &str = "consul";
/// Longest chain of names that is followed inside our own domain.
const CHASE_DEPTH_MAX: usize = 3;
/// Names that one answer has followed.
const CHASES_MAX: usize = 32;

/// The interface: cheap to share, replaceable settings.
#[derive(Debug)]
pub struct Handler {
    source: Source,
    state: ArcSwap<State>,
    limiter: Limiter,
    kept: StaleCache,
}

/// Settings, and the answers that were made under them.
#[derive(Debug)]
struct State {
    settings: Settings,
    cache: Cache,
}

/// Result of handling a packet.
#[derive(Debug)]
pub(super) enum Handled {
    /// The answer is written.
    Answered,
    /// Nothing is said.
    Silence,
    /// To be answered by [`Handler::later`].
    Later(Box<Later>),
}

/// A query that has to wait for something.
#[derive(Debug)]
pub(super) struct Later {
    query: Query,
    question: Question,
    packet: Vec<u8>,
    transport: Transport,
    begun: Instant,
}

impl Handler {
    /// An interface on a catalog.
    pub fn new(source: Source, settings: Settings) -> Handler {
        let state = State { settings, cache: Cache::new() };
        Handler {
            source,
            state: ArcSwap::from_pointee(state),
            limiter: Limiter::default(),
            kept: StaleCache::default(),
        }
    }

    /// Other settings from now on.
    pub fn set(&self, settings: Settings) {
        self.state.store(Arc::new(State { settings, cache: Cache::new() }));
    }

    /// Answers a packet behind what `out` holds, if that needs no waiting.
    pub(super) fn now(
        &self,
        packet: &[u8],
        transport: Transport,
        peer: IpAddr,
        chance: &mut Chance,
        out: &mut Vec<u8>,
    ) -> Handled {
        let query = match parse(packet) {
            Ok(query) => query,
            Err(fault) => return tell(fault, out),
        };
        let begun = Instant::now();
        let state = self.state.load();
        let settings = &state.settings;
        let now = unix_time();
        let recursion = !settings.recursors.is_empty();
        if transport == Transport::Udp && settings.responses_per_second > 0 {
            match self.limiter.pass(peer, settings.responses_per_second) {
                Verdict::Pass => {}
                Verdict::Silence => return Handled::Silence,
                Verdict::Truncate => {
                    bare(&query, Rcode::NoError, true, recursion, out);
                    return Handled::Answered;
                }
            }
        }
        if let Some(rcode) = refusal(&query) {
            bare(&query, rcode, false, recursion, out);
            return Handled::Answered;
        }
        let key = (query.name.folded(), query.kind);
        let store = self.source.at_once(settings.freshness());
        if let Some(store) = &store
            && let Some(kept) = state.cache.get(&key, store)
        {
            write(&query, &kept.draft, settings, transport, now, chance, out);
            timing(kept.asks_owner()).since(begun);
            return Handled::Answered;
        }
        let question = understand(&key.0, query.kind, settings);
        let lookup = match lookup_of(&question.asked) {
            None if question.asked == Asked::Elsewhere && !settings.recursors.is_empty() => None,
            None => {
                let draft = prepare(&question, query.kind, &key.0, None, settings, &Chase::new());
                write(&query, &draft, settings, transport, now, chance, out);
                note(&question.asked, begun);
                return Handled::Answered;
            }
            Some(lookup) => Some(lookup),
        };
        if let (Some(store), Some(lookup)) = (store, lookup)
            && let Some(kept) = Self::prepare_now(&state, &question, &key, lookup, &store)
        {
            write(&query, &kept.draft, settings, transport, now, chance, out);
            note(&question.asked, begun);
            return Handled::Answered;
        }
        let packet = packet.to_vec();
        Handled::Later(Box::new(Later { query, question, packet, transport, begun }))
    }

    /// The answer out of the state at hand; kept if it depends on nothing else.
    fn prepare_now(
        state: &State,
        question: &Question,
        key: &(Name, u16),
        lookup: Lookup,
        store: &Store,
    ) -> Option<Arc<CachedAnswer>> {
        let rows = look(store, &lookup);
        if unowned(&rows) && !state.settings.recursors.is_empty() {
            return None;
        }
        let draft = prepare(question, key.1, &key.0, Some(&rows), &state.settings, &Chase::new());
        if !draft.unknown.is_empty() {
            return None;
        }
        let lasting = draft.rcode == Rcode::NoError;
        let kept = Arc::new(CachedAnswer::new(draft, lookup, store));
        if lasting {
            state.cache.put(key.clone(), Arc::clone(&kept));
        }
        Some(kept)
    }

    /// Answers what had to wait.
    pub(super) async fn later(&self, later: Later, chance: &mut Chance, out: &mut Vec<u8>) {
        let state = self.state.load_full();
        let settings = &state.settings;
        let Later { query, question, packet, transport, begun } = later;
        let draft = match self.rows_for(&question, settings).await {
            Some(rows) if !forwarded(&question.asked, rows.as_ref(), settings) => {
                let name = query.name.folded();
                self.chased(&question, query.kind, &name, rows.as_ref(), settings, chance).await
            }
            Some(_) => {
                if recursor::relay(&packet, &query, transport, settings, chance, out).await {
                    return;
                }
                Draft { authoritative: false, ..Draft::verdict(Rcode::ServFail) }
            }
            None => Draft::verdict(Rcode::ServFail),
        };
        write(&query, &draft, settings, transport, unix_time(), chance, out);
        note(&question.asked, begun);
    }

    /// Looks the question up in the catalog, if it is to be asked at all. `None`: it cannot be asked now.
    async fn rows_for(&self, question: &Question, settings: &Settings) -> Option<Option<Rows>> {
        let Some(lookup) = lookup_of(&question.asked) else { return Some(None) };
        if let Source::Own(_) = self.source {
            return self.source.find(&lookup, settings.freshness()).await.ok().map(Some);
        }
        if let Some(rows) = self.kept.fresh(&lookup, settings) {
            return Some(Some(rows));
        }
        match self.source.find(&lookup, settings.freshness()).await {
            Ok(rows) => {
                self.kept.put(&lookup, &rows, settings);
                Some(Some(rows))
            }
            Err(_) => self.kept.last_resort(&lookup, settings).map(Some),
        }
    }

    /// Prepares an answer and follows the names in it until it is whole, or far enough.
    async fn chased(
        &self,
        question: &Question,
        kind: u16,
        name: &Name,
        rows: Option<&Rows>,
        settings: &Settings,
        chance: &mut Chance,
    ) -> Draft {
        let mut chase = Chase::new();
        let mut draft = prepare(question, kind, name, rows, settings, &chase);
        let mut unknown = std::mem::take(&mut draft.unknown);
        unknown.truncate(CHASES_MAX);
        for target in unknown {
            let chain = self.follow(&target, settings, chance, CHASE_DEPTH_MAX).await;
            chase.insert(target.folded(), chain);
        }
        prepare(question, kind, name, rows, settings, &chase)
    }

    /// Addresses behind a name: our own names are looked up, others asked for.
    async fn follow(
        &self,
        target: &Name,
        settings: &Settings,
        chance: &mut Chance,
        depth: usize,
    ) -> Vec<super::wire::Record> {
        let folded = target.folded();
        let question = understand(&folded, kind::ANY, settings);
        if question.asked == Asked::Elsewhere {
            return recursor::addresses(target, settings, chance).await;
        }
        let Some(rows) = self.rows_for(&question, settings).await else { return Vec::new() };
        let mut draft =
            prepare(&question, kind::ANY, &folded, rows.as_ref(), settings, &Chase::new());
        if depth > 1 && !draft.unknown.is_empty() {
            let mut chase = Chase::new();
            draft.unknown.truncate(CHASES_MAX);
            for next in &draft.unknown {
                let chain = Box::pin(self.follow(next, settings, chance, depth - 1)).await;
                chase.insert(next.folded(), chain);
            }
            draft = prepare(&question, kind::ANY, &folded, rows.as_ref(), settings, &chase);
        }
        draft.into_chain(target)
    }
}

impl Later {
    /// Says that it failed.
    pub(super) fn give_up(&self, out: &mut Vec<u8>) {
        bare(&self.query, Rcode::ServFail, false, false, out);
    }
}

/// Refuses what nobody serves here, whatever the name.
fn refusal(query: &Query) -> Option<Rcode> {
    if query.edns.as_ref().is_some_and(|edns| edns.version > 0) {
        return Some(Rcode::BadVers);
    }
    // Other classes have other names; we know of none.
    (query.class != class::IN && query.class != class::ANY).then_some(Rcode::Refused)
}

/// Notes how long an answer of our own took; what others know is not ours to time.
fn note(asked: &Asked, begun: Instant) {
    if *asked != Asked::Elsewhere {
        timing(matches!(asked, Asked::Reverse(_))).since(begun);
    }
}

fn timing(of_owner: bool) -> &'static Timing {
    if of_owner { &names::DNS_PTR } else { &names::DNS_DOMAIN }
}

fn lookup_of(asked: &Asked) -> Option<Lookup> {
    match asked {
        Asked::Catalog(lookup) => Some(lookup.clone()),
        Asked::Zone => Some(Lookup::Service { name: SERVERS.into(), tag: None }),
        Asked::Reverse(address) => Some(Lookup::Reverse { address: *address }),
        _ => None,
    }
}

/// An address that nobody here has may be somebody's elsewhere.
fn unowned(rows: &Rows) -> bool {
    matches!(rows, Rows::Owner(None))
}

fn forwarded(asked: &Asked, rows: Option<&Rows>, settings: &Settings) -> bool {
    let unknown = *asked == Asked::Elsewhere || rows.is_some_and(unowned);
    unknown && !settings.recursors.is_empty()
}

/// An answer without records.
fn bare(query: &Query, rcode: Rcode, truncated: bool, recursion: bool, out: &mut Vec<u8>) {
    let flags = Flags {
        truncated,
        recursion_desired: query.recursion_desired,
        recursion_available: recursion,
        checking_disabled: query.checking_disabled,
        ..Flags::default()
    };
    let own = Edns { version: 0, ..query.edns.clone().unwrap_or_else(Edns::plain) };
    let edns = query.edns.as_ref().map(|_| &own);
    let mut writer = Writer::new(out, UDP_BYTES_MIN, true);
    writer.question(&query.name, query.kind, query.class);
    writer.finish(query.id, flags, rcode, edns);
}

/// Answers a packet that is no query.
fn tell(fault: Fault, out: &mut Vec<u8>) -> Handled {
    let Fault::Tell { id, opcode, recursion_desired, rcode } = fault else {
        return Handled::Silence;
    };
    let flags = Flags { opcode, recursion_desired, ..Flags::default() };
    Writer::new(out, UDP_BYTES_MIN, true).finish(id, flags, rcode, None);
    Handled::Answered
}

#[expect(clippy::disallowed_methods, reason = "the interface stamps answers with the time")]
fn unix_time() -> u32 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // Serial numbers are compared modulo 2^32 anyway.
    u32::try_from(seconds & u64::from(u32::MAX)).unwrap_or(0)
}

/// Answers a packet as if it had come by `transport` to a server with this state and nobody to ask:
/// the whole path of a packet as a function of its input, for tests of any bytes whatsoever.
pub fn answer_packet(
    packet: &[u8],
    transport: Transport,
    store: &Store,
    settings: &Settings,
    seed: u64,
) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let query = match parse(packet) {
        Ok(query) => query,
        Err(fault) => {
            let told = matches!(tell(fault, &mut out), Handled::Answered);
            return told.then_some(out);
        }
    };
    if let Some(rcode) = refusal(&query) {
        bare(&query, rcode, false, !settings.recursors.is_empty(), &mut out);
        return Some(out);
    }
    let name = query.name.folded();
    let question = understand(&name, query.kind, settings);
    let rows = lookup_of(&question.asked).map(|lookup| look(store, &lookup));
    let chase = Chase::new();
    let draft = prepare(&question, query.kind, &name, rows.as_ref(), settings, &chase);
    let chance = &mut Chance::new(seed);
    write(&query, &draft, settings, transport, 0, chance, &mut out);
    Some(out)
}
