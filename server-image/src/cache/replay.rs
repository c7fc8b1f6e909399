//! Reads and a real cache to compare predictions of reuse distances with.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use super::journal::Position;
use super::reuse::{Histogram, Read, as_float, bounds};

/// Reads of a workload.
const READS: u64 = 200_000;
/// Time from one read to the next: all of them take half an hour.
const PACE: Duration = Duration::from_millis(10);
/// A read of what never changes.
pub(super) const UNCHANGED: Read = Read {
    position: 1,
    good_from: 0,
};

/// A read of a workload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) key: u64,
    pub(super) read: Read,
    /// When it is, after the beginning.
    pub(super) at: Duration,
}

/// Reads of `keys` keys by Zipf's law; before one of every `write_every` another key, by the same law, is written.
pub(super) fn workload(keys: u64, exponent: f64, write_every: Option<Position>) -> Vec<Step> {
    let drawn = zipf(keys, exponent, 2 * READS);
    let (read, written) = drawn.split_at(drawn.len() / 2);
    let mut changed: HashMap<u64, Position> = HashMap::new();
    let mut steps = Vec::new();
    for (place, (key, written)) in (1..).zip(read.iter().zip(written)) {
        if write_every.is_some_and(|every| place % every == 0) {
            changed.insert(*written, place);
        }
        steps.push(Step {
            key: *key,
            read: Read {
                position: place + 1,
                good_from: changed.get(key).map_or(0, |changed| changed + 1),
            },
            at: PACE * u32::try_from(place).unwrap(),
        });
    }
    steps
}

/// Keys by Zipf's law.
fn zipf(keys: u64, exponent: f64, draws: u64) -> Vec<u64> {
    let mut cumulated = Vec::new();
    let mut total = 0.0;
    for rank in 1..=keys {
        total += as_float(rank).powf(-exponent);
        cumulated.push(total);
    }
    (0..draws)
        .map(|index| {
            let random = as_float(xxh3_64(&index.to_be_bytes()) >> 11) / as_float(1 << 53);
            let rank = cumulated.partition_point(|sum| *sum < random * total);
            // So that popular keys are not neighbours in anything.
            xxh3_64(&(rank as u64).to_le_bytes())
        })
        .collect()
}

pub(super) fn size_of_key(key: u64) -> u64 {
    200 + key % 4_000
}

/// A cache that evicts what was not used for longest, with nothing clever about it. That a value has changed or ended
/// shows when it is read; then a new one takes its place.
struct Lru {
    capacity: u64,
    life: Duration,
    bytes: u64,
    clock: u64,
    entries: HashMap<u64, Kept>,
    by_time: BTreeMap<u64, u64>,
    hits: u64,
}

struct Kept {
    time: u64,
    position: Position,
    loaded: Duration,
}

impl Lru {
    fn new(capacity: u64, life: Duration) -> Self {
        Self {
            capacity,
            life,
            bytes: 0,
            clock: 0,
            entries: HashMap::new(),
            by_time: BTreeMap::new(),
            hits: 0,
        }
    }

    fn read(&mut self, step: &Step) {
        self.clock += 1;
        let mut entry = Kept {
            time: self.clock,
            position: step.read.position,
            loaded: step.at,
        };
        if let Some(last) = self.entries.remove(&step.key) {
            self.by_time.remove(&last.time);
            if last.position >= step.read.good_from && step.at.saturating_sub(last.loaded) < self.life {
                self.hits += 1;
                entry.position = last.position;
                entry.loaded = last.loaded;
            }
        } else {
            self.bytes += size_of_key(step.key);
        }
        self.by_time.insert(entry.time, step.key);
        self.entries.insert(step.key, entry);
        while self.bytes > self.capacity {
            let (_, oldest) = self.by_time.pop_first().unwrap();
            self.entries.remove(&oldest);
            self.bytes -= size_of_key(oldest);
        }
    }

    fn hit_ratio(&self) -> f64 {
        as_float(self.hits) / as_float(self.clock)
    }
}

/// The hit ratios of real caches of many sizes.
pub(super) struct Real(Vec<(f64, f64)>);

impl Real {
    /// Those of caches that see `steps`, and in which nothing lives longer than `life`.
    pub(super) fn replay(steps: &[Step], life: Duration) -> Self {
        let ratios = bounds_between(1e5, 3e8).map(|(bound, capacity)| {
            let mut lru = Lru::new(capacity, life);
            for step in steps {
                lru.read(step);
            }
            (bound, lru.hit_ratio())
        });
        Self(ratios.collect())
    }

    /// Checks what a histogram predicts for caches of these sizes.
    pub(super) fn assert_predicted(&self, name: &str, histogram: &Histogram, allowed: f64) {
        for (bound, real) in &self.0 {
            let guess = predicted(histogram, *bound);
            assert!(
                (guess - real).abs() <= allowed,
                "{name}, {bound:.0} bytes: {guess:.4} predicted, {real:.4} real"
            );
        }
    }
}

fn predicted(histogram: &Histogram, capacity: f64) -> f64 {
    let hits: u64 = histogram
        .counts
        .iter()
        .zip(bounds())
        .filter(|(_, bound)| *bound <= capacity)
        .map(|(count, _)| count)
        .sum();
    as_float(hits) / as_float(histogram.counts.iter().sum())
}

/// Some bounds of the histogram, so that only the sampling is judged, and the same as capacities.
fn bounds_between(least: f64, most: f64) -> impl Iterator<Item = (f64, u64)> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounds are positive, and far below 2^52"
    )]
    bounds()
        .filter(move |bound| (least..most).contains(bound))
        .step_by(12)
        .map(|bound| (bound, bound as u64))
}
