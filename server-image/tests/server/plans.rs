//! No call scans a whole table in Postgres. Its own counters say so, of the statements that really run, with the plans
//! that it really makes of them; the same is tested for SQLite beside each statement.

use std::collections::BTreeMap;
use std::time::Duration;

use mcp_server::cache::{Cache, CacheSettings, session_tag};
use mcp_server::changes::Changes;
use mcp_server::database::{Database, DatabaseTarget, Migration};
use mcp_server::mcp::sessions::{self, SharedSessions};
use mcp_server::migrate;
use mcp_server::server::Fixtures;
use mcp_server::tools::shared_context::limits::Quotas;
use mcp_server::tools::shared_context::{
    self, Agent, BATCH, Cleaning, MemoryQuery, MemoryScope, MessageQuery, NewMemory, NewMessage, NewSession, NewToken,
    Permission, Place, Refusal, Storage, TokenHash, Visibility,
};
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio_postgres::Client;

use crate::support::client::Client as McpClient;
use crate::support::events::Events;
use crate::support::postgres::{SHARED, connect};
use crate::support::server::{TestServer, settings};
use crate::support::until;

/// After this often, Postgres makes one plan for all parameters, which may differ from the first ones.
const TIMES: u8 = 12;

/// Enough rows, and statistics of them, for the planner's choice to mean something.
const FILL: &str = "
    INSERT INTO sessions (id, purpose, created_by)
        SELECT 'session_' || lpad(to_hex(i), 16, '0'), 'p', 'agent' || i % 100 FROM generate_series(1, 5000) i;
    INSERT INTO messages (session_id, sender, content, visibility)
        SELECT 'session_' || lpad(to_hex(i % 500 + 1), 16, '0'), 'agent' || i % 100, 'm', 'public' FROM generate_series(1, 50000) i;
    INSERT INTO sessions (id, purpose, created_by, is_active, message_count, created_at, updated_at)
        SELECT 'old' || i, 'p', 'a', i % 2 = 0, CASE i WHEN 1 THEN 2000 ELSE 2 END, now() - interval '60 days' + i * interval '1 second',
               now() - interval '50 days' FROM generate_series(1, 15000) i;
    INSERT INTO messages (session_id, sender, content, visibility)
        SELECT 'old' || CASE WHEN i < 2000 THEN 1 ELSE i % 15000 + 1 END, 'a', 'm', 'public' FROM generate_series(1, 17000) i;
    INSERT INTO messages (session_id, sender, content, visibility, parent_message_id)
        SELECT session_id, 'a', 'm', 'public', id FROM messages WHERE sender = 'a' AND session_id <> 'old1';
    INSERT INTO agent_memory (agent_id, key, value, size_bytes, expires_at)
        SELECT 'agent' || i % 100, i, '1', 1, CASE WHEN i % 2 = 0 THEN now() + interval '1 day' END FROM generate_series(1, 20000) i;
    INSERT INTO secure_tokens (token_hash, agent_id, agent_type, permissions, is_proven, expires_at)
        SELECT sha256(i::text::bytea), 'a', 't', '[]', true, now() + interval '1 day' FROM generate_series(1, 20000) i;
    INSERT INTO audit_log (agent_id, action) SELECT 'a', 'a' FROM generate_series(1, 20000) i;
    ANALYZE;
";

/// The same for the tables of sessions of clients up to 2025-11-25.
const FILL_SESSIONS: &str = "
    INSERT INTO mcp_sessions (id, state) SELECT 'other' || i, '{}' FROM generate_series(1, 20000) i;
    INSERT INTO mcp_session_subscriptions (session_id, uri) SELECT id, 'test://other' FROM mcp_sessions;
    INSERT INTO mcp_stream_events (stream, position, session_id, is_last)
        SELECT 'other.' || i, 0, 'other' || i, false FROM generate_series(1, 20000) i;
    INSERT INTO mcp_letters (replica, letter) SELECT 'other' || i, '{}' FROM generate_series(1, 20000) i;
    ANALYZE;
";

/// The same for the journal of changes, as it is on a busy server: with the ten minutes for which changes are kept, and
/// half a minute more, until it is tidied. The statistics stay so: nobody analyzes the table again during the test.
const FILL_JOURNAL: &str = "
    ALTER TABLE cache_journal SET (autovacuum_enabled = off);
    INSERT INTO cache_journal (position, tag, at)
        SELECT i * pg_snapshot_xmin(pg_current_snapshot())::text::bigint / 50000, 'session:' || i,
               now() - (50000 - i) * interval '12.6 milliseconds'
        FROM generate_series(1, 50000) i;
    ANALYZE;
";

async fn open(target: &DatabaseTarget, migrations: &[Migration]) -> Database {
    let database = Database::open(target, 2, &mut Registry::default()).unwrap();
    database.migrate(migrations).await.unwrap();
    database
}

/// Waits until the server's connections are gone: only then are their counters complete.
async fn until_gone(database: &Client) {
    until("the connections are gone", async || {
        let others = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
                      AND backend_type = 'client backend'";
        database.query(others, &[]).await.unwrap().is_empty().then_some(())
    })
    .await;
}

async fn scans(database: &Client, tables: &[&str]) -> BTreeMap<String, i64> {
    database
        .batch_execute("SELECT pg_stat_force_next_flush()")
        .await
        .unwrap();
    let counted = "SELECT relname::text, seq_scan FROM pg_stat_user_tables WHERE relname::text = ANY($1)";
    let rows = database.query(counted, &[&tables]).await.unwrap();
    assert_eq!(rows.len(), tables.len(), "the tables are there");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn session_id(number: u8) -> String {
    format!("session_{number:016x}")
}

/// Everything that the storage can do, once.
async fn run_everything(storage: &dyn Storage, round: u8) {
    let agent = format!("agent{round}");
    let reader = Agent::named(&agent);
    let session = NewSession {
        id: format!("session_ffffffffffffff{round:02x}"),
        purpose: "p".to_owned(),
        created_by: agent.clone(),
        metadata: None,
    };
    // The agents have as many sessions as they may already: looking for that must not scan either.
    let _ = storage.create_session(session.clone(), true).await;
    storage.create_session(session, false).await.unwrap();
    let id = session_id(round + 1);
    storage.session_header(&id).await.unwrap().unwrap();
    storage.session_view(&id, &reader, 50).await.unwrap().unwrap();
    let message = NewMessage {
        session_id: id.clone(),
        sender: reader.clone(),
        content: "m".to_owned(),
        visibility: Visibility::Public,
        metadata: None,
        parent_message_id: None,
    };
    let parent = storage.add_message(message.clone()).await.unwrap().id;
    let reply = NewMessage {
        parent_message_id: Some(parent),
        ..message
    };
    storage.add_message(reply).await.unwrap();
    let query = MessageQuery {
        session_id: id.clone(),
        reader,
        visibility: None,
        limit: 50,
        offset: 0,
    };
    storage.get_messages(query).await.unwrap();
    for (session_id, has_quota) in [(None, true), (Some(&id), true), (None, false)] {
        let entry = NewMemory {
            agent_id: agent.clone(),
            session_id: session_id.cloned(),
            key: "k".to_owned(),
            value: json!(1),
            metadata: None,
            expires_in: Some(3600),
            overwrite: true,
            has_quota,
        };
        storage.set_memory(entry).await.unwrap();
        let read = storage.get_memory(&agent, session_id.map(String::as_str), "k").await;
        read.unwrap().unwrap();
    }
    for scope in [MemoryScope::Global, MemoryScope::Session(id), MemoryScope::All] {
        for value_bytes in [0, 1000] {
            let query = MemoryQuery {
                agent_id: agent.clone(),
                scope: scope.clone(),
                prefix: "k".to_owned(),
                limit: 50,
                value_bytes,
            };
            storage.list_memory(query).await.unwrap();
        }
    }
    let token = NewToken {
        agent_id: agent.clone(),
        agent_type: "claude".to_owned(),
        permissions: [Permission::Read].into(),
        is_proven: true,
        key_id: None,
    };
    let (old, new) = (TokenHash([round; 32]), TokenHash([round + 100; 32]));
    storage.issue_token(old, token, Duration::from_hours(1)).await.unwrap();
    storage.token_claims(old).await.unwrap().unwrap();
    storage
        .replace_token(old, new, Duration::from_hours(1))
        .await
        .unwrap()
        .unwrap();
    let refusal = Refusal {
        agent_id: Some(agent),
        claimed: None,
        action: "get_memory",
        code: "PERMISSION_DENIED",
    };
    storage.audit_refusals([(refusal, 3)].into()).await.unwrap();
    let month = Duration::from_hours(30 * 24);
    for chore in [
        Cleaning::ExpiredMemory,
        Cleaning::ExpiredTokens,
        Cleaning::InactiveSessions(month),
        Cleaning::ClosedSessions(month),
        Cleaning::AuditLog(month),
    ] {
        let cleaned = storage.clean(chore, &Place::default(), BATCH).await.unwrap();
        let is_of_sessions = matches!(chore, Cleaning::InactiveSessions(_) | Cleaning::ClosedSessions(_));
        assert_eq!(cleaned.rows > 0, is_of_sessions, "{chore:?}");
    }
}

/// A call that is fast with a few rows and slow with a million would only be found out in production.
#[tokio::test(flavor = "multi_thread")]
async fn no_call_scans_a_table() {
    let tables = ["sessions", "messages", "agent_memory", "secure_tokens", "audit_log"];
    let url = SHARED.database().await;
    let target: DatabaseTarget = url.parse().unwrap();
    drop(open(&target, shared_context::MIGRATIONS).await);
    let observer = connect(&url).await;
    observer.batch_execute(FILL).await.unwrap();
    until_gone(&observer).await;
    let before = scans(&observer, &tables).await;

    let database = open(&target, shared_context::MIGRATIONS).await;
    let storage = shared_context::open(&database, Quotas::default());
    for round in 0..TIMES {
        run_everything(&*storage, round).await;
    }
    drop((storage, database));
    until_gone(&observer).await;
    assert_eq!(scans(&observer, &tables).await, before, "scans by table");
}

/// Old sessions in use and closed ones that are kept, and much of what has ended.
const FILL_OLD: &str = "
    INSERT INTO sessions (id, purpose, created_by, is_active, created_at)
        SELECT 'session_' || i, 'p', 'a', i % 2 = 0, now() - interval '60 days' + i / 10 * interval '1 second'
        FROM generate_series(1, 40000) i;
    INSERT INTO agent_memory (agent_id, key, value, size_bytes, expires_at)
        SELECT 'a', i, '1', 1, now() - interval '1 day' FROM generate_series(1, 20000) i;
    INSERT INTO secure_tokens (token_hash, agent_id, agent_type, permissions, is_proven, expires_at)
        SELECT sha256(i::text::bytea), 'a', 't', '[]', true, now() - interval '1 day' FROM generate_series(1, 20000) i;
    INSERT INTO audit_log (agent_id, action, at) SELECT 'a', 'a', now() - interval '60 days' FROM generate_series(1, 20000) i;
    ANALYZE;
";

/// Rows that were looked at, by index or without one.
async fn looked_at(database: &Client, tables: &[&str]) -> i64 {
    database
        .batch_execute("SELECT pg_stat_force_next_flush()")
        .await
        .unwrap();
    let counted = "SELECT (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname::text = ANY($1))::bigint \
                   + (SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE relname::text = ANY($1))::bigint";
    database.query_one(counted, &[&tables]).await.unwrap().get(0)
}

/// Sessions that stay must not be looked at again and again for those that go, nor by a replica that only finds that
/// another one cleans up: with a million of them no step would end in time, and nothing would be removed any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_the_clean_up_looks_at_no_more_than_a_batch() {
    let tables = ["sessions", "agent_memory", "secure_tokens", "audit_log"];
    let url = SHARED.database().await;
    let target: DatabaseTarget = url.parse().unwrap();
    drop(open(&target, shared_context::MIGRATIONS).await);
    let observer = connect(&url).await;
    observer.batch_execute(FILL_OLD).await.unwrap();
    let month = Duration::from_hours(30 * 24);
    let sessions = [Cleaning::InactiveSessions(month), Cleaning::ClosedSessions(month)];
    let others = [
        Cleaning::ExpiredMemory,
        Cleaning::ExpiredTokens,
        Cleaning::AuditLog(month),
    ];

    // Postgres may look at the ends of an index to make a plan.
    let few = 100;
    let lock = 0x6d63_7063_6c65_616e_i64;
    observer.query("SELECT pg_advisory_lock($1)", &[&lock]).await.unwrap();
    until_gone(&observer).await;
    let before = looked_at(&observer, &tables).await;
    let database = open(&target, shared_context::MIGRATIONS).await;
    let storage = shared_context::open(&database, Quotas::default());
    for chore in sessions.into_iter().chain(others) {
        for _ in 0..TIMES {
            let cleaned = storage.clean(chore, &Place::default(), BATCH).await.unwrap();
            assert_eq!(
                (cleaned.rows, cleaned.next),
                (0, None),
                "{chore:?}: another one does it"
            );
        }
    }
    drop((storage, database));
    until_gone(&observer).await;
    let looked = looked_at(&observer, &tables).await - before;
    assert!(looked < few, "without the lock: {looked}");

    observer.query("SELECT pg_advisory_unlock($1)", &[&lock]).await.unwrap();
    let database = open(&target, shared_context::MIGRATIONS).await;
    let storage = shared_context::open(&database, Quotas::default());
    let mut steps = 0;
    for chore in sessions {
        let mut place = Some(Place::default());
        while let Some(from) = place {
            let cleaned = storage.clean(chore, &from, BATCH).await.unwrap();
            assert_eq!(cleaned.rows, 0, "{chore:?}: all are kept");
            place = cleaned.next;
            steps += 1;
        }
    }
    drop((storage, database));
    until_gone(&observer).await;
    assert_eq!(steps, 2 * (20_000 / BATCH + 1), "a batch in each step");
    let looked = looked_at(&observer, &tables).await - before;
    assert!(
        (40_000..40_000 + 2 * few).contains(&looked),
        "each is looked at once, in {steps} steps: {looked}"
    );
}

/// What a session of a client up to 2025-11-25 does, with its requests at two replicas.
async fn use_a_session(a: &McpClient, b: &McpClient) {
    let here = a.legacy_session().await;
    let there = here.at(b);
    let watched = json!({"uri": "test://watched-resource"});
    for (method, params) in [
        ("resources/subscribe", &watched),
        ("resources/unsubscribe", &watched),
        ("logging/setLevel", &json!({"level": "error"})),
    ] {
        let answer = there.request(method, params).send().await.unwrap();
        let answer = answer.text().await.unwrap();
        assert!(answer.contains("\"result\""), "{method}: {answer}");
    }
    let call = here.tool("test_simple_text", &json!({})).send().await.unwrap();
    let first = Events::of(call).next().await.unwrap();
    let rest = there.get().header("last-event-id", first.id.unwrap());
    let answer = Events::of(rest.send().await.unwrap()).message().await;
    assert!(answer["result"]["content"].is_array(), "{answer}");
    assert!(there.delete().await.status().is_success());
}

/// The same of sessions, and of what replicas tell each other about them: both grow with the number of clients.
#[tokio::test(flavor = "multi_thread")]
async fn no_session_scans_a_table() {
    let tables = [
        "mcp_sessions",
        "mcp_session_subscriptions",
        "mcp_stream_events",
        "mcp_letters",
    ];
    let url = SHARED.database().await;
    let target: DatabaseTarget = url.parse().unwrap();
    drop(open(&target, sessions::MIGRATIONS).await);
    let observer = connect(&url).await;
    observer.batch_execute(FILL_SESSIONS).await.unwrap();
    until_gone(&observer).await;
    let before = scans(&observer, &tables).await;

    let mut settings = settings(&url);
    settings.operation.fixtures = Fixtures::Conformance;
    let stay = settings.data.sessions;
    let (a, b) = tokio::join!(TestServer::start(settings.clone()), TestServer::start(settings));
    let database = open(&target, sessions::MIGRATIONS).await;
    let tidying = SharedSessions::new(&database, Changes::alone(), stay);
    for _ in 0..TIMES {
        use_a_session(&a.client, &b.client).await;
        tidying.tidy().await.unwrap();
    }
    drop((tidying, database));
    for server in [a.server, b.server] {
        server.drain();
        server.finished().await;
    }
    until_gone(&observer).await;
    assert_eq!(scans(&observer, &tables).await, before, "scans by table");
}

/// The same of the journal of changes: a replica looks there before it answers from its cache, many times a second.
#[tokio::test(flavor = "multi_thread")]
async fn no_look_at_the_journal_scans_it() {
    let tables = ["cache_journal"];
    let url = SHARED.database().await;
    let (target, steps): (DatabaseTarget, _) = (url.parse().unwrap(), migrate::steps());
    drop(open(&target, &steps).await);
    let observer = connect(&url).await;
    observer.batch_execute(FILL_JOURNAL).await.unwrap();
    until_gone(&observer).await;
    let before = scans(&observer, &tables).await;

    let database = open(&target, &steps).await;
    let each_read_looks = CacheSettings {
        staleness: Duration::ZERO,
        ..CacheSettings::default()
    };
    let cache = Cache::open(each_read_looks, database.clone(), None, &mut Registry::default()).unwrap();
    let storage = shared_context::cached(shared_context::open(&database, Quotas::default()), cache.clone());
    for round in 0..TIMES {
        let id = session_id(round);
        assert!(storage.session_header(&id).await.unwrap().is_none());
        cache.invalidate(vec![session_tag(&id)]).await.unwrap();
        cache.tidy_journal().await.unwrap();
    }
    drop((storage, cache, database));
    until_gone(&observer).await;
    assert_eq!(scans(&observer, &tables).await, before, "scans by table");
    let used = "SELECT idx_scan, (SELECT forgotten FROM cache_journal_state) FROM pg_stat_user_tables \
                WHERE relname = 'cache_journal'";
    let used = observer.query_one(used, &[]).await.unwrap();
    let (looks, forgotten): (i64, i64) = (used.get(0), used.get(1));
    assert!(
        looks > i64::from(TIMES) && forgotten > 0,
        "it was read and tidied: {looks}, {forgotten}"
    );
}
