//! What is measured of each request: how many, how long, how they ended.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{duration_bounds, duration_histogram};

/// What a request asks for, in names that come from fixed lists, so that a client cannot grow the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// JSON-RPC method; `other` for one that MCP does not know.
    pub method: &'static str,
    /// Tool of a `tools/call`, `unknown` for one that does not exist; empty for other methods.
    pub tool: &'static str,
    /// Protocol version the client speaks; `other` for one that does not exist.
    pub protocol_version: &'static str,
}

impl Operation {
    /// Value of the label `tool`: the tool's name, or the method of a request that is not a tool call.
    #[must_use]
    pub const fn tool_label(&self) -> &'static str {
        if self.tool.is_empty() { self.method } else { self.tool }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With an answer.
    Ok,
    /// With a tool result that reports the caller's own mistake.
    ToolError,
    /// With a tool result that reports the server's own failure, such as an unreachable database.
    ServerFailure,
    /// With a JSON-RPC error of this code.
    RpcError(i32),
    /// With this HTTP status.
    HttpError(u16),
    /// The client went away before the answer, which is what a client's timeout looks like from here.
    Cancelled,
    /// Cut by the server, because no answer came within its time limit.
    TimedOut,
    /// Refused by admission, or given up by the client while it waited for a slot.
    Shed,
}

impl Outcome {
    /// Value of the label `status`. Only what the server is to blame for is an error: its own failures, 5xx, timeouts
    /// and JSON-RPC internal errors.
    #[must_use]
    pub const fn status(self) -> &'static str {
        match self {
            Self::ServerFailure
            | Self::Cancelled
            | Self::TimedOut
            | Self::RpcError(-32603)
            | Self::HttpError(500..) => "error",
            Self::Shed => "shed",
            Self::Ok | Self::ToolError | Self::RpcError(_) | Self::HttpError(_) => "ok",
        }
    }

    /// The error type, or `ok`: for people.
    #[must_use]
    pub fn label(self) -> Cow<'static, str> {
        if self == Self::Ok {
            "ok".into()
        } else {
            self.error_type()
        }
    }

    /// Value of the label `error_type`; empty for success.
    #[must_use]
    pub fn error_type(self) -> Cow<'static, str> {
        match self {
            Self::Ok => "".into(),
            Self::ToolError => "tool_error".into(),
            Self::ServerFailure => "server_failure".into(),
            Self::RpcError(code) => code.to_string().into(),
            Self::HttpError(status) => status.to_string().into(),
            Self::Cancelled => "cancelled".into(),
            Self::TimedOut => "timeout".into(),
            Self::Shed => "shed".into(),
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ToolStatus {
    tool: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Tool {
    tool: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OperationLabels {
    mcp_method_name: &'static str,
    gen_ai_tool_name: &'static str,
    error_type: Cow<'static, str>,
    network_transport: &'static str,
    mcp_protocol_version: &'static str,
}

/// A request that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// What it asked for.
    pub operation: Operation,
    /// How it ended.
    pub outcome: Outcome,
    /// From arrival to answer.
    pub elapsed: Duration,
    /// Of that, waiting for a slot.
    pub queued: Duration,
    /// Of that, holding a slot; `None` if it never got one.
    pub service: Option<Duration>,
}

/// The exemplar of a bucket: the trace of one request that was counted there.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Exemplar {
    trace_id: TraceId,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct TraceId(u128);

impl EncodeLabelValue for TraceId {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        write!(encoder, "{:032x}", self.0)
    }
}

type Durations<Labels> = Family<Labels, Histogram, fn() -> Histogram>;
type Traced<Labels> = Family<Labels, HistogramWithExemplars<Exemplar>, fn() -> HistogramWithExemplars<Exemplar>>;

fn traced_histogram() -> HistogramWithExemplars<Exemplar> {
    HistogramWithExemplars::new(duration_bounds())
}

/// The families of request metrics.
#[derive(Debug, Clone)]
pub struct RequestMetrics {
    requests: Family<ToolStatus, Counter>,
    duration: Traced<Tool>,
    service: Durations<Tool>,
    operation: Traced<OperationLabels>,
}

impl RequestMetrics {
    /// Registers the families. Series of `tools` exist from the start: the first increments of a series that appears
    /// only with its first request are invisible to `rate`.
    #[must_use]
    pub fn new(registry: &mut Registry, tools: impl Iterator<Item = &'static str>) -> Self {
        let metrics = Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(traced_histogram),
            service: Family::new_with_constructor(duration_histogram),
            operation: Family::new_with_constructor(traced_histogram),
        };
        for tool in tools {
            for status in ["ok", "error", "shed"] {
                drop(metrics.requests.get_or_create(&ToolStatus { tool, status }));
            }
            drop(metrics.duration.get_or_create(&Tool { tool }));
            drop(metrics.service.get_or_create(&Tool { tool }));
        }
        registry.register(
            "mcp_requests",
            "Requests by tool (or method) and how they ended",
            metrics.requests.clone(),
        );
        registry.register(
            "mcp_request_duration_seconds",
            "Arrival to answer, shed ones left out",
            metrics.duration.clone(),
        );
        registry.register(
            "mcp_service_seconds",
            "Time a slot was held, without the wait for it",
            metrics.service.clone(),
        );
        registry.register(
            "mcp_server_operation_duration_seconds",
            "Arrival to answer with the wait for a slot, long streams left out",
            metrics.operation.clone(),
        );
        metrics
    }

    /// Counts a request that has ended; `trace_id` is its trace, if it is recorded somewhere.
    pub fn ended(&self, ended: &Ended, trace_id: Option<u128>) {
        let Ended { operation, outcome, .. } = *ended;
        let (tool, elapsed) = (operation.tool_label(), ended.elapsed.as_secs_f64());
        let exemplar = trace_id.map(|id| Exemplar { trace_id: TraceId(id) });
        let seen = exemplar.is_some().then(SystemTime::now);
        let status = outcome.status();
        self.requests.get_or_create(&ToolStatus { tool, status }).inc();
        if outcome != Outcome::Shed {
            let duration = self.duration.get_or_create(&Tool { tool });
            duration.observe(elapsed, exemplar.clone(), seen);
        }
        if let Some(service) = ended.service {
            self.service
                .get_or_create(&Tool { tool })
                .observe(service.as_secs_f64());
        }
        let labels = OperationLabels {
            mcp_method_name: operation.method,
            gen_ai_tool_name: operation.tool,
            error_type: outcome.error_type(),
            network_transport: "tcp",
            mcp_protocol_version: operation.protocol_version,
        };
        let duration = self.operation.get_or_create(&labels);
        duration.observe(elapsed, exemplar, seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `errorRate` is a target people declare: a caller's typo must not break it, a dead database must.
    #[test]
    fn only_the_servers_own_faults_are_errors() {
        for (name, outcome, status, error_type) in [
            ("answer", Outcome::Ok, "ok", ""),
            ("caller's mistake", Outcome::ToolError, "ok", "tool_error"),
            ("database gone", Outcome::ServerFailure, "error", "server_failure"),
            ("unknown tool", Outcome::RpcError(-32602), "ok", "-32602"),
            ("internal error", Outcome::RpcError(-32603), "error", "-32603"),
            ("unknown session", Outcome::HttpError(404), "ok", "404"),
            ("server error", Outcome::HttpError(500), "error", "500"),
            ("client gone", Outcome::Cancelled, "error", "cancelled"),
            ("no answer", Outcome::TimedOut, "error", "timeout"),
            ("refused", Outcome::Shed, "shed", "shed"),
        ] {
            assert_eq!(
                (outcome.status(), outcome.error_type().as_ref()),
                (status, error_type),
                "{name}"
            );
        }
    }
}
