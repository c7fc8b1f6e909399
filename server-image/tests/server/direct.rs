//! Plain calls of tools are answered without rmcp, exactly as rmcp would.

use std::collections::BTreeMap;

use mcp_server::server::Fixtures;
use serde_json::{Value, json};

use crate::support::server::{TestServer, file_settings};

/// Status, headers and text of an answer.
type Answer = (u16, BTreeMap<String, String>, String);

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let headers = response.headers().iter();
    let headers = headers.filter(|(name, _)| !["date", "x-request-id", "content-length"].contains(&name.as_str()));
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    let headers = headers.collect();
    (response.status().as_u16(), headers, response.text().await.unwrap())
}

/// A call's `_meta` as clients send it.
fn meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "progressToken": "p",
    })
}

/// A client must not be able to tell which way its call took: a difference would be an error that comes and goes with a
/// header.
#[tokio::test(flavor = "multi_thread")]
async fn both_ways_answer_the_same_byte_for_byte() {
    let (settings, _folder) = file_settings();
    let server = TestServer::start(settings).await;
    for (name, id, tool, arguments) in [
        ("a value", json!(1), "echo", json!({"text": "hello"})),
        (
            "an id that is a text",
            json!("a \"b\" ü"),
            "echo",
            json!({"text": "\u{1f600}\n\0"}),
        ),
        (
            "an id that is large",
            json!(i64::MAX),
            "echo",
            json!({"text": "x".repeat(5000)}),
        ),
        (
            "an argument too many",
            json!(2),
            "echo",
            json!({"text": "a", "more": [1, {"b": null}]}),
        ),
        ("no arguments", json!(3), "simulate_work", json!({})),
        (
            "the tool's own error",
            json!(4),
            "get_session",
            json!({"session_id": "session_0123456789abcdef"}),
        ),
        ("arguments of wrong types", json!(5), "echo", json!({"text": 7})),
        ("an argument missing", json!(6), "add_message", json!({})),
    ] {
        let params = json!({"name": tool, "arguments": arguments, "_meta": meta()});
        let plain = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
        // A member that nobody knows makes no difference to rmcp, and sends the call there.
        let mut odd = plain.clone();
        odd["x-odd"] = json!(true);
        let call = |body: &Value, accept: &str| {
            let request = server.client.modern("tools/call", json!({"name": tool})).json(body);
            answer(request.header("accept", accept))
        };
        let both = "application/json, text/event-stream";
        let (direct, by_rmcp) = (call(&plain, both).await, call(&odd, both).await);
        assert_eq!(without_time(&direct), without_time(&by_rmcp), "{name}");
        assert_eq!(
            (direct.0, direct.1["content-type"].as_str()),
            (200, "application/json"),
            "{name}"
        );

        let (status, found, events) = call(&plain, "application/json;q=0.5, text/event-stream").await;
        // No proxy may keep an event back.
        let stream = [
            ("cache-control", "no-cache"),
            ("content-type", "text/event-stream"),
            ("x-accel-buffering", "no"),
        ];
        let stream = stream.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!((status, found), (200, stream), "{name}");
        let data = events.strip_prefix("data: ").and_then(|rest| rest.strip_suffix("\n\n"));
        let only = (200, direct.1.clone(), data.expect("one event").to_owned());
        assert_eq!(without_time(&only), without_time(&direct), "{name}");
    }
}

/// The answer, with the moment that an error envelope names taken out.
fn without_time((status, headers, text): &Answer) -> Answer {
    let mut parts = text.split("timestamp");
    let mut same = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // `":"2026-11-21T14:00:00.000000Z"`, with its quotation marks escaped or not
        same += part.find(['Z', '}']).map_or(part, |end| &part[end..]);
    }
    (*status, headers.clone(), same)
}

/// The official suite asks these tools, and so judges the short way, too: what it sees must be what rmcp would answer.
#[tokio::test(flavor = "multi_thread")]
async fn content_of_every_kind_is_the_same_both_ways() {
    let (mut settings, _folder) = file_settings();
    settings.operation.fixtures = Fixtures::Conformance;
    let server = TestServer::start(settings).await;
    for tool in [
        "test_simple_text",
        "test_image_content",
        "test_audio_content",
        "test_embedded_resource",
        "test_multiple_content_types",
        "test_error_handling",
        "json_schema_2020_12_tool",
    ] {
        let params = json!({"name": tool, "arguments": {}, "_meta": meta()});
        let plain = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        let mut odd = plain.clone();
        odd["x-odd"] = json!(true);
        let call = |body: &Value, accept: &str| {
            let request = server.client.modern("tools/call", json!({"name": tool})).json(body);
            answer(request.header("accept", accept))
        };
        let both = "application/json, text/event-stream";
        assert_eq!(call(&plain, both).await, call(&odd, both).await, "{tool}");
        // Only on the short way does the client choose the form.
        let events = "application/json;q=0.5, text/event-stream";
        let form = async |body| call(body, events).await.1["content-type"].clone();
        assert_eq!(form(&plain).await, "text/event-stream", "{tool} takes the short way");
        assert_eq!(
            form(&odd).await,
            "application/json",
            "{tool}, and not with a member that nobody knows"
        );
    }
}
