//! Traces, as a collector gets them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use mcp_server::telemetry::{OtlpSettings, TelemetrySettings};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::json;

use crate::support::server::{TestServer, settings};
use crate::support::until;

type Received = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

/// A collector that keeps what it gets.
struct Collector {
    url: String,
    received: Received,
}

impl Collector {
    async fn start() -> Self {
        let received = Received::default();
        let take = async |State(received): State<Received>, body: Bytes| {
            received
                .lock()
                .unwrap()
                .push(ExportTraceServiceRequest::decode(body).unwrap());
        };
        let router = Router::new()
            .route("/v1/traces", post(take))
            .with_state(Arc::clone(&received));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, router).into_future());
        Self { url, received }
    }

    fn spans(&self) -> Vec<Span> {
        let received = self.received.lock().unwrap();
        let resources = received.iter().flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    async fn until_spans(&self, count: usize) -> Vec<Span> {
        until("the spans arrive", async || {
            Some(self.spans()).filter(|spans| spans.len() >= count)
        })
        .await
    }
}

async fn traced(endpoint: &str, sampled: f64) -> TestServer {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&format!("sqlite:{}", folder.keep().join("test.db").display()));
    settings.telemetry = TelemetrySettings {
        slow_call: None,
        otlp: Some(OtlpSettings {
            endpoint: endpoint.parse().unwrap(),
            sampled,
        }),
    };
    settings.tuning.concurrency = 1;
    TestServer::start(settings).await
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const OTHER: &str = "11111111111111111111111111111111";

fn traceparent(trace: &str, flags: &str) -> String {
    format!("00-{trace}-b7ad6b7169203331-{flags}")
}

/// Whoever follows a slow answer of an agent through its trace must find the tool call in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_a_span_of_its_callers_trace() {
    let collector = Collector::start().await;
    let server = traced(&collector.url, 0.0).await;
    let call = server.client.tool("create_session", &json!({"purpose": 7}));
    call.header("traceparent", traceparent(TRACE, "01"))
        .header("x-request-id", "id-1")
        .send()
        .await
        .unwrap();
    let spans = collector.until_spans(1).await;
    let span = &spans[0];
    assert_eq!(span.name, "tools/call create_session");
    assert_eq!(
        (hex(&span.trace_id), hex(&span.parent_span_id)),
        (TRACE.to_owned(), "b7ad6b7169203331".to_owned())
    );
    assert!(span.end_time_unix_nano > span.start_time_unix_nano);
    for (name, expected) in [
        ("mcp.method.name", "tools/call"),
        ("mcp.protocol.version", "2026-07-28"),
        ("gen_ai.operation.name", "execute_tool"),
        ("gen_ai.tool.name", "create_session"),
        ("network.transport", "tcp"),
        ("error.type", "tool_error"),
        ("http.request.header.x-request-id", "id-1"),
    ] {
        assert_eq!(attribute(span, name).as_deref(), Some(expected), "{name}");
    }
    let resource = collector.received.lock().unwrap()[0].resource_spans[0]
        .resource
        .clone()
        .unwrap();
    let service = resource
        .attributes
        .iter()
        .find(|attribute| attribute.key == "service.name")
        .unwrap();
    assert_eq!(
        service.value.clone().unwrap().value,
        Some(Value::StringValue("mcp-server".to_owned()))
    );

    // Whose trace a latency bucket stands for is told on request.
    let text = reqwest::get(format!("http://{}/metrics", server.server.metrics))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let exemplar = format!("# {{trace_id=\"{TRACE}\"}}");
    let marked = |name: &str| {
        text.lines()
            .any(|line| line.starts_with(name) && line.contains(&exemplar))
    };
    assert!(marked("mcp_request_duration_seconds_bucket{") && marked("mcp_server_operation_duration_seconds_bucket{"));
}

/// Behind a gateway the header is the gateway's; the caller's own place is in the message.
#[tokio::test(flavor = "multi_thread")]
async fn the_messages_own_context_comes_first() {
    let collector = Collector::start().await;
    let server = traced(&collector.url, 0.0).await;
    let mut request = server.client.tool("simulate_work", &json!({})).build().unwrap();
    let body = request.body().unwrap().as_bytes().unwrap();
    let mut message: serde_json::Value = serde_json::from_slice(body).unwrap();
    message["params"]["_meta"]["traceparent"] = json!(traceparent(TRACE, "01"));
    *request.body_mut() = Some(message.to_string().into());
    request
        .headers_mut()
        .insert("traceparent", traceparent(OTHER, "01").parse().unwrap());
    assert!(
        reqwest::Client::new()
            .execute(request)
            .await
            .unwrap()
            .status()
            .is_success()
    );
    let span = collector.until_spans(1).await.remove(0);
    assert_eq!(hex(&span.trace_id), TRACE);
    assert_eq!(hex(&span.links[0].trace_id), OTHER, "the proxy's trace is linked");
}

/// A caller that does not record its part must not cost a span, and a wait for a slot must be seen as such.
#[tokio::test(flavor = "multi_thread")]
async fn callers_decide_and_waits_are_shown() {
    let collector = Collector::start().await;
    let server = traced(&collector.url, 1.0).await;
    let work = |flags: &str| {
        let request = server.client.tool("simulate_work", &json!({"io_ms": 50}));
        request.header("traceparent", traceparent(TRACE, flags)).send()
    };
    work("00").await.unwrap();
    let (first, second) = tokio::join!(work("01"), work("01"));
    assert!(first.unwrap().status().is_success() && second.unwrap().status().is_success());
    let spans = collector.until_spans(3).await;
    let (waits, calls): (Vec<_>, Vec<_>) = spans.iter().partition(|span| span.name == "wait for a slot");
    assert_eq!(calls.len(), 2, "the call not recorded is left out");
    // On a busy machine a call may be seen to wait that only waited for a core.
    let waits: Vec<_> = waits
        .into_iter()
        .filter(|span| span.end_time_unix_nano - span.start_time_unix_nano >= 40_000_000)
        .collect();
    assert_eq!(waits.len(), 1, "one of two has waited for the other");
    let parent = spans
        .iter()
        .find(|span| span.span_id == waits[0].parent_span_id)
        .unwrap();
    assert!(parent.start_time_unix_nano <= waits[0].start_time_unix_nano + 1_000_000);
}

/// A collector that is away, or takes connections and says nothing, must not cost a request.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_collector_costs_nothing() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for (name, address) in [("away", closed), ("silent", silent.local_addr().unwrap())] {
        let server = traced(&format!("http://{address}"), 1.0).await;
        let started = Instant::now();
        for _ in 0..50 {
            let answer = server.client.tool("simulate_work", &json!({})).send().await.unwrap();
            assert!(answer.status().is_success(), "{name}");
        }
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "{name}: 50 calls took {:?}",
            started.elapsed()
        );
        let ending = Instant::now();
        server.server.drain();
        server.server.finished().await;
        assert!(
            ending.elapsed() < Duration::from_secs(8),
            "{name}: the end took {:?}",
            ending.elapsed()
        );
    }
}
