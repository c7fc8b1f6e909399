//! One server process: puts the parts together, listens, and ends without failing a request.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::admission::adaptive::AdaptiveSettings;
use crate::auth::{self, Auth, InvalidAuth};
use crate::cache::{Cache, CacheSettings, InvalidRedisUrl};
use crate::changes::{Changes, Relay};
use crate::database::{Database, DatabaseError, DatabaseTarget, PoolSettings, Pooler};
use crate::drain::Drain;
use crate::guard::Guard;
use crate::health::{self, Health};
use crate::limits::{self, InvalidRedis, RateLimits};
use crate::mcp::request_state::KeyTooShort;
use crate::mcp::sessions::SharedSessions;
use crate::mcp::{Endpoint, HostPolicy, McpHandler, Names, Options, OriginPolicy, RequestStates};
use crate::metrics::agents::ActiveAgents;
use crate::metrics::{at_scrape, container, process};
use crate::readiness::{Readiness, watch_database};
use crate::report::Performance;
use crate::telemetry::{InvalidTraces, Observer, TelemetrySettings, Traces, follow};
use crate::tools::shared_context::{self, Chores, SharedContext, SharedContextSettings};
use crate::tools::{Catalog, InvalidTool, fixtures};
use crate::transport::{self, Connections, InvalidTls, Tls, compress};
use crate::tuning::control::{Authority, Tuner};
use crate::tuning::{self, Tuning};
use crate::{memory, migrate, probes};

/// After the drain's time is up, what is still running is cancelled and gets this long to go.
const CANCEL: Duration = Duration::from_secs(1);

/// Everything a server needs to know to start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens.
    pub network: Network,
    /// How connections are served.
    pub transport: transport::Settings,
    /// Who may call it.
    pub auth: auth::Settings,
    /// How often one caller may ask.
    pub limits: limits::Settings,
    /// Where its data is.
    pub data: Data,
    /// How much is done at once.
    pub tuning: Tuning,
    /// How the shared context behaves.
    pub shared_context: SharedContextSettings,
    /// What else decides about capacity.
    pub capacity: Capacity,
    /// What is kept near.
    pub cache: CacheSettings,
    /// How the process runs.
    pub operation: Operation,
    /// What is told of requests besides metrics.
    pub telemetry: TelemetrySettings,
}

/// Where a server listens.
#[derive(Debug, Clone)]
pub struct Network {
    /// Address of the MCP endpoint.
    pub listen: SocketAddr,
    /// Address of `/metrics`, `/healthz`, `/readyz`.
    pub metrics_listen: SocketAddr,
    /// Address of `/tuning`.
    pub admin_listen: SocketAddr,
    /// Path of the MCP endpoint.
    pub path: String,
    /// Which `Host` and `Origin` requests may name.
    pub names: Names,
    /// Seals the states of calls in several rounds; without it, replicas agree on a key in the database.
    pub request_state_key: Option<Secret>,
    /// Whether tools may be called without MCP.
    pub rest_shim: bool,
}

impl Network {
    /// For a server that does not listen.
    #[must_use]
    pub const fn none() -> Self {
        let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Self {
            listen: nowhere,
            metrics_listen: nowhere,
            admin_listen: nowhere,
            path: String::new(),
            names: Names {
                hosts: HostPolicy::Loopback,
                origins: OriginPolicy::Loopback,
            },
            request_state_key: None,
            rest_shim: false,
        }
    }
}

/// Where a server's data is.
#[derive(Debug, Clone)]
pub struct Data {
    /// The database.
    pub database: DatabaseTarget,
    /// Redis, if there is one.
    pub redis_url: Option<String>,
    /// Sessions of clients up to 2025-11-25 leave memory after this long without use.
    pub session_idle: Duration,
}

/// What decides about capacity besides the figures.
#[derive(Debug, Clone, Default)]
pub struct Capacity {
    /// Who may change the figures.
    pub authority: Authority,
    /// Whether the queue was set, so that it does not follow the concurrency.
    pub queue_set: bool,
    /// When to shed before the slots are full.
    pub adaptive: AdaptiveSettings,
    /// What stands between the server and Postgres.
    pub pooler: Pooler,
}

/// How a server's process runs.
#[derive(Debug, Clone)]
pub struct Operation {
    /// What to offer besides the toolsets.
    pub fixtures: Fixtures,
    /// Longest time from the start of the drain to the end of the process.
    pub drain: Duration,
}

/// What to offer for measuring and judging the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fixtures {
    /// Nothing.
    None,
    /// Tools for load tests.
    Load,
    /// What the official conformance suite asks for.
    Conformance,
}

/// Bytes that must not be shown.
#[derive(Clone)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("…")
    }
}

/// A server that could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken or does not exist.
    #[error("cannot listen on {address} ({flag}): {cause}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// Why.
        cause: std::io::Error,
    },
    /// Certificate and key cannot be used.
    #[error(transparent)]
    Tls(#[from] InvalidTls),
    /// Rate limits cannot work as they are set.
    #[error(transparent)]
    Limits(#[from] InvalidRedis),
    /// Authentication cannot work as it is set.
    #[error(transparent)]
    Auth(#[from] InvalidAuth),
    /// The database's settings cannot work.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The Redis URL cannot work.
    #[error(transparent)]
    Redis(#[from] InvalidRedisUrl),
    /// The key for states cannot protect anything.
    #[error(transparent)]
    Key(#[from] KeyTooShort),
    /// Traces cannot be sent as asked.
    #[error(transparent)]
    Traces(#[from] InvalidTraces),
    /// A tool cannot be described.
    #[error(transparent)]
    Tool(#[from] InvalidTool),
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Where MCP is served.
    pub mcp: SocketAddr,
    /// Where metrics are served.
    pub metrics: SocketAddr,
    /// Where tuning is served.
    pub admin: SocketAddr,
    router: Router,
    drain: Drain,
    finished: JoinHandle<()>,
}

impl Server {
    /// Starts to listen. The database need not answer yet: the server is not ready until it does.
    ///
    /// # Errors
    /// [`StartError`] names the setting that cannot work.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let mcp = bind(settings.network.listen, "--listen").await?;
        let metrics = bind(settings.network.metrics_listen, "--metrics-listen").await?;
        let admin = bind(settings.network.admin_listen, "--admin-listen").await?;

        let mut registry = Registry::default();
        process::register(&mut registry);
        container::register(&mut registry);
        let agents = ActiveAgents::new(&mut registry);
        let traces = settings.telemetry.otlp.as_ref().map(Traces::start).transpose()?;
        let drain = Drain::default();
        let stop = CancellationToken::new();
        let pool = PoolSettings {
            max: settings.tuning.pool_max,
            pooler: settings.capacity.pooler,
        };
        let database = Database::open_pooled(&settings.data.database, pool, &mut registry)?;
        register_pool_size(&mut registry, &database);
        let changes = match &database {
            Database::Postgres(_) => Changes::shared(),
            Database::Sqlite(_) => Changes::alone(),
        };
        let guard = memory::Guard::default();
        guard.register(&mut registry);
        let redis_url = settings.data.redis_url.as_deref();
        let cache = Cache::open(settings.cache, database.clone(), redis_url, &mut registry)?;
        let performance = Performance::default();
        let (catalog, chores) = catalog(&settings, &database, &cache, &changes, &performance)?;
        let catalog = Arc::new(catalog);
        let sessions = SharedSessions::new(&database, changes.clone(), settings.data.session_idle);
        let handler = McpHandler::new(
            Arc::clone(&catalog),
            changes.clone(),
            sessions.records().clone(),
            drain.clone(),
        );
        let slow_call = settings.telemetry.slow_call;
        let observer = Observer::new(&mut registry, catalog.tools.names(), slow_call, traces.clone());
        let admission = Admission::new(
            settings.tuning.concurrency,
            settings.tuning.queue_max,
            settings.capacity.adaptive,
            &mut registry,
        );
        let tuner = Tuner::new(
            settings.capacity.authority.clone(),
            Arc::clone(&admission),
            database.clone(),
            cache.clone(),
            settings.capacity.queue_set,
        );
        let tls = settings.transport.tls.clone().map(Tls::open).transpose()?;
        let connections = Connections::new(
            settings.transport.connections_max,
            tls.as_ref().map(Tls::acceptor),
            &mut registry,
        );
        let limits = RateLimits::open(&settings.limits, settings.data.redis_url.as_deref(), &mut registry)?;
        let auth = Auth::open(&settings.auth, &settings.network.path, tls.is_some(), &mut registry)?;
        let endpoint = Endpoint::new(
            catalog,
            handler,
            Arc::clone(&sessions),
            admission,
            drain.clone(),
            Options {
                names: settings.network.names.clone(),
                stop: stop.clone(),
                guard: Guard::new(auth.clone(), limits),
                observer,
            },
            &mut registry,
        );
        let readiness = Readiness::new(drain.clone());
        let health = health(&readiness, &drain, &database);
        let registry = Arc::new(registry);
        performance.attach(Arc::clone(&registry));
        tracing::info!(mcp = %mcp.address, metrics = %metrics.address, admin = %admin.address, database = %settings.data.database, "listening");

        let mut beside = JoinSet::new();
        beside.spawn(sessions.run());
        if let Database::Postgres(database) = &database {
            beside.spawn(Relay::new(changes, database.clone()).run());
        }
        beside.spawn(watch_database(database.clone(), migrate::steps(), readiness.clone()));
        beside.spawn(serve(
            metrics.listener,
            probes::metrics_router(registry, readiness, cache.clone()).merge(health::router(health)),
        ));
        beside.spawn(performance.watch());
        beside.spawn(serve(admin.listener, tuning::http::router(tuner)));
        beside.spawn(chores.run());
        beside.spawn(cache.clone().upkeep());
        beside.spawn(cache.clone().watch_shared());
        beside.spawn(guard.watch(cache));
        let mut router = Arc::clone(&endpoint).router(&settings.network.path);
        if settings.network.rest_shim {
            router = router.merge(endpoint.rest_router(&settings.network.path));
        }
        if let Some(auth) = auth {
            router = auth.protect(router);
            beside.spawn(auth.maintain());
        }
        if let Some(tls) = tls {
            beside.spawn(tls.maintain());
        }
        if settings.transport.compression {
            router = compress(router);
        }
        let router = router.layer(from_fn_with_state(agents, follow));
        let served = router.clone();
        let main = MainListener {
            listener: mcp.listener,
            connections,
            router,
            drain: drain.clone(),
            stop,
        };
        let finished = tokio::spawn(async move {
            main.run(settings.operation.drain).await;
            // Dropping the set ends what runs beside MCP; until here, metrics and readiness could still be read.
            drop(beside);
            if let Some(traces) = traces {
                // Whatever becomes of the last traces, the server ends.
                let _ = spawn_blocking(move || traces.finish()).await;
            }
        });
        Ok(Self {
            mcp: mcp.address,
            metrics: metrics.address,
            admin: admin.address,
            router: served,
            drain,
            finished,
        })
    }

    /// What is served at the MCP address, for tests that need no connection.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Begins to end: see [`crate::drain`].
    pub fn drain(&self) {
        self.drain.begin();
    }

    /// Waits until the server has ended.
    pub async fn finished(self) {
        if let Err(error) = self.finished.await {
            tracing::error!(%error, "the server ended in disorder");
        }
    }
}

/// The checks of this server's own parts.
fn health(readiness: &Readiness, drain: &Drain, database: &Database) -> Health {
    let (readiness, drain, database) = (readiness.clone(), drain.clone(), database.clone());
    Health::default()
        .with("database", move || health::database(&readiness))
        .with("pool", move || health::pool(database.pool()))
        .with("memory", || {
            health::memory(process::resident_bytes(), container::memory_limit())
        })
        .with("drain", move || health::drain(drain.has_begun()))
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

/// Everything that a server with these settings offers, and what it does beside its calls.
pub(crate) fn catalog(
    settings: &Settings,
    database: &Database,
    cache: &Cache,
    changes: &Changes,
    performance: &Performance,
) -> Result<(Catalog, Chores), StartError> {
    let mut catalog = Catalog::default();
    let storage = shared_context::cached(shared_context::open(database), cache.clone());
    let (toolset, chores) = SharedContext::new(storage, &settings.shared_context, changes.clone(), performance.clone());
    toolset.register(&mut catalog)?;
    let key = settings.network.request_state_key.as_ref();
    let states = RequestStates::new(key.map(|key| key.0.as_slice()), database.clone())?;
    match settings.operation.fixtures {
        Fixtures::None => {}
        Fixtures::Load => fixtures::register(&mut catalog.tools)?,
        Fixtures::Conformance => fixtures::conformance::register(&mut catalog, changes, &states),
    }
    Ok((catalog, chores))
}

struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

async fn bind(address: SocketAddr, flag: &'static str) -> Result<Bound, StartError> {
    let cannot = |cause| StartError::Listen { address, flag, cause };
    let listener = TcpListener::bind(address).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    Ok(Bound { listener, address })
}

async fn serve(listener: TcpListener, router: Router) {
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "a listener failed");
    }
}

struct MainListener {
    listener: TcpListener,
    connections: Connections,
    router: Router,
    drain: Drain,
    stop: CancellationToken,
}

impl MainListener {
    /// Serves until the drain has begun and then ended, at most `limit` after its beginning.
    async fn run(self, limit: Duration) {
        let Self {
            listener,
            connections,
            router,
            drain,
            stop,
        } = self;
        let close = close_when_quiet(drain.clone(), limit);
        let mut serving = tokio::spawn(connections.serve(listener, router, close));
        if timeout_after(&drain, limit, &mut serving).await.is_err() {
            tracing::warn!("the time to drain is over: cancelling what is still running");
            stop.cancel();
            if timeout(CANCEL, &mut serving).await.is_err() {
                serving.abort();
            }
        }
        // Sessions of clients up to 2025-11-25 run on their own.
        stop.cancel();
        tracing::info!("ended");
    }
}

/// Waits for `serving`, at most until `limit` after the drain has begun.
async fn timeout_after(drain: &Drain, limit: Duration, serving: impl Future) -> Result<(), Elapsed> {
    tokio::pin!(serving);
    tokio::select! {
        _ = &mut serving => return Ok(()),
        () = drain.begun() => tracing::info!(?limit, "draining"),
    }
    timeout(limit, serving).await.map(drop)
}

/// Resolves when connections should be closed: when nothing arrives any more, or when half the time is over, so that
/// requests that arrive until the last moment still have the other half.
async fn close_when_quiet(drain: Drain, limit: Duration) {
    drain.begun().await;
    if timeout(limit / 2, drain.quiet()).await.is_err() {
        tracing::warn!("requests still arrive while draining: closing idle connections now");
    }
}
