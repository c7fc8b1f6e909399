//! The database comes up late, goes away, comes back, fails single writes, and is used by those who give up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use futures::future::join_all;
use mcp_server::database::{Database, DatabaseError, SqliteDatabase};
use mcp_server::migrate;
use prometheus_client::registry::Registry;
use reqwest::RequestBuilder;
use rusqlite::Transaction;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::support::postgres::{Postgres, SHARED, connect};
use crate::support::server::{TestServer, settings};
use crate::support::until;

/// Lets the first attempts to add a message fail, as the row of `failing` says, and counts all of them.
const FAILING: &str = "
CREATE TABLE failing (code text NOT NULL, times bigint NOT NULL);
CREATE SEQUENCE attempts;
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('attempts') <= (SELECT times FROM failing) THEN
        RAISE EXCEPTION 'the test wants this to fail' USING ERRCODE = (SELECT code FROM failing);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER fail BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION fail();
";

/// A server on the database at `url`, and a session.
async fn with_session(url: &str) -> (TestServer, Value) {
    let server = TestServer::start(settings(url)).await;
    let database = connect(url).await;
    let steps = i64::try_from(migrate::steps().len()).unwrap();
    // Building an index and making a trigger could lock each other out.
    until("all indexes are built", async || {
        (number(&database, "SELECT count(*) FROM schema_migrations").await == steps).then_some(())
    })
    .await;
    let session = server.client.call("create_session", json!({"purpose": "p"})).await["session_id"].clone();
    (server, session)
}

async fn number(database: &Client, sql: &str) -> i64 {
    database.query_one(sql, &[]).await.unwrap().get(0)
}

/// A server whose database is away must stay up, say so, and go on by itself as soon as it is back.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_survives_its_database() {
    let postgres = Postgres::start();
    postgres.stop();
    let server = TestServer::start_unready(settings(&postgres.url("postgres"))).await;
    assert_eq!(
        (server.probe("readyz").await, server.probe("healthz").await),
        (503, 200),
        "before the database"
    );
    let early = server.client.call("set_memory", json!({"key": "k", "value": 1})).await;
    assert_eq!(early["code"], "POOL_NOT_INITIALIZED");

    postgres.start_again();
    until("ready when the database is up", async || {
        (server.probe("readyz").await == 200).then_some(())
    })
    .await;
    assert_eq!(
        server.client.call("set_memory", json!({"key": "k", "value": 1})).await["success"],
        true
    );

    postgres.stop();
    let outage = server.client.call("get_memory", json!({"key": "k"})).await;
    assert_eq!(
        (&outage["code"], server.probe("readyz").await),
        (&json!("SYSTEM_UNAVAILABLE"), 200),
        "one failure is no outage"
    );
    until("not ready when the database is gone", async || {
        (server.probe("readyz").await == 503).then_some(())
    })
    .await;
    assert_eq!(server.probe("healthz").await, 200, "a restart would not help");

    postgres.start_again();
    until("ready again", async || {
        (server.probe("readyz").await == 200).then_some(())
    })
    .await;
    assert_eq!(server.client.call("get_memory", json!({"key": "k"})).await["value"], 1);
}

/// A client that hears that its session is gone opens another, and loses what it follows. Nobody can know that while the
/// database is away.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_not_gone_because_its_database_is() {
    let postgres = Postgres::start();
    let settings = settings(&postgres.url("postgres"));
    let (here, there) = tokio::join!(TestServer::start(settings.clone()), TestServer::start(settings));
    let session = here.client.legacy_session().await.at(&there.client);
    let no_session = there.client.session("unknown".to_owned());
    assert_eq!(status(no_session.tool("get_memory", &json!({"key": "k"}))).await, 404);

    postgres.stop();
    let call = || session.tool("get_memory", &json!({"key": "k"}));
    assert_eq!(status(call()).await, 503, "a call");
    assert_eq!(status(session.get()).await, 503, "a stream");

    postgres.start_again();
    until("the session is restored", async || {
        (status(call()).await == 200).then_some(())
    })
    .await;
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

/// A connection that breaks in the middle of a write leaves open whether the write was done. Doing it again could do it
/// twice: the caller has to decide.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_connection_breaks_is_not_repeated() {
    let url = SHARED.database().await;
    let (server, session) = with_session(&url).await;
    let (blocker, database) = (connect(&url).await, connect(&url).await);
    let message = json!({"session_id": session, "content": "once"});
    blocker
        .batch_execute("BEGIN; SELECT FROM sessions FOR UPDATE")
        .await
        .unwrap();
    let call = tokio::spawn({
        let (client, message) = (server.client.clone(), message.clone());
        async move { client.call("add_message", message).await }
    });
    // Within the blocker's transaction the statistics stand still. The number is how long the end is waited for.
    let cut = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
               WHERE datname = current_database() AND application_name = 'mcp-server' AND wait_event_type = 'Lock'";
    until("the write waits, and its connection is cut", async || {
        let cut = database.query(cut, &[]).await.unwrap();
        cut.first().is_some_and(|row| row.get(0)).then_some(())
    })
    .await;
    blocker.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(call.await.unwrap()["code"], "SYSTEM_UNAVAILABLE");
    let messages = "SELECT count(*) FROM messages";
    assert_eq!(number(&database, messages).await, 0, "nobody has done it again");
    assert_eq!(server.client.call("add_message", message).await["success"], true);
    assert_eq!(number(&database, messages).await, 1, "the caller has, once");
}

/// A write that Postgres itself gave up is done again, once, and the caller does not notice. No other failure proves
/// that nothing was done.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_proven_undone_is_repeated() {
    let url = SHARED.database().await;
    let (server, session) = with_session(&url).await;
    let database = connect(&url).await;
    database.batch_execute(FAILING).await.unwrap();
    for (name, code, times, attempts, added) in [
        ("a deadlock", "40P01", 1, 2, true),
        ("a failed serialization", "40001", 1, 2, true),
        ("one deadlock after the other", "40P01", 9, 2, false),
        ("a server that shuts down", "57P01", 1, 1, false),
        ("a statement that took too long", "57014", 1, 1, false),
        ("a full disk", "53100", 1, 1, false),
    ] {
        database
            .batch_execute(&format!(
                "DELETE FROM messages; DELETE FROM failing; INSERT INTO failing VALUES ('{code}', {times}); \
                 ALTER SEQUENCE attempts RESTART"
            ))
            .await
            .unwrap();
        let message = json!({"session_id": session, "content": name});
        let answer = server.client.call("add_message", message).await;
        assert_eq!(answer["success"], added, "{name}: {answer}");
        let made = number(&database, "SELECT last_value FROM attempts").await;
        let stored = number(&database, "SELECT count(*) FROM messages").await;
        assert_eq!((made, stored), (attempts, i64::from(added)), "{name}");
    }
}

/// An index on a large table takes hours: no replica may wait for that, or a new version is never rolled out.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_serves_while_an_index_is_built() {
    let url = SHARED.database().await;
    let database = Database::open(&url.parse().unwrap(), 1, &mut Registry::default()).unwrap();
    database.migrate(&migrate::steps()).await.unwrap();
    let (mut writer, other) = (connect(&url).await, connect(&url).await);
    other
        .batch_execute(
            "DROP INDEX messages_by_parent; \
             DELETE FROM schema_migrations WHERE name = 'shared_context_3_messages_by_parent'",
        )
        .await
        .unwrap();
    // Who builds an index online waits for those who write already.
    let write = writer.transaction().await.unwrap();
    write
        .batch_execute("LOCK TABLE messages IN ROW EXCLUSIVE MODE")
        .await
        .unwrap();

    let server = TestServer::start(settings(&url)).await;
    let session = server.client.call("create_session", json!({"purpose": "p"})).await["session_id"].clone();
    let message = json!({"session_id": session, "content": "m"});
    assert_eq!(server.client.call("add_message", message).await["success"], true);
    let built = "SELECT count(*) FROM schema_migrations WHERE name = 'shared_context_3_messages_by_parent'";
    assert_eq!(number(&other, built).await, 0, "it is still being built");
    write.commit().await.unwrap();
    until("the index is built", async || {
        (number(&other, built).await == 1).then_some(())
    })
    .await;
    let valid = "SELECT count(*) FROM pg_index WHERE indexrelid = 'messages_by_parent'::regclass AND indisvalid";
    assert_eq!(number(&other, valid).await, 1);
}

/// The operator gives out connections by these figures: those of a database that has not answered for long say nothing
/// about now.
#[tokio::test(flavor = "multi_thread")]
async fn figures_of_a_database_that_is_gone_are_left_out() {
    let postgres = Postgres::start();
    let server = TestServer::start(settings(&postgres.url("postgres"))).await;
    let figures = async || {
        let scrape = server.scrape().await;
        ["mcp_database_backends", "mcp_database_max_connections"].map(|name| scrape.sum(name, &[]).is_some())
    };
    assert_eq!(figures().await, [true; 2]);
    postgres.stop();
    until("the figures are left out", async || {
        (figures().await == [false; 2]).then_some(())
    })
    .await;
    postgres.start_again();
    until("they are back", async || (figures().await == [true; 2]).then_some(())).await;
}

/// An empty SQLite file with a table `t`.
async fn file() -> (SqliteDatabase, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("test.db").display());
    let opened = Database::open(&url.parse().unwrap(), 1, &mut Registry::default()).unwrap();
    let Database::Sqlite(database) = opened else {
        panic!("{url} is no SQLite file");
    };
    let create = |transaction: &Transaction<'_>| {
        transaction
            .execute_batch("CREATE TABLE t (n)")
            .map_err(DatabaseError::from)
    };
    database.write(create).await.unwrap();
    (database, folder)
}

fn insert(transaction: &Transaction<'_>) -> Result<(), DatabaseError> {
    Ok(transaction.execute("INSERT INTO t VALUES (1)", []).map(drop)?)
}

fn rows(transaction: &Transaction<'_>) -> Result<i64, DatabaseError> {
    Ok(transaction.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?)
}

/// One call that panics must not end the thread that all later calls need: the file would be read-only, or not even
/// readable, until somebody notices.
#[tokio::test(flavor = "multi_thread")]
async fn work_that_panics_is_undone_and_takes_no_thread_with_it() {
    let (database, _folder) = file().await;
    let write = database.write(|transaction| -> Result<(), DatabaseError> {
        insert(transaction)?;
        panic!("the test wants this write to panic");
    });
    assert!(matches!(write.await, Err(DatabaseError::Panicked)));
    // More than there are threads that read.
    for _ in 0..6 {
        let read = database.read(|_| -> Result<(), DatabaseError> { panic!("the test wants this read to panic") });
        let read = timeout(Duration::from_secs(5), read).await;
        assert!(matches!(
            read.expect("there is a thread left"),
            Err(DatabaseError::Panicked)
        ));
    }
    database.write(insert).await.unwrap();
    assert_eq!(database.read(rows).await.unwrap(), 1, "only what was confirmed");
}

/// Clients that hang up must not leave work behind that keeps those waiting who have not.
#[tokio::test(flavor = "multi_thread")]
async fn work_that_nobody_waits_for_is_not_begun() {
    let (database, _folder) = file().await;
    let (busy, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    // All four threads that read, and the one that writes.
    let mut gates = Vec::new();
    let mut blockers = Vec::new();
    for number in 0..5 {
        let (gate, wait) = channel::<()>();
        gates.push(gate);
        let (database, busy) = (database.clone(), busy.clone());
        let block = move |_: &Transaction<'_>| {
            busy.fetch_add(1, Ordering::Relaxed);
            let _ = wait.recv();
            Ok::<_, DatabaseError>(())
        };
        blockers.push(tokio::spawn(async move {
            if number == 0 {
                database.write(block).await
            } else {
                database.read(block).await
            }
        }));
    }
    until("all threads are busy", async || {
        (busy.load(Ordering::Relaxed) == 5).then_some(())
    })
    .await;
    let count = || {
        let done = done.clone();
        move |transaction: &Transaction<'_>| {
            done.fetch_add(1, Ordering::Relaxed);
            rows(transaction)
        }
    };
    let short = Duration::from_millis(20);
    assert!(timeout(short, database.read(count())).await.is_err());
    assert!(timeout(short, database.write(count())).await.is_err());
    drop(gates);
    for blocked in join_all(blockers).await {
        blocked.unwrap().unwrap();
    }
    database.write(insert).await.unwrap();
    assert_eq!(database.read(rows).await.unwrap(), 1);
    assert_eq!(done.load(Ordering::Relaxed), 0, "what was given up");
}
