//! Rates over spans in which pods start, restart, move, or are not scraped.

use super::answers::{NOW, close, counters, demand, replace, scrapes, series, signals_of};
use crate::signals::LivePod;
use crate::signals::query::metric::{BUSY_SECONDS, OFFERED, SHED, START_TIME};
use serde_json::Value;

/// When the process of the tests starts or restarts: within the window, at a scrape.
const START: f64 = NOW - 11.0;

/// Ten calls a second from [`START`] on, in a process that did not exist before.
fn started() -> Vec<Value> {
    let since = |rate: f64| -> Vec<(f64, f64)> {
        scrapes(|time| rate * (time - START))
            .into_iter()
            .filter(|(time, _)| *time > START)
            .collect()
    };
    let start_times: Vec<(f64, f64)> = since(0.0).iter().map(|(time, _)| (*time, START)).collect();
    work_series(since)
        .into_iter()
        .chain([series(START_TIME, "a", &start_times)])
        .collect()
}

/// Ten calls a second throughout, by a process that restarted at [`START`].
fn restarted() -> Vec<Value> {
    let reset = |rate: f64| {
        scrapes(|time| {
            rate * if time > START {
                time - START
            } else {
                time - NOW + 1_000.0
            }
        })
    };
    let start_time = scrapes(|time| if time > START { START } else { NOW - 1_000.0 });
    work_series(reset)
        .into_iter()
        .chain([series(START_TIME, "a", &start_time)])
        .collect()
}

/// Ten calls a second throughout, by a pod whose address changed between two scrapes: one series ends, another begins.
fn moved() -> Vec<Value> {
    let halves = |name: &str, rate: f64| {
        let all = scrapes(|time| rate * (time - NOW + 1_000.0));
        [series(name, "a", &all[..5]), series(name, "a", &all[5..])]
    };
    [halves(OFFERED, 10.0), halves(SHED, 0.0), halves(BUSY_SECONDS, 1.0)].concat()
}

/// Ten calls a second from [`START`] on, after another pod of the same name that did a lot.
fn namesake() -> Vec<Value> {
    let offered = scrapes(|time| if time < START { 5_000.0 } else { 10.0 * (time - START) });
    replace(started(), OFFERED, "a", &offered)
}

/// A counter that falls by one although the process goes on.
fn race() -> Vec<Value> {
    replace(
        counters("a", 0.0),
        OFFERED,
        "a",
        &scrapes(|time| if time > NOW - 8.0 { 999.0 } else { 1_000.0 }),
    )
}

fn work_series(samples: impl Fn(f64) -> Vec<(f64, f64)>) -> Vec<Value> {
    [(OFFERED, 10.0), (SHED, 0.0), (BUSY_SECONDS, 1.0)]
        .map(|(name, rate)| series(name, "a", &samples(rate)))
        .to_vec()
}

/// Ten calls a second by a pod that was not scraped for `lost`.
fn unscraped(lost: std::ops::Range<usize>) -> Vec<Value> {
    let mut raw = counters("a", 10.0);
    for one in &mut raw {
        one["values"].as_array_mut().expect("samples").drain(lost.clone());
    }
    raw
}

/// The mean over the window must hold the work that was done in it: no more, no less.
#[tokio::test]
async fn rates_survive_starts_restarts_and_gaps() {
    let (young, old) = (NOW - 12.0, NOW - 1_001.0);
    let cases = [
        (
            "a pod that started ten seconds ago did a third of the window's work",
            young,
            started(),
            10.0 / 3.0,
        ),
        ("a restarted process counts from zero", old, restarted(), 10.0),
        ("a pod with a new address goes on", old, moved(), 10.0),
        ("lost scrapes within the window are bridged", old, unscraped(5..9), 10.0),
        ("a drop without a restart is no gain", old, race(), 0.0),
        (
            "an earlier pod of the same name does not count",
            young,
            namesake(),
            10.0 / 3.0,
        ),
    ];
    for (name, started_at, raw, expected) in cases {
        let found = demand(&signals_of(&[LivePod { name: "a", started_at }], &raw, &[]).await);
        assert!(close(found.window.offered_per_second, expected), "{name}: {found:?}");
        assert!(found.window_covered, "{name}");
    }
}

/// R3: after an outage of Prometheus the rate over a few seconds is known, but not the one over the window.
#[tokio::test]
async fn samples_since_an_outage_do_not_cover_the_window() {
    let pod = LivePod {
        name: "a",
        started_at: NOW - 1_001.0,
    };
    let found = demand(&signals_of(&[pod], &unscraped(0..9), &[]).await);
    assert!(
        !found.window_covered && close(found.recent.offered_per_second, 10.0),
        "{found:?}"
    );
}
