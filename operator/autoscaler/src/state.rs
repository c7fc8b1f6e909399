//! What is remembered between two ticks.

use crate::changes::Changes;
use crate::model::Model;
use crate::numbers::newest_share;
use crate::window::NeedWindow;
use crate::{Outcomes, Policy, Snapshot};
use serde::{Deserialize, Serialize};

/// Seconds without any tick after which the window starts anew, even though no tick failed.
const LONGEST_PAUSE: f64 = 60.0;
/// Scrapes that may fail in a row before the window starts anew. Counters cover shorter gaps by themselves.
const LOST_SCRAPES: f64 = 3.0;
/// Seconds after which half of the usual error rate is forgotten.
const ERROR_HALF_LIFE: f64 = 600.0;

/// The memory of [`crate::decide`]. Opaque to callers: keep what one call returns for the next. A new one (after a
/// restart of the operator) only means that nothing is lowered for one whole window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub(crate) model: Model,
    pub(crate) window: NeedWindow,
    pub(crate) changes: Changes,
    pub(crate) health: MetricsHealth,
    pub(crate) errors: UsualErrors,
    /// The last tick saw a jump that looked like an outlier; the next one believes it.
    pub(crate) doubted: bool,
}

/// Since when the metrics have been whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct MetricsHealth {
    whole_since: Option<f64>,
    last_whole: Option<f64>,
    failed_since_then: bool,
}

impl MetricsHealth {
    /// Takes in whether the demand of this tick is known and covers its window.
    pub fn observe(&mut self, snapshot: &Snapshot, policy: &Policy) {
        if !snapshot
            .signals
            .demand
            .usable()
            .is_some_and(|demand| demand.window_covered)
        {
            self.failed_since_then = true;
            return;
        }
        let longest = if self.failed_since_then {
            LOST_SCRAPES * policy.scrape_interval_seconds
        } else {
            LONGEST_PAUSE
        };
        if self.last_whole.is_none_or(|last| snapshot.time - last > longest) {
            self.whole_since = Some(snapshot.time);
        }
        self.last_whole = Some(snapshot.time);
        self.failed_since_then = false;
    }

    /// Whether the metrics were whole during the `seconds` before `time`.
    pub fn covers(&self, time: f64, seconds: f64) -> bool {
        !self.failed_since_then && self.whole_since.is_some_and(|since| time - since >= seconds)
    }
}

/// The share of calls that usually fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct UsualErrors {
    /// The usual share, and when it was last brought up to date.
    level: Option<(f64, f64)>,
}

impl UsualErrors {
    pub fn observe(&mut self, time: f64, outcomes: Option<&Outcomes>) {
        let Some(rate) = outcomes.and_then(Outcomes::failed_share) else {
            return;
        };
        let level = self.level.map_or(rate, |(level, at)| {
            level + newest_share(time - at, ERROR_HALF_LIFE) * (rate - level)
        });
        self.level = Some((level, time));
    }

    /// Whether `rate` is clearly above the usual one: by half of it and one percentage point.
    pub fn exceeded_by(&self, rate: f64) -> bool {
        self.level.is_some_and(|(level, _)| rate > 1.5 * level + 0.01)
    }
}

impl Outcomes {
    /// Calls in all.
    pub(crate) fn count(&self) -> f64 {
        self.ok + self.error + self.shed
    }

    /// The share of calls that failed or were shed; `None` below 20 calls, of which one would be 5 %.
    pub(crate) fn failed_share(&self) -> Option<f64> {
        const FEWEST: f64 = 20.0;
        (self.count() >= FEWEST).then(|| (self.error + self.shed) / self.count())
    }
}
