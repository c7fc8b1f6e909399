//! The end of a request: counted, logged if it was slow, traced.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tracing::Level;

use super::followed::Followed;
use super::trace_context::TraceContext;
use super::traces::Traces;
use crate::metrics::requests::{Ended, Operation, Outcome, RequestMetrics};

/// Observes the requests of one server.
#[derive(Debug)]
pub struct Observer {
    metrics: RequestMetrics,
    slow_call: Option<Duration>,
    traces: Option<Traces>,
}

/// A request that is being served.
#[derive(Debug)]
pub struct Observed {
    observer: Arc<Observer>,
    followed: Arc<Followed>,
    /// The caller's place in a trace, as the message itself says it.
    carried: Option<TraceContext>,
    operation: Operation,
    arrived: Instant,
    /// Since when it waits for a slot.
    asked: Instant,
}

impl Observer {
    /// Registers the metrics of requests; series of `tools` exist from the start.
    #[must_use]
    pub fn new(
        registry: &mut Registry,
        tools: impl Iterator<Item = &'static str>,
        slow_call: Option<Duration>,
        traces: Option<Traces>,
    ) -> Arc<Self> {
        Arc::new(Self {
            metrics: RequestMetrics::new(registry, tools),
            slow_call,
            traces,
        })
    }

    /// A request that has been read and now asks for a slot. `carried` is the trace context in its `_meta`.
    #[must_use]
    pub fn begin(
        self: &Arc<Self>,
        operation: Operation,
        followed: Arc<Followed>,
        carried: Option<TraceContext>,
        arrived: Instant,
    ) -> Observed {
        Observed {
            observer: Arc::clone(self),
            followed,
            carried,
            operation,
            arrived,
            asked: Instant::now(),
        }
    }
}

impl Observed {
    /// What it asks for.
    #[must_use]
    pub const fn operation(&self) -> &Operation {
        &self.operation
    }

    /// What is known of its HTTP request.
    #[must_use]
    pub const fn followed(&self) -> &Arc<Followed> {
        &self.followed
    }

    /// It has ended. `service` is how long it held a slot; `None` if it never got one.
    pub fn ended(self, outcome: Outcome, service: Option<Duration>) {
        let since_asked = self.asked.elapsed();
        let ended = Ended {
            operation: self.operation,
            outcome,
            elapsed: self.arrived.elapsed(),
            queued: since_asked.saturating_sub(service.unwrap_or_default()),
            service,
        };
        let traces = self.observer.traces.as_ref();
        let trace_id = match traces {
            Some(traces) => traces.record(&ended, &self.followed, self.carried),
            None => self
                .carried
                .or(self.followed.context())
                .filter(|context| context.sampled)
                .map(|context| context.trace_id),
        };
        self.observer.metrics.ended(&ended, trace_id);
        self.log(&ended);
    }

    fn log(&self, ended: &Ended) {
        let is_slow = self.observer.slow_call.is_some_and(|slow| ended.elapsed >= slow);
        if !is_slow && !tracing::enabled!(Level::DEBUG) {
            return;
        }
        let Operation { method, tool, .. } = ended.operation;
        let (duration_ms, queue_ms) = (milliseconds(ended.elapsed), milliseconds(ended.queued));
        let outcome = ended.outcome.label();
        let _entered = self.followed.span().enter();
        if is_slow {
            tracing::warn!(method, tool, duration_ms, queue_ms, %outcome, "slow call");
        } else {
            tracing::debug!(method, tool, duration_ms, queue_ms, %outcome, "answered");
        }
    }
}

/// Whole microseconds are enough, and short to read.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
