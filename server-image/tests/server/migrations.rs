//! The schema is changed while the database is in use, and nobody waits for it.

use std::time::{Duration, Instant};

use futures::future::join_all;
use mcp_server::database::{Database, DatabaseTarget, Migration};
use mcp_server::tools::shared_context;
use prometheus_client::registry::Registry;

use crate::support::postgres::{SHARED, connect};
use crate::support::until;

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
            let is_built = !other.query(work, &[]).await.unwrap().is_empty();
            (is_built || is_dropping(&other).await).then_some(())
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

/// An index that no statement uses any more goes without anybody waiting for it, however many replicas start at once.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_dropped_while_the_database_is_in_use() {
    let url = SHARED.database().await;
    let target: DatabaseTarget = url.parse().unwrap();
    let open = || Database::open(&target, 1, &mut Registry::default()).unwrap();
    open().migrate(shared_context::MIGRATIONS).await.unwrap();
    let mut writer = connect(&url).await;
    let other = connect(&url).await;
    let (index, step) = ("sessions_by_age", "shared_context_9_without_sessions_by_age");
    assert!(!is_valid(&other, index).await, "it is not in a new database");
    let create = "CREATE INDEX sessions_by_age ON sessions (created_at)";
    let half_dropped = "CREATE INDEX sessions_by_age ON sessions (created_at); \
                        UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'sessions_by_age'::regclass";
    for left in [create, half_dropped] {
        other.batch_execute(left).await.unwrap();
        let forget = "DELETE FROM schema_migrations WHERE name = $1";
        assert_eq!(other.execute(forget, &[&step]).await.unwrap(), 1, "{left}");
        let open_transaction = writer.transaction().await.unwrap();
        let write = "INSERT INTO sessions (id, purpose, created_by) VALUES (gen_random_uuid()::text, 'p', 'a')";
        open_transaction.batch_execute(write).await.unwrap();
        let replicas: Vec<Database> = (0..3).map(|_| open()).collect();
        let migrating = tokio::spawn(async move {
            let migrate = |replica: Database| async move { replica.migrate(shared_context::MIGRATIONS).await };
            join_all(replicas.into_iter().map(migrate)).await
        });
        until("the index is being dropped", async || {
            is_dropping(&other).await.then_some(())
        })
        .await;
        tokio::time::timeout(Duration::from_secs(5), other.batch_execute(write))
            .await
            .expect("a writer does not wait")
            .unwrap();
        assert!(!migrating.is_finished(), "{left}");
        open_transaction.commit().await.unwrap();
        for result in migrating.await.unwrap() {
            result.unwrap();
        }
        assert!(is_gone(&other, index).await, "{left}");
    }
    // A replica that comes late does not build what another one has built and dropped: nothing would drop it again.
    let forget = "DELETE FROM schema_migrations WHERE name = 'shared_context_4_sessions_by_age'";
    assert_eq!(other.execute(forget, &[]).await.unwrap(), 1);
    open().migrate(shared_context::MIGRATIONS).await.unwrap();
    assert!(is_gone(&other, index).await, "it is not built again");
}

/// Whether somebody drops an index of this database.
async fn is_dropping(database: &tokio_postgres::Client) -> bool {
    let dropping = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' \
                    AND query LIKE 'DROP INDEX CONCURRENTLY%'";
    !database.query(dropping, &[]).await.unwrap().is_empty()
}

async fn is_gone(database: &tokio_postgres::Client, index: &str) -> bool {
    let gone = "SELECT to_regclass($1::text) IS NULL";
    database.query_one(gone, &[&index]).await.unwrap().get(0)
}
