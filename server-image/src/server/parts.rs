//! What a server is made of, and what runs beside its listener.

use std::sync::Arc;

use axum::{Extension, Router};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;

use super::data::DataParts;
use super::listener::serve;
use super::{Fixtures, Settings, StartError};
use crate::admission::Admission;
use crate::auth::{Auth, InvalidAuth};
use crate::cache::Cache;
use crate::changes::Changes;
use crate::database::Database;
use crate::drain::Drain;
use crate::guard::Guard;
use crate::health::{self, Health};
use crate::limits::{Failures, RateLimits};
use crate::mcp::sessions::SharedSessions;
use crate::mcp::{Endpoint, McpHandler, Options, RequestStates};
use crate::metrics::agents::ActiveAgents;
use crate::metrics::{container, process};
use crate::readiness::{Readiness, watch_database};
use crate::report::Performance;
use crate::telemetry::{FollowLayer, Observer, Traces};
use crate::tools::shared_context::{self, Chores, SharedContext};
use crate::tools::{Catalog, fixtures};
use crate::transport::{Connections, PagesLayer, Tls, compression};
use crate::tuning::control::Tuner;
use crate::tuning::invalidation::Invalidator;
use crate::{mcp, memory, migrate, probes, profile, tuning};

/// The parts of one server process.
pub(super) struct Parts {
    pub(super) drain: Drain,
    /// Ends what does not end by itself.
    pub(super) stop: CancellationToken,
    connections: Connections,
    pub(super) traces: Option<Traces>,
    registry: Registry,
    data: DataParts,
    performance: Performance,
    pub(super) sessions: Arc<SharedSessions>,
    chores: Chores,
    tuner: Arc<Tuner>,
    invalidator: Arc<Invalidator>,
    /// Whether profiles are taken.
    profile: bool,
    endpoint: Arc<Endpoint>,
    agents: ActiveAgents,
    auth: Option<Arc<Auth>>,
    failures: Arc<Failures>,
    tls: Option<Tls>,
}

impl Parts {
    /// Puts a server together. Nothing runs yet, and the database need not answer.
    pub(super) fn assemble(settings: &Settings) -> Result<Self, StartError> {
        let mut registry = Registry::default();
        process::register(&mut registry);
        container::register(&mut registry);
        let agents = ActiveAgents::new(&mut registry);
        let traces = settings.telemetry.otlp.as_ref().map(Traces::start).transpose()?;
        let (drain, stop) = (Drain::default(), CancellationToken::new());
        let data = DataParts::open(settings, &mut registry)?;
        let performance = Performance::default();
        let (catalog, chores) = catalog(settings, &data.database, &data.cache, &data.changes, &performance)?;
        let catalog = Arc::new(catalog);
        let sessions = SharedSessions::new(&data.database, data.changes.clone(), settings.data.sessions);
        let handler = McpHandler::new(
            Arc::clone(&catalog),
            data.changes.clone(),
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
            data.database.clone(),
            data.cache.clone(),
            settings.capacity.queue_set,
        );
        let invalidator = Invalidator::new(settings.capacity.authority.clone(), data.cache.clone());
        let tls = settings.transport.tls.clone().map(Tls::open).transpose()?;
        let connections = Connections::new(
            settings.transport.connections_max,
            tls.as_ref().map(Tls::acceptor),
            &mut registry,
        );
        let limits = RateLimits::open(&settings.limits, settings.data.redis_url.as_deref(), &mut registry)?;
        let failures = Failures::new(&settings.limits, &mut registry);
        let known: Vec<&str> = catalog.tools.names().chain(mcp::methods()).collect();
        settings.auth.rules.check_names(&known).map_err(InvalidAuth::from)?;
        let auth = Auth::open(
            &settings.auth,
            &settings.network.path,
            tls.is_some(),
            Arc::clone(&failures),
            &mut registry,
        )?;
        let options = Options {
            names: settings.network.names.clone(),
            stop: stop.clone(),
            guard: Guard::new(auth.clone(), limits),
            observer,
            memory: data.memory.clone(),
        };
        let endpoint = Endpoint::new(
            catalog,
            handler,
            Arc::clone(&sessions),
            admission,
            drain.clone(),
            options,
            &mut registry,
        );
        Ok(Self {
            drain,
            stop,
            connections,
            traces,
            registry,
            data,
            performance,
            sessions,
            chores,
            tuner,
            invalidator: Arc::new(invalidator),
            profile: settings.network.profile,
            endpoint,
            agents,
            auth,
            failures,
            tls,
        })
    }

    /// What is served at the MCP address.
    pub(super) fn router(&self, settings: &Settings) -> Router {
        let path = &settings.network.path;
        let protect = |router| match &self.auth {
            Some(auth) => auth.protect(router),
            None => router,
        };
        let mut router = protect(Arc::clone(&self.endpoint).router(path));
        if settings.network.rest_shim {
            router = router.merge(Arc::clone(&self.endpoint).rest_router(path, protect));
        }
        if let Some(auth) = &self.auth {
            router = router.merge(auth.metadata_router());
        }
        // All in one: each layer by itself would box every request once more.
        router.layer(
            ServiceBuilder::new()
                .layer(FollowLayer(self.agents.clone()))
                // Outside of authentication: browsers send no credential with their question.
                .layer(PagesLayer::new(settings.network.names.origins.clone()))
                // Tools check credentials too.
                .layer(Extension(Arc::clone(&self.failures)))
                .layer(compression(!settings.transport.compression)),
        )
    }

    /// Starts what runs beside the MCP listener, which ends when the set is dropped; and gives what the listener needs.
    pub(super) fn start_beside(self, metrics: TcpListener, admin: TcpListener) -> (JoinSet<()>, Connections) {
        let (database, cache) = (self.data.database.clone(), self.data.cache.clone());
        let readiness = Readiness::new(self.drain.clone(), self.auth.clone());
        let health = health(&readiness, &self.drain, &database, &cache);
        let registry = Arc::new(self.registry);
        self.performance.attach(Arc::clone(&registry));

        let mut beside = JoinSet::new();
        self.data.start(&mut beside);
        beside.spawn(self.sessions.run());
        beside.spawn(watch_database(database, migrate::steps(), readiness.clone()));
        beside.spawn(serve(
            metrics,
            probes::metrics_router(registry, readiness, cache.clone()).merge(health::router(health)),
        ));
        beside.spawn(self.performance.watch());
        let mut admin_router = tuning::http::router(self.tuner, self.invalidator);
        if self.profile {
            admin_router = admin_router.merge(profile::http::router(cache));
        }
        beside.spawn(serve(admin, admin_router));
        beside.spawn(self.chores.run());
        if let Some(auth) = self.auth {
            beside.spawn(auth.maintain());
        }
        if let Some(tls) = self.tls {
            beside.spawn(tls.maintain());
        }
        (beside, self.connections)
    }
}

/// The checks of this server's own parts.
fn health(readiness: &Readiness, drain: &Drain, database: &Database, cache: &Cache) -> Health {
    let (readiness, drain, database, cache) = (readiness.clone(), drain.clone(), database.clone(), cache.clone());
    Health::default()
        .with("database", move || health::database(&readiness))
        .with("pool", move || health::pool(database.pool()))
        .with("redis", move || health::redis(cache.shared_answers()))
        .with("memory", || health::memory(process::resident_bytes(), memory::usage()))
        .with("drain", move || health::drain(drain.has_begun()))
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
    let storage = shared_context::cached(
        shared_context::open(database, settings.shared_context.quotas),
        cache.clone(),
    );
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
