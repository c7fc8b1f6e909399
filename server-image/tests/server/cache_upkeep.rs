//! What keeps the cache useful and honest over time: warming up, forgetting on demand, and tidying the journal.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::join_all;
use mcp_server::cache::{Cache, CacheSettings, Cached, HeapBytes, Key};
use mcp_server::database::{Database, DatabaseError, DatabaseTarget};
use mcp_server::migrate;
use mcp_server::server::Settings;
use prometheus_client::registry::Registry;
use redis::AsyncCommands;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::databases::{TestDatabase, both};
use crate::support::postgres::{Postgres, SHARED, connect};
use crate::support::redis::{PATIENCE, Redis};
use crate::support::server::{TestServer, settings};
use crate::support::until;

/// Long enough that nothing is checked again during a test.
const LONG: Duration = Duration::from_secs(30);
/// The table of changes.
const JOURNAL: &str = "cache_journal";
/// Begins the names of notes that are only there to be stored.
const PROBE: &str = "probe";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note(String);

impl HeapBytes for Note {
    fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }
}

impl Cached for Note {
    const KIND: &'static str = "note";
}

/// A cache, and how often something was not in it.
struct Replica {
    cache: Cache,
    loads: AtomicUsize,
}

impl Replica {
    async fn open(url: &str, redis: Option<&Redis>, staleness: Duration) -> Self {
        let target: DatabaseTarget = url.parse().unwrap();
        let mut registry = Registry::default();
        let database = Database::open(&target, 4, &mut registry).unwrap();
        database.migrate(&migrate::steps()).await.unwrap();
        let settings = CacheSettings {
            staleness,
            redis_answer: PATIENCE,
            ..CacheSettings::default()
        };
        let cache = Cache::open(settings, database, redis.map(|redis| redis.url.as_str()), &mut registry).unwrap();
        cache.expect::<Note>();
        let replica = Self {
            cache,
            loads: AtomicUsize::new(0),
        };
        if let Some(redis) = redis {
            replica.use_redis(redis).await;
        }
        replica
    }

    /// Two replicas that share a Redis.
    async fn pair(url: &str, redis: &Redis, staleness: Duration) -> (Self, Self) {
        tokio::join!(
            Self::open(url, Some(redis), staleness),
            Self::open(url, Some(redis), staleness)
        )
    }

    /// Waits until it stores values: a Redis that starts slowly is taken for one that is away, and left alone.
    async fn use_redis(&self, redis: &Redis) {
        let own = format!("{PROBE}-{}", Uuid::new_v4());
        let mut number = 0;
        until("values are stored in Redis", async || {
            number += 1;
            self.read(&format!("{own}-{number}"), "").await;
            redis.keys().await.iter().any(|key| key.contains(&own)).then_some(())
        })
        .await;
        self.loads();
    }

    /// The note called `name`; `current` is what it is now, for a cache that does not have it.
    async fn read(&self, name: &str, current: &str) -> String {
        let key = Key::new::<Note>(&name, vec![format!("note:{name}")]);
        let load = || async {
            self.loads.fetch_add(1, Ordering::Relaxed);
            Ok::<_, DatabaseError>(Some(Note(current.to_owned())))
        };
        self.cache.get(&key, load).await.unwrap().unwrap().0.clone()
    }

    /// How often something was not in the cache since the last call.
    fn loads(&self) -> usize {
        self.loads.swap(0, Ordering::Relaxed)
    }
}

async fn stored(redis: &Redis, count: usize) {
    until("the values are in Redis", async || {
        (keys(redis).await.len() == count).then_some(())
    })
    .await;
}

async fn keys(redis: &Redis) -> Vec<String> {
    let mut keys = redis.keys().await;
    keys.retain(|key| !key.contains(PROBE));
    keys
}

/// A pod that starts must not ask the database for all that the others know: what is read most is there at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_replica_knows_what_others_read_most() {
    let (redis, url) = (Redis::start(), SHARED.database().await);
    let a = Replica::open(&url, Some(&redis), LONG).await;
    for name in ["often", "sometimes", "once"] {
        a.read(name, "value").await;
    }
    stored(&redis, 3).await;
    for name in ["often", "often", "sometimes"] {
        a.read(name, "value").await;
    }
    a.cache.tell_popular().await;
    let b = Replica::open(&url, Some(&redis), LONG).await;
    assert_eq!(b.cache.warm_up().await, 2, "what is read once is not worth it");
    redis.stop();
    for name in ["often", "sometimes"] {
        assert_eq!(b.read(name, "value").await, "value");
    }
    assert_eq!(b.loads(), 0, "nothing was asked, neither Redis nor the database");
}

/// All that agents read and that is cached, once.
async fn read_all(server: &TestServer, session: &Value) {
    for (tool, arguments) in [
        ("get_session", json!({"session_id": session})),
        ("get_messages", json!({"session_id": session})),
        ("search_context", json!({"session_id": session, "query": "needle"})),
        ("get_memory", json!({"agent_id": "x", "key": "k"})),
    ] {
        let found = server.client.call(tool, arguments).await;
        assert_eq!(found["success"], true, "{tool}: {found}");
    }
}

/// Says in Redis that all that is there is read often, as replicas do every half minute. Returns of which kinds it is.
async fn make_popular(redis: &Redis) -> Vec<String> {
    let mut connection = redis.connect().await;
    // Lists are named by tens of minutes; a new server reads the last one, too.
    let number = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 600;
    let mut kinds = Vec::new();
    for name in redis.keys().await {
        let (colon, _) = name.match_indices(':').nth(3).unwrap();
        let (origin, key) = (&name[..colon], &name[colon + 1..]);
        let _: () = connection
            .zadd(format!("{origin}#popular:{number}"), key, 10.0)
            .await
            .unwrap();
        kinds.push(key.split(':').next().unwrap().to_owned());
    }
    kinds.sort();
    kinds
}

/// A server in whose cache there are `count` values before anybody has asked it.
async fn warm_server(settings: &Settings, count: f64) -> TestServer {
    for _ in 0..10 {
        let server = TestServer::start(settings.clone()).await;
        let is_warm = until("the cache is warm, or Redis was too slow for that", async || {
            let scrape = server.scrape().await;
            if scrape.value("mcp_cache_entries", &[("tier", "l1")]) == count {
                return Some(true);
            }
            (scrape.value("mcp_cache_redis_errors_total", &[]) > 0.0).then_some(false)
        })
        .await;
        if is_warm {
            return server;
        }
    }
    panic!("Redis was too slow for every server");
}

/// The same of the whole server: a roll-out under load must not ask the database for everything again, and what agents
/// really read is of many kinds.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_server_has_what_others_read_most() {
    let (redis, url) = (Redis::start(), SHARED.database().await);
    let mut settings = settings(&url);
    settings.data.redis_url = Some(redis.url.clone());
    // It keeps nothing itself: what it finds is what others will find.
    settings.cache.local_bytes = 0;
    let a = TestServer::start(settings.clone()).await;
    let session = a.client.call("create_session", json!({"purpose": "p"})).await["session_id"].clone();
    let message = json!({"session_id": session, "content": "needle"});
    assert_eq!(a.client.call("add_message", message).await["success"], true);
    let entry = json!({"agent_id": "x", "key": "k", "value": 1});
    assert_eq!(a.client.call("set_memory", entry).await["success"], true);
    let loads = async || a.scrape().await.value("mcp_cache_load_seconds_count", &[]);
    until("all is in Redis", async || {
        let before = loads().await;
        read_all(&a, &session).await;
        (loads().await == before).then_some(())
    })
    .await;
    let kinds = make_popular(&redis).await;
    assert_eq!(kinds, ["memory", "page", "search", "session", "view"]);

    settings.cache = CacheSettings {
        staleness: LONG,
        redis_answer: PATIENCE,
        ..CacheSettings::default()
    };
    let b = warm_server(&settings, 5.0).await;
    read_all(&b, &session).await;
    let scrape = b.scrape().await;
    let looked = scrape.value("mcp_cache_requests_total", &[("tier", "l1")]);
    let hit = [("tier", "l1"), ("result", "hit")];
    assert_eq!(scrape.value("mcp_cache_requests_total", &hit), looked, "all were hits");
    assert!(looked >= 5.0, "each kind was looked for: {looked} look-ups");
    assert_eq!(scrape.value("mcp_cache_load_seconds_count", &[]), 0.0);
}

/// Warming up must not bring back what was true before, believe what somebody else has put there, or know the old
/// favourites only.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_holds_is_warm() {
    let (redis, url) = (Redis::start(), SHARED.database().await);
    let a = Replica::open(&url, Some(&redis), LONG).await;
    let names = ["holds", "changes", "breaks"];
    for name in names {
        a.read(name, "old").await;
    }
    stored(&redis, 3).await;
    for name in names {
        a.read(name, "old").await;
    }
    a.cache.tell_popular().await;
    a.cache.invalidate(vec!["note:changes".to_owned()]).await.unwrap();
    let mut connection = redis.connect().await;
    let keys = keys(&redis).await;
    let broken = keys.iter().find(|key| key.contains("breaks")).unwrap();
    let _: () = connection.set_ex(broken, "rubbish", 600).await.unwrap();

    let lists: Vec<String> = connection.keys("*#popular*").await.unwrap();
    let [list] = &lists[..] else {
        panic!("one list: {lists:?}")
    };
    let _: () = connection.zadd(list, "unknown:kind", 1e6).await.unwrap();
    // What was popular for weeks is still in the list before this one.
    let (begin, number) = list.rsplit_once(':').unwrap();
    let before = format!("{begin}:{}", number.parse::<i64>().unwrap() - 1);
    let favourites: Vec<(f64, String)> = (0..1_000)
        .map(|number| (1e9, format!("note:\"old{number}\"")))
        .collect();
    let _: () = connection.zadd_multiple(&before, &favourites).await.unwrap();

    let b = Replica::open(&url, Some(&redis), LONG).await;
    assert_eq!(b.cache.warm_up().await, 1);
    for name in names {
        let expected = if name == "holds" { "old" } else { "new" };
        assert_eq!(b.read(name, "new").await, expected, "{name}");
    }
}

/// On a server with many writes the journal is long. A new replica must know enough of it to use what is in Redis, or
/// a roll-out under load asks the database for everything.
#[tokio::test(flavor = "multi_thread")]
async fn many_writes_do_not_make_redis_useless() {
    // A server of its own: the transactions of others hold back what is known to have ended.
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let url = postgres.url("postgres");
    let a = Replica::open(&url, Some(&redis), Duration::ZERO).await;
    let database = connect(&url).await;
    let write = async |count: i32| {
        let sql = "INSERT INTO cache_journal (tag) SELECT 'note:other' || i FROM generate_series(1, $1) i";
        database.execute(sql, &[&count]).await.unwrap();
    };
    write(25_000).await;
    a.read("mine", "value").await;
    stored(&redis, 1).await;
    write(100).await;
    let b = Replica::open(&url, Some(&redis), Duration::ZERO).await;
    assert_eq!(b.read("mine", "value").await, "value");
    assert_eq!(b.loads(), 0, "it was in Redis, and nothing says that it has changed");
    // Whoever is further behind than can be read forgets what it has, and only that.
    write(25_000).await;
    let c = Replica::open(&url, Some(&redis), Duration::ZERO).await;
    c.read("mine", "value").await;
    assert_eq!(
        c.loads(),
        1,
        "what came before the oldest change that was read cannot be judged"
    );
}

/// Somebody has changed the data by a way that no trigger sees, and says so: nobody may go on with the old values, and
/// nobody should lose others.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_invalidated_is_read_anew_everywhere() {
    for database in both().await {
        let kind = database.kind;
        let redis = Redis::start();
        let (a, b) = Replica::pair(&database.url, &redis, Duration::ZERO).await;
        let names = ["red:1", "red:2", "blue:1"];
        let tags = |tags: &[&str]| tags.iter().map(|tag| format!("note:{tag}")).collect::<Vec<_>>();
        for replica in [&a, &b] {
            for name in names {
                replica.read(name, "0").await;
            }
        }
        for (round, change, lost) in [
            (1, "tag red:1", &["red:1"][..]),
            (2, "tags red:2 and blue:1", &["red:2", "blue:1"]),
            (3, "an unknown tag", &[]),
            (4, "prefix red", &["red:1", "red:2"]),
            (5, "an unknown prefix", &[]),
            (6, "everything", &names),
        ] {
            match round {
                1 => a.cache.invalidate(tags(&["red:1"])).await,
                2 => a.cache.invalidate(tags(&["red:2", "blue:1"])).await,
                3 => a.cache.invalidate(tags(&["green:1"])).await,
                4 => a.cache.invalidate_prefix("note:\"red:").await,
                5 => a.cache.invalidate_prefix("page:").await,
                _ => a.cache.invalidate_prefix("").await,
            }
            .unwrap();
            // The one that was told, another one, and one that knows only what is in Redis.
            let c = Replica::open(&database.url, Some(&redis), Duration::ZERO).await;
            for (place, replica) in [("told", &a), ("another", &b), ("new", &c)] {
                for name in names {
                    let value = replica.read(name, &round.to_string()).await;
                    let is_new = value == round.to_string();
                    assert!(
                        is_new || !lost.contains(&name),
                        "{kind}, {change}, {place}: {name} is {value}"
                    );
                    if place == "told" {
                        assert_eq!(
                            is_new,
                            lost.contains(&name),
                            "{kind}, {change}: {name} was lost needlessly"
                        );
                    }
                }
            }
        }
    }
}

/// More prefixes than are kept one by one cost needless misses, never an old value.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_prefixes_leave_nothing_old() {
    let [database, _] = both().await;
    let replica = Replica::open(&database.url, None, Duration::ZERO).await;
    for number in 0..100 {
        replica.read(&format!("k{number}"), "old").await;
    }
    for number in 0..100 {
        let prefix = format!("note:\"k{number}\"");
        replica.cache.invalidate_prefix(&prefix).await.unwrap();
    }
    for number in 0..100 {
        assert_eq!(replica.read(&format!("k{number}"), "new").await, "new", "k{number}");
    }
}

/// Whoever was told that a value is gone must not find it again in Redis because the journal was slow.
#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_that_takes_long_is_an_invalidation() {
    let (redis, url) = (Redis::start(), SHARED.database().await);
    let (a, b) = Replica::pair(&url, &redis, LONG).await;
    a.read("mine", "old").await;
    stored(&redis, 1).await;
    let blocker = connect(&url).await;
    blocker
        .batch_execute("BEGIN; LOCK TABLE cache_journal IN SHARE MODE")
        .await
        .unwrap();
    let b = Arc::new(b);
    let invalidating = tokio::spawn({
        let b = Arc::clone(&b);
        async move { b.cache.invalidate(vec!["note:mine".to_owned()]).await.unwrap() }
    });
    let observer = connect(&url).await;
    until("the journal is waited for", async || {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'cache_journal'::regclass";
        let count: i64 = observer.query_one(waiting, &[]).await.unwrap().get(0);
        (count == 1).then_some(())
    })
    .await;
    assert_eq!(b.read("mine", "new").await, "old", "it is not told yet");
    blocker.batch_execute("ROLLBACK").await.unwrap();
    invalidating.await.unwrap();
    assert_eq!(b.read("mine", "new").await, "new", "it has been told");
}

async fn age_journal(database: &TestDatabase) {
    let (sqlite, postgres) = (
        "UPDATE cache_journal SET at = at - 3600",
        "UPDATE cache_journal SET at = at - interval '1 hour'",
    );
    database.execute(sqlite, postgres).await;
}

/// Tidies until so many lines are left: while any transaction of the database server is older than a line, it stays.
async fn tidied(database: &TestDatabase, replica: &Replica, lines: i64) {
    until("the journal is tidy", async || {
        replica.cache.tidy_journal().await.unwrap();
        (database.count(JOURNAL).await == lines).then_some(())
    })
    .await;
}

/// The journal must not fill the disk; what is young must stay, for others have not read it yet. Replicas tidy at the
/// same time, and none may fail or wait.
#[tokio::test(flavor = "multi_thread")]
async fn old_changes_leave_the_journal_and_young_ones_stay() {
    for database in both().await {
        let kind = database.kind;
        let replica = Replica::open(&database.url, None, LONG).await;
        let note = async |count: usize| {
            let tags = (0..count).map(|number| format!("note:{number}")).collect();
            replica.cache.invalidate(tags).await.unwrap();
        };
        note(1_000).await;
        age_journal(&database).await;
        note(3).await;
        let tidying = join_all((0..8).map(|_| replica.cache.tidy_journal())).await;
        assert!(tidying.iter().all(Result::is_ok), "{kind}: {tidying:?}");
        tidied(&database, &replica, 3).await;
        replica.cache.tidy_journal().await.unwrap();
        assert_eq!(database.count(JOURNAL).await, 3, "{kind}: nothing more is old");
    }
}

/// A replica that slept, or was cut off, while the journal was tidied cannot know what it has missed: it must not go
/// on with what it has, nor believe what Redis had then.
#[tokio::test(flavor = "multi_thread")]
async fn who_missed_a_change_that_was_tidied_away_starts_anew() {
    for database in both().await {
        let kind = database.kind;
        let redis = Redis::start();
        let (a, b) = Replica::pair(&database.url, &redis, Duration::ZERO).await;
        b.read("mine", "old").await;
        stored(&redis, 1).await;
        a.cache.invalidate(vec!["note:mine".to_owned()]).await.unwrap();
        age_journal(&database).await;
        tidied(&database, &a, 0).await;
        assert_eq!(b.read("mine", "new").await, "new", "{kind}: the one that slept");
        let c = Replica::open(&database.url, Some(&redis), Duration::ZERO).await;
        assert_ne!(c.read("mine", "newer").await, "old", "{kind}: a new one");
    }
}

/// A transaction that is still open when the journal is tidied may have changed something before what is tidied: it
/// must be noticed when it ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_commits_after_the_tidying_is_noticed() {
    let (redis, url) = (Redis::start(), SHARED.database().await);
    let (a, b) = Replica::pair(&url, &redis, Duration::ZERO).await;
    let slow = connect(&url).await;
    slow.batch_execute("BEGIN; INSERT INTO cache_journal (tag, at) VALUES ('note:mine', now() - interval '1 hour')")
        .await
        .unwrap();
    let other = connect(&url).await;
    other
        .batch_execute("INSERT INTO cache_journal (tag, at) VALUES ('note:other', now() - interval '1 hour')")
        .await
        .unwrap();
    for replica in [&a, &b] {
        replica.read("mine", "old").await;
        replica.cache.tidy_journal().await.unwrap();
        assert_eq!(replica.read("mine", "older").await, "old", "nothing has changed yet");
    }
    slow.batch_execute("COMMIT").await.unwrap();
    a.cache.tidy_journal().await.unwrap();
    for replica in [&a, &b] {
        assert_eq!(replica.read("mine", "new").await, "new");
    }
}
