//! Step limits in the shape of `autoscaling/v2` `behavior`, with its semantics.

use serde::{Deserialize, Serialize};

/// `autoscaling.behavior`: limits per direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behavior {
    /// Limits on increases, on top of the built-in limit on growth.
    pub scale_up: Option<ScalingRules>,
    /// Limits on decreases; what is absent has the defaults of [`ScalingRules`].
    pub scale_down: Option<ScalingRules>,
}

/// Limits of one direction. Absent fields take defaults: no stabilization upwards and 180 s downwards; no declared
/// policies upwards (the built-in limit on growth holds) and the greater of 15 % and one pod a minute downwards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScalingRules {
    /// Seconds over which the safest recommendation wins: the greatest downwards, the least upwards.
    pub stabilization_window_seconds: Option<u32>,
    /// Which of several policies counts.
    pub select_policy: SelectPolicy,
    /// The policies; empty means the default.
    pub policies: Vec<ScalingPolicy>,
}

/// How several policies combine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SelectPolicy {
    /// The one that allows the greatest change.
    #[default]
    Max,
    /// The one that allows the least change.
    Min,
    /// No change in this direction.
    Disabled,
}

/// A change of at most `value` within `period_seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScalingPolicy {
    /// What `value` counts.
    pub kind: PolicyKind,
    /// Pods, or percent of the replicas at the start of the period.
    pub value: u32,
    /// Length of the period in seconds.
    pub period_seconds: u32,
}

/// The unit of a [`ScalingPolicy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyKind {
    /// A number of pods.
    Pods,
    /// A percentage of the replicas at the start of the period.
    Percent,
}
