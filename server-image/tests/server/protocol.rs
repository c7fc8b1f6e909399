//! The protocol on the wire, in both eras.

use std::time::{Duration, Instant};

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::support::client::last_event;
use crate::support::server::{TestServer, file_settings};

async fn start() -> (TestServer, tempfile::TempDir) {
    let (settings, folder) = file_settings();
    (TestServer::start(settings).await, folder)
}

/// Clients choose their behaviour by these statuses and codes.
#[tokio::test(flavor = "multi_thread")]
async fn errors_have_the_documented_statuses_and_codes() {
    let (server, _folder) = start().await;
    let client = &server.client;
    let list = || client.modern("tools/list", json!({}));
    let unknown_version = {
        let meta = json!({"io.modelcontextprotocol/protocolVersion": "2099-01-01", "io.modelcontextprotocol/clientCapabilities": {}});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}});
        client
            .post()
            .header("mcp-protocol-version", "2099-01-01")
            .header("mcp-method", "tools/list")
            .json(&body)
    };
    for (name, request, status, code) in [
        ("a good request", list(), 200, None),
        ("unknown version", unknown_version, 400, Some(-32022)),
        ("unknown method", client.modern("no/such", json!({})), 404, Some(-32601)),
        ("unknown tool", client.tool("no_such", &json!({})), 200, Some(-32602)),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{name}");
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["error"]["code"].as_i64(), code, "{name}: {answer}");
    }
    for (name, request, status) in [
        (
            "a page of the Internet, by name",
            list().header("host", "evil.example"),
            403,
        ),
        (
            "a page of the Internet, by origin",
            list().header("origin", "https://evil.example"),
            403,
        ),
        (
            "a page of this machine",
            list().header("origin", "http://localhost:3000"),
            200,
        ),
        ("a giant", client.post().body(vec![b' '; 4 * 1024 * 1024 + 1]), 413),
    ] {
        assert_eq!(request.send().await.unwrap().status(), status, "{name}");
    }
}

/// Balancers and firewalls go by these headers and do not read the body: a server that went by the body alone would do
/// what they have not let through.
#[tokio::test(flavor = "multi_thread")]
async fn headers_must_say_what_the_body_says() {
    const VERSION: (&str, &str) = ("mcp-protocol-version", "2026-07-28");
    const CALL: (&str, &str) = ("mcp-method", "tools/call");
    const NAME: (&str, &str) = ("mcp-name", "simulate_work");
    let (server, _folder) = start().await;
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    for (name, method, headers, code) in [
        ("all is said", "tools/call", &[VERSION, CALL, NAME][..], None),
        (
            "the name in base64",
            "tools/call",
            &[VERSION, CALL, ("mcp-name", "=?base64?c2ltdWxhdGVfd29yaw==?=")],
            None,
        ),
        (
            "another name in base64",
            "tools/call",
            &[VERSION, CALL, ("mcp-name", "=?base64?ZWNobw==?=")],
            Some(-32020),
        ),
        (
            "no base64 where it is announced",
            "tools/call",
            &[VERSION, CALL, ("mcp-name", "=?base64?simulate_work?=")],
            Some(-32020),
        ),
        (
            "another name",
            "tools/call",
            &[VERSION, CALL, ("mcp-name", "echo")],
            Some(-32020),
        ),
        ("no name", "tools/call", &[VERSION, CALL], Some(-32020)),
        (
            "the name twice",
            "tools/call",
            &[VERSION, CALL, NAME, NAME],
            Some(-32020),
        ),
        (
            "another resource",
            "resources/read",
            &[
                VERSION,
                ("mcp-method", "resources/read"),
                ("mcp-name", "session://other"),
            ],
            Some(-32020),
        ),
        (
            "no resource",
            "resources/read",
            &[VERSION, ("mcp-method", "resources/read")],
            Some(-32020),
        ),
        ("another method", "tools/list", &[VERSION, CALL], Some(-32020)),
        ("no method", "tools/call", &[VERSION, NAME], Some(-32020)),
        (
            "the method twice",
            "tools/call",
            &[VERSION, CALL, CALL, NAME],
            Some(-32020),
        ),
        (
            "another version",
            "tools/call",
            &[("mcp-protocol-version", "2025-11-25"), CALL, NAME],
            Some(-32020),
        ),
        ("no version", "tools/call", &[CALL, NAME], Some(-32020)),
    ] {
        let mut params = match method {
            "tools/call" => json!({"name": "simulate_work", "arguments": {}}),
            "resources/read" => json!({"uri": "server://info/_"}),
            _ => json!({}),
        };
        params["_meta"] = meta.clone();
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let mut request = server.client.post().json(&body);
        for (header, value) in headers {
            request = request.header(*header, *value);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), if code.is_some() { 400 } else { 200 }, "{name}");
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["error"]["code"].as_i64(), code, "{name}: {answer}");
    }
}

/// The author of a client sees by the answer whether its headers, its JSON or its message is wrong; and a status that
/// speaks of the type sends them looking in the wrong place.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_messages_are_told_apart() {
    let (server, _folder) = start().await;
    let client = &server.client;
    let session = client.legacy_session().await;
    let modern = || client.post().header("mcp-protocol-version", "2026-07-28");
    for (name, body, code, id) in [
        ("no JSON", "{", -32700, json!(null)),
        ("nothing", "", -32700, json!(null)),
        ("a number", "7", -32600, json!(null)),
        (
            "a list",
            r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#,
            -32600,
            json!(null),
        ),
        ("no version", r#"{"id":7,"method":"tools/list"}"#, -32600, json!(7)),
        (
            "an odd id",
            r#"{"jsonrpc":"2.0","id":[],"method":"tools/list"}"#,
            -32600,
            json!(null),
        ),
        (
            "neither request nor answer",
            r#"{"jsonrpc":"2.0","id":"a"}"#,
            -32600,
            json!("a"),
        ),
    ] {
        for (era, request) in [
            ("2026-07-28", modern()),
            ("2025-11-25", session.post()),
            ("none", client.post()),
        ] {
            let response = request.body(body).send().await.unwrap();
            assert_eq!(response.status(), 400, "{name}, {era}");
            assert_eq!(response.headers()["content-type"], "application/json", "{name}, {era}");
            let answer: Value = response.json().await.unwrap();
            assert_eq!(
                (&answer["error"]["code"], &answer["id"]),
                (&json!(code), &id),
                "{name}, {era}"
            );
            assert_eq!(answer["jsonrpc"], "2.0", "{name}, {era}");
        }
    }
    let raw = || {
        reqwest::Client::new()
            .post(format!("http://{}/mcp", server.server.mcp))
            .body("{")
    };
    let (both, json) = ("application/json, text/event-stream", "application/json");
    for (name, request, status) in [
        ("no type", raw().header("accept", both), 415),
        (
            "another type",
            raw().header("accept", both).header("content-type", "text/plain"),
            415,
        ),
        (
            "no answer accepted",
            raw().header("accept", "text/html").header("content-type", json),
            406,
        ),
        (
            "half of the answers accepted",
            raw().header("accept", json).header("content-type", json),
            406,
        ),
    ] {
        assert_eq!(request.send().await.unwrap().status(), status, "{name}");
    }
    let scrape = server.scrape().await;
    assert_eq!(
        scrape.sum("mcp_in_flight_requests", &[]),
        Some(0.0),
        "slots are given back"
    );
}

/// Clients learn by 405 that there is no stream and no session to be had, and by `Allow` what there is.
#[tokio::test(flavor = "multi_thread")]
async fn each_era_has_its_methods() {
    let (server, _folder) = start().await;
    let session = server.client.legacy_session().await;
    let url = format!("http://{}/mcp", server.server.mcp);
    let http = reqwest::Client::new();
    let (modern, legacy) = (Some("2026-07-28"), Some("2025-11-25"));
    for (version, named, methods, allowed) in [
        (
            modern,
            None,
            &["GET", "DELETE", "PUT", "PATCH", "OPTIONS", "HEAD"][..],
            "POST",
        ),
        (modern, Some(&session.id), &["GET", "DELETE"], "POST"),
        (
            legacy,
            Some(&session.id),
            &["PUT", "PATCH", "OPTIONS", "HEAD"],
            "GET, POST, DELETE",
        ),
        (legacy, None, &["PUT", "PATCH"], "GET, POST, DELETE"),
        (None, None, &["PUT", "PATCH"], "GET, POST, DELETE"),
    ] {
        for method in methods {
            let mut request = http
                .request(method.parse().unwrap(), &url)
                .header("accept", "text/event-stream");
            if let Some(version) = version {
                request = request.header("mcp-protocol-version", version);
            }
            if let Some(session) = named {
                request = request.header("mcp-session-id", session);
            }
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 405, "{method} of {version:?}");
            assert_eq!(response.headers()["allow"], allowed, "{method} of {version:?}");
        }
    }
    assert_eq!(
        session.call("simulate_work", json!({})).await["success"],
        true,
        "the session is still there"
    );
    assert!(session.delete().await.status().is_success());
}

/// Every replica must list the same tools in the same order, with how long the list may be kept.
#[tokio::test(flavor = "multi_thread")]
async fn discovery_and_tools() {
    let (server, _folder) = start().await;
    let discovered: Value = server
        .client
        .modern("server/discover", json!({}))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let versions = discovered["result"]["supportedVersions"].as_array().unwrap();
    for version in ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"] {
        assert!(versions.contains(&json!(version)), "{version}");
    }
    let listed: Value = server
        .client
        .modern("tools/list", json!({}))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let result = &listed["result"];
    assert_eq!(
        (&result["ttlMs"], &result["cacheScope"]),
        (&json!(300_000), &json!("public"))
    );
    let names: Vec<&str> = result["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["name"].as_str().unwrap())
        .collect();
    assert!(names.is_sorted(), "{names:?}");
    for expected in [
        "add_message",
        "authenticate_agent",
        "create_session",
        "echo",
        "get_memory",
        "get_messages",
        "get_session",
        "get_usage_guidance",
        "list_memory",
        "refresh_token",
        "search_by_sender",
        "search_by_timerange",
        "search_context",
        "set_memory",
        "simulate_work",
    ] {
        assert!(names.contains(&expected), "{expected} is missing in {names:?}");
    }
}

/// With Nagle's algorithm each answer as an event stream takes 40 ms more than one of plain JSON does.
#[tokio::test(flavor = "multi_thread")]
async fn event_streams_are_not_delayed() {
    let (server, _folder) = start().await;
    let session = server.client.legacy_session().await;
    let call = async |request: RequestBuilder, kind: &str| {
        let started = Instant::now();
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], kind);
        let text = response.text().await.unwrap();
        let took = started.elapsed();
        let is_stream = kind == "text/event-stream";
        let answer = if is_stream {
            last_event(&text)
        } else {
            serde_json::from_str(&text).unwrap()
        };
        assert_eq!(answer["result"]["structuredContent"]["success"], true, "{answer}");
        took
    };
    // In turns, so that a slow machine slows both.
    let (mut streams, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        streams.push(call(session.tool("simulate_work", &json!({})), "text/event-stream").await);
        plain.push(call(server.client.tool("simulate_work", &json!({})), "application/json").await);
    }
    let [streams, plain] = [streams, plain].map(|mut times| {
        times.sort_unstable();
        times[10]
    });
    assert!(
        streams < plain + Duration::from_millis(30),
        "median {streams:?}, of plain JSON {plain:?}"
    );
}
