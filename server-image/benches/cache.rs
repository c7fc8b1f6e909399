//! A read that the cache answers, one that it does not, and one for which something else has to leave; beside moka,
//! a well-known cache of Rust, with the same capacity in bytes and the same life.
//!
//! Ours does more: it knows how old its view of the database is, counts, samples reuse distances, and asks once for
//! many.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use futures::executor::block_on;
use mcp_server::cache::{Cache, CacheSettings, Cached, HeapBytes, Key};
use mcp_server::database::{Database, DatabaseTarget};
use mcp_server::migrate;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

const CAPACITY: u64 = 16 * 1024 * 1024;
/// As many as fit, twenty times over.
const HITS: usize = 1000;
const VALUE_BYTES: usize = 1024;
const LIFE: Duration = Duration::from_mins(5);

/// As large as a session or a small page of messages.
#[derive(Clone, Serialize, Deserialize)]
struct Text(String);

impl Text {
    fn new() -> Self {
        Self("x".repeat(VALUE_BYTES))
    }
}

impl HeapBytes for Text {
    fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }
}

impl Cached for Text {
    const KIND: &'static str = "text";
}

type Moka = moka::sync::Cache<Arc<str>, Arc<Text>>;

fn ours(runtime: &Runtime) -> Cache {
    let _inside = runtime.enter();
    let target = DatabaseTarget::Sqlite(":memory:".into());
    let database = Database::open(&target, 1, &mut Registry::default()).unwrap();
    runtime.block_on(database.migrate(&migrate::steps())).unwrap();
    let settings = CacheSettings {
        local_bytes: CAPACITY,
        // The database is asked once, so that what is measured is the cache.
        staleness: LIFE * 1000,
        ..CacheSettings::default()
    };
    Cache::open(settings, database, None, &mut Registry::default()).unwrap()
}

fn moka() -> Moka {
    Moka::builder()
        .max_capacity(CAPACITY)
        .weigher(|key: &Arc<str>, text: &Arc<Text>| u32::try_from(key.len() + text.heap_bytes()).unwrap_or(u32::MAX))
        .time_to_live(LIFE)
        .build()
}

fn key(number: usize) -> Key {
    Key::new::<Text>(&number, vec![format!("tag-{number}")])
}

fn moka_key(number: usize) -> Arc<str> {
    format!("text:{number}").into()
}

/// What `cache` has, or else what `load` gives.
fn read(cache: &Cache, key: &Key, load: impl FnOnce() -> Option<Text> + Send) -> Option<Arc<Text>> {
    let value = block_on(cache.get(black_box(key), || async { Ok::<_, Infallible>(load()) }));
    value.unwrap_or_else(|never| match never {})
}

fn reads(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let _inside = runtime.enter();

    let (cache, other) = (ours(&runtime), moka());
    let keys: Vec<(Key, Arc<str>)> = (0..HITS).map(|number| (key(number), moka_key(number))).collect();
    for (key, other_key) in &keys {
        read(&cache, key, || Some(Text::new())).unwrap();
        other.insert(Arc::clone(other_key), Arc::new(Text::new()));
    }
    let mut group = criterion.benchmark_group("cache");
    let mut turn = (0..HITS).cycle();
    let mut next = || turn.next().unwrap_or_default();
    group.bench_function(BenchmarkId::new("hit", "ours"), |bencher| {
        bencher.iter(|| read(&cache, &keys[next()].0, || None).unwrap());
    });
    group.bench_function(BenchmarkId::new("hit", "moka"), |bencher| {
        bencher.iter(|| other.get(black_box(&keys[next()].1)).unwrap());
    });

    // Values that do not exist are not cached, so each read of one is a miss.
    let absent: Vec<(Key, Arc<str>)> = (HITS..2 * HITS).map(|number| (key(number), moka_key(number))).collect();
    group.bench_function(BenchmarkId::new("miss", "ours"), |bencher| {
        bencher.iter(|| assert!(read(&cache, &absent[next()].0, || None).is_none()));
    });
    group.bench_function(BenchmarkId::new("miss", "moka"), |bencher| {
        bencher.iter(|| {
            assert!(
                other
                    .optionally_get_with(Arc::clone(&absent[next()].1), || None)
                    .is_none()
            );
        });
    });

    let mut fresh = 2 * HITS..;
    let mut next = || fresh.next().unwrap_or_default();
    for _ in 0..2 * CAPACITY / u64::try_from(VALUE_BYTES).unwrap() {
        let number = next();
        read(&cache, &key(number), || Some(Text::new())).unwrap();
        other.insert(moka_key(number), Arc::new(Text::new()));
    }
    group.bench_function(BenchmarkId::new("eviction", "ours"), |bencher| {
        bencher.iter(|| read(&cache, &key(next()), || Some(Text::new())).unwrap());
    });
    group.bench_function(BenchmarkId::new("eviction", "moka"), |bencher| {
        bencher.iter(|| other.get_with(moka_key(next()), || Arc::new(Text::new())));
    });
    group.finish();
}

criterion_group!(benches, reads);
criterion_main!(benches);
