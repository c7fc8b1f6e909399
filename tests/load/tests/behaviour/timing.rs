//! Whether the figures mean what they say: stalls are seen, the tester's own lateness is told, runs end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::fake::{Fake, Received, serve};
use mcp_load::{CancellationToken, Counts, Mix, Phase, Plan, Progress, run};
use serde_json::json;
use tokio::sync::watch;

/// The server stands still for the first 250 ms of every second.
const STALL: Duration = Duration::from_millis(250);
const PERIOD: Duration = Duration::from_secs(1);

/// The server, and how many calls have come while it stood still.
async fn stalling_server() -> (Fake, Arc<AtomicU64>) {
    let start = Instant::now();
    let stalled = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&stalled);
    let server = serve(move |call: Received| {
        let count = Arc::clone(&count);
        async move {
            let into_period = Duration::from_nanos_u128(start.elapsed().as_nanos() % PERIOD.as_nanos());
            let left = STALL.saturating_sub(into_period);
            if !left.is_zero() {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(left).await;
            }
            call.done()
        }
    })
    .await;
    (server, stalled)
}

fn plan(url: &str, phase: Phase) -> Plan {
    Plan {
        max_lag: Duration::from_secs(1),
        ..Plan::new(url, Mix::tool("echo", json!({})), [phase])
    }
}

/// A closed loop: one request after the other.
async fn closed_loop(url: &str, duration: Duration) {
    let start = Instant::now();
    while start.elapsed() < duration {
        let one = plan(url, Phase::constant(1000.0, Duration::from_millis(1)));
        run(one, None, CancellationToken::new()).await.unwrap();
    }
}

/// Users who arrive during a stall wait for its end: a quarter of all here. A closed loop sends one request into each
/// stall and so hides it; a load tester that does the same would call this server fast.
///
/// On a slow machine everything takes longer, so it is counted who met a stall, and nothing is called quick but what is
/// by far the most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_shows_in_full_where_a_closed_loop_hides_it() {
    let (server, stalled) = stalling_server().await;
    let open = plan(&server.url, Phase::constant(100.0, 3 * PERIOD));
    let report = run(open, None, CancellationToken::new()).await.unwrap();
    let open = stalled.swap(0, Ordering::Relaxed);
    assert!(
        (50..=150).contains(&open),
        "a quarter of 300 came during a stall: {open}"
    );
    // Thirty were due in the first 100 ms of a stall. They waited for its end, however late they were sent.
    let p92 = report.quantile(0.92).unwrap();
    assert!(
        p92 >= Duration::from_millis(150),
        "a tenth waits for 150 to 250 ms: {p92:?}"
    );
    let quick = report.quantile(0.3).unwrap();
    assert!(
        quick < Duration::from_millis(100),
        "three quarters met no stall: {quick:?}"
    );
    closed_loop(&server.url, 3 * PERIOD).await;
    let closed = stalled.load(Ordering::Relaxed);
    assert!(
        (1..=5).contains(&closed),
        "one in each stall, of which there are three or four: {closed}"
    );
}

/// When the tester itself is starved, requests leave late. Users would have been on time, so the delay counts, and the
/// report says whose fault it was.
#[test]
fn the_testers_own_lateness_is_measured_and_makes_the_run_invalid() {
    let servers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let server = servers.block_on(serve(async |call: Received| call.done()));
    let starved = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let report = starved.block_on(async {
        let plan = Plan {
            max_lag: Duration::from_millis(50),
            ..plan(&server.url, Phase::constant(100.0, Duration::from_secs(2)))
        };
        let (progress, mut first) = watch::channel(Progress::default());
        let thief = tokio::spawn(async move {
            first.changed().await.unwrap();
            std::thread::sleep(Duration::from_millis(400));
        });
        let report = run(plan, Some(progress), CancellationToken::new()).await.unwrap();
        thief.await.unwrap();
        report
    });
    assert_eq!(
        report.total.completed, 200,
        "late requests are sent all the same: {:?}",
        report.failures
    );
    let (lag, latency) = (report.lag.max().unwrap(), report.latency.max().unwrap());
    assert!(
        lag > Duration::from_millis(300),
        "the first request due in the theft is 400 ms late: {lag:?}"
    );
    assert!(
        latency >= lag,
        "users waited at least as long as the request was late: {latency:?}"
    );
    assert!(!report.is_valid());
    assert!(report.invalid[0].contains("processor time"), "{:?}", report.invalid);
}

#[tokio::test]
async fn requests_above_the_bound_in_flight_are_counted_and_make_the_run_invalid() {
    let server = serve(async |call: Received| {
        tokio::time::sleep(Duration::from_secs(2)).await;
        call.done()
    })
    .await;
    let plan = Plan {
        max_in_flight: 10,
        ..plan(&server.url, Phase::constant(100.0, Duration::from_secs(1)))
    };
    let report = run(plan, None, CancellationToken::new()).await.unwrap();
    assert_eq!(
        report.total,
        Counts {
            offered: 100,
            completed: 10,
            unsent: 90,
            ..Counts::default()
        }
    );
    assert_eq!(server.calls(), 10);
    assert!(
        report
            .invalid
            .iter()
            .any(|reason| reason.contains("90 of 100") && reason.contains("--max-in-flight"))
    );
}

#[tokio::test]
async fn the_time_series_adds_up_and_windows_cut_it_by_due_time() {
    let server = serve(async |call: Received| {
        tokio::time::sleep(Duration::from_millis(if call.number < 60 { 5 } else { 600 })).await;
        call.done()
    })
    .await;
    let plan = plan(&server.url, Phase::step([20.0, 40.0, 60.0], Duration::from_secs(1)));
    let report = run(plan, None, CancellationToken::new()).await.unwrap();
    let offered: Vec<u64> = report.time_series.iter().map(|second| second.counts.offered).collect();
    assert_eq!(offered, [20, 40, 60]);
    assert_eq!(report.window(0, 3).counts, report.total);
    // Of sixty each; some may be late on a busy machine, and a few in another order than they were due.
    assert!(report.window(0, 2).quantile(0.75).unwrap() < Duration::from_millis(500));
    assert!(report.window(2, 3).quantile(0.1).unwrap() >= Duration::from_millis(590));
    assert_eq!(report.window(3, 9).quantile(0.5), None, "no requests, no latency");
}

#[tokio::test]
async fn a_cancelled_run_ends_soon_with_what_was_seen() {
    let server = serve(async |call: Received| call.done()).await;
    let cancel = CancellationToken::new();
    let (progress, mut seen) = watch::channel(Progress::default());
    let plan = plan(&server.url, Phase::constant(50.0, Duration::from_mins(10)));
    let running = tokio::spawn(run(plan, Some(progress), cancel.clone()));
    let live = seen.wait_for(|progress| progress.total.offered >= 40);
    tokio::time::timeout(Duration::from_secs(20), live)
        .await
        .expect("progress is live")
        .unwrap();
    cancel.cancel();
    let report = tokio::time::timeout(Duration::from_secs(10), running)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(report.cancelled);
    assert_eq!(report.total.offered, report.total.completed);
    assert!(seen.borrow().finished, "the last progress says so");
}

#[tokio::test]
async fn the_json_report_holds_what_programs_need() {
    let server = serve(async |call: Received| call.done()).await;
    let plan = plan(&server.url, Phase::constant(50.0, Duration::from_secs(1)));
    let report = run(plan, None, CancellationToken::new()).await.unwrap();
    let value = serde_json::to_value(&report).unwrap();
    for pointer in [
        "/total/offered",
        "/latency/p95_ms",
        "/service_latency/p99_ms",
        "/tools/0/latency/p999_ms",
        "/lag/max_ms",
        "/time_series/0/completed",
        "/time_series/0/latency/p50_ms",
    ] {
        assert!(
            value.pointer(pointer).is_some_and(serde_json::Value::is_number),
            "{pointer} in {value:#}"
        );
    }
    assert_eq!(value["invalid"], json!([]));
    assert!(mcp_load::table(&report).contains("50 offered = 50 completed + 0 shed + 0 failed + 0 unsent"));
}
