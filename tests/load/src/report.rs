//! What a run has shown.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::collector::{Counts, FailureRecord, Records, SecondRecord, ToolRecord};
use crate::latency::{Latencies, Precision};
use crate::outcome::FailureKind;
use crate::plan::Plan;

/// The result of a run. Its JSON form has the same fields, with latencies as quantiles in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where the load went.
    pub url: String,
    /// Protocol era: `modern`, `legacy` or `mixed`.
    pub era: String,
    /// The load profile.
    pub phases: Vec<String>,
    /// Seed of the random choices.
    pub seed: u64,
    /// When the first phase started (RFC 3339, UTC).
    pub started_at: String,
    /// From the start of the first phase to the last answer, in seconds.
    pub seconds: f64,
    /// Whether the run was cancelled before its phases were over.
    pub cancelled: bool,
    /// How all requests ended.
    pub total: Counts,
    /// From when requests were due to their complete answers, over all tools. Completed requests only.
    pub latency: Latencies,
    /// From when requests were really sent to their complete answers. Completed requests only.
    pub service_latency: Latencies,
    /// Each tool of the mix.
    pub tools: Vec<ToolRecord>,
    /// Each kind of failure.
    pub failures: Vec<FailureRecord>,
    /// How many answers had each HTTP status.
    pub http_statuses: BTreeMap<u16, u64>,
    /// Legacy sessions; `None` in the modern era.
    pub sessions: Option<SessionCounts>,
    /// How much later than due requests were sent: the load tester's own lateness.
    pub lag: Latencies,
    /// Why the figures must not be trusted; empty for a valid run.
    pub invalid: Vec<String>,
    /// What became of the requests due in each second of the run.
    pub time_series: Vec<SecondRecord>,
}

/// What became of the legacy sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SessionCounts {
    /// Sessions opened with `initialize`, those in place of lost ones included.
    pub opened: u64,
    /// Sessions that the server did not know any more (HTTP 404).
    pub lost: u64,
}

/// A part of a run: the requests that were due in it.
#[derive(Clone, Debug)]
pub struct Window {
    /// How they ended.
    pub counts: Counts,
    /// From when they were due to their complete answers, within 1 %. Completed requests only.
    pub latency: Latencies,
}

/// What only the run itself knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunFacts {
    pub(crate) ran_for: Duration,
    pub(crate) started_at: jiff::Timestamp,
    pub(crate) cancelled: bool,
    pub(crate) sessions: Option<(u64, u64)>,
}

impl Report {
    pub(crate) fn new(plan: &Plan, facts: RunFacts, records: Records) -> Self {
        let mut latency = Latencies::new(Precision::Totals);
        let mut service_latency = Latencies::new(Precision::Totals);
        for tool in &records.tools {
            latency.merge(&tool.latency);
            service_latency.merge(&tool.service_latency);
        }
        let total = records.totals();
        Self {
            url: plan.url.clone(),
            era: plan.era.to_string(),
            phases: plan.phases.iter().map(ToString::to_string).collect(),
            seed: plan.seed,
            started_at: facts.started_at.to_string(),
            seconds: facts.ran_for.as_secs_f64(),
            cancelled: facts.cancelled,
            total,
            latency,
            service_latency,
            tools: records.tools,
            failures: records.failures.into_values().collect(),
            http_statuses: records.statuses,
            sessions: facts.sessions.map(|(opened, lost)| SessionCounts { opened, lost }),
            invalid: reasons_for_doubt(plan, total, &records.lag),
            lag: records.lag,
            time_series: records.seconds,
        }
    }

    /// How many requests failed, without those that were shed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.total.failed
    }

    /// How many requests the server refused because of overload.
    #[must_use]
    pub fn shed(&self) -> u64 {
        self.total.shed
    }

    /// How many requests failed in this way.
    #[must_use]
    pub fn failed_by(&self, kind: FailureKind) -> u64 {
        self.failures
            .iter()
            .find(|failure| failure.kind == kind)
            .map_or(0, |failure| failure.count)
    }

    /// Latency from when requests were due; `None` when none completed. `quantile` is between 0 and 1.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        self.latency.quantile(quantile)
    }

    /// The requests that were due from second `from` up to, but without, second `to` of the run.
    #[must_use]
    pub fn window(&self, from: usize, to: usize) -> Window {
        let mut window = Window {
            counts: Counts::default(),
            latency: Latencies::new(Precision::Seconds),
        };
        for second in self.time_series.iter().take(to).skip(from) {
            window.counts.add(second.counts);
            window.latency.merge(&second.latency);
        }
        window
    }

    /// Whether the load tester did what the plan says, so that the figures mean what they say.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.invalid.is_empty()
    }
}

impl Window {
    /// Latency from when requests were due; `None` when none completed. `quantile` is between 0 and 1.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        self.latency.quantile(quantile)
    }
}

impl Serialize for Latencies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.summary().serialize(serializer)
    }
}

fn reasons_for_doubt(plan: &Plan, total: Counts, lag: &Latencies) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(late) = lag.quantile(0.99).filter(|late| *late > plan.max_lag) {
        reasons.push(format!(
            "1 % of the requests were sent {late:?} late or more, above the {:?} allowed: the load tester got too little \
             processor time. Lower the rate, or run it where there is more",
            plan.max_lag
        ));
    }
    if total.unsent > 0 {
        reasons.push(format!(
            "{} of {} requests were not sent because {} were unanswered: the server is slower than the rate demands. \
             Lower the rate, or raise --max-in-flight to see latencies grow instead",
            total.unsent, total.offered, plan.max_in_flight
        ));
    }
    reasons
}
