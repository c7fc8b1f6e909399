//! The operator changes a running server: only the operator, all or nothing, and without failing a request.

use std::time::Duration;

use futures::future::join_all;
use mcp_server::server::Settings;
use mcp_server::tuning::Tuning;
use mcp_server::tuning::signature::Purpose;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::operator::{KEY, POD, authority, now, send};
use crate::support::postgres::{SHARED, connect};
use crate::support::server::{TestServer, file_settings, settings};
use crate::support::until;

const BACKENDS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'mcp-server'";

fn with_key(mut settings: Settings) -> (Settings, TempDir) {
    let (authority, folder) = authority();
    settings.capacity.authority = authority;
    (settings, folder)
}

/// Asks for a change as the operator does.
async fn put(server: &TestServer, change: &Value) -> (u16, Value) {
    // Two changes within one millisecond would be the same moment.
    tokio::time::sleep(Duration::from_millis(2)).await;
    put_signed(server, &change.to_string(), KEY, POD, now()).await
}

async fn put_signed(server: &TestServer, body: &str, key: &str, pod: &str, time: u64) -> (u16, Value) {
    let request = reqwest::Client::new().put(format!("http://{}/tuning", server.server.admin));
    send(request, Purpose::Tuning, (key, pod), body, time).await
}

async fn get(server: &TestServer) -> Value {
    let url = format!("http://{}/tuning", server.server.admin);
    reqwest::get(url).await.unwrap().json().await.unwrap()
}

/// The answer is what the operator budgets with; a part of a change that took effect would be a budget that is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_all_or_nothing_and_the_answer_is_true() {
    let url = SHARED.database().await;
    let (settings, _folder) = with_key(settings(&url));
    let server = TestServer::start(settings).await;
    let (status, answer) = put(&server, &json!({"pool": {"max": 7}, "concurrency": 9})).await;
    assert_eq!((status, &answer["pool"]["max"]), (200, &json!(7)), "{answer}");
    assert_eq!((&answer["concurrency"], &answer["queueMax"]), (&json!(9), &json!(18)));
    assert_eq!(answer["podUid"], POD);
    assert_eq!(put(&server, &json!({"queueMax": 3})).await.1["queueMax"], 3);
    let (_, answer) = put(&server, &json!({"concurrency": 11})).await;
    assert_eq!(answer["queueMax"], 3, "a queue that was set does not follow");

    let (_, answer) = put(&server, &json!({"cache": {"l1Bytes": 1_000_000}})).await;
    assert_eq!(answer["cache"]["l1Bytes"], 1_000_000);

    let before = get(&server).await;
    for (change, reason) in [
        (
            json!({"cache": {"l1Bytes": 1u64 << 50}, "concurrency": 5}),
            "cache.l1Bytes must be at most",
        ),
        (
            json!({"pool": {"max": 8}, "concurrency": 0}),
            "concurrency must be 1 to 10000, not 0",
        ),
        (
            json!({"pool": {"max": 1001}, "concurrency": 5}),
            "pool.max must be 1 to 1000, not 1001",
        ),
        (
            json!({"pool": {"max": 8}, "queueMax": 100_001}),
            "queueMax must be 0 to 100000",
        ),
        (json!({"pool": {"max": 8}, "speed": 3}), "unknown field `speed`"),
        (json!({"pool": {"max": -1}}), "not a valid change"),
        (json!([]), "not a valid change"),
    ] {
        let (status, answer) = put(&server, &change).await;
        let error = answer["error"].as_str().unwrap();
        assert!(status == 400 && error.contains(reason), "{change}: {status} {error}");
    }
    let after = get(&server).await;
    for field in ["concurrency", "queueMax"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!(after["pool"]["max"], 7);
    let scrape = server.scrape().await;
    assert_eq!(scrape.value("mcp_concurrency_limit", &[]), 11.0);
    assert_eq!(scrape.value("db_client_connection_max", &[]), 7.0);
}

/// Whoever can reach the port, or has recorded a request, must not be able to change anything.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_operator_changes_anything() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("test.db").display());
    let (with_key, _key) = with_key(settings(&url));
    let server = TestServer::start(with_key).await;
    let body = r#"{"concurrency":5}"#;
    let time = now();
    let others = "22222222-2222-4333-8444-555555555555";
    for (name, key, pod, time, reason) in [
        (
            "another key",
            "another key, just as long as it",
            POD,
            time,
            "does not match",
        ),
        ("another pod", KEY, others, time, "does not match"),
        ("recorded long ago", KEY, POD, time - 60_000, "ms away"),
        ("for later", KEY, POD, time + 60_000, "ms away"),
    ] {
        let (status, answer) = put_signed(&server, body, key, pod, time).await;
        let error = answer["error"].as_str().unwrap();
        assert!(status == 401 && error.contains(reason), "{name}: {status} {error}");
    }
    assert_eq!(get(&server).await["concurrency"], 16, "nothing has changed");

    assert_eq!(put_signed(&server, body, KEY, POD, time).await.0, 200);
    assert_eq!(
        put_signed(&server, r#"{"concurrency":6}"#, KEY, POD, time + 1).await.0,
        200
    );
    let (status, answer) = put_signed(&server, body, KEY, POD, time).await;
    assert_eq!(status, 409, "a recorded request undoes nothing: {answer}");
    assert_eq!(get(&server).await["concurrency"], 6);
    let (status, answer) = put(&server, &json!({"pool": {"max": 3}})).await;
    assert!(
        status == 400 && answer["error"].as_str().unwrap().contains("SQLite"),
        "{answer}"
    );

    let keyless = TestServer::start(settings(&url)).await;
    let (status, answer) = put(&keyless, &json!({"concurrency": 5})).await;
    let error = answer["error"].as_str().unwrap();
    assert!(status == 403 && error.contains("--tuning-key-file"), "{status} {error}");
    assert_eq!(get(&keyless).await["concurrency"], 16);
}

/// The operator takes connections from live servers before it adds replicas: not one more than the new maximum may be
/// opened from then on, "open" must be what the database sees, and no request may notice.
#[tokio::test(flavor = "multi_thread")]
async fn the_pool_is_resized_under_load_without_failing_a_request() {
    let url = SHARED.database().await;
    let (mut settings, _folder) = with_key(settings(&url));
    settings.tuning = Tuning {
        pool_max: 12,
        concurrency: 40,
        queue_max: 400,
    };
    let server = TestServer::start(settings).await;
    let session = server.client.call("create_session", json!({"purpose": "load"})).await["session_id"].clone();
    let stop = tokio_util::sync::CancellationToken::new();
    let load: Vec<_> = (0..8)
        .map(|_| {
            let (client, session, stop) = (server.client.clone(), session.clone(), stop.clone());
            tokio::spawn(async move {
                let mut calls = 0;
                while !stop.is_cancelled() {
                    let message = json!({"session_id": session, "content": "m"});
                    assert_eq!(client.call("add_message", message).await["success"], true);
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    let observer = connect(&url).await;
    let backends = async || observer.query_one(BACKENDS, &[]).await.unwrap().get::<_, i64>(0);
    for max in [12, 3, 8, 1, 12, 2] {
        let (status, answer) = put(&server, &json!({"pool": {"max": max}})).await;
        assert_eq!((status, &answer["pool"]["max"]), (200, &json!(max)));
        let open = until("open connections are within the maximum", async || {
            let open = get(&server).await["pool"]["open"].as_i64().unwrap();
            (open <= max).then_some(open)
        })
        .await;
        assert!(open >= 1);
        // The database's own processes end a moment after their sockets.
        until("the database agrees", async || (backends().await <= max).then_some(())).await;
        for _ in 0..20 {
            let seen = backends().await;
            assert!(seen <= max, "{seen} connections at the database, {max} are allowed");
        }
    }
    stop.cancel();
    let calls: usize = join_all(load).await.into_iter().map(Result::unwrap).sum();
    let page = server
        .client
        .call("get_messages", json!({"session_id": session, "limit": 1}))
        .await;
    assert_eq!(page["total_count"], calls, "every call was done once");
}

/// A pool that has opened few of its connections must not open more than the new maximum after it was shrunk.
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_was_never_full_shrinks_too() {
    let url = SHARED.database().await;
    let (mut settings, _folder) = with_key(settings(&url));
    settings.tuning.pool_max = 10;
    let server = TestServer::start(settings).await;
    assert_eq!(put(&server, &json!({"pool": {"max": 2}})).await.0, 200);
    let session = server.client.call("create_session", json!({"purpose": "p"})).await["session_id"].clone();
    let blocker = connect(&url).await;
    blocker
        .batch_execute("BEGIN; LOCK TABLE sessions IN EXCLUSIVE MODE")
        .await
        .unwrap();
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let (client, message) = (server.client.clone(), json!({"session_id": session, "content": "m"}));
            tokio::spawn(async move { client.call("add_message", message).await })
        })
        .collect();
    server.until_metric("mcp_in_flight_requests", 6.0).await;
    let observer = connect(&url).await;
    until("both connections are in use", async || {
        (observer.query_one(BACKENDS, &[]).await.unwrap().get::<_, i64>(0) == 2).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let seen: i64 = observer.query_one(BACKENDS, &[]).await.unwrap().get(0);
    assert_eq!(seen, 2, "connections at the database");
    blocker.batch_execute("ROLLBACK").await.unwrap();
    for call in calls {
        assert_eq!(call.await.unwrap()["success"], true);
    }
}

/// More slots must serve who waits, fewer must not cut who is served.
#[tokio::test(flavor = "multi_thread")]
async fn slots_are_resized_under_load() {
    let (settings, _folder) = file_settings();
    let (mut settings, _key) = with_key(settings);
    settings.tuning = Tuning {
        pool_max: 1,
        concurrency: 1,
        queue_max: 10,
    };
    let server = TestServer::start(settings).await;
    let calls: Vec<_> = (0..4).map(|_| server.client.work(1_000)).collect();
    server.until_metric("mcp_queued_requests", 3.0).await;
    put(&server, &json!({"concurrency": 4})).await;
    server.until_metric("mcp_in_flight_requests", 4.0).await;
    let (_, answer) = put(&server, &json!({"concurrency": 1, "queueMax": 0})).await;
    assert_eq!(answer["concurrency"], 1);
    assert_eq!(
        server.client.work(1).await.unwrap().status(),
        503,
        "no slot and no queue"
    );
    for call in calls {
        assert_eq!(call.await.unwrap().status(), 200);
    }
    assert_eq!(server.client.work(1).await.unwrap().status(), 200);
}

/// The scaler counts on a cache's memory as soon as the answer says that it is free: it must be, at whatever size, and
/// callers may lose hits, but no answer.
#[tokio::test(flavor = "multi_thread")]
async fn the_cache_is_resized_without_failing_a_read() {
    let (settings, _folder) = file_settings();
    let (mut settings, _key) = with_key(settings);
    settings.cache.staleness = Duration::from_secs(30);
    let server = TestServer::start(settings).await;
    let of_tier = async |name: &str| server.scrape().await.value(name, &[("tier", "l1")]);
    let hits = async || {
        let hit = [("tier", "l1"), ("result", "hit")];
        server.scrape().await.value("mcp_cache_requests_total", &hit)
    };
    let read = async |key: u32| {
        let entry = json!({"agent_id": "x", "key": format!("k{key}")});
        let found = server.client.call("get_memory", entry).await;
        assert_eq!(found["value"].as_str().map(str::len), Some(5_000), "k{key}: {found}");
    };
    for key in 0..50 {
        let entry = json!({"agent_id": "x", "key": format!("k{key}"), "value": "v".repeat(5_000)});
        assert_eq!(server.client.call("set_memory", entry).await["success"], true);
        read(key).await;
    }
    let held = of_tier("mcp_cache_bytes").await;
    assert!(held > 250_000.0, "all values are in the cache: {held} bytes");

    for (name, capacity) in [("smaller", 50_000_u32), ("none", 0), ("larger again", 1_000_000)] {
        let (status, answer) = put(&server, &json!({"cache": {"l1Bytes": capacity}})).await;
        assert_eq!((status, &answer["cache"]["l1Bytes"]), (200, &json!(capacity)), "{name}");
        let most = f64::from(capacity);
        for moment in ["at once", "after reads"] {
            let held = of_tier("mcp_cache_bytes").await;
            assert!(held <= most, "{name}, {moment}: {held} bytes");
            assert_eq!(of_tier("mcp_cache_capacity_bytes").await, most, "{name}, {moment}");
            let is_empty = of_tier("mcp_cache_entries").await == 0.0;
            assert!(is_empty || capacity > 0, "{name}, {moment}: nothing is kept");
            for key in 0..50 {
                read(key).await;
            }
        }
        let before = hits().await;
        for _ in 0..2 {
            read(0).await;
        }
        let hit = hits().await > before;
        assert_eq!(hit, capacity > 0, "{name}: whether the second read of a value is a hit");
    }
}
