//! The REST shim: tools for programs that speak no MCP.

use mcp_server::auth::api_keys::generate;
use mcp_server::auth::{Method, ScopeRules, Settings};
use mcp_server::limits::Rates;
use mcp_server::server::Fixtures;
use mcp_server::tools::shared_context::ApiKeys;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::support::server::{TestServer, file_settings};
use crate::support::until;

const KEY: &str = "a key of more than thirty-two characters";

struct Rest {
    server: TestServer,
    http: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl Rest {
    async fn start(change: impl FnOnce(&mut mcp_server::server::Settings)) -> Self {
        let (mut settings, folder) = file_settings();
        settings.network.rest_shim = true;
        change(&mut settings);
        Self {
            server: TestServer::start(settings).await,
            http: reqwest::Client::new(),
            _folder: folder,
        }
    }

    fn post(&self, tool: &str) -> reqwest::RequestBuilder {
        self.http
            .post(format!("http://{}/mcp/tool/{tool}", self.server.server.mcp))
    }

    async fn call(&self, tool: &str, token: &str, arguments: Value) -> (StatusCode, Value) {
        let request = self.post(tool).bearer_auth(token).json(&arguments);
        answer(request.send().await.unwrap()).await
    }
}

async fn answer(response: Response) -> (StatusCode, Value) {
    (response.status(), response.json().await.unwrap())
}

/// What the guides of the shared-context server show must work: a token for a key, then calls with the token.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_without_mcp_does_everything() {
    let rest = Rest::start(|settings| {
        settings.shared_context.api_keys = ApiKeys::read(Some(KEY), None).unwrap();
    })
    .await;
    let who = json!({"agent_id": "ann", "agent_type": "claude", "api_key": KEY});
    let (status, answered) = answer(rest.post("authenticate_agent").json(&who).send().await.unwrap()).await;
    assert_eq!(
        (status, &answered["success"]),
        (StatusCode::OK, &json!(true)),
        "{answered}"
    );
    let token = answered["token"].as_str().unwrap();

    let (_, session) = rest.call("create_session", token, json!({"purpose": "p"})).await;
    let id = &session["session_id"];
    let (status, sent) = rest
        .call("add_message", token, json!({"session_id": id, "content": "hello"}))
        .await;
    assert_eq!(status, StatusCode::OK, "{sent}");
    let (_, page) = rest.call("get_messages", token, json!({"session_id": id})).await;
    assert_eq!(
        (
            &page["messages"][0]["content"],
            &page["messages"][0]["sender"],
            &page["total_count"]
        ),
        (&json!("hello"), &json!("ann"), &json!(1))
    );
    for (name, tool, token, arguments, status, code) in [
        ("no tool", "no_such", token, json!({}), 404, "TOOL_NOT_FOUND"),
        (
            "no token",
            "create_session",
            "",
            json!({"purpose": "p"}),
            403,
            "PERMISSION_DENIED",
        ),
        (
            "a wrong token",
            "create_session",
            "sct_00000000-0000-4000-8000-000000000000",
            json!({"purpose": "p"}),
            401,
            "TOKEN_AUTHENTICATION_FAILED",
        ),
        (
            "a wrong argument",
            "create_session",
            token,
            json!({"purpose": 1}),
            400,
            "INVALID_INPUT_FORMAT",
        ),
        (
            "a list as body",
            "create_session",
            token,
            json!([]),
            400,
            "INVALID_INPUT_FORMAT",
        ),
        (
            "no session",
            "get_session",
            token,
            json!({"session_id": "session_0000000000000000"}),
            404,
            "SESSION_NOT_FOUND",
        ),
    ] {
        let (found, error) = rest.call(tool, token, arguments).await;
        assert_eq!(
            (found.as_u16(), &error["code"]),
            (status, &json!(code)),
            "{name}: {error}"
        );
        assert_eq!(error["success"], false, "{name}");
    }
    let scrape = rest.server.scrape().await;
    let count = |tool: &str| scrape.value("mcp_requests_total", &[("tool", tool), ("status", "ok")]);
    assert_eq!((count("create_session"), count("add_message")), (4.0, 1.0));
    assert_eq!(scrape.value("mcp_in_flight_requests", &[]), 0.0, "slots are given back");
}

/// A page of the Internet must not be able to use a server on the same machine through a browser.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_the_internet_are_refused() {
    let rest = Rest::start(|_| {}).await;
    let good = || rest.post("create_session").body(r#"{"purpose":"p"}"#);
    for (name, request, status) in [
        ("a good request", good().header("content-type", "application/json"), 200),
        (
            "with a character set",
            good().header("content-type", "application/json; charset=utf-8"),
            200,
        ),
        (
            "a page of this machine",
            good()
                .header("content-type", "application/json")
                .header("origin", "http://localhost:3000"),
            200,
        ),
        ("what a form can send", good().header("content-type", "text/plain"), 415),
        ("no type", good(), 415),
        (
            "another host",
            good()
                .header("content-type", "application/json")
                .header("host", "evil.example"),
            403,
        ),
        (
            "another origin",
            good()
                .header("content-type", "application/json")
                .header("origin", "https://evil.example"),
            403,
        ),
        (
            "a giant",
            rest.post("create_session")
                .header("content-type", "application/json")
                .body(vec![b' '; 4 * 1024 * 1024 + 1]),
            413,
        ),
        (
            "not a POST",
            rest.http
                .get(format!("http://{}/mcp/tool/get_memory", rest.server.server.mcp)),
            405,
        ),
    ] {
        assert_eq!(request.send().await.unwrap().status(), status, "{name}");
    }
}

/// A body that cannot be used is the caller's mistake, and told in the same form as every other.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_cannot_be_used_are_explained() {
    let rest = Rest::start(|_| {}).await;
    let deep = "[".repeat(100_000);
    for body in [
        b"{".as_slice(),
        b"{} {}",
        b"7",
        b"{\"purpose\":\"\xff\"}",
        deep.as_bytes(),
    ] {
        let request = rest.post("create_session").header("content-type", "application/json");
        let (status, error) = answer(request.body(body.to_vec()).send().await.unwrap()).await;
        assert_eq!(
            (status.as_u16(), &error["success"], &error["code"]),
            (400, &json!(false), &json!("INVALID_INPUT_FORMAT")),
            "{error}"
        );
    }
    let giant = vec![b' '; 4 * 1024 * 1024 + 1];
    let request = rest.post("create_session").header("content-type", "application/json");
    let (status, error) = answer(request.body(giant.clone()).send().await.unwrap()).await;
    assert_eq!(
        (status.as_u16(), &error["code"], &error["context"]["max"]),
        (413, &json!("CONTENT_TOO_LARGE"), &json!(4 * 1024 * 1024)),
        "{error}"
    );
    let (status, refusal) = answer(rest.server.client.post().body(giant).send().await.unwrap()).await;
    assert_eq!(
        (
            status.as_u16(),
            &refusal["error"]["code"],
            &refusal["error"]["data"]["reason"]
        ),
        (413, &json!(-32000), &json!("body_too_long")),
        "over MCP: {refusal}"
    );
    let put = rest
        .http
        .put(format!("http://{}/mcp/tool/get_memory", rest.server.server.mcp));
    let refused = put.send().await.unwrap();
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["allow"]),
        (405, &"POST".parse().unwrap())
    );
}

/// Whoever sends a deep value must learn that it is the depth, at the level that is documented.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_127_levels_at_most() {
    let rest = Rest::start(|_| {}).await;
    let nested = |levels: usize| (1..levels).fold(json!([]), |inner, _| Value::from(vec![inner]));
    for (levels, is_too_deep) in [(127, false), (128, true)] {
        // The arguments are a level themselves.
        let (_, error) = rest.call("simulate_work", "", json!({"x": nested(levels - 1)})).await;
        let said = error["error"].as_str().unwrap_or_default().contains("recursion limit");
        assert_eq!(said, is_too_deep, "{levels}: {error}");
        assert!(!is_too_deep || error["code"] == "INVALID_INPUT_FORMAT", "{error}");
        // Over MCP the message and its parameters are two more.
        let call = rest
            .server
            .client
            .tool("simulate_work", &json!({"x": nested(levels - 3)}));
        let (status, answered) = answer(call.send().await.unwrap()).await;
        assert_eq!(
            (status == 400, answered["error"]["code"] == -32600),
            (is_too_deep, is_too_deep),
            "{levels}: {answered}"
        );
    }
}

/// Whoever watches must see a tool's errors whichever way it was called.
#[tokio::test(flavor = "multi_thread")]
async fn errors_that_a_tool_words_itself_are_counted_like_over_mcp() {
    let rest = Rest::start(|settings| settings.operation.fixtures = Fixtures::Conformance).await;
    let tool = "test_error_handling";
    let (status, result) = answer(rest.post(tool).json(&json!({})).send().await.unwrap()).await;
    assert_eq!((status, &result["isError"]), (StatusCode::OK, &json!(true)), "{result}");
    rest.server.client.tool(tool, &json!({})).send().await.unwrap();
    let scrape = rest.server.scrape().await;
    for version in ["rest", "2026-07-28"] {
        let labels = [("mcp_protocol_version", version), ("error_type", "tool_error")];
        let count = scrape.sum("mcp_server_operation_duration_seconds_count", &labels);
        assert_eq!(count, Some(1.0), "{version}");
    }
}

/// It is off unless asked for; it waits for slots as MCP does, and a drain waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_admitted_and_drained_like_mcp() {
    let off = Rest::start(|settings| settings.network.rest_shim = false).await;
    let response = off.post("get_memory").json(&json!({"key": "k"})).send().await.unwrap();
    assert_eq!(response.status(), 404);

    let rest = Rest::start(|settings| {
        settings.tuning.concurrency = 1;
        settings.tuning.queue_max = 0;
    })
    .await;
    let work = rest.post("simulate_work").json(&json!({"io_ms": 1000}));
    let working = tokio::spawn(async move { work.send().await.unwrap().status() });
    until("the call holds the slot", async || {
        (rest.server.scrape().await.value("mcp_in_flight_requests", &[]) == 1.0).then_some(())
    })
    .await;
    let shed = rest.post("get_memory").json(&json!({"key": "k"})).send().await.unwrap();
    assert_eq!(shed.status(), 503);
    assert!(shed.headers().contains_key("retry-after"));
    let (_, error) = answer(shed).await;
    assert_eq!(error["code"], "SYSTEM_UNAVAILABLE", "{error}");
    let Rest { server, .. } = rest;
    server.server.drain();
    server.server.finished().await;
    assert_eq!(working.await.unwrap(), 200, "a running call is not cut");
}

/// A program that speaks no MCP must be able to read every refusal in the one form that it knows.
#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_the_form_of_a_tools_error() {
    let key = generate("caller", &["read".to_owned()]).unwrap();
    let keys = tempfile::tempdir().unwrap();
    let file = keys.path().join("keys");
    std::fs::write(&file, &key.line).unwrap();
    let rest = Rest::start(|settings| {
        settings.auth = Settings {
            method: Method::ApiKey { file },
            public_url: None,
            rules: ScopeRules::new([], ["set_memory=write"]).unwrap(),
        };
        settings.limits.rates = Rates::new(["search=1/h"]).unwrap();
        settings.operation.fixtures = Fixtures::Conformance;
    })
    .await;
    let post = |tool: &str| rest.post(tool).json(&json!({})).header("x-api-key", &key.key);
    let search = json!({"session_id": "session_0000000000000000", "query": "q"});
    post("search_context").json(&search).send().await.unwrap();
    for (name, request, status, code) in [
        (
            "no credential",
            rest.post("get_memory").json(&json!({})),
            401,
            "AUTHENTICATION_FAILED",
        ),
        ("no right", post("set_memory"), 403, "PERMISSION_DENIED"),
        (
            "another host",
            post("get_memory").header("host", "evil.example"),
            403,
            "PERMISSION_DENIED",
        ),
        (
            "another page",
            post("get_memory").header("origin", "https://evil.example"),
            403,
            "PERMISSION_DENIED",
        ),
        (
            "too often",
            post("search_context").json(&search),
            429,
            "RATE_LIMIT_EXCEEDED",
        ),
        ("no text", post("%ff"), 404, "TOOL_NOT_FOUND"),
        (
            "a wrong type",
            rest.post("get_memory").body("{}").header("x-api-key", &key.key),
            415,
            "INVALID_INPUT_FORMAT",
        ),
        (
            "too many values",
            post("get_memory").body(format!("[{}0]", "0,".repeat(262_000))),
            413,
            "CONTENT_TOO_LARGE",
        ),
        (
            "another method",
            rest.http
                .put(post("get_memory").build().unwrap().url().clone())
                .header("x-api-key", &key.key),
            405,
            "INVALID_INPUT_FORMAT",
        ),
    ] {
        let response = request.send().await.unwrap();
        let (has_wait, has_challenge) = (
            response.headers().contains_key("retry-after"),
            response.headers().contains_key("www-authenticate"),
        );
        let (found, error) = answer(response).await;
        assert_eq!(
            (found.as_u16(), &error["code"]),
            (status, &json!(code)),
            "{name}: {error}"
        );
        assert!(
            error["success"] == false && error["suggestions"].is_array(),
            "{name}: {error}"
        );
        assert_eq!(has_wait, status == 429, "{name}");
        assert_eq!(
            has_challenge,
            [401, 403].contains(&status) && name.starts_with("no "),
            "{name}"
        );
    }
}
