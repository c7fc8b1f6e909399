//! The cache makes reads cheaper, and nothing else different: what was written is seen, what is private stays so, and
//! Redis may do what it likes.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use futures::future::join_all;
use mcp_server::cache::CacheSettings;
use mcp_server::server::Settings;
use redis::AsyncCommands;
use serde_json::{Value, json};

use crate::support::databases::both;
use crate::support::postgres::{Postgres, SHARED, connect, settled};
use crate::support::redis::Redis;
use crate::support::server::{TestServer, settings};
use crate::support::until;

const STALENESS: Duration = Duration::from_millis(300);

fn with_cache(url: &str, redis: Option<&str>, staleness: Duration) -> Settings {
    let mut settings = settings(url);
    settings.data.redis_url = redis.map(str::to_owned);
    settings.cache.staleness = staleness;
    settings
}

async fn start(url: &str, redis: Option<&str>, staleness: Duration) -> TestServer {
    TestServer::start(with_cache(url, redis, staleness)).await
}

async fn session(server: &TestServer) -> Value {
    server.client.call("create_session", json!({"purpose": "p"})).await["session_id"].clone()
}

async fn add(server: &TestServer, session: &Value) {
    let message = json!({"session_id": session, "content": "m"});
    assert_eq!(server.client.call("add_message", message).await["success"], true);
}

/// How many messages a server shows.
async fn count(server: &TestServer, session: &Value) -> i64 {
    let page = server.client.call("get_messages", json!({"session_id": session})).await;
    let view = server.client.call("get_session", json!({"session_id": session})).await;
    let count = page["total_count"].as_i64().unwrap_or_else(|| panic!("{page}"));
    let shown = view["message_count"].as_i64().unwrap();
    assert!(shown >= count.min(50), "the view was read later: {shown} and {count}");
    let everything = json!({"session_id": session, "query": "m", "fuzzy_threshold": 0, "limit": 100});
    let found = server.client.call("search_context", everything).await;
    let found = found["message_count"].as_i64().unwrap_or_else(|| panic!("{found}"));
    assert!(
        found >= count.min(100),
        "the search was done later: {found} and {count}"
    );
    count
}

async fn hits(server: &TestServer, tier: &str) -> f64 {
    let labels = [("tier", tier), ("result", "hit")];
    server.scrape().await.value("mcp_cache_requests_total", &labels)
}

/// The promise: a read that begins a staleness after a write was acknowledged sees it, at every replica, whatever
/// Redis does meanwhile; and reads in between are served from the cache.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_seen_everywhere_within_the_bound_whatever_redis_does() {
    let (redis, url) = (Redis::start(), SHARED.database().await);
    let (a, b) = tokio::join!(
        start(&url, Some(&redis.url), STALENESS),
        start(&url, Some(&redis.url), STALENESS)
    );
    let session = session(&a).await;
    let mut written = 0;
    for phase in ["Redis answers", "Redis is away", "Redis is back, and empty"] {
        match phase {
            "Redis is away" => redis.stop(),
            "Redis is back, and empty" => redis.start_again(),
            _ => {}
        }
        for round in 0..8 {
            let (writer, reader) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
            for _ in 0..3 {
                count(reader, &session).await;
            }
            add(writer, &session).await;
            written += 1;
            assert_eq!(
                count(writer, &session).await,
                written,
                "{phase}: at once where it was written"
            );
            tokio::time::sleep(STALENESS).await;
            assert_eq!(
                count(reader, &session).await,
                written,
                "{phase}: after the bound elsewhere"
            );
        }
    }
    for server in [&a, &b] {
        assert!(hits(server, "l1").await > 40.0, "reads were served from the cache");
    }
}

/// With a staleness of zero a client may write here and read there at once.
#[tokio::test(flavor = "multi_thread")]
async fn without_staleness_every_read_sees_every_write() {
    let (redis, url) = (Redis::start(), SHARED.database().await);
    let (a, b) = tokio::join!(
        start(&url, Some(&redis.url), Duration::ZERO),
        start(&url, Some(&redis.url), Duration::ZERO)
    );
    let session = session(&a).await;
    // Others read all the time, so that values are always on their way.
    let stop = tokio_util::sync::CancellationToken::new();
    let readers: Vec<_> = [&a, &b, &a, &b]
        .into_iter()
        .map(|server| {
            let (client, session, stop) = (server.client.clone(), session.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    client.call("get_messages", json!({"session_id": session})).await;
                }
            })
        })
        .collect();
    for written in 1..=60 {
        let (writer, reader) = if written % 2 == 0 { (&a, &b) } else { (&b, &a) };
        add(writer, &session).await;
        assert_eq!(count(reader, &session).await, written);
        assert_eq!(count(writer, &session).await, written);
        if written == 20 {
            redis.stop();
        }
        if written == 40 {
            redis.start_again();
        }
    }
    stop.cancel();
    for reader in readers {
        reader.await.unwrap();
    }
}

/// Redis may be restored from an old copy, or somebody may put an old value back: it must not be believed.
#[tokio::test(flavor = "multi_thread")]
async fn old_values_in_redis_are_not_believed() {
    let (redis, url) = (Redis::start(), SHARED.database().await);
    let (a, b) = tokio::join!(
        start(&url, Some(&redis.url), Duration::ZERO),
        start(&url, Some(&redis.url), Duration::ZERO)
    );
    let memory = json!({"agent_id": "x", "key": "k"});
    let set = async |value: &str| {
        let entry = json!({"agent_id": "x", "key": "k", "value": value});
        assert_eq!(a.client.call("set_memory", entry).await["success"], true);
    };
    set("old").await;
    a.client.call("get_memory", memory.clone()).await;
    let key = until("the value is in Redis", async || redis.keys().await.pop()).await;
    let mut connection = redis.connect().await;
    let old: Vec<u8> = connection.get(&key).await.unwrap();
    set("new").await;
    let _: () = connection.set_ex(&key, old, 600).await.unwrap();
    assert_eq!(b.client.call("get_memory", memory.clone()).await["value"], "new");
    for damaged in [
        &b"rubbish"[..],
        b"",
        &[1],
        &[0x81, 0, 0, 0, 0, 0, 0, 0, 0, 40, 181, 47, 253],
    ] {
        let _: () = connection.set_ex(&key, damaged, 600).await.unwrap();
        set("newer").await;
        assert_eq!(b.client.call("get_memory", memory.clone()).await["value"], "newer");
    }
}

/// A replica that starts, and one whose own tier has lost a value, must find it in Redis instead of asking the
/// database, and a change of which nobody but the database knows must reach them.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_what_one_has_read() {
    let (redis, url) = (Redis::start(), SHARED.database().await);
    let a = start(&url, Some(&redis.url), Duration::ZERO).await;
    let session = session(&a).await;
    add(&a, &session).await;
    settled(&url).await;
    count(&a, &session).await;
    until("header, view, page and search are in Redis", async || {
        (redis.keys().await.len() == 4).then_some(())
    })
    .await;
    let b = start(&url, Some(&redis.url), Duration::ZERO).await;
    assert_eq!(count(&b, &session).await, 1);
    assert_eq!(hits(&b, "l2").await, 4.0);
    assert_eq!(
        b.scrape().await.value("mcp_cache_load_seconds_count", &[]),
        0.0,
        "nothing came from the database"
    );
    // The entry leaves Redis with the life it had; the copy must not live longer.
    let database = connect(&url).await;
    database
        .execute("UPDATE sessions SET purpose = 'changed'", &[])
        .await
        .unwrap();
    for server in [&a, &b] {
        let found = server.client.call("get_session", json!({"session_id": session})).await;
        assert_eq!(found["session"]["purpose"], "changed");
    }
    database.execute("DELETE FROM sessions", &[]).await.unwrap();
    for server in [&a, &b] {
        let found = server.client.call("get_session", json!({"session_id": session})).await;
        assert_eq!(found["code"], "SESSION_NOT_FOUND");
    }
}

/// What an agent keeps for itself must not come out of a cache for another one, in any tier, on any replica.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_what_was_cached_for_another() {
    for database in both().await {
        let kind = database.kind;
        let redis = Redis::start();
        let settings = with_cache(&database.url, Some(&redis.url), STALENESS);
        let servers = database.servers(&settings).await;
        let first = &servers[0];
        let session = session(first).await;
        let secret = json!({"session_id": session, "content": "secret", "visibility": "private", "agent_id": "victim"});
        assert_eq!(first.client.call("add_message", secret).await["success"], true);
        let secret = json!({"agent_id": "victim", "key": "k", "value": "secret"});
        assert_eq!(first.client.call("set_memory", secret).await["success"], true);
        // The victim's own reads fill both tiers of all servers.
        for server in &servers {
            for agent in ["victim", "victim"] {
                for (tool, arguments) in reads(&session, agent) {
                    let found = server.client.call(tool, arguments).await.to_string();
                    assert!(found.contains("secret"), "{kind}, {tool}: {found}");
                }
            }
        }
        // Names made to look like the victim's key in whatever way keys are put together.
        let lookalikes = [
            "attacker",
            "anonymous",
            "Victim",
            "victim ",
            "victim\", agent_type: None",
            "victim:k",
            "victim/",
            "*",
            "victim%",
        ];
        for server in &servers {
            for agent in lookalikes {
                for (tool, arguments) in reads(&session, agent) {
                    let found = server.client.call(tool, arguments).await.to_string();
                    assert!(!found.contains("secret"), "{kind}, {tool} as {agent:?}: {found}");
                }
            }
            let own = server
                .client
                .call("get_memory", json!({"agent_id": "victim", "key": "k"}))
                .await;
            assert_eq!(own["value"], "secret", "{kind}");
        }
    }
}

fn reads(session: &Value, agent: &str) -> [(&'static str, Value); 4] {
    [
        ("get_messages", json!({"session_id": session, "agent_id": agent})),
        ("get_session", json!({"session_id": session, "agent_id": agent})),
        ("get_memory", json!({"key": "k", "agent_id": agent})),
        (
            "search_context",
            json!({"session_id": session, "query": "ecre", "fuzzy_threshold": 0, "agent_id": agent}),
        ),
    ]
}

/// A memory entry must end when it ends, also in the cache.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_expires_leaves_the_cache_in_time() {
    for database in both().await {
        let kind = database.kind;
        let redis = Redis::start();
        let settings = with_cache(&database.url, Some(&redis.url), STALENESS);
        let servers = database.servers(&settings).await;
        let entry = json!({"agent_id": "x", "key": "k", "value": 1, "expires_in": 2});
        servers[0].client.call("set_memory", entry).await;
        let set = Instant::now();
        let get = async |server: &TestServer| {
            let found = server
                .client
                .call("get_memory", json!({"agent_id": "x", "key": "k"}))
                .await;
            found["value"] == 1
        };
        for server in servers.iter().chain(&servers) {
            assert!(get(server).await, "{kind}: it is there");
        }
        tokio::time::sleep(Duration::from_millis(2_050).saturating_sub(set.elapsed())).await;
        for server in &servers {
            assert!(!get(server).await, "{kind}: two seconds are over");
        }
    }
}

/// A hundred readers of one value must not be a hundred questions to the database.
#[tokio::test(flavor = "multi_thread")]
async fn many_readers_ask_once() {
    let url = SHARED.database().await;
    let mut settings = settings(&url);
    settings.cache.staleness = Duration::from_secs(5);
    settings.tuning.concurrency = 60;
    let server = TestServer::start(settings).await;
    let session = session(&server).await;
    let blocker = connect(&url).await;
    blocker
        .batch_execute("BEGIN; LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let (client, session) = (server.client.clone(), session.clone());
            tokio::spawn(async move { client.call("get_messages", json!({"session_id": session})).await })
        })
        .collect();
    server.until_metric("mcp_in_flight_requests", 50.0).await;
    blocker.batch_execute("ROLLBACK").await.unwrap();
    for call in join_all(calls).await {
        assert_eq!(call.unwrap()["success"], true);
    }
    let scrape = server.scrape().await;
    assert_eq!(scrape.value("mcp_cache_load_seconds_count", &[]), 1.0);
    let result = |result| scrape.value("mcp_cache_requests_total", &[("tier", "l1"), ("result", result)]);
    assert_eq!((result("hit"), result("miss_new")), (49.0, 1.0));
}

/// The scaler sizes the cache by these figures, and a person trusts the ratio: they must be what happened.
#[tokio::test(flavor = "multi_thread")]
async fn figures_are_what_happened() {
    for database in both().await {
        let kind = database.kind;
        let server = start(&database.url, None, Duration::from_secs(30)).await;
        let entry = |key: u32| json!({"agent_id": "x", "key": format!("k{key}"), "value": "v".repeat(1_000)});
        let get = async |key: u32| {
            let found = server
                .client
                .call("get_memory", json!({"agent_id": "x", "key": format!("k{key}")}))
                .await;
            assert_eq!(found["success"], true);
        };
        for key in 0..10 {
            server.client.call("set_memory", entry(key)).await;
        }
        // 10 new ones, then 20 hits; one is changed: a miss, and a hit.
        for _ in 0..3 {
            for key in 0..10 {
                get(key).await;
            }
        }
        server.client.call("set_memory", entry(3)).await;
        get(3).await;
        get(3).await;
        let scrape = server.scrape().await;
        let of = |name, result| scrape.value(name, &[("tier", "l1"), ("result", result)]);
        for (result, expected) in [
            ("hit", 21.0),
            ("miss_new", 10.0),
            ("miss_changed", 1.0),
            ("miss_evicted", 0.0),
        ] {
            assert_eq!(of("mcp_cache_requests_total", result), expected, "{kind}: {result}");
        }
        assert!((scrape.value("mcp_cache_hit_ratio", &[]) - 21.0 / 32.0).abs() < 1e-9);
        assert_eq!(scrape.value("mcp_cache_entries", &[("tier", "l1")]), 10.0);
        let bytes = scrape.value("mcp_cache_bytes", &[("tier", "l1")]);
        assert!(
            (10_000.0..25_000.0).contains(&bytes),
            "{kind}: ten values of 1000 bytes take {bytes}"
        );
        assert_eq!(
            scrape.value("mcp_cache_capacity_bytes", &[("tier", "l1")]),
            16.0 * 1024.0 * 1024.0
        );
        // 20 reads come back after all ten, one after itself alone; new and changed ones are beyond every size.
        let up_to = |bound: f64| {
            let buckets = scrape.buckets("mcp_cache_reuse_bytes_bucket", &[("tier", "l1")]);
            let found = buckets.iter().rfind(|(limit, _)| *limit <= bound);
            found.map_or(0.0, |(_, count)| *count)
        };
        assert_eq!(scrape.value("mcp_cache_reuse_bytes_count", &[("tier", "l1")]), 32.0);
        assert_eq!(up_to(5_000.0), 1.0, "{kind}: the read of what was just read");
        assert_eq!(up_to(bytes * 1.2), 21.0, "{kind}: all that could be hits");
        assert_eq!(up_to(1e12), 21.0, "{kind}: no size makes hits of the others");
    }
}

/// A cache that keeps more than it may takes memory that the server needs; and whoever sizes it must see what had to
/// make room.
#[tokio::test(flavor = "multi_thread")]
async fn capacity_is_kept() {
    for database in both().await {
        let kind = database.kind;
        let mut settings = settings(&database.url);
        settings.cache.local_bytes = 200_000;
        settings.cache.staleness = Duration::from_secs(30);
        let server = TestServer::start(settings).await;
        for key in 0..100 {
            let entry = json!({"agent_id": "x", "key": format!("k{key}"), "value": "v".repeat(5_000)});
            server.client.call("set_memory", entry).await;
            server
                .client
                .call("get_memory", json!({"agent_id": "x", "key": format!("k{key}")}))
                .await;
        }
        let scrape = server.scrape().await;
        let bytes = scrape.value("mcp_cache_bytes", &[("tier", "l1")]);
        assert!(
            (50_000.0..=200_000.0).contains(&bytes),
            "{kind}: {bytes} of 200000 bytes"
        );
        let evictions = scrape.value("mcp_cache_evictions_total", &[]);
        assert!(evictions > 50.0, "{kind}: {evictions} of 100 values had to leave");
        server
            .client
            .call("get_memory", json!({"agent_id": "x", "key": "k0"}))
            .await;
        let evicted = [("tier", "l1"), ("result", "miss_evicted")];
        let again = server.scrape().await.value("mcp_cache_requests_total", &evicted);
        assert!(again >= 1.0, "{kind}: the first had to leave, and was asked for again");
    }
}

/// Redis may be away, or accept connections and say nothing: callers must hardly notice, and operators must know.
#[tokio::test(flavor = "multi_thread")]
async fn without_redis_the_server_goes_on_and_says_so() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = SHARED.database().await;
    for (name, address) in [("away", closed), ("silent", silent.local_addr().unwrap())] {
        let mut settings = with_cache(&url, Some(&format!("redis://{address}")), Duration::ZERO);
        settings.cache.redis_answer = CacheSettings::default().redis_answer;
        let server = TestServer::start(settings).await;
        let session = session(&server).await;
        let started = Instant::now();
        for written in 1..=20 {
            add(&server, &session).await;
            assert_eq!(count(&server, &session).await, written);
        }
        assert!(
            started.elapsed() < Duration::from_secs(4),
            "{name}: 60 calls took {:?}",
            started.elapsed()
        );
        let ready = reqwest::get(format!("http://{}/readyz", server.server.metrics))
            .await
            .unwrap();
        assert_eq!(
            ready.status(),
            200,
            "{name}: a replica without Redis is still a good replica"
        );
        let text = ready.text().await.unwrap();
        assert!(
            text.starts_with("ready\n") && text.contains("Redis does not answer"),
            "{name}: {text}"
        );
        let scrape = server.scrape().await;
        assert_eq!(scrape.value("mcp_cache_redis_up", &[]), 0.0, "{name}");
        assert!(scrape.value("mcp_cache_redis_errors_total", &[]) >= 1.0, "{name}");
    }
}

/// When Redis comes back it must be used again, without a restart.
#[tokio::test(flavor = "multi_thread")]
async fn redis_is_used_again_when_it_is_back() {
    let (redis, url) = (Redis::start(), SHARED.database().await);
    let server = start(&url, Some(&redis.url), Duration::ZERO).await;
    redis.stop();
    server.until_metric("mcp_cache_redis_up", 0.0).await;
    redis.start_again();
    server.until_metric("mcp_cache_redis_up", 1.0).await;
    let session = session(&server).await;
    count(&server, &session).await;
    until("values are stored again", async || {
        (!redis.keys().await.is_empty()).then_some(())
    })
    .await;
}

/// Postgres restarts in every upgrade: reads go on with the new one, and nothing old is served.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_old_is_served_after_the_database_restarted() {
    let postgres = Postgres::start();
    let url = postgres.url("postgres");
    let redis = Redis::start();
    let server = start(&url, Some(&redis.url), STALENESS).await;
    let session = session(&server).await;
    count(&server, &session).await;
    count(&server, &session).await;
    let before = redis.keys().await;
    postgres.stop();
    postgres.start_again();
    // The pool's connections are all broken: a read is asked again, on a new one.
    assert_eq!(count(&server, &session).await, 0);
    until("new values have keys of their own", async || {
        // Stored once, and not again while it is in the process; a slow Redis may have missed it.
        add(&server, &session).await;
        count(&server, &session).await;
        let keys = redis.keys().await;
        keys.iter().any(|key| !before.contains(key)).then_some(())
    })
    .await;
    let database = connect(&url).await;
    database.execute("DELETE FROM sessions", &[]).await.unwrap();
    tokio::time::sleep(STALENESS).await;
    let found = server.client.call("get_session", json!({"session_id": session})).await;
    assert_eq!(found["code"], "SESSION_NOT_FOUND");
}
