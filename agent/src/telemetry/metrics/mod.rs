//! Figures of this process: how often things happened, and how long they took, in intervals of ten seconds.
//!
//! ```text
//!   hot paths ─▶ Timing, Counter  (sharded atomics: no lock, no allocation)
//!                     │ taken and set back at the end of each interval
//!                     ▼
//!                 Interval  (rows, as `/v1/agent/metrics` shows them)
//! ```
//!
//! What is shown is the last interval that is over, as the reference does it: asking twice gives the same answer, and
//! dashboards that ask every ten seconds see everything once. Figures belong to the process, as its log does.
//! [`names`] lists them; what is merely looked up when somebody asks (gauges) is not here.

mod cells;
pub mod names;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use cells::{CountCells, TimeCells};

/// Length of an interval. Dashboards made for the reference expect this one.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// Labels of one figure.
pub type Labels = &'static [(&'static str, &'static str)];

/// Counts events.
#[derive(Debug)]
pub struct Counter {
    name: &'static str,
    cells: CountCells,
}

impl Counter {
    const fn new(name: &'static str) -> Counter {
        Counter { name, cells: CountCells::new() }
    }

    /// Once more.
    pub fn add(&self) {
        self.cells.add(1);
    }
}

/// Measures durations, one per event.
#[derive(Debug)]
pub struct Timing {
    name: &'static str,
    labels: Labels,
    /// Of the agent that did it: some figures of the reference carry the node's name.
    of_node: bool,
    /// Made by the first use: most paths are never asked for.
    cells: OnceLock<Box<TimeCells>>,
}

impl Timing {
    const fn new(name: &'static str) -> Timing {
        Timing::labelled(name, &[])
    }

    const fn labelled(name: &'static str, labels: Labels) -> Timing {
        Timing { name, labels, of_node: false, cells: OnceLock::new() }
    }

    const fn of_node(name: &'static str) -> Timing {
        Timing { name, labels: &[], of_node: true, cells: OnceLock::new() }
    }

    /// It began then and is over now.
    pub fn since(&self, begun: Instant) {
        self.took(begun.elapsed());
    }

    /// It took so long.
    pub fn took(&self, time: Duration) {
        self.cells.get_or_init(Box::default).add(time);
    }
}

/// The timing of this name; made if there is none yet. What is made stays: names must come from a closed set.
pub fn named(name: &str) -> &'static Timing {
    static MADE: Mutex<BTreeMap<&'static str, &'static Timing>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock();
    if let Some(timing) = made.get(name) {
        return timing;
    }
    let name: &'static str = String::from(name).leak();
    let timing = Box::leak(Box::new(Timing::new(name)));
    made.insert(name, timing);
    others().push(timing);
    timing
}

/// Timings besides those in [`names`].
fn others() -> MutexGuard<'static, Vec<&'static Timing>> {
    static OTHERS: Mutex<Vec<&'static Timing>> = Mutex::new(Vec::new());
    OTHERS.lock()
}

/// One figure over one interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Without the prefix.
    pub name: &'static str,
    /// Its own labels.
    pub labels: Labels,
    /// Does it carry the name of the node, too?
    pub of_node: bool,
    /// Number of events.
    pub count: u64,
    /// Sum, least, most and sum of squares; of times in milliseconds.
    pub sum: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    squares: f64,
}

impl Row {
    /// The mean; there is a row only for what happened.
    pub fn mean(&self) -> f64 {
        self.sum / as_float(self.count)
    }

    /// In a second of the interval.
    pub fn rate(&self) -> f64 {
        self.sum / INTERVAL.as_secs_f64()
    }

    /// The standard deviation of what was seen.
    pub fn deviation(&self) -> f64 {
        let count = as_float(self.count);
        if self.count < 2 {
            return 0.0;
        }
        // Rounding may bring it below zero when all are equal.
        ((count * self.squares - self.sum * self.sum) / (count * (count - 1.0))).max(0.0).sqrt()
    }
}

/// Figures of one interval, in the order of their names.
#[derive(Debug, Clone, Default)]
pub struct Interval {
    /// Seconds since 1970 at its begin.
    pub begun: u64,
    /// Counters.
    pub counters: Vec<Row>,
    /// Timings.
    pub timings: Vec<Row>,
}

/// The last interval that is over.
static LAST: Mutex<Option<Arc<Interval>>> = Mutex::new(None);

/// The last interval that is over; before the end of the first one, that as far as it is.
pub fn last() -> Arc<Interval> {
    let last = LAST.lock().clone();
    last.unwrap_or_else(|| Arc::new(collect(unix_time() / 10 * 10, Take::Look)))
}

/// Ends an interval after the other, at full tens of seconds, until `stop`.
pub async fn run(stop: CancellationToken) {
    loop {
        let begun = unix_time() / 10 * 10;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(left()) => {}
        }
        let over = Arc::new(collect(begun, Take::Away));
        *LAST.lock() = Some(over);
    }
}

/// Until the next full ten seconds.
#[expect(clippy::disallowed_methods, reason = "intervals begin at full tens of seconds")]
fn left() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let gone = now.as_nanos() % INTERVAL.as_nanos();
    INTERVAL.saturating_sub(Duration::from_nanos(u64::try_from(gone).unwrap_or_default()))
}

#[expect(clippy::disallowed_methods, reason = "an interval carries its time")]
fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Treatment of cells after they are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Take {
    /// They go on.
    Look,
    /// They begin anew.
    Away,
}

fn collect(begun: u64, take: Take) -> Interval {
    let count = |counter: &Counter| {
        let count = counter.cells.read(take);
        let sum = as_float(count);
        (count > 0).then_some(Row {
            name: counter.name,
            labels: &[],
            of_node: false,
            count,
            sum,
            min: 1.0,
            max: 1.0,
            squares: sum,
        })
    };
    let time = |timing: &Timing| {
        let seen = timing.cells.get()?.read(take);
        let millis = |nanos: u64| as_float(nanos) / 1e6;
        (seen.count > 0).then(|| Row {
            name: timing.name,
            labels: timing.labels,
            of_node: timing.of_node,
            count: seen.count,
            sum: millis(seen.nanos),
            min: millis(seen.min),
            max: millis(seen.max),
            squares: seen.squares,
        })
    };
    let mut timings: Vec<Row> = names::TIMINGS.iter().filter_map(|timing| time(timing)).collect();
    timings.extend(others().iter().filter_map(|timing| time(timing)));
    let mut counters: Vec<Row> = names::COUNTERS.iter().filter_map(|it| count(it)).collect();
    for rows in [&mut timings, &mut counters] {
        rows.sort_by_key(|row| (row.name, row.labels));
    }
    Interval { begun, counters, timings }
}

/// Counts in ten seconds are far below the 2^53 that a float holds exactly.
#[expect(clippy::cast_precision_loss, reason = "figures are shown as floats")]
fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_say_what_was_seen() {
        let timing = named("test.rows");
        assert!(std::ptr::eq(timing, named("test.rows")), "made once");
        for millis in [2, 4, 9] {
            timing.took(Duration::from_millis(millis));
        }
        let row =
            |interval: Interval| interval.timings.into_iter().find(|row| row.name == "test.rows");
        for take in [Take::Look, Take::Away] {
            let row = row(collect(0, take)).expect("it happened");
            assert_eq!((row.count, row.sum, row.min, row.max), (3, 15.0, 2.0, 9.0));
            assert!((row.deviation() - 13.0_f64.sqrt()).abs() < 1e-9, "{}", row.deviation());
            assert!((row.mean() - 5.0).abs() < 1e-9 && (row.rate() - 1.5).abs() < 1e-9);
        }
        assert_eq!(row(collect(0, Take::Look)), None, "it was taken away");
    }

    #[test]
    fn threads_lose_nothing() {
        const EACH: u64 = 20_000;
        let timing = named("test.threads");
        let mut seen = 0;
        let mut squares = 0.0;
        let mut take = || {
            if let Some(cells) = timing.cells.get() {
                let part = cells.read(Take::Away);
                seen += part.count;
                squares += part.squares;
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| (0..EACH).for_each(|_| timing.took(Duration::from_millis(1))))
                })
                .collect();
            while threads.iter().any(|thread| !thread.is_finished()) {
                take();
            }
        });
        take();
        assert_eq!(seen, 4 * EACH);
        assert!((squares - as_float(4 * EACH)).abs() < 1e-3, "{squares}");
    }

    #[test]
    fn names_are_in_order_and_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for timing in names::TIMINGS {
            assert!(seen.insert((timing.name, timing.labels)), "{} twice", timing.name);
        }
        for counter in names::COUNTERS {
            assert!(seen.insert((counter.name, &[])), "{} twice", counter.name);
        }
    }
}
