//! What the shared context's tools say of arguments that are wrong.

use serde_json::{Value, json};

use crate::support::server::{TestServer, file_settings};

type Mistake = (&'static str, &'static str, Value, &'static str);

/// Calls that must be refused: what is wrong, the tool, its arguments, the code.
#[expect(clippy::too_many_lines, reason = "a table")]
fn mistakes(session: &Value) -> Vec<Mistake> {
    vec![
        ("no purpose", "create_session", json!({}), "INVALID_INPUT_FORMAT"),
        (
            "blank purpose",
            "create_session",
            json!({"purpose": " "}),
            "INVALID_INPUT_FORMAT",
        ),
        (
            "long purpose",
            "create_session",
            json!({"purpose": long(1001)}),
            "CONTENT_TOO_LARGE",
        ),
        (
            "metadata no object",
            "create_session",
            json!({"purpose": "p", "metadata": [1]}),
            "INVALID_INPUT_FORMAT",
        ),
        (
            "large metadata",
            "create_session",
            json!({"purpose": "p", "metadata": {"m": long(10 * 1024)}}),
            "CONTENT_TOO_LARGE",
        ),
        (
            "unknown argument",
            "create_session",
            json!({"purpose": "p", "visiblity": "private"}),
            "INVALID_INPUT_FORMAT",
        ),
        (
            "long agent",
            "create_session",
            json!({"purpose": "p", "agent_id": long(101)}),
            "INVALID_INPUT_FORMAT",
        ),
        (
            "odd session",
            "get_session",
            json!({"session_id": "1"}),
            "INVALID_INPUT_FORMAT",
        ),
        (
            "unknown session",
            "get_session",
            json!({"session_id": "session_0000000000000000"}),
            "SESSION_NOT_FOUND",
        ),
        (
            "unknown session",
            "add_message",
            json!({"session_id": "session_0000000000000000", "content": "c"}),
            "SESSION_NOT_FOUND",
        ),
        (
            "no content",
            "add_message",
            json!({"session_id": session, "content": ""}),
            "INVALID_INPUT_FORMAT",
        ),
        (
            "NUL",
            "add_message",
            json!({"session_id": session, "content": "a\u{0}b"}),
            "INVALID_INPUT_FORMAT",
        ),
        (
            "long content",
            "add_message",
            json!({"session_id": session, "content": long(100_001)}),
            "CONTENT_TOO_LARGE",
        ),
        (
            "odd visibility",
            "add_message",
            json!({"session_id": session, "content": "c", "visibility": "all"}),
            "INVALID_INPUT_FORMAT",
        ),
        (
            "for administrators",
            "add_message",
            json!({"session_id": session, "content": "c", "visibility": "admin_only"}),
            "PERMISSION_DENIED",
        ),
        (
            "odd parent",
            "add_message",
            json!({"session_id": session, "content": "c", "parent_message_id": 99}),
            "INVALID_INPUT_FORMAT",
        ),
        (
            "limit 0",
            "get_messages",
            json!({"session_id": session, "limit": 0}),
            "INVALID_INPUT_FORMAT",
        ),
        (
            "limit 1001",
            "get_messages",
            json!({"session_id": session, "limit": 1001}),
            "INVALID_INPUT_FORMAT",
        ),
        (
            "negative offset",
            "get_messages",
            json!({"session_id": session, "offset": -1}),
            "INVALID_INPUT_FORMAT",
        ),
        (
            "no key",
            "set_memory",
            json!({"key": "", "value": 1}),
            "INVALID_INPUT_FORMAT",
        ),
        (
            "long key",
            "set_memory",
            json!({"key": long(256), "value": 1}),
            "CONTENT_TOO_LARGE",
        ),
        ("no value", "set_memory", json!({"key": "k"}), "INVALID_INPUT_FORMAT"),
        (
            "past expiry",
            "set_memory",
            json!({"key": "k", "value": 1, "expires_in": -1}),
            "INVALID_INPUT_FORMAT",
        ),
        (
            "far expiry",
            "set_memory",
            json!({"key": "k", "value": 1, "expires_in": 31_536_001}),
            "INVALID_INPUT_FORMAT",
        ),
        ("unknown key", "get_memory", json!({"key": "k"}), "MEMORY_NOT_FOUND"),
    ]
}

fn long(length: usize) -> String {
    "x".repeat(length)
}

/// Callers parse these codes and act on them.
#[tokio::test(flavor = "multi_thread")]
async fn arguments_are_checked_and_mistakes_explained() {
    let (settings, _folder) = file_settings();
    let server = TestServer::start(settings).await;
    let client = &server.client;
    let session = client.call("create_session", json!({"purpose": "p"})).await["session_id"].clone();
    for (name, tool, arguments, code) in mistakes(&session) {
        let envelope = client.call(tool, arguments).await;
        assert_eq!(envelope["code"], code, "{tool}, {name}: {envelope}");
        assert!(!envelope["error"].as_str().unwrap().is_empty(), "{name}");
    }
    // The longest that is allowed.
    for (tool, arguments) in [
        (
            "add_message",
            json!({"session_id": session, "content": long(100_000), "agent_id": "ü".repeat(100)}),
        ),
        (
            "set_memory",
            json!({"key": "ü".repeat(255), "value": null, "expires_in": 31_536_000}),
        ),
        ("get_messages", json!({"session_id": session, "limit": 1000})),
    ] {
        assert_eq!(client.call(tool, arguments).await["success"], true, "{tool}");
    }
}
