//! Seen from outside: every request has an id, which is in the answer and in every line of the log about it; slow ones
//! are told; and each is a span of its caller's trace.
//!
//! [`FollowLayer`] wraps the whole HTTP side. What is learnt of a request on its way is in [`Followed`], in the HTTP
//! request's extensions; its end is told to an [`Observed`], which counts, logs and traces it.

mod followed;
mod observer;
mod otlp;
mod request_id;
mod trace_context;
mod traces;

use std::time::Duration;

pub use followed::{FollowLayer, Followed, REQUEST_ID};
pub use observer::{Observed, Observer};
pub use otlp::{InvalidEndpoint, OtlpEndpoint};
pub use trace_context::{TraceContext, carried_in};
pub use traces::{InvalidTraces, Traces};

/// What is told of requests besides metrics.
#[derive(Debug, Clone, Default)]
pub struct TelemetrySettings {
    /// Calls that take at least this long are logged; `None` logs none.
    pub slow_call: Option<Duration>,
    /// Where traces go, if anywhere.
    pub otlp: Option<OtlpSettings>,
}

/// Where traces go.
#[derive(Debug, Clone)]
pub struct OtlpSettings {
    /// The collector.
    pub endpoint: OtlpEndpoint,
    /// Share (0 to 1) of requests that are traced when their caller says nothing about it.
    pub sampled: f64,
}
