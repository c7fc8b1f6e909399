//! Answers of the Prometheus API, a Prometheus that gives them, and what comes out of them.

use crate::signals::query::metric::{BUSY_SECONDS, CPU_SECONDS, OFFERED, SHED, START_TIME};
use crate::signals::{ClusterSignals, LivePod, PrometheusSource, TimeLimits};
use mcpscale_autoscaler::{Demand, Signals};
use serde_json::{Value, json};
use std::time::Duration;
use wiremock::matchers::{body_string_contains, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

/// The instant of every test, in Unix seconds.
pub const NOW: f64 = 1_700_000_000.0;
/// Seconds between scrapes.
pub const SCRAPE: f64 = 5.0;

/// What a counter shows at each scrape of the last minute, oldest first.
pub fn scrapes(value: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
    (0..=10)
        .rev()
        .map(|index| f64::from(index) * SCRAPE + 1.0)
        .map(|age| (NOW - age, value(NOW - age)))
        .collect()
}

/// A series of the raw query.
pub fn series(name: &str, pod: &str, samples: &[(f64, f64)]) -> Value {
    let values: Vec<Value> = samples
        .iter()
        .map(|(time, value)| json!([time, number(*value)]))
        .collect();
    json!({"metric": {"__name__": name, "namespace": "agents", "pod": pod, "mcpserver": "context"}, "values": values})
}

/// A number as Prometheus writes it.
fn number(value: f64) -> String {
    if value.is_infinite() {
        "+Inf".to_owned()
    } else {
        value.to_string()
    }
}

/// The counters of a pod that started long ago: `calls_per_second`, a tenth of them shed, 0.1 s each, 0.2 cores.
pub fn counters(pod: &str, calls_per_second: f64) -> Vec<Value> {
    let since = |time: f64| time - (NOW - 1_000.0);
    let steady = |rate: f64| scrapes(|time| rate * since(time));
    vec![
        series(OFFERED, pod, &steady(calls_per_second)),
        series(SHED, pod, &steady(0.1 * calls_per_second)),
        series(BUSY_SECONDS, pod, &steady(0.09 * calls_per_second)),
        series(CPU_SECONDS, pod, &steady(0.2)),
        series(START_TIME, pod, &scrapes(|_| NOW - 1_000.0)),
    ]
}

/// A series of the distribution query.
pub fn distribution(signal: &str, pod: &str, label: (&str, &str), value: f64) -> Value {
    let (name, content) = label;
    let metric = json!({"namespace": "agents", "pod": pod, "signal": signal, name: content});
    json!({"metric": metric, "value": [NOW, number(value)]})
}

/// Histograms and outcomes of a pod: 90 calls within 0.1 s, 9 within 1 s, one beyond; 98 good, one failed, one shed.
pub fn distributions(pod: &str) -> Vec<Value> {
    let bounds = [("0.1", 90.0), ("1", 99.0), ("+Inf", 100.0)];
    let mut all: Vec<Value> = ["service", "latency", "latency_long"]
        .iter()
        .flat_map(|signal| bounds.map(|(bound, count)| distribution(signal, pod, ("le", bound), count)))
        .collect();
    let outcomes = [("ok", 98.0), ("error", 1.0), ("shed", 1.0)];
    all.extend(outcomes.map(|(status, count)| distribution("outcome", pod, ("status", status), count)));
    all
}

/// A successful answer.
pub fn answer(kind: &str, result: &[Value]) -> ResponseTemplate {
    let body = json!({"status": "success", "data": {"resultType": kind, "result": result}});
    ResponseTemplate::new(200).set_body_json(body)
}

/// A Prometheus that gives these two answers, each at most once: a failure of one may come before the other is asked.
pub async fn prometheus(counters: ResponseTemplate, distributions: ResponseTemplate) -> MockServer {
    // Not one from the pool: a query that an earlier test gave up may still arrive there.
    let server = MockServer::builder().start().await;
    for (marker, response) in [
        ("mcp_requests_offered_total", counters),
        ("label_replace", distributions),
    ] {
        let query = Mock::given(method("POST"))
            .and(path("/api/v1/query"))
            .and(body_string_contains(marker));
        query.respond_with(response).expect(0..=1).mount(&server).await;
    }
    server
}

/// A source for it with short time limits.
pub fn source(url: &str) -> PrometheusSource {
    let limits = TimeLimits {
        connect: Duration::from_millis(500),
        total: Duration::from_millis(500),
    };
    PrometheusSource::new(url, Duration::from_secs_f64(SCRAPE), limits).expect("a URL")
}

/// What is sensed from these series.
pub async fn sensed(counters: &[Value], distributions: &[Value]) -> ClusterSignals {
    let server = prometheus(answer("matrix", counters), answer("vector", distributions)).await;
    source(&server.uri())
        .sense(NOW)
        .await
        .expect("both queries are answered")
}

/// The signals of the server with these pods.
pub async fn signals_of(pods: &[LivePod<'_>], counters: &[Value], distributions: &[Value]) -> Signals {
    sensed(counters, distributions).await.for_server("agents", pods)
}

/// The demand, which must be fresh.
pub fn demand(signals: &Signals) -> Demand {
    *signals.demand.usable().expect("the demand is fresh")
}

/// Equal but for one percent.
pub fn close(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= 0.01 * expected.abs()
}

/// Replaces the samples of one metric of one pod.
pub fn replace(mut raw: Vec<Value>, name: &str, pod: &str, samples: &[(f64, f64)]) -> Vec<Value> {
    raw.retain(|one| one["metric"]["__name__"] != name);
    raw.push(series(name, pod, samples));
    raw
}
