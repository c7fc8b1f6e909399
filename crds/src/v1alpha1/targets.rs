//! What the server must achieve.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{GatewayDuration, Percent};

/// Declared performance. Every field is optional; what is declared is reported in `status.targets`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.latency) || has(self.requestsPerSecond) || has(self.errorRate)")
        .message("performanceTargets needs at least one of latency, requestsPerSecond and errorRate")
)]
pub struct PerformanceTargets {
    /// Upper bounds of the time from arrival of a request to its answer, waiting included, streams excluded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencyTargets>,

    /// Requests per second that the server must be able to take at any time: a floor of capacity, whatever the
    /// present load.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_per_second: Option<i32>,

    /// Largest share of requests that may fail or be shed, such as `0.1%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<Percent>,
}

/// Upper bounds of latency quantiles.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("has(self.p50) || has(self.p95) || has(self.p99)")
        .message("latency needs at least one of p50, p95 and p99"),
    validation = Rule::new("!has(self.p50) || !has(self.p95) || duration(self.p50) <= duration(self.p95)")
        .message("latency.p50 may not exceed latency.p95"),
    validation = Rule::new("!has(self.p95) || !has(self.p99) || duration(self.p95) <= duration(self.p99)")
        .message("latency.p95 may not exceed latency.p99"),
    validation = Rule::new("!has(self.p50) || !has(self.p99) || duration(self.p50) <= duration(self.p99)")
        .message("latency.p50 may not exceed latency.p99")
)]
pub struct LatencyTargets {
    /// Half of the requests are answered within this time, such as `20ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50: Option<GatewayDuration>,
    /// 95 of 100 requests are answered within this time, such as `100ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95: Option<GatewayDuration>,
    /// 99 of 100 requests are answered within this time, such as `500ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<GatewayDuration>,
}
