//! Situations that have taken pods away, or bought far too many, from users of other scalers: R1 to R20 of the design's
//! reference, as far as they concern replicas, and the rules of its safety table.

mod support;

use mcpscale_autoscaler::{Demand, Outcomes, Reason, Signal, SignalState, Signals, Snapshot, State, Work, decide};
use support::{TICK, demand, idle_since_long, policy, policy_p95, quick_calls, settled, signals, snapshot, work};

/// Without this, every "nothing is lowered" below would be true of a scaler that never lowers anything.
#[test]
fn an_idle_healthy_server_is_lowered() {
    let policy = policy_p95(0.4);
    let (state, idle) = idle_since_long(&policy);
    let decision = decide(&idle, &state, &policy).0;
    assert_eq!(
        (decision.to, decision.reason),
        (9, Reason::DemandFell),
        "{}",
        decision.message
    );
}

/// Each case spoils one thing about a server that would otherwise be lowered.
#[test]
fn nothing_but_fresh_and_complete_data_lowers_anything() {
    type Spoil = fn(&mut Snapshot);
    let cases: [(&str, Spoil, Reason); 14] = [
        (
            "R1 no answer from the source",
            |s| s.signals = Signals::missing(10),
            Reason::MetricsMissing,
        ),
        (
            "R2 empty or NaN demand",
            |s| s.signals.demand = gone(SignalState::Invalid),
            Reason::MetricsInvalid,
        ),
        (
            "stale demand",
            |s| s.signals.demand = gone(SignalState::Stale),
            Reason::MetricsStale,
        ),
        (
            "R4 one of several signals dead: outcomes",
            |s| s.signals.outcomes = gone(SignalState::Missing),
            Reason::MetricsMissing,
        ),
        (
            "R4 one of several signals dead: latency",
            |s| s.signals.latency = gone(SignalState::Stale),
            Reason::MetricsStale,
        ),
        (
            "one pod without demand",
            |s| s.signals.demand.reporting = 9,
            Reason::MetricsPartial,
        ),
        (
            "one pod without latency",
            |s| s.signals.latency.reporting = 9,
            Reason::MetricsPartial,
        ),
        (
            "R3 rates over a part of the window",
            |s| uncovered(s),
            Reason::MetricsRecovering,
        ),
        ("R7 rollout", |s| s.rollout = true, Reason::RolloutInProgress),
        ("no pod is ready", |s| s.ready = 0, Reason::NoReadyPods),
        (
            "rising errors",
            |s| s.signals.outcomes = outcomes(90.0, 10.0, 0.0),
            Reason::ErrorRateHigh,
        ),
        (
            "shed calls",
            |s| s.signals.outcomes = outcomes(90.0, 0.0, 10.0),
            Reason::ErrorRateHigh,
        ),
        (
            "p95 above 90 % of its bound",
            |s| slow(s, 0.39),
            Reason::LatencyNearTarget,
        ),
        (
            "R13 more load again",
            |s| s.signals = signals(600.0, 10),
            Reason::Steady,
        ),
    ];
    let policy = policy_p95(0.4);
    for (name, spoil, expected) in cases {
        let (state, mut spoiled) = idle_since_long(&policy);
        spoil(&mut spoiled);
        let decision = decide(&spoiled, &state, &policy).0;
        assert_eq!(
            (decision.to, decision.reason),
            (10, expected),
            "{name}: {}",
            decision.message
        );
    }
}

fn gone<T>(state: SignalState) -> Signal<T> {
    Signal::without_value(state, Some(20.0), 10)
}

fn uncovered(snapshot: &mut Snapshot) {
    let mut partly = demand(20.0);
    partly.window_covered = false;
    snapshot.signals.demand = Signal::fresh(partly, 1.0, 10);
}

fn outcomes(ok: f64, error: f64, shed: f64) -> Signal<Outcomes> {
    Signal::fresh(Outcomes { ok, error, shed }, 1.0, 10)
}

/// Calls that take up to `seconds`, far beyond the time in the slot: they queue.
fn slow(snapshot: &mut Snapshot, seconds: f64) {
    let mut queued = quick_calls(1_200.0);
    queued.buckets[1].upper_seconds = seconds;
    queued.buckets[0].upper_seconds = seconds - 0.001;
    snapshot.signals.latency = Signal::fresh(queued, 1.0, 10);
}

/// After an outage and after a restart of the operator, the first decrease waits for one whole window.
#[test]
fn recovery_takes_a_whole_window() {
    let policy = policy();
    let (settled_state, time) = settled(10, 20.0, &policy);
    let failed = Snapshot {
        signals: Signals::missing(10),
        ..snapshot(time, 10, 20.0)
    };
    let mut broken = settled_state.clone();
    for tick in 0..5 {
        broken = decide(
            &Snapshot {
                time: time + f64::from(tick) * TICK,
                ..failed.clone()
            },
            &broken,
            &policy,
        )
        .1;
    }
    let one_failure = decide(&failed, &settled_state, &policy).1;
    let cases = [
        ("restart of the operator", State::default(), time, 180.0),
        ("outage of 25 s", broken, time + 25.0, 180.0),
        ("one failed query, which counters bridge", one_failure, time + TICK, 0.0),
    ];
    for (name, mut state, from, wait) in cases {
        let mut now = from;
        let lowered = loop {
            let (decision, next) = decide(&snapshot(now, 10, 20.0), &state, &policy);
            state = next;
            if decision.changes() {
                break now;
            }
            assert!(
                now - from <= wait,
                "{name}: not lowered after {} s: {}",
                now - from,
                decision.message
            );
            now += TICK;
        };
        assert!(
            (lowered - from - wait).abs() < 1e-6,
            "{name}: lowered after {} s",
            lowered - from
        );
    }
}

/// R7: surge pods are ready beside the old ones, and that alone must change nothing, in either direction.
#[test]
fn a_rollout_without_a_change_of_load_changes_nothing() {
    let policy = policy_p95(0.4);
    let (mut state, mut time) = settled(5, 220.0, &policy);
    for ready in [5, 6, 7, 6, 4, 5, 6, 5] {
        for _ in 0..12 {
            let rolling = Snapshot {
                ready,
                rollout: true,
                signals: signals(220.0, ready),
                ..snapshot(time, 5, 220.0)
            };
            let (decision, next) = decide(&rolling, &state, &policy);
            assert_eq!(decision.to, 5, "{ready} ready: {}", decision.message);
            (state, time) = (next, time + TICK);
        }
    }
}

/// R8: pods that crash at start report nothing, and nothing may be concluded from that.
#[test]
fn crashing_pods_without_metrics_buy_no_replicas() {
    let policy = policy();
    let (mut state, mut time) = settled(4, 180.0, &policy);
    for _ in 0..60 {
        let mut crashing = Snapshot {
            ready: 4,
            rollout: true,
            ..snapshot(time, 4, 180.0)
        };
        crashing.signals.demand.reporting = 2;
        crashing.signals.demand.value = Some(demand(90.0));
        let (decision, next) = decide(&crashing, &state, &policy);
        assert_eq!(decision.to, 4, "{}", decision.message);
        (state, time) = (next, time + TICK);
    }
}

/// Healthy pods alone may ask for more: half of the pods without data must not hide an overload.
#[test]
fn half_of_the_pods_may_raise() {
    let policy = policy();
    let (state, time) = settled(4, 180.0, &policy);
    let mut partial = snapshot(time, 4, 180.0);
    partial.signals.demand = Signal {
        reporting: 2,
        ..Signal::fresh(demand(500.0), 1.0, 4)
    };
    let decision = decide(&partial, &state, &policy).0;
    assert_eq!(decision.reason, Reason::DemandRose, "{}", decision.message);
}

/// Offered calls count also when they are shed: completions saturate under overload.
#[test]
fn shed_calls_are_demand_but_retry_storms_are_not_believed() {
    let policy = policy();
    let (state, time) = settled(2, 100.0, &policy);
    let overload = |shed_per_second: f64| {
        let admitted = work(150.0, 30.0);
        let offered = Work {
            offered_per_second: 150.0 + shed_per_second,
            ..admitted
        };
        let mut overloaded = snapshot(time, 2, 150.0);
        let both = Demand {
            window: offered,
            recent: offered,
            window_covered: true,
        };
        overloaded.signals.demand = Signal::fresh(both, 1.0, 2);
        decide(&overloaded, &state, &policy).0.to
    };
    // 15 busy slots need 3 pods; 30 of them (shed calls included) 5; a storm is believed up to twice the admitted
    // calls.
    assert_eq!([overload(0.0), overload(150.0), overload(3_000.0)], [3, 5, 5]);
}

/// Calls that became slower, or never end, keep slots busy although their number did not rise.
#[test]
fn slower_calls_are_demand() {
    let policy = policy();
    let (state, time) = settled(2, 50.0, &policy);
    let mut slower = snapshot(time, 2, 50.0);
    let stuck = Work {
        busy_slots: 16.0,
        ..work(50.0, 30.0)
    };
    slower.signals.demand = Signal::fresh(
        Demand {
            window: stuck,
            recent: stuck,
            window_covered: true,
        },
        1.0,
        2,
    );
    assert_eq!(decide(&slower, &state, &policy).0.to, 3);
}

/// A jump of the call rate with slots as idle as before is a broken counter until it lasts.
#[test]
fn an_outlier_needs_a_second_tick() {
    let policy = policy();
    let (state, time) = settled(2, 50.0, &policy);
    let jump = |time: f64| {
        let mut jump = snapshot(time, 2, 50.0);
        let mut odd = demand(50.0);
        odd.recent.offered_per_second = 400.0;
        odd.recent.admitted_per_second = 400.0;
        jump.signals.demand = Signal::fresh(odd, 1.0, 2);
        jump
    };
    let (first, state) = decide(&jump(time), &state, &policy);
    assert_eq!(first.to, 2, "{}", first.message);
    let (second, _) = decide(&jump(time + TICK), &state, &policy);
    assert_eq!(second.reason, Reason::DemandRose, "{}", second.message);
}

/// A pod that did not report may have been full: what a tick could not see is remembered for the whole window.
#[test]
fn a_silent_pod_counts_as_full_until_the_window_has_passed() {
    let policy = policy();
    // Nine busy slots need two pods; three are there.
    let (state, time) = settled(3, 90.0, &policy);
    let mut partial = snapshot(time, 3, 90.0);
    partial.signals.demand.reporting = 2;
    let mut state = decide(&partial, &state, &policy).1;
    let mut now = time;
    loop {
        now += TICK;
        let (decision, next) = decide(&snapshot(now, 3, 90.0), &state, &policy);
        state = next;
        if decision.changes() {
            break;
        }
        assert_eq!(decision.reason, Reason::WaitingForWindow, "{}", decision.message);
    }
    assert!((now - time - 180.0).abs() < 1e-6, "lowered after {} s", now - time);
}

/// Slots that slow each other down would teach a service time that buys ever more pods.
#[test]
fn an_overloaded_server_teaches_no_service_time() {
    let policy = policy();
    let (settled_state, time) = settled(2, 100.0, &policy);
    let before = decide(&snapshot(time, 2, 140.0), &settled_state, &policy).0.to;
    let mut state = settled_state;
    for tick in 0..60 {
        let slowed = Work {
            busy_slots: 16.0,
            ..work(40.0, 30.0)
        };
        let both = Demand {
            window: slowed,
            recent: Work {
                seconds: 10.0,
                ..slowed
            },
            window_covered: true,
        };
        let mut overloaded = snapshot(time + f64::from(tick) * TICK, 2, 40.0);
        overloaded.signals.demand = Signal::fresh(both, 1.0, 2);
        state = decide(&overloaded, &state, &policy).1;
    }
    let after = decide(&snapshot(time + 300.0, 2, 140.0), &state, &policy).0;
    assert_eq!(after.to, before, "{}", after.message);
}

/// An error rate above the declared one is no low load, even if it is the usual one.
#[test]
fn errors_above_their_target_hold_the_replicas() {
    let usual = || outcomes(1_990.0, 10.0, 0.0);
    for (target, expected) in [
        (Some(0.001), Reason::ErrorRateHigh),
        (Some(0.01), Reason::DemandFell),
        (None, Reason::DemandFell),
    ] {
        let mut policy = policy();
        policy.targets.error_rate = target;
        let (state, mut failing) = idle_since_long(&policy);
        failing.signals.outcomes = usual();
        let decision = decide(&failing, &state, &policy).0;
        assert_eq!(decision.reason, expected, "{target:?}: {}", decision.message);
    }
}

/// Replicas that went up and down five times within the hour wait twice as long before the next decrease.
#[test]
fn flapping_lengthens_the_window() {
    for (turns, wait) in [(4, 180.0), (5, 360.0), (6, 720.0)] {
        let policy = policy();
        let (mut state, mut now) = settled(5, 20.0, &policy);
        for turn in 0..=turns {
            now += TICK;
            state = decide(&snapshot(now, 4 + (turn % 2), 20.0), &state, &policy).1;
        }
        let peak_at = now + TICK;
        state = decide(&snapshot(peak_at, 4 + (turns % 2), 600.0), &state, &policy).1;
        now = peak_at;
        loop {
            now += TICK;
            let (decision, next) = decide(&snapshot(now, 4 + (turns % 2), 20.0), &state, &policy);
            state = next;
            if decision.changes() {
                break;
            }
        }
        assert!(
            (now - peak_at - wait).abs() < 1e-6,
            "{turns} turns: lowered after {} s",
            now - peak_at
        );
    }
}
