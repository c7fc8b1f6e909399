//! What speaks against a decrease although fewer replicas would do.

use crate::sizing::Sizing;
use crate::targets::newest_latency;
use crate::{LatencyTarget, Policy, Reason, Signal, SignalState, Snapshot, State};

/// Share of a latency bound from which on nothing is taken away.
const NEAR_TARGET: f64 = 0.9;
/// Latency beyond the slot-held time by less than this factor is no queueing: replicas neither cause nor cure it.
const QUEUEING: f64 = 1.1;

/// The first reason to keep what there is; `None` when a decrease is safe. Only fresh and complete data lowers
/// anything.
pub(crate) fn against_decrease(
    snapshot: &Snapshot,
    state: &State,
    policy: &Policy,
    sizing: &Sizing<'_>,
) -> Option<Reason> {
    if snapshot.rollout {
        return Some(Reason::RolloutInProgress);
    }
    let signals = &snapshot.signals;
    let latency = (!policy.targets.latency.is_empty()).then_some(&signals.latency);
    incomplete(&signals.demand)
        .or_else(|| {
            (!state.health.covers(snapshot.time, policy.behavior.down_window())).then_some(Reason::MetricsRecovering)
        })
        .or_else(|| incomplete(&signals.outcomes))
        .or_else(|| latency.and_then(incomplete))
        .or_else(|| failing(snapshot, state, policy).then_some(Reason::ErrorRateHigh))
        .or_else(|| near_target(snapshot, policy, sizing).then_some(Reason::LatencyNearTarget))
}

/// Why a signal is not good enough to lower anything.
fn incomplete<T>(signal: &Signal<T>) -> Option<Reason> {
    match unusable(signal.state) {
        Some(reason) => Some(reason),
        None => (!signal.complete()).then_some(Reason::MetricsPartial),
    }
}

/// The reason that goes with a state; `None` for a fresh one.
pub(crate) fn unusable(state: SignalState) -> Option<Reason> {
    match state {
        SignalState::Fresh => None,
        SignalState::Stale => Some(Reason::MetricsStale),
        SignalState::Missing => Some(Reason::MetricsMissing),
        SignalState::Invalid => Some(Reason::MetricsInvalid),
    }
}

/// Rising errors with falling work are an outage, not low load.
fn failing(snapshot: &Snapshot, state: &State, policy: &Policy) -> bool {
    let rate = snapshot
        .signals
        .outcomes
        .usable()
        .and_then(crate::Outcomes::failed_share);
    rate.is_some_and(|rate| {
        state.errors.exceeded_by(rate) || policy.targets.error_rate.is_some_and(|allowed| rate > allowed)
    })
}

fn near_target(snapshot: &Snapshot, policy: &Policy, sizing: &Sizing<'_>) -> bool {
    let near = |target: &LatencyTarget| {
        let Some(observed) = newest_latency(&snapshot.signals, target.quantile) else {
            return false;
        };
        let queueing = sizing
            .service_quantile(target.quantile)
            .is_none_or(|service| observed.seconds > QUEUEING * service);
        queueing && observed.seconds > NEAR_TARGET * target.bound_seconds
    };
    policy.targets.latency.iter().any(near)
}
