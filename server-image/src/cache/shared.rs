//! The second tier: Redis, shared by all replicas, and never needed.
//!
//! Nothing that Redis says is believed without proof from the database's journal (see [`super::follower`]), so it may
//! be restarted, emptied, cut off or replaced by an old copy at any time. While it does not answer it is left alone for
//! [`PAUSE`], so that only one request in a while pays for it. One that answers but takes nothing, because it is full,
//! is still read from.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::streams::StreamReadReply;
use redis::{Client, FromRedisValue, Pipeline, RedisError, RedisResult};
use tokio::sync::Semaphore;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::reuse::Read;
use super::shared_reuse::{Batch, SharedReuse};
use crate::lock;
use crate::metrics::duration_histogram;

/// Longest value that is stored, in bytes. All of it has to arrive while an answer is waited for, also when several are
/// on their way at once, or a popular one makes it look as if Redis did not answer.
const VALUE_MAX: usize = 256 * 1024;
/// After a failure, Redis is left alone for this long.
const PAUSE: Duration = Duration::from_secs(2);
/// Most values on their way to Redis at once; what comes while they are is not stored there.
const WRITES: usize = 64;
/// Begin of all keys; the number changes with the meaning of keys.
const NAMESPACE: &str = "mcp:cache:2";
/// Most keys remembered as popular.
const POPULAR_MAX: isize = 1_000;
/// Stream in which replicas tell each other what they have read; the number changes with the meaning of a batch, so
/// that old and new replicas, during an update, each follow their own.
const READS: &str = "mcp:cache-reads:2";
/// Batches of reads that the stream holds; a replica takes them every second.
const READS_KEPT: u32 = 128;
/// Batches that are read at once: more would not arrive while an answer is waited for, and hold
/// up other questions.
const READS_AT_ONCE: u32 = 6;
/// The stream is forgotten after this long without a read, in seconds.
const READS_SECONDS: u32 = 600;
/// What an entry takes in Redis beside its key and value, in bytes: its places in two tables, headers, rounding.
const ENTRY_BYTES: usize = 128;
/// For so many seconds a list of popular keys is added to; then a new one begins, so that what was popular for weeks
/// makes room for what is popular now.
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
    reuse: Arc<Mutex<SharedReuse>>,
}

struct State {
    /// Longest wait for an answer.
    patience: Duration,
    paused_until: Mutex<Option<Instant>>,
    answers: AtomicBool,
    errors: Counter,
    answer_seconds: Histogram,
    writes: Arc<Semaphore>,
    /// Place of the last batch of reads that was taken.
    last_reads: Mutex<String>,
}

/// What is measured of the second tier.
pub(super) struct Measured {
    /// Reuse distances of what was read here, among the reads of all replicas.
    pub(super) reuse: Arc<Mutex<SharedReuse>>,
    /// How long Redis took for what it was asked or told, also when it gave no answer.
    pub(super) answer_seconds: Histogram,
}

/// A value found in Redis.
pub(super) struct Found {
    pub(super) bytes: Vec<u8>,
    /// How long Redis would keep it.
    pub(super) life: Duration,
}

impl Shared {
    /// Prepares the tier, which waits for answers for as long as `patience`; Redis need not answer yet. Needs a running
    /// async runtime.
    ///
    /// # Errors
    /// [`InvalidRedisUrl`] when `url` does not parse.
    pub(super) fn open(url: &str, longest_life: Duration, patience: Duration) -> Result<Self, InvalidRedisUrl> {
        let settings = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(patience))
            .set_number_of_retries(1);
        Ok(Self {
            connection: ConnectionManager::new_lazy_with_config(Client::open(url)?, settings)?,
            state: Arc::new(State {
                patience,
                paused_until: Mutex::default(),
                answers: AtomicBool::new(true),
                errors: Counter::default(),
                answer_seconds: duration_histogram(),
                writes: Arc::new(Semaphore::new(WRITES)),
                last_reads: Mutex::new("0".to_owned()),
            }),
            reuse: Arc::new(Mutex::new(SharedReuse::new(longest_life))),
        })
    }

    /// Questions that were not answered, or by a refusal.
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

    /// What is measured here: reuse, and how long Redis takes.
    pub(super) fn measured(&self) -> Measured {
        Measured {
            reuse: Arc::clone(&self.reuse),
            answer_seconds: self.state.answer_seconds.clone(),
        }
    }

    /// Notes that a value was found, which takes `bytes`, by `read`.
    pub(super) fn note_hit(&self, origin: &str, key: &str, bytes: usize, read: Read) {
        lock(&self.reuse).read(origin, key, entry_bytes(origin, key, bytes), read);
    }

    /// Tells other replicas what was read here, and learns what they have read. Nothing depends on it, so a Redis that
    /// does not take it, as one older than 5, is no Redis that is away.
    pub(super) async fn exchange_reads(&self) {
        if self.is_paused() {
            return;
        }
        let own = lock(&self.reuse).take();
        if let Some(text) = own.and_then(|batch| serde_json::to_vec(&batch).ok()) {
            let mut orders = redis::pipe();
            let add = orders.cmd("XADD").arg(READS).arg("MAXLEN").arg(READS_KEPT);
            add.arg("*").arg("batch").arg(text).ignore();
            orders.cmd("EXPIRE").arg(READS).arg(READS_SECONDS).ignore();
            let mut connection = self.connection.clone();
            match self.in_time(orders.exec_async(&mut connection)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) if is_refusal(&error) => {
                    self.note_refusal(&error);
                    return;
                }
                _ => return,
            }
        }
        for _ in 0..READS_KEPT.div_ceil(READS_AT_ONCE) {
            if !self.learn_reads().await {
                return;
            }
        }
    }

    /// Learns some of what replicas have read; says whether there may be more.
    async fn learn_reads(&self) -> bool {
        let after = lock(&self.state.last_reads).clone();
        let mut order = redis::cmd("XREAD");
        order
            .arg("COUNT")
            .arg(READS_AT_ONCE)
            .arg("STREAMS")
            .arg(READS)
            .arg(after);
        let mut connection = self.connection.clone();
        let asking = self.in_time(order.query_async::<Option<StreamReadReply>>(&mut connection));
        let Ok(Ok(Some(reply))) = asking.await else {
            return false;
        };
        let mut learned = 0;
        for entry in reply.keys.into_iter().flat_map(|stream| stream.ids) {
            let batch = entry.get::<Vec<u8>>("batch");
            if let Some(batch) = batch.and_then(|text| serde_json::from_slice::<Batch>(&text).ok()) {
                lock(&self.reuse).follow(&batch, Instant::now());
            }
            *lock(&self.state.last_reads) = entry.id;
            learned += 1;
        }
        learned == READS_AT_ONCE
    }

    /// Stores a value for `life`, in the background; if Redis is slow, rather not. `read` did not find it.
    pub(super) fn put(
        &self,
        origin: &str,
        key: &str,
        life: Duration,
        read: Read,
        bytes: impl FnOnce() -> Option<Vec<u8>> + Send + 'static,
    ) {
        if self.is_paused() {
            return;
        }
        let Ok(permit) = Arc::clone(&self.state.writes).try_acquire_owned() else {
            return;
        };
        let millis = u64::try_from(life.as_millis()).unwrap_or(u64::MAX).max(1);
        let (this, origin, key) = (self.clone(), origin.to_owned(), key.to_owned());
        tokio::spawn(async move {
            let bytes = bytes().filter(|bytes| bytes.len() <= VALUE_MAX);
            // What is too large to be stored is no hit in any Redis.
            let read = if bytes.is_some() { read } else { read.unavoidable() };
            let size = entry_bytes(&origin, &key, bytes.as_ref().map_or(0, Vec::len));
            lock(&this.reuse).read(&origin, &key, size, read);
            if let Some(bytes) = bytes {
                let name = name(&origin, &key);
                let mut order = redis::pipe();
                order.cmd("SET").arg(name).arg(bytes).arg("PX").arg(millis).ignore();
                this.store(&order).await;
            }
            drop(permit);
        });
    }

    /// Remembers which keys are read often.
    pub(super) async fn add_popular(&self, origin: &str, now: Timestamp, keys: &[(Arc<str>, u32)]) {
        if keys.is_empty() {
            return;
        }
        let [list, _] = popular(origin, now);
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
        order.cmd("EXPIRE").arg(&list).arg(2 * POPULAR_SECONDS).ignore();
        self.store(&order).await;
    }

    /// The keys that are read most often, the first ones most; those of the last minutes before those of earlier ones.
    pub(super) async fn popular(&self, origin: &str, now: Timestamp) -> Vec<String> {
        let mut questions = redis::pipe();
        for list in popular(origin, now) {
            questions.cmd("ZREVRANGE").arg(list).arg(0).arg(POPULAR_MAX - 1);
        }
        let answer: Option<(Vec<String>, Vec<String>)> = self.ask(&questions).await;
        let (mut keys, before) = answer.unwrap_or_default();
        let known: HashSet<String> = keys.iter().cloned().collect();
        keys.extend(before.into_iter().filter(|key| !known.contains(key)));
        keys
    }

    fn is_paused(&self) -> bool {
        lock(&self.state.paused_until).is_some_and(|until| Instant::now() < until)
    }

    /// Asks Redis something. One that refuses to say it, as while it loads what it had, is no better than one that is
    /// away.
    async fn ask<Answer: FromRedisValue>(&self, questions: &Pipeline) -> Option<Answer> {
        match self.send(questions).await? {
            Ok(answer) => Some(answer),
            Err(refusal) => {
                self.pause(&refusal.to_string());
                None
            }
        }
    }

    /// Gives Redis something to keep. One that refuses it, because it is full or follows another one, may have answers
    /// all the same.
    async fn store(&self, orders: &Pipeline) {
        if let Some(Err(refusal)) = self.send::<()>(orders).await {
            self.note_refusal(&refusal);
        }
    }

    /// What Redis says, if only that it refuses; `None` while it does not answer.
    async fn send<Answer: FromRedisValue>(&self, commands: &Pipeline) -> Option<RedisResult<Answer>> {
        if self.is_paused() {
            return None;
        }
        let mut connection = self.connection.clone();
        match self.in_time(commands.query_async(&mut connection)).await {
            Ok(Ok(answer)) => {
                if !self.state.answers.swap(true, Ordering::Relaxed) {
                    tracing::info!("Redis answers again");
                }
                return Some(Ok(answer));
            }
            Ok(Err(error)) if is_refusal(&error) => return Some(Err(error)),
            Ok(Err(error)) => self.pause(&error.to_string()),
            Err(_) => self.pause(&format!("no answer within {:?}", self.state.patience)),
        }
        None
    }

    /// What comes of `asking`, unless it takes too long. The time is measured either way: those that fail are what a
    /// slow Redis costs most.
    async fn in_time<T>(&self, asking: impl Future<Output = RedisResult<T>>) -> Result<RedisResult<T>, Elapsed> {
        let since = Instant::now();
        let answer = timeout(self.state.patience, asking).await;
        self.state.answer_seconds.observe(since.elapsed().as_secs_f64());
        answer
    }

    fn note_refusal(&self, refusal: &RedisError) {
        self.state.errors.inc();
        tracing::debug!(%refusal, "Redis does not keep what it was given");
    }

    /// Leaves Redis alone for a while.
    fn pause(&self, error: &str) {
        self.state.errors.inc();
        if self.state.answers.swap(false, Ordering::Relaxed) {
            tracing::warn!(%error, "Redis does not answer; going on without it");
        }
        *lock(&self.state.paused_until) = Some(Instant::now() + PAUSE);
    }
}

/// Whether Redis itself has said this, and not a connection that is broken.
fn is_refusal(error: &RedisError) -> bool {
    error.clone().into_server_errors().is_some()
}

fn name(origin: &str, key: &str) -> String {
    format!("{NAMESPACE}:{origin}:{key}")
}

/// What a value of `bytes` takes in Redis.
const fn entry_bytes(origin: &str, key: &str, bytes: usize) -> usize {
    NAMESPACE.len() + origin.len() + key.len() + bytes + ENTRY_BYTES
}

/// The list of keys that are popular at a time, and the one before it.
fn popular(origin: &str, now: Timestamp) -> [String; 2] {
    let number = now.as_second() / POPULAR_SECONDS;
    [number, number - 1].map(|number| format!("{NAMESPACE}:{origin}#popular:{number}"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::sleep;

    use super::*;

    const LIFE: Duration = Duration::from_mins(10);
    const PATIENCE: Duration = Duration::from_millis(25);
    const READ: Read = Read {
        position: 1,
        good_from: 0,
    };

    /// A Redis that is full: it refuses what it should keep and answers everything else.
    struct Full {
        url: String,
        /// The words of all commands, in order.
        told: Arc<Mutex<Vec<String>>>,
    }

    impl Full {
        async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("redis://{}", listener.local_addr().unwrap());
            let told = Arc::default();
            let all = Arc::clone(&told);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer(stream, Arc::clone(&all)));
                }
            });
            Self { url, told }
        }

        /// Whether it was told to keep a value that ends like this.
        fn was_given(&self, end: &str) -> bool {
            let told = lock(&self.told);
            told.windows(3)
                .any(|words| words[0] == "SET" && words[2].ends_with(end))
        }
    }

    async fn answer(mut stream: TcpStream, told: Arc<Mutex<Vec<String>>>) {
        // Else an answer waits for the client to have noticed the one before it.
        stream.set_nodelay(true).unwrap();
        let (read, mut write) = stream.split();
        let mut lines = BufReader::new(read).lines();
        while let Ok(Some(count)) = lines.next_line().await {
            let count: usize = count.trim_start_matches('*').parse().unwrap();
            let mut words = Vec::new();
            for _ in 0..count {
                // Its length, then the word.
                lines.next_line().await.unwrap();
                words.push(lines.next_line().await.unwrap().unwrap());
            }
            let reply: &[u8] = match words[0].as_str() {
                "GET" => b"$5\r\nvalue\r\n",
                "PTTL" => b":1000\r\n",
                "SET" | "XADD" => b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
                _ => b"+OK\r\n",
            };
            lock(&told).extend(words);
            if write.write_all(reply).await.is_err() {
                return;
            }
        }
    }

    /// Tries until Redis was not too slow for it, as it may be while the machine is busy.
    async fn tried(what: &str, mut attempt: impl AsyncFnMut() -> bool) {
        for _ in 0..10 {
            if attempt().await {
                return;
            }
            sleep(PAUSE).await;
        }
        panic!("{what}: not in ten attempts");
    }

    /// Redis with a limit and no eviction is full sooner or later; what it holds is still worth asking for.
    #[tokio::test]
    async fn a_redis_that_is_full_goes_on_answering() {
        let redis = Full::start().await;
        let shared = Shared::open(&redis.url, LIFE, PATIENCE).unwrap();
        tried("a value was refused, and others are read", async || {
            let errors = shared.errors().get();
            if shared.get("origin", "key").await.is_none() {
                return false;
            }
            let mut order = redis::pipe();
            order.cmd("SET").arg("name").arg("text").ignore();
            shared.store(&order).await;
            assert_eq!(shared.errors().get(), errors + 1, "the refusal is counted");
            shared.answers() && shared.get("origin", "key").await.is_some()
        })
        .await;
    }

    /// A large value takes longer on its way than Redis is given to answer; then all others were not asked for either.
    #[tokio::test]
    async fn large_values_are_not_stored() {
        let redis = Full::start().await;
        let shared = Shared::open(&redis.url, LIFE, PATIENCE).unwrap();
        let put = |text: String| shared.put("origin", "key", LIFE, READ, move || Some(text.into_bytes()));
        tried("the smaller one is stored", async || {
            put("x".repeat(VALUE_MAX) + "too large");
            put("x".repeat(VALUE_MAX - 5) + "small");
            sleep(Duration::from_millis(200)).await;
            redis.was_given("small")
        })
        .await;
        assert!(!redis.was_given("too large"));
    }
}
