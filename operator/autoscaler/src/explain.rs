//! One plain sentence for every decision, with the numbers it takes to check it.
//!
//! Sentences about a change hold measured numbers. Sentences about staying hold none that wavers with noise, so that a
//! status which repeats them is not written again and again.

use crate::decision::Limit;
use crate::load::Load;
use crate::numbers::two_digits;
use crate::sizing::{HEADROOM, MAX_CPU, Need};
use crate::{Binding, Policy, Quantile, Reason, Snapshot};
use std::fmt::Write as _;

/// What a decision on demand was made of.
pub(crate) struct Facts {
    pub load: Load,
    pub need: Need,
    /// Greatest need of the down window.
    pub lowest: u32,
    /// Seconds of the down window.
    pub down_window: f64,
    pub unreachable: Vec<Quantile>,
}

/// The sentence for going from `from` to `to` replicas.
pub(crate) fn explain(
    from: u32,
    to: u32,
    reason: Reason,
    limited_by: Option<Limit>,
    facts: Option<&Facts>,
    snapshot: &Snapshot,
    policy: &Policy,
) -> String {
    let move_text = match to.cmp(&from) {
        std::cmp::Ordering::Greater => format!("Raise {from} to {to}"),
        std::cmp::Ordering::Less => format!("Lower {from} to {to}"),
        std::cmp::Ordering::Equal => format!("Keep {}", replicas(to)),
    };
    let mut sentence = format!("{move_text}: {}", because(reason, facts, snapshot, policy));
    // The bounds are the whole reason in their own case, and part of "they fit the demand" when nothing changes.
    let limit = limited_by.filter(|limit| from != to || *limit != Limit::MinReplicas);
    if let Some(limit) = limit.filter(|_| !matches!(reason, Reason::BelowMinReplicas | Reason::AboveMaxReplicas)) {
        let _ = write!(sentence, "; {}", limit_text(limit, policy));
    }
    if let Some(facts) = facts.filter(|facts| !facts.unreachable.is_empty()) {
        let names: Vec<&str> = facts.unreachable.iter().map(|quantile| quantile.as_str()).collect();
        let _ = write!(
            sentence,
            "; the calls alone take longer than the {} bound, whatever the replicas",
            names.join(", ")
        );
    }
    sentence.push('.');
    sentence
}

fn because(reason: Reason, facts: Option<&Facts>, snapshot: &Snapshot, policy: &Policy) -> String {
    match (reason, facts) {
        (Reason::DemandRose, Some(facts)) => need_text(facts, policy),
        (Reason::DemandFell, Some(facts)) => format!(
            "over the last {} s no more than {} were needed; now {}",
            two_digits_text(facts.down_window),
            replicas(facts.lowest),
            load_text(facts.load)
        ),
        (Reason::WaitingForWindow, Some(facts)) => format!(
            "fewer would do now, but not yet for the {} s that a decrease takes",
            two_digits_text(facts.down_window)
        ),
        (Reason::MetricsPartial, _) => format!(
            "fewer might do, but {} of {} ready pods have no complete metrics",
            snapshot
                .signals
                .demand
                .silent()
                .max(snapshot.signals.outcomes.silent())
                .max(snapshot.signals.latency.silent()),
            snapshot.ready
        ),
        (Reason::MetricsRecovering, _) => format!(
            "fewer might do, but the metrics have not been whole for {} s yet",
            two_digits_text(policy.behavior.down_window())
        ),
        (reason, _) => fixed_text(reason, policy),
    }
}

/// Sentences without measured numbers.
fn fixed_text(reason: Reason, policy: &Policy) -> String {
    let stale = || two_digits_text(3.0 * policy.scrape_interval_seconds);
    match reason {
        Reason::BelowMinReplicas => format!("minReplicas is {}", policy.min_replicas),
        Reason::AboveMaxReplicas => format!("maxReplicas is {}", policy.max_replicas.max(policy.min_replicas)),
        Reason::DemandRose | Reason::ScaleUpLimited => "the demand needs more".to_owned(),
        Reason::DemandFell | Reason::ScaleDownLimited | Reason::WaitingForWindow => "the demand needs fewer".to_owned(),
        Reason::Steady => "they fit the demand".to_owned(),
        Reason::NoReadyPods => "no pod is ready, so nothing can be measured".to_owned(),
        Reason::MetricsStale => format!("the metrics are older than {} s, and old data changes nothing", stale()),
        Reason::MetricsMissing => "there are no metrics, and missing is not zero".to_owned(),
        Reason::MetricsInvalid => "the metrics contradict themselves, so nothing can be told from them".to_owned(),
        Reason::MetricsPartial | Reason::MetricsRecovering => "the metrics are not complete".to_owned(),
        Reason::RolloutInProgress => "fewer might do, but a rollout is under way, or pods crash".to_owned(),
        Reason::ErrorRateHigh => "fewer might do, but calls fail more often than usual or allowed".to_owned(),
        Reason::LatencyNearTarget => "fewer might do, but latency is above 90 % of its bound".to_owned(),
    }
}

/// The arithmetic of the requirement that asked for the most.
fn need_text(facts: &Facts, policy: &Policy) -> String {
    let need = replicas(facts.need.replicas);
    let slots = policy.concurrency;
    let headroom = percent(HEADROOM - 1.0);
    let load = load_text(facts.load);
    match facts.need.binding {
        Binding::Utilization => {
            let busy = percent(policy.balancing.max_utilization());
            format!("{load}; with {headroom} headroom and {slots} slots a pod, at most {busy} busy, that needs {need}")
        }
        Binding::Latency(quantile) => {
            let bound = bound_text(quantile, policy);
            format!("{load}; with {headroom} headroom and {slots} slots a pod, {bound} needs {need}")
        }
        Binding::Cpu => format!(
            "the calls use {} CPU cores; with {headroom} headroom and at most {} of the {} cores a pod may use, that needs {need}",
            two_digits_text(facts.load.cpu_cores),
            percent(MAX_CPU),
            two_digits_text(policy.cpu_limit_cores.unwrap_or_default())
        ),
        Binding::RequestsPerSecond => format!(
            "requestsPerSecond {} must be servable at any time, which needs {need} with {slots} slots a pod",
            two_digits_text(policy.targets.requests_per_second.unwrap_or_default())
        ),
    }
}

fn load_text(load: Load) -> String {
    format!(
        "{} calls/s keep {} slots busy",
        two_digits_text(load.calls_per_second),
        two_digits_text(load.busy_slots)
    )
}

fn bound_text(quantile: Quantile, policy: &Policy) -> String {
    let target = policy.targets.latency.iter().find(|target| target.quantile == quantile);
    // Rounded to a microsecond, as 0.07 s would else read as 70.00000000000001 ms.
    let milliseconds = target.map_or(0.0, |target| (target.bound_seconds * 1e6).round() / 1e3);
    format!("{} within {milliseconds} ms", quantile.as_str())
}

fn limit_text(limit: Limit, policy: &Policy) -> String {
    match limit {
        Limit::MinReplicas => format!("minReplicas is {}", policy.min_replicas),
        Limit::MaxReplicas => format!("maxReplicas is {}", policy.max_replicas),
        Limit::GrowthLimit => "growth is limited to doubling or 4 pods in 15 s".to_owned(),
        Limit::ScaleUpPolicy => "behavior.scaleUp allows no more now".to_owned(),
        Limit::ScaleDownPolicy => "behavior.scaleDown allows no larger step now".to_owned(),
    }
}

fn replicas(count: u32) -> String {
    if count == 1 {
        "1 replica".to_owned()
    } else {
        format!("{count} replicas")
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn two_digits_text(value: f64) -> String {
    two_digits(value).to_string()
}
