//! The first tier: values in this process, up to a capacity in bytes that can be changed at any time.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use super::follower::Noted;

/// What an entry takes beside its key and value: the cache's own slots and indices, reference counts, rounding by the
/// allocator.
const ENTRY_BYTES: usize = 256;
/// Few shards: each has an equal part of the capacity, and a value larger than that part cannot be kept.
const SHARDS: usize = 4;
/// Entries that room is made for at the start; the cache grows as needed.
const ENTRIES: usize = 1_024;

/// A value in memory.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) value: Arc<dyn Any + Send + Sync>,
    /// What it takes, its key included.
    pub(super) bytes: u64,
    /// From then on it is not served.
    pub(super) deadline: Instant,
    /// What was known before it was read.
    pub(super) noted: Noted,
    hits: AtomicU32,
}

impl Entry {
    pub(super) fn new<Kind: Send + Sync + 'static>(
        key: &str,
        value: Arc<Kind>,
        heap_bytes: usize,
        deadline: Instant,
        noted: Noted,
    ) -> Arc<Self> {
        Arc::new(Self {
            value,
            bytes: Self::bytes_of::<Kind>(key, heap_bytes),
            deadline,
            noted,
            hits: AtomicU32::new(0),
        })
    }

    /// What a value takes with its key.
    pub(super) fn bytes_of<Kind>(key: &str, heap_bytes: usize) -> u64 {
        let bytes = key.len() + heap_bytes + size_of::<Kind>() + size_of::<Self>() + ENTRY_BYTES;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Arc<str>, Arc<Entry>> for Bytes {
    fn weight(&self, _key: &Arc<str>, entry: &Arc<Entry>) -> u64 {
        entry.bytes
    }
}

/// Counts what leaves for want of room.
#[derive(Debug, Clone)]
struct CountEvictions(Counter);

impl Lifecycle<Arc<str>, Arc<Entry>> for CountEvictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _key: Arc<str>, _entry: Arc<Entry>) {
        self.0.inc();
    }
}

/// The first tier of one replica.
pub(super) struct Local {
    cache: Cache<Arc<str>, Arc<Entry>, Bytes, DefaultHashBuilder, CountEvictions>,
    pub(super) evictions: Counter,
}

impl Local {
    /// A tier of `capacity` bytes.
    pub(super) fn new(capacity: u64) -> Self {
        let evictions = Counter::default();
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .estimated_items_capacity(ENTRIES)
            .weight_capacity(capacity)
            .build();
        let lifecycle = CountEvictions(evictions.clone());
        let cache = match options {
            Ok(options) => Cache::with_options(options, Bytes, DefaultHashBuilder::default(), lifecycle),
            // Both capacities are given, which is all that the builder asks for.
            Err(_) => Cache::with(ENTRIES, capacity, Bytes, DefaultHashBuilder::default(), lifecycle),
        };
        Self { cache, evictions }
    }

    pub(super) fn get(&self, key: &str) -> Option<Arc<Entry>> {
        let entry = self.cache.get(key)?;
        entry.hits.fetch_add(1, Ordering::Relaxed);
        Some(entry)
    }

    pub(super) fn insert(&self, key: &Arc<str>, entry: Arc<Entry>) {
        self.cache.insert(Arc::clone(key), entry);
    }

    /// Removes an entry, unless a newer one has taken its place.
    pub(super) fn remove(&self, key: &str, entry: &Arc<Entry>) {
        self.cache.remove_if(key, |found| Arc::ptr_eq(found, entry));
    }

    pub(super) fn resize(&self, capacity: u64) {
        self.cache.set_capacity(capacity);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.cache.weight()
    }

    pub(super) fn entries(&self) -> usize {
        self.cache.len()
    }

    /// Keys of the entries that were read most often since the last call, at most `count`.
    pub(super) fn popular(&self, count: usize) -> Vec<(Arc<str>, u32)> {
        let mut keys: Vec<_> = self
            .cache
            .iter()
            .map(|(key, entry)| (key, entry.hits.swap(0, Ordering::Relaxed)))
            .filter(|(_, hits)| *hits > 0)
            .collect();
        keys.sort_by_key(|(_, hits)| std::cmp::Reverse(*hits));
        keys.truncate(count);
        keys
    }
}
