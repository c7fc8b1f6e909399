//! Postgres: a bounded pool, time limits on everything, and the figures the scaler wants.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deadpool_postgres::{
    Client, GenericClient, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts, Transaction,
};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{NoTls, Row};

use super::{DatabaseError, Migration, PoolStatus};
use crate::lock;
use crate::metrics::{at_scrape, duration_histogram};

/// Longest wait for a free connection. Longer would only move the queue from admission to the pool.
const POOL_WAIT: Duration = Duration::from_secs(2);
/// Longest time to open a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Longest run of one statement, enforced by the server so that it stops working on it.
const STATEMENT: Duration = Duration::from_secs(5);
/// Longest wait for an answer, enforced here for the case that the server or the network says nothing at all.
const ANSWER: Duration = Duration::from_secs(6);
/// Longest wait for other replicas that migrate at the same time.
const MIGRATION: Duration = Duration::from_mins(1);
/// Key of the advisory lock that lets one replica migrate at a time; any constant that nobody else uses.
const MIGRATION_LOCK: i64 = 0x6d63_7073_6361_6c65;

/// A Postgres database with its pool. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PostgresDatabase {
    pool: Pool,
    health: Arc<Health>,
    wait_seconds: Histogram,
}

/// What the database server reports about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerFigures {
    /// Client connections of all users, this server's included.
    pub backends: i64,
    /// The server's `max_connections`.
    pub max_connections: i64,
}

#[derive(Debug, Default)]
struct Health {
    migrated: AtomicBool,
    last_answer: Mutex<Option<Instant>>,
    figures: Mutex<Option<ServerFigures>>,
}

impl Health {
    fn answered(&self) {
        *lock(&self.last_answer) = Some(Instant::now());
    }
}

impl PostgresDatabase {
    pub(super) fn open(
        config: &tokio_postgres::Config,
        pool_max: usize,
        registry: &mut Registry,
    ) -> Result<Self, DatabaseError> {
        let manager = Manager::from_config(
            with_limits(config),
            NoTls,
            ManagerConfig {
                recycling_method: RecyclingMethod::Fast,
            },
        );
        let pool = Pool::builder(manager)
            .max_size(pool_max.max(1))
            .timeouts(Timeouts {
                wait: Some(POOL_WAIT),
                create: Some(CONNECT),
                recycle: Some(CONNECT),
            })
            .runtime(Runtime::Tokio1)
            .build()?;
        let database = Self {
            pool,
            health: Arc::default(),
            wait_seconds: duration_histogram(),
        };
        database.register(registry);
        Ok(database)
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "db_client_connection_wait_time_seconds",
            "Wait for a connection of the pool",
            self.wait_seconds.clone(),
        );
        let read = self.clone();
        at_scrape::gauges(
            registry,
            "db_client_connection_count",
            "Open connections of the pool",
            "state",
            move || {
                let status = read.pool_status();
                vec![("idle", count(status.idle)), ("used", count(status.open - status.idle))]
            },
        );
        let read = self.clone();
        at_scrape::gauge(
            registry,
            "db_client_connection_max",
            "Most connections of the pool",
            move || Some(count(read.pool_status().max)),
        );
        let read = self.clone();
        at_scrape::gauge(
            registry,
            "mcp_database_backends",
            "Client connections at the database, all clients",
            move || read.figures().map(|figures| figure(figures.backends)),
        );
        let read = self.clone();
        at_scrape::gauge(
            registry,
            "mcp_database_max_connections",
            "The database's max_connections",
            move || read.figures().map(|figures| figure(figures.max_connections)),
        );
    }

    /// A connection for work on the schema's tables.
    ///
    /// # Errors
    /// [`DatabaseError::NotReady`] before the schema is up to date; [`DatabaseError::PoolTimeout`] when all are in
    /// use; [`DatabaseError::Connect`] when a new one cannot be made.
    pub async fn connection(&self) -> Result<PostgresConnection, DatabaseError> {
        if self.health.migrated.load(Ordering::Acquire) {
            self.any_connection().await
        } else {
            Err(DatabaseError::NotReady)
        }
    }

    async fn any_connection(&self) -> Result<PostgresConnection, DatabaseError> {
        let asked = Instant::now();
        let client = self.pool.get().await;
        let waited = asked.elapsed();
        self.wait_seconds.observe(waited.as_secs_f64());
        let client = client.map_err(|error| DatabaseError::from_pool(error, waited, self.pool.status().max_size))?;
        Ok(PostgresConnection {
            client: Some(client),
            health: Arc::clone(&self.health),
            silent: AtomicBool::new(false),
        })
    }

    pub(super) async fn migrate(&self, migrations: &[Migration]) -> Result<(), DatabaseError> {
        let mut connection = self.any_connection().await?;
        timeout(MIGRATION, connection.migrate(migrations))
            .await
            .map_err(|_| DatabaseError::NoAnswer(MIGRATION))??;
        self.health.answered();
        self.health.migrated.store(true, Ordering::Release);
        Ok(())
    }

    pub(super) async fn applied(&self) -> Result<Vec<String>, DatabaseError> {
        let connection = self.any_connection().await?;
        let known = "SELECT to_regclass('schema_migrations') IS NOT NULL";
        if !connection.query_one(known, &[]).await?.try_get::<_, bool>(0)? {
            return Ok(Vec::new());
        }
        let rows = connection.query("SELECT name FROM schema_migrations", &[]).await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }

    /// Reads the server's figures, which shows at the same time that it answers.
    pub(super) async fn check(&self) -> Result<(), DatabaseError> {
        let connection = self.connection().await?;
        // Client connections are the backends with a database and a user. `backend_type` says so directly but is
        // hidden from ordinary users for the connections of others.
        let row = connection
            .query_one(
                "SELECT count(*), current_setting('max_connections')::bigint FROM pg_stat_activity \
                 WHERE datid IS NOT NULL AND usesysid IS NOT NULL",
                &[],
            )
            .await?;
        *lock(&self.health.figures) = Some(ServerFigures {
            backends: row.try_get(0)?,
            max_connections: row.try_get(1)?,
        });
        Ok(())
    }

    /// What the database server last said about itself; `None` before the first check.
    #[must_use]
    pub fn figures(&self) -> Option<ServerFigures> {
        *lock(&self.health.figures)
    }

    pub(super) fn since_last_answer(&self) -> Option<Duration> {
        lock(&self.health.last_answer).map(|answered| answered.elapsed())
    }

    pub(super) fn pool_status(&self) -> PoolStatus {
        let status = self.pool.status();
        PoolStatus {
            max: status.max_size,
            open: status.size,
            idle: status.available.min(status.size),
        }
    }
}

/// Adds the time limits to what the user set.
fn with_limits(config: &tokio_postgres::Config) -> tokio_postgres::Config {
    let mut config = config.clone();
    let limits = format!(
        "-c statement_timeout={} -c idle_in_transaction_session_timeout={}",
        STATEMENT.as_millis(),
        ANSWER.as_millis()
    );
    let options = config
        .get_options()
        .map_or_else(|| limits.clone(), |given| format!("{limits} {given}"));
    config
        .options(options)
        .application_name("mcp-server")
        .connect_timeout(CONNECT)
        .keepalives_idle(Duration::from_secs(15))
        .tcp_user_timeout(Duration::from_secs(10));
    config
}

#[expect(clippy::cast_precision_loss, reason = "counts of connections are far below 2^52")]
const fn count(value: usize) -> f64 {
    value as f64
}

#[expect(clippy::cast_precision_loss, reason = "counts of connections are far below 2^52")]
const fn figure(value: i64) -> f64 {
    value as f64
}

/// A borrowed connection; it goes back to the pool when dropped, unless it has fallen silent.
#[derive(Debug)]
pub struct PostgresConnection {
    client: Option<Client>,
    health: Arc<Health>,
    silent: AtomicBool,
}

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

impl PostgresConnection {
    fn client(&self) -> Result<&Client, DatabaseError> {
        self.client.as_ref().ok_or(DatabaseError::Stopped)
    }

    /// Runs a statement and returns its rows.
    ///
    /// # Errors
    /// [`DatabaseError`] when Postgres refuses it or does not answer in time.
    pub async fn query(&self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, DatabaseError> {
        query(self.client()?, &self.health, &self.silent, sql, parameters).await
    }

    /// Runs a statement that returns at most one row.
    ///
    /// # Errors
    /// [`DatabaseError`] when Postgres refuses it or does not answer in time.
    pub async fn query_opt(&self, sql: &str, parameters: Parameters<'_>) -> Result<Option<Row>, DatabaseError> {
        Ok(self.query(sql, parameters).await?.into_iter().next())
    }

    /// Runs a statement that returns one row.
    ///
    /// # Errors
    /// [`DatabaseError`] when Postgres refuses it or does not answer in time.
    pub async fn query_one(&self, sql: &str, parameters: Parameters<'_>) -> Result<Row, DatabaseError> {
        self.query_opt(sql, parameters).await?.ok_or(DatabaseError::NoRow)
    }

    /// Begins a transaction; dropping it rolls back.
    ///
    /// # Errors
    /// [`DatabaseError`] when Postgres does not answer in time.
    pub async fn transaction(&mut self) -> Result<PostgresTransaction<'_>, DatabaseError> {
        let client = self.client.as_mut().ok_or(DatabaseError::Stopped)?;
        let transaction = answer(&self.health, &self.silent, client.transaction()).await?;
        Ok(PostgresTransaction {
            transaction,
            health: &self.health,
            silent: &self.silent,
        })
    }

    async fn migrate(&mut self, migrations: &[Migration]) -> Result<(), DatabaseError> {
        let client = self.client.as_mut().ok_or(DatabaseError::Stopped)?;
        let transaction = client.transaction().await?;
        // Waiting for the lock while another replica migrates may take longer than a statement is allowed to.
        transaction.batch_execute("SET LOCAL statement_timeout = 0").await?;
        transaction
            .execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK])
            .await?;
        transaction
            .batch_execute(
                "CREATE TABLE IF NOT EXISTS schema_migrations \
                 (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())",
            )
            .await?;
        for migration in migrations {
            let new = transaction
                .execute(
                    "INSERT INTO schema_migrations (name) VALUES ($1) ON CONFLICT DO NOTHING",
                    &[&migration.name],
                )
                .await?;
            if new == 1 {
                transaction.batch_execute(migration.postgres).await?;
            }
        }
        Ok(transaction.commit().await?)
    }
}

impl Drop for PostgresConnection {
    fn drop(&mut self) {
        // A connection that did not answer may still be stuck: the pool opens a new one instead.
        if self.silent.load(Ordering::Relaxed)
            && let Some(client) = self.client.take()
        {
            drop(Object::take(client));
        }
    }
}

/// A transaction on a borrowed connection.
pub struct PostgresTransaction<'a> {
    transaction: Transaction<'a>,
    health: &'a Health,
    silent: &'a AtomicBool,
}

impl PostgresTransaction<'_> {
    /// Runs a statement that returns at most one row.
    ///
    /// # Errors
    /// [`DatabaseError`] when Postgres refuses it or does not answer in time.
    pub async fn query_opt(&self, sql: &str, parameters: Parameters<'_>) -> Result<Option<Row>, DatabaseError> {
        Ok(query(&self.transaction, self.health, self.silent, sql, parameters)
            .await?
            .into_iter()
            .next())
    }

    /// Makes it last.
    ///
    /// # Errors
    /// [`DatabaseError`] when Postgres does not confirm it in time; the outcome is then unknown.
    pub async fn commit(self) -> Result<(), DatabaseError> {
        answer(self.health, self.silent, self.transaction.commit()).await
    }
}

async fn query<C: GenericClient>(
    client: &C,
    health: &Health,
    silent: &AtomicBool,
    sql: &str,
    parameters: Parameters<'_>,
) -> Result<Vec<Row>, DatabaseError> {
    answer(health, silent, async {
        let statement = client.prepare_cached(sql).await?;
        client.query(&statement, parameters).await
    })
    .await
}

async fn answer<T>(
    health: &Health,
    silent: &AtomicBool,
    operation: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, DatabaseError> {
    let Ok(result) = timeout(ANSWER, operation).await else {
        silent.store(true, Ordering::Relaxed);
        return Err(DatabaseError::NoAnswer(ANSWER));
    };
    // A refusal is an answer too; only a lost connection is not.
    if result.as_ref().err().is_none_or(|error| error.code().is_some()) {
        health.answered();
    }
    Ok(result?)
}
