//! A throw-away Redis on a loopback port.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use redis::aio::MultiplexedConnection;

use super::{program, until};

/// A Redis server that can be stopped and started.
pub struct Redis {
    child: Mutex<Option<Child>>,
    port: u16,
    /// Where it is.
    pub url: String,
}

impl Redis {
    /// Starts one.
    pub fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let redis = Self {
            child: Mutex::new(None),
            port,
            url: format!("redis://127.0.0.1:{port}"),
        };
        redis.start_again();
        redis
    }

    /// Starts it again, empty.
    pub fn start_again(&self) {
        let binary = program(
            "redis-server",
            "redis-server",
            ["/usr/bin", "/usr/local/bin"].map(PathBuf::from),
        );
        let child = Command::new(binary)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        *self.child.lock().unwrap() = Some(child);
    }

    /// Kills it.
    pub fn stop(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// A connection of the test's own.
    pub async fn connect(&self) -> MultiplexedConnection {
        until("Redis accepts connections", async || {
            let client = redis::Client::open(self.url.as_str()).unwrap();
            client.get_multiplexed_async_connection().await.ok()
        })
        .await
    }

    /// All keys of values in the cache.
    pub async fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = redis::cmd("KEYS")
            .arg("mcp:cache:*")
            .query_async(&mut self.connect().await)
            .await
            .unwrap();
        keys.retain(|key| !key.contains("#popular"));
        keys
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}
