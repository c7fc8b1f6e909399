//! What has ended goes, and nothing else; and the schema is changed while the database is in use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use mcp_server::database::{Database, DatabaseTarget, Migration};
use mcp_server::tools::shared_context::{
    self, BATCH, Cleaning, MemoryQuery, MemoryScope, NewMemory, NewSession, RetentionSettings, Storage,
};
use prometheus_client::registry::Registry;
use serde_json::json;

use crate::support::databases::{TestDatabase, both};
use crate::support::postgres::{SHARED, connect};
use crate::support::server::{TestServer, settings};
use crate::support::until;

const WEEK: Duration = Duration::from_hours(7 * 24);
const MONTH: Duration = Duration::from_hours(30 * 24);

const ALL: [Cleaning; 6] = [
    Cleaning::ExpiredMemory,
    Cleaning::ExpiredTokens,
    Cleaning::InactiveSessions(WEEK),
    Cleaning::MessagesOfClosedSessions(MONTH),
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

/// Messages in a session, each the answer to the one before.
async fn thread(database: &TestDatabase, id: &str, messages: i64) {
    database
        .execute(
            &format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {messages}) \
                 INSERT INTO messages (id, session_id, sender, content, visibility, parent_message_id, created_at) \
                 SELECT i, '{id}', 'ann', 'm', 'public', nullif(i - 1, 0), 0 FROM n"
            ),
            &format!(
                "INSERT INTO messages (id, session_id, sender, content, visibility, parent_message_id) OVERRIDING SYSTEM VALUE \
                 SELECT i, '{id}', 'ann', 'm', 'public', nullif(i - 1, 0) FROM generate_series(1, {messages}) i"
            ),
        )
        .await;
}

async fn clean(storage: &dyn Storage) {
    for chore in ALL {
        while storage.clean(chore, BATCH).await.unwrap() > 0 {}
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
        thread(&database, "session_0000000000000005", 3_000).await;
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

async fn is_valid(database: &tokio_postgres::Client, index: &str) -> bool {
    let row = database
        .query_opt(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1::text)",
            &[&index],
        )
        .await
        .unwrap();
    row.is_some_and(|row| row.get(0))
}

/// A new version builds an index on a large table: nobody who writes may wait for it; and an index that a killed
/// replica left half built, which slows every write and serves no query, must be built again.
#[tokio::test(flavor = "multi_thread")]
async fn indexes_are_built_while_the_database_is_in_use() {
    let url = SHARED.database().await;
    let target: DatabaseTarget = url.parse().unwrap();
    let open = || Database::open(&target, 1, &mut Registry::default()).unwrap();
    open().migrate(shared_context::MIGRATIONS).await.unwrap();
    let mut writer = connect(&url).await;
    let other = connect(&url).await;
    let half_built = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'messages_by_parent'::regclass";
    for (index, step, left) in [
        (
            "messages_by_parent",
            "shared_context_3_messages_by_parent",
            "DROP INDEX messages_by_parent",
        ),
        ("messages_by_parent", "shared_context_3_messages_by_parent", half_built),
        (
            "messages_by_sender",
            "shared_context_search_1_messages_by_sender",
            "DROP INDEX messages_by_sender",
        ),
        (
            "messages_by_time",
            "shared_context_search_2_messages_by_time",
            "DROP INDEX messages_by_time",
        ),
    ] {
        other.batch_execute(left).await.unwrap();
        let forgotten = other
            .execute("DELETE FROM schema_migrations WHERE name = $1", &[&step])
            .await;
        assert_eq!(forgotten.unwrap(), 1);
        assert!(!is_valid(&other, index).await);
        // An open transaction that wrote to the table: building must wait for it, writers must not.
        let open_transaction = writer.transaction().await.unwrap();
        open_transaction
            .batch_execute("INSERT INTO sessions (id, purpose, created_by) VALUES (gen_random_uuid()::text, 'p', 'a'); \
                            INSERT INTO messages (session_id, sender, content, visibility) SELECT id, 'a', 'm', 'public' FROM sessions")
            .await
            .unwrap();
        let replicas: Vec<Database> = (0..3).map(|_| open()).collect();
        let building = tokio::spawn(async move {
            join_all(
                replicas
                    .iter()
                    .map(|replica| replica.migrate(shared_context::MIGRATIONS)),
            )
            .await
        });
        until("the index is being built", async || {
            let work = "SELECT FROM pg_stat_progress_create_index WHERE relid = 'messages'::regclass";
            let dropping =
                "SELECT FROM pg_stat_activity WHERE query LIKE 'DROP INDEX CONCURRENTLY%' AND state = 'active'";
            let busy = !other.query(work, &[]).await.unwrap().is_empty()
                || !other.query(dropping, &[]).await.unwrap().is_empty();
            busy.then_some(())
        })
        .await;
        let write = "INSERT INTO sessions (id, purpose, created_by) VALUES ('s' || gen_random_uuid()::text, 'p', 'a')";
        tokio::time::timeout(Duration::from_secs(5), other.batch_execute(write))
            .await
            .expect("a writer does not wait")
            .unwrap();
        assert!(!building.is_finished(), "{left}");
        open_transaction.commit().await.unwrap();
        for result in building.await.unwrap() {
            result.unwrap();
        }
        assert!(is_valid(&other, index).await, "{left}");
    }
}

/// A backup holds every table that it has read for as long as it takes. A step that must have such a table to itself
/// may not keep everybody waiting behind it until then, and has to be done soon afterwards, however many replicas there
/// are.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_long_behind_a_step_that_waits_for_a_table() {
    let url = SHARED.database().await;
    let target: DatabaseTarget = url.parse().unwrap();
    let open = || Database::open(&target, 1, &mut Registry::default()).unwrap();
    open().migrate(shared_context::MIGRATIONS).await.unwrap();
    let altering = Migration {
        name: "test_1_altering",
        postgres: "ALTER TABLE sessions ADD COLUMN extra text; ALTER TABLE messages ADD COLUMN extra text",
        sqlite: "",
    };
    let steps = [shared_context::MIGRATIONS, &[altering]].concat();
    let (backup, other) = (connect(&url).await, connect(&url).await);
    backup.batch_execute("BEGIN; SELECT FROM messages").await.unwrap();
    let replicas: Vec<Database> = (0..3).map(|_| open()).collect();
    let migrating = tokio::spawn(async move { join_all(replicas.iter().map(|replica| replica.migrate(&steps))).await });
    until("a replica waits for the table", async || {
        let waiting = "SELECT FROM pg_locks WHERE relation = 'messages'::regclass AND NOT granted";
        let waiting = other.query(waiting, &[]).await.unwrap();
        (!waiting.is_empty()).then_some(())
    })
    .await;
    // Longer than one attempt and the pause after it.
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(7) {
        let work = "INSERT INTO sessions (id, purpose, created_by) VALUES (gen_random_uuid()::text, 'p', 'a'); \
                    INSERT INTO messages (session_id, sender, content, visibility) \
                    SELECT id, 'a', 'm', 'public' FROM sessions LIMIT 1; \
                    SELECT FROM messages LIMIT 1";
        tokio::time::timeout(Duration::from_secs(4), other.batch_execute(work))
            .await
            .expect("nobody waits long")
            .unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!migrating.is_finished(), "the table was not free");
    backup.batch_execute("COMMIT").await.unwrap();
    let migrated = tokio::time::timeout(Duration::from_secs(20), migrating).await;
    for result in migrated.expect("the table is free").unwrap() {
        result.unwrap();
    }
    other
        .batch_execute("SELECT sessions.extra, messages.extra FROM sessions, messages LIMIT 1")
        .await
        .unwrap();
}

/// A replica that no longer waits for another one's migration must leave nothing at work: whoever got its connection
/// next would wait in its place, and the database would keep a session for nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_is_given_up_leaves_nothing_at_work() {
    let url = SHARED.database().await;
    let target: DatabaseTarget = url.parse().unwrap();
    let database = Database::open(&target, 1, &mut Registry::default()).unwrap();
    let (other, observer) = (connect(&url).await, connect(&url).await);
    let lock = 0x6d63_7073_6361_6c65_i64;
    other.query("SELECT pg_advisory_lock($1)", &[&lock]).await.unwrap();
    let migrating = tokio::spawn({
        let database = database.clone();
        async move { database.migrate(shared_context::MIGRATIONS).await }
    });
    let waits = async || {
        let waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        !observer.query(waiting, &[]).await.unwrap().is_empty()
    };
    until("it waits for the other one", async || waits().await.then_some(())).await;
    migrating.abort();
    until("nobody waits any more", async || (!waits().await).then_some(())).await;
    let applied = database.applied().await;
    assert!(applied.expect("another connection has a place").is_empty());
    other.query("SELECT pg_advisory_unlock($1)", &[&lock]).await.unwrap();
    database.migrate(shared_context::MIGRATIONS).await.unwrap();
}

/// Memory that is stored for a closed session, while that is being removed, keeps the session: otherwise it would be
/// gone although it was confirmed.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_used_while_it_is_removed_stays() {
    let [_, database] = both().await;
    let id = "session_0000000000000001";
    session(&database, id, 60, 60, false).await;
    let (blocker, observer) = (connect(&database.url).await, connect(&database.url).await);
    let number = async |sql: &str| observer.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
    // What `set_memory` does, not yet committed.
    blocker
        .batch_execute(&format!(
            "BEGIN; INSERT INTO agent_memory (agent_id, session_id, key, value, size_bytes) \
             VALUES ('ann', '{id}', 'k', '1', 1); \
             UPDATE sessions SET updated_at = now()"
        ))
        .await
        .unwrap();
    let cleaning = tokio::spawn({
        let storage = Arc::clone(&database.storage);
        async move { storage.clean(Cleaning::ClosedSessions(MONTH), BATCH).await }
    });
    until("the removal waits for the row", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity \
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        (number(waiting).await == 1).then_some(())
    })
    .await;
    blocker.batch_execute("COMMIT").await.unwrap();
    assert_eq!(cleaning.await.unwrap().unwrap(), 0, "nothing is removed");
    assert_eq!(number("SELECT count(*) FROM agent_memory").await, 1);
}
