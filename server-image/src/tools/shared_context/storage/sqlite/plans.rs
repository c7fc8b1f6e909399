//! No statement scans a whole table: shown by SQLite's own plans of the statements that really run.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::trace::{TraceEvent, TraceEventCodes};
use serde_json::json;

use super::{memory, messages, retention, sessions, tokens};
use crate::lock;
use crate::tools::shared_context::limits::Quotas;
use crate::tools::shared_context::model::{
    Agent, MemoryQuery, MemoryScope, NewMemory, NewMessage, NewSession, NewToken, TokenHash, Visibility,
};
use crate::tools::shared_context::permission::Permission;
use crate::tools::shared_context::retention::{Cleaning, Place};
use crate::tools::shared_context::storage::{MIGRATIONS, MessageQuery};

const SESSION: &str = "session_0123456789abcdef";

/// Tables that grow with use.
const TABLES: [&str; 5] = ["sessions", "messages", "agent_memory", "secure_tokens", "audit_log"];

/// Enough rows, and statistics of them, for the planner's choice to mean something.
const FILL: &str = "
    CREATE TEMP TABLE n AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) SELECT i FROM n;
    INSERT INTO sessions (id, purpose, created_by, created_at, updated_at)
        SELECT 's' || i, 'p', 'agent' || (i % 50), i, i FROM n;
    INSERT INTO messages (session_id, sender, content, visibility, created_at)
        SELECT 's' || (i % 100 + 1), 'agent' || (i % 50), 'm', 'public', i FROM n;
    UPDATE sessions SET message_count = 50 WHERE rowid <= 100;
    INSERT INTO agent_memory (agent_id, key, value, size_bytes, created_at, updated_at, expires_at)
        SELECT 'agent' || (i % 50), i, '1', 1, i, i, iif(i % 2, i, NULL) FROM n;
    INSERT INTO secure_tokens SELECT randomblob(32), 'a', 't', '[]', 1, i, i, NULL FROM n;
    INSERT INTO audit_log (at, agent_id, action, outcome) SELECT i, 'a', 'a', 'ok' FROM n;
    ANALYZE;
";

fn message(parent_message_id: Option<i64>) -> NewMessage {
    NewMessage {
        session_id: SESSION.to_owned(),
        sender: Agent::named("ann"),
        content: "m".to_owned(),
        visibility: Visibility::Public,
        metadata: None,
        parent_message_id,
    }
}

fn entry(session_id: Option<&str>) -> NewMemory {
    NewMemory {
        agent_id: "ann".to_owned(),
        session_id: session_id.map(str::to_owned),
        key: "k".to_owned(),
        value: json!(1),
        metadata: None,
        expires_in: Some(60),
        overwrite: true,
        has_quota: true,
    }
}

/// Runs everything that the storage can do.
fn run_everything(connection: &Connection) {
    let session = NewSession {
        id: SESSION.to_owned(),
        purpose: "p".to_owned(),
        created_by: "ann".to_owned(),
        metadata: None,
    };
    let ann = Agent::named("ann");
    let quotas = Quotas::default();
    sessions::create_session(connection, session, Some(quotas)).unwrap();
    sessions::session_header(connection, SESSION).unwrap().unwrap();
    let parent = messages::add_message(connection, &message(None), quotas).unwrap().id;
    messages::add_message(connection, &message(Some(parent)), quotas).unwrap();
    sessions::session_view(connection, SESSION, &ann, 50).unwrap().unwrap();
    let query = MessageQuery {
        session_id: SESSION.to_owned(),
        reader: ann,
        visibility: Some(Visibility::Public),
        limit: 50,
        offset: 0,
    };
    messages::get_messages(connection, &query).unwrap();
    for session_id in [None, Some(SESSION)] {
        memory::set_memory(connection, &entry(session_id), quotas).unwrap();
        memory::get_memory(connection, "ann", session_id, "k").unwrap().unwrap();
    }
    for scope in [
        MemoryScope::Global,
        MemoryScope::Session(SESSION.to_owned()),
        MemoryScope::All,
    ] {
        for value_bytes in [0, 1000] {
            let query = MemoryQuery {
                agent_id: "ann".to_owned(),
                scope: scope.clone(),
                prefix: "k".to_owned(),
                limit: 50,
                value_bytes,
            };
            memory::list_memory(connection, &query).unwrap();
        }
    }
    let token = NewToken {
        agent_id: "ann".to_owned(),
        agent_type: "claude".to_owned(),
        permissions: [Permission::Read].into(),
        is_proven: true,
        key_id: None,
    };
    let hash = TokenHash([7; 32]);
    tokens::insert(connection, hash, token, Duration::from_mins(1), "authenticate_agent").unwrap();
    tokens::only_claims(connection, &tokens::select(), hash)
        .unwrap()
        .unwrap();
    tokens::only_claims(connection, &tokens::end(), hash).unwrap().unwrap();
    let age = Duration::from_secs(1);
    // A session has 50 messages: the last batch takes it whole, the one before only some of them.
    for (chore, batch) in [
        (Cleaning::ExpiredMemory, 10),
        (Cleaning::ExpiredTokens, 10),
        (Cleaning::InactiveSessions(age), 10),
        (Cleaning::ClosedSessions(age), 10),
        (Cleaning::ClosedSessions(age), 100),
        (Cleaning::AuditLog(age), 10),
    ] {
        let cleaned = retention::clean(connection, chore, Place::default(), batch).unwrap();
        assert!(cleaned.rows > 0, "{chore:?}");
    }
}

/// A step that looked at all sessions that stay, to find those that go, would keep writers waiting, and take the longer
/// the more of them there are.
#[test]
fn a_step_of_the_clean_up_goes_on_where_the_last_one_ended() {
    let connection = Connection::open_in_memory().unwrap();
    for migration in MIGRATIONS {
        connection.execute_batch(migration.sqlite).unwrap();
    }
    for statistics in ["", FILL] {
        connection.execute_batch(statistics).unwrap();
        for (look, index) in [
            (retention::ACTIVE, "sessions_active_by_age"),
            (retention::CLOSED, "sessions_closed_by_age"),
        ] {
            let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {look}")).unwrap();
            let mut rows = plan.raw_query();
            let mut steps = Vec::new();
            while let Some(row) = rows.next().unwrap() {
                steps.push(row.get::<_, String>(3).unwrap());
            }
            let seek = format!("SEARCH sessions USING INDEX {index} ((created_at,id)>(?,?) AND created_at<?)");
            assert_eq!(steps, [seek], "nothing is sorted, or passed again");
        }
    }
}

/// A call that is fast with a few rows and slow with a million would only be found out in production.
#[test]
fn no_statement_scans_a_table() {
    let mut connection = Connection::open_in_memory().unwrap();
    for migration in MIGRATIONS {
        connection.execute_batch(migration.sqlite).unwrap();
    }
    connection.execute_batch(FILL).unwrap();
    let seen: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let record = Arc::clone(&seen);
    let trace = move |event: TraceEvent<'_>| {
        if let TraceEvent::Stmt(_, sql) = event {
            lock(&record).insert(sql.to_owned());
        }
    };
    connection
        .trace_v2(TraceEventCodes::SQLITE_TRACE_STMT, Some(trace))
        .unwrap();
    run_everything(&connection);
    connection
        .trace_v2(TraceEventCodes::empty(), None::<fn(TraceEvent<'_>)>)
        .unwrap();

    let seen = lock(&seen).clone();
    let statements: Vec<&String> = seen.iter().filter(|sql| !sql.starts_with("--")).collect();
    assert!(statements.len() > 25, "{statements:#?}");
    for sql in statements {
        let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let mut rows = plan.raw_query();
        while let Some(row) = rows.next().unwrap() {
            let step: String = row.get(3).unwrap();
            let scans = TABLES.iter().any(|table| {
                step.strip_prefix("SCAN ")
                    .is_some_and(|rest| rest.split(' ').next() == Some(*table))
            });
            assert!(!scans, "{step}: {sql}");
        }
    }
}
