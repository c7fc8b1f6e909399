//! Postgres: a bounded pool, time limits on everything, and the figures the scaler wants.
//!
//! Nothing depends on the state of a session outside a transaction, so a pooler in transaction mode (`PgBouncer`) may
//! stand between: with [`Pooler::Transaction`], no start-up options are sent and no statement is prepared, and a
//! statement that takes too long is cancelled from here, because the limit cannot be set on the connection.

mod cancel;
mod connection;
mod migrations;
mod online;
mod pool;
mod statements;

pub use connection::{PostgresConnection, PostgresTransaction};

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::sync::broadcast::Receiver;
use tokio::sync::watch;
use tokio_postgres::config::TargetSessionAttrs;

use self::cancel::Canceller;
use self::pool::{CONNECT, Connections};
use self::statements::Statements;
use super::heard::{Ears, Heard};
use super::{DatabaseError, Migration, PoolSettings, PoolStatus, Pooler};
use crate::lock;
use crate::metrics::{at_scrape, duration_histogram};

/// Longest run of one statement, enforced by the server so that it stops working on it.
const STATEMENT: Duration = Duration::from_secs(5);
/// Longest wait for an answer, enforced here for the case that the server or the network says nothing at all.
const ANSWER: Duration = Duration::from_secs(6);
/// Age from which on the server's figures count as unknown: several checks have failed, and who read them as those of
/// now would give out connections that there may not be.
const FIGURES: Duration = Duration::from_secs(10);

/// A Postgres database with its pool. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PostgresDatabase {
    pool: Connections,
    ears: Ears,
    /// The pool's size: who follows it misses no change, whatever it waits for meanwhile.
    size: watch::Sender<usize>,
    statements: Statements,
    health: Arc<Health>,
    wait_seconds: Histogram,
    use_seconds: Histogram,
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
    /// With the time of the answer.
    figures: Mutex<Option<(Instant, ServerFigures)>>,
}

impl Health {
    fn answered(&self) {
        *lock(&self.last_answer) = Some(Instant::now());
    }
}

impl PostgresDatabase {
    pub(super) fn open(
        config: &tokio_postgres::Config,
        settings: PoolSettings,
        registry: &mut Registry,
    ) -> Result<Self, DatabaseError> {
        let (wait_seconds, use_seconds) = (duration_histogram(), duration_histogram());
        let mut config = with_limits(config, settings.pooler);
        refuse_read_only(&mut config);
        let ears = Ears::new();
        let histograms = (wait_seconds.clone(), use_seconds.clone());
        let pool = Connections::new(config.clone(), settings.max, ears.clone(), histograms)?;
        let database = Self {
            pool,
            ears,
            size: watch::Sender::new(settings.max),
            statements: match settings.pooler {
                Pooler::None => Statements::Prepared,
                Pooler::Transaction => Statements::unnamed(Canceller::new(&config)),
            },
            health: Arc::default(),
            wait_seconds,
            use_seconds,
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
        registry.register(
            "db_client_connection_use_time_seconds",
            "Time a connection of the pool was in use, listening for news and migrating left out",
            self.use_seconds.clone(),
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
        let borrowed = self.pool.take().await?;
        Ok(PostgresConnection::new(
            borrowed,
            self.statements.clone(),
            Arc::clone(&self.health),
        ))
    }

    /// What is heard from now on, on whichever connection.
    #[must_use]
    pub fn heard(&self) -> Receiver<Heard> {
        self.ears.heard()
    }

    /// Sets how many connections there may be, at least one: see [`PoolStatus`] for when it is really so.
    pub fn resize(&self, max: usize) {
        self.pool.resize(max);
        self.size.send_replace(max);
    }

    /// Waits until the pool is smaller than `least`, which it may be already; who keeps a connection for long may have
    /// to give it back.
    pub async fn shrunk_below(&self, least: usize) {
        // It fails only without a sender, and that is here.
        let _ = self.size.subscribe().wait_for(|max| *max < least).await;
    }

    /// Applies those `migrations` that are not built online; from then on there are connections for everybody.
    pub(super) async fn migrate_tables(&self, migrations: &[Migration]) -> Result<(), DatabaseError> {
        self.untimed_connection().await?.migrate(migrations).await?;
        self.health.answered();
        self.health.migrated.store(true, Ordering::Release);
        Ok(())
    }

    /// A connection for what is no request, whose time would drown that of requests.
    async fn untimed_connection(&self) -> Result<PostgresConnection, DatabaseError> {
        let mut connection = self.any_connection().await?;
        connection.leave_untimed();
        Ok(connection)
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
        let figures = ServerFigures {
            backends: row.try_get(0)?,
            max_connections: row.try_get(1)?,
        };
        *lock(&self.health.figures) = Some((Instant::now(), figures));
        Ok(())
    }

    /// What the database server said about itself in the last ten seconds, if it did.
    #[must_use]
    pub fn figures(&self) -> Option<ServerFigures> {
        let (said, figures) = (*lock(&self.health.figures))?;
        (said.elapsed() < FIGURES).then_some(figures)
    }

    pub(super) fn since_last_answer(&self) -> Option<Duration> {
        lock(&self.health.last_answer).map(|answered| answered.elapsed())
    }

    /// Whether each transaction may run on another connection of the server, so that nothing stays with one.
    #[must_use]
    pub const fn is_pooled_by_transaction(&self) -> bool {
        !matches!(self.statements, Statements::Prepared)
    }

    /// Most connections of the pool.
    #[must_use]
    pub fn pool_max(&self) -> usize {
        self.pool.status().max
    }

    pub(super) fn pool_status(&self) -> PoolStatus {
        self.pool.status()
    }
}

/// Adds the time limits to what the user set.
fn with_limits(config: &tokio_postgres::Config, pooler: Pooler) -> tokio_postgres::Config {
    let mut config = config.clone();
    config
        .application_name("mcp-server")
        .connect_timeout(CONNECT)
        .keepalives_idle(Duration::from_secs(15))
        .tcp_user_timeout(Duration::from_secs(10));
    if pooler == Pooler::Transaction {
        return config;
    }
    let limits = format!(
        "-c statement_timeout={} -c idle_in_transaction_session_timeout={}",
        STATEMENT.as_millis(),
        ANSWER.as_millis()
    );
    let options = config
        .get_options()
        .map_or_else(|| limits.clone(), |given| format!("{limits} {given}"));
    config.options(options);
    config
}

/// Makes a server that only reads no place to connect to, unless the user wants one. After a failover a name leads to
/// the old primary for a while: connections to it would stay, and refuse every write, long after the name is right.
fn refuse_read_only(config: &mut tokio_postgres::Config) {
    if config.get_target_session_attrs() == TargetSessionAttrs::Any {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of connections are far below 2^52")]
const fn count(value: usize) -> f64 {
    value as f64
}

#[expect(clippy::cast_precision_loss, reason = "counts of connections are far below 2^52")]
const fn figure(value: i64) -> f64 {
    value as f64
}
