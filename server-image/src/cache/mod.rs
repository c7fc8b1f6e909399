//! Values that were read before, kept near: in this process, and in Redis for all replicas.
//!
//! # What readers may rely on
//! **A read that begins more than [`CacheSettings::staleness`] after a write was acknowledged sees that write, at every
//! replica; at the replica that wrote, at once.** This holds while Redis is away, after it was restarted or emptied,
//! and when any message is lost, because it rests on the database alone: triggers note each change in a journal, in
//! the transaction of the change ([`schema`]), and a cached value is served only by a replica that has read the journal
//! no longer than a staleness ago (the module `follower`). A replica that cannot read the journal serves nothing from
//! its cache. With a staleness of zero each read is checked; many reads at once share one look.
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
mod forget;
mod format;
mod journal;
mod key;
mod local;
mod memory_size;
mod metrics;
mod read;
#[cfg(test)]
mod replay;
mod reuse;
pub mod schema;
mod shared;
mod shared_reuse;
mod state;
mod upkeep;

pub(crate) use follower::PREFIX_TAG;
pub use forget::Writing;
pub use key::{Cached, Key, memory_tag, session_tag};
pub use memory_size::HeapBytes;
pub use schema::MIGRATIONS;
pub use shared::InvalidRedisUrl;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::registry::Registry;

use self::flights::Flights;
use self::follower::Follower;
use self::journal::{Journal, KEPT_SECONDS};
use self::local::Local;
use self::metrics::Metrics;
use self::shared::Shared;
use self::upkeep::Revive;
use crate::database::Database;

/// Capacity of the first tier when nobody says otherwise, in bytes.
pub const DEFAULT_LOCAL_BYTES: u64 = 16 * 1024 * 1024;
/// Largest capacity of the first tier, in bytes: guards against a typing error.
pub const LOCAL_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
/// How old a cached value may be when nobody says otherwise.
pub const DEFAULT_STALENESS: Duration = Duration::from_millis(100);
/// Longest wait for an answer of Redis when nobody says otherwise: the database would have answered by then.
const DEFAULT_REDIS_ANSWER: Duration = Duration::from_millis(25);
/// Longest life of an entry of the first tier.
const LOCAL_LIFE: Duration = Duration::from_mins(5);
/// Longest life of an entry of the second tier: the journal is kept as long.
const SHARED_LIFE: Duration = Duration::from_secs(KEPT_SECONDS as u64);

/// How the cache behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheSettings {
    /// Capacity of the first tier, in bytes, at most [`LOCAL_BYTES_MAX`]; 0 keeps nothing in this process.
    pub local_bytes: u64,
    /// How much older than the database a cached value may be.
    pub staleness: Duration,
    /// Longest wait for an answer of Redis, 25 ms by default; one that takes longer is left alone for a while. Not a
    /// flag: whoever waits longer than the database takes is better off without Redis.
    pub redis_answer: Duration,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            local_bytes: DEFAULT_LOCAL_BYTES,
            staleness: DEFAULT_STALENESS,
            redis_answer: DEFAULT_REDIS_ANSWER,
        }
    }
}

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
    /// A cache in front of `database`, with a second tier at `redis_url` if there is one. Needs a running async
    /// runtime.
    ///
    /// # Errors
    /// [`InvalidRedisUrl`].
    pub fn open(
        settings: CacheSettings,
        database: Database,
        redis_url: Option<&str>,
        registry: &mut Registry,
    ) -> Result<Self, InvalidRedisUrl> {
        let open = |url| Shared::open(url, SHARED_LIFE, settings.redis_answer);
        let shared = redis_url.map(open).transpose()?;
        let cache = Self(Arc::new(Inner {
            local: Local::new(settings.local_bytes),
            metrics: Metrics::new(registry, shared.as_ref().map(Shared::measured)),
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
}
