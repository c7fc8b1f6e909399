//! The database comes up late, goes away, comes back, and fails single writes.

use mcp_server::migrate;
use serde_json::{Value, json};
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
