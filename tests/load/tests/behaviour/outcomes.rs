//! What the load tester makes of a server's answers. Each wrong judgement here would let a broken server pass.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::fake::{Fake, Received, json_response, serve, shed};
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use mcp_load::{CancellationToken, Counts, FailureKind, Mix, Phase, Plan, Report, RunError, run};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn plan(url: &str) -> Plan {
    let phases = [Phase::constant(100.0, Duration::from_secs(1))];
    Plan {
        max_lag: Duration::from_secs(1),
        ..Plan::new(url, Mix::tool("echo", json!({"text": "hello"})), phases)
    }
}

async fn run_against(server: &Fake) -> Report {
    run(plan(&server.url), None, CancellationToken::new()).await.unwrap()
}

#[tokio::test]
async fn every_request_of_the_plan_is_sent_once_and_completed() {
    let server = serve(async |call: Received| call.done()).await;
    let report = run_against(&server).await;
    assert_eq!(
        report.total,
        Counts {
            offered: 100,
            completed: 100,
            ..Counts::default()
        }
    );
    assert_eq!(server.calls(), 100);
    assert!(report.is_valid(), "{:?}", report.invalid);
    assert!(
        report.seconds < 5.0,
        "a run ends when its last answer is there: {} s",
        report.seconds
    );
    assert_eq!(report.http_statuses.get(&200), Some(&100));
}

#[tokio::test]
async fn modern_requests_carry_what_the_protocol_demands() {
    let server = serve(async |call: Received| {
        let meta = &call.body["params"]["_meta"];
        let is_right = call.header("mcp-protocol-version") == "2026-07-28"
            && call.header("mcp-method") == "tools/call"
            && call.header("mcp-name") == "echo"
            && call.header("mcp-session-id").is_empty()
            && meta["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"
            && meta["io.modelcontextprotocol/clientCapabilities"].is_object()
            && call.body["params"]["arguments"]["text"] == "hello";
        if is_right {
            call.done()
        } else {
            StatusCode::BAD_REQUEST.into_response()
        }
    })
    .await;
    assert_eq!(run_against(&server).await.failed(), 0);
}

#[tokio::test]
async fn errors_inside_http_200_are_failures_by_code() {
    let server = serve(async |call: Received| match call.number % 4 {
        0 => json_response(
            &json!({"jsonrpc":"2.0","id":call.body["id"],"error":{"code":-32603,"message":"no database"}}),
        ),
        1 => call.result(&json!({"isError": true, "content": [{"type": "text", "text": "SESSION_NOT_FOUND"}]})),
        2 => "<html>ok</html>".into_response(),
        _ => call.done(),
    })
    .await;
    let report = run_against(&server).await;
    assert_eq!(
        report.total,
        Counts {
            offered: 100,
            completed: 25,
            failed: 75,
            ..Counts::default()
        }
    );
    for kind in [
        FailureKind::JsonRpc(-32603),
        FailureKind::ToolError,
        FailureKind::InvalidAnswer,
    ] {
        assert_eq!(report.failed_by(kind), 25, "{kind}");
    }
    let samples: String = report.failures.iter().map(|failure| failure.sample.as_str()).collect();
    assert!(
        samples.contains("no database") && samples.contains("SESSION_NOT_FOUND"),
        "{samples}"
    );
    assert_eq!(report.latency.count(), 25, "fast failures must not improve the latency");
}

#[tokio::test]
async fn shed_requests_are_counted_apart_from_failures() {
    let server = serve(async |call: Received| match call.number % 4 {
        0 => shed(),
        1 => StatusCode::TOO_MANY_REQUESTS.into_response(),
        2 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        _ => call.done(),
    })
    .await;
    let report = run_against(&server).await;
    assert_eq!(
        report.total,
        Counts {
            offered: 100,
            completed: 25,
            shed: 50,
            failed: 25,
            unsent: 0
        }
    );
    assert_eq!(
        report.failed_by(FailureKind::HttpStatus(503)),
        25,
        "a 503 without Retry-After is a failure"
    );
    assert_eq!(report.http_statuses, [(200, 25), (429, 25), (503, 50)].into());
}

#[tokio::test]
async fn answers_in_event_streams_are_read_to_the_right_message() {
    let server = serve(async |call: Received| {
        let id = &call.body["id"];
        let result = json!({"jsonrpc": "2.0", "id": id, "result": {"content": []}}).to_string();
        let error = json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32000, "message": "late"}}).to_string();
        let last = match call.number % 3 {
            0 => format!("event: message\r\ndata: {result}\r\n\r\n"),
            1 => format!("data: {error}\n\n"),
            _ => String::new(),
        };
        let parts = [
            ": keep-alive\n\nid: 0\nretry: 3000\ndata:\n\n".to_owned(),
            "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\nda".to_owned(),
            "ta: {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n\n".to_owned(),
            last,
        ];
        let stream = futures::stream::iter(parts.map(Ok::<_, std::convert::Infallible>));
        (
            [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")],
            Body::from_stream(stream),
        )
            .into_response()
    })
    .await;
    let report = run_against(&server).await;
    assert_eq!(
        report.total,
        Counts {
            offered: 100,
            completed: 34,
            failed: 66,
            ..Counts::default()
        }
    );
    assert_eq!(report.failed_by(FailureKind::JsonRpc(-32000)), 33);
    assert_eq!(
        report.failed_by(FailureKind::InvalidAnswer),
        33,
        "streams that end without an answer"
    );
}

#[tokio::test]
async fn a_request_without_an_answer_times_out() {
    let server = serve(async |call: Received| {
        if call.number.is_multiple_of(2) {
            std::future::pending::<()>().await;
        }
        call.done()
    })
    .await;
    let plan = Plan {
        // Long enough that those that are answered never take as long.
        timeout: Duration::from_secs(2),
        ..plan(&server.url)
    };
    let report = run(plan, None, CancellationToken::new()).await.unwrap();
    assert_eq!(report.failed_by(FailureKind::Timeout), 50);
    assert_eq!(report.total.completed, 50);
}

#[tokio::test]
async fn broken_and_refused_connections_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    // Answers the list of tools, breaks the next 20 connections in the middle of an answer, then is gone.
    tokio::spawn(async move {
        let mut request = vec![0; 4096];
        let list = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"echo"}]}}"#;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: ";
        for number in 0..21 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut request).await.unwrap();
            let length = if number == 0 { list.len() } else { 10_000 };
            stream
                .write_all(format!("{head}{length}\r\n\r\n{list}").as_bytes())
                .await
                .unwrap();
        }
    });
    let report = run(plan(&url), None, CancellationToken::new()).await.unwrap();
    assert_eq!(
        report.total,
        Counts {
            offered: 100,
            failed: 100,
            ..Counts::default()
        }
    );
    let (broken, refused) = (
        report.failed_by(FailureKind::ConnectionLost),
        report.failed_by(FailureKind::Connect),
    );
    assert!(
        broken >= 20 && refused >= 60,
        "{broken} broken, {refused} refused: {:?}",
        report.failures
    );
    let sample = &report
        .failures
        .iter()
        .find(|failure| failure.kind == FailureKind::Connect)
        .unwrap()
        .sample;
    assert!(
        sample.contains("refused"),
        "the sample says what the system said: {sample}"
    );
}

#[tokio::test]
async fn a_server_without_the_tool_is_refused_before_any_load() {
    let server = serve(async |call: Received| call.done()).await;
    let plan = Plan {
        mix: Mix::simulate_work(1, 0),
        ..plan(&server.url)
    };
    let error = run(plan, None, CancellationToken::new()).await.unwrap_err();
    assert!(
        matches!(&error, RunError::NoSuchTool { tool, .. } if tool == "simulate_work"),
        "{error}"
    );
    assert!(
        error.to_string().contains("echo"),
        "the message lists what there is: {error}"
    );
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn a_value_that_was_written_and_is_not_read_is_a_failure() {
    for keeps_values in [true, false] {
        let memory = Arc::new(Mutex::new(serde_json::Map::new()));
        let server = serve(move |call: Received| {
            let arguments = &call.body["params"]["arguments"];
            let key = arguments["key"].as_str().unwrap_or_default().to_owned();
            let mut memory = memory.lock().unwrap();
            let content = match call.header("mcp-name") {
                "create_session" => json!({"session_id": format!("session_{}", call.number)}),
                "set_memory" if keeps_values => json!({"previous": memory.insert(key, arguments["value"].clone())}),
                "get_memory" => json!({"value": memory.get(&key)}),
                "add_message" | "get_messages" | "get_session" => {
                    assert!(arguments["session_id"].as_str().unwrap().starts_with("session_"));
                    json!({"success": true})
                }
                _ => json!({"success": true}),
            };
            std::future::ready(call.result(&json!({"structuredContent": content, "content": []})))
        })
        .await;
        let plan = Plan {
            mix: Mix::shared_context(),
            ..plan(&server.url)
        };
        let report = run(plan, None, CancellationToken::new()).await.unwrap();
        let reads = report
            .tools
            .iter()
            .find(|tool| tool.tool == "get_memory")
            .unwrap()
            .counts;
        assert!(reads.offered > 10 && report.tools.iter().all(|tool| tool.counts.offered > 0));
        let wrong = if keeps_values { 0 } else { reads.offered };
        assert_eq!(
            report.failed_by(FailureKind::WrongAnswer),
            wrong,
            "server keeps values: {keeps_values}"
        );
        assert_eq!(report.failed(), wrong);
    }
}
