//! The second tier: Redis, shared by all replicas, and never needed.
//!
//! Nothing that Redis says is believed without proof from the database's journal (see [`super::follower`]), so it may
//! be restarted, emptied, cut off or replaced by an old copy at any time. While it does not answer it is left alone for
//! [`PAUSE`], so that only one request in a while pays for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, FromRedisValue, Pipeline, RedisError};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::lock;

/// Longest wait for an answer. The database would have answered by then.
const ANSWER: Duration = Duration::from_millis(25);
/// After a failure, Redis is left alone for this long.
const PAUSE: Duration = Duration::from_secs(2);
/// Most values on their way to Redis at once; what comes while they are is not stored there.
const WRITES: usize = 64;
/// Begin of all keys; the number changes with the meaning of keys.
const NAMESPACE: &str = "mcp:cache:2";
/// Most keys remembered as popular.
const POPULAR_MAX: isize = 1_000;
/// The list of popular keys is forgotten after this long without a replica, in seconds.
const POPULAR_SECONDS: i64 = 600;

/// The URL of Redis cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("--redis-url (MCP_REDIS_URL) is not a valid Redis URL: {0}")]
pub struct InvalidRedisUrl(#[from] RedisError);

/// The second tier as one replica sees it. Cheap to clone. Never fails: without Redis it is merely empty.
#[derive(Clone)]
pub(super) struct Shared {
    connection: ConnectionManager,
    state: Arc<State>,
}

struct State {
    paused_until: Mutex<Option<Instant>>,
    answers: AtomicBool,
    errors: Counter,
    writes: Arc<Semaphore>,
}

/// A value found in Redis.
pub(super) struct Found {
    pub(super) bytes: Vec<u8>,
    /// How long Redis would keep it.
    pub(super) life: Duration,
}

impl Shared {
    /// Prepares the tier; Redis need not answer yet. Needs a running async runtime.
    ///
    /// # Errors
    /// [`InvalidRedisUrl`] when `url` does not parse.
    pub(super) fn open(url: &str) -> Result<Self, InvalidRedisUrl> {
        let settings = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(ANSWER))
            .set_number_of_retries(1);
        Ok(Self {
            connection: ConnectionManager::new_lazy_with_config(Client::open(url)?, settings)?,
            state: Arc::new(State {
                paused_until: Mutex::default(),
                answers: AtomicBool::new(true),
                errors: Counter::default(),
                writes: Arc::new(Semaphore::new(WRITES)),
            }),
        })
    }

    /// Questions that were not answered.
    pub(super) fn errors(&self) -> Counter {
        self.state.errors.clone()
    }

    /// Whether the last question was answered; also before the first.
    pub(super) fn answers(&self) -> bool {
        self.state.answers.load(Ordering::Relaxed)
    }

    /// Asks Redis whether it is there.
    pub(super) async fn ping(&self) {
        let _: Option<String> = self.ask(redis::pipe().cmd("PING")).await.map(|(answer,)| answer);
    }

    /// What is stored under a key for the database `origin`.
    pub(super) async fn get(&self, origin: &str, key: &str) -> Option<Found> {
        let name = name(origin, key);
        let mut questions = redis::pipe();
        questions.cmd("GET").arg(&name).cmd("PTTL").arg(&name);
        let (bytes, life): (Option<Vec<u8>>, i64) = self.ask(&questions).await?;
        Some(Found {
            bytes: bytes?,
            life: Duration::from_millis(u64::try_from(life).ok()?),
        })
    }

    /// What is stored under several keys.
    pub(super) async fn get_many(&self, origin: &str, keys: &[String]) -> Vec<Option<Found>> {
        let mut questions = redis::pipe();
        for key in keys {
            let name = name(origin, key);
            questions.cmd("GET").arg(&name).cmd("PTTL").arg(&name);
        }
        let answers: Vec<redis::Value> = self.ask(&questions).await.unwrap_or_default();
        let pair = |pair: &[redis::Value]| {
            let [bytes, life] = pair else { return None };
            Some(Found {
                bytes: Vec::from_redis_value_ref(bytes)
                    .ok()
                    .filter(|bytes: &Vec<u8>| !bytes.is_empty())?,
                life: Duration::from_millis(u64::try_from(i64::from_redis_value_ref(life).ok()?).ok()?),
            })
        };
        answers.chunks(2).map(pair).collect()
    }

    /// Stores a value for `life`, in the background; if Redis is slow, rather not.
    pub(super) fn put(
        &self,
        origin: &str,
        key: &str,
        life: Duration,
        bytes: impl FnOnce() -> Option<Vec<u8>> + Send + 'static,
    ) {
        if self.is_paused() {
            return;
        }
        let Ok(permit) = Arc::clone(&self.state.writes).try_acquire_owned() else {
            return;
        };
        let millis = u64::try_from(life.as_millis()).unwrap_or(u64::MAX).max(1);
        let (this, name) = (self.clone(), name(origin, key));
        tokio::spawn(async move {
            if let Some(bytes) = bytes() {
                let mut order = redis::pipe();
                order.cmd("SET").arg(name).arg(bytes).arg("PX").arg(millis).ignore();
                let _: Option<()> = this.ask(&order).await;
            }
            drop(permit);
        });
    }

    /// Remembers which keys are read often.
    pub(super) async fn add_popular(&self, origin: &str, keys: &[(Arc<str>, u32)]) {
        if keys.is_empty() {
            return;
        }
        let list = popular(origin);
        let mut order = redis::pipe();
        for (key, hits) in keys {
            order.cmd("ZINCRBY").arg(&list).arg(*hits).arg(key.as_ref()).ignore();
        }
        order
            .cmd("ZREMRANGEBYRANK")
            .arg(&list)
            .arg(0)
            .arg(-1 - POPULAR_MAX)
            .ignore();
        order.cmd("EXPIRE").arg(&list).arg(POPULAR_SECONDS).ignore();
        let _: Option<()> = self.ask(&order).await;
    }

    /// The keys that are read most often, the first ones most.
    pub(super) async fn popular(&self, origin: &str) -> Vec<String> {
        let mut question = redis::pipe();
        question
            .cmd("ZREVRANGE")
            .arg(popular(origin))
            .arg(0)
            .arg(POPULAR_MAX - 1);
        let answer: Option<(Vec<String>,)> = self.ask(&question).await;
        answer.map(|(keys,)| keys).unwrap_or_default()
    }

    fn is_paused(&self) -> bool {
        lock(&self.state.paused_until).is_some_and(|until| Instant::now() < until)
    }

    async fn ask<Answer: FromRedisValue>(&self, questions: &Pipeline) -> Option<Answer> {
        if self.is_paused() {
            return None;
        }
        let mut connection = self.connection.clone();
        let error = match timeout(ANSWER, questions.query_async(&mut connection)).await {
            Ok(Ok(answer)) => {
                if !self.state.answers.swap(true, Ordering::Relaxed) {
                    tracing::info!("Redis answers again");
                }
                return Some(answer);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {ANSWER:?}"),
        };
        self.state.errors.inc();
        if self.state.answers.swap(false, Ordering::Relaxed) {
            tracing::warn!(%error, "Redis does not answer; going on without it");
        }
        *lock(&self.state.paused_until) = Some(Instant::now() + PAUSE);
        None
    }
}

fn name(origin: &str, key: &str) -> String {
    format!("{NAMESPACE}:{origin}:{key}")
}

fn popular(origin: &str) -> String {
    format!("{NAMESPACE}:{origin}#popular")
}
