//! Network coordinates of members, computed from round-trip times.
//!
//! Vivaldi (Dabek, Cox, Kaashoek, Morris: "Vivaldi: A decentralized network coordinate system"),
//! with the height of the paper and the reference's constants, adjustment term, latency filter and
//! gravity. Each answer to a ping pulls this member's coordinate a little towards or away from the
//! answering member's. The unit is the second.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rand::RngExt;

use super::member::Name;

/// Dimensions of the space.
pub const DIMENSIONS: usize = 8;
const ERROR_MAX: f64 = 1.5;
const ERROR_STEP: f64 = 0.25;
const COORDINATE_STEP: f64 = 0.25;
const ADJUSTMENTS: usize = 20;
const HEIGHT_MIN: f64 = 10.0e-6;
const FILTER: usize = 3;
const GRAVITY_RHO: f64 = 150.0;
/// Anything beyond says nothing about a network.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(10);
/// Two points that are closer count as one.
const ZERO: f64 = 1.0e-6;
/// Members whose latest round trips are remembered.
const FILTERED_MAX: usize = 16_384;

/// A place in the network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coordinate {
    /// Position in the space.
    pub vec: [f64; DIMENSIONS],
    /// Estimated error: 0 is certain.
    pub error: f64,
    /// Correction for latency that the space cannot express.
    pub adjustment: f64,
    /// The member's own way to the network.
    pub height: f64,
}

impl Default for Coordinate {
    /// Coordinate of a member that has heard of nobody.
    fn default() -> Coordinate {
        Coordinate { vec: [0.0; DIMENSIONS], error: ERROR_MAX, adjustment: 0.0, height: HEIGHT_MIN }
    }
}

impl Coordinate {
    /// Bytes that a coordinate takes on its way.
    pub(super) const SIZE: usize = 4 * (DIMENSIONS + 3);

    /// The estimated round trip between two places, in seconds.
    pub fn distance(&self, other: &Coordinate) -> f64 {
        let raw = self.raw_distance(other);
        let adjusted = raw + self.adjustment + other.adjustment;
        if adjusted > 0.0 { adjusted } else { raw }
    }

    /// Does it hold nothing but numbers?
    pub fn is_valid(&self) -> bool {
        self.vec
            .iter()
            .chain([&self.error, &self.adjustment, &self.height])
            .all(|number| number.is_finite())
    }

    fn raw_distance(&self, other: &Coordinate) -> f64 {
        magnitude(&difference(&self.vec, &other.vec)) + self.height + other.height
    }

    /// Pushes the place away from `other` by `force` seconds.
    fn push(&mut self, force: f64, other: &Coordinate, rng: &mut impl RngExt) {
        let mut direction = difference(&self.vec, &other.vec);
        let apart = magnitude(&direction);
        if apart > ZERO {
            for axis in &mut direction {
                *axis /= apart;
            }
        } else {
            // Two on one spot part in any direction.
            for axis in &mut direction {
                *axis = rng.random_range(-0.5..0.5);
            }
            let length = magnitude(&direction).max(ZERO);
            for axis in &mut direction {
                *axis /= length;
            }
        }
        for (at, axis) in self.vec.iter_mut().zip(direction) {
            *at += axis * force;
        }
        if apart > ZERO {
            let height = (self.height + other.height) * force / apart + self.height;
            self.height = height.max(HEIGHT_MIN);
        }
    }
}

fn difference(a: &[f64; DIMENSIONS], b: &[f64; DIMENSIONS]) -> [f64; DIMENSIONS] {
    std::array::from_fn(|axis| a[axis] - b[axis])
}

fn magnitude(vec: &[f64; DIMENSIONS]) -> f64 {
    vec.iter().map(|axis| axis * axis).sum::<f64>().sqrt()
}

/// A member's own place, and what it needs to find it.
#[derive(Debug, Default)]
pub struct LocalCoordinate {
    coordinate: Coordinate,
    adjustments: VecDeque<f64>,
    /// The latest round trips to each member: their median counts.
    latest: BTreeMap<Name, VecDeque<f64>>,
}

impl LocalCoordinate {
    /// The place as it is thought now.
    pub fn coordinate(&self) -> &Coordinate {
        &self.coordinate
    }

    /// A round trip to a member that says it is at `other`.
    pub(super) fn observe(
        &mut self,
        name: &Name,
        other: &Coordinate,
        took: Duration,
        rng: &mut impl RngExt,
    ) {
        if took > ROUND_TRIP_MAX || !other.is_valid() {
            return;
        }
        let Some(took) = self.median(name, took.as_secs_f64()) else { return };
        let before = self.coordinate;
        self.pull(other, took, rng);
        self.adjust(other, took);
        self.gravity(rng);
        if !self.coordinate.is_valid() {
            self.coordinate = if before.is_valid() { before } else { Coordinate::default() };
        }
    }

    /// A member that is not there any more.
    pub(super) fn forget(&mut self, name: &str) {
        self.latest.remove(name);
    }

    fn median(&mut self, name: &Name, took: f64) -> Option<f64> {
        if self.latest.len() >= FILTERED_MAX && !self.latest.contains_key(name) {
            return None;
        }
        let latest = self.latest.entry(name.clone()).or_default();
        if latest.len() == FILTER {
            latest.pop_front();
        }
        latest.push_back(took);
        let mut sorted: Vec<f64> = latest.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        Some(sorted[sorted.len() / 2])
    }

    fn pull(&mut self, other: &Coordinate, took: f64, rng: &mut impl RngExt) {
        let took = took.max(ZERO);
        let apart = self.coordinate.distance(other);
        let wrong = (apart - took).abs() / took;
        let total = (self.coordinate.error + other.error).max(ZERO);
        let weight = self.coordinate.error / total;
        let own = &mut self.coordinate;
        own.error =
            (ERROR_STEP * weight * wrong + own.error * (1.0 - ERROR_STEP * weight)).min(ERROR_MAX);
        own.push(COORDINATE_STEP * weight * (took - apart), other, rng);
    }

    fn adjust(&mut self, other: &Coordinate, took: f64) {
        if self.adjustments.len() == ADJUSTMENTS {
            self.adjustments.pop_front();
        }
        self.adjustments.push_back(took - self.coordinate.raw_distance(other));
        let sum: f64 = self.adjustments.iter().sum();
        #[expect(clippy::cast_precision_loss, reason = "it is 20")]
        let window = ADJUSTMENTS as f64;
        self.coordinate.adjustment = sum / (2.0 * window);
    }

    /// Keeps the whole pool from drifting off.
    fn gravity(&mut self, rng: &mut impl RngExt) {
        let origin = Coordinate::default();
        let apart = origin.distance(&self.coordinate);
        let force = -(apart / GRAVITY_RHO).powi(2);
        self.coordinate.push(force, &origin, rng);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    #[test]
    fn places_come_to_tell_round_trips() {
        // Four members on a line, 10 ms apart.
        let mut rng = SmallRng::seed_from_u64(7);
        let mut places: Vec<LocalCoordinate> = (0..4).map(|_| LocalCoordinate::default()).collect();
        let trip = |a: u32, b: u32| 0.010 * f64::from(a.abs_diff(b));
        for round in 0..2000_u32 {
            let (a, b) = (round % 4, (round / 4 + round + 1) % 4);
            if a != b {
                let other = *places[b as usize].coordinate();
                let name = Name::from(b.to_string());
                let took = Duration::from_secs_f64(trip(a, b));
                places[a as usize].observe(&name, &other, took, &mut rng);
            }
        }
        for (a, b) in [(0_u32, 1_u32), (0, 3), (1, 3), (2, 3)] {
            let told = places[a as usize].coordinate().distance(places[b as usize].coordinate());
            assert!((told - trip(a, b)).abs() < 0.003, "{a} {b}: {told}");
        }
    }

    #[test]
    fn nonsense_changes_nothing() {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut place = LocalCoordinate::default();
        let wrong = Coordinate { height: f64::NAN, ..Coordinate::default() };
        place.observe(&"a".into(), &wrong, Duration::from_millis(1), &mut rng);
        let late = Duration::from_mins(1);
        place.observe(&"a".into(), &Coordinate::default(), late, &mut rng);
        assert_eq!(*place.coordinate(), Coordinate::default());
    }
}
