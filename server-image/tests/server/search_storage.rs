//! Finding messages: the same must hold in either database.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::poll;
use jiff::{SignedDuration, Timestamp};
use mcp_server::tools::shared_context::search::{SearchQuery, SearchResults, SenderQuery, TimeQuery, Wanted};
use mcp_server::tools::shared_context::{
    Agent, Message, MessageQuery, NewMessage, NewSession, Storage, StorageError, Visibility,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::databases::{TestDatabase, both};
use crate::support::{postgres, until};

/// Searches at once; twice as many as there are threads that read a SQLite file.
const SEARCHES: usize = 8;
/// How often two times are compared: when the machine stands still in the wrong one, they say nothing.
const TRIES: usize = 5;
const UNKNOWN: &str = "session_0000000000000000";

async fn session(storage: &dyn Storage) -> String {
    let session = NewSession {
        id: format!("session_{}", &Uuid::new_v4().simple().to_string()[..16]),
        purpose: "test".to_owned(),
        created_by: "ann".to_owned(),
        metadata: None,
    };
    storage.create_session(session, false).await.unwrap().id
}

fn message(session_id: &str, sender: &str, content: &str) -> NewMessage {
    NewMessage {
        session_id: session_id.to_owned(),
        sender: Agent::named(sender),
        content: content.to_owned(),
        visibility: Visibility::Public,
        metadata: None,
        parent_message_id: None,
    }
}

async fn add(storage: &dyn Storage, message: NewMessage) -> i64 {
    storage.add_message(message).await.unwrap().id
}

fn wanted(query: &str, threshold: f64) -> Wanted {
    Wanted {
        query: query.to_owned(),
        threshold,
        limit: 100,
        metadata: true,
    }
}

fn search(session_id: &str, reader: Agent) -> SearchQuery {
    SearchQuery {
        session_id: session_id.to_owned(),
        reader,
        visibility: None,
    }
}

fn ids(found: &SearchResults) -> Vec<i64> {
    found.best.iter().map(|found| found.message.id).collect()
}

fn contents(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.content.as_str()).collect()
}

/// Fills a session with `count` messages at once: the oldest says "the needle", the others what `sqlite` or `postgres`
/// makes of their `number`.
async fn fill(database: &TestDatabase, session: &str, count: usize, sqlite: &str, postgres: &str) {
    let insert = |other: &str, now: &str| {
        format!(
            "INSERT INTO messages (session_id, sender, content, visibility, created_at) \
             SELECT '{session}', 'ann', CASE number WHEN 1 THEN 'the needle' ELSE {other} END, 'public', {now} FROM numbers"
        )
    };
    let sqlite = format!(
        "WITH RECURSIVE numbers(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < {count}) {}",
        insert(sqlite, "number")
    );
    let postgres = format!(
        "WITH numbers AS (SELECT number FROM generate_series(1, {count}) AS number) {}",
        insert(postgres, "now()")
    );
    database.execute(&sqlite, &postgres).await;
}

/// Two messages with the same text are two results, and each result is the message that it says it is.
#[tokio::test]
async fn equal_texts_are_different_messages() {
    for database in both().await {
        let (kind, storage) = (database.kind, &*database.storage);
        let session = session(storage).await;
        let mut expected = Vec::new();
        for sender in ["ann", "bob", "ann"] {
            expected.push(add(storage, message(&session, sender, "the cache is full")).await);
        }
        add(storage, message(&session, "bob", "zzz")).await;
        let found = storage
            .search(search(&session, Agent::named("eve")), wanted("CACHE IS FULL", 60.0))
            .await
            .unwrap();
        expected.reverse();
        assert_eq!(ids(&found), expected, "{kind}: the newest of equals first");
        let senders: Vec<&str> = found.best.iter().map(|found| found.message.sender.as_str()).collect();
        assert_eq!(senders, ["ann", "bob", "ann"], "{kind}");
        assert!(found.best.iter().all(|found| found.score == 100.0), "{kind}: {found:?}");
    }
}

/// Sender, content and metadata are searched; metadata only if wanted.
#[tokio::test]
async fn sender_content_and_metadata_are_searched() {
    for database in both().await {
        let (kind, storage) = (database.kind, &*database.storage);
        let session = session(storage).await;
        let metadata: Option<Value> = Some(json!({"topic": "Zeppelin", "nested": {"topic": "submarine"}}));
        let with_metadata = add(
            storage,
            NewMessage {
                metadata,
                ..message(&session, "ann", "one")
            },
        )
        .await;
        let by_bob = add(storage, message(&session, "bartholomew", "two")).await;
        for (query, with, expected) in [
            ("zeppelin", true, vec![with_metadata]),
            ("zeppelin", false, vec![]),
            ("submarine", true, vec![]),
            ("Bartholomew two", true, vec![by_bob]),
        ] {
            let wanted = Wanted {
                query: query.to_owned(),
                threshold: 90.0,
                limit: 10,
                metadata: with,
            };
            let found = storage
                .search(search(&session, Agent::named("eve")), wanted)
                .await
                .unwrap();
            assert_eq!(ids(&found), expected, "{kind}: {query}, metadata {with}");
        }
    }
}

/// The oldest message of a long session, or of one with huge messages, is found like the newest.
#[tokio::test]
async fn every_message_is_searched() {
    for (name, count, sqlite, postgres) in [
        ("many messages", 4500, "'hay ' || number", "'hay ' || number"),
        (
            "huge messages",
            60,
            "replace(hex(zeroblob(12500)), '0', 'hay ')",
            "repeat('hay ', 25000)",
        ),
    ] {
        for database in both().await {
            let (kind, storage) = (database.kind, &*database.storage);
            let session = session(storage).await;
            fill(&database, &session, count, sqlite, postgres).await;
            let found = storage
                .search(search(&session, Agent::named("eve")), wanted("needle", 100.0))
                .await
                .unwrap();
            assert_eq!(found.best.len(), 1, "{kind}, {name}");
            assert_eq!(found.best[0].message.content, "the needle", "{kind}, {name}");
        }
    }
}

/// Nobody finds another agent's private messages: not by their text, not with any scope, threshold, sender or time,
/// and not by pretending to have a type.
#[tokio::test]
async fn private_messages_are_not_found_by_others() {
    let typed = |id: &str, agent_type: &str| Agent {
        agent_type: Some(agent_type.to_owned()),
        ..Agent::named(id)
    };
    for database in both().await {
        let (kind, storage) = (database.kind, &*database.storage);
        let session = session(storage).await;
        for (sender, visibility) in [
            (Agent::named("ann"), Visibility::Public),
            (Agent::named("ann"), Visibility::Private),
            (typed("ann", "claude"), Visibility::AgentOnly),
            (Agent::named("ann"), Visibility::AdminOnly),
        ] {
            let content = format!("secret {}", visibility.as_str());
            add(
                storage,
                NewMessage {
                    sender,
                    visibility,
                    ..message(&session, "ann", &content)
                },
            )
            .await;
        }
        let public = ["secret public"];
        let admin = Agent {
            is_admin: true,
            ..Agent::named("root")
        };
        for (reader, filter, expected) in [
            (Agent::named("eve"), None, &public[..]),
            (Agent::named("eve"), Some(Visibility::Private), &[]),
            (Agent::named("eve"), Some(Visibility::AgentOnly), &[]),
            (Agent::named("eve"), Some(Visibility::AdminOnly), &[]),
            (typed("eve", "gemini"), None, &public[..]),
            (typed("eve", "claude"), None, &["secret public", "secret agent_only"]),
            (
                Agent::named("ann"),
                None,
                &["secret public", "secret private", "secret agent_only"],
            ),
            (Agent::named("ann"), Some(Visibility::Private), &["secret private"]),
            (admin, None, &["secret public", "secret admin_only"]),
            (Agent::named("ann' OR '1'='1"), None, &public[..]),
            (Agent::named("%"), None, &public[..]),
            (Agent::named(""), None, &public[..]),
        ] {
            let query = SearchQuery {
                visibility: filter,
                ..search(&session, reader.clone())
            };
            let found = storage
                .search(query, wanted("secret private agent_only admin_only", 0.0))
                .await
                .unwrap();
            let mut messages: Vec<Message> = found.best.iter().map(|found| found.message.clone()).collect();
            messages.sort_by_key(|message| message.id);
            assert_eq!(contents(&messages), expected, "{kind}: {reader:?} searches {filter:?}");
            if filter.is_some() {
                continue;
            }
            let of_sender = SenderQuery {
                session_id: session.clone(),
                reader: reader.clone(),
                sender: "ann".to_owned(),
                limit: 100,
            };
            let mut messages = storage.messages_of_sender(of_sender).await.unwrap();
            messages.reverse();
            assert_eq!(
                contents(&messages),
                expected,
                "{kind}: {reader:?} asks for messages of ann"
            );
            let of_time = TimeQuery {
                session_id: session.clone(),
                reader: reader.clone(),
                start: Timestamp::UNIX_EPOCH,
                end: "9999-01-01T00:00:00Z".parse().unwrap(),
                limit: 200,
            };
            let messages = storage.messages_of_time(of_time).await.unwrap();
            assert_eq!(contents(&messages), expected, "{kind}: {reader:?} asks for all times");
        }
    }
}

/// A search sees one session only.
#[tokio::test]
async fn other_sessions_are_not_searched() {
    for database in both().await {
        let (kind, storage) = (database.kind, &*database.storage);
        let (mine, other) = (session(storage).await, session(storage).await);
        add(storage, message(&other, "ann", "needle")).await;
        let reader = Agent::named("ann");
        let found = storage
            .search(search(&mine, reader.clone()), wanted("needle", 0.0))
            .await
            .unwrap();
        assert!(found.best.is_empty(), "{kind}: {found:?}");
        let unknown = storage.search(search(UNKNOWN, reader), wanted("needle", 0.0)).await;
        assert!(
            matches!(unknown, Err(StorageError::SessionNotFound)),
            "{kind}: {unknown:?}"
        );
    }
}

/// A hundred of the longest messages in one answer would be a sixth of a pod's memory, several times over.
#[tokio::test]
async fn answers_of_long_messages_have_fewer() {
    let long = "🦀".repeat(100_000);
    for database in both().await {
        let (kind, storage) = (database.kind, &*database.storage);
        let session = session(storage).await;
        let start = Timestamp::now() - SignedDuration::from_hours(1);
        for _ in 0..25 {
            add(storage, message(&session, "ann", &long)).await;
        }
        let reader = Agent::named("eve");
        let of_sender = SenderQuery {
            session_id: session.clone(),
            reader: reader.clone(),
            sender: "ann".to_owned(),
            limit: 100,
        };
        let of_time = TimeQuery {
            session_id: session.clone(),
            reader: reader.clone(),
            start,
            end: Timestamp::now() + SignedDuration::from_hours(1),
            limit: 200,
        };
        let best = storage
            .search(search(&session, reader), wanted("x", 0.0))
            .await
            .unwrap();
        let counts = [
            best.best.len(),
            storage.messages_of_sender(of_sender).await.unwrap().len(),
            storage.messages_of_time(of_time).await.unwrap().len(),
        ];
        // Eleven of 400,000 bytes are the first that fill 4 MiB.
        assert_eq!(counts, [11, 11, 11], "{kind}");
    }
}

/// The newest messages of one sender, and of nobody whose name merely looks like it.
#[tokio::test]
async fn messages_of_a_sender_are_the_newest_ones() {
    for database in both().await {
        let (kind, storage) = (database.kind, &*database.storage);
        let session = session(storage).await;
        for (sender, content) in [("ann", "1"), ("anne", "2"), ("ann", "3"), ("Ann", "4"), ("ann", "5")] {
            add(storage, message(&session, sender, content)).await;
        }
        for (sender, limit, expected) in [
            ("ann", 10, &["5", "3", "1"][..]),
            ("ann", 2, &["5", "3"]),
            ("Ann", 10, &["4"]),
            ("an%", 10, &[]),
        ] {
            let query = SenderQuery {
                session_id: session.clone(),
                reader: Agent::named("eve"),
                sender: sender.to_owned(),
                limit,
            };
            let messages = storage.messages_of_sender(query).await.unwrap();
            assert_eq!(contents(&messages), expected, "{kind}: {limit} of {sender}");
        }
        let unknown = SenderQuery {
            session_id: UNKNOWN.to_owned(),
            reader: Agent::named("eve"),
            sender: "ann".to_owned(),
            limit: 1,
        };
        let unknown = storage.messages_of_sender(unknown).await;
        assert!(
            matches!(unknown, Err(StorageError::SessionNotFound)),
            "{kind}: {unknown:?}"
        );
    }
}

/// Both ends of a time belong to it, and the oldest messages come first.
#[tokio::test]
async fn messages_of_a_time_include_both_ends() {
    for database in both().await {
        let (kind, storage) = (database.kind, &*database.storage);
        let session = session(storage).await;
        for content in ["1", "2", "3"] {
            add(storage, message(&session, "ann", content)).await;
        }
        let stored = MessageQuery {
            session_id: session.clone(),
            reader: Agent::named("ann"),
            visibility: None,
            limit: 3,
            offset: 0,
        };
        let stored = storage.get_messages(stored).await.unwrap().messages;
        let [first, second, third] = [0, 1, 2].map(|place: usize| stored[place].timestamp);
        assert!(first < second && second < third, "{kind}: times differ");
        let moment = SignedDuration::from_micros(1);
        for (name, start, end, limit, expected) in [
            ("all", first, third, 10, &["1", "2", "3"][..]),
            ("the oldest two", first, third, 2, &["1", "2"]),
            ("one moment", second, second, 10, &["2"]),
            ("between", first + moment, third - moment, 10, &["2"]),
            ("before", Timestamp::UNIX_EPOCH, first - moment, 10, &[]),
        ] {
            let query = TimeQuery {
                session_id: session.clone(),
                reader: Agent::named("eve"),
                start,
                end,
                limit,
            };
            assert_eq!(
                contents(&storage.messages_of_time(query).await.unwrap()),
                expected,
                "{kind}: {name}"
            );
        }
        let unknown = TimeQuery {
            session_id: UNKNOWN.to_owned(),
            reader: Agent::named("eve"),
            start: first,
            end: third,
            limit: 1,
        };
        let unknown = storage.messages_of_time(unknown).await;
        assert!(
            matches!(unknown, Err(StorageError::SessionNotFound)),
            "{kind}: {unknown:?}"
        );
    }
}

/// How long a read takes among long searches, and how long the searches take from when it was asked for.
async fn read_among_searches(storage: &Arc<dyn Storage>, session: &str, query: &str) -> (Duration, Duration) {
    let begun = Arc::new(AtomicUsize::new(0));
    let searches: Vec<_> = (0..SEARCHES)
        .map(|_| {
            let (storage, query, session) = (storage.clone(), query.to_owned(), session.to_owned());
            let begun = begun.clone();
            tokio::spawn(async move {
                let mut searching =
                    Box::pin(storage.search(search(&session, Agent::named("eve")), wanted(&query, 60.0)));
                let first = poll!(&mut searching);
                begun.fetch_add(1, Ordering::Relaxed);
                match first {
                    Poll::Ready(found) => found,
                    Poll::Pending => searching.await,
                }
            })
        })
        .collect();
    until("all searches have begun", async || {
        (begun.load(Ordering::Relaxed) == SEARCHES).then_some(())
    })
    .await;
    let asked = Instant::now();
    storage.session_header(session).await.unwrap().unwrap();
    let waited = asked.elapsed();
    for found in join_all(searches).await {
        found.unwrap().unwrap();
    }
    (waited, asked.elapsed())
}

/// Searches of huge sessions must not keep others waiting until they are done.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_passes_long_searches() {
    for database in both().await {
        let (kind, storage) = (database.kind, database.storage.clone());
        let session = session(&*storage).await;
        let long = "which of the deployments made the cache of sessions slow ".repeat(350);
        for _ in 0..16 {
            add(&*storage, message(&session, "ann", &long)).await;
        }
        let query = "none of these characters will ever quite be in the same order as there; ".repeat(6);
        let mut times = Vec::new();
        // Behind whole searches it would wait for the half of them that is being read first, each time.
        while times.last().is_none_or(|(waited, all)| *waited * 4 >= *all) {
            assert!(
                times.len() < TRIES,
                "{kind}: how long the read waited, and the searches took: {times:?}"
            );
            times.push(read_among_searches(&storage, &session, &query).await);
        }
    }
}

/// Of the table `messages`: how often it was read as a whole, and how often through an index.
async fn scans(observer: &Client) -> (i64, i64) {
    let sql = "SELECT seq_scan, idx_scan FROM pg_stat_user_tables WHERE relname = 'messages'";
    let row = observer.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// Does `work` again and again until the database has counted that it used an index, which it does once a second;
/// returns how often the table was read as a whole until then.
async fn scans_of(observer: &Client, name: &str, work: impl AsyncFn()) -> i64 {
    let (_, before) = scans(observer).await;
    until(&format!("{name} uses an index"), async || {
        work().await;
        let (whole, through_index) = scans(observer).await;
        (through_index > before).then_some(whole)
    })
    .await
}

/// A search that reads more than its session's messages gets slower with every message of everybody.
#[tokio::test]
async fn postgres_uses_the_indexes() {
    let [_, database] = both().await;
    let storage = &*database.storage;
    let mut mine = String::new();
    for _ in 0..20 {
        mine = session(storage).await;
        fill(&database, &mine, 500, "", "'hay ' || number").await;
    }
    database.execute("", "VACUUM ANALYZE messages").await;
    let observer = postgres::connect(&database.url).await;
    let reader = Agent::named("eve");
    let search = async || {
        let found = storage
            .search(search(&mine, reader.clone()), wanted("needle", 90.0))
            .await
            .unwrap();
        assert_eq!(found.best.len(), 1);
    };
    let of_sender = async || {
        let (session_id, sender) = (mine.clone(), "ann".to_owned());
        let query = SenderQuery {
            session_id,
            reader: reader.clone(),
            sender,
            limit: 20,
        };
        assert_eq!(storage.messages_of_sender(query).await.unwrap().len(), 20);
    };
    let of_time = async || {
        let (start, end) = (Timestamp::UNIX_EPOCH, Timestamp::now());
        let query = TimeQuery {
            session_id: mine.clone(),
            reader: reader.clone(),
            start,
            end,
            limit: 50,
        };
        assert_eq!(storage.messages_of_time(query).await.unwrap().len(), 50);
    };
    // What came before, such as the building of the indexes, is counted by then.
    let before = scans_of(&observer, "the first search", &search).await;
    for (name, after) in [
        ("a search", scans_of(&observer, "a search", &search).await),
        ("of a sender", scans_of(&observer, "of a sender", &of_sender).await),
        ("of a time", scans_of(&observer, "of a time", &of_time).await),
    ] {
        assert_eq!(after, before, "the table was read as a whole: {name}");
    }
}

/// How many threads of this process have a name, and how many of them have something to do.
fn threads(name: &str) -> (usize, usize) {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    let named: Vec<char> = stats
        .filter_map(|stat| stat.split_once(&format!("({name}) "))?.1.chars().next())
        .collect();
    (named.len(), named.iter().filter(|state| **state == 'R').count())
}

/// How many of as many searches as keep all cores busy are given up after `time`, and how long they are worked on after
/// that by the threads called `name`.
async fn given_up_after(time: Duration, name: &str, one: impl Fn() -> JoinHandle<()>) -> (usize, Duration) {
    let cores = available_parallelism().unwrap().get();
    let searches: Vec<_> = (0..cores * 8).map(|_| one()).collect();
    tokio::time::sleep(time).await;
    let (all, _) = threads(name);
    // The runtime's own, and those that are just giving their place to another one.
    assert!(all <= 1 + cores * 2, "{all} threads");
    let unfinished = searches.iter().filter(|search| !search.is_finished()).count();
    for search in &searches {
        search.abort();
    }
    let given_up = Instant::now();
    join_all(searches).await;
    until("nobody scores any more", async || (threads(name).1 == 0).then_some(())).await;
    (unfinished, given_up.elapsed())
}

/// Whoever searches and hangs up, again and again, must not fill memory with the messages of searches that nobody waits
/// for, nor the cores with scoring them.
#[test]
fn searches_that_are_given_up_leave_nothing_behind() {
    const NAME: &str = "scoring-test";
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name(NAME)
        .enable_all()
        .build()
        .unwrap();
    let cores = available_parallelism().unwrap().get();
    runtime.block_on(async {
        let [_, database] = both().await;
        let storage = &database.storage;
        let session = session(&**storage).await;
        fill(&database, &session, 200, "'m'", "repeat(md5(number::text), 64)").await;
        let query = "fedcba9876543210".repeat(20);
        let start = || {
            let (storage, session, query) = (storage.clone(), session.clone(), query.clone());
            tokio::spawn(async move {
                let searching = storage.search(search(&session, Agent::named("eve")), wanted(&query, 0.0));
                searching.await.unwrap();
            })
        };
        let mut one = Duration::MAX;
        for _ in 0..3 {
            let started = Instant::now();
            start().await.unwrap();
            one = one.min(started.elapsed());
        }
        let mut tries = Vec::new();
        // Worked on to their end, so many would take several times as long, each time.
        while tries
            .last()
            .is_none_or(|(unfinished, after)| *unfinished <= cores * 2 || *after >= one * 2)
        {
            assert!(
                tries.len() < TRIES,
                "searches given up, and the work on them after that, while one takes {one:?}: {tries:?}"
            );
            tries.push(given_up_after(one * 2, NAME, start).await);
        }
    });
}
