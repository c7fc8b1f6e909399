//! What is measured of authentication.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Shortest time told apart, in seconds: a verdict that is remembered takes about a microsecond.
const SHORTEST: f64 = 1e-6;
/// Bounds are a factor of two apart: up to 8 s, when the identity provider had to be asked.
const BOUNDS: u16 = 24;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// The families. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AuthMetrics {
    requests: Family<ResultLabel, Counter>,
    duration: Histogram,
    fetches: Family<ResultLabel, Counter>,
}

impl AuthMetrics {
    /// Registers the families.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            duration: Histogram::new(exponential_buckets(SHORTEST, 2.0, BOUNDS)),
            fetches: Family::default(),
        };
        for result in [
            "valid",
            "missing",
            "malformed",
            "invalid",
            "insufficient_scope",
            "unavailable",
        ] {
            drop(metrics.requests.get_or_create(&ResultLabel { result }));
        }
        registry.register(
            "mcp_auth_requests",
            "Requests by the result of authentication and authorization",
            metrics.requests.clone(),
        );
        registry.register(
            "mcp_auth_request_duration_seconds",
            "Time to verify a credential",
            metrics.duration.clone(),
        );
        registry.register(
            "mcp_auth_key_fetches",
            "Fetches of the identity provider's keys",
            metrics.fetches.clone(),
        );
        metrics
    }

    pub(super) fn verified(&self, result: &'static str, elapsed: Duration) {
        self.refused(result);
        self.duration.observe(elapsed.as_secs_f64());
    }

    pub(super) fn refused(&self, result: &'static str) {
        self.requests.get_or_create(&ResultLabel { result }).inc();
    }

    pub(super) fn fetched(&self, succeeded: bool) {
        let result = if succeeded { "ok" } else { "error" };
        self.fetches.get_or_create(&ResultLabel { result }).inc();
    }
}
