//! A throw-away Redis on a loopback port.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;

use super::{SOON, program, until};

/// How long the tests' servers wait for Redis. On a busy machine it does not always answer within the 25 ms of servers
/// elsewhere; then it is left alone for two seconds, and what was to be stored meanwhile is not.
pub const PATIENCE: Duration = Duration::from_secs(2);

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
        // Somebody else may have taken a port that was free a moment ago; then another one is.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let redis = Self {
                child: Mutex::new(None),
                port,
                url: format!("redis://127.0.0.1:{port}"),
            };
            if redis.has_started() {
                return redis;
            }
        }
        panic!("Redis does not start; see its message above");
    }

    /// Starts it again, empty.
    pub fn start_again(&self) {
        // Whoever has taken its port meanwhile may give it back.
        let deadline = Instant::now() + SOON;
        while !self.has_started() {
            assert!(Instant::now() < deadline, "Redis does not start again");
            sleep(Duration::from_millis(100));
        }
    }

    /// Starts it; says whether it answers.
    fn has_started(&self) -> bool {
        let binary = program(
            "redis-server",
            "redis-server",
            ["/usr/bin", "/usr/local/bin"].map(PathBuf::from),
        );
        let mut child = Command::new(binary)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + SOON;
        let mut answers = false;
        while !answers && child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                let _ = child.kill();
            }
            sleep(Duration::from_millis(5));
            answers = self.process_id() == Some(child.id());
        }
        *self.child.lock().unwrap() = Some(child);
        answers
    }

    /// The process that answers at the port.
    fn process_id(&self) -> Option<u32> {
        let client = redis::Client::open(self.url.as_str()).unwrap();
        let mut connection = client.get_connection_with_timeout(PATIENCE).ok()?;
        connection.set_read_timeout(Some(PATIENCE)).ok()?;
        let server: redis::InfoDict = redis::cmd("INFO").arg("server").query(&mut connection).ok()?;
        server.get("process_id")
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
