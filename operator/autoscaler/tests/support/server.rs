//! A server in a closed loop with the decision: calls flow into bounded queues before slots, pods take time to start,
//! counters are scraped every five seconds. Deterministic; noise comes from a seeded generator.
#![expect(
    clippy::expect_used,
    reason = "a model of a few pods that cannot count them must stop the test"
)]

use super::TICK;
use mcpscale_autoscaler::{
    Bucket, Decision, Demand, Histogram, Outcomes, Policy, Signal, Signals, Snapshot, State, Work, decide,
};
use std::collections::VecDeque;

/// Seconds of one step of the model.
const STEP: f64 = 0.5;
/// Calls that may wait for each slot before calls are shed.
const QUEUE_PER_SLOT: f64 = 2.0;

/// Counters of all pods together, as one scrape sees them.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    time: f64,
    offered: f64,
    shed: f64,
    busy_seconds: f64,
}

/// The loop of server and decision.
pub struct Loop {
    pub time: f64,
    pub policy: Policy,
    pub service_seconds: f64,
    pub startup_seconds: f64,
    /// Variance over mean of the number of calls in a step; 0 for a smooth flow, 1 for Poisson arrivals.
    pub dispersion: f64,
    /// The metrics source answers.
    pub metrics: bool,
    /// Calls in slots or queue.
    in_system: f64,
    counters: Counters,
    scrapes: VecDeque<Counters>,
    ready: u32,
    starting: Vec<f64>,
    state: State,
    random: u64,
}

/// What one tick decided.
#[derive(Clone, Debug)]
pub struct Tick {
    pub time: f64,
    pub ready: u32,
    pub decision: Decision,
}

impl Loop {
    pub fn new(policy: Policy, replicas: u32, seed: u64) -> Self {
        Self {
            time: 0.0,
            policy,
            service_seconds: 0.1,
            startup_seconds: 20.0,
            dispersion: 0.0,
            metrics: true,
            in_system: 0.0,
            counters: Counters::default(),
            scrapes: VecDeque::from([Counters::default()]),
            ready: replicas,
            starting: Vec::new(),
            state: State::default(),
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        }
    }

    /// Runs for `seconds` at a mean of `calls_per_second` and returns what every tick decided.
    pub fn run(&mut self, seconds: f64, calls_per_second: f64) -> Vec<Tick> {
        let end = self.time + seconds;
        let mut ticks = Vec::new();
        while self.time < end - STEP / 2.0 {
            self.flow(calls_per_second);
            if (self.time / TICK).fract().abs() < 1e-9 {
                ticks.push(self.tick());
            }
        }
        ticks
    }

    fn flow(&mut self, calls_per_second: f64) {
        self.time += STEP;
        let before = self.starting.len();
        let time = self.time;
        self.starting.retain(|ready_at| *ready_at > time);
        self.ready += u32::try_from(before - self.starting.len()).expect("few pods");

        let slots = f64::from(self.ready * self.policy.concurrency);
        let mean = calls_per_second * STEP;
        let offered = (mean + self.normal() * (self.dispersion * mean).sqrt()).max(0.0);
        let busy = self.busy_during(offered, slots);
        self.in_system = self.in_system + offered - busy * STEP / self.service_seconds;
        let shed = (self.in_system - slots * (1.0 + QUEUE_PER_SLOT)).max(0.0);
        self.in_system = (self.in_system - shed).max(0.0);
        self.counters.offered += offered;
        self.counters.shed += shed;
        self.counters.busy_seconds += busy * STEP;
    }

    /// Mean busy slots within a step: work that is there and that arrives, as far as the slots go.
    fn busy_during(&self, offered: f64, slots: f64) -> f64 {
        ((self.in_system + offered) * self.service_seconds / STEP).min(slots)
    }

    fn tick(&mut self) -> Tick {
        self.counters.time = self.time;
        self.scrapes.push_back(self.counters);
        while self.scrapes.len() > 7 {
            self.scrapes.pop_front();
        }
        let replicas = self.ready + u32::try_from(self.starting.len()).expect("few pods");
        let signals = if self.metrics {
            self.signals()
        } else {
            Signals::missing(self.ready)
        };
        let snapshot = Snapshot {
            time: self.time,
            replicas,
            ready: self.ready,
            rollout: false,
            signals,
        };
        let (decision, state) = decide(&snapshot, &self.state, &self.policy);
        self.state = state;
        self.actuate(replicas, decision.to);
        Tick {
            time: self.time,
            ready: self.ready,
            decision,
        }
    }

    fn actuate(&mut self, from: u32, to: u32) {
        for _ in from..to {
            self.starting.push(self.time + self.startup_seconds);
        }
        for _ in to..from {
            if self.starting.pop().is_none() {
                self.ready -= 1;
            }
        }
    }

    fn signals(&self) -> Signals {
        let window = self.work_since(*self.scrapes.front().expect("scraped"));
        let recent = self.work_since(self.scrapes[self.scrapes.len().saturating_sub(3)]);
        let demand = Demand {
            window,
            recent,
            window_covered: self.scrapes.len() == 7,
        };
        let answered = (window.admitted_per_second * 60.0).max(0.0);
        let shed = (window.offered_per_second - window.admitted_per_second) * 60.0;
        let slots = f64::from(self.ready * self.policy.concurrency);
        let waiting = (self.in_system - slots).max(0.0) / slots.max(1.0) * self.service_seconds;
        let ready = self.ready;
        Signals {
            demand: Signal::fresh(demand, 0.0, ready),
            service: Signal::fresh(self.exponential(answered, 0.0), 0.0, ready),
            latency: Signal::fresh(self.exponential(answered, waiting), 0.0, ready),
            latency_long: Signal::fresh(self.exponential(5.0 * answered, waiting), 0.0, ready),
            outcomes: Signal::fresh(
                Outcomes {
                    ok: answered,
                    error: 0.0,
                    shed,
                },
                0.0,
                ready,
            ),
        }
    }

    fn work_since(&self, earlier: Counters) -> Work {
        let seconds = self.counters.time - earlier.time;
        let offered = (self.counters.offered - earlier.offered) / seconds;
        Work {
            seconds,
            offered_per_second: offered,
            admitted_per_second: offered - (self.counters.shed - earlier.shed) / seconds,
            busy_slots: (self.counters.busy_seconds - earlier.busy_seconds) / seconds,
            cpu_cores: None,
        }
    }

    /// Exponential times of the mean service time after a wait of `waiting` seconds.
    fn exponential(&self, calls: f64, waiting: f64) -> Histogram {
        let below = |seconds: f64| 1.0 - (-(seconds - waiting).max(0.0) / self.service_seconds).exp();
        let bounds: Vec<f64> = (0..60).map(|index| 0.001 * 1.2_f64.powi(index)).collect();
        let mut last = 0.0;
        let buckets = bounds.iter().map(|upper| {
            let share = below(*upper) - last;
            last = below(*upper);
            Bucket {
                upper_seconds: *upper,
                count: share * calls,
            }
        });
        let buckets = buckets.collect();
        Histogram {
            buckets,
            overflow: (1.0 - last) * calls,
        }
    }

    /// A standard normal number, as the sum of twelve uniform ones.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    fn uniform(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        f64::from(u32::try_from(self.random >> 32).expect("32 bits")) / f64::from(u32::MAX)
    }
}

/// The most turns of direction within any `seconds`.
pub fn most_reversals(ticks: &[Tick], seconds: f64) -> usize {
    let changes: Vec<(f64, bool)> = ticks
        .iter()
        .filter(|tick| tick.decision.changes())
        .map(|tick| (tick.time, tick.decision.to > tick.decision.from))
        .collect();
    let turns: Vec<f64> = changes
        .windows(2)
        .filter(|pair| pair[0].1 != pair[1].1)
        .map(|pair| pair[1].0)
        .collect();
    turns
        .iter()
        .map(|first| {
            turns
                .iter()
                .filter(|at| **at >= *first && **at < first + seconds)
                .count()
        })
        .max()
        .unwrap_or(0)
}
