//! Within which bounds, and how fast, the operator may scale.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bounds of the scaler.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.minReplicas <= self.maxReplicas")
        .message("autoscaling.minReplicas may not exceed autoscaling.maxReplicas")
)]
pub struct Autoscaling {
    /// Least number of server pods.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: i32,

    /// Greatest number of server pods. The share of database connections that each pod gets follows from it.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,

    /// How fast replicas may rise and fall, in the shape of autoscaling/v2. By default they rise at once, by at most
    /// 100 % or 4 pods in 15 s, and fall by the greatest need of the last 180 s, by at most 15 % or 1 pod in 60 s.
    /// `scaleUp` can only slow the rise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behavior: Option<Behavior>,

    /// Whether the operator scales replicas.
    #[serde(default)]
    pub replicas: ReplicasKnob,
}

fn one() -> i32 {
    1
}

/// Whether the operator scales replicas.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicasKnob {
    /// `Auto`: the operator sets the replicas. `Recommend`: it only says in status what it would set. `Off`: it does
    /// not compute it.
    #[serde(default)]
    pub mode: KnobMode,
}

/// Who turns a knob.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum KnobMode {
    /// The operator sets it.
    #[default]
    Auto,
    /// The operator reports what it would set, and sets nothing.
    Recommend,
    /// The operator leaves it alone.
    Off,
}

/// How fast replicas may change, as `HorizontalPodAutoscalerBehavior` of autoscaling/v2.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Behavior {
    /// Rules for more replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_up: Option<ScalingRules>,
    /// Rules for fewer replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_down: Option<ScalingRules>,
}

/// Rules for one direction, as `HPAScalingRules` of autoscaling/v2.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScalingRules {
    /// Seconds of past recommendations that are looked at: up takes the least of them, down the greatest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub stabilization_window_seconds: Option<i32>,
    /// Which of the policies counts: the one that allows the most change (`Max`), the least (`Min`), or no change at
    /// all in this direction (`Disabled`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select_policy: Option<SelectPolicy>,
    /// Limits of change within a period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8))]
    pub policies: Option<Vec<ScalingPolicy>>,
}

/// Which policy counts when there are several.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SelectPolicy {
    /// The one that allows the most change.
    Max,
    /// The one that allows the least change.
    Min,
    /// No change in this direction.
    Disabled,
}

/// A limit of change within a period, as `HPAScalingPolicy` of autoscaling/v2.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScalingPolicy {
    /// Whether `value` counts pods or percent of the present pods.
    #[serde(rename = "type")]
    pub kind: PolicyKind,
    /// How many pods, or how many percent.
    #[schemars(range(min = 1, max = 10_000))]
    pub value: i32,
    /// Length of the period in seconds.
    #[schemars(range(min = 1, max = 1800))]
    pub period_seconds: i32,
}

/// Unit of a policy's value.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyKind {
    /// Pods.
    Pods,
    /// Percent of the present pods.
    Percent,
}
