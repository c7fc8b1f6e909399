//! What the figures about reuse say of the tier that replicas share.

use std::time::Duration;

use serde_json::json;

use crate::support::postgres::SHARED;
use crate::support::redis::Redis;
use crate::support::server::{TestServer, settings};
use crate::support::until;

const STALENESS: Duration = Duration::from_millis(300);

async fn start(url: &str, redis: &Redis) -> TestServer {
    let mut settings = settings(url);
    settings.data.redis_url = Some(redis.url.clone());
    settings.cache.staleness = STALENESS;
    TestServer::start(settings).await
}

/// Reads what nobody has read until Redis has answered: a first connection that is slow is taken for a Redis that is
/// away.
async fn connect(server: &TestServer) {
    let name = server.server.mcp.to_string();
    let mut number = 0;
    until("Redis answers", async || {
        number += 1;
        let key = format!("{name}-{number}");
        let entry = json!({"agent_id": "probe", "key": key, "value": 1});
        assert_eq!(server.client.call("set_memory", entry).await["success"], true);
        let entry = json!({"agent_id": "probe", "key": key});
        assert_eq!(server.client.call("get_memory", entry).await["success"], true);
        let asked = [("tier", "l2"), ("result", "miss_new")];
        let asked = server.scrape().await.value("mcp_cache_requests_total", &asked);
        (asked > 0.0).then_some(())
    })
    .await;
    until("all that Redis was asked is counted", async || {
        let asked = [("tier", "l2"), ("result", "miss_new")];
        let asked = server.scrape().await.value("mcp_cache_requests_total", &asked);
        (total(server).await == asked).then_some(())
    })
    .await;
}

/// Reads from Redis that are counted.
async fn total(server: &TestServer) -> f64 {
    let tier = [("tier", "l2")];
    server.scrape().await.value("mcp_cache_reuse_bytes_count", &tier)
}

/// Redis is sized by what all replicas read from it: what one has read must count as read before at the others, and
/// what was changed must not look like a reason for more memory.
#[tokio::test(flavor = "multi_thread")]
async fn reuse_of_redis_is_that_of_all_replicas_together() {
    let (redis, url) = (Redis::start(), SHARED.database().await);
    let (a, b) = tokio::join!(start(&url, &redis), start(&url, &redis));
    let set = async |value: &str| {
        for key in 0..10 {
            let entry = json!({"agent_id": "x", "key": format!("k{key}"), "value": value.repeat(500)});
            assert_eq!(a.client.call("set_memory", entry).await["success"], true);
        }
    };
    let get = async |server: &TestServer, key: u32| {
        let entry = json!({"agent_id": "x", "key": format!("k{key}")});
        assert_eq!(server.client.call("get_memory", entry).await["success"], true);
    };
    for server in [&a, &b] {
        connect(server).await;
    }
    let (before_a, before_b) = (total(&a).await, total(&b).await);
    let distances = async |server: &TestServer, before: f64| {
        let scrape = server.scrape().await;
        let buckets = scrape.buckets("mcp_cache_reuse_bytes_bucket", &[("tier", "l2")]);
        let (finite, all) = (buckets[buckets.len() - 2].1, buckets[buckets.len() - 1].1 - before);
        let near = buckets.iter().rfind(|(bound, _)| *bound <= 20_000.0).unwrap().1;
        (near, finite, all)
    };
    set("a").await;
    for key in 0..10 {
        get(&a, key).await;
    }
    until("A has counted ten new ones", async || {
        (distances(&a, before_a).await == (0.0, 0.0, 10.0)).then_some(())
    })
    .await;
    for key in 0..10 {
        get(&b, key).await;
    }
    until("B has counted ten that A had read, all within 20 kB", async || {
        (distances(&b, before_b).await == (10.0, 10.0, 10.0)).then_some(())
    })
    .await;
    set("b").await;
    tokio::time::sleep(STALENESS).await;
    for key in 0..10 {
        get(&b, key).await;
    }
    until(
        "B has counted ten more, which no size would have answered",
        async || (distances(&b, before_b).await == (10.0, 10.0, 20.0)).then_some(()),
    )
    .await;
    assert_eq!(
        distances(&a, before_a).await.2,
        10.0,
        "each counts what it has read itself"
    );
}
