//! Requests that are nearly right, or of clients of long ago: each gets the answer that its client can use.

use std::time::Duration;

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::support::client::{Client, last_event};
use crate::support::events::Events;
use crate::support::server::{TestServer, file_settings};

async fn start() -> (TestServer, tempfile::TempDir) {
    let (settings, folder) = file_settings();
    (TestServer::start(settings).await, folder)
}

async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    let is_stream = text.starts_with("id:") || text.starts_with("data:") || text.starts_with("event:");
    let message = if is_stream {
        last_event(&text)
    } else {
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    };
    (status, message)
}

/// "Method not found" tells a client that the server has no tools at all: a wrong parameter must not say so.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_parameters_are_not_a_method_that_does_not_exist() {
    let (server, _folder) = start().await;
    let client = &server.client;
    let session = client.legacy_session().await;
    for (name, method, params) in [
        (
            "a list of arguments",
            "tools/call",
            json!({"name": "echo", "arguments": []}),
        ),
        (
            "arguments as text",
            "tools/call",
            json!({"name": "echo", "arguments": "{}"}),
        ),
        ("no tool", "tools/call", json!({"arguments": {}})),
        ("no URI", "resources/read", json!({})),
        ("no prompt", "prompts/get", json!({})),
        ("no page", "tools/list", json!({"cursor": "2"})),
        ("no page of resources", "resources/list", json!({"cursor": "2"})),
        (
            "no page of templates",
            "resources/templates/list",
            json!({"cursor": ""}),
        ),
        ("no page of prompts", "prompts/list", json!({"cursor": "2"})),
    ] {
        let (_, modern) = answer(client.modern(method, params.clone())).await;
        assert_eq!(modern["error"]["code"], -32602, "{name}: {modern}");
        let (_, legacy) = answer(session.request(method, &params)).await;
        assert_eq!(legacy["error"]["code"], -32602, "{name}, in a session: {legacy}");
    }
    let (status, unknown) = answer(client.modern("tools/cal", json!({"name": "echo"}))).await;
    assert_eq!((status, &unknown["error"]["code"]), (404, &json!(-32601)), "{unknown}");
}

/// Whoever writes a client by hand learns what is missing, not that it needs the session that it is about to open.
#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_initialize_is_explained() {
    let (server, _folder) = start().await;
    let params = json!({"protocolVersion": "2025-06-18", "capabilities": {}});
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": "initialize", "params": params});
    let (status, refusal) = answer(server.client.post().json(&body)).await;
    assert_eq!(
        (status, &refusal["id"], &refusal["error"]["code"]),
        (400, &json!(7), &json!(-32602)),
        "{refusal}"
    );
}

/// What a request without a session follows nobody would ever hear of, and everybody could have the server follow more.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_session_nothing_is_followed() {
    let (server, _folder) = start().await;
    for version in ["2025-06-18", "2025-11-25"] {
        for method in ["resources/subscribe", "resources/unsubscribe"] {
            let meta = json!({
                "io.modelcontextprotocol/protocolVersion": version,
                "io.modelcontextprotocol/clientCapabilities": {},
            });
            let params = json!({"uri": "server://info/x", "_meta": meta});
            let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
            let request = server.client.post().header("mcp-protocol-version", version);
            let (status, refusal) = answer(request.json(&body)).await;
            assert!(
                status == 400 || refusal["error"].is_object(),
                "{version} {method}: {refusal}"
            );
        }
    }
}

/// A session of a client that speaks `version`, or says of none.
async fn session(client: &Client, version: Option<&str>) -> impl Fn(RequestBuilder) -> RequestBuilder + use<> {
    let hello = json!({
        "protocolVersion": version.unwrap_or("2025-03-26"),
        "capabilities": {},
        "clientInfo": {"name": "old", "version": "1"},
    });
    let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello});
    let response = client.post().json(&body).send().await.unwrap();
    let id = response.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    let mut events = Events::of(response);
    assert!(
        events.next().await.unwrap().message["result"].is_object(),
        "no event before the answer"
    );
    let version = version.map(str::to_owned);
    move |request| {
        let request = request.header("mcp-session-id", &id);
        match &version {
            Some(version) => request.header("mcp-protocol-version", version),
            None => request,
        }
    }
}

/// SDKs of before 2025-11-25 read each event as JSON: one without data is an error in their logs at every call.
#[tokio::test(flavor = "multi_thread")]
async fn clients_of_before_get_no_event_without_a_message() {
    let (server, _folder) = start().await;
    let client = &server.client;
    for (version, begins_empty) in [(None, false), (Some("2025-06-18"), false), (Some("2025-11-25"), true)] {
        let in_session = session(client, version).await;
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": "echo", "arguments": {"text": "hello"}}});
        let called = in_session(client.post().json(&call)).send().await.unwrap();
        assert_eq!(called.status(), 200, "{version:?}");
        let first = Events::of(called).next().await.unwrap();
        assert_eq!(
            first.message.is_null(),
            begins_empty,
            "{version:?}: {:?}",
            first.message
        );
        assert!(first.id.is_some(), "{version:?}: a client goes on from here");

        let mut news = in_session(client.get()).send().await.unwrap();
        assert_eq!(news.status(), 200, "{version:?}");
        // What must not come would come at once; what must may take its time.
        let patience = if begins_empty {
            Duration::from_secs(20)
        } else {
            Duration::from_millis(500)
        };
        let first = tokio::time::timeout(patience, news.chunk()).await;
        let begins = first.is_ok_and(|chunk| chunk.unwrap().unwrap().starts_with(b"retry:"));
        assert_eq!(begins, begins_empty, "{version:?}: the stream of news");
    }
}

/// A client that speaks what nobody speaks must hear so, whatever the method.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_of_a_revision_that_exists() {
    let (server, _folder) = start().await;
    let session = server.client.legacy_session().await;
    let get = |version: &str| {
        let request = server.client.get().header("mcp-session-id", &session.id);
        request.header("mcp-protocol-version", version)
    };
    assert_eq!(get("1999-01-01").send().await.unwrap().status(), 400);
    assert_eq!(get("2025-06-18").send().await.unwrap().status(), 200);
}

/// A client that gives two running calls the same id loses one answer, by its own mistake. It must not keep its session
/// in memory for ever, nor hold up the end of the replica.
#[tokio::test]
async fn two_calls_of_one_id_end() {
    let (mut settings, _folder) = file_settings();
    settings.data.sessions.idle = Duration::from_secs(5);
    let server = TestServer::start(settings).await;
    let session = server.client.legacy_session().await;
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "simulate_work", "arguments": {"io_ms": 300}}});
    let calls = [0, 1].map(|_| tokio::spawn(session.post().json(&call).send()));
    server.until_metric("mcp_in_flight_requests", 2.0).await;
    for call in calls {
        call.abort();
    }
    assert_eq!(server.scrape().await.value("mcp_active_sessions", &[]), 1.0);
    // Five minutes for whoever asks tokio for the time: longer than anything waits for the end of a call.
    tokio::time::pause();
    tokio::time::sleep(Duration::from_mins(5)).await;
    tokio::time::resume();
    server.until_metric("mcp_active_sessions", 0.0).await;
}
