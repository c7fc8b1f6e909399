//! From series to the signals of one server.

use super::answers::{
    NOW, SCRAPE, close, counters, demand, distribution, distributions, replace, scrapes, sensed, series, signals_of,
};
use crate::signals::LivePod;
use crate::signals::query::metric::{BUSY_SECONDS, OFFERED, SHED};
use mcpscale_autoscaler::{Bucket, Demand, Histogram, Outcomes, SignalState, Signals};
use serde_json::Value;

/// A pod that started long before the window.
fn old(name: &str) -> LivePod<'_> {
    LivePod {
        name,
        started_at: NOW - 1_001.0,
    }
}

#[tokio::test]
async fn healthy_pods_add_up() {
    let raw = [counters("a", 10.0), counters("b", 30.0)].concat();
    let sums = [distributions("a"), distributions("b")].concat();
    let signals = signals_of(&[old("a"), old("b")], &raw, &sums).await;

    let Demand {
        window,
        recent,
        window_covered,
    } = demand(&signals);
    for work in [window, recent] {
        assert!(
            close(work.offered_per_second, 40.0) && close(work.admitted_per_second, 36.0),
            "{work:?}"
        );
        assert!(
            close(work.busy_slots, 3.6) && close(work.cpu_cores.expect("exported"), 0.4),
            "{work:?}"
        );
    }
    assert!(
        window_covered && close(window.seconds, 30.0) && close(recent.seconds, 10.0),
        "{window:?} {recent:?}"
    );
    assert_eq!(
        (
            signals.demand.age_seconds,
            signals.demand.reporting,
            signals.demand.ready
        ),
        (Some(1.0), 2, 2)
    );
    let buckets = vec![
        Bucket {
            upper_seconds: 0.1,
            count: 180.0,
        },
        Bucket {
            upper_seconds: 1.0,
            count: 18.0,
        },
    ];
    let expected = Histogram { buckets, overflow: 2.0 };
    assert_eq!(
        [&signals.service, &signals.latency, &signals.latency_long].map(|signal| signal.usable()),
        [Some(&expected); 3]
    );
    assert_eq!(
        signals.outcomes.usable(),
        Some(&Outcomes {
            ok: 196.0,
            error: 2.0,
            shed: 2.0
        })
    );
}

/// An answer without series says nothing about the load: empty is not zero.
#[tokio::test]
async fn empty_answers_are_missing_not_zero() {
    let signals = signals_of(&[old("a")], &[], &[]).await;
    let states = [
        signals.demand.state,
        signals.service.state,
        signals.latency.state,
        signals.outcomes.state,
    ];
    assert_eq!(states, [SignalState::Missing; 4]);
    assert_eq!(signals, Signals::missing(1));
}

/// An idle pod exports its counters, but no histogram before the first call: that is a true zero.
#[tokio::test]
async fn fresh_counters_that_stand_still_are_a_true_zero() {
    let signals = signals_of(&[old("a")], &counters("a", 0.0), &[]).await;
    assert!(demand(&signals).window.offered_per_second.abs() < f64::EPSILON);
    assert_eq!(signals.latency.usable(), Some(&Histogram::default()));
    assert_eq!(signals.outcomes.usable(), Some(&Outcomes::default()));
    let busy = signals_of(&[old("a")], &counters("a", 10.0), &[]).await;
    assert_eq!(
        busy.latency.state,
        SignalState::Missing,
        "calls without a histogram are missing data"
    );
}

/// One spoiled pod alone leaves no value, and the state says what is wrong.
#[tokio::test]
async fn unusable_samples_are_never_a_number() {
    let good = || counters("a", 10.0);
    let broken = |value: f64| scrapes(move |time| if time > NOW - 8.0 { value } else { 1.0 });
    let aged = |age: f64| vec![(NOW - age - 30.0, 0.0), (NOW - age - SCRAPE, 90.0), (NOW - age, 100.0)];
    let stale: Vec<Value> = [OFFERED, SHED, BUSY_SECONDS]
        .map(|name| series(name, "a", &aged(15.1)))
        .to_vec();
    let fresh: Vec<Value> = [OFFERED, SHED, BUSY_SECONDS]
        .map(|name| series(name, "a", &aged(14.9)))
        .to_vec();
    let mut duplicate = good();
    duplicate.push(series(OFFERED, "a", &scrapes(|time| time - NOW + 500.0)));
    let mut without_shed = good();
    without_shed.retain(|one| one["metric"]["__name__"] != SHED);
    let cases = [
        (
            "NaN",
            replace(good(), OFFERED, "a", &broken(f64::NAN)),
            SignalState::Invalid,
        ),
        (
            "infinite",
            replace(good(), BUSY_SECONDS, "a", &broken(f64::INFINITY)),
            SignalState::Invalid,
        ),
        (
            "negative",
            replace(good(), SHED, "a", &broken(-1.0)),
            SignalState::Invalid,
        ),
        ("one series twice", duplicate, SignalState::Invalid),
        ("older than three scrapes", stale, SignalState::Stale),
        ("just within three scrapes", fresh, SignalState::Fresh),
        ("one counter absent", without_shed, SignalState::Missing),
        (
            "a single sample",
            replace(good(), OFFERED, "a", &[(NOW - 1.0, 7.0)]),
            SignalState::Missing,
        ),
    ];
    for (name, raw, expected) in cases {
        let signals = signals_of(&[old("a")], &raw, &distributions("a")).await;
        assert_eq!(signals.demand.state, expected, "{name}");
        assert_eq!(signals.demand.value.is_some(), expected == SignalState::Fresh, "{name}");
        if expected == SignalState::Stale {
            assert!(
                signals.demand.age_seconds.is_some_and(|age| close(age, 15.1)),
                "{name} tells its age"
            );
            assert_eq!(
                signals.latency.state,
                SignalState::Stale,
                "{name}: what comes with it is stale as well"
            );
        }
    }
}

/// A pod that reports rubbish must not hide the pods that report an overload, nor count as idle.
#[tokio::test]
async fn partial_coverage_is_told() {
    let spoiled = |pod: &str| replace(counters(pod, 10.0), OFFERED, pod, &scrapes(|_| f64::NAN));
    let cases = [
        ("all", 4, SignalState::Fresh),
        ("three of four", 3, SignalState::Fresh),
        ("half", 2, SignalState::Fresh),
        ("less than half", 1, SignalState::Invalid),
    ];
    let names = ["a", "b", "c", "d"];
    for (name, healthy, expected) in cases {
        let pods = names.map(old);
        let raw: Vec<Value> = names
            .iter()
            .enumerate()
            .flat_map(|(index, pod)| {
                if index < healthy {
                    counters(pod, 10.0)
                } else {
                    spoiled(pod)
                }
            })
            .collect();
        let signals = signals_of(&pods, &raw, &[]).await;
        assert_eq!((signals.demand.state, signals.demand.ready), (expected, 4), "{name}");
        assert_eq!(signals.demand.reporting as usize, healthy, "{name}");
    }
}

/// R9: for five minutes after a pod is gone, its series still look alive.
#[tokio::test]
async fn pods_that_are_gone_and_other_namespaces_do_not_count() {
    let raw = [counters("live", 10.0), counters("gone", 500.0)].concat();
    let sums = [distributions("live"), distributions("gone")].concat();
    let cluster = sensed(&raw, &sums).await;
    let signals = cluster.for_server("agents", &[old("live")]);
    assert!(close(demand(&signals).window.offered_per_second, 10.0));
    assert!(
        signals
            .latency
            .usable()
            .is_some_and(|calls| close(calls.count(), 100.0))
    );
    assert_eq!(cluster.for_server("elsewhere", &[old("live")]), Signals::missing(1));
}

/// Rubbish in a histogram or an outcome must not become a latency or an error rate.
#[tokio::test]
async fn invalid_distributions_are_told() {
    let with = |signal: &str, label: (&str, &str), value: f64| {
        let mut all = distributions("a");
        all.push(distribution(signal, "a", label, value));
        all
    };
    let without_infinity: Vec<Value> = distributions("a")
        .into_iter()
        .filter(|one| one["metric"]["le"] != "+Inf")
        .collect();
    let cases = [
        ("NaN bucket", with("latency", ("le", "5"), f64::NAN)),
        ("negative bucket", with("latency", ("le", "5"), -1.0)),
        ("a bound that is no number", with("latency", ("le", "five"), 1.0)),
        ("one bucket twice", with("latency", ("le", "0.1"), 1.0)),
        ("no bucket for everything", without_infinity),
    ];
    for (name, sums) in cases {
        let signals = signals_of(&[old("a")], &counters("a", 10.0), &sums).await;
        assert_eq!(
            (signals.latency.state, signals.demand.state),
            (SignalState::Invalid, SignalState::Fresh),
            "{name}"
        );
    }
    let outcomes = signals_of(
        &[old("a")],
        &counters("a", 10.0),
        &with("outcome", ("status", "ok"), f64::NAN),
    )
    .await;
    assert_eq!(outcomes.outcomes.state, SignalState::Invalid);
}

/// A status that a newer server invents is no success.
#[tokio::test]
async fn an_unknown_status_counts_as_an_error() {
    let mut sums = distributions("a");
    sums.push(distribution("outcome", "a", ("status", "cancelled"), 5.0));
    let signals = signals_of(&[old("a")], &counters("a", 10.0), &sums).await;
    assert_eq!(signals.outcomes.usable().map(|calls| calls.error), Some(6.0));
}
