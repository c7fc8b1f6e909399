//! Where data comes from, and what keeps it in order: the same for a server on the network and for one of a single client
//! on standard input.

use prometheus_client::registry::Registry;
use tokio::task::JoinSet;

use super::{Settings, StartError};
use crate::cache::Cache;
use crate::changes::{Changes, Relay};
use crate::database::{Database, PoolSettings};
use crate::memory;
use crate::metrics::at_scrape;

/// The parts that hold data.
pub(crate) struct DataParts {
    pub(crate) database: Database,
    pub(crate) changes: Changes,
    pub(crate) cache: Cache,
    pub(super) memory: memory::Guard,
}

impl DataParts {
    /// Puts them together. Nothing runs yet, and the database need not answer.
    pub(crate) fn open(settings: &Settings, registry: &mut Registry) -> Result<Self, StartError> {
        let pool = PoolSettings {
            max: settings.tuning.pool_max,
            pooler: settings.data.pooler,
        };
        let database = Database::open_pooled(&settings.data.database, pool, registry)?;
        register_pool_size(registry, &database);
        let changes = match &database {
            // Whoever reads again when it hears of a change must not get what is cached of before.
            Database::Postgres(_) => Changes::shared().with_delay(settings.cache.staleness),
            Database::Sqlite(_) => Changes::alone(),
        };
        let memory = memory::Guard::default();
        memory.register(registry);
        let redis_url = settings.data.redis_url.as_deref();
        let cache = Cache::open(settings.cache, database.clone(), redis_url, registry)?;
        Ok(Self {
            database,
            changes,
            cache,
            memory,
        })
    }

    /// Starts what runs beside calls.
    pub(crate) fn start(self, beside: &mut JoinSet<()>) {
        if let Database::Postgres(database) = self.database {
            beside.spawn(Relay::new(self.changes, database).run());
        }
        beside.spawn(self.cache.clone().upkeep());
        beside.spawn(self.cache.clone().watch_shared());
        beside.spawn(self.cache.clone().exchange_reads());
        beside.spawn(self.memory.watch(self.cache));
    }
}

/// The name that guides know it by; `db_client_connection_count` has the same by state.
fn register_pool_size(registry: &mut Registry, database: &Database) {
    let database = database.clone();
    at_scrape::gauge(
        registry,
        "mcp_db_pool_size",
        "Open connections of the pool",
        move || u32::try_from(database.pool()?.open).ok().map(f64::from),
    );
}
