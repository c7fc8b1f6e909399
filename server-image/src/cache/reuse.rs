//! Reuse distances: how large a cache would have to be for each read to be a hit.
//!
//! The reuse distance of a read is the size of all different entries read since the last read of the same one, itself
//! included. A cache of `c` bytes that evicts what was not used for longest hits exactly the reads with a distance of
//! at most `c`; so from a histogram of distances the hit ratio at any size can be read: the reads up to `c` divided by
//! all. Reads that no size could have answered, because the value was new, expired or changed, are infinitely far.
//!
//! Exact distances of all reads would cost more than the cache itself. Like SHARDS (Waldspurger et al., FAST '15), this
//! follows only keys whose hash falls into a part of all hashes, and counts each of their reads for several: every key
//! up to [`KEYS_MAX`] keys, then half of them, then a quarter, and so on. With `SHARDS_adj` of the same paper the
//! difference between expected and seen reads, which is what an unlucky choice of keys costs, is put where the very
//! popular keys are: at the shortest distances.
//!
//! The hit ratio predicted from the histogram is within **5 percentage points** of a replay of the same reads on a
//! real LRU cache, for Zipf exponents from 0.7 to 1.1 over 100,000 keys of varied size; tested below.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::xxh3_64;

/// Most keys that are followed.
pub(super) const KEYS_MAX: usize = 8_192;
/// Places in the order of reads before it is made anew.
const PLACES: usize = 4 * KEYS_MAX;
/// Smallest bound of the histogram, in bytes.
const SMALLEST: f64 = 4096.0;
/// Largest bound: 64 GiB.
const LARGEST: f64 = 68_719_476_736.0;
/// Ratio of neighbouring bounds.
const STEP: f64 = 1.1;

/// The histogram's bounds, in bytes: from 4 KiB to 64 GiB, a tenth apart.
pub(super) fn bounds() -> impl Iterator<Item = f64> {
    std::iter::successors(Some(SMALLEST), |bound| Some(bound * STEP)).take_while(|bound| *bound < LARGEST * STEP)
}

/// Follows the reads of one cache.
#[derive(Debug)]
pub(super) struct Reuse {
    /// Keys are followed whose hash has this many zero bits at its end.
    zeros: u32,
    keys: HashMap<u64, Followed>,
    order: Order,
    histogram: Histogram,
    reads: u64,
    /// Longest life of an entry.
    life: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Followed {
    place: usize,
    bytes: u64,
    /// When the life of the entry began.
    loaded: Instant,
}

/// Whether a read could have been a hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// In a cache that is large enough.
    Reusable,
    /// Not in any: the value is new, expired, or has changed.
    Unavoidable,
}

/// The distances of all reads.
#[derive(Debug, Clone)]
pub(super) struct Histogram {
    /// For each bound the reads up to it and above the one before; the last are those beyond all bounds.
    pub(super) counts: Vec<u64>,
    /// Sum of all finite distances, in bytes.
    pub(super) sum: f64,
}

impl Histogram {
    fn new() -> Self {
        Self {
            counts: vec![0; bounds().count() + 1],
            sum: 0.0,
        }
    }

    fn add(&mut self, distance: f64, reads: u64) {
        let index = bounds()
            .position(|bound| distance <= bound)
            .unwrap_or(self.counts.len() - 1);
        self.counts[index] += reads;
        if distance.is_finite() {
            self.sum += distance * as_float(reads);
        }
    }
}

impl Default for Reuse {
    fn default() -> Self {
        Self {
            zeros: 0,
            keys: HashMap::new(),
            order: Order::new(),
            histogram: Histogram::new(),
            reads: 0,
            life: Duration::MAX,
        }
    }
}

impl Reuse {
    /// For a cache in which entries that seem to have been evicted may have ended instead, after `life`.
    pub(super) fn with_life(life: Duration) -> Self {
        Self {
            life,
            ..Self::default()
        }
    }

    /// Notes a read of `key`, whose entry takes `bytes`.
    pub(super) fn read(&mut self, key: &str, bytes: u64, read: Read) {
        self.expect(1);
        self.follow(xxh3_64(key.as_bytes()), bytes, read, Instant::now(), true);
    }

    /// Says that there were `reads` more to count, of which [`Self::follow`] is told as far as their keys are followed.
    pub(super) fn expect(&mut self, reads: u64) {
        self.reads = self.reads.saturating_add(reads);
    }

    /// Follows a read, if its key's `hash` is among those that are followed; one that is not counted changes only the
    /// distances of others.
    pub(super) fn follow(&mut self, hash: u64, bytes: u64, read: Read, now: Instant, is_counted: bool) {
        if hash.trailing_zeros() < self.zeros {
            return;
        }
        let place = self.order.next(&mut self.keys);
        let last = self.keys.get(&hash).copied();
        let is_alive = |last: &Followed| now.saturating_duration_since(last.loaded) < self.life;
        let reused = last.filter(|last| read == Read::Reusable && is_alive(last));
        if is_counted {
            let distance = reused.map_or(f64::INFINITY, |last| self.distance(last, bytes));
            self.histogram.add(distance, 1 << self.zeros);
        }
        if let Some(last) = last {
            self.order.remove(last.place, last.bytes);
        }
        let loaded = reused.map_or(now, |last| last.loaded);
        self.keys.insert(hash, Followed { place, bytes, loaded });
        self.order.add(place, bytes);
        if self.keys.len() > KEYS_MAX {
            self.follow_half();
        }
    }

    /// The distance of a read of an entry of `bytes` that was last read as `last` tells: what the followed keys show,
    /// for all keys.
    fn distance(&self, last: Followed, bytes: u64) -> f64 {
        let others = self.order.bytes_after(last.place);
        as_float(others) * as_float(1 << self.zeros) + as_float(bytes)
    }

    /// Keys are followed whose hash has this many zero bits at its end.
    pub(super) const fn zeros(&self) -> u32 {
        self.zeros
    }

    /// Follows only keys whose hash has at least this many zero bits at its end.
    pub(super) fn follow_fewer(&mut self, zeros: u32) {
        while self.zeros < zeros {
            self.follow_half();
        }
    }

    fn follow_half(&mut self) {
        self.zeros += 1;
        let zeros = self.zeros;
        let order = &mut self.order;
        self.keys.retain(|hash, followed| {
            let keep = hash.trailing_zeros() >= zeros;
            if !keep {
                order.remove(followed.place, followed.bytes);
            }
            keep
        });
    }

    /// The distances of all reads so far, those of keys that are not followed estimated.
    pub(super) fn histogram(&self) -> Histogram {
        let mut histogram = self.histogram.clone();
        let seen: u64 = histogram.counts.iter().sum();
        if let Some(first) = histogram.counts.first_mut() {
            *first = first.saturating_add(self.reads).saturating_sub(seen);
        }
        histogram
    }
}

/// Entries in the order of their last reads, with fast sums of their sizes: a Fenwick tree.
#[derive(Debug)]
struct Order {
    sums: Vec<u64>,
    total: u64,
    next: usize,
}

impl Order {
    fn new() -> Self {
        Self {
            sums: vec![0; PLACES + 1],
            total: 0,
            next: 1,
        }
    }

    /// The next free place; when there is none, all entries move together first.
    fn next(&mut self, keys: &mut HashMap<u64, Followed>) -> usize {
        if self.next > PLACES {
            let mut entries: Vec<&mut Followed> = keys.values_mut().collect();
            entries.sort_by_key(|followed| followed.place);
            *self = Self::new();
            for followed in entries {
                followed.place = self.next;
                self.add(followed.place, followed.bytes);
                self.next += 1;
            }
        }
        let place = self.next;
        self.next += 1;
        place
    }

    fn add(&mut self, place: usize, bytes: u64) {
        self.total += bytes;
        let mut index = place;
        while let Some(sum) = self.sums.get_mut(index) {
            *sum += bytes;
            index += index & index.wrapping_neg();
        }
    }

    fn remove(&mut self, place: usize, bytes: u64) {
        self.total -= bytes;
        let mut index = place;
        while let Some(sum) = self.sums.get_mut(index) {
            *sum -= bytes;
            index += index & index.wrapping_neg();
        }
    }

    /// Size of all entries read after the one at `place`.
    fn bytes_after(&self, place: usize) -> u64 {
        let mut sum = 0;
        let mut index = place;
        while index > 0 {
            sum += self.sums[index];
            index &= index - 1;
        }
        self.total - sum
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes and counts are far below 2^52")]
const fn as_float(value: u64) -> f64 {
    value as f64
}

/// Reads and a real cache to compare predictions with.
#[cfg(test)]
pub(super) mod replay {
    use super::*;
    use std::collections::BTreeMap;

    /// A cache that evicts what was not used for longest, with nothing clever about it.
    struct Lru {
        capacity: u64,
        bytes: u64,
        clock: u64,
        entries: HashMap<u64, (u64, u64)>,
        by_time: BTreeMap<u64, u64>,
        hits: u64,
    }

    impl Lru {
        fn new(capacity: u64) -> Self {
            Self {
                capacity,
                bytes: 0,
                clock: 0,
                entries: HashMap::new(),
                by_time: BTreeMap::new(),
                hits: 0,
            }
        }

        fn read(&mut self, key: u64, bytes: u64) {
            self.clock += 1;
            if let Some((time, _)) = self.entries.get_mut(&key) {
                self.hits += 1;
                self.by_time.remove(time);
                *time = self.clock;
            } else {
                self.bytes += bytes;
                self.entries.insert(key, (self.clock, bytes));
            }
            self.by_time.insert(self.clock, key);
            while self.bytes > self.capacity {
                let (_, oldest) = self.by_time.pop_first().unwrap();
                self.bytes -= self.entries.remove(&oldest).unwrap().1;
            }
        }

        fn hit_ratio(&self) -> f64 {
            as_float(self.hits) / as_float(self.clock)
        }
    }

    /// Reads of `keys` keys by Zipf's law.
    pub(in crate::cache) fn zipf(keys: u64, exponent: f64, reads: u64) -> Vec<u64> {
        let mut cumulated = Vec::new();
        let mut total = 0.0;
        for rank in 1..=keys {
            total += as_float(rank).powf(-exponent);
            cumulated.push(total);
        }
        (0..reads)
            .map(|index| {
                let random = as_float(xxh3_64(&index.to_be_bytes()) >> 11) / as_float(1 << 53);
                let rank = cumulated.partition_point(|sum| *sum < random * total);
                // So that popular keys are not neighbours in anything.
                xxh3_64(&(rank as u64).to_le_bytes())
            })
            .collect()
    }

    pub(in crate::cache) fn size_of_key(key: u64) -> u64 {
        200 + key % 4_000
    }

    /// Checks the prediction for caches of many sizes that see `reads`.
    pub(in crate::cache) fn assert_predicts(name: &str, histogram: &Histogram, reads: &[u64], allowed: f64) {
        for (bound, capacity) in bounds_between(1e5, 3e8) {
            let mut lru = Lru::new(capacity);
            for key in reads {
                lru.read(*key, size_of_key(*key));
            }
            let (guess, real) = (predicted(histogram, bound), lru.hit_ratio());
            assert!(
                (guess - real).abs() <= allowed,
                "{name}, {bound:.0} bytes: {guess:.4} predicted, {real:.4} real"
            );
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
}

#[cfg(test)]
mod tests {
    use super::replay::{assert_predicts, size_of_key, zipf};
    use super::*;

    /// The operator buys memory by these predictions: one that is wrong buys too much, or misses the target.
    #[test]
    fn predicts_the_hit_ratio_of_a_real_cache_at_any_size() {
        for (name, keys, exponent, allowed) in [
            ("few keys, all followed", 5_000, 0.9, 0.005),
            ("flat", 100_000, 0.7, 0.05),
            ("usual", 100_000, 0.9, 0.05),
            ("steep", 100_000, 1.1, 0.05),
        ] {
            let reads = zipf(keys, exponent, 200_000);
            let mut reuse = Reuse::default();
            for key in &reads {
                reuse.read(&key.to_string(), size_of_key(*key), Read::Reusable);
            }
            assert!(reuse.keys.len() <= KEYS_MAX);
            assert_predicts(name, &reuse.histogram(), &reads, allowed);
        }
    }

    /// What no memory can answer must not look like a reason to buy memory.
    #[test]
    fn unavoidable_misses_are_beyond_every_size() {
        let mut reuse = Reuse::default();
        for _ in 0..10 {
            reuse.read("key", 1_000, Read::Unavoidable);
        }
        let histogram = reuse.histogram();
        assert_eq!(
            (histogram.counts.first(), histogram.counts.last()),
            (Some(&0), Some(&10))
        );
        reuse.read("key", 1_000, Read::Reusable);
        assert_eq!(reuse.histogram().counts.first(), Some(&1));
    }

    /// The operator reads a hit ratio between two bounds: they must be close.
    #[test]
    fn bounds_are_a_tenth_apart_and_reach_from_pages_to_machines() {
        let bounds: Vec<f64> = bounds().collect();
        assert!(bounds.windows(2).all(|pair| pair[1] / pair[0] < 1.1001));
        assert!(bounds[0] <= 4096.0 && *bounds.last().unwrap() >= LARGEST);
    }
}
