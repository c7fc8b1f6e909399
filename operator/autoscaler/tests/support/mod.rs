//! What the tests share: snapshots of a server whose calls all cost the same, and a small closed loop.
#![allow(dead_code, reason = "each test binary uses its own part of this module")]

pub mod server;

use mcpscale_autoscaler::{
    Bucket, Demand, Histogram, LatencyTarget, Outcomes, Policy, Quantile, Signal, Signals, Snapshot, State, Targets,
    Work, decide,
};

/// Seconds a call holds its slot in [`snapshot`].
pub const SERVICE_SECONDS: f64 = 0.1;
/// Seconds between two ticks.
pub const TICK: f64 = 5.0;
/// The default down window in seconds.
pub const DOWN_WINDOW: f64 = 180.0;

/// Eight slots a pod, two to twenty replicas, no targets.
pub fn policy() -> Policy {
    Policy {
        min_replicas: 2,
        max_replicas: 20,
        concurrency: 8,
        ..Policy::default()
    }
}

/// [`policy`] with a bound on the 95th percentile.
pub fn policy_p95(bound_seconds: f64) -> Policy {
    let latency = vec![LatencyTarget {
        quantile: Quantile::P95,
        bound_seconds,
    }];
    Policy {
        targets: Targets {
            latency,
            ..Targets::default()
        },
        ..policy()
    }
}

/// Work of `calls_per_second`, all of it admitted.
pub fn work(calls_per_second: f64, seconds: f64) -> Work {
    Work {
        seconds,
        offered_per_second: calls_per_second,
        admitted_per_second: calls_per_second,
        busy_slots: calls_per_second * SERVICE_SECONDS,
        cpu_cores: None,
    }
}

pub fn demand(calls_per_second: f64) -> Demand {
    Demand {
        window: work(calls_per_second, 30.0),
        recent: work(calls_per_second, 10.0),
        window_covered: true,
    }
}

/// Calls that all take between 50 and 100 ms.
pub fn quick_calls(count: f64) -> Histogram {
    let bucket = |upper_seconds, count| Bucket { upper_seconds, count };
    Histogram {
        buckets: vec![bucket(0.05, 0.0), bucket(0.1, count), bucket(1.0, 0.0)],
        overflow: 0.0,
    }
}

/// Every signal fresh and complete.
pub fn signals(calls_per_second: f64, ready: u32) -> Signals {
    let calls = calls_per_second * 60.0;
    Signals {
        demand: Signal::fresh(demand(calls_per_second), 2.0, ready),
        service: Signal::fresh(quick_calls(calls), 2.0, ready),
        latency: Signal::fresh(quick_calls(calls), 2.0, ready),
        latency_long: Signal::fresh(quick_calls(5.0 * calls), 2.0, ready),
        outcomes: Signal::fresh(
            Outcomes {
                ok: calls,
                ..Outcomes::default()
            },
            2.0,
            ready,
        ),
    }
}

/// A healthy server with `replicas` ready pods under steady load.
pub fn snapshot(time: f64, replicas: u32, calls_per_second: f64) -> Snapshot {
    Snapshot {
        time,
        replicas,
        ready: replicas,
        rollout: false,
        signals: signals(calls_per_second, replicas),
    }
}

/// A state that saw this healthy server for longer than the down window, and the time it ends at.
pub fn settled(replicas: u32, calls_per_second: f64, policy: &Policy) -> (State, f64) {
    let mut state = State::default();
    let mut time = 0.0;
    while time <= DOWN_WINDOW + TICK {
        state = decide(&snapshot(time, replicas, calls_per_second), &state, policy).1;
        time += TICK;
    }
    (state, time)
}

/// A server of ten replicas that was busy and now idles, long enough for a decrease: what would lower it?
pub fn idle_since_long(policy: &Policy) -> (State, Snapshot) {
    let (state, time) = settled(10, 20.0, policy);
    (state, snapshot(time, 10, 20.0))
}
