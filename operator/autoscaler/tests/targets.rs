//! Whether declared targets are met, and when a new value is worth writing into a status.
#![expect(
    clippy::expect_used,
    reason = "helpers outside a test function stop the test as well"
)]

mod support;

use mcpscale_autoscaler::{
    Bucket, Histogram, LatencyTarget, Outcomes, Policy, Quantile, Reporter, Signal, SignalState, Signals, Snapshot,
    State, TargetReport, TargetState, Targets, decide, evaluate_targets,
};
use support::{TICK, policy, policy_p95, settled, snapshot};

/// Calls spread evenly between `from` and `to` seconds.
fn calls(count: f64, from: f64, to: f64) -> Histogram {
    let bucket = |upper_seconds, count| Bucket { upper_seconds, count };
    Histogram {
        buckets: vec![bucket(from, 0.0), bucket(to, count)],
        overflow: 0.0,
    }
}

fn with_latency(short: Histogram, long: Histogram) -> Snapshot {
    let mut measured = snapshot(0.0, 2, 20.0);
    measured.signals.latency = Signal::fresh(short, 1.0, 2);
    measured.signals.latency_long = Signal::fresh(long, 1.0, 2);
    measured
}

fn judge(snapshot: &Snapshot, policy: &Policy, previous: &[TargetReport]) -> TargetReport {
    let reports = evaluate_targets(snapshot, &State::default(), policy, previous);
    reports.into_iter().next().expect("one target")
}

/// A quantile from too few calls would make `TargetsMet` a coin toss; p95 takes 400 of them.
#[test]
fn latency_is_judged_only_on_enough_calls() {
    let few = || calls(399.0, 0.0, 0.1);
    let cases = [
        (
            "enough in a minute",
            calls(400.0, 0.0, 0.1),
            calls(400.0, 0.0, 9.0),
            Some(0.095),
            Some(true),
        ),
        (
            "enough in five minutes",
            few(),
            calls(400.0, 0.0, 0.2),
            Some(0.19),
            Some(false),
        ),
        ("never enough", few(), few(), None, None),
        ("no calls", Histogram::default(), Histogram::default(), None, None),
    ];
    for (name, short, long, observed, met) in cases {
        let report = judge(&with_latency(short, long), &policy_p95(0.1), &[]);
        let state = if met.is_some() {
            TargetState::Known
        } else {
            TargetState::Unknown
        };
        assert_eq!(
            (report.observed, report.met, report.state),
            (observed, met, state),
            "{name}"
        );
        assert_eq!(report.name, "latency.p95");
    }
}

/// The state of the signal is the state of the target: an old value must not look like a met target.
#[test]
fn bad_signals_leave_targets_unjudged() {
    let cases = [
        (SignalState::Stale, TargetState::Stale),
        (SignalState::Missing, TargetState::Missing),
        (SignalState::Invalid, TargetState::Invalid),
    ];
    let targets = Targets {
        requests_per_second: Some(10.0),
        error_rate: Some(0.01),
        ..policy_p95(0.1).targets
    };
    let policy = Policy { targets, ..policy() };
    for (state, expected) in cases {
        let mut bad = snapshot(0.0, 2, 20.0);
        bad.signals = Signals {
            demand: Signal::without_value(state, None, 2),
            latency: Signal::without_value(state, None, 2),
            outcomes: Signal::without_value(state, None, 2),
            ..bad.signals
        };
        let reports = evaluate_targets(&bad, &State::default(), &policy, &[]);
        let names: Vec<&str> = reports.iter().map(|report| report.name.as_str()).collect();
        assert_eq!(names, ["latency.p95", "requestsPerSecond", "errorRate"]);
        for report in reports {
            assert_eq!(
                (report.state, report.met, report.observed),
                (expected, None, None),
                "{}",
                report.name
            );
        }
    }
}

/// Eight slots a pod at 85 % and 0.1 s a call are 68 calls/s a pod.
#[test]
fn a_declared_rate_is_met_by_predicted_capacity() {
    for (target, observed, met) in [(100.0, 140.0, true), (136.0, 140.0, true), (200.0, 140.0, false)] {
        let targets = Targets {
            requests_per_second: Some(target),
            ..Targets::default()
        };
        let policy = Policy { targets, ..policy() };
        let measured = snapshot(0.0, 2, 20.0);
        let (_, state) = decide(&measured, &State::default(), &policy);
        let report = evaluate_targets(&measured, &state, &policy, &[]).remove(0);
        assert_eq!((report.observed, report.met), (Some(observed), Some(met)), "{target}");
    }
}

/// What `decide` provides for a declared rate must also count as meeting it.
#[test]
fn replicas_for_a_declared_rate_meet_it() {
    for rate in [90.0, 137.0, 400.0, 999.0] {
        let targets = Targets {
            requests_per_second: Some(rate),
            ..policy_p95(0.2).targets
        };
        let policy = Policy { targets, ..policy() };
        let (state, time) = settled(2, 20.0, &policy);
        let mut replicas = 2;
        let mut carried = state;
        for tick in 0..40 {
            let now = time + f64::from(tick) * TICK;
            let (decision, next) = decide(&snapshot(now, replicas, 20.0), &carried, &policy);
            (carried, replicas) = (next, decision.to);
        }
        let reports = evaluate_targets(&snapshot(time + 200.0, replicas, 20.0), &carried, &policy, &[]);
        let report = reports
            .iter()
            .find(|report| report.name == "requestsPerSecond")
            .expect("declared");
        assert_eq!(report.met, Some(true), "{rate} with {replicas}: {report:?}");
    }
}

#[test]
fn failed_and_shed_calls_count_as_errors() {
    let cases = [
        (
            "none",
            Outcomes {
                ok: 1_000.0,
                error: 0.0,
                shed: 0.0,
            },
            Some(0.0),
            Some(true),
        ),
        (
            "failed",
            Outcomes {
                ok: 980.0,
                error: 20.0,
                shed: 0.0,
            },
            Some(0.02),
            Some(false),
        ),
        (
            "shed",
            Outcomes {
                ok: 980.0,
                error: 0.0,
                shed: 20.0,
            },
            Some(0.02),
            Some(false),
        ),
        (
            "too few calls",
            Outcomes {
                ok: 18.0,
                error: 1.0,
                shed: 0.0,
            },
            None,
            None,
        ),
    ];
    let policy = Policy {
        targets: Targets {
            error_rate: Some(0.01),
            ..Targets::default()
        },
        ..policy()
    };
    for (name, outcomes, observed, met) in cases {
        let mut measured = snapshot(0.0, 2, 20.0);
        measured.signals.outcomes = Signal::fresh(outcomes, 1.0, 2);
        let report = judge(&measured, &policy, &[]);
        assert_eq!((report.observed, report.met), (observed, met), "{name}");
    }
}

/// Near a bound, chance alone would flip the verdict at every tick, and every flip is a write and an Event.
#[test]
fn within_chance_of_a_bound_the_verdict_stays() {
    let policy = policy_p95(0.1);
    let at = |p95: f64| with_latency(calls(1_000.0, 0.0, p95 / 0.95), Histogram::default());
    let met = vec![judge(&at(0.09), &policy, &[])];
    let missed = vec![judge(&at(0.11), &policy, &[])];
    let cases = [
        ("just above, met before", &met, 0.101, true),
        ("just below, missed before", &missed, 0.099, false),
        ("clearly above, met before", &met, 0.13, false),
        ("clearly below, missed before", &missed, 0.09, true),
    ];
    for (name, previous, p95, expected) in cases {
        assert_eq!(judge(&at(p95), &policy, previous).met, Some(expected), "{name}");
    }
    let other_bound = policy_p95(0.105);
    assert_eq!(
        judge(&at(0.104), &other_bound, &missed).met,
        Some(true),
        "a new bound is judged anew"
    );
}

fn report(observed: f64, met: bool) -> TargetReport {
    TargetReport {
        name: "latency.p95".to_owned(),
        target: 0.1,
        observed: Some(observed),
        state: TargetState::Known,
        met: Some(met),
        plausible: None,
    }
}

/// "Nothing changes, nothing is written": which sequences of observed values lead to a write, and when.
#[test]
fn only_lasting_changes_are_written() {
    /// Seconds, observed value, verdict.
    type Seen = (f64, f64, bool);
    let cases: [(&str, &[Seen], usize); 6] = [
        ("the same", &[(5.0, 0.08, true), (10.0, 0.08, true)], 0),
        (
            "within 10 %",
            &[(5.0, 0.085, true), (60.0, 0.074, true), (120.0, 0.087, true)],
            0,
        ),
        (
            "a short excursion",
            &[
                (5.0, 0.095, true),
                (10.0, 0.095, true),
                (15.0, 0.08, true),
                (40.0, 0.095, true),
            ],
            0,
        ),
        (
            "a lasting move",
            &[(5.0, 0.095, true), (35.0, 0.094, true), (65.0, 0.095, true)],
            1,
        ),
        ("a flip", &[(5.0, 0.105, false)], 1),
        ("there and back", &[(5.0, 0.105, false), (10.0, 0.08, true)], 2),
    ];
    for (name, sequence, writes) in cases {
        let mut reporter = Reporter::new(vec![report(0.08, true)]);
        let written = sequence
            .iter()
            .filter(|(at, seen, met)| reporter.update(*at, vec![report(*seen, *met)]))
            .count();
        assert_eq!(written, writes, "{name}");
    }
}

/// A value of few calls wavers by more than 10 % all the time.
#[test]
fn what_chance_explains_is_not_written() {
    let wavering = |plausible| TargetReport {
        plausible,
        ..report(0.095, true)
    };
    for (plausible, written) in [(Some((0.07, 0.12)), false), (Some((0.085, 0.105)), true), (None, true)] {
        let mut reporter = Reporter::new(vec![report(0.08, true)]);
        reporter.update(5.0, vec![wavering(plausible)]);
        assert_eq!(
            reporter.update(65.0, vec![wavering(plausible)]),
            written,
            "{plausible:?}"
        );
    }
}

#[test]
fn the_first_report_and_a_new_target_are_written() {
    let mut reporter = Reporter::default();
    assert!(!reporter.update(0.0, Vec::new()), "nothing declared");
    assert!(reporter.update(5.0, vec![report(0.08, true)]));
    assert!(
        reporter.update(
            10.0,
            vec![TargetReport {
                target: 0.2,
                ..report(0.08, true)
            }]
        ),
        "another bound"
    );
    assert!(reporter.update(15.0, Vec::new()), "no target any more");
    assert!(reporter.written().is_empty());
}

/// Under steady noisy load the status is not written once it has settled: nine minutes at 40 calls/s, with latency
/// samples drawn anew each tick, and every bound within 3 % of the true quantile.
#[test]
fn steady_noise_writes_nothing() {
    let targets = Targets {
        latency: [(Quantile::P50, 0.071), (Quantile::P95, 0.31), (Quantile::P99, 0.47)]
            .map(|(quantile, bound_seconds)| LatencyTarget {
                quantile,
                bound_seconds,
            })
            .to_vec(),
        ..Targets::default()
    };
    let policy = Policy { targets, ..policy() };
    for seed in 1..=20 {
        let mut random = Random(seed);
        let mut reporter = Reporter::default();
        let mut parts: Vec<Histogram> = (0..60).map(|_| random.calls(200)).collect();
        let mut writes = 0;
        for tick in 0_u32..132 {
            // Five minutes of calls slide by one tick.
            parts.rotate_left(1);
            parts[59] = random.calls(200);
            let sum = |parts: &[Histogram]| parts.iter().fold(Histogram::default(), add);
            let measured = with_latency(sum(&parts[48..]), sum(&parts));
            let reports = evaluate_targets(&measured, &State::default(), &policy, reporter.written());
            let wrote = reporter.update(f64::from(tick) * TICK, reports);
            writes += usize::from(wrote && tick > 24);
        }
        assert_eq!(writes, 0, "seed {seed}");
    }
}

struct Random(u64);

impl Random {
    /// A number above 0 and up to 1.
    fn uniform(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (f64::from(u32::try_from(self.0 >> 32).expect("32 bits")) + 1.0) / (f64::from(u32::MAX) + 1.0)
    }

    /// Calls of exponential length with a mean of 0.1 s.
    fn calls(&mut self, count: u32) -> Histogram {
        let bounds: Vec<f64> = (0..40).map(|index| 0.001 * 1.25_f64.powi(index)).collect();
        let mut counts = vec![0.0; bounds.len()];
        for _ in 0..count {
            let seconds = -0.1 * self.uniform().ln();
            counts[bounds.partition_point(|bound| *bound < seconds)] += 1.0;
        }
        let bucket = |(upper_seconds, count)| Bucket { upper_seconds, count };
        Histogram {
            buckets: bounds.into_iter().zip(counts).map(bucket).collect(),
            overflow: 0.0,
        }
    }
}

fn add(mut sum: Histogram, part: &Histogram) -> Histogram {
    if sum.buckets.is_empty() {
        return part.clone();
    }
    for (bucket, more) in sum.buckets.iter_mut().zip(&part.buckets) {
        bucket.count += more.count;
    }
    sum
}
