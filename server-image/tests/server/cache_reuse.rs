//! What the figures about reuse say, of a replica's own tier and of the one that replicas share.

use std::time::Duration;

use serde_json::json;

use crate::support::postgres::{SHARED, settled};
use crate::support::redis::Redis;
use crate::support::server::{TestServer, file_settings, settings};
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

/// The cache is sized by what it could have answered: what was changed after it had to leave, or was never kept, must
/// not look like a reason for more memory, and what was not changed must.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_after_it_left_is_beyond_every_size() {
    for local_bytes in [0, 100_000] {
        let (mut settings, _folder) = file_settings();
        settings.cache.local_bytes = local_bytes;
        settings.cache.staleness = Duration::from_secs(30);
        let server = TestServer::start(settings).await;
        let set_all = async || {
            for key in 0..50 {
                let entry = json!({"agent_id": "x", "key": format!("k{key}"), "value": "v".repeat(5_000)});
                assert_eq!(server.client.call("set_memory", entry).await["success"], true);
            }
        };
        let get_all = async || {
            for key in 0..50 {
                let entry = json!({"agent_id": "x", "key": format!("k{key}")});
                assert_eq!(server.client.call("get_memory", entry).await["success"], true);
            }
        };
        let counted = async || {
            let scrape = server.scrape().await;
            let buckets = scrape.buckets("mcp_cache_reuse_bytes_bucket", &[("tier", "l1")]);
            (buckets[buckets.len() - 2].1, buckets[buckets.len() - 1].1)
        };
        set_all().await;
        get_all().await;
        assert_eq!(counted().await, (0.0, 50.0), "{local_bytes}: all are new");
        get_all().await;
        assert_eq!(
            counted().await,
            (50.0, 100.0),
            "{local_bytes}: all could have been hits"
        );
        set_all().await;
        get_all().await;
        assert_eq!(counted().await, (50.0, 150.0), "{local_bytes}: none could");
        let changed = [("tier", "l1"), ("result", "miss_changed")];
        let changed = server.scrape().await.value("mcp_cache_requests_total", &changed);
        assert!(changed <= 20.0, "{local_bytes}: most had left before they were changed");
    }
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
        settled(&url).await;
        tokio::time::sleep(STALENESS).await;
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
    for key in 0..10 {
        get(&b, key).await;
    }
    until(
        "B has counted ten more, which no size would have answered",
        async || (distances(&b, before_b).await == (10.0, 10.0, 20.0)).then_some(()),
    )
    .await;
    // As if Redis had evicted everything before it was changed.
    set("c").await;
    let mut order = redis::cmd("DEL");
    order.arg(redis.keys().await);
    let _: u64 = order.query_async(&mut redis.connect().await).await.unwrap();
    for key in 0..10 {
        get(&b, key).await;
    }
    until(
        "B has counted ten more, which were not there and would have been of no use",
        async || (distances(&b, before_b).await == (10.0, 10.0, 30.0)).then_some(()),
    )
    .await;
    assert_eq!(
        distances(&a, before_a).await.2,
        10.0,
        "each counts what it has read itself"
    );
}
