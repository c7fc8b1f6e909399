//! Situations that have taken pods away, or bought far too many, from users of other scalers: R1 to R20 of the design's
//! reference, as far as they concern replicas, and the rules of its safety table.

mod support;

use mcpscale_autoscaler::{
    Balancing, Behavior, Binding, Decision, Demand, LatencyTarget, Limit, Outcomes, Policy, PolicyKind, Quantile,
    Reason, ScalingPolicy, ScalingRules, SelectPolicy, Signal, SignalState, Signals, Snapshot, State, Targets, Work,
    decide,
};
use support::{TICK, demand, policy, policy_p95, quick_calls, settled, signals, snapshot, work};

/// A server of ten replicas that was busy and now idles, long enough for a decrease: what would lower it?
fn idle_since_long(policy: &Policy) -> (State, Snapshot) {
    let (state, time) = settled(10, 20.0, policy);
    (state, snapshot(time, 10, 20.0))
}

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
    // 15 busy slots need 3 pods; 30 of them (shed calls included) 5; a storm is believed up to twice the admitted calls.
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

/// Which requirement asks for the replicas, and how many.
#[test]
fn every_requirement_can_be_the_one_that_counts() {
    let targets = |targets: Targets| Policy { targets, ..policy() };
    let p95 = |bound_seconds| {
        vec![LatencyTarget {
            quantile: Quantile::P95,
            bound_seconds,
        }]
    };
    let requests = |calls| Targets {
        requests_per_second: Some(calls),
        ..Targets::default()
    };
    let cases = [
        (
            "utilization: 20 slots with headroom on 6.8 a pod",
            policy(),
            200.0,
            4,
            Binding::Utilization,
        ),
        (
            "several load balancers plan for 70 %",
            Policy {
                balancing: Balancing::of_load_balancers(2),
                ..policy()
            },
            200.0,
            4,
            Binding::Utilization,
        ),
        (
            "a bound just above the service time leaves no wait",
            Policy {
                concurrency: 2,
                ..targets(Targets {
                    latency: p95(0.101),
                    ..Targets::default()
                })
            },
            20.0,
            3,
            Binding::Latency(Quantile::P95),
        ),
        (
            "a declared rate is a floor",
            targets(requests(400.0)),
            20.0,
            6,
            Binding::RequestsPerSecond,
        ),
        (
            "a declared rate below the load does not count",
            targets(requests(20.0)),
            200.0,
            4,
            Binding::Utilization,
        ),
        (
            "CPU",
            Policy {
                cpu_limit_cores: Some(0.5),
                ..policy()
            },
            80.0,
            6,
            Binding::Cpu,
        ),
    ];
    for (name, policy, calls_per_second, expected, binding) in cases {
        let mut measured = snapshot(0.0, 2, calls_per_second);
        let mut busy = demand(calls_per_second);
        busy.window.cpu_cores = Some(calls_per_second * 0.02);
        busy.recent.cpu_cores = busy.window.cpu_cores;
        measured.signals.demand = Signal::fresh(busy, 1.0, 2);
        let decision = decide(&measured, &State::default(), &policy).0;
        assert_eq!(
            (decision.to.max(2), decision.binding),
            (expected, Some(binding)),
            "{name}: {}",
            decision.message
        );
    }
}

/// A bound that the calls alone exceed must be said, and must not buy pods without end.
#[test]
fn a_target_below_the_service_time_is_unreachable_and_sizes_by_utilization() {
    let policy = policy_p95(0.05);
    let decision = decide(&snapshot(0.0, 2, 60.0), &State::default(), &policy).0;
    assert_eq!(
        (decision.to, decision.unreachable.as_slice()),
        (2, &[Quantile::P95][..]),
        "{}",
        decision.message
    );
    assert!(decision.message.contains("p95"), "{}", decision.message);
}

/// R5: whatever else is known, the declared bounds hold.
#[test]
fn declared_bounds_hold_with_and_without_metrics() {
    let cases = [
        ("below the minimum", 1, 90.0, 2, Reason::BelowMinReplicas, None),
        ("above the maximum", 30, 20.0, 20, Reason::AboveMaxReplicas, None),
        (
            "demand beyond the maximum",
            20,
            5_000.0,
            20,
            Reason::ScaleUpLimited,
            Some(Limit::MaxReplicas),
        ),
        (
            "demand below the minimum",
            2,
            1.0,
            2,
            Reason::Steady,
            Some(Limit::MinReplicas),
        ),
    ];
    for (name, replicas, calls, to, reason, limited_by) in cases {
        let decision = decide(&snapshot(0.0, replicas, calls), &State::default(), &policy()).0;
        assert_eq!(
            (decision.to, decision.reason, decision.limited_by),
            (to, reason, limited_by),
            "{name}: {decision:?}"
        );
    }
    let blind = Snapshot {
        signals: Signals::missing(1),
        ..snapshot(0.0, 1, 0.0)
    };
    assert_eq!(
        decide(&blind, &State::default(), &policy()).0.to,
        2,
        "the minimum needs no metrics"
    );
}

/// The built-in limit on growth, and a declared one on top.
#[test]
fn increases_keep_to_their_limits() {
    let slow_up = Behavior {
        scale_up: Some(ScalingRules {
            policies: vec![ScalingPolicy {
                kind: PolicyKind::Pods,
                value: 1,
                period_seconds: 60,
            }],
            ..ScalingRules::default()
        }),
        scale_down: None,
    };
    let cases = [
        ("built in", policy(), 6, Limit::GrowthLimit),
        (
            "declared",
            Policy {
                behavior: slow_up,
                ..policy()
            },
            3,
            Limit::ScaleUpPolicy,
        ),
        (
            "maximum",
            Policy {
                max_replicas: 4,
                ..policy()
            },
            4,
            Limit::MaxReplicas,
        ),
    ];
    for (name, policy, to, limit) in cases {
        let decision = decide(&snapshot(0.0, 2, 2_000.0), &State::default(), &policy).0;
        assert_eq!(
            (decision.to, decision.limited_by),
            (to, Some(limit)),
            "{name}: {}",
            decision.message
        );
        assert_eq!(decision.reason, Reason::DemandRose, "{name}");
    }
}

#[test]
fn a_disabled_direction_never_moves() {
    let disabled = || {
        let rules = ScalingRules {
            select_policy: SelectPolicy::Disabled,
            ..ScalingRules::default()
        };
        Some(rules)
    };
    let fixed = Policy {
        behavior: Behavior {
            scale_up: disabled(),
            scale_down: disabled(),
        },
        ..policy()
    };
    let (state, idle) = idle_since_long(&fixed);
    let down = decide(&idle, &state, &fixed).0;
    assert_eq!(
        (down.to, down.reason),
        (10, Reason::ScaleDownLimited),
        "{}",
        down.message
    );
    let up = decide(&snapshot(0.0, 2, 2_000.0), &State::default(), &fixed).0;
    assert_eq!((up.to, up.reason), (2, Reason::ScaleUpLimited), "{}", up.message);
}

/// The declared window replaces the default one.
#[test]
fn a_declared_window_is_kept() {
    let rules = ScalingRules {
        stabilization_window_seconds: Some(60),
        ..ScalingRules::default()
    };
    let policy = Policy {
        behavior: Behavior {
            scale_up: None,
            scale_down: Some(rules),
        },
        ..policy()
    };
    let (mut state, fell_at) = settled(10, 600.0, &policy);
    let mut now = fell_at;
    while !{
        let (decision, next) = decide(&snapshot(now, 10, 20.0), &state, &policy);
        state = next;
        decision.changes()
    } {
        now += TICK;
        assert!(now - fell_at <= 60.0, "not lowered after 60 s");
    }
    assert!(now - fell_at >= 50.0, "lowered after {} s", now - fell_at);
}

/// Latency that the calls themselves cause is no reason to keep pods: they neither cause nor cure it.
#[test]
fn latency_without_queueing_does_not_hold_replicas() {
    let policy = policy_p95(0.1);
    let (state, idle) = idle_since_long(&policy);
    let decision = decide(&idle, &state, &policy).0;
    assert_eq!(decision.reason, Reason::DemandFell, "{}", decision.message);
}

/// A person must be able to check a decision by hand, and find no number that is not there.
#[test]
fn every_decision_is_one_sentence_with_its_numbers() {
    let policy = policy_p95(0.4);
    let (state, idle) = idle_since_long(&policy);
    let raised = decide(&snapshot(0.0, 2, 200.0), &State::default(), &policy).0;
    let lowered = decide(&idle, &state, &policy).0;
    let kept = decide(&snapshot(0.0, 4, 200.0), &State::default(), &policy).0;
    let limited = decide(&snapshot(0.0, 2, 2_000.0), &State::default(), &policy).0;
    let sentences = [
        (
            raised,
            "Raise 2 to 4: 200 calls/s keep 20 slots busy; with 12 % headroom and 8 slots a pod, at most 85 % busy, that \
             needs 4 replicas.",
        ),
        (
            lowered,
            "Lower 10 to 9: over the last 180 s no more than 1 replica were needed; now 20 calls/s keep 2 slots busy; \
             behavior.scaleDown allows no larger step now.",
        ),
        (kept, "Keep 4 replicas: they fit the demand."),
        (
            limited,
            "Raise 2 to 6: 2000 calls/s keep 200 slots busy; with 12 % headroom and 8 slots a pod, at most 85 % busy, that \
             needs 33 replicas; growth is limited to doubling or 4 pods in 15 s.",
        ),
    ];
    for (decision, expected) in sentences {
        assert_eq!(decision.message, expected);
    }
}

/// Recorded snapshots must give the same decisions when they are replayed from their JSON.
#[test]
fn snapshots_state_and_decisions_survive_json() {
    let policy = policy_p95(0.4);
    let (state, idle) = idle_since_long(&policy);
    let text = serde_json::to_string(&(&idle, &state, &policy)).expect("writes");
    let (idle_again, state_again, policy_again): (Snapshot, State, Policy) =
        serde_json::from_str(&text).expect("reads");
    let (decision, _) = decide(&idle, &state, &policy);
    let (again, _): (Decision, State) = decide(&idle_again, &state_again, &policy_again);
    assert_eq!(decision, again);
}
