//! Which declared targets are met.

use crate::numbers::two_digits;
use crate::sizing::Sizing;
use crate::{Histogram, LatencyTarget, Outcomes, Policy, Quantile, Signal, SignalState, Signals, Snapshot, State};
use serde::{Deserialize, Serialize};

/// Whether a target could be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetState {
    /// Judged on fresh values with enough samples.
    Known,
    /// Too few samples to say, or the server has not been measured yet.
    Unknown,
    /// The values are older than three scrapes.
    Stale,
    /// There are no values.
    Missing,
    /// The values contradict themselves.
    Invalid,
}

impl TargetState {
    /// The stable name used in `status.targets[].state`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Known => "Known",
            Self::Unknown => "Unknown",
            Self::Stale => "Stale",
            Self::Missing => "Missing",
            Self::Invalid => "Invalid",
        }
    }
}

/// One declared target against what was observed; one entry of `status.targets`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetReport {
    /// `latency.p50`, `latency.p95`, `latency.p99`, `requestsPerSecond` or `errorRate`.
    pub name: String,
    /// The declared value in the base unit: seconds, requests per second, fraction.
    pub target: f64,
    /// What was observed in the same unit, rounded to two significant digits; for `requestsPerSecond` the capacity
    /// predicted for the ready pods.
    pub observed: Option<f64>,
    /// Whether the target could be judged.
    pub state: TargetState,
    /// Whether it is met; `None` unless the state is [`TargetState::Known`].
    pub met: Option<bool>,
    /// The least and the greatest value that chance alone makes plausible behind `observed`. Not for the status: it
    /// keeps [`crate::Reporter`] from writing noise.
    pub plausible: Option<(f64, f64)>,
}

/// Samples in the tail beyond a quantile that it takes to state the quantile.
const TAIL_SAMPLES: f64 = 20.0;
/// A target that was judged before stays judged until this share of the samples is left, so that a rate near the limit
/// does not switch between known and unknown.
const STILL_ENOUGH: f64 = 0.5;
/// A capacity that was enough stays so down to this share below the target: the cost of a call is a running mean.
const CAPACITY_TOLERANCE: f64 = 0.05;
/// Standard deviations of chance within which a verdict stays as it was.
const CHANCE: f64 = 3.0;

/// Holds the declared targets against the snapshot, in the order latency, requestsPerSecond, errorRate.
///
/// `state` is what [`crate::decide`] returned for this snapshot. `previous` is what was last written
/// ([`crate::Reporter::written`]): within chance of a bound the verdict stays as it was, so that noise does not flip
/// it.
#[must_use]
pub fn evaluate_targets(
    snapshot: &Snapshot,
    state: &State,
    policy: &Policy,
    previous: &[TargetReport],
) -> Vec<TargetReport> {
    let latency = policy.targets.latency.iter().map(|target| {
        let name = format!("latency.{}", target.quantile.as_str());
        latency_report(
            &snapshot.signals,
            target,
            Before::of(name, target.bound_seconds, previous),
        )
    });
    let capacity = policy.targets.requests_per_second.map(|target| {
        let before = Before::of("requestsPerSecond".to_owned(), target, previous);
        capacity_report(snapshot, state, policy, before)
    });
    let errors = policy.targets.error_rate.map(|target| {
        let before = Before::of("errorRate".to_owned(), target, previous);
        error_report(&snapshot.signals.outcomes, before)
    });
    latency.chain(capacity).chain(errors).collect()
}

/// A target and the verdict on it that was last written.
struct Before {
    name: String,
    target: f64,
    met: Option<bool>,
}

impl Before {
    fn of(name: String, target: f64, previous: &[TargetReport]) -> Self {
        let same = |report: &&TargetReport| report.name == name && report.target.to_bits() == target.to_bits();
        let met = previous.iter().find(same).and_then(|report| report.met);
        Self { name, target, met }
    }

    /// Share of the usual number of samples that is enough.
    fn enough(&self) -> f64 {
        if self.met.is_some() { STILL_ENOUGH } else { 1.0 }
    }

    /// A judged target. `least` and `most` are what the observed value may be by chance; the greater one is worse.
    fn known(self, observed: f64, least: f64, most: f64) -> TargetReport {
        let met = match self.met {
            Some(true) => least <= self.target,
            Some(false) => most <= self.target,
            None => observed <= self.target,
        };
        TargetReport {
            plausible: Some((least, most)),
            ..self.report(Some(observed), TargetState::Known, Some(met))
        }
    }

    fn unknown(self, state: TargetState) -> TargetReport {
        self.report(None, state, None)
    }

    fn report(self, observed: Option<f64>, state: TargetState, met: Option<bool>) -> TargetReport {
        let observed = observed.map(two_digits);
        TargetReport {
            name: self.name,
            target: self.target,
            observed,
            state,
            met,
            plausible: None,
        }
    }
}

/// A latency quantile with what chance may make of it, in seconds.
#[derive(Clone, Copy)]
pub(crate) struct ObservedLatency {
    pub seconds: f64,
    least: f64,
    most: f64,
}

/// The quantile over the last minute if it has samples enough, else over the last five: the fastest that can be told.
pub(crate) fn newest_latency(signals: &Signals, quantile: Quantile) -> Option<ObservedLatency> {
    quantile_of(&signals.latency, quantile, 1.0).or_else(|| quantile_of(&signals.latency_long, quantile, 1.0))
}

/// The quantile over the last five minutes, which wavers least, unless the last minute differs by more than chance.
fn steadiest_latency(signals: &Signals, quantile: Quantile, enough: f64) -> Option<ObservedLatency> {
    let minute = quantile_of(&signals.latency, quantile, enough);
    let long = quantile_of(&signals.latency_long, quantile, enough);
    match (minute, long) {
        (Some(minute), Some(long)) if (minute.least..=minute.most).contains(&long.seconds) => Some(long),
        _ => minute.or(long),
    }
}

/// `None` with fewer samples than it takes to state the quantile; `enough` scales that number.
fn quantile_of(calls: &Signal<Histogram>, quantile: Quantile, enough: f64) -> Option<ObservedLatency> {
    let share = quantile.share();
    let calls = calls
        .usable()
        .filter(|calls| calls.count() >= enough * TAIL_SAMPLES / (1.0 - share))?;
    let deviation = CHANCE * (share * (1.0 - share) / calls.count()).sqrt();
    let at = |rank: f64| calls.quantile(rank);
    Some(ObservedLatency {
        seconds: at(share)?,
        least: at(share - deviation)?,
        most: at(share + deviation)?,
    })
}

fn latency_report(signals: &Signals, target: &LatencyTarget, before: Before) -> TargetReport {
    match state_of(&signals.latency) {
        TargetState::Known => match steadiest_latency(signals, target.quantile, before.enough()) {
            Some(observed) => before.known(observed.seconds, observed.least, observed.most),
            None => before.unknown(TargetState::Unknown),
        },
        state => before.unknown(state),
    }
}

/// Capacity is predicted, not measured, and so it does not waver with chance.
fn capacity_report(snapshot: &Snapshot, state: &State, policy: &Policy, before: Before) -> TargetReport {
    let capacity = Sizing::new(policy, &state.model).capacity(snapshot.ready);
    let (state, capacity) = match (state_of(&snapshot.signals.demand), capacity) {
        (TargetState::Known, Some(capacity)) => (TargetState::Known, capacity),
        (TargetState::Known, None) => return before.unknown(TargetState::Unknown),
        (state, _) => return before.unknown(state),
    };
    let tolerance = if before.met == Some(true) {
        CAPACITY_TOLERANCE
    } else {
        0.0
    };
    let met = capacity >= before.target * (1.0 - tolerance);
    before.report(Some(capacity), state, Some(met))
}

fn error_report(outcomes: &Signal<Outcomes>, before: Before) -> TargetReport {
    let calls = match (state_of(outcomes), outcomes.usable()) {
        (TargetState::Known, Some(calls)) => calls,
        (state, _) => return before.unknown(state),
    };
    let count = calls.count();
    if count < before.enough() * TAIL_SAMPLES {
        return before.unknown(TargetState::Unknown);
    }
    let rate = (calls.error + calls.shed) / count;
    let chance = |of_rate: f64| CHANCE * (of_rate * (1.0 - of_rate) / count).sqrt() + 1.0 / count;
    // What the allowed rate would give by chance: a single failure among few calls is no breach of 0.1 %.
    let least = rate - chance(before.target);
    let report = before.known(rate, least, rate);
    TargetReport {
        plausible: Some((rate - chance(rate), rate + chance(rate))),
        ..report
    }
}

fn state_of<T>(signal: &Signal<T>) -> TargetState {
    match signal.state {
        SignalState::Fresh => TargetState::Known,
        SignalState::Stale => TargetState::Stale,
        SignalState::Missing => TargetState::Missing,
        SignalState::Invalid => TargetState::Invalid,
    }
}
