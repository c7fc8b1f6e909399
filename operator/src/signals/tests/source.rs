//! The connection: how many queries, and what a person is told when they fail.

use super::answers::{NOW, answer, counters, distributions, prometheus, source};
use crate::signals::{PrometheusSource, TimeLimits};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use wiremock::ResponseTemplate;

fn text(status: u16, body: &str, kind: &str) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_raw(body.as_bytes().to_vec(), kind)
}

/// Every failure has a reason of its own, so that the condition tells a person where to look.
#[tokio::test]
async fn failures_are_told_apart() {
    let unavailable = json!({"status": "error", "errorType": "unavailable", "error": "TSDB not ready"});
    let cases = [
        (
            "503 in plain text",
            text(503, "Service Unavailable", "text/plain"),
            "PrometheusRefused",
        ),
        (
            "503 of the API",
            ResponseTemplate::new(503).set_body_json(unavailable),
            "PrometheusRefused",
        ),
        (
            "a login page",
            text(200, "<html></html>", "text/html"),
            "PrometheusAnswerInvalid",
        ),
        (
            "a redirect",
            ResponseTemplate::new(302).insert_header("location", "/login"),
            "PrometheusAnswerInvalid",
        ),
        (
            "malformed JSON",
            text(200, "{\"status\":\"succ", "application/json"),
            "PrometheusAnswerInvalid",
        ),
        (
            "JSON of something else",
            text(200, "{\"hello\":1}", "application/json"),
            "PrometheusAnswerInvalid",
        ),
        (
            "another kind of result",
            answer("vector", &[]),
            "PrometheusAnswerInvalid",
        ),
        (
            "no answer in time",
            answer("matrix", &[]).set_delay(Duration::from_secs(30)),
            "PrometheusTimedOut",
        ),
    ];
    for (name, response, reason) in cases {
        let server = prometheus(response, answer("vector", &[])).await;
        let asked = Instant::now();
        let error = source(&server.uri()).sense(NOW).await.expect_err(name);
        assert_eq!(error.reason(), reason, "{name}: {error}");
        assert!(
            error.to_string().contains(&server.uri()),
            "{name} names the address: {error}"
        );
        assert!(asked.elapsed() < Duration::from_secs(10), "{name} keeps the time limit");
    }
}

/// Half of the signals would look like the absence of the other half.
#[tokio::test]
async fn one_failing_query_fails_the_tick() {
    let server = prometheus(answer("matrix", &counters("a", 10.0)), text(503, "no", "text/plain")).await;
    let error = source(&server.uri())
        .sense(NOW)
        .await
        .expect_err("the second query fails");
    assert_eq!(error.reason(), "PrometheusRefused");
}

#[tokio::test]
async fn nobody_listening_is_unreachable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let error = source(&url).sense(NOW).await.expect_err("nobody listens");
    assert_eq!(error.reason(), "PrometheusUnreachable", "{error}");
    assert!(error.to_string().contains("refused"), "the cause is named: {error}");
}

#[test]
fn a_bad_url_is_refused_at_start() {
    for url in ["", "prometheus", "prometheus:9090", "http://", "file:///prometheus"] {
        let error = PrometheusSource::new(url, Duration::from_secs(5), TimeLimits::default()).err();
        assert_eq!(
            error.map(|error| error.reason()),
            Some("PrometheusUrlInvalid"),
            "{url:?}"
        );
    }
}

/// A thousand servers must not send a thousand queries.
#[tokio::test]
async fn the_number_of_queries_does_not_depend_on_the_pods() {
    for pods in [0, 1, 300] {
        let names: Vec<String> = (0..pods).map(|index| format!("pod-{index}")).collect();
        let raw: Vec<Value> = names.iter().flat_map(|pod| counters(pod, 10.0)).collect();
        let sums: Vec<Value> = names.iter().flat_map(|pod| distributions(pod)).collect();
        let server = prometheus(answer("matrix", &raw), answer("vector", &sums)).await;
        source(&server.uri()).sense(NOW).await.expect("answered");
        let requests = server.received_requests().await.expect("recorded");
        assert_eq!(requests.len(), 2, "{pods} pods");
    }
}

/// Both queries must ask for the same instant: ages are computed against it.
#[tokio::test]
async fn queries_ask_for_the_instant_of_the_tick() {
    let server = prometheus(answer("matrix", &[]), answer("vector", &[])).await;
    source(&server.uri()).sense(NOW).await.expect("answered");
    let requests = server.received_requests().await.expect("recorded");
    for request in requests {
        let body = String::from_utf8(request.body).expect("a form");
        assert!(body.contains("time=1700000000.000"), "{body}");
    }
}
