//! What a client of 2026-07-28 says that it can do, with each request.

use mcp_server::server::Fixtures;
use serde_json::{Value, json};

use crate::support::server::{TestServer, file_settings};

async fn start() -> (TestServer, tempfile::TempDir) {
    let (mut settings, folder) = file_settings();
    settings.operation.fixtures = Fixtures::Conformance;
    (TestServer::start(settings).await, folder)
}

/// Status and answer of a call by a client with these capabilities.
async fn call(server: &TestServer, tool: &str, capabilities: &Value) -> (u16, Value) {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": capabilities,
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    });
    let params = json!({"name": tool, "arguments": {}, "_meta": meta});
    let request = json!({"jsonrpc": "2.0", "id": "mine", "method": "tools/call", "params": params});
    let named = server.client.modern("tools/call", json!({"name": tool}));
    let response = named.json(&request).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

/// A client that lacks what a tool needs must be told what that is, in the protocol's own words: else it takes the tool
/// for broken, or asks again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_which_capability_it_lacks() {
    let (server, _folder) = start().await;
    let tool = "test_missing_capability";
    for (name, capabilities) in [
        ("no capability", json!({})),
        ("others only", json!({"elicitation": {}, "roots": {}})),
    ] {
        let (status, answer) = call(&server, tool, &capabilities).await;
        let error = &answer["error"];
        assert_eq!(
            (status, &answer["id"], &error["code"]),
            (400, &json!("mine"), &json!(-32021)),
            "{name}: {answer}"
        );
        let needed = &error["data"]["requiredCapabilities"];
        assert_eq!(*needed, json!({"sampling": {}}), "{name}: {answer}");
    }
    let (status, answer) = call(&server, tool, &json!({"sampling": {}})).await;
    assert_eq!(
        (status, &answer["result"]["content"][0]["text"]),
        (200, &json!("The client can sample")),
        "{answer}"
    );
}

/// A question that a client cannot answer ends its call: a tool must know, in the first round, what it may ask.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_asked_only_what_it_can_answer() {
    let (server, _folder) = start().await;
    for (capabilities, expected) in [
        (json!({"elicitation": {}}), &["user_name"][..]),
        (json!({"sampling": {}}), &["greeting"]),
        (json!({"sampling": {}, "roots": {}}), &["client_roots", "greeting"]),
    ] {
        let (status, answer) = call(&server, "test_input_required_result_capabilities", &capabilities).await;
        let result = &answer["result"];
        let questions = result["inputRequests"]
            .as_object()
            .unwrap_or_else(|| panic!("{answer}"));
        let mut questions: Vec<&str> = questions.keys().map(String::as_str).collect();
        questions.sort_unstable();
        assert_eq!(
            (status, &result["resultType"], &questions[..]),
            (200, &json!("input_required"), expected),
            "{capabilities}: {answer}"
        );
    }
}
