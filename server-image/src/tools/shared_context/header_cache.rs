//! Session headers in Redis. A header never changes, so a cached one is never stale; and Redis holds nothing else, so
//! losing it loses nothing but time.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{AsyncCommands, Client, RedisError};
use tokio::time::timeout;

use super::model::SessionHeader;
use crate::lock;

/// Longest a request waits for Redis. The database would have answered by then.
const ANSWER: Duration = Duration::from_millis(25);
/// After a failure, Redis is left alone for this long, so that only one request in a while pays for it.
const PAUSE: Duration = Duration::from_secs(2);
/// Life of a cached header, in seconds.
const LIFE_SECONDS: u64 = 1800;

/// A cache of session headers. Cheap to clone. Never fails: without Redis it is merely empty.
#[derive(Clone)]
pub struct HeaderCache {
    connection: ConnectionManager,
    paused_until: Arc<Mutex<Option<Instant>>>,
}

/// The URL of Redis cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("--redis-url (MCP_REDIS_URL) is not a valid Redis URL: {0}")]
pub struct InvalidRedisUrl(#[from] RedisError);

impl HeaderCache {
    /// Prepares the cache; Redis need not answer yet. Needs a running async runtime.
    ///
    /// # Errors
    /// [`InvalidRedisUrl`] when `url` does not parse.
    pub fn open(url: &str) -> Result<Self, InvalidRedisUrl> {
        let settings = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(ANSWER))
            .set_number_of_retries(1);
        let connection = ConnectionManager::new_lazy_with_config(Client::open(url)?, settings)?;
        Ok(Self {
            connection,
            paused_until: Arc::default(),
        })
    }

    /// The header of a session, if it is cached.
    pub async fn get(&self, session_id: &str) -> Option<SessionHeader> {
        let mut connection = self.connection.clone();
        let text: Option<String> = self.ask(async move { connection.get(key(session_id)).await }).await?;
        serde_json::from_str(&text?).ok()
    }

    /// Caches a header.
    pub async fn put(&self, header: &SessionHeader) {
        let Ok(text) = serde_json::to_string(header) else {
            return;
        };
        let mut connection = self.connection.clone();
        let _: Option<()> = self
            .ask(async move { connection.set_ex(key(&header.id), text, LIFE_SECONDS).await })
            .await;
    }

    async fn ask<T>(&self, question: impl Future<Output = Result<T, RedisError>>) -> Option<T> {
        if lock(&self.paused_until).is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let error = match timeout(ANSWER, question).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {ANSWER:?}"),
        };
        tracing::warn!(%error, pause = ?PAUSE, "Redis does not answer; going on without the cache");
        *lock(&self.paused_until) = Some(Instant::now() + PAUSE);
        None
    }
}

fn key(session_id: &str) -> String {
    format!("mcp:session-header:1:{session_id}")
}
