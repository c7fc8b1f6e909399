//! The decision itself.

use crate::{Decision, Policy, Reason, SignalState, Snapshot, State};

/// Decides how many replicas there should be.
///
/// Pure and deterministic: equal arguments give equal results. Acting on the result is the caller's part; a caller that
/// only recommends passes the replicas as they are at the next tick, too.
#[must_use]
pub fn decide(snapshot: &Snapshot, state: &State, policy: &Policy) -> (Decision, State) {
    let to = snapshot
        .replicas
        .clamp(policy.min_replicas, policy.max_replicas.max(policy.min_replicas));
    let reason = match snapshot.signals.demand.state {
        SignalState::Fresh => Reason::Steady,
        SignalState::Stale => Reason::MetricsStale,
        SignalState::Missing => Reason::MetricsMissing,
        SignalState::Invalid => Reason::MetricsInvalid,
    };
    let message = format!("Keep {to} replicas.");
    let decision = Decision {
        from: snapshot.replicas,
        to,
        reason,
        limited_by: None,
        binding: None,
        unreachable: Vec::new(),
        message,
    };
    (decision, state.clone())
}
