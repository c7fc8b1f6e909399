//! What is learned about the cost of one call, and kept while it cannot be measured.

use crate::numbers::newest_share;
use crate::{Demand, Histogram, Policy, Signals, Work};
use serde::{Deserialize, Serialize};

/// Above this share of busy slots, calls slow each other down: the service time is not learned there.
const LEARNING_OCCUPANCY: f64 = 0.8;
/// Above this share of the CPU limit, the kernel throttles the pod and service times are those of the throttling.
const THROTTLED_CPU: f64 = 0.9;
/// Below this share of the CPU limit, what a pod uses is mostly idle overhead and says little about a call.
const IDLE_CPU: f64 = 0.05;
/// Calls in the window from which a mean means something.
const LEARNING_CALLS: f64 = 10.0;
/// Calls from which a distribution means something.
const LEARNING_DISTRIBUTION: f64 = 50.0;
/// Seconds after which half of what was learned is forgotten.
const HALF_LIFE: f64 = 120.0;

/// The cost of one call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Model {
    /// Seconds a call holds its slot when the server is not overloaded (S0).
    pub service_seconds: Option<f64>,
    /// CPU seconds of a call.
    pub cpu_seconds: Option<f64>,
    /// Distribution of the slot-held time, as shares that add up to one.
    pub service_shares: Option<Histogram>,
    /// When anything was last learned.
    learned_at: Option<f64>,
}

impl Model {
    /// Takes in what the signals of `time` show about the cost of a call, as far as it can be told from them.
    pub fn learn(&mut self, time: f64, signals: &Signals, policy: &Policy) {
        let Some(demand) = signals.demand.usable() else { return };
        let pods = f64::from(signals.demand.reporting);
        let share = self.learned_at.map_or(1.0, |at| newest_share(time - at, HALF_LIFE));
        let calls = demand.window.admitted_per_second * demand.window.seconds;
        if calls < LEARNING_CALLS {
            return;
        }
        self.learned_at = Some(time);
        let slots = pods * f64::from(policy.concurrency.max(1));
        let cpu_limit = policy.cpu_limit_cores.map(|cores| cores * pods);
        if !overloaded(demand, slots, cpu_limit) {
            blend(&mut self.service_seconds, measured_service(&demand.window), share);
            let distribution = signals
                .service
                .usable()
                .filter(|calls| calls.count() >= LEARNING_DISTRIBUTION);
            self.learn_distribution(distribution.and_then(Histogram::as_shares), share);
        }
        blend(&mut self.cpu_seconds, measured_cpu(&demand.window, cpu_limit), share);
    }

    /// The cost to reckon with now: a server that was overloaded ever since the operator started has nothing learned,
    /// and then what it shows is better than nothing.
    pub fn or_measured(&self, demand: &Demand) -> Self {
        let mut model = self.clone();
        if model.service_seconds.is_none() && demand.window.admitted_per_second * demand.window.seconds >= 1.0 {
            model.service_seconds = measured_service(&demand.window);
        }
        model
    }

    fn learn_distribution(&mut self, newest: Option<Histogram>, share: f64) {
        let Some(newest) = newest else { return };
        self.service_shares = Some(match self.service_shares.take() {
            Some(known) => known.mixed_with(&newest, share),
            None => newest,
        });
    }
}

fn overloaded(demand: &Demand, slots: f64, cpu_limit: Option<f64>) -> bool {
    let busy = demand.window.busy_slots.max(demand.recent.busy_slots);
    let throttled = demand
        .window
        .cpu_cores
        .zip(cpu_limit)
        .is_some_and(|(used, limit)| used > THROTTLED_CPU * limit);
    busy >= LEARNING_OCCUPANCY * slots || throttled
}

/// Little's law: busy slots over calls per second. It counts unfinished calls, which a mean of finished ones would not.
fn measured_service(work: &Work) -> Option<f64> {
    let seconds = work.busy_slots / work.admitted_per_second;
    (seconds > 0.0 && seconds.is_finite()).then_some(seconds)
}

fn measured_cpu(work: &Work, cpu_limit: Option<f64>) -> Option<f64> {
    let used = work
        .cpu_cores
        .filter(|used| cpu_limit.is_some_and(|limit| *used > IDLE_CPU * limit))?;
    let seconds = used / work.admitted_per_second;
    seconds.is_finite().then_some(seconds)
}

fn blend(known: &mut Option<f64>, newest: Option<f64>, share: f64) {
    let Some(newest) = newest else { return };
    *known = Some(known.map_or(newest, |known| known + share * (newest - known)));
}
