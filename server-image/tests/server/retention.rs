//! What has ended goes, and nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use mcp_server::tools::shared_context::{
    self, BATCH, Cleaning, MemoryQuery, MemoryScope, NewMemory, NewSession, Place, RetentionSettings, Storage,
};
use serde_json::json;

use crate::support::databases::{TestDatabase, both};
use crate::support::postgres::connect;
use crate::support::server::{TestServer, settings};
use crate::support::until;

const WEEK: Duration = Duration::from_hours(7 * 24);
const MONTH: Duration = Duration::from_hours(30 * 24);

const ALL: [Cleaning; 5] = [
    Cleaning::ExpiredMemory,
    Cleaning::ExpiredTokens,
    Cleaning::InactiveSessions(WEEK),
    Cleaning::ClosedSessions(MONTH),
    Cleaning::AuditLog(MONTH),
];

/// A session created and last changed some days ago.
async fn session(database: &TestDatabase, id: &str, created: i64, changed: i64, is_active: bool) {
    let session = NewSession {
        id: id.to_owned(),
        purpose: "test".to_owned(),
        created_by: "ann".to_owned(),
        metadata: None,
    };
    database.storage.create_session(session, false).await.unwrap();
    let day = 24_i64 * 3600 * 1_000_000;
    database
        .execute(
            &format!(
                "UPDATE sessions SET created_at = created_at - {}, updated_at = updated_at - {}, is_active = {is_active} \
                 WHERE id = '{id}'",
                created * day,
                changed * day
            ),
            &format!(
                "UPDATE sessions SET created_at = created_at - interval '{created} days', \
                 updated_at = updated_at - interval '{changed} days', is_active = {is_active} WHERE id = '{id}'"
            ),
        )
        .await;
}

/// Messages in an empty session, each the answer to the one before; the session counts as many as `counted`.
async fn thread(database: &TestDatabase, id: &str, messages: i64, counted: i64) {
    let first = "SELECT coalesce(max(id), 0) + 1 FROM messages";
    let count = format!("UPDATE sessions SET message_count = {counted} WHERE id = '{id}'");
    database
        .execute(
            &format!(
                "WITH RECURSIVE first(f) AS ({first}), \
                 n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {messages} - 1) \
                 INSERT INTO messages (id, session_id, sender, content, visibility, parent_message_id, created_at) \
                 SELECT f + i, '{id}', 'ann', 'm', 'public', iif(i > 0, f + i - 1, NULL), 0 FROM first, n; {count}"
            ),
            &format!(
                "WITH first(f) AS ({first}) \
                 INSERT INTO messages (id, session_id, sender, content, visibility, parent_message_id) OVERRIDING SYSTEM VALUE \
                 SELECT f + i, '{id}', 'ann', 'm', 'public', CASE WHEN i > 0 THEN f + i - 1 END \
                 FROM first, generate_series(0, {messages} - 1) i; {count}"
            ),
        )
        .await;
}

/// Entries in the memory of a session.
async fn memory(database: &TestDatabase, id: &str, entries: i64) {
    database
        .execute(
            &format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {entries}) \
                 INSERT INTO agent_memory (agent_id, session_id, key, value, size_bytes, created_at, updated_at) \
                 SELECT 'ann', '{id}', i, '1', 1, 0, 0 FROM n"
            ),
            &format!(
                "INSERT INTO agent_memory (agent_id, session_id, key, value, size_bytes) \
                 SELECT 'ann', '{id}', i::text, '1', 1 FROM generate_series(1, {entries}) i"
            ),
        )
        .await;
}

/// Many sessions, each with `messages`, created `created` days ago, a thousand of them in the same moment, and last
/// changed `changed` days ago.
async fn many(
    database: &TestDatabase,
    name: &str,
    number: i64,
    created: i64,
    changed: i64,
    is_active: bool,
    messages: i64,
) {
    database
        .execute(
            &format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {number}) \
                 INSERT INTO sessions (id, purpose, created_by, is_active, message_count, created_at, updated_at) \
                 SELECT i || '{name}', 'p', 'ann', {is_active}, {messages}, \
                   (unixepoch() - {created} * 86400 + i / 1000) * 1000000, (unixepoch() - {changed} * 86400) * 1000000 FROM n; \
                 WITH RECURSIVE m(j) AS (SELECT 0 UNION ALL SELECT j + 1 FROM m WHERE j < {messages}) \
                 INSERT INTO messages (session_id, sender, content, visibility, created_at) \
                 SELECT id, 'ann', 'm', 'public', 0 FROM sessions, m WHERE id LIKE '%{name}' AND j > 0"
            ),
            &format!(
                "INSERT INTO sessions (id, purpose, created_by, is_active, message_count, created_at, updated_at) \
                 SELECT i || '{name}', 'p', 'ann', {is_active}, {messages}, \
                   now() - interval '{created} days' + i / 1000 * interval '1 second', now() - interval '{changed} days' \
                 FROM generate_series(1, {number}) i; \
                 INSERT INTO messages (session_id, sender, content, visibility) \
                 SELECT id, 'ann', 'm', 'public' FROM sessions, generate_series(1, {messages}) WHERE id LIKE '%{name}'"
            ),
        )
        .await;
}

/// Does all of a chore, and returns in how many steps.
async fn finish(storage: &dyn Storage, chore: Cleaning) -> i64 {
    let (mut steps, mut place) = (0, Place::default());
    loop {
        let cleaned = storage.clean(chore, &place, BATCH).await.unwrap();
        assert!(cleaned.rows <= BATCH.unsigned_abs(), "{chore:?}: {cleaned:?}");
        steps += 1;
        assert!(steps < 1_000, "{chore:?} does not end");
        let Some(next) = cleaned.next else { return steps };
        place = next;
    }
}

async fn clean(storage: &dyn Storage) {
    for chore in ALL {
        finish(storage, chore).await;
    }
}

async fn state(storage: &dyn Storage, id: &str) -> Option<bool> {
    let reader = shared_context::Agent::named("ann");
    let view = storage.session_view(id, &reader, 1).await.unwrap();
    view.map(|view| view.is_active)
}

/// What is in use must stay; what is not must go, with all that belongs to it, even if many clean up at once, and
/// without holding up the database for long.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_goes_and_nothing_else() {
    for database in both().await {
        let (kind, storage) = (database.kind, &*database.storage);
        for (id, created, changed, is_active) in [
            ("session_0000000000000001", 0, 0, true),
            ("session_0000000000000002", 40, 6, true),
            ("session_0000000000000003", 8, 8, true),
            ("session_0000000000000004", 40, 29, false),
            ("session_0000000000000005", 40, 31, false),
            ("session_0000000000000006", 31, 31, true),
            ("session_0000000000000007", 40, 31, false),
            ("session_0000000000000008", 8, 8, true),
        ] {
            session(&database, id, created, changed, is_active).await;
        }
        thread(&database, "session_0000000000000005", 3_000, 3_000).await;
        for (key, session_id) in [
            ("expired", None),
            ("live", None),
            ("with its session", Some("session_0000000000000005")),
            ("of a closed session", Some("session_0000000000000007")),
            ("of an open session", Some("session_0000000000000008")),
        ] {
            let entry = NewMemory {
                agent_id: "ann".to_owned(),
                session_id: session_id.map(str::to_owned),
                key: key.to_owned(),
                value: json!(1),
                metadata: None,
                expires_in: session_id.is_none().then_some(3600),
                overwrite: true,
                has_quota: false,
            };
            storage.set_memory(entry).await.unwrap();
        }
        database
            .execute(
                "UPDATE agent_memory SET expires_at = 1 WHERE key = 'expired'; \
                 UPDATE sessions SET updated_at = created_at WHERE id = 'session_0000000000000005'; \
                 INSERT INTO audit_log (at, agent_id, action, outcome) VALUES (1, 'ann', 'old', 'ok');",
                "UPDATE agent_memory SET expires_at = 'epoch' WHERE key = 'expired'; \
                 UPDATE sessions SET updated_at = created_at WHERE id = 'session_0000000000000005'; \
                 INSERT INTO audit_log (at, agent_id, action) VALUES ('epoch', 'ann', 'old');",
            )
            .await;

        let started = Instant::now();
        join_all((0..4).map(|_| clean(storage))).await;
        clean(storage).await;
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{kind}: {:?}",
            started.elapsed()
        );
        for (name, id, expected) in [
            ("in use", "session_0000000000000001", Some(true)),
            ("old but in use", "session_0000000000000002", Some(true)),
            ("unused for a week", "session_0000000000000003", Some(false)),
            ("closed, not long enough", "session_0000000000000004", Some(false)),
            ("closed and unused for a month", "session_0000000000000005", None),
            // Closed in this very round, and a month old: it goes, too.
            ("never closed, unused for a month", "session_0000000000000006", None),
            ("closed, but with fresh memory", "session_0000000000000007", Some(false)),
            ("old, but with fresh memory", "session_0000000000000008", Some(true)),
        ] {
            assert_eq!(state(storage, id).await, expected, "{kind}: {name}");
        }
        let query = MemoryQuery {
            agent_id: "ann".to_owned(),
            scope: MemoryScope::All,
            prefix: String::new(),
            limit: 50,
            value_bytes: 0,
        };
        let keys: Vec<String> = storage
            .list_memory(query)
            .await
            .unwrap()
            .into_iter()
            .map(|entry| entry.key)
            .collect();
        assert_eq!(keys, ["of an open session", "of a closed session", "live"], "{kind}");
        // Each fails if something is left that should be gone, or gone that should be left.
        database
            .execute(
                "CREATE TABLE checks (ok INTEGER CHECK (ok)); \
                 INSERT INTO checks SELECT count(*) = 0 FROM messages; \
                 INSERT INTO checks SELECT count(*) = 0 FROM audit_log WHERE action = 'old'; \
                 INSERT INTO checks SELECT count(*) = 13 FROM audit_log; \
                 INSERT INTO checks SELECT count(*) = 3 FROM agent_memory;",
                "CREATE TABLE checks (ok boolean CHECK (ok)); \
                 INSERT INTO checks SELECT count(*) = 0 FROM messages; \
                 INSERT INTO checks SELECT count(*) = 0 FROM audit_log WHERE action = 'old'; \
                 INSERT INTO checks SELECT count(*) = 13 FROM audit_log; \
                 INSERT INTO checks SELECT count(*) = 3 FROM agent_memory;",
            )
            .await;
    }
}

/// A round must not take the longer the more there is that stays, nor a step for each session that goes: at size it
/// would never end.
#[tokio::test(flavor = "multi_thread")]
async fn a_round_takes_as_many_steps_as_there_is_to_remove() {
    for database in both().await {
        let (kind, storage) = (database.kind, &*database.storage);
        for (name, number, created, changed, is_active, messages) in [
            ("one message", 1_500, 40, 31, false, 1),
            ("two messages", 1_500, 40, 31, false, 2),
            ("closed, but used", 1_500, 40, 29, false, 1),
            ("closed, and new", 100, 29, 29, false, 1),
            ("unused", 1_500, 20, 8, true, 1),
            ("in use", 1_500, 20, 6, true, 1),
            ("of this week", 100, 6, 6, true, 1),
        ] {
            many(&database, name, number, created, changed, is_active, messages).await;
        }
        let steps = finish(storage, Cleaning::InactiveSessions(WEEK)).await;
        assert_eq!(steps, 3_000 / BATCH + 1, "{kind}: each is looked at once");
        let steps = finish(storage, Cleaning::ClosedSessions(MONTH)).await;
        let (looked, removed) = (4_500, 1_500 * 2 + 1_500 * 3);
        // A batch is not always filled to the last row.
        let most = looked / BATCH + removed / (BATCH - 2) + 1;
        assert!(steps <= most, "{kind}: {steps} steps, at most {most} expected");
        for (name, active, closed) in [
            ("one message", 0, 0),
            ("two messages", 0, 0),
            ("closed, but used", 0, 1_500),
            ("closed, and new", 0, 100),
            ("unused", 0, 1_500),
            ("in use", 1_500, 0),
            ("of this week", 100, 0),
        ] {
            for (is, expected) in [("is_active", active), ("NOT is_active", closed)] {
                let found = database
                    .count(&format!("sessions WHERE id LIKE '%{name}' AND {is}"))
                    .await;
                assert_eq!(found, expected, "{kind}: {name}, {is}");
            }
        }
        assert_eq!(database.count("messages").await, 4_700, "{kind}: those of what stays");
    }
}

/// A session must go however many messages and entries of memory it has, and even if its own count of them is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_larger_than_a_batch_go_step_by_step() {
    for database in both().await {
        let (kind, storage) = (database.kind, &*database.storage);
        let large = 2 * BATCH + 7;
        for (number, messages, counted) in [
            (1, large, large),
            (2, 1, 1),
            (3, BATCH - 1, BATCH - 1),
            (4, BATCH, BATCH),
            (5, 3, 10 * BATCH),
            (6, 2 * BATCH, 10 * BATCH),
            (7, large, 0),
            (8, large, large),
        ] {
            let id = format!("session_{number:016x}");
            session(&database, &id, 40, 31, false).await;
            thread(&database, &id, messages, counted).await;
        }
        session(&database, "session_0000000000000009", 40, 29, false).await;
        thread(&database, "session_0000000000000009", large, large).await;
        for (number, entries) in [(2, 3 * large), (5, 4), (8, large), (9, large)] {
            memory(&database, &format!("session_{number:016x}"), entries).await;
        }
        let steps = finish(storage, Cleaning::ClosedSessions(MONTH)).await;
        assert!((15..=28).contains(&steps), "{kind}: {steps} steps");
        assert_eq!(database.count("sessions").await, 1, "{kind}");
        assert_eq!(
            database.count("agent_memory").await,
            large,
            "{kind}: that of what stays"
        );
        assert_eq!(database.count("messages").await, large, "{kind}: those of what stays");
    }
}

/// The server does it by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_cleans_up_by_itself() {
    for database in both().await {
        let kind = database.kind;
        let mut settings = settings(&database.url);
        settings.shared_context.retention = RetentionSettings {
            interval: Duration::from_millis(100),
            ..RetentionSettings::default()
        };
        let server = TestServer::start(settings).await;
        let entry = json!({"key": "k", "value": 1, "expires_in": 1});
        assert_eq!(server.client.call("set_memory", entry).await["success"], true, "{kind}");
        until(&format!("{kind}: the expired entry is gone"), async || {
            (database.count("agent_memory").await == 0).then_some(())
        })
        .await;
    }
}

async fn until_waiting(observer: &tokio_postgres::Client) {
    until("the removal waits for the row", async || {
        let waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        (observer.query(waiting, &[]).await.unwrap().len() == 1).then_some(())
    })
    .await;
}

/// Memory that is stored for a closed session, while that is being removed, keeps the session, and all of it: otherwise
/// it would be gone although it was confirmed.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_used_while_it_is_removed_stays() {
    let [_, database] = both().await;
    let (blocker, observer) = (connect(&database.url).await, connect(&database.url).await);
    let number = async |sql: &str| observer.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
    for (id, messages) in [("session_0000000000000001", 3), ("session_0000000000000002", 2 * BATCH)] {
        session(&database, id, 60, 60, false).await;
        thread(&database, id, messages, messages).await;
        // What `set_memory` does, not yet committed.
        blocker
            .batch_execute(&format!(
                "BEGIN; INSERT INTO agent_memory (agent_id, session_id, key, value, size_bytes) \
                 VALUES ('ann', '{id}', 'k', '1', 1); \
                 UPDATE sessions SET updated_at = now() WHERE id = '{id}'"
            ))
            .await
            .unwrap();
        let cleaning = tokio::spawn({
            let storage = Arc::clone(&database.storage);
            async move { finish(&*storage, Cleaning::ClosedSessions(MONTH)).await }
        });
        until_waiting(&observer).await;
        blocker.batch_execute("COMMIT").await.unwrap();
        assert!(cleaning.await.unwrap() <= 2, "{id}");
        let left = format!("SELECT count(*) FROM messages WHERE session_id = '{id}'");
        assert_eq!(number(&left).await, messages, "{id}: nothing is removed");
        let left = format!("SELECT count(*) FROM agent_memory WHERE session_id = '{id}'");
        assert_eq!(number(&left).await, 1, "{id}");
    }
}

/// Two replicas that come to the same large session must not take it for one that counts wrong, and delete the rest of
/// it at once: that may take longer than a statement may, and then it would never go.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_session_goes_step_by_step_whoever_else_is_at_it() {
    let [_, database] = both().await;
    let (other, observer) = (connect(&database.url).await, connect(&database.url).await);
    let id = "session_0000000000000001";
    session(&database, id, 60, 60, false).await;
    thread(&database, id, 3 * BATCH, 3 * BATCH).await;
    // A step of another replica, not yet committed.
    other
        .batch_execute(&format!(
            "BEGIN; DELETE FROM messages WHERE id IN (SELECT id FROM messages ORDER BY id DESC LIMIT {BATCH}); \
             UPDATE sessions SET message_count = message_count - {BATCH}"
        ))
        .await
        .unwrap();
    let cleaning = tokio::spawn({
        let storage = Arc::clone(&database.storage);
        async move { finish(&*storage, Cleaning::ClosedSessions(MONTH)).await }
    });
    until_waiting(&observer).await;
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(
        cleaning.await.unwrap(),
        4,
        "one that waits, two batches, and the session"
    );
    assert_eq!(database.count("sessions").await, 0);
}
