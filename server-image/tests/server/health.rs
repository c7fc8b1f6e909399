//! `/health` and `/health/detailed`, as a monitor reads them.

use serde_json::{Value, json};

use crate::support::postgres::Postgres;
use crate::support::redis::Redis;
use crate::support::server::{TestServer, file_settings, settings};
use crate::support::until;

async fn get(server: &TestServer, path: &str) -> (u16, Value) {
    let answer = reqwest::get(format!("http://{}/{path}", server.server.metrics))
        .await
        .unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// A monitor that knows no metrics must learn what is wrong, and that it is over.
#[tokio::test(flavor = "multi_thread")]
async fn health_follows_the_database() {
    let postgres = Postgres::start();
    let mut settings = settings(&postgres.url("postgres"));
    settings.tuning.pool_max = 3;
    let server = TestServer::start(settings).await;
    let (code, short) = get(&server, "health").await;
    assert_eq!(code, 200, "{short}");
    assert_eq!(short["version"], env!("CARGO_PKG_VERSION"));
    assert!(short.get("checks").is_none(), "a stranger learns no more");
    // At the start a connection looks for indexes to build.
    let (code, long) = until("all is well", async || {
        let found = get(&server, "health/detailed").await;
        (found.1["status"] == "healthy").then_some(found)
    })
    .await;
    assert_eq!(code, 200, "{long}");
    until("it says so in short, too", async || {
        (get(&server, "health").await.1["status"] == "healthy").then_some(())
    })
    .await;
    for check in ["database", "pool", "redis", "memory", "drain"] {
        assert_eq!(long["checks"][check]["status"], "healthy", "{check}: {long}");
    }
    assert_eq!(long["checks"]["pool"]["max"], 3);
    assert!(long["checks"]["memory"]["resident_bytes"].as_f64().unwrap() > 1e6);

    postgres.stop();
    until("the database counts as gone", async || {
        (get(&server, "health").await.0 == 503).then_some(())
    })
    .await;
    let (code, long) = get(&server, "health/detailed").await;
    assert_eq!((code, &long["status"]), (503, &json!("unhealthy")));
    assert_eq!(long["checks"]["database"]["message"], "the database does not answer");
    postgres.start_again();
    until("it is over", async || {
        (get(&server, "health").await.0 == 200).then_some(())
    })
    .await;
}

/// Redis is only a cache: who watches must see that it is away, and no balancer may take the replica out for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_redis_degrades() {
    let (mut settings, _folder) = file_settings();
    let line = async |server: &TestServer| {
        let (code, long) = get(server, "health/detailed").await;
        assert_eq!(code, 200, "{long}");
        let redis = &long["checks"]["redis"];
        (
            redis["message"].clone(),
            redis["status"].clone(),
            long["status"].clone(),
        )
    };
    let healthy = |message| (json!(message), json!("healthy"), json!("healthy"));
    let without = TestServer::start(settings.clone()).await;
    assert_eq!(line(&without).await, healthy("off"));

    let redis = Redis::start();
    settings.data.redis_url = Some(redis.url.clone());
    let server = TestServer::start(settings).await;
    until("Redis is up", async || {
        (line(&server).await == healthy("up")).then_some(())
    })
    .await;
    redis.stop();
    let degraded = (json!("down"), json!("degraded"), json!("degraded"));
    until("Redis is down", async || {
        (line(&server).await == degraded).then_some(())
    })
    .await;
    redis.start_again();
    until("Redis is up again", async || {
        (line(&server).await == healthy("up")).then_some(())
    })
    .await;
}

/// A balancer that asks `/health` must stop sending before the replica ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_draining_replica_is_unhealthy() {
    let (settings, _folder) = file_settings();
    let server = TestServer::start(settings).await;
    let call = server.client.work(2000);
    server.until_metric("mcp_in_flight_requests", 1.0).await;
    server.server.drain();
    let (code, long) = get(&server, "health/detailed").await;
    assert_eq!((code, &long["checks"]["drain"]["status"]), (503, &json!("unhealthy")));
    assert!(call.await.unwrap().status().is_success());
}
