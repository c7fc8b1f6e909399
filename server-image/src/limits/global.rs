//! Limits of all replicas together, through Redis.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisError, Script};
use tokio::time::timeout;

use super::caller::Caller;
use super::{Class, Rate};
use crate::lock;

/// Longest a request waits for Redis.
const ANSWER: Duration = Duration::from_millis(25);
/// After a failure, Redis is left alone for this long, so that only one request in a while pays for it.
const PAUSE: Duration = Duration::from_secs(2);

/// One decision about all rates of a class, atomic, by Redis's clock. Each key holds the time (µs) at which its caller
/// has all requests back; a request moves it by one interval, and may not move it further ahead than one period.
/// Returns 0, or the µs to wait; then nothing was counted. One µs is what rounding may cost.
const GCRA: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local wait, moved = 0, {}
for index, key in ipairs(KEYS) do
    local interval, period = tonumber(ARGV[2 * index - 1]), tonumber(ARGV[2 * index])
    moved[index] = math.max(tonumber(redis.call('GET', key) or now), now) + interval
    wait = math.max(wait, moved[index] - period - now)
end
if wait > 1 then
    return math.ceil(wait)
end
for index, key in ipairs(KEYS) do
    redis.call('SET', key, string.format('%.3f', moved[index]), 'PX', math.ceil((moved[index] - now) / 1000) + 1)
end
return 0
";

/// Redis cannot be used for limits.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRedis {
    /// There is none.
    #[error("--rate-limit-scope global needs --redis-url: replicas share their limits through Redis")]
    Missing,
    /// Its URL is wrong. The URL is not shown: it may hold a password.
    #[error("--redis-url (MCP_REDIS_URL) is not a valid Redis URL: {0}")]
    Url(#[from] RedisError),
}

/// The limits in Redis.
pub(super) struct Global {
    connection: ConnectionManager,
    script: Script,
    paused_until: Mutex<Option<Instant>>,
    fallbacks: Counter,
}

impl Global {
    /// Redis need not answer yet. Needs a running async runtime.
    pub(super) fn open(url: Option<&str>, registry: &mut Registry) -> Result<Self, InvalidRedis> {
        let settings = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(ANSWER))
            .set_number_of_retries(1);
        let client = Client::open(url.ok_or(InvalidRedis::Missing)?)?;
        let fallbacks = Counter::default();
        registry.register(
            "mcp_rate_limit_fallbacks",
            "Requests that this replica allowed alone, because Redis did not answer",
            fallbacks.clone(),
        );
        Ok(Self {
            connection: ConnectionManager::new_lazy_with_config(client, settings)?,
            script: Script::new(GCRA),
            paused_until: Mutex::default(),
            fallbacks,
        })
    }

    /// Counts a request, or says how long it must wait. Without Redis everything is allowed, and counted as such.
    pub(super) async fn check(&self, class: Class, caller: Caller, rates: &[Rate]) -> Result<(), Duration> {
        match self.ask(class, caller, rates).await {
            Some(0) => Ok(()),
            Some(micros) => Err(Duration::from_micros(micros)),
            None => {
                self.fallbacks.inc();
                Ok(())
            }
        }
    }

    async fn ask(&self, class: Class, caller: Caller, rates: &[Rate]) -> Option<u64> {
        if lock(&self.paused_until).is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let mut question = self.script.prepare_invoke();
        for rate in rates {
            question
                .key(key(class, caller, rate))
                .arg(micros(rate.interval()))
                .arg(micros(rate.period));
        }
        let mut connection = self.connection.clone();
        let error = match timeout(ANSWER, question.invoke_async(&mut connection)).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {ANSWER:?}"),
        };
        tracing::warn!(%error, pause = ?PAUSE, "Redis does not answer; each replica limits by itself");
        *lock(&self.paused_until) = Some(Instant::now() + PAUSE);
        None
    }
}

/// Each rate has a key of its own; those of one caller are on one node of a cluster.
fn key(class: Class, caller: Caller, rate: &Rate) -> String {
    let (caller, class) = (hex::encode(caller.hashed()), class.name());
    format!(
        "mcp:rate:1:{{{caller}}}:{class}:{}/{}",
        rate.requests,
        rate.period.as_secs()
    )
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
