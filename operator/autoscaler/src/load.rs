//! How much work is asked for.

use crate::model::Model;
use crate::{Demand, Work};
use serde::{Deserialize, Serialize};

/// Offered calls are believed up to this multiple of the admitted ones: beyond that they are retries of shed calls.
const BELIEVED_RETRIES: f64 = 2.0;
/// Standard deviations of chance that are taken off a recent rate before it counts.
const CHANCE: f64 = 2.0;
/// A jump by more than this factor with slots no busier than [`FLAT`] times before is an outlier until it lasts.
const OUTLIER: f64 = 3.0;
/// See [`OUTLIER`].
const FLAT: f64 = 1.5;

/// Work that is asked for, shed calls included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Load {
    /// Calls per second.
    pub calls_per_second: f64,
    /// Slots it keeps busy on average (erlangs).
    pub busy_slots: f64,
    /// CPU cores it uses.
    pub cpu_cores: f64,
}

impl Load {
    /// The load that `demand` shows: the mean over the window, or the recent one where it is higher by more than
    /// chance. So a step counts within two scrapes, and noise does not.
    pub fn of(demand: &Demand, model: &Model, ignore_recent: bool) -> Self {
        let whole = Self::of_span(&demand.window, model);
        if ignore_recent {
            return whole;
        }
        let recent = Self::of_span(&demand.recent, model).scaled(beyond_chance(&demand.recent));
        Self {
            calls_per_second: whole.calls_per_second.max(recent.calls_per_second),
            busy_slots: whole.busy_slots.max(recent.busy_slots),
            cpu_cores: whole.cpu_cores.max(recent.cpu_cores),
        }
    }

    /// A number of calls per second at the cost that is known for one.
    pub fn of_calls(calls_per_second: f64, model: &Model) -> Self {
        Self {
            calls_per_second,
            busy_slots: calls_per_second * model.service_seconds.unwrap_or_default(),
            cpu_cores: calls_per_second * model.cpu_seconds.unwrap_or_default(),
        }
    }

    /// Offered calls at the remembered cost, and never less than what is seen to be busy: the first knows of shed
    /// calls, the second of calls that became slower or have not ended.
    fn of_span(work: &Work, model: &Model) -> Self {
        let believed = work.offered_per_second.min(BELIEVED_RETRIES * work.admitted_per_second);
        let asked = Self::of_calls(believed, model);
        Self {
            calls_per_second: believed,
            busy_slots: asked.busy_slots.max(work.busy_slots),
            cpu_cores: asked.cpu_cores.max(work.cpu_cores.unwrap_or_default()),
        }
    }

    /// Every part times `factor`.
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            calls_per_second: self.calls_per_second * factor,
            busy_slots: self.busy_slots * factor,
            cpu_cores: self.cpu_cores * factor,
        }
    }
}

/// What is left of a recent rate when the variation of a Poisson count is taken off: 1 for many calls, 0 for a few.
fn beyond_chance(work: &Work) -> f64 {
    let calls = work.offered_per_second * work.seconds;
    if calls > 0.0 {
        (1.0 - CHANCE / calls.sqrt()).max(0.0)
    } else {
        0.0
    }
}

/// Whether the recent rate jumped while the slots stayed as busy as before, which no real load does.
pub(crate) fn is_outlier(demand: &Demand) -> bool {
    let (window, recent) = (&demand.window, &demand.recent);
    recent.offered_per_second > OUTLIER * window.offered_per_second && recent.busy_slots <= FLAT * window.busy_slots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(calls_per_second: f64, seconds: f64) -> Work {
        Work {
            seconds,
            offered_per_second: calls_per_second,
            admitted_per_second: calls_per_second,
            busy_slots: 0.1 * calls_per_second,
            cpu_cores: None,
        }
    }

    /// Every lucky ten seconds would else buy a pod that three minutes later goes again.
    #[test]
    fn a_recent_rate_counts_only_beyond_chance() {
        let cases = [
            ("no more than the window", 20.0, 20.0, 20.0),
            ("220 calls where 200 are usual are chance", 20.0, 22.0, 20.0),
            (
                "1000 calls are not, but for twice the root of their number",
                20.0,
                100.0,
                93.7,
            ),
            ("a single call is always chance", 0.0, 0.1, 0.0),
            ("fewer than the window", 20.0, 5.0, 20.0),
        ];
        for (name, window, recent, expected) in cases {
            let demand = Demand {
                window: work(window, 30.0),
                recent: work(recent, 10.0),
                window_covered: true,
            };
            let load = Load::of(&demand, &Model::default(), false);
            assert!((load.calls_per_second - expected).abs() < 0.1, "{name}: {load:?}");
            assert!((load.busy_slots - 0.1 * expected).abs() < 0.01, "{name}: {load:?}");
        }
    }
}
