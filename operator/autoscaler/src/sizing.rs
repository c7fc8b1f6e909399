//! How many replicas a load needs: the least number that meets every requirement.

use crate::erlang::Queue;
use crate::load::Load;
use crate::model::Model;
use crate::numbers::whole_pods;
use crate::{Binding, Histogram, LatencyTarget, Policy, Quantile};

/// Extra demand that is planned for: what grows between a measurement and the pod that answers it.
pub(crate) const HEADROOM: f64 = 1.12;
/// The greatest mean share of its CPU limit that a pod is planned to use.
pub(crate) const MAX_CPU: f64 = 0.7;
/// Waiting may always add this share of the calls a quantile lets be late, so that a target which the calls themselves
/// almost use up does not ask for endless replicas.
const LEAST_WAITING_SHARE: f64 = 0.1;

/// A number of replicas, and the requirement that asked for the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    pub replicas: u32,
    pub binding: Binding,
}

impl Need {
    /// The greater of two; the first one when they are equal.
    fn or_more(self, other: Self) -> Self {
        if other.replicas > self.replicas { other } else { self }
    }
}

/// The law that turns loads into replicas, for one server at one tick.
pub(crate) struct Sizing<'a> {
    policy: &'a Policy,
    model: &'a Model,
    service: Option<ServiceTimes>,
}

impl<'a> Sizing<'a> {
    pub fn new(policy: &'a Policy, model: &'a Model) -> Self {
        let service = model
            .service_seconds
            .map(|mean| ServiceTimes::new(mean, model.service_shares.as_ref()));
        Self { policy, model, service }
    }

    /// Replicas for a measured load with headroom, and for the declared calls per second. `margin` scales both: below
    /// or above one it asks whether the answer would differ if the measurement were a little off.
    pub fn required(&self, load: Load, margin: f64) -> Need {
        let measured = self.for_load(load.scaled(margin * HEADROOM));
        match self.policy.targets.requests_per_second {
            // The declared number does not waver, so only the doubt about the cost of a call (margin above 1) applies.
            Some(calls) => {
                let floor = self.for_load(Load::of_calls(calls, self.model).scaled(margin.max(1.0)));
                measured.or_more(Need {
                    binding: Binding::RequestsPerSecond,
                    ..floor
                })
            }
            None => measured,
        }
    }

    /// The latency targets that no number of replicas can meet.
    pub fn unreachable(&self) -> Vec<Quantile> {
        let Some(service) = &self.service else {
            return Vec::new();
        };
        let targets = self.policy.targets.latency.iter();
        targets
            .filter(|target| !service.can_meet(target))
            .map(|target| target.quantile)
            .collect()
    }

    /// The quantile of the slot-held time alone, in seconds.
    pub fn service_quantile(&self, quantile: Quantile) -> Option<f64> {
        self.model.service_shares.as_ref()?.quantile(quantile.share())
    }

    /// Calls per second that `replicas` can take while every requirement holds; `None` while the cost of a call is
    /// unknown.
    pub fn capacity(&self, replicas: u32) -> Option<f64> {
        const HALVINGS: u32 = 30;
        let service_seconds = self.model.service_seconds?;
        let most = f64::from(replicas) * self.slots() * self.policy.balancing.max_utilization() / service_seconds;
        let fits = |calls: f64| self.for_load(Load::of_calls(calls, self.model)).replicas <= replicas;
        if fits(most) {
            return Some(most);
        }
        let (mut low, mut high) = (0.0, most);
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(low, high);
            if fits(middle) { low = middle } else { high = middle }
        }
        Some(low)
    }

    fn slots(&self) -> f64 {
        f64::from(self.policy.concurrency.max(1))
    }

    fn for_load(&self, load: Load) -> Need {
        let by_slots = load.busy_slots / (self.slots() * self.policy.balancing.max_utilization());
        let least = Need {
            replicas: whole_pods(by_slots).max(1),
            binding: Binding::Utilization,
        };
        let by_cpu = self
            .policy
            .cpu_limit_cores
            .filter(|limit| *limit > 0.0)
            .map_or(0, |limit| whole_pods(load.cpu_cores / (MAX_CPU * limit)));
        let need = least.or_more(Need {
            replicas: by_cpu,
            binding: Binding::Cpu,
        });
        let Some(service) = &self.service else { return need };
        self.policy
            .targets
            .latency
            .iter()
            .filter(|target| service.can_meet(target))
            .fold(need, |need, target| {
                let replicas = self.for_latency(load.busy_slots, service, target, need.replicas);
                need.or_more(Need {
                    replicas,
                    binding: Binding::Latency(target.quantile),
                })
            })
    }

    /// The least number from `least` on with which few enough calls are late.
    fn for_latency(&self, erlangs: f64, service: &ServiceTimes, target: &LatencyTarget, least: u32) -> u32 {
        let meets = |replicas: u32| {
            let slots = replicas.saturating_mul(self.policy.concurrency.max(1));
            let queue = Queue::new(slots, erlangs, service.mean_seconds, service.variation);
            service.late_by_waiting(target, queue) <= service.allowance(target)
        };
        if meets(least) {
            return least;
        }
        // Waits vanish well before four times the slots that are busy; bisection over what is in between.
        let (mut fails, mut enough) = (least, least.saturating_mul(4).saturating_add(8));
        while enough - fails > 1 {
            let middle = fails + (enough - fails) / 2;
            if meets(middle) { enough = middle } else { fails = middle }
        }
        enough
    }
}

/// How long calls hold their slot.
struct ServiceTimes {
    mean_seconds: f64,
    /// Squared coefficient of variation.
    variation: f64,
    /// Durations with the share of the calls that take so long.
    parts: Vec<(f64, f64)>,
    /// Share of the calls beyond every bucket.
    beyond: f64,
}

impl ServiceTimes {
    /// Without a distribution every call is taken to last the mean time, and waits are those of exponential times.
    fn new(mean_seconds: f64, shares: Option<&Histogram>) -> Self {
        let Some(shares) = shares else {
            return Self {
                mean_seconds,
                variation: 1.0,
                parts: vec![(mean_seconds, 1.0)],
                beyond: 0.0,
            };
        };
        let parts: Vec<(f64, f64)> = shares
            .with_lower_bounds()
            .map(|(lower, bucket)| (f64::midpoint(lower, bucket.upper_seconds), bucket.count))
            .collect();
        let mean: f64 = parts.iter().map(|(seconds, share)| seconds * share).sum();
        let square: f64 = parts.iter().map(|(seconds, share)| seconds * seconds * share).sum();
        let variation = if mean > 0.0 {
            (square / (mean * mean) - 1.0).max(0.0)
        } else {
            1.0
        };
        Self {
            mean_seconds,
            variation,
            parts,
            beyond: shares.overflow,
        }
    }

    /// Share of the calls that are late without any wait.
    fn late_alone(&self, target: &LatencyTarget) -> f64 {
        let late = self.parts.iter().filter(|(seconds, _)| *seconds > target.bound_seconds);
        late.map(|(_, share)| share).sum::<f64>() + self.beyond
    }

    fn can_meet(&self, target: &LatencyTarget) -> bool {
        self.late_alone(target) <= 1.0 - target.quantile.share()
    }

    /// Share of the calls that are late only because they waited: each duration with what is left of the bound.
    fn late_by_waiting(&self, target: &LatencyTarget, queue: Queue) -> f64 {
        let on_time = self
            .parts
            .iter()
            .filter(|(seconds, share)| *seconds <= target.bound_seconds && *share > 0.0);
        on_time
            .map(|(seconds, share)| share * queue.exceeds(target.bound_seconds - seconds))
            .sum()
    }

    /// Share of the calls that waiting may make late.
    fn allowance(&self, target: &LatencyTarget) -> f64 {
        let allowed = 1.0 - target.quantile.share();
        (allowed - self.late_alone(target)).max(LEAST_WAITING_SHARE * allowed)
    }
}
