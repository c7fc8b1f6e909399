//! How large the cache may be, and how it is.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::registry::Registry;

use super::shared::Shared;
use super::{Cache, Inner};
use crate::metrics::at_scrape;

impl Cache {
    /// Sets the capacity of the first tier, in bytes; what is too much leaves at once.
    pub fn resize(&self, bytes: u64) {
        self.0.wanted_bytes.store(bytes, Ordering::Relaxed);
        self.apply_capacity();
    }

    /// Limits the capacity of the first tier to what memory allows, in bytes, until the next call; `u64::MAX` for no
    /// limit.
    pub fn allow(&self, bytes: u64) {
        self.0.allowed_bytes.store(bytes, Ordering::Relaxed);
        self.apply_capacity();
    }

    fn apply_capacity(&self) {
        self.0.local.resize(self.capacity());
    }

    /// Capacity in force, in bytes: what was set, or less if memory is short.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        let wanted = self.0.wanted_bytes.load(Ordering::Relaxed);
        wanted.min(self.0.allowed_bytes.load(Ordering::Relaxed))
    }

    /// What the first tier holds, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.local.bytes()
    }

    /// Whether the second tier answers; `None` without one.
    #[must_use]
    pub fn shared_answers(&self) -> Option<bool> {
        self.0.shared.as_ref().map(Shared::answers)
    }

    /// What is worth knowing about the cache although the server is ready; empty when all is well.
    #[must_use]
    pub fn remarks(&self) -> Vec<&'static str> {
        let redis = (self.shared_answers() == Some(false))
            .then_some("Redis does not answer: serving without the cache that replicas share, slower than usual");
        let memory = (self.capacity() < self.0.wanted_bytes.load(Ordering::Relaxed))
            .then_some("memory is short: the cache in this process is smaller than it was set");
        redis.into_iter().chain(memory).collect()
    }

    /// Registers the gauges and counters of both tiers.
    pub(super) fn register(&self, registry: &mut Registry) {
        let gauge = |registry: &mut Registry, name, help, read: fn(&Inner) -> Option<f64>| {
            let inner = Arc::clone(&self.0);
            at_scrape::gauges(registry, name, help, "tier", move || {
                read(&inner).map(|value| ("l1", value)).into_iter().collect()
            });
        };
        gauge(registry, "mcp_cache_bytes", "Size of what a tier holds", |inner| {
            Some(as_float(inner.local.bytes()))
        });
        gauge(registry, "mcp_cache_entries", "Values that a tier holds", |inner| {
            Some(as_float(inner.local.entries() as u64))
        });
        let cache = self.clone();
        at_scrape::gauges(
            registry,
            "mcp_cache_capacity_bytes",
            "Capacity of a tier in force",
            "tier",
            move || vec![("l1", as_float(cache.capacity()))],
        );
        registry.register(
            "mcp_cache_evictions",
            "Values that left the first tier for want of room",
            self.0.local.evictions.clone(),
        );
        let cache = self.clone();
        at_scrape::gauge(
            registry,
            "mcp_cache_hit_ratio",
            "Hits of either tier divided by look-ups, since the start",
            move || cache.0.metrics.hit_ratio(),
        );
        let Some(shared) = &self.0.shared else { return };
        registry.register(
            "mcp_cache_redis_errors",
            "Questions to Redis that it did not answer in time, or refused",
            shared.errors(),
        );
        let cache = self.clone();
        at_scrape::gauge(registry, "mcp_cache_redis_up", "Whether Redis answers", move || {
            cache.shared_answers().map(|answers| if answers { 1.0 } else { 0.0 })
        });
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
const fn as_float(value: u64) -> f64 {
    value as f64
}
