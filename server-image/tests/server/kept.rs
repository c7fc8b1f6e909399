//! What clients leave behind at the server: it is bounded in bytes, and takes nobody else's room.

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::postgres::{SHARED, connect};
use crate::support::server::{TestServer, file_settings, settings};
use crate::support::until;

async fn reason(answer: reqwest::Response) -> (u16, Value) {
    let status = answer.status().as_u16();
    let answer: Value = answer.json().await.unwrap();
    (status, answer["error"]["data"]["reason"].clone())
}

/// What a client says of itself is kept as long as its session: a hundred novels would be the end of a small container.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_says_little_of_itself() {
    let (settings, _folder) = file_settings();
    let server = TestServer::start(settings).await;
    let initialize = |experimental: Value, title: String| {
        json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {"experimental": experimental},
            "clientInfo": {"name": "test", "version": "1", "title": title},
        }})
    };
    let maps = |count: usize| (0..count).map(|number| (format!("c{number}"), json!({}))).collect();
    for (name, message, is_taken) in [
        ("a talkative one", initialize(maps(20), "x".repeat(10_000)), true),
        ("a long text", initialize(json!({}), "x".repeat(70_000)), false),
        ("many values", initialize(maps(500), String::new()), false),
    ] {
        let answer = server.client.post().json(&message).send().await.unwrap();
        if is_taken {
            assert_eq!(answer.status(), 200, "{name}");
        } else {
            assert_eq!(reason(answer).await, (413, json!("body_too_long")), "{name}");
        }
    }
}

/// A subscription that asks for as much as it may.
async fn listen(client: &Client) -> reqwest::Response {
    let uris: Vec<String> = (0..1000)
        .map(|number| format!("server://info/{number:0>900}"))
        .collect();
    let wanted = json!({"notifications": {"resourceSubscriptions": uris}});
    client.modern("subscriptions/listen", wanted).send().await.unwrap()
}

/// A stream may stay open for ever, and costs its client nothing: whoever opens many must not keep others from calling.
#[tokio::test(flavor = "multi_thread")]
async fn open_subscriptions_leave_room_for_calls() {
    let (settings, _folder) = file_settings();
    let server = TestServer::start(settings).await;
    let mut open = Vec::new();
    let refused = loop {
        let answer = listen(&server.client).await;
        if answer.status() != 200 {
            break answer;
        }
        open.push(answer);
        assert!(open.len() < 64, "there is no end of them");
    };
    assert!(!open.is_empty(), "one fits");
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(reason(refused).await, (503, json!("subscriptions_too_large")));
    let scrape = server.scrape().await;
    assert!(scrape.value("mcp_subscription_body_bytes", &[]) > 9e5);
    server.until_metric("mcp_request_body_bytes", 0.0).await;
    let session = server.client.call("create_session", json!({"purpose": "p"})).await["session_id"].clone();
    let message = json!({"session_id": session, "content": "x".repeat(90_000)});
    assert_eq!(server.client.call("add_message", message).await["success"], true);
    drop(open);
    server.until_metric("mcp_subscription_body_bytes", 0.0).await;
    assert_eq!(listen(&server.client).await.status(), 200);
}

/// Messages for calls at other replicas go through the database, without a slot: whoever invents calls must not fill it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_handed_on_to_other_replicas_is_bounded() {
    let url = SHARED.database().await;
    let server = TestServer::start(settings(&url)).await;
    let session = server.client.legacy_session().await;
    let send = async |message: Value| {
        let taken = session.post().json(&message).send().await.unwrap();
        assert_eq!(taken.status(), 202);
    };
    let id = "x".repeat(100_000);
    send(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}})).await;
    let (content, many) = (json!({"text": "x".repeat(900_000)}), 30);
    for _ in 0..many {
        let result = json!({"action": "accept", "content": content});
        send(json!({"jsonrpc": "2.0", "id": "0123456789ab.1.1", "result": result})).await;
    }
    let database = connect(&url).await;
    let count = "SELECT count(*), coalesce(sum(length(letter)), 0)::float8 FROM mcp_letters";
    let row = until("what was handed on is there", async || {
        let row = database.query_one(count, &[]).await.unwrap();
        (row.get::<_, i64>(0) > 0).then_some(row)
    })
    .await;
    let bytes: f64 = row.get(1);
    assert!(bytes > 8e5, "answers are handed on: {bytes} bytes");
    assert!(bytes < 0.6 * f64::from(many) * 9e5, "{bytes} bytes are");
    let ids = "SELECT count(*) FROM mcp_letters WHERE letter LIKE '%requestId%'";
    let cancelled: i64 = database.query_one(ids, &[]).await.unwrap().get(0);
    assert_eq!(cancelled, 0, "no call has such an id");
}
