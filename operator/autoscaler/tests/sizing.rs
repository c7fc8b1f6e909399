//! How many replicas which requirement asks for, within which limits, and what a person is told.

mod support;

use mcpscale_autoscaler::{
    Balancing, Behavior, Binding, Decision, LatencyTarget, Limit, Policy, PolicyKind, Quantile, Reason, ScalingPolicy,
    ScalingRules, SelectPolicy, Signal, Signals, Snapshot, State, Targets, decide,
};
use support::{TICK, demand, idle_since_long, policy, policy_p95, settled, snapshot};

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
            210.0,
            5,
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
