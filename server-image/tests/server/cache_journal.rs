//! The journal of changes: whoever changes the data, by whatever way, it is noted. The promise of the cache rests on
//! it.

use mcp_server::cache::{self, memory_tag, session_tag};
use mcp_server::database::{Database, DatabaseTarget};
use mcp_server::tools::shared_context::{Agent, NewMemory, NewMessage, NewSession, Visibility};
use prometheus_client::registry::Registry;
use serde_json::json;

use crate::support::databases::{TestDatabase, both};
use crate::support::postgres;

const SESSION: &str = "session_0123456789abcdef";

async fn journal(database: &TestDatabase) -> Vec<String> {
    let sql = "SELECT tag FROM cache_journal";
    let mut tags: Vec<String> = if let Some(path) = database.url.strip_prefix("sqlite:") {
        let connection = rusqlite::Connection::open(path).unwrap();
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    } else {
        let rows = postgres::connect(&database.url).await.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    database
        .execute("DELETE FROM cache_journal", "DELETE FROM cache_journal")
        .await;
    tags.sort();
    tags.dedup();
    tags
}

async fn migrate(database: &TestDatabase) {
    let target: DatabaseTarget = database.url.parse().unwrap();
    let opened = Database::open(&target, 2, &mut Registry::default()).unwrap();
    opened.migrate(cache::MIGRATIONS).await.unwrap();
}

/// A change that is not noted would stay unseen until its value ends by itself.
#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_what_is_cached_is_noted() {
    for database in both().await {
        migrate(&database).await;
        let storage = &database.storage;
        let session = NewSession {
            id: SESSION.to_owned(),
            purpose: "p".to_owned(),
            created_by: "a".to_owned(),
            metadata: None,
        };
        storage.create_session(session, false).await.unwrap();
        let entry = |key: &str, session_id: Option<&str>| NewMemory {
            agent_id: "a".to_owned(),
            session_id: session_id.map(str::to_owned),
            key: key.to_owned(),
            value: json!(1),
            metadata: None,
            expires_in: None,
            overwrite: true,
            has_quota: true,
        };
        for (key, session_id) in [("k", None), ("k", Some(SESSION)), ("k\u{1f}2", None)] {
            storage.set_memory(entry(key, session_id)).await.unwrap();
        }
        assert_eq!(journal(&database).await, [""; 0], "{}: what is new", database.kind);
        let message = NewMessage {
            session_id: SESSION.to_owned(),
            sender: Agent::named("a".to_owned()),
            content: "c".to_owned(),
            visibility: Visibility::Public,
            metadata: None,
            parent_message_id: None,
        };
        storage.add_message(message).await.unwrap();
        assert_eq!(
            journal(&database).await,
            [session_tag(SESSION)],
            "{}: a message",
            database.kind
        );
        for (key, session_id) in [("k", None), ("k", Some(SESSION)), ("k\u{1f}2", None)] {
            storage.set_memory(entry(key, session_id)).await.unwrap();
            let expected = [memory_tag("a", session_id, key)];
            assert_eq!(
                journal(&database).await,
                expected,
                "{}: {key:?} set again",
                database.kind
            );
        }
        let in_session = memory_tag("a", Some(SESSION), "k");
        let (global, odd) = (memory_tag("a", None, "k"), memory_tag("a", None, "k\u{1f}2"));
        for (name, sql, expected) in [
            (
                "message changed",
                "UPDATE messages SET visibility = 'private'",
                vec![session_tag(SESSION)],
            ),
            ("message deleted", "DELETE FROM messages", vec![session_tag(SESSION)]),
            (
                "session closed",
                "UPDATE sessions SET is_active = NOT is_active",
                vec![session_tag(SESSION)],
            ),
            (
                "memory deleted",
                "DELETE FROM agent_memory WHERE session_id IS NULL",
                vec![global, odd],
            ),
            (
                "session deleted with its memory",
                "DELETE FROM sessions",
                vec![in_session, session_tag(SESSION)],
            ),
        ] {
            let sqlite = format!("PRAGMA foreign_keys = ON; {sql}");
            database.execute(&sqlite, sql).await;
            assert_eq!(journal(&database).await, expected, "{}: {name}", database.kind);
        }
    }
}
