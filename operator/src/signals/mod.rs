//! Signals: what Prometheus knows, as typed, aged and validated values for the decision core.
//!
//! [`PrometheusSource::sense`] is the only part that does I/O. It sends two queries a tick, whatever the number of
//! `McpServers` and pods. [`ClusterSignals::for_server`] is pure: it picks the series of one server's live pods.
//!
//! What can go wrong is told apart, because missing is never zero:
//!
//! - the source does not answer: a [`SignalError`], and the caller decides on
//!   [`Signals::missing`](mcpscale_autoscaler::Signals::missing);
//! - a pod has no series, an old sample, NaN, infinite or negative values, or the same series twice: that pod does not
//!   report, and with fewer than half of the pods reporting the signal is `Missing`, `Stale` or `Invalid`;
//! - series of pods that are gone do not count;
//! - samples that do not reach back over the whole window (after an outage) are marked, and lower nothing.
//!
//! ```no_run
//! use mcpscale::signals::{LivePod, PrometheusSource, TimeLimits};
//! use mcpscale_autoscaler::{Policy, Signals, Snapshot, State, decide};
//! use std::time::Duration;
//!
//! # async fn tick(now: f64, state: State, policy: Policy) -> Result<State, mcpscale::signals::SignalError> {
//! // Once, at start:
//! let source = PrometheusSource::new("http://prometheus:9090", Duration::from_secs(5), TimeLimits::default())?;
//!
//! // Every tick, once for the whole cluster; `now` is the Unix time in seconds:
//! let sensed = source.sense(now).await;
//!
//! // Then for each server, with the ready pods as the watch shows them:
//! let pods = [LivePod { name: "context-server-5d9c-x1", started_at: 1_700_000_000.0 }];
//! let signals = match &sensed {
//!     Ok(cluster) => cluster.for_server("agents", &pods),
//!     Err(_error) => Signals::missing(1), // and the condition MetricsAvailable=False with error.reason()
//! };
//! let snapshot = Snapshot { time: now, replicas: 2, ready: 1, rollout: false, signals };
//! let (_decision, state) = decide(&snapshot, &state, &policy);
//! # Ok(state) }
//! ```

mod cluster;
mod counters;
mod distributions;
mod query;
mod source;
#[cfg(test)]
mod tests;

pub use cluster::{ClusterSignals, LivePod};
pub(crate) use source::innermost;
pub use source::{PrometheusSource, SignalError, TimeLimits};
