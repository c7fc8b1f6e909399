//! What must hold whatever is measured and declared.

mod support;

use mcpscale_autoscaler::{
    Demand, Outcomes, Policy, Signal, SignalState, Signals, Snapshot, State, Targets, Work, decide,
};
use proptest::prelude::*;
use support::{policy_p95, quick_calls, settled, snapshot};

fn any_state() -> impl Strategy<Value = SignalState> {
    prop_oneof![
        4 => Just(SignalState::Fresh),
        1 => Just(SignalState::Stale),
        1 => Just(SignalState::Missing),
        1 => Just(SignalState::Invalid),
    ]
}

fn any_work() -> impl Strategy<Value = Work> {
    (
        0.0..5_000.0_f64,
        0.0..1.0_f64,
        0.0..2.0_f64,
        prop::option::of(0.0..50.0_f64),
    )
        .prop_map(|(offered, admitted, service, cpu_cores)| Work {
            seconds: 30.0,
            offered_per_second: offered,
            admitted_per_second: offered * admitted,
            busy_slots: offered * admitted * service,
            cpu_cores,
        })
}

fn signal<T: Clone + std::fmt::Debug>(value: impl Strategy<Value = T>, ready: u32) -> impl Strategy<Value = Signal<T>> {
    (value, any_state(), 0..=ready).prop_map(move |(value, state, silent)| match state {
        SignalState::Fresh => Signal {
            reporting: ready - silent.min(ready / 2),
            ..Signal::fresh(value, 1.0, ready)
        },
        _ => Signal::without_value(state, Some(30.0), ready),
    })
}

fn any_signals(ready: u32) -> impl Strategy<Value = Signals> {
    let demand = (any_work(), any_work(), any::<bool>()).prop_map(|(window, recent, window_covered)| Demand {
        window,
        recent,
        window_covered,
    });
    let histogram = || (0.0..10_000.0_f64).prop_map(quick_calls);
    let outcomes = (0.0..1_000.0_f64, 0.0..100.0_f64, 0.0..100.0_f64);
    let outcomes = outcomes.prop_map(|(ok, error, shed)| Outcomes { ok, error, shed });
    (
        signal(demand, ready),
        signal(histogram(), ready),
        signal(histogram(), ready),
        signal(histogram(), ready),
        signal(outcomes, ready),
    )
        .prop_map(|(demand, service, latency, latency_long, outcomes)| Signals {
            demand,
            service,
            latency,
            latency_long,
            outcomes,
        })
}

/// What one tick shows beside the replicas: ready pods, a rollout, signals.
fn any_tick() -> impl Strategy<Value = (u32, bool, Signals)> {
    (0..40_u32).prop_flat_map(|ready| (Just(ready), any::<bool>(), any_signals(ready)))
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let targets = (
        0.01..2.0_f64,
        prop::option::of(1.0..500.0_f64),
        prop::option::of(0.001..0.1_f64),
    );
    (1..10_u32, 0..40_u32, 1..64_u32, prop::option::of(0.1..4.0_f64), targets).prop_map(
        |(min_replicas, more, concurrency, cpu_limit_cores, (bound, requests_per_second, error_rate))| {
            let policy = policy_p95(bound);
            let targets = Targets {
                requests_per_second,
                error_rate,
                ..policy.targets.clone()
            };
            let max_replicas = min_replicas + more;
            Policy {
                min_replicas,
                max_replicas,
                concurrency,
                cpu_limit_cores,
                targets,
                ..policy
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Over any history: the bounds hold, growth keeps to its limit, only fresh and complete data lowers anything, and
    /// equal arguments give equal results.
    #[test]
    fn every_step_of_any_history_is_safe(
        policy in any_policy(),
        start in 0..60_u32,
        ticks in prop::collection::vec(any_tick(), 1..60),
    ) {
        let mut state = State::default();
        let mut replicas = start;
        for (index, (ready, rollout, signals)) in (0_u32..).zip(ticks) {
            let time = f64::from(index) * 5.0;
            let snapshot = Snapshot { time, replicas, ready, rollout, signals };
            let (decision, next) = decide(&snapshot, &state, &policy);
            prop_assert_eq!(&decide(&snapshot, &state, &policy), &(decision.clone(), next.clone()));

            prop_assert!((policy.min_replicas..=policy.max_replicas).contains(&decision.to), "{decision:?}");
            let within = replicas.clamp(policy.min_replicas, policy.max_replicas);
            prop_assert!(decision.to <= within + ready.max(4), "grew too fast: {decision:?}");
            let whole = snapshot.signals.demand.complete() && snapshot.signals.outcomes.complete()
                && snapshot.signals.latency.complete() && !rollout && ready > 0;
            prop_assert!(whole || decision.to >= within, "lowered on bad data: {decision:?}");
            prop_assert!(decision.to >= within || f64::from(index) * 5.0 >= 180.0, "lowered in the first window");
            prop_assert!(decision.message.ends_with('.') && !decision.message.contains("NaN"), "{}", decision.message);
            (state, replicas) = (next, decision.to);
        }
    }

    /// More calls never lead to fewer replicas.
    #[test]
    fn more_demand_never_means_fewer_replicas(
        policy in any_policy(), replicas in 1..40_u32, calls in 1.0..2_000.0_f64, factor in 1.0..5.0_f64,
    ) {
        let (state, time) = settled(replicas, calls, &policy);
        let few = decide(&snapshot(time, replicas, calls), &state, &policy).0;
        let more = decide(&snapshot(time, replicas, calls * factor), &state, &policy).0;
        prop_assert!(more.to >= few.to, "{} against {}", few.message, more.message);
    }

    /// A decision that was acted on is not followed by another one while nothing changes, once its steps are through.
    #[test]
    fn steady_load_comes_to_rest(policy in any_policy(), replicas in 1..20_u32, calls in 0.0..1_000.0_f64) {
        let mut state = State::default();
        let mut replicas = replicas;
        let mut changed_at = 0.0;
        for tick in 0_u32..480 {
            let time = f64::from(tick) * 5.0;
            let (decision, next) = decide(&snapshot(time, replicas, calls), &state, &policy);
            if decision.changes() {
                changed_at = time;
            }
            (state, replicas) = (next, decision.to);
        }
        prop_assert!(changed_at < 1_800.0, "still moving after {changed_at} s at {replicas} replicas");
    }
}
