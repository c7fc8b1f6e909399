//! Forgetting cached values at the operator's word.

use std::time::Duration;

use mcp_server::tuning::signature::Purpose;
use serde_json::{Value, json};

use crate::support::operator::{KEY, POD, authority, now, send};
use crate::support::postgres::{SHARED, connect};
use crate::support::server::{TestServer, file_settings, settings};

const STALENESS: Duration = Duration::from_millis(300);

async fn post(server: &TestServer, body: &str, purpose: Purpose, time: u64) -> (u16, Value) {
    let request = reqwest::Client::new().post(format!("http://{}/cache/invalidate", server.server.admin));
    send(request, purpose, (KEY, POD), body, time).await
}

async fn purpose_of(server: &TestServer, session: &Value) -> Value {
    let found = server.client.call("get_session", json!({"session_id": session})).await;
    found["session"]["purpose"].clone()
}

/// A table that was restored past the triggers would be seen only when what is cached ends by itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_operator_makes_all_replicas_forget() {
    let url = SHARED.database().await;
    let (authority, _key) = authority();
    let start = async |staleness| {
        let mut settings = settings(&url);
        settings.cache.staleness = staleness;
        settings.capacity.authority = authority.clone();
        TestServer::start(settings).await
    };
    let (told, other) = tokio::join!(start(Duration::from_secs(30)), start(STALENESS));
    let session = told.client.call("create_session", json!({"purpose": "0"})).await["session_id"].clone();
    let database = connect(&url).await;
    let mut time = now();
    let bodies = [
        json!({"tags": [format!("session:{}", session.as_str().unwrap())]}),
        json!({"prefix": "session:"}),
        json!({"prefix": "", "tags": ["session:another"]}),
    ];
    for (round, body) in bodies.iter().enumerate() {
        let (before, after) = (round.to_string(), (round + 1).to_string());
        for server in [&told, &other] {
            assert_eq!(purpose_of(server, &session).await, before);
        }
        let restore = format!(
            "BEGIN; SET LOCAL session_replication_role = replica; UPDATE sessions SET purpose = '{after}'; COMMIT"
        );
        database.batch_execute(&restore).await.unwrap();
        tokio::time::sleep(STALENESS).await;
        for server in [&told, &other] {
            assert_eq!(purpose_of(server, &session).await, before, "no trigger has seen it");
        }
        time += 1;
        let (status, answer) = post(&told, &body.to_string(), Purpose::Invalidation, time).await;
        assert_eq!((status, &answer), (200, body));
        assert_eq!(
            purpose_of(&told, &session).await,
            after,
            "{body}: at once where it was said"
        );
        tokio::time::sleep(STALENESS).await;
        assert_eq!(
            purpose_of(&other, &session).await,
            after,
            "{body}: after the bound elsewhere"
        );
    }
}

/// Whoever could empty caches could bring the database down.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_operator_makes_caches_forget() {
    let (mut settings, _folder) = file_settings();
    let (authority, _key) = authority();
    settings.capacity.authority = authority;
    let server = TestServer::start(settings).await;
    let time = now();
    let (status, answer) = post(&server, r#"{"prefix":""}"#, Purpose::Invalidation, time).await;
    assert_eq!(status, 200, "{answer}");
    for (name, body, purpose, at, expected, reason) in [
        (
            "again",
            r#"{"prefix":""}"#,
            Purpose::Invalidation,
            time,
            409,
            "accepted already",
        ),
        (
            "signed for the tuning",
            r#"{"prefix":""}"#,
            Purpose::Tuning,
            time + 1,
            401,
            "signature",
        ),
        ("nothing", "{}", Purpose::Invalidation, time + 1, 400, "what to forget"),
        (
            "another field",
            r#"{"all":true}"#,
            Purpose::Invalidation,
            time + 1,
            400,
            "unknown field",
        ),
        (
            "a hidden prefix",
            r#"{"tags":["prefix:"]}"#,
            Purpose::Invalidation,
            time + 1,
            400,
            "prefix",
        ),
    ] {
        let (status, answer) = post(&server, body, purpose, at).await;
        let error = answer["error"].as_str().unwrap();
        assert!(status == expected && error.contains(reason), "{name}: {status} {error}");
    }
    let (settings, _folder) = file_settings();
    let keyless = TestServer::start(settings).await;
    let (status, _) = post(&keyless, r#"{"prefix":""}"#, Purpose::Invalidation, now()).await;
    assert_eq!(status, 403);
}
