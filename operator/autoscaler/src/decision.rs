//! What comes out of a decision.

use crate::Quantile;
use serde::{Deserialize, Serialize};

/// The replica count to have from now on, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Replicas before.
    pub from: u32,
    /// Replicas to have. Equal to `from` when nothing changes.
    pub to: u32,
    /// Why, as a stable name.
    pub reason: Reason,
    /// What kept `to` from being what the demand alone asks for. It does not flicker with noise: min and max are judged
    /// over the whole down window.
    pub limited_by: Option<Limit>,
    /// Which requirement set the size; `None` when nothing could be computed.
    pub binding: Option<Binding>,
    /// Latency targets that no number of replicas can meet, because the calls themselves take longer.
    pub unreachable: Vec<Quantile>,
    /// One plain sentence with the numbers a person needs to check the decision.
    pub message: String,
}

impl Decision {
    /// Whether the replica count changes.
    #[must_use]
    pub fn changes(&self) -> bool {
        self.from != self.to
    }
}

/// Why a decision is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// More replicas: the demand needs them.
    DemandRose,
    /// Fewer replicas: over the whole window the demand needed no more.
    DemandFell,
    /// More replicas: there were fewer than the declared minimum.
    BelowMinReplicas,
    /// Fewer replicas: there were more than the declared maximum.
    AboveMaxReplicas,
    /// Unchanged: the replicas fit the demand.
    Steady,
    /// Unchanged: more are needed than bounds or step limits allow now.
    ScaleUpLimited,
    /// Unchanged: fewer would do now, but not over the whole window yet.
    WaitingForWindow,
    /// Unchanged: fewer would do, but step limits do not allow it now.
    ScaleDownLimited,
    /// Unchanged: no pod is ready, so nothing can be measured.
    NoReadyPods,
    /// Unchanged: the metrics are older than three scrapes.
    MetricsStale,
    /// Unchanged: there are no metrics.
    MetricsMissing,
    /// Unchanged: the metrics contradict themselves.
    MetricsInvalid,
    /// Unchanged: fewer would do, but some ready pods did not report.
    MetricsPartial,
    /// Unchanged: fewer would do, but metrics have not been complete for a whole window yet (after a start of the
    /// operator or an outage of the metrics).
    MetricsRecovering,
    /// Unchanged: fewer would do, but a rollout is under way, or pods crash.
    RolloutInProgress,
    /// Unchanged: fewer would do, but calls fail.
    ErrorRateHigh,
    /// Unchanged: fewer would do, but a latency quantile is above 90 % of its bound.
    LatencyNearTarget,
}

impl Reason {
    /// The stable name used in status, Events and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DemandRose => "DemandRose",
            Self::DemandFell => "DemandFell",
            Self::BelowMinReplicas => "BelowMinReplicas",
            Self::AboveMaxReplicas => "AboveMaxReplicas",
            Self::Steady => "Steady",
            Self::ScaleUpLimited => "ScaleUpLimited",
            Self::WaitingForWindow => "WaitingForWindow",
            Self::ScaleDownLimited => "ScaleDownLimited",
            Self::NoReadyPods => "NoReadyPods",
            Self::MetricsStale => "MetricsStale",
            Self::MetricsMissing => "MetricsMissing",
            Self::MetricsInvalid => "MetricsInvalid",
            Self::MetricsPartial => "MetricsPartial",
            Self::MetricsRecovering => "MetricsRecovering",
            Self::RolloutInProgress => "RolloutInProgress",
            Self::ErrorRateHigh => "ErrorRateHigh",
            Self::LatencyNearTarget => "LatencyNearTarget",
        }
    }
}

/// What kept the replicas from following the demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// `autoscaling.minReplicas`: the demand would need fewer.
    MinReplicas,
    /// `autoscaling.maxReplicas`: the demand would need more.
    MaxReplicas,
    /// The built-in limit on growth: the greater of 100 % of the ready pods and 4 pods in 15 seconds.
    GrowthLimit,
    /// `autoscaling.behavior.scaleUp`.
    ScaleUpPolicy,
    /// `autoscaling.behavior.scaleDown`, declared or default.
    ScaleDownPolicy,
}

impl Limit {
    /// The stable name used in `status.scaling.replicas.limitedBy`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MinReplicas => "MinReplicas",
            Self::MaxReplicas => "MaxReplicas",
            Self::GrowthLimit => "GrowthLimit",
            Self::ScaleUpPolicy => "ScaleUpPolicy",
            Self::ScaleDownPolicy => "ScaleDownPolicy",
        }
    }
}

/// Which requirement asked for the most replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Binding {
    /// Slots may not be busier than the planned share.
    Utilization,
    /// A latency bound: so many calls may wait so long.
    Latency(Quantile),
    /// CPU of the pods.
    Cpu,
    /// `performanceTargets.requestsPerSecond`.
    RequestsPerSecond,
}
