//! What the operator answers. Nothing in it changes while nothing changes: no clocks, ages or counters.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// State of an `McpServer` as the operator sees it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct McpServerStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Server pods that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Server pods that serve.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Label selector that matches the server pods and no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Where clients find the server inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// Conditions: Ready, Accepted, DataTierReady, MetricsAvailable, TargetsMet, ScalingLimited, UpdateAvailable,
    /// Reconciling and Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Each declared target with what was observed. An observed value has two significant digits and is written when
    /// it moves by more than 10 % or the target flips.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    pub targets: Vec<TargetStatus>,
    /// What the scaler wants and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingStatus>,
}

/// Where clients find the server.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// URL of the MCP endpoint.
    pub url: String,
}

/// One declared target.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// Name of the target, as `latency.p95`.
    pub name: String,
    /// Declared value.
    pub target: String,
    /// Observed value; absent when it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<String>,
    /// How good the observation is: `Known`, `Unknown` (too few samples, or not measured yet), `Stale`, `Missing` or
    /// `Invalid`.
    pub state: String,
    /// Whether the target is met: `True`, `False` or `Unknown`.
    pub met: String,
}

/// What the scaler wants and why.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScalingStatus {
    /// The replicas knob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<KnobStatus>,
    /// The last ten decisions, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<DecisionRecord>,
}

/// One knob of the scaler.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnobStatus {
    /// What is set now.
    pub current: i32,
    /// What the scaler wants.
    pub desired: i32,
    /// What keeps `desired` from being more or less; absent when nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited_by: Option<String>,
}

/// One decision of the scaler.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// When it was made.
    pub time: Time,
    /// Replicas before.
    pub from: i32,
    /// Replicas after.
    pub to: i32,
    /// Stable word for the cause.
    pub reason: String,
    /// The cause in a sentence with its numbers.
    pub message: String,
}
