//! The decision itself.

use crate::behavior::growth_limit;
use crate::decision::Limit;
use crate::explain::{Facts, explain};
use crate::load::{Load, is_outlier};
use crate::sizing::{Need, Sizing};
use crate::veto::{against_decrease, unusable};
use crate::window::Needed;
use crate::{Decision, Demand, Policy, Reason, Snapshot, State};

/// How far off a measurement may be before the replica count follows it: half of the headroom.
const DEADBAND: f64 = 1.05;
/// Turns of direction within an hour from which on every further one doubles the down window.
const TOLERATED_REVERSALS: usize = 4;
/// Seconds of the longest down window that doubling leads to.
const LONGEST_WINDOW: f64 = 1_800.0;
const HOUR: f64 = 3_600.0;

/// Decides how many replicas there should be.
///
/// Pure and deterministic: equal arguments give equal results. Acting on the result is the caller's part; a caller that
/// only recommends passes the replicas as they are at the next tick, too. `State` is to be carried from call to call
/// and [`Snapshot::time`] must not go back.
///
/// The replicas are the least number that serves the measured work with headroom, within the latency targets and the
/// planned utilization. They rise at once, within the limits on growth; they fall to the greatest need of the down
/// window in the steps of [`crate::Behavior`], and only on fresh and complete data. Declared bounds hold whatever is
/// measured.
#[must_use]
pub fn decide(snapshot: &Snapshot, state: &State, policy: &Policy) -> (Decision, State) {
    let mut next = state.clone();
    next.changes.observe(snapshot.time, snapshot.replicas);
    next.health.observe(snapshot, policy);
    next.model.learn(snapshot.time, &snapshot.signals, policy);
    let tick = Tick::new(snapshot, policy);
    let decision = match usable_demand(snapshot) {
        Ok(demand) => tick.on_demand(demand, &mut next),
        Err(reason) => tick.without_demand(reason),
    };
    next.errors.observe(snapshot.time, snapshot.signals.outcomes.usable());
    (decision, next)
}

/// The demand, or why nothing is known of it.
fn usable_demand(snapshot: &Snapshot) -> Result<&Demand, Reason> {
    if snapshot.ready == 0 {
        return Err(Reason::NoReadyPods);
    }
    let demand = &snapshot.signals.demand;
    demand
        .usable()
        .ok_or_else(|| unusable(demand.state).unwrap_or(Reason::MetricsMissing))
}

/// The fixed facts of one call.
struct Tick<'a> {
    snapshot: &'a Snapshot,
    policy: &'a Policy,
    min: u32,
    max: u32,
    /// The replicas there are, brought within the declared bounds: what every limit starts from.
    base: u32,
}

/// Where the replicas go from [`Tick::base`].
#[derive(Clone, Copy, Debug)]
struct Step {
    to: u32,
    reason: Reason,
    limited_by: Option<Limit>,
}

impl<'a> Tick<'a> {
    fn new(snapshot: &'a Snapshot, policy: &'a Policy) -> Self {
        let min = policy.min_replicas.max(1);
        let max = policy.max_replicas.max(min);
        Self {
            snapshot,
            policy,
            min,
            max,
            base: snapshot.replicas.clamp(min, max),
        }
    }

    fn without_demand(&self, reason: Reason) -> Decision {
        self.finish(self.stay(reason), None)
    }

    fn on_demand(&self, demand: &Demand, next: &mut State) -> Decision {
        let time = self.snapshot.time;
        let doubted = is_outlier(demand) && !next.doubted;
        next.doubted = doubted;
        let model = next.model.or_measured(demand);
        let sizing = Sizing::new(self.policy, &model);
        let load = Load::of(demand, &model, doubted);
        let need = sizing.required(load, 1.0);
        let needed = self.needed(load, need, &sizing);
        next.window
            .push(needed, LONGEST_WINDOW.max(self.policy.behavior.down_window()));

        let down_window = self.down_window(next);
        let lowest = next
            .window
            .greatest(time, down_window, |needed| needed.at_most)
            .unwrap_or(self.base);
        let at_least = next
            .window
            .least(time, self.policy.behavior.up_window(), |needed| needed.at_least);
        let mut step = if at_least.is_some_and(|at_least| at_least > self.base) {
            self.raise(next)
        } else if lowest.max(self.min) >= self.base {
            let fewer_now = needed.at_most.max(self.min) < self.base;
            self.stay(if fewer_now {
                Reason::WaitingForWindow
            } else {
                Reason::Steady
            })
        } else {
            match against_decrease(self.snapshot, next, self.policy, &sizing) {
                Some(reason) => self.stay(reason),
                None => self.lower(lowest, next),
            }
        };
        step.limited_by = step.limited_by.or_else(|| self.bound_in_force(step.to, lowest, next));
        let facts = Facts {
            load,
            need,
            lowest,
            down_window,
            unreachable: sizing.unreachable(),
        };
        self.finish(step, Some(facts))
    }

    /// The need of this tick, with what it would be if the measurement were a little off.
    fn needed(&self, load: Load, need: Need, sizing: &Sizing<'_>) -> Needed {
        // A pod without data is taken as idle for an increase, and as full for a decrease.
        let silent = self.snapshot.signals.demand.silent();
        Needed {
            time: self.snapshot.time,
            replicas: need.replicas,
            at_least: sizing.required(load, 1.0 / DEADBAND).replicas,
            at_most: sizing.required(load, DEADBAND).replicas.saturating_add(silent),
        }
    }

    /// The down window, doubled for every turn of direction beyond those that load explains.
    fn down_window(&self, state: &State) -> f64 {
        let declared = self.policy.behavior.down_window();
        let beyond = state
            .changes
            .reversals(self.snapshot.time, HOUR)
            .saturating_sub(TOLERATED_REVERSALS);
        let doubled = declared * f64::from(u32::try_from(beyond).unwrap_or(u32::MAX)).exp2();
        doubled.min(LONGEST_WINDOW.max(declared))
    }

    fn raise(&self, state: &State) -> Step {
        let time = self.snapshot.time;
        let behavior = &self.policy.behavior;
        let wanted = state
            .window
            .least(time, behavior.up_window(), |needed| needed.replicas)
            .unwrap_or(self.base);
        let growth = growth_limit(self.snapshot.replicas, self.snapshot.ready, &state.changes, time);
        let declared = behavior
            .most(self.snapshot.replicas, &state.changes, time)
            .unwrap_or(u32::MAX);
        let limits = [
            (self.max, Limit::MaxReplicas),
            (growth, Limit::GrowthLimit),
            (declared, Limit::ScaleUpPolicy),
        ];
        let (allowed, limit) = limits.into_iter().fold((u32::MAX, None), |(least, by), (most, limit)| {
            if most < least { (most, Some(limit)) } else { (least, by) }
        });
        let to = wanted.min(allowed).max(self.base);
        let reason = if to > self.base {
            Reason::DemandRose
        } else {
            Reason::ScaleUpLimited
        };
        Step {
            to,
            reason,
            limited_by: limit.filter(|_| wanted > to),
        }
    }

    fn lower(&self, lowest: u32, state: &State) -> Step {
        let wanted = lowest.max(self.min);
        let allowed = self
            .policy
            .behavior
            .fewest(self.snapshot.replicas, &state.changes, self.snapshot.time);
        let to = wanted.max(allowed).min(self.base);
        let reason = if to < self.base {
            Reason::DemandFell
        } else {
            Reason::ScaleDownLimited
        };
        Step {
            to,
            reason,
            limited_by: (to > wanted).then_some(Limit::ScaleDownPolicy),
        }
    }

    /// The declared bound that keeps the replicas where they are, judged over the whole down window: one noisy tick
    /// neither sets nor clears it.
    fn bound_in_force(&self, to: u32, lowest: u32, state: &State) -> Option<Limit> {
        let window = self.down_window(state);
        let most = state
            .window
            .greatest(self.snapshot.time, window, |needed| needed.replicas);
        if to == self.max && most.is_some_and(|most| most > self.max) {
            Some(Limit::MaxReplicas)
        } else if to == self.min && lowest < self.min {
            Some(Limit::MinReplicas)
        } else {
            None
        }
    }

    fn stay(&self, reason: Reason) -> Step {
        Step {
            to: self.base,
            reason,
            limited_by: None,
        }
    }

    /// A change that the declared bounds alone demand is explained by them.
    fn finish(&self, step: Step, facts: Option<Facts>) -> Decision {
        let from = self.snapshot.replicas;
        let reason = match step.to.cmp(&self.base) {
            std::cmp::Ordering::Equal if from < self.min => Reason::BelowMinReplicas,
            std::cmp::Ordering::Equal if from > self.max => Reason::AboveMaxReplicas,
            _ => step.reason,
        };
        let message = explain(
            from,
            step.to,
            reason,
            step.limited_by,
            facts.as_ref(),
            self.snapshot,
            self.policy,
        );
        let (binding, unreachable) = facts.map_or((None, Vec::new()), |facts| {
            (Some(facts.need.binding), facts.unreachable)
        });
        Decision {
            from,
            to: step.to,
            reason,
            limited_by: step.limited_by,
            binding,
            unreachable,
            message,
        }
    }
}
