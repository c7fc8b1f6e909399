//! Any replica serves any client.

use std::time::Duration;

use serde_json::json;

use crate::support::postgres::SHARED;
use crate::support::server::{TestServer, settings};

async fn two_replicas() -> (TestServer, TestServer) {
    let url = SHARED.database().await;
    tokio::join!(TestServer::start(settings(&url)), TestServer::start(settings(&url)))
}

/// Behind a load balancer the next call goes to another replica: what was written must be there.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_writes_another_reads() {
    let (a, b) = two_replicas().await;
    let session = a
        .client
        .call("create_session", json!({"purpose": "p", "agent_id": "ann"}))
        .await["session_id"]
        .clone();
    let sent = b
        .client
        .call(
            "add_message",
            json!({"session_id": session, "content": "hello", "agent_id": "bob"}),
        )
        .await;
    a.client
        .call("set_memory", json!({"key": "k", "value": {"n": 1}, "agent_id": "ann"}))
        .await;

    let read = a.client.call("get_messages", json!({"session_id": session})).await;
    assert_eq!(
        (&read["messages"][0]["content"], &read["messages"][0]["id"]),
        (&json!("hello"), &sent["message_id"])
    );
    let view = b.client.call("get_session", json!({"session_id": session})).await;
    assert_eq!(
        (&view["session"]["created_by"], &view["message_count"]),
        (&json!("ann"), &json!(1))
    );
    let memory = b
        .client
        .call("get_memory", json!({"key": "k", "agent_id": "ann"}))
        .await;
    assert_eq!(memory["value"], json!({"n": 1}));
}

/// A client up to 2025-11-25 must not lose its session when another replica answers, or when its replica is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_one_replica_goes_on_at_another() {
    let (a, b) = two_replicas().await;
    let session = a.client.legacy_session().await;
    let here = session.call("create_session", json!({"purpose": "p"})).await;
    let there = session
        .at(&b.client)
        .call("get_session", json!({"session_id": here["session_id"]}))
        .await;
    assert_eq!(there["success"], true);

    a.server.drain();
    a.server.finished().await;
    let after = session
        .at(&b.client)
        .call("get_session", json!({"session_id": here["session_id"]}))
        .await;
    assert_eq!(after["success"], true);
    assert_eq!(b.scrape().await.value("mcp_active_sessions", &[]), 1.0);
}

/// Many calls that reach a new replica at once must all find the session.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_restored_once_for_many_calls() {
    let (a, b) = two_replicas().await;
    let session = a.client.legacy_session().await.at(&b.client);
    let calls = (0..12).map(|_| session.call("set_memory", json!({"key": "k", "value": 1})));
    for result in futures::future::join_all(calls).await {
        assert_eq!(result["success"], true);
    }
}

/// 404 is how a client learns that it must start a new session; anything else leaves it stuck.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_ended_sessions_are_not_found() {
    let (a, b) = two_replicas().await;
    let mut session = a.client.legacy_session().await;
    assert!(session.delete().await.status().is_success());
    for (name, client) in [("where it ended", &a.client), ("elsewhere", &b.client)] {
        let response = session
            .at(client)
            .request("tools/list", &json!({}))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 404, "{name}");
    }
    session.id = "00000000-0000-4000-8000-000000000000".to_owned();
    for response in [
        session.request("tools/list", &json!({})).send().await.unwrap(),
        session.get().send().await.unwrap(),
    ] {
        assert_eq!(response.status(), 404);
    }
}

/// Thousands of clients that open a session and go away must not fill the memory; one that comes back must go on.
#[tokio::test(flavor = "multi_thread")]
async fn idle_sessions_leave_memory_and_come_back() {
    let url = SHARED.database().await;
    let mut settings = settings(&url);
    settings.data.sessions.idle = Duration::from_millis(300);
    let server = TestServer::start(settings).await;
    let session = server.client.legacy_session().await;
    server.until_metric("mcp_active_sessions", 0.0).await;
    assert_eq!(
        session.call("set_memory", json!({"key": "k", "value": 1})).await["success"],
        true
    );
}
