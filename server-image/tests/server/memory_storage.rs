//! Agents' memory: the same must hold in either database. Also: the schema itself.

use futures::future::join_all;
use mcp_server::database::{Database, DatabaseTarget};
use mcp_server::mcp::sessions;
use mcp_server::tools::shared_context::{self, MemoryQuery, MemoryScope, NewMemory, NewSession, Storage, StorageError};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use crate::support::databases::both;
use crate::support::postgres::{SHARED, connect};

const SESSION: &str = "session_0123456789abcdef";

fn entry(agent: &str, session: Option<&str>, key: &str, value: Value) -> NewMemory {
    NewMemory {
        agent_id: agent.to_owned(),
        session_id: session.map(str::to_owned),
        key: key.to_owned(),
        value,
        metadata: None,
        expires_in: None,
        overwrite: true,
        has_quota: true,
    }
}

async fn read(storage: &dyn Storage, agent: &str, session: Option<&str>, key: &str) -> Option<Value> {
    storage
        .get_memory(agent, session, key)
        .await
        .unwrap()
        .map(|entry| entry.value)
}

async fn make_session(storage: &dyn Storage) {
    let session = NewSession {
        id: SESSION.to_owned(),
        purpose: "test".to_owned(),
        created_by: "ann".to_owned(),
        metadata: None,
    };
    storage.create_session(session, false).await.unwrap();
}

/// A value must come back exactly, whatever JSON it is.
#[tokio::test]
async fn values_come_back_exactly() {
    for database in both().await {
        let storage = &*database.storage;
        for (name, value) in [
            ("null", Value::Null),
            ("text", json!("ünï\u{0}code \"quoted\"")),
            ("numbers", json!([0.1, -0.0, 1e300, u64::MAX, i64::MIN])),
            ("order of keys", json!({"z": 1, "a": {"y": [], "b": {}}})),
        ] {
            storage
                .set_memory(entry("ann", None, name, value.clone()))
                .await
                .unwrap();
            assert_eq!(
                read(storage, "ann", None, name).await.map(|read| read.to_string()),
                Some(value.to_string()),
                "{}: {name}",
                database.kind
            );
        }
    }
}

/// Each agent, and each session, has its own keys; global memory has each key once.
#[tokio::test]
async fn keys_belong_to_an_agent_and_a_session() {
    for database in both().await {
        let (kind, storage) = (database.kind, &*database.storage);
        make_session(storage).await;
        for (value, agent, session) in [(1, "ann", None), (2, "ann", Some(SESSION)), (3, "bob", None)] {
            storage
                .set_memory(entry(agent, session, "k", json!(value)))
                .await
                .unwrap();
        }
        for (agent, session, expected) in [
            ("ann", None, Some(1)),
            ("ann", Some(SESSION), Some(2)),
            ("bob", None, Some(3)),
            ("bob", Some(SESSION), None),
        ] {
            assert_eq!(
                read(storage, agent, session, "k").await,
                expected.map(Value::from),
                "{kind}: {agent} {session:?}"
            );
        }
        join_all((0..8).map(|value| storage.set_memory(entry("ann", None, "k", json!(value))))).await;
        let keep = NewMemory {
            overwrite: false,
            ..entry("ann", None, "k", json!("new"))
        };
        assert!(
            matches!(storage.set_memory(keep).await, Err(StorageError::KeyExists)),
            "{kind}: a key must be kept"
        );
        let lost = storage
            .set_memory(entry("ann", Some("session_ffffffffffffffff"), "k", json!(1)))
            .await;
        assert!(matches!(lost, Err(StorageError::SessionNotFound)), "{kind}");
        // Fails if the global key is there more than once: its rows would become several of one key.
        let unique = "CREATE UNIQUE INDEX once ON agent_memory (agent_id, key) WHERE session_id IS NULL";
        database.execute(unique, unique).await;
    }
}

/// An expired entry is gone for everybody: for reading, for `overwrite: false`, and for the limits.
#[tokio::test]
async fn expired_entries_are_gone() {
    for database in both().await {
        let (kind, storage) = (database.kind, &*database.storage);
        let short = NewMemory {
            expires_in: Some(60),
            ..entry("ann", None, "k", json!("old"))
        };
        let stored = storage.set_memory(short).await.unwrap();
        let life = stored.expires_at.unwrap().duration_since(stored.updated_at).as_secs();
        assert_eq!(
            (life, read(storage, "ann", None, "k").await),
            (60, Some(json!("old"))),
            "{kind}"
        );
        database
            .execute(
                "UPDATE agent_memory SET expires_at = updated_at",
                "UPDATE agent_memory SET expires_at = updated_at",
            )
            .await;
        assert_eq!(read(storage, "ann", None, "k").await, None, "{kind}");
        let again = NewMemory {
            overwrite: false,
            ..entry("ann", None, "k", json!("new"))
        };
        storage
            .set_memory(again)
            .await
            .expect("an expired entry does not hold its key");
        let read = storage.get_memory("ann", None, "k").await.unwrap().unwrap();
        assert_eq!((read.value, read.expires_at), (json!("new"), None), "{kind}");
        assert_eq!(read.created_at, read.updated_at, "{kind}: it is a new entry");
    }
}

/// A list shows the caller's own live entries of the part that was asked for, the last set first, and nobody else's.
#[tokio::test]
async fn lists_show_ones_own_live_entries() {
    for database in both().await {
        let (kind, storage) = (database.kind, &*database.storage);
        make_session(storage).await;
        for (agent, session, key) in [
            ("ann", None, "a_1"),
            ("ann", None, "a%1"),
            ("ann", None, "gone"),
            ("ann", Some(SESSION), "a_1"),
            ("bob", None, "a_1"),
            ("ann", None, "Ä"),
        ] {
            storage
                .set_memory(entry(agent, session, key, json!("12")))
                .await
                .unwrap();
        }
        let gone = "UPDATE agent_memory SET expires_at = updated_at WHERE key = 'gone'";
        database.execute(gone, gone).await;
        let session = || MemoryScope::Session(SESSION.to_owned());
        for (name, scope, prefix, limit, expected) in [
            ("global", MemoryScope::Global, "", 50, &["Ä", "a%1", "a_1"][..]),
            ("the session's", session(), "", 50, &["a_1"]),
            ("all", MemoryScope::All, "", 50, &["Ä", "a_1", "a%1", "a_1"]),
            ("the newest", MemoryScope::All, "", 1, &["Ä"]),
            ("wildcards are plain text", MemoryScope::Global, "a%", 50, &["a%1"]),
            ("beyond ASCII", MemoryScope::Global, "Ä", 50, &["Ä"]),
            (
                "another session",
                MemoryScope::Session("session_ffffffffffffffff".to_owned()),
                "",
                50,
                &[],
            ),
        ] {
            let query = MemoryQuery {
                agent_id: "ann".to_owned(),
                scope,
                prefix: prefix.to_owned(),
                limit,
                value_bytes: 0,
            };
            let listed = storage.list_memory(query).await.unwrap();
            let keys: Vec<&str> = listed.iter().map(|entry| entry.key.as_str()).collect();
            assert_eq!(keys, expected, "{kind}: {name}");
            assert!(
                listed
                    .iter()
                    .all(|entry| entry.value_size == 4 && entry.value.is_none()),
                "{kind}: {name}"
            );
        }
        let query = MemoryQuery {
            agent_id: "ann".to_owned(),
            scope: MemoryScope::All,
            prefix: String::new(),
            limit: 50,
            value_bytes: 9,
        };
        let listed = storage.list_memory(query).await.unwrap();
        let values: Vec<bool> = listed.iter().map(|entry| entry.value == Some(json!("12"))).collect();
        assert_eq!(values, [true, true, false, false], "{kind}: as many values as fit");
    }
}

/// One agent must not fill the database: neither with entries nor with bytes, not even with many calls at once.
#[tokio::test]
async fn memory_is_limited_per_agent() {
    for database in both().await {
        let (kind, storage) = (database.kind, &*database.storage);
        database
            .execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 995) INSERT INTO agent_memory \
                 (agent_id, key, value, size_bytes, created_at, updated_at) SELECT 'ann', i, '1', 1, 0, 0 FROM n",
                "INSERT INTO agent_memory (agent_id, key, value, size_bytes) SELECT 'ann', i::text, '1', 1 FROM generate_series(1, 995) i",
            )
            .await;
        let additions =
            join_all((0..10).map(|index| storage.set_memory(entry("ann", None, &format!("new{index}"), json!(1)))))
                .await;
        let full = additions
            .iter()
            .filter(|result| matches!(result, Err(StorageError::MemoryFull { .. })))
            .count();
        assert_eq!(
            (full, additions.iter().filter(|result| result.is_ok()).count()),
            (5, 5),
            "{kind}: entries"
        );
        storage
            .set_memory(entry("ann", None, "1", json!(2)))
            .await
            .expect("an existing entry may be replaced");
        storage
            .set_memory(entry("bob", None, "1", json!(2)))
            .await
            .expect("another agent is not affected");
        let unlimited = NewMemory {
            has_quota: false,
            ..entry("ann", None, "more", json!(1))
        };
        storage.set_memory(unlimited).await.expect("no limit without a quota");

        let large = "UPDATE agent_memory SET size_bytes = 100 * 1024 * 1024 - 10 WHERE agent_id = 'bob'";
        database.execute(large, large).await;
        let refused = storage.set_memory(entry("bob", None, "k", json!("0123456789"))).await;
        assert!(matches!(refused, Err(StorageError::MemoryFull { .. })), "{kind}: bytes");
        storage
            .set_memory(entry("bob", None, "k", json!(1)))
            .await
            .expect("what fits is stored");
    }
}

/// Many replicas start at once on an empty database: each step of the schema must run once, and none may fail.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_may_migrate_at_the_same_time() {
    let url = SHARED.database().await;
    let target: DatabaseTarget = url.parse().unwrap();
    let steps = [shared_context::MIGRATIONS, sessions::MIGRATIONS].concat();
    let replicas = (0..8).map(|_| Database::open(&target, 1, &mut Registry::default()).unwrap());
    let replicas: Vec<Database> = replicas.collect();
    for round in ["on an empty database", "again"] {
        for result in join_all(replicas.iter().map(|replica| replica.migrate(&steps))).await {
            result.unwrap_or_else(|error| panic!("migrating {round}: {error}"));
        }
    }
    let applied = connect(&url)
        .await
        .query("SELECT name FROM schema_migrations", &[])
        .await
        .unwrap();
    assert_eq!(applied.len(), steps.len());
}
