//! Redis makes `get_session` cheaper, and nothing worse.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::postgres::{SHARED, connect};
use crate::support::program;
use crate::support::server::{TestServer, settings};

/// A throw-away Redis on a loopback port.
pub struct Redis {
    child: Child,
    /// How to reach it.
    pub url: String,
}

impl Redis {
    /// Starts one.
    pub fn start() -> Self {
        let binary = program(
            "redis-server",
            "redis-server",
            ["/usr/bin", "/usr/local/bin"].map(PathBuf::from),
        );
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
            .to_string();
        let child = Command::new(binary)
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
            url: format!("redis://127.0.0.1:{port}"),
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn start(url: &str, redis: &str) -> TestServer {
    let mut settings = settings(url);
    settings.data.redis_url = Some(redis.to_owned());
    TestServer::start(settings).await
}

async fn get(server: &TestServer, session: &Value) -> Value {
    server.client.call("get_session", json!({"session_id": session})).await
}

/// Another replica must be able to use what one has cached; what changes must always come from the database.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_never_changes_is_cached() {
    let (redis, url) = (Redis::start(), SHARED.database().await);
    let (a, b) = tokio::join!(start(&url, &redis.url), start(&url, &redis.url));
    let session = a.client.call("create_session", json!({"purpose": "first"})).await["session_id"].clone();
    let database = connect(&url).await;
    let mut redis_client = redis::Client::open(redis.url.as_str())
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    crate::support::until("the header is cached", async || {
        assert_eq!(get(&a, &session).await["session"]["purpose"], "first");
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg("*")
            .query_async(&mut redis_client)
            .await
            .unwrap();
        (keys == [format!("mcp:session-header:1:{}", session.as_str().unwrap())]).then_some(())
    })
    .await;

    // Not possible through any tool: it shows where the header comes from.
    database
        .execute("UPDATE sessions SET purpose = 'second'", &[])
        .await
        .unwrap();
    crate::support::until("the other replica uses the cache", async || {
        (get(&b, &session).await["session"]["purpose"] == "first").then_some(())
    })
    .await;
    b.client
        .call("add_message", json!({"session_id": session, "content": "m"}))
        .await;
    assert_eq!(get(&a, &session).await["message_count"], 1, "messages are not cached");
    database.execute("DELETE FROM sessions", &[]).await.unwrap();
    assert_eq!(
        get(&b, &session).await["code"],
        "SESSION_NOT_FOUND",
        "a session that is gone is gone"
    );
}

/// Redis may be away, or accept connections and say nothing: callers must hardly notice.
#[tokio::test(flavor = "multi_thread")]
async fn without_redis_the_server_goes_on() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = SHARED.database().await;
    for (name, address) in [("away", closed), ("silent", silent.local_addr().unwrap())] {
        let server = start(&url, &format!("redis://{address}")).await;
        let session = server.client.call("create_session", json!({"purpose": name})).await["session_id"].clone();
        let started = Instant::now();
        for _ in 0..20 {
            assert_eq!(get(&server, &session).await["session"]["purpose"], name);
        }
        assert!(
            started.elapsed() < Duration::from_millis(1500),
            "{name}: 20 calls took {:?}",
            started.elapsed()
        );
    }
}
