//! How long sessions of clients up to 2025-11-25 last.

use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets_range};
use prometheus_client::registry::Registry;

/// From a tenth of a second to a day; each bound is about twice the one before.
const SHORTEST: f64 = 0.1;
const LONGEST: f64 = 86_400.0;
const BOUNDS: u16 = 21;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    mcp_protocol_version: &'static str,
    network_transport: &'static str,
}

/// Durations of sessions.
#[derive(Debug, Clone)]
pub struct SessionMetrics {
    duration: Family<Labels, Histogram, fn() -> Histogram>,
}

impl SessionMetrics {
    /// Registers `mcp_server_session_duration_seconds`; the series of each of `versions` exist from the start.
    #[must_use]
    pub fn new(registry: &mut Registry, versions: &[&'static str]) -> Self {
        let metrics = Self {
            duration: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets_range(SHORTEST, LONGEST, BOUNDS))
            }),
        };
        for version in versions {
            drop(metrics.duration.get_or_create(&labels(version)));
        }
        registry.register(
            "mcp_server_session_duration_seconds",
            "How long sessions stay in memory: to their end, or until they are idle for too long",
            metrics.duration.clone(),
        );
        metrics
    }

    /// A session of `version` that begins now; it ends when the clock is dropped.
    #[must_use]
    pub fn begin(&self, version: &'static str) -> SessionClock {
        SessionClock {
            duration: self.duration.get_or_create_owned(&labels(version)),
            begun: Instant::now(),
        }
    }
}

const fn labels(version: &'static str) -> Labels {
    Labels {
        mcp_protocol_version: version,
        network_transport: "tcp",
    }
}

/// Measures one session.
#[derive(Debug)]
pub struct SessionClock {
    duration: Histogram,
    begun: Instant,
}

impl Drop for SessionClock {
    fn drop(&mut self) {
        self.duration.observe(self.begun.elapsed().as_secs_f64());
    }
}
