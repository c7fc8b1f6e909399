//! Values that were read before, kept near: in this process, and in Redis for all replicas.
//!
//! # What readers may rely on
//! **A read that begins more than [`CacheSettings::staleness`] after a write was acknowledged sees that write, at every
//! replica; at the replica that wrote, at once.** This holds while Redis is away, after it was restarted or emptied,
//! and when any message is lost, because it rests on the database alone: triggers note each change in a journal, in
//! the transaction of the change ([`schema`]), and a cached value is served only by a replica that has read the journal
//! no longer than a staleness ago (the module `follower`). A replica that cannot read the journal serves nothing from its cache.
//! With a staleness of zero each read is checked; many reads at once share one look.
//!
//! There is no pub/sub: a look is one small query, and none is made while nobody reads, so messages would only add a
//! second way, which can fail, to something that needs the first one anyhow.
//!
//! **Who may read what is part of the key.** A key is made from everything that the query depends on, the reader's
//! identity and permissions included, so a hit is what the database would have answered to the same reader.
//!
//! # How a value moves
//! A read looks into the first tier, then the second, then asks the database; several reads of one key at the same
//! time ask once. A value found in the second tier is put into the first with the life it has left. A value is stored
//! together with what was known when it was read, so one that was overtaken by a change while it was on its way is
//! never served.
//!
//! Values that do not exist are not cached.

mod flights;
mod follower;
mod format;
mod journal;
mod local;
mod memory_size;
mod metrics;
mod reuse;
pub mod schema;
mod shared;
mod shared_reuse;

pub use memory_size::HeapBytes;
pub use schema::MIGRATIONS;
pub use shared::InvalidRedisUrl;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use prometheus_client::registry::Registry;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use self::flights::{Flight, Flights};
use self::follower::{Follower, Known, Noted, PREFIX_TAG};
use self::journal::{Journal, KEPT_SECONDS};
use self::local::{Entry, Local};
use self::metrics::{Metrics, Miss, Tier};
use self::reuse::Read;
use self::shared::Shared;
use crate::database::{Database, DatabaseError};
use crate::lock;
use crate::metrics::at_scrape;

/// Capacity of the first tier when nobody says otherwise, in bytes.
pub const DEFAULT_LOCAL_BYTES: u64 = 16 * 1024 * 1024;
/// Largest capacity of the first tier, in bytes: guards against a typing error.
pub const LOCAL_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
/// How old a cached value may be when nobody says otherwise.
pub const DEFAULT_STALENESS: Duration = Duration::from_millis(100);
/// Longest life of an entry of the first tier.
const LOCAL_LIFE: Duration = Duration::from_mins(5);
/// Longest life of an entry of the second tier: the journal is kept as long.
const SHARED_LIFE: Duration = Duration::from_secs(KEPT_SECONDS as u64);
/// How often popular keys are told and the journal is tidied up.
const UPKEEP: Duration = Duration::from_secs(30);
/// How often replicas tell each other what they have read.
const EXCHANGE: Duration = Duration::from_secs(1);
/// Popular keys that a replica tells of each time.
const POPULAR: usize = 200;
/// Reads of a key that wait for another one of it, at most this often; then each asks for itself.
const WAITS_MAX: usize = 2;

/// How the cache behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheSettings {
    /// Capacity of the first tier, in bytes, at most [`LOCAL_BYTES_MAX`]; 0 keeps nothing in this process.
    pub local_bytes: u64,
    /// How much older than the database a cached value may be.
    pub staleness: Duration,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            local_bytes: DEFAULT_LOCAL_BYTES,
            staleness: DEFAULT_STALENESS,
        }
    }
}

/// What can be cached.
pub trait Cached: Clone + HeapBytes + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Begins the keys of all values of this type; no other type's may.
    const KIND: &'static str;

    /// When the value ends by itself, if it does.
    fn expires_at(&self) -> Option<Timestamp> {
        None
    }
}

/// What a value depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    text: Arc<str>,
    tags: Vec<String>,
}

impl Key {
    /// The key of a value of type `Kind` that answers `query`, which must hold everything that the answer depends on,
    /// the reader included: its `Debug` text is the key. `tags` name what changes it, as the journal does.
    pub fn new<Kind: Cached>(query: &impl std::fmt::Debug, tags: Vec<String>) -> Self {
        Self {
            text: format!("{}:{query:?}", Kind::KIND).into(),
            tags,
        }
    }
}

/// Tag of a session, its messages included.
#[must_use]
pub fn session_tag(session_id: &str) -> String {
    format!("session:{session_id}")
}

/// Tag of one entry of an agent's memory.
#[must_use]
pub fn memory_tag(agent_id: &str, session_id: Option<&str>, key: &str) -> String {
    format!("memory:{agent_id}\u{1f}{}\u{1f}{key}", session_id.unwrap_or_default())
}

/// Puts a value that was found in the second tier into the first.
type Revive = fn(&Cache, &str, &shared::Found, &Known);

/// The cache of one replica. Cheap to clone.
#[derive(Clone)]
pub struct Cache(Arc<Inner>);

struct Inner {
    local: Local,
    shared: Option<Shared>,
    follower: Arc<Follower>,
    flights: Flights,
    metrics: Metrics,
    /// Capacity that was asked for, in bytes.
    wanted_bytes: AtomicU64,
    /// Capacity that memory allows, in bytes.
    allowed_bytes: AtomicU64,
    kinds: Mutex<HashMap<&'static str, Revive>>,
}

impl Cache {
    /// A cache in front of `database`, with a second tier at `redis_url` if there is one. Needs a running async runtime.
    ///
    /// # Errors
    /// [`InvalidRedisUrl`].
    pub fn open(
        settings: CacheSettings,
        database: Database,
        redis_url: Option<&str>,
        registry: &mut Registry,
    ) -> Result<Self, InvalidRedisUrl> {
        let shared = redis_url.map(|url| Shared::open(url, SHARED_LIFE)).transpose()?;
        let cache = Self(Arc::new(Inner {
            local: Local::new(settings.local_bytes),
            metrics: Metrics::new(registry, shared.as_ref().map(Shared::reuse)),
            shared,
            follower: Follower::new(Journal::new(database), settings.staleness),
            flights: Flights::default(),
            wanted_bytes: AtomicU64::new(settings.local_bytes),
            allowed_bytes: AtomicU64::new(u64::MAX),
            kinds: Mutex::default(),
        }));
        cache.register(registry);
        Ok(cache)
    }

    /// The value of `key`: from a tier, or from `load`, which may be asked again by others if it fails.
    ///
    /// # Errors
    /// Those of `load`; the cache itself never fails.
    pub async fn get<Kind: Cached, Error, Loading>(
        &self,
        key: &Key,
        load: impl FnOnce() -> Loading + Send,
    ) -> Result<Option<Arc<Kind>>, Error>
    where
        Loading: Future<Output = Result<Option<Kind>, Error>> + Send,
    {
        let arrived = Instant::now();
        let inner = &*self.0;
        let Ok(known) = inner.follower.up_to(arrived).await else {
            inner.metrics.miss(Tier::l1, Miss::Unavailable);
            return Ok(load().await?.map(Arc::new));
        };
        let mut waits = 0;
        let (miss, leader) = loop {
            let miss = match self.find_local(key) {
                Ok(value) => return Ok(Some(value)),
                Err(miss) => miss,
            };
            match inner.flights.join(&key.text) {
                Flight::Own(leader) => break (miss, Some(leader)),
                Flight::Others(_) if waits == WAITS_MAX => break (miss, None),
                Flight::Others(waiting) => flights::landed(waiting).await,
            }
            waits += 1;
        };
        inner.metrics.miss(Tier::l1, miss);
        let value = self.fetch(key, miss, known, load).await;
        drop(leader);
        value
    }

    fn find_local<Kind: Cached>(&self, key: &Key) -> Result<Arc<Kind>, Miss> {
        let inner = &*self.0;
        let Some(entry) = inner.local.get(&key.text) else {
            return Err(inner.metrics.absent(&key.text));
        };
        let miss = if entry.deadline <= Instant::now() {
            Miss::Expired
        } else if !inner.follower.is_unchanged(&key.text, &entry.noted) {
            Miss::Changed
        } else if let Ok(value) = Arc::clone(&entry.value).downcast() {
            inner.metrics.hit(Tier::l1);
            inner.metrics.read(&key.text, entry.bytes, Read::Reusable);
            return Ok(value);
        } else {
            // Two kinds with one name: not possible, but no reason to fail.
            Miss::New
        };
        inner.local.remove(&key.text, &entry);
        Err(miss)
    }

    /// Gets what the first tier does not have.
    async fn fetch<Kind: Cached, Error, Loading>(
        &self,
        key: &Key,
        miss: Miss,
        known: Known,
        load: impl FnOnce() -> Loading + Send,
    ) -> Result<Option<Arc<Kind>>, Error>
    where
        Loading: Future<Output = Result<Option<Kind>, Error>> + Send,
    {
        let inner = &*self.0;
        // Before anything is read: what becomes known from here on makes the value worthless.
        let mut noted = inner.follower.note(&key.tags);
        let mut known = Some(known);
        let mut shared_miss = Miss::Unavailable;
        if let Some(shared) = &inner.shared {
            // What others have stored can only be judged when the place of this replica's own writes is known.
            known = None;
            if let Ok((since, then)) = inner.follower.up_to_own_writes(&key.tags).await {
                match self.find_shared::<Kind>(shared, key, &then, &since).await {
                    Ok(value) => {
                        inner.metrics.read(&key.text, size(key, &*value), miss.read());
                        return Ok(Some(value));
                    }
                    Err(miss) => shared_miss = miss,
                }
                (known, noted) = (Some(since), then);
            }
        }
        let began = Instant::now();
        let Some(value) = load().await? else { return Ok(None) };
        inner.metrics.load_seconds.observe(began.elapsed().as_secs_f64());
        let value = Arc::new(value);
        inner.metrics.read(&key.text, size(key, &*value), miss.read());
        if let Some(known) = known
            && let Some(life) = life(&*value, &known)
            && inner.follower.is_unchanged(&key.text, &noted)
        {
            if let Some(shared) = &inner.shared {
                let (tags, value) = (key.tags.clone(), Arc::clone(&value));
                let bytes = move || format::encode(&(tags, &*value), known.position);
                shared.put(
                    &known.origin,
                    &key.text,
                    life.min(SHARED_LIFE),
                    shared_miss.read(),
                    bytes,
                );
            }
            self.keep(&key.text, &value, life, noted);
        }
        Ok(Some(value))
    }

    async fn find_shared<Kind: Cached>(
        &self,
        shared: &Shared,
        key: &Key,
        noted: &Noted,
        known: &Known,
    ) -> Result<Arc<Kind>, Miss> {
        let inner = &*self.0;
        let missed = |miss| {
            inner.metrics.miss(Tier::l2, miss);
            Err(miss)
        };
        let found = shared.get(&known.origin, &key.text).await;
        let stored = found
            .as_ref()
            .map(|found| format::decode::<(Vec<String>, Kind)>(&found.bytes));
        let (Some(found), Some(Some(((_, value), position)))) = (&found, stored) else {
            return missed(if shared.answers() { Miss::New } else { Miss::Unavailable });
        };
        if !inner.follower.is_good(&key.text, &key.tags, position, known) {
            return missed(Miss::Changed);
        }
        let Some(life) = life(&value, known) else {
            return missed(Miss::Expired);
        };
        inner.metrics.hit(Tier::l2);
        shared.note_hit(&known.origin, &key.text, found.bytes.len());
        let value = Arc::new(value);
        self.keep(&key.text, &value, life.min(found.life), noted.clone());
        Ok(value)
    }

    fn keep<Kind: Cached>(&self, key: &Arc<str>, value: &Arc<Kind>, life: Duration, noted: Noted) {
        let inner = &*self.0;
        if inner.wanted_bytes.load(Ordering::Relaxed) == 0 {
            return;
        }
        let deadline = Instant::now() + life.min(LOCAL_LIFE);
        let entry = Entry::new(key, Arc::clone(value), value.heap_bytes(), deadline, noted);
        inner.local.insert(key, entry);
        inner.metrics.remember(key);
    }

    /// To be called around a write: whatever becomes of it, even if the caller is dropped while it waits, nothing that
    /// was read under `tags` before its end is served at this replica any more. Other replicas learn from the journal.
    pub fn writing(&self, tags: Vec<String>) -> Writing {
        Writing {
            cache: self.clone(),
            tags,
        }
    }

    /// Makes all replicas forget what they keep under these tags; for changes that no trigger notes.
    ///
    /// # Errors
    /// [`DatabaseError`] when the journal cannot be written; then only this replica has forgotten.
    pub async fn invalidate(&self, tags: Vec<String>) -> Result<(), DatabaseError> {
        // Until the others can know of it, this replica may still take an old value from the tier that it shares.
        let _writing = self.writing(tags.clone());
        self.0.follower.announce(tags).await
    }

    /// Makes all replicas forget the values whose keys begin with `prefix`, such as `page:` for all pages of messages;
    /// all values, if it is empty.
    ///
    /// # Errors
    /// [`DatabaseError`] when the journal cannot be written.
    pub async fn invalidate_prefix(&self, prefix: &str) -> Result<(), DatabaseError> {
        self.0.follower.announce(vec![format!("{PREFIX_TAG}{prefix}")]).await?;
        // This replica looks too, at once.
        let _ = self
            .0
            .follower
            .up_to(Instant::now() + self.0.follower.staleness())
            .await;
        Ok(())
    }

    /// Announces that values of this type may be found in the second tier, so that [`Self::warm_up`] can use them.
    pub fn expect<Kind: Cached>(&self) {
        lock(&self.0.kinds).insert(Kind::KIND, revive::<Kind>);
    }

    /// Fills the first tier with what other replicas read most, from the second tier. Returns how many values.
    pub async fn warm_up(&self) -> usize {
        let inner = &*self.0;
        let (Some(shared), Ok(known)) = (&inner.shared, inner.follower.up_to(Instant::now()).await) else {
            return 0;
        };
        let before = inner.local.entries();
        let keys = shared.popular(&known.origin, known.now()).await;
        for some in keys.chunks(50) {
            let found = shared.get_many(&known.origin, some).await;
            for (key, found) in some.iter().zip(found) {
                let kind = key.split(':').next().unwrap_or_default();
                let revive = lock(&inner.kinds).get(kind).copied();
                if let (Some(revive), Some(found)) = (revive, found) {
                    revive(self, key, &found, &known);
                }
            }
        }
        inner.local.entries().saturating_sub(before)
    }

    /// Warms up, then keeps the journal short and other replicas informed of what is popular. Runs until dropped.
    pub async fn upkeep(self) {
        let inner = &*self.0;
        while inner.follower.up_to(Instant::now()).await.is_err() {
            sleep(Duration::from_secs(1)).await;
        }
        let warm = self.warm_up().await;
        tracing::debug!(values = warm, "the cache is warm");
        loop {
            sleep(UPKEEP).await;
            if let Err(error) = self.tidy_journal().await {
                tracing::debug!(%error, "cannot tidy up the journal of changes");
            }
            self.tell_popular().await;
        }
    }

    /// Deletes from the journal what is older than anything that is kept. Safe to call at many replicas at once.
    ///
    /// # Errors
    /// [`DatabaseError`] when the database does not answer; nothing is lost by it.
    pub async fn tidy_journal(&self) -> Result<(), DatabaseError> {
        self.0.follower.forget().await
    }

    /// Tells other replicas what is read most here.
    pub async fn tell_popular(&self) {
        let inner = &*self.0;
        if let Some(shared) = &inner.shared
            && let Ok(known) = inner.follower.up_to(Instant::now()).await
        {
            shared
                .add_popular(&known.origin, known.now(), &inner.local.popular(POPULAR))
                .await;
        }
    }

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

    /// Watches whether Redis answers, so that it is known even while nobody reads. Runs until dropped.
    pub async fn watch_shared(self) {
        let Some(shared) = &self.0.shared else { return };
        loop {
            shared.ping().await;
            sleep(Duration::from_secs(2)).await;
        }
    }

    /// Keeps telling other replicas what was read from the tier they share, which no replica can size alone. Runs until
    /// dropped.
    pub async fn exchange_reads(self) {
        let Some(shared) = &self.0.shared else { return };
        loop {
            sleep(EXCHANGE).await;
            shared.exchange_reads().await;
        }
    }

    fn register(&self, registry: &mut Registry) {
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
            "Questions to Redis without an answer in time",
            shared.errors(),
        );
        let cache = self.clone();
        at_scrape::gauge(registry, "mcp_cache_redis_up", "Whether Redis answers", move || {
            cache.shared_answers().map(|answers| if answers { 1.0 } else { 0.0 })
        });
    }
}

fn size<Kind: Cached>(key: &Key, value: &Kind) -> u64 {
    Entry::bytes_of::<Kind>(&key.text, value.heap_bytes())
}

/// How long a value may be kept; `None` if it has ended.
fn life<Kind: Cached>(value: &Kind, known: &Known) -> Option<Duration> {
    let Some(end) = value.expires_at() else {
        return Some(SHARED_LIFE);
    };
    let left = Duration::try_from(end.duration_since(known.now())).ok()?;
    (!left.is_zero()).then_some(left.min(SHARED_LIFE))
}

fn revive<Kind: Cached>(cache: &Cache, key: &str, found: &shared::Found, known: &Known) {
    let Some(((tags, value), position)) = format::decode::<(Vec<String>, Kind)>(&found.bytes) else {
        return;
    };
    let follower = &cache.0.follower;
    let noted = follower.note(&tags);
    if !follower.has_written(&tags)
        && follower.is_good(key, &tags, position, known)
        && let Some(life) = life(&value, known)
    {
        cache.keep(&key.into(), &Arc::new(value), life.min(found.life), noted);
    }
}

/// A write that is going on.
#[must_use = "the write ends when this is dropped"]
pub struct Writing {
    cache: Cache,
    tags: Vec<String>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.cache.0.follower.written(&self.tags);
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
const fn as_float(value: u64) -> f64 {
    value as f64
}
