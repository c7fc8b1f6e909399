//! The database behind everything the server remembers: Postgres for several replicas, a SQLite file for one.
//!
//! Here are connections, the schema's versions and health. What is stored lives with whoever stores it: the sessions
//! of MCP in [`crate::mcp::sessions`], each toolset's data in its own `storage`.

mod error;
mod heard;
mod postgres;
mod sqlite;
mod target;

pub use error::DatabaseError;
pub use heard::Heard;
pub use postgres::{PostgresConnection, PostgresDatabase, PostgresTransaction, ServerFigures};
pub use sqlite::SqliteDatabase;
pub use target::{DatabaseTarget, InvalidTarget};

use std::time::Duration;

use prometheus_client::registry::Registry;

use crate::metrics::at_scrape;

/// One step of the schema. Applied once, in order, by whichever replica comes first.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Unique, stable name; recorded in `schema_migrations`.
    pub name: &'static str,
    /// Statements for Postgres 15 or newer, which run in one transaction, perhaps more than once: when they do not get
    /// to a table soon they are rolled back, so that nobody waits behind them for long. One that begins with
    /// `CREATE INDEX CONCURRENTLY IF NOT EXISTS` or `DROP INDEX CONCURRENTLY IF EXISTS` must be alone: it runs by itself
    /// after all others, and neither readers nor writers wait for it.
    pub postgres: &'static str,
    /// Statements for SQLite.
    pub sqlite: &'static str,
}

/// What a step does while the database is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Online {
    /// Builds the index of this name.
    Build(&'static str),
    /// Drops it.
    Drop(&'static str),
}

impl Migration {
    /// What the step does while the database is in use; `None` for a step of another kind.
    #[must_use]
    pub fn online(&self) -> Option<Online> {
        let index = |prefix| {
            self.postgres
                .trim_start()
                .strip_prefix(prefix)?
                .split_whitespace()
                .next()
        };
        index("CREATE INDEX CONCURRENTLY IF NOT EXISTS")
            .map(Online::Build)
            .or_else(|| index("DROP INDEX CONCURRENTLY IF EXISTS").map(Online::Drop))
    }
}

/// An open database of either kind. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Database {
    /// Postgres: shared by all replicas.
    Postgres(PostgresDatabase),
    /// A SQLite file: one replica only.
    Sqlite(SqliteDatabase),
}

/// What stands between the server and Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Pooler {
    /// Nothing, or a pooler that gives each client a connection of its own (session mode).
    #[default]
    None,
    /// A pooler that gives each transaction another connection, such as `PgBouncer` with `pool_mode = transaction`.
    Transaction,
}

/// How connections to Postgres are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSettings {
    /// Most connections, at least one.
    pub max: usize,
    /// What stands between.
    pub pooler: Pooler,
}

/// Connections in use and allowed; a SQLite file has no pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStatus {
    /// Most connections this process may hold.
    pub max: usize,
    /// Connections open now, those that are just being opened or closed included; more than `max` until those that
    /// were in use when the pool was shrunk have been given back.
    pub open: usize,
    /// Open connections that nobody uses now.
    pub idle: usize,
}

impl Database {
    /// Prepares access to `target` with at most `pool_max` connections. Postgres need not answer yet.
    ///
    /// # Errors
    /// [`DatabaseError`] when a SQLite file cannot be opened or the Postgres settings make no pool.
    pub fn open(target: &DatabaseTarget, pool_max: usize, registry: &mut Registry) -> Result<Self, DatabaseError> {
        let settings = PoolSettings {
            max: pool_max,
            pooler: Pooler::None,
        };
        Self::open_pooled(target, settings, registry)
    }

    /// Like [`Self::open`], with everything about the pool.
    ///
    /// # Errors
    /// [`DatabaseError`] when a SQLite file cannot be opened or the Postgres settings make no pool.
    pub fn open_pooled(
        target: &DatabaseTarget,
        settings: PoolSettings,
        registry: &mut Registry,
    ) -> Result<Self, DatabaseError> {
        Ok(match target {
            DatabaseTarget::Postgres(config) => Self::Postgres(PostgresDatabase::open(config, settings, registry)?),
            DatabaseTarget::Sqlite(path) => {
                let database = SqliteDatabase::open(path, registry)?;
                let counted = database.clone();
                at_scrape::counter(
                    registry,
                    "mcp_sqlite_commits",
                    "Transactions committed to the SQLite file; several writes at once share one",
                    #[expect(clippy::cast_precision_loss, reason = "a count far below 2^52")]
                    move || Some(counted.commits() as f64),
                );
                Self::Sqlite(database)
            }
        })
    }

    /// Brings the schema to the last of `migrations`. Safe to repeat, and to run from many replicas at once.
    ///
    /// # Errors
    /// [`DatabaseError`] when the database cannot be reached or refuses a statement.
    pub async fn migrate(&self, migrations: &[Migration]) -> Result<(), DatabaseError> {
        self.migrate_tables(migrations).await?;
        self.build_indexes(migrations).await
    }

    /// The first part of [`Self::migrate`]: all that must be there before anybody is served.
    ///
    /// # Errors
    /// [`DatabaseError`] when the database cannot be reached or refuses a statement.
    pub async fn migrate_tables(&self, migrations: &[Migration]) -> Result<(), DatabaseError> {
        match self {
            Self::Postgres(database) => database.migrate_tables(migrations).await,
            Self::Sqlite(database) => database.migrate(migrations.to_vec()).await,
        }
    }

    /// The second part of [`Self::migrate`]: indexes that are built or dropped while the database is in use, which may
    /// take hours and keeps one connection of the pool meanwhile, at the replica that builds, and at each that drops.
    /// Nothing for a SQLite file.
    ///
    /// # Errors
    /// [`DatabaseError`] when the database cannot be reached or refuses a statement.
    pub async fn build_indexes(&self, migrations: &[Migration]) -> Result<(), DatabaseError> {
        match self {
            Self::Postgres(database) => database.build_online(migrations).await,
            Self::Sqlite(_) => Ok(()),
        }
    }

    /// Names of the steps that have been applied; changes nothing.
    ///
    /// # Errors
    /// [`DatabaseError`] when the database cannot be reached or read.
    pub async fn applied(&self) -> Result<Vec<String>, DatabaseError> {
        match self {
            Self::Postgres(database) => database.applied().await,
            Self::Sqlite(database) => database.applied().await,
        }
    }

    /// Asks the database one cheap question.
    ///
    /// # Errors
    /// [`DatabaseError`] when it does not answer.
    pub async fn check(&self) -> Result<(), DatabaseError> {
        match self {
            Self::Postgres(database) => database.check().await,
            Self::Sqlite(database) => database.check().await,
        }
    }

    /// Time since the database last answered anything, `None` before its first answer.
    #[must_use]
    pub fn since_last_answer(&self) -> Option<Duration> {
        match self {
            Self::Postgres(database) => database.since_last_answer(),
            // A local file answers or the check fails; there is no traffic that could vouch for it in between.
            Self::Sqlite(_) => None,
        }
    }

    /// Sets how many connections there may be, at least one; nothing for a SQLite file. Idle connections above it are
    /// closed at once, those in use when their request is done with them.
    pub fn resize_pool(&self, max: usize) {
        if let Self::Postgres(database) = self {
            database.resize(max);
        }
    }

    /// State of the connection pool, if there is one.
    #[must_use]
    pub fn pool(&self) -> Option<PoolStatus> {
        match self {
            Self::Postgres(database) => Some(database.pool_status()),
            Self::Sqlite(_) => None,
        }
    }
}
