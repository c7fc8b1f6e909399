//! How much an agent may hold, as it is set.

use std::time::Duration;

use mcp_server::tools::shared_context::RetentionSettings;
use mcp_server::tools::shared_context::limits::Quotas;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::postgres::SHARED;
use crate::support::server::{TestServer, file_settings, settings};

const SMALL: Quotas = Quotas {
    messages_per_session: 2,
    sessions_per_agent: 2,
    session_timeout: Duration::from_mins(1),
    memory_entries_per_agent: 2,
    memory_bytes_per_agent: 1024 * 1024,
    metadata_bytes: 20 * 1024,
};

async fn refused(client: &Client, tool: &str, arguments: Value, code: &str, number: &str) {
    let answer = client.call(tool, arguments).await;
    assert_eq!(answer["code"], code, "{answer}");
    assert!(
        answer.to_string().contains(number),
        "the limit in force is named: {answer}"
    );
}

/// Who sets a limit relies on it, and an agent that runs into one must read that one and not the documented one.
#[tokio::test(flavor = "multi_thread")]
async fn the_limits_that_are_set_hold() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite:{}", folder.path().join("test.db").display());
    for url in [sqlite, SHARED.database().await] {
        let mut settings = settings(&url);
        settings.shared_context.quotas = SMALL;
        let server = TestServer::start(settings).await;
        let client = &server.client;
        let session = || json!({"purpose": "p", "agent_id": "ann"});
        let id = client.call("create_session", session()).await["session_id"].clone();
        assert_eq!(client.call("create_session", session()).await["success"], true);
        refused(
            client,
            "create_session",
            session(),
            "SESSION_LIMIT_EXCEEDED",
            "2 sessions",
        )
        .await;
        refused(client, "create_session", session(), "SESSION_LIMIT_EXCEEDED", "60 s").await;

        let with_metadata = |size: usize| json!({"key": "m", "value": 1, "metadata": {"m": "x".repeat(size)}});
        let stored = client.call("set_memory", with_metadata(15 * 1024)).await;
        assert_eq!(stored["success"], true, "{stored}");
        let large = with_metadata(20 * 1024);
        refused(client, "set_memory", large, "CONTENT_TOO_LARGE", "20480").await;

        let message = || json!({"session_id": id, "content": "c", "agent_id": "ann"});
        for _ in 0..2 {
            assert_eq!(client.call("add_message", message()).await["success"], true);
        }
        refused(client, "add_message", message(), "MESSAGE_LIMIT_EXCEEDED", "2 messages").await;

        let entry = |key: &str, size: usize| json!({"key": key, "value": "v".repeat(size), "agent_id": "ann"});
        assert_eq!(client.call("set_memory", entry("a", 1)).await["success"], true);
        let large = entry("b", 1024 * 1024);
        refused(client, "set_memory", large, "MEMORY_LIMIT_EXCEEDED", "1 MiB").await;
        assert_eq!(client.call("set_memory", entry("b", 1)).await["success"], true);
        refused(
            client,
            "set_memory",
            entry("c", 1),
            "MEMORY_LIMIT_EXCEEDED",
            "2 entries",
        )
        .await;
    }
}

/// A limit that is lowered must not stop an agent from keeping what it has up to date.
#[tokio::test(flavor = "multi_thread")]
async fn what_takes_no_more_room_can_be_replaced_beyond_the_limits() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite:{}", folder.path().join("test.db").display());
    for url in [sqlite, SHARED.database().await] {
        let session = {
            let before = TestServer::start(settings(&url)).await;
            let session = before
                .client
                .call("create_session", json!({"purpose": "p", "agent_id": "ann"}))
                .await;
            for (key, session) in [("a", &Value::Null), ("b", &Value::Null), ("a", &session["session_id"])] {
                let entry = json!({"key": key, "session_id": session, "value": "12345", "agent_id": "ann"});
                assert_eq!(before.client.call("set_memory", entry).await["success"], true);
            }
            session["session_id"].clone()
        };
        let mut settings = settings(&url);
        settings.shared_context.quotas = SMALL;
        let server = TestServer::start(settings).await;
        for (name, key, session, value, fits) in [
            ("as long", "a", &Value::Null, "54321", true),
            ("as long, in a session", "a", &session, "54321", true),
            ("shorter", "b", &Value::Null, "1", true),
            ("longer", "b", &Value::Null, "12", false),
            ("longer, in a session", "a", &session, "123456", false),
            ("new", "c", &Value::Null, "1", false),
            ("new in a session", "b", &session, "1", false),
        ] {
            let entry = json!({"key": key, "session_id": session, "value": value, "agent_id": "ann"});
            let answer = server.client.call("set_memory", entry).await;
            assert_eq!(answer["success"], fits, "{name} on {url}: {answer}");
            assert!(
                fits || answer["code"] == "MEMORY_LIMIT_EXCEEDED",
                "{name} on {url}: {answer}"
            );
        }
    }
}

/// An agent plans with the limits and times that it is told of: they must be those that are set.
#[tokio::test(flavor = "multi_thread")]
async fn texts_tell_of_the_limits_and_times_that_are_set() {
    let (mut settings, _folder) = file_settings();
    settings.shared_context.quotas = SMALL;
    settings.shared_context.retention = RetentionSettings {
        inactive_session: Duration::from_hours(24),
        closed_session: Duration::from_hours(12 * 24),
        ..RetentionSettings::default()
    };
    let server = TestServer::start(settings).await;
    let listing = server.client.modern("tools/list", json!({})).send().await.unwrap();
    let listed: Value = listing.json().await.unwrap();
    let mut tools = listed["result"]["tools"].as_array().unwrap().iter();
    let tool = tools.find(|tool| tool["name"] == "create_session").unwrap();
    let description = tool["description"].as_str().unwrap();
    assert!(description.contains("may have 2 in use"), "{description}");
    for (subject, parts) in [
        ("coordination", ["closed after 1 day,", "deleted after 12 days."]),
        ("troubleshooting", ["for 1 day.", "for 12 days are deleted"]),
    ] {
        let arguments = json!({"guidance_type": subject});
        let text = server.client.call("get_usage_guidance", arguments).await.to_string();
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
