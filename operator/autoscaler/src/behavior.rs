//! Step limits in the shape of `autoscaling/v2` `behavior`, with its semantics.

use crate::changes::Changes;
use serde::{Deserialize, Serialize};

/// Seconds of the down window when none is declared.
const DEFAULT_DOWN_WINDOW: u32 = 180;
/// The default step downwards: this percentage of the replicas at the start of a minute, and at least one.
const DEFAULT_DOWN_PERCENT: u32 = 15;
const DEFAULT_DOWN_PERIOD: f64 = 60.0;
/// Growth that is always allowed within [`GROWTH_PERIOD`], in pods.
const GROWTH_PODS: u32 = 4;
const GROWTH_PERIOD: f64 = 15.0;

/// `autoscaling.behavior`: limits per direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behavior {
    /// Limits on increases, on top of the built-in limit on growth.
    pub scale_up: Option<ScalingRules>,
    /// Limits on decreases; what is absent has the defaults of [`ScalingRules`].
    pub scale_down: Option<ScalingRules>,
}

/// Limits of one direction. Absent fields take defaults: no stabilization upwards and 180 s downwards; upwards no limit
/// but the built-in one on growth; downwards the greater of one pod and 15 %, rounded down, a minute.
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

impl Behavior {
    /// Seconds over which the least recommendation counts before an increase.
    pub(crate) fn up_window(&self) -> f64 {
        self.scale_up
            .as_ref()
            .and_then(|rules| rules.stabilization_window_seconds)
            .unwrap_or(0)
            .into()
    }

    /// Seconds over which the greatest recommendation counts before a decrease.
    pub(crate) fn down_window(&self) -> f64 {
        let declared = self
            .scale_down
            .as_ref()
            .and_then(|rules| rules.stabilization_window_seconds);
        declared.unwrap_or(DEFAULT_DOWN_WINDOW).into()
    }

    /// The most replicas `scaleUp` allows at `time`, never fewer than `replicas`; `None` when nothing is declared.
    pub(crate) fn most(&self, replicas: u32, changes: &Changes, time: f64) -> Option<u32> {
        let rules = self.scale_up.as_ref()?;
        let proposals = rules.policies.iter().map(|policy| {
            let start = changes.start_of_period(replicas, time, policy.period_seconds.into());
            match policy.kind {
                PolicyKind::Pods => start.saturating_add(policy.value),
                PolicyKind::Percent => percent(start, 100_u32.saturating_add(policy.value), u64::div_ceil),
            }
        });
        let most = match rules.select_policy {
            SelectPolicy::Disabled => Some(replicas),
            SelectPolicy::Max => proposals.max(),
            SelectPolicy::Min => proposals.min(),
        };
        most.map(|most| most.max(replicas))
    }

    /// The fewest replicas `scaleDown`, declared or default, allows at `time`; never more than `replicas`.
    pub(crate) fn fewest(&self, replicas: u32, changes: &Changes, time: f64) -> u32 {
        let (policies, select) = match &self.scale_down {
            Some(rules) => (rules.policies.as_slice(), rules.select_policy),
            None => (&[][..], SelectPolicy::Max),
        };
        let proposals = policies.iter().map(|policy| {
            let start = changes.start_of_period(replicas, time, policy.period_seconds.into());
            match policy.kind {
                PolicyKind::Pods => start.saturating_sub(policy.value),
                PolicyKind::Percent => percent(start, 100_u32.saturating_sub(policy.value), |part, whole| part / whole),
            }
        });
        // The greatest change downwards is the one that leaves the fewest.
        let fewest = match select {
            SelectPolicy::Disabled => Some(replicas),
            SelectPolicy::Max => proposals.min(),
            SelectPolicy::Min => proposals.max(),
        };
        fewest
            .unwrap_or_else(|| default_fewest(replicas, changes, time))
            .min(replicas)
    }
}

/// The most replicas the built-in limit on growth allows: it doubles the ready pods or adds four, each 15 seconds. Pods
/// that are still starting do not count, since nothing is known of their effect yet.
pub(crate) fn growth_limit(replicas: u32, ready: u32, changes: &Changes, time: f64) -> u32 {
    let start = changes.start_of_period(replicas, time, GROWTH_PERIOD);
    start.saturating_add(ready.max(GROWTH_PODS)).max(replicas)
}

/// Rounds down, unlike a declared percentage: rounding up would take two of seven pods, more than a quarter, at once.
fn default_fewest(replicas: u32, changes: &Changes, time: f64) -> u32 {
    let start = changes.start_of_period(replicas, time, DEFAULT_DOWN_PERIOD);
    start.saturating_sub((start.saturating_mul(DEFAULT_DOWN_PERCENT) / 100).max(1))
}

/// `percent` of a number of replicas, rounded by `divide`, in whole numbers: exact where floats are not.
fn percent(replicas: u32, percent: u32, divide: impl Fn(u64, u64) -> u64) -> u32 {
    u32::try_from(divide(u64::from(replicas) * u64::from(percent), 100)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(kind: PolicyKind, value: u32, period_seconds: u32) -> ScalingPolicy {
        ScalingPolicy {
            kind,
            value,
            period_seconds,
        }
    }

    fn rules(select_policy: SelectPolicy, policies: &[ScalingPolicy]) -> ScalingRules {
        ScalingRules {
            stabilization_window_seconds: None,
            select_policy,
            policies: policies.to_vec(),
        }
    }

    /// Replicas that were `counts` at the given times.
    fn history(counts: &[(f64, u32)]) -> Changes {
        let mut changes = Changes::default();
        for (time, replicas) in counts {
            changes.observe(*time, *replicas);
        }
        changes
    }

    /// Somebody who knows `behavior` from a `HorizontalPodAutoscaler` expects the same numbers here.
    #[test]
    fn increases_follow_autoscaling_v2() {
        use PolicyKind::{Percent, Pods};
        use SelectPolicy::{Disabled, Max, Min};
        let unchanged = history(&[(0.0, 10)]);
        let grown = history(&[(0.0, 6), (90.0, 6), (95.0, 10)]);
        let shrunk = history(&[(0.0, 14), (90.0, 14), (95.0, 10)]);
        let both = [policy(Percent, 50, 60), policy(Pods, 2, 60)];
        let cases = [
            ("pods", rules(Max, &[policy(Pods, 3, 60)]), &unchanged, Some(13)),
            (
                "percent rounds up",
                rules(Max, &[policy(Percent, 11, 60)]),
                &unchanged,
                Some(12),
            ),
            ("the greatest counts", rules(Max, &both), &unchanged, Some(15)),
            ("the least counts", rules(Min, &both), &unchanged, Some(12)),
            ("disabled", rules(Disabled, &both), &unchanged, Some(10)),
            (
                "the budget of the period is partly used",
                rules(Max, &[policy(Pods, 5, 60)]),
                &grown,
                Some(11),
            ),
            (
                "an overdrawn budget takes nothing back",
                rules(Max, &[policy(Pods, 2, 60)]),
                &grown,
                Some(10),
            ),
            (
                "an old change is out of the period",
                rules(Max, &[policy(Pods, 5, 5)]),
                &grown,
                Some(15),
            ),
            (
                "a decrease in the period gives budget",
                rules(Max, &[policy(Pods, 1, 60)]),
                &shrunk,
                Some(15),
            ),
            ("no policies", rules(Max, &[]), &unchanged, None),
        ];
        for (name, scale_up, changes, expected) in cases {
            let behavior = Behavior {
                scale_up: Some(scale_up),
                scale_down: None,
            };
            assert_eq!(behavior.most(10, changes, 100.0), expected, "{name}");
        }
    }

    #[test]
    fn decreases_follow_autoscaling_v2() {
        use PolicyKind::{Percent, Pods};
        use SelectPolicy::{Disabled, Max, Min};
        let unchanged = history(&[(0.0, 10)]);
        let shrunk = history(&[(0.0, 14), (90.0, 14), (95.0, 10)]);
        let both = [policy(Percent, 50, 60), policy(Pods, 2, 60)];
        let cases = [
            ("pods", rules(Max, &[policy(Pods, 3, 60)]), &unchanged, 7),
            (
                "percent leaves the rounded-down rest",
                rules(Max, &[policy(Percent, 15, 60)]),
                &unchanged,
                8,
            ),
            ("everything", rules(Max, &[policy(Percent, 100, 15)]), &unchanged, 0),
            ("the greatest counts", rules(Max, &both), &unchanged, 5),
            ("the least counts", rules(Min, &both), &unchanged, 8),
            ("disabled", rules(Disabled, &both), &unchanged, 10),
            (
                "the budget of the period is partly used",
                rules(Max, &[policy(Pods, 6, 60)]),
                &shrunk,
                8,
            ),
            (
                "an overdrawn budget gives nothing back",
                rules(Max, &[policy(Pods, 3, 60)]),
                &shrunk,
                10,
            ),
            (
                "only a window declared: the default step",
                rules(Max, &[]),
                &unchanged,
                9,
            ),
        ];
        for (name, scale_down, changes, expected) in cases {
            let behavior = Behavior {
                scale_up: None,
                scale_down: Some(scale_down),
            };
            assert_eq!(behavior.fewest(10, changes, 100.0), expected, "{name}");
        }
    }

    /// R13: a fleet must not lose more than a quarter within a minute (beyond the single pod a small one has to lose).
    #[test]
    fn the_default_step_takes_at_most_a_quarter() {
        for replicas in 4..500 {
            let changes = history(&[(0.0, replicas)]);
            let left = Behavior::default().fewest(replicas, &changes, 100.0);
            assert!(
                left < replicas && 4 * (replicas - left) <= replicas,
                "{replicas} to {left}"
            );
        }
    }

    #[test]
    fn growth_doubles_the_ready_pods_or_adds_four() {
        let cases = [
            ("small", history(&[(0.0, 1)]), 1, 1, 5),
            ("large", history(&[(0.0, 10)]), 10, 10, 20),
            ("pods that start do not count", history(&[(0.0, 10)]), 10, 3, 14),
            (
                "the last 15 seconds already grew",
                history(&[(0.0, 2), (95.0, 2), (98.0, 6)]),
                6,
                2,
                6,
            ),
        ];
        for (name, changes, replicas, ready, expected) in cases {
            assert_eq!(growth_limit(replicas, ready, &changes, 100.0), expected, "{name}");
        }
    }
}
