//! The decision in a closed loop with a model of the server: what a user sees when load steps, falls, or only wavers.
#![expect(
    clippy::expect_used,
    reason = "helpers outside a test function stop the test as well"
)]

mod support;

use mcpscale_autoscaler::Reason;
use support::server::{Loop, Tick, most_reversals};
use support::{DOWN_WINDOW, TICK, policy_p95};

const P95: f64 = 0.4;

fn highest(ticks: &[Tick]) -> u32 {
    ticks.iter().map(|tick| tick.decision.to).max().expect("ticks")
}

fn last(ticks: &[Tick]) -> &Tick {
    ticks.last().expect("ticks")
}

/// The fewest pods of eight slots that are at most 85 % busy, without any headroom; the policy's minimum is 2.
fn need(calls_per_second: f64) -> u32 {
    let busy_slots = calls_per_second * 0.1;
    (2..1_000)
        .find(|pods| busy_slots <= 0.85 * 8.0 * f64::from(*pods))
        .expect("a small load")
}

/// The headroom, the dead band around it and whole pods may keep this much more than [`need`].
fn within_reserve(replicas: u32, calls_per_second: f64) -> bool {
    (need(calls_per_second)..=need(1.12 * 1.05 * calls_per_second)).contains(&replicas)
}

/// Too slow, and calls are shed for minutes; too much, and the database pays for pods nobody needs.
#[test]
fn five_times_the_load_is_met_after_two_ticks_and_a_start_without_overshoot() {
    for (before, after) in [(40.0, 200.0), (10.0, 50.0), (60.0, 300.0)] {
        let need = need(after);
        let mut server = Loop::new(policy_p95(P95), 2, 1);
        server.run(600.0, before);
        let stepped_at = server.time;
        let ticks = server.run(600.0, after);
        let met = ticks.iter().find(|tick| tick.ready >= need).expect("the need is met");
        // Pods that were decided at a tick are counted as ready at the first tick after their start.
        let allowed = 2.0 * TICK + server.startup_seconds + TICK;
        assert!(
            met.time - stepped_at <= allowed,
            "{before} to {after}: {need} ready after {}",
            met.time - stepped_at
        );
        let most = highest(&ticks);
        assert!(
            f64::from(most) <= 1.6 * f64::from(need),
            "{before} to {after}: {most} replicas for a need of {need}"
        );
    }
}

/// R11: calls that pile up while pods start must not buy pods beyond the need, even when growth has to go in steps.
#[test]
fn a_queue_during_slow_starts_does_not_run_away() {
    for startup_seconds in [10.0, 30.0, 60.0] {
        let need = need(800.0);
        let mut server = Loop::new(policy_p95(P95), 3, 1);
        server.startup_seconds = startup_seconds;
        server.policy.max_replicas = 100;
        server.run(600.0, 100.0);
        let ticks = server.run(900.0, 800.0);
        let most = highest(&ticks);
        assert!(
            last(&ticks).ready >= need,
            "start-up {startup_seconds}: {} of {need}",
            last(&ticks).ready
        );
        assert!(
            f64::from(most) <= 1.6 * f64::from(need),
            "start-up {startup_seconds}: {most} for {need}"
        );
    }
}

/// A decrease before the window is over is taken back by the next peak; one that never comes costs money.
#[test]
fn replicas_fall_after_the_window_and_not_before() {
    let mut server = Loop::new(policy_p95(P95), 2, 1);
    server.run(300.0, 40.0);
    let peak = last(&server.run(600.0, 200.0)).decision.to;
    let fell_at = server.time;
    let ticks = server.run(1_500.0, 40.0);
    let first = ticks.iter().find(|tick| tick.decision.changes()).expect("a decrease");
    let waited = first.time - fell_at;
    // The measured load itself takes its window of 30 s to fall.
    assert!(
        (DOWN_WINDOW..=DOWN_WINDOW + 30.0 + 2.0 * TICK).contains(&waited),
        "first decrease after {waited} s"
    );
    assert_eq!(first.decision.reason, Reason::DemandFell);
    let end = last(&ticks).decision.to;
    assert!(peak > 2 && within_reserve(end, 40.0), "{peak} to {end}");
    assert!(
        ticks.windows(2).all(|pair| pair[1].decision.to <= pair[0].decision.to),
        "no way up again"
    );
}

/// R10, R14: a steady load that only wavers must not make pods come and go.
#[test]
fn noise_turns_the_direction_at_most_once_in_ten_minutes() {
    for dispersion in [1.0, 4.0] {
        for calls_per_second in [20.0, 55.0, 61.0, 90.0, 121.0, 150.0, 242.0, 400.0] {
            for seed in 1..=3 {
                let mut server = Loop::new(policy_p95(P95), 5, seed);
                server.dispersion = dispersion;
                let ticks = server.run(3_600.0, calls_per_second);
                let turns = most_reversals(&ticks, 600.0);
                assert!(
                    turns <= 1,
                    "{calls_per_second}/s, dispersion {dispersion}, seed {seed}: {turns} turns"
                );
            }
        }
    }
}

/// R12: a spike shorter than a pod's start must not leave a fleet behind.
#[test]
fn a_short_spike_does_not_over_buy() {
    let mut server = Loop::new(policy_p95(P95), 3, 1);
    server.startup_seconds = 40.0;
    server.policy.max_replicas = 100;
    server.run(600.0, 100.0);
    let spike = server.run(30.0, 300.0);
    let after = server.run(600.0, 100.0);
    let need = need(300.0);
    assert!(f64::from(highest(&spike).max(highest(&after))) <= 1.6 * f64::from(need));
    let end = last(&server.run(900.0, 100.0)).decision.to;
    assert!(within_reserve(end, 100.0), "{end} replicas for what the load needs");
}

/// R3, and "Prometheus stopped under load": the replicas stay while it is away, rise within two ticks of its return,
/// and fall only when a whole window has been seen again.
#[test]
fn an_outage_of_the_metrics_lowers_nothing_and_is_left_safely() {
    let mut server = Loop::new(policy_p95(P95), 2, 1);
    server.run(600.0, 200.0);
    server.metrics = false;
    let away = server.run(600.0, 5.0);
    assert!(
        away.iter()
            .all(|tick| !tick.decision.changes() && tick.decision.reason == Reason::MetricsMissing)
    );

    server.metrics = true;
    let back_at = server.time;
    let back = server.run(600.0, 5.0);
    let lowered = back
        .iter()
        .find(|tick| tick.decision.to < tick.decision.from)
        .expect("a decrease in the end");
    assert!(
        lowered.time - back_at >= DOWN_WINDOW,
        "lowered after {}",
        lowered.time - back_at
    );
}

#[test]
fn load_that_rose_during_an_outage_is_answered_within_two_ticks_of_the_return() {
    let mut server = Loop::new(policy_p95(P95), 2, 1);
    server.run(600.0, 40.0);
    server.metrics = false;
    server.run(120.0, 200.0);
    server.metrics = true;
    let back = server.run(2.0 * TICK, 200.0);
    assert!(highest(&back) > 2, "{:?}", last(&back).decision);
}
