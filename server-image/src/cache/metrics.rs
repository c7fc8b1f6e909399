//! What is measured of the cache.

use std::fmt;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use xxhash_rust::xxh3::xxh3_64;

use super::LOCAL_LIFE;
use super::reuse::{Histogram as Distances, Read, Reuse, bounds};
use super::shared::Measured;
use super::shared_reuse::SharedReuse;
use crate::lock;
use crate::metrics::duration_histogram;

/// Keys whose presence is remembered, two bytes each, to tell an evicted one from a new one.
const REMEMBERED: usize = 65_536;

/// Where a value was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the values of the label")]
pub(super) enum Tier {
    l1,
    l2,
}

/// Why a value was not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Miss {
    /// It was never there, as far as is remembered.
    New,
    /// It was there, and had to make room.
    Evicted,
    /// Its life was over.
    Expired,
    /// It has changed since.
    Changed,
    /// What has changed cannot be known, or the tier does not answer.
    Unavailable,
}

impl Miss {
    const ALL: [Self; 5] = [
        Self::New,
        Self::Evicted,
        Self::Expired,
        Self::Changed,
        Self::Unavailable,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::New => "miss_new",
            Self::Evicted => "miss_evicted",
            Self::Expired => "miss_expired",
            Self::Changed => "miss_changed",
            Self::Unavailable => "miss_unavailable",
        }
    }

    /// The read that missed: what was not there may have changed meanwhile, which `read` tells; of what was there it is
    /// known that no larger cache would have helped.
    pub(super) const fn read(self, read: Read) -> Read {
        match self {
            Self::New | Self::Evicted => read,
            Self::Expired | Self::Changed | Self::Unavailable => read.unavoidable(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TierResult {
    tier: Tier,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTier {
    tier: Tier,
}

/// The cache's metrics.
#[derive(Debug)]
pub(super) struct Metrics {
    requests: Family<TierResult, Counter>,
    pub(super) load_seconds: Histogram,
    local_reuse: Arc<Mutex<Reuse>>,
    remembered: Box<[AtomicU16]>,
}

impl Metrics {
    /// Registers `mcp_cache_requests_total{tier,result}`, `mcp_cache_load_seconds`, `mcp_cache_reuse_bytes{tier}`, and
    /// with a second tier `mcp_cache_redis_seconds`.
    pub(super) fn new(registry: &mut Registry, shared: Option<Measured>) -> Self {
        let metrics = Self {
            requests: Family::default(),
            load_seconds: duration_histogram(),
            local_reuse: Arc::new(Mutex::new(Reuse::new(LOCAL_LIFE))),
            remembered: (0..REMEMBERED).map(|_| AtomicU16::new(0)).collect(),
        };
        // `rate` cannot see the first increment of a series that appears with it.
        for tier in [Some(Tier::l1), shared.as_ref().map(|_| Tier::l2)]
            .into_iter()
            .flatten()
        {
            for result in Miss::ALL.map(Miss::label).into_iter().chain(["hit"]) {
                drop(metrics.requests.get_or_create(&TierResult { tier, result }));
            }
        }
        registry.register(
            "mcp_cache_requests",
            "Look-ups by tier and result: hit, or the reason of a miss",
            metrics.requests.clone(),
        );
        registry.register(
            "mcp_cache_load_seconds",
            "Time to read from the database what no tier had",
            metrics.load_seconds.clone(),
        );
        if let Some(shared) = &shared {
            registry.register(
                "mcp_cache_redis_seconds",
                "Time Redis takes to answer, with those answers that are given up after 25 ms",
                shared.answer_seconds.clone(),
            );
        }
        registry.register_collector(Box::new(ReuseBytes {
            local: Arc::clone(&metrics.local_reuse),
            shared: shared.map(|shared| shared.reuse),
        }));
        metrics
    }

    pub(super) fn hit(&self, tier: Tier) {
        self.requests.get_or_create(&TierResult { tier, result: "hit" }).inc();
    }

    pub(super) fn miss(&self, tier: Tier, miss: Miss) {
        let result = miss.label();
        self.requests.get_or_create(&TierResult { tier, result }).inc();
    }

    /// Hits of either tier divided by all look-ups; `None` before the first.
    #[expect(clippy::cast_precision_loss, reason = "counts of reads are far below 2^52")]
    pub(super) fn hit_ratio(&self) -> Option<f64> {
        let count = |tier, result| self.requests.get_or_create(&TierResult { tier, result }).get();
        let first = count(Tier::l1, "hit");
        let misses: u64 = Miss::ALL.map(|miss| count(Tier::l1, miss.label())).iter().sum();
        let all = first + misses;
        // Not created by looking: without Redis there is no second tier.
        let second = self
            .requests
            .get(&TierResult {
                tier: Tier::l2,
                result: "hit",
            })
            .map_or(0, |counter| counter.get());
        (all > 0).then(|| (first + second) as f64 / all as f64)
    }

    /// Notes a look-up for the distribution of reuse distances.
    pub(super) fn read(&self, key: &str, bytes: u64, read: Read) {
        lock(&self.local_reuse).read(key, bytes, read, Instant::now());
    }

    /// Remembers that a key is in the first tier.
    pub(super) fn remember(&self, key: &str) {
        let (place, mark) = place_and_mark(key);
        self.remembered[place].store(mark, Ordering::Relaxed);
    }

    /// Why a key that is not in the first tier is not there. Of many keys in one place only the last is remembered, so
    /// with more keys than places an evicted one may count as new.
    pub(super) fn absent(&self, key: &str) -> Miss {
        let (place, mark) = place_and_mark(key);
        if self.remembered[place].load(Ordering::Relaxed) == mark {
            Miss::Evicted
        } else {
            Miss::New
        }
    }
}

fn place_and_mark(key: &str) -> (usize, u16) {
    let [first, second, third, fourth, ..] = xxh3_64(key.as_bytes()).to_be_bytes();
    // Zero is an empty place.
    let mark = u16::from_be_bytes([third, fourth]).max(1);
    (usize::from(u16::from_be_bytes([first, second])), mark)
}

/// `mcp_cache_reuse_bytes`, whose counts are estimates and not observations one by one.
#[derive(Debug)]
struct ReuseBytes {
    local: Arc<Mutex<Reuse>>,
    shared: Option<Arc<Mutex<SharedReuse>>>,
}

impl Collector for ReuseBytes {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "mcp_cache_reuse_bytes",
            "Size a cache would need for a look-up to be a hit; beyond all bounds if none would do",
            None,
            MetricType::Histogram,
        )?;
        let local = lock(&self.local).export();
        let shared = self.shared.as_ref().map(|shared| lock(shared).export());
        for (tier, distances) in [(Tier::l1, Some(local)), (Tier::l2, shared)] {
            let Some(Distances { counts, sum }) = distances else {
                continue;
            };
            let count = counts.iter().sum();
            let buckets: Vec<(f64, u64)> = bounds().chain([f64::INFINITY]).zip(counts).collect();
            let labels = OfTier { tier };
            let mut metric = family.encode_family(&labels)?;
            metric.encode_histogram::<prometheus_client::encoding::NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::super::replay::UNCHANGED;
    use super::*;

    /// Prometheus computes nothing from a histogram without a bucket for everything.
    #[test]
    fn the_last_bucket_of_reuse_holds_all_reads() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry, None);
        for key in ["new", "another", "new"] {
            metrics.read(key, 1_000, UNCHANGED);
        }
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let buckets: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("mcp_cache_reuse_bytes_bucket"))
            .collect();
        assert_eq!(buckets.len(), bounds().count() + 1);
        assert!(buckets[0].ends_with(" 1"), "{}", buckets[0]);
        let last = buckets[buckets.len() - 1];
        assert!(last.contains("le=\"+Inf\"") && last.ends_with(" 3"), "{last}");
    }
}
