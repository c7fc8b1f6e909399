//! Metrics of the operator itself.

use std::time::Instant;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// What the operator counts and measures.
pub struct Metrics {
    registry: Registry,
    reconcile_seconds: Histogram,
    errors: Family<ReasonLabels, Counter>,
    /// Writes to the API server: applies, deletes and status.
    pub writes: Counter,
    /// Servers whose last reconcile failed and that wait for the next try.
    pub objects_in_backoff: Gauge,
    /// Whether this process leads.
    pub leader: Gauge,
    queries: Counter,
    query_errors: Family<ReasonLabels, Counter>,
    replicas: Family<ServerLabels, Gauge>,
    desired: Family<ServerLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerLabels {
    namespace: String,
    name: String,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("mcpscale");
        // 1 ms to about 16 s: one reconcile is a handful of calls to the API server.
        let reconcile_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 15));
        registry.register(
            "reconcile_duration_seconds",
            "Time of one reconcile",
            reconcile_seconds.clone(),
        );
        let errors = Family::default();
        registry.register(
            "reconcile_errors",
            "Reconciles that failed, by reason",
            Family::clone(&errors),
        );
        let writes = Counter::default();
        registry.register(
            "api_writes",
            "Writes to the API server: applies, deletes and status",
            writes.clone(),
        );
        let objects_in_backoff = Gauge::default();
        registry.register(
            "objects_in_backoff",
            "McpServers whose last reconcile failed",
            objects_in_backoff.clone(),
        );
        let leader = Gauge::default();
        registry.register("leader", "1 while this process leads", leader.clone());
        let queries = Counter::default();
        registry.register("signal_ticks", "Ticks in which Prometheus was asked", queries.clone());
        let query_errors = Family::default();
        registry.register(
            "signal_errors",
            "Ticks in which Prometheus could not be asked, by reason",
            Family::clone(&query_errors),
        );
        let replicas = Family::default();
        registry.register("server_replicas", "Server pods that are set", Family::clone(&replicas));
        let desired = Family::default();
        registry.register(
            "server_desired_replicas",
            "Server pods that the scaler wants",
            Family::clone(&desired),
        );
        Self {
            registry,
            reconcile_seconds,
            errors,
            writes,
            objects_in_backoff,
            leader,
            queries,
            query_errors,
            replicas,
            desired,
        }
    }
}

impl Metrics {
    /// Measures a reconcile until the answer is dropped, however it ends.
    #[must_use]
    pub fn reconcile(&self) -> ReconcileTimer<'_> {
        ReconcileTimer {
            metrics: self,
            started: Instant::now(),
        }
    }

    /// Counts a reconcile that failed.
    pub fn failed(&self, reason: &str) {
        self.errors.get_or_create(&ReasonLabels { reason: reason.into() }).inc();
    }

    /// Counts a tick, and its error if it had one.
    pub fn sensed(&self, error: Option<&str>) {
        self.queries.inc();
        if let Some(reason) = error {
            self.query_errors
                .get_or_create(&ReasonLabels { reason: reason.into() })
                .inc();
        }
    }

    /// Notes what is set and what the scaler wants.
    pub fn decided(&self, (namespace, name): &(String, String), from: u32, to: u32) {
        let labels = ServerLabels {
            namespace: namespace.clone(),
            name: name.clone(),
        };
        self.replicas.get_or_create(&labels).set(i64::from(from));
        self.desired.get_or_create(&labels).set(i64::from(to));
    }

    /// Forgets a server that is gone.
    pub fn forget(&self, (namespace, name): &(String, String)) {
        let labels = ServerLabels {
            namespace: namespace.clone(),
            name: name.clone(),
        };
        self.replicas.remove(&labels);
        self.desired.remove(&labels);
    }

    /// The metrics as text.
    ///
    /// # Errors
    /// When they cannot be written, which would be an error of the library.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Observes the time since it was made when it is dropped.
pub struct ReconcileTimer<'a> {
    metrics: &'a Metrics,
    started: Instant,
}

impl Drop for ReconcileTimer<'_> {
    fn drop(&mut self) {
        self.metrics
            .reconcile_seconds
            .observe(self.started.elapsed().as_secs_f64());
    }
}
