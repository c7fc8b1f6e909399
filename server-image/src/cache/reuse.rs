//! Reuse distances: how large a cache would have to be for each read to be a hit.
//!
//! The reuse distance of a read is the size of all different entries read since the last read of the same one, itself
//! included. A cache of `c` bytes that evicts what was not used for longest hits exactly the reads with a distance of
//! at most `c`; so from a histogram of distances the hit ratio at any size can be read: the reads up to `c` divided by
//! all. Reads that no size could have answered, because the value was new, expired or changed, are infinitely far.
//! Whether it has changed does not depend on what the real cache still held: with each key is kept up to which place
//! its value has all changes, as it would be in a cache that evicts nothing, and each [`Read`] says which values may
//! answer it.
//!
//! Exact distances of all reads would cost more than the cache itself. Like SHARDS (Waldspurger et al., FAST '15), this
//! follows only keys whose hash falls into a part of all hashes, and counts each of their reads for several: every key
//! up to [`KEYS_MAX`] keys, then half of them, then a quarter, and so on. As with `SHARDS_adj` of the same paper the
//! difference between expected and seen reads, which is what an unlucky choice of keys costs, is put where the very
//! popular keys are: at the shortest distances, but for the part of them that finds its value changed.
//!
//! A key that was not read for a whole life is followed no more: its next read is a miss in any cache, and no finite
//! distance counts it. So how many keys are followed depends on how many are read within a life, not on how many there
//! have been since the start. It never grows again, though, after a time with more keys: those that are followed anew
//! would look new for a life.
//!
//! The hit ratio predicted from the histogram is within **5 percentage points** of a replay of the same reads on a
//! real LRU cache, for Zipf exponents from 0.7 to 1.1 over 100,000 keys of varied size, also when there is a write to
//! every four reads and entries end; tested below.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::xxh3_64;

use super::journal::Position;

/// Most keys that are followed.
pub(super) const KEYS_MAX: usize = 8_192;
/// If more keys than this were read within a life, half of them are left when there are too many: else there would be
/// too many again very soon, and each time all are looked at.
const KEYS_KEPT: usize = KEYS_MAX / 4 * 3;
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
    /// For each bound, and for all reads, the largest number of reads up to it that was exported.
    exported: Vec<u64>,
    reads: u64,
    /// Counted reads of what was read before, and has not ended since.
    again: u64,
    /// Those of them that found it changed.
    changed: u64,
    /// Longest life of an entry.
    life: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Followed {
    place: usize,
    bytes: u64,
    /// When it was last read.
    read: Instant,
    /// When the life of the entry began.
    loaded: Instant,
    /// The value has all changes before this place.
    position: Position,
}

/// What decides whether a read could have been a hit, by places in an order of changes: that of the journal, or any
/// other in which later changes have larger places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Read {
    /// A value that is made for this read has all changes before this place.
    pub(super) position: Position,
    /// First place of the values that may answer this read: since those before it there was a change, or may have been.
    pub(super) good_from: Position,
}

impl Read {
    /// The same, but nothing that is kept may answer it.
    pub(super) const fn unavoidable(self) -> Self {
        Self {
            good_from: Position::MAX,
            ..self
        }
    }
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

impl Reuse {
    /// For a cache in which no entry lives longer than `life`.
    pub(super) fn new(life: Duration) -> Self {
        let histogram = Histogram::new();
        Self {
            zeros: 0,
            keys: HashMap::new(),
            order: Order::new(),
            exported: vec![0; histogram.counts.len()],
            histogram,
            reads: 0,
            again: 0,
            changed: 0,
            life,
        }
    }

    /// Notes a read of `key`, whose entry takes `bytes`.
    pub(super) fn read(&mut self, key: &str, bytes: u64, read: Read, now: Instant) {
        self.expect(1);
        self.follow(xxh3_64(key.as_bytes()), bytes, read, now, true);
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
        let alive = last.filter(|last| now.saturating_duration_since(last.loaded) < self.life);
        let reused = alive.filter(|last| last.position >= read.good_from);
        if is_counted {
            let distance = reused.map_or(f64::INFINITY, |last| self.distance(last, bytes));
            let reads = 1 << self.zeros;
            self.histogram.add(distance, reads);
            if alive.is_some() {
                self.again += reads;
            }
            if alive.is_some() && reused.is_none() {
                self.changed += reads;
            }
        }
        if let Some(last) = last {
            self.order.remove(last.place, last.bytes);
        }
        // A hit leaves the entry as it was; else a new one takes its place.
        let (loaded, position) = reused.map_or((now, read.position), |last| (last.loaded, last.position));
        let followed = Followed {
            place,
            bytes,
            read: now,
            loaded,
            position,
        };
        self.keys.insert(hash, followed);
        self.order.add(place, bytes);
        if self.keys.len() > KEYS_MAX {
            self.make_room(now);
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

    /// Leaves the keys that were not read for a life, and half of the others if they are still many.
    fn make_room(&mut self, now: Instant) {
        let life = self.life;
        self.retain(|_, followed| now.saturating_duration_since(followed.read) < life);
        if self.keys.len() > KEYS_KEPT {
            self.follow_half();
        }
    }

    fn follow_half(&mut self) {
        self.zeros += 1;
        let zeros = self.zeros;
        self.retain(|hash, _| hash.trailing_zeros() >= zeros);
    }

    /// Follows only the keys that `is_kept` says.
    fn retain(&mut self, is_kept: impl Fn(u64, &Followed) -> bool) {
        let order = &mut self.order;
        self.keys.retain(|hash, followed| {
            let keep = is_kept(*hash, followed);
            if !keep {
                order.remove(followed.place, followed.bytes);
            }
            keep
        });
    }

    /// The distances of all reads so far, for a metric. An estimate falls now and then, which Prometheus would take for
    /// a restart; so the number of reads up to each bound stays at the largest that was exported.
    pub(super) fn export(&mut self) -> Histogram {
        let mut histogram = self.histogram();
        let (mut reads, mut before) = (0, 0);
        for (count, exported) in histogram.counts.iter_mut().zip(&mut self.exported) {
            reads += *count;
            *exported = reads.max(*exported);
            *count = *exported - before;
            before = *exported;
        }
        histogram
    }

    /// The distances of all reads so far, those of keys that are not followed estimated.
    pub(super) fn histogram(&self) -> Histogram {
        let mut histogram = self.histogram.clone();
        let seen: u64 = histogram.counts.iter().sum();
        let Some((beyond, near)) = histogram.counts.split_last_mut() else {
            return histogram;
        };
        // What the sample has too few or too many of are reads of the most popular keys: the nearest ones, except those
        // that find a change.
        if let Some(missing) = self.reads.checked_sub(seen) {
            let changed = self.changed_among(missing);
            *beyond += changed;
            if let Some(nearest) = near.first_mut() {
                *nearest += missing - changed;
            }
        } else {
            let mut surplus = seen - self.reads;
            let changed = self.changed_among(surplus).min(*beyond);
            *beyond -= changed;
            surplus -= changed;
            for count in near.iter_mut().chain([beyond]) {
                let part = surplus.min(*count);
                *count -= part;
                surplus -= part;
            }
        }
        histogram
    }

    /// How many of some reads of popular keys find their value changed: the same part as of all that are read again.
    fn changed_among(&self, reads: u64) -> u64 {
        let changed = u128::from(reads) * u128::from(self.changed) / u128::from(self.again.max(1));
        u64::try_from(changed).unwrap_or(reads)
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
pub(super) const fn as_float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::super::LOCAL_LIFE;
    use super::super::replay::{Real, UNCHANGED, size_of_key, workload};
    use super::*;

    /// The operator buys memory by these predictions: one that is wrong buys too much, or misses the target.
    #[test]
    fn predicts_the_hit_ratio_of_a_real_cache_at_any_size() {
        for (name, keys, exponent, write_every, life, allowed) in [
            ("few keys, all followed", 5_000, 0.9, None, Duration::MAX, 0.005),
            ("flat", 100_000, 0.7, None, Duration::MAX, 0.05),
            ("usual", 100_000, 0.9, None, Duration::MAX, 0.05),
            ("steep", 100_000, 1.1, None, Duration::MAX, 0.05),
            ("few keys that change and end", 5_000, 0.9, Some(4), LOCAL_LIFE, 0.005),
            ("flat, with changes and ends", 100_000, 0.7, Some(4), LOCAL_LIFE, 0.05),
            ("usual, with changes and ends", 100_000, 0.9, Some(4), LOCAL_LIFE, 0.05),
        ] {
            let steps = workload(keys, exponent, write_every);
            let (start, mut reuse) = (Instant::now(), Reuse::new(life));
            for step in &steps {
                let bytes = size_of_key(step.key);
                reuse.read(&step.key.to_string(), bytes, step.read, start + step.at);
            }
            assert!(reuse.keys.len() <= KEYS_MAX);
            Real::replay(&steps, life).assert_predicted(name, &reuse.histogram(), allowed);
        }
    }

    /// A server runs for weeks, and some of what is read is never read again. Were that followed until the end, less
    /// and less of what is read again and again would be, until the figures are noise.
    #[test]
    fn what_is_never_read_again_does_not_push_out_what_is() {
        let mut steps = workload(1_000, 0.9, Some(4));
        // Five hours and a half; one of five reads is of a new key.
        for (index, step) in (0..).zip(&mut steps) {
            step.at *= 10;
            if index % 5 == 0 {
                step.key = index;
            }
        }
        let (start, mut reuse) = (Instant::now(), Reuse::new(LOCAL_LIFE));
        for step in &steps {
            let bytes = size_of_key(step.key);
            reuse.read(&step.key.to_string(), bytes, step.read, start + step.at);
            assert!(reuse.keys.len() <= KEYS_MAX);
        }
        assert_eq!(reuse.zeros(), 0, "all are followed that are read within a life");
        Real::replay(&steps, LOCAL_LIFE).assert_predicted("new keys for hours", &reuse.histogram(), 0.01);
    }

    /// Prometheus takes a counter that falls for one that began anew, and adds all of it once more.
    #[test]
    fn what_is_exported_never_falls() {
        let steps = workload(100_000, 1.1, Some(4));
        let (start, mut reuse) = (Instant::now(), Reuse::new(LOCAL_LIFE));
        let cumulated = |histogram: &Histogram| -> Vec<u64> {
            let counts = histogram.counts.iter();
            counts
                .scan(0, |sum, count| {
                    *sum += count;
                    Some(*sum)
                })
                .collect()
        };
        let falls = |last: &[u64], now: &[u64]| last.iter().zip(now).any(|(last, now)| now < last);
        let (mut estimated, mut exported) = (Vec::new(), Vec::new());
        let mut estimates_fall = false;
        for (reads, step) in (1..).zip(&steps) {
            let bytes = size_of_key(step.key);
            reuse.read(&step.key.to_string(), bytes, step.read, start + step.at);
            if reads % 500 == 0 {
                let estimate = cumulated(&reuse.histogram());
                estimates_fall |= falls(&estimated, &estimate);
                estimated = estimate;
                let export = cumulated(&reuse.export());
                assert!(!falls(&exported, &export), "after {reads} reads");
                assert!(export.is_sorted(), "after {reads} reads");
                assert_eq!(export.last(), Some(&reads), "all reads are counted");
                exported = export;
            }
        }
        assert!(estimates_fall, "else this tests nothing");
        Real::replay(&steps, LOCAL_LIFE).assert_predicted("as exported", &reuse.export(), 0.05);
    }

    /// Whether the very popular keys are among those that are followed is chance: it must not decide about memory.
    #[test]
    fn an_unlucky_sample_predicts_as_well() {
        let steps = workload(100_000, 1.1, Some(4));
        let real = Real::replay(&steps, LOCAL_LIFE);
        for sample in 0..8 {
            let (start, mut reuse) = (Instant::now(), Reuse::new(LOCAL_LIFE));
            for step in &steps {
                let (key, bytes) = (format!("{sample}:{}", step.key), size_of_key(step.key));
                reuse.read(&key, bytes, step.read, start + step.at);
            }
            let histogram = reuse.histogram();
            let counted: u64 = histogram.counts.iter().sum();
            assert_eq!(counted, steps.len() as u64, "sample {sample}");
            real.assert_predicted(&format!("sample {sample}"), &histogram, 0.05);
        }
    }

    /// What no memory can answer must not look like a reason to buy memory, whatever the real cache had evicted.
    #[test]
    fn unavoidable_misses_are_beyond_every_size() {
        let mut reuse = Reuse::new(LOCAL_LIFE);
        let start = Instant::now();
        let read = |position, good_from| Read { position, good_from };
        for (name, minute, read, within, beyond) in [
            ("new", 0, read(5, 1), 0, 1),
            ("unchanged", 1, read(7, 1), 1, 1),
            ("changed just before it was read first", 2, read(7, 5), 2, 1),
            ("changed since", 3, read(8, 7), 2, 2),
            ("the new value", 7, read(9, 7), 3, 2),
            ("ended", 8, read(9, 7), 3, 3),
            ("the one after it", 9, read(9, 7), 4, 3),
            ("known to be unavoidable", 10, UNCHANGED.unavoidable(), 4, 4),
        ] {
            reuse.read("key", 1_000, read, start + Duration::from_mins(minute));
            let counts = reuse.histogram().counts;
            let found = (counts.first().copied(), counts.last().copied());
            assert_eq!(found, (Some(within), Some(beyond)), "{name}");
        }
    }

    /// The operator reads a hit ratio between two bounds: they must be close.
    #[test]
    fn bounds_are_a_tenth_apart_and_reach_from_pages_to_machines() {
        let bounds: Vec<f64> = bounds().collect();
        assert!(bounds.windows(2).all(|pair| pair[1] / pair[0] < 1.1001));
        assert!(bounds[0] <= 4096.0 && *bounds.last().unwrap() >= LARGEST);
    }
}
