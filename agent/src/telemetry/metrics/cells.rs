//! Cells that collect metrics: each thread has its own, or shares it with few others.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::Take;

/// Places; more threads than that share.
const PLACES: usize = 8;

/// The place of this thread.
fn place() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static PLACE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    PLACE.with(|place| {
        if place.get() == usize::MAX {
            place.set(NEXT.fetch_add(1, Ordering::Relaxed) % PLACES);
        }
        place.get()
    })
}

/// Counts, one a cache line: threads that count do not hold up each other.
#[derive(Debug)]
#[repr(align(64))]
struct Count(AtomicU64);

#[derive(Debug)]
pub(super) struct CountCells([Count; PLACES]);

impl CountCells {
    pub(super) const fn new() -> CountCells {
        CountCells([const { Count(AtomicU64::new(0)) }; PLACES])
    }

    pub(super) fn add(&self, more: u64) {
        self.0[place()].0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn read(&self, take: Take) -> u64 {
        self.0.iter().map(|Count(count)| read(count, take, 0)).sum()
    }
}

/// Times of one place. The five are not read in one step: what is added in between is divided between two intervals,
/// but never lost.
#[derive(Debug)]
#[repr(align(64))]
struct Times {
    count: AtomicU64,
    nanos: AtomicU64,
    min: AtomicU64,
    max: AtomicU64,
    /// Of milliseconds; the bits of a float.
    squares: AtomicU64,
}

impl Default for Times {
    fn default() -> Times {
        Times {
            count: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
            min: AtomicU64::new(u64::MAX),
            max: AtomicU64::new(0),
            squares: AtomicU64::new(0),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct TimeCells([Times; PLACES]);

/// Sum over all cells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) count: u64,
    pub(super) nanos: u64,
    pub(super) min: u64,
    pub(super) max: u64,
    pub(super) squares: f64,
}

impl TimeCells {
    pub(super) fn add(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let millis = time.as_secs_f64() * 1e3;
        let times = &self.0[place()];
        times.count.fetch_add(1, Ordering::Relaxed);
        times.nanos.fetch_add(nanos, Ordering::Relaxed);
        // Nearly always neither the least nor the most: a look is cheaper than a write.
        if nanos < times.min.load(Ordering::Relaxed) {
            times.min.fetch_min(nanos, Ordering::Relaxed);
        }
        if nanos > times.max.load(Ordering::Relaxed) {
            times.max.fetch_max(nanos, Ordering::Relaxed);
        }
        let more = |bits| Some((f64::from_bits(bits) + millis * millis).to_bits());
        let _ = times.squares.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    pub(super) fn read(&self, take: Take) -> Seen {
        let mut seen = Seen { count: 0, nanos: 0, min: u64::MAX, max: 0, squares: 0.0 };
        for times in &self.0 {
            seen.count += read(&times.count, take, 0);
            seen.nanos += read(&times.nanos, take, 0);
            seen.min = seen.min.min(read(&times.min, take, u64::MAX));
            seen.max = seen.max.max(read(&times.max, take, 0));
            seen.squares += f64::from_bits(read(&times.squares, take, 0));
        }
        // The count is ahead of the rest for a moment.
        seen.min = seen.min.min(seen.max);
        seen
    }
}

fn read(cell: &AtomicU64, take: Take, empty: u64) -> u64 {
    match take {
        Take::Look => cell.load(Ordering::Relaxed),
        Take::Away => cell.swap(empty, Ordering::Relaxed),
    }
}
