//! Removal of what has ended, in Postgres.

use std::time::Duration;

use async_trait::async_trait;

use super::PostgresStorage;
use crate::tools::shared_context::retention::Cleaning;
use crate::tools::shared_context::storage::{Retention, StorageError};

/// Key of the advisory lock that lets one replica clean up at a time; any constant that nobody else uses. It lasts for
/// one transaction, so that a pooler in transaction mode is no problem.
const LOCK: i64 = 0x6d63_7063_6c65_616e;

/// Sessions unused for `$3` seconds. The creation narrows down what must be looked at: it has an index.
const UNUSED: &str =
    "created_at < now() - make_interval(secs => $3) AND updated_at < now() - make_interval(secs => $3)";

/// A message of a session, if it has one. The limit keeps Postgres from joining all messages to answer this.
const ANY_MESSAGE: &str = "(SELECT messages.id FROM messages WHERE session_id = sessions.id LIMIT 1)";

#[async_trait]
impl Retention for PostgresStorage {
    async fn clean(&self, chore: Cleaning, batch: i64) -> Result<u64, StorageError> {
        let (age, work) = work(chore);
        let statement = format!(
            "WITH mine AS MATERIALIZED (SELECT pg_try_advisory_xact_lock($1) AS ok), \
             done AS ({work}) \
             SELECT count(*) FROM done WHERE $2::bigint IS NOT NULL AND $3::float8 IS NOT NULL"
        );
        let connection = self.database.connection().await?;
        let row = connection
            .query_one(&statement, &[&LOCK, &batch, &age.as_secs_f64()])
            .await?;
        let rows: i64 = row.try_get(0)?;
        Ok(rows.unsigned_abs())
    }
}

/// The age that a chore is about, and what it does where this replica has the lock (`mine.ok`), `$2` rows at most. The
/// order is that of an index, which makes sure that it is used, whatever Postgres takes the number of rows to be.
fn work(chore: Cleaning) -> (Duration, String) {
    match chore {
        Cleaning::ExpiredMemory => (
            Duration::ZERO,
            "DELETE FROM agent_memory WHERE ctid = ANY (ARRAY( \
               SELECT memory.ctid FROM agent_memory AS memory, mine WHERE ok AND expires_at < now() ORDER BY expires_at LIMIT $2)) \
             AND expires_at < now() RETURNING 1"
                .to_owned(),
        ),
        Cleaning::ExpiredTokens => (
            Duration::ZERO,
            "DELETE FROM secure_tokens WHERE token_hash = ANY (ARRAY( \
               SELECT token_hash FROM secure_tokens, mine WHERE ok AND expires_at < now() ORDER BY expires_at LIMIT $2)) RETURNING 1"
                .to_owned(),
        ),
        Cleaning::InactiveSessions(age) => (
            age,
            format!(
                "UPDATE sessions SET is_active = false WHERE id = ANY (ARRAY( \
                   SELECT id FROM sessions, mine WHERE ok AND is_active AND {UNUSED} ORDER BY created_at LIMIT $2)) \
                 AND is_active AND {UNUSED} RETURNING 1"
            ),
        ),
        Cleaning::MessagesOfClosedSessions(age) => (
            age,
            format!(
                "DELETE FROM messages WHERE id = ANY (ARRAY( \
                   SELECT newest.id FROM mine, \
                     (SELECT id FROM sessions WHERE NOT is_active AND {UNUSED} AND {ANY_MESSAGE} IS NOT NULL \
                      ORDER BY created_at LIMIT 1) AS session, \
                     LATERAL (SELECT id FROM messages WHERE session_id = session.id ORDER BY id DESC LIMIT $2) AS newest \
                   WHERE ok)) RETURNING 1"
            ),
        ),
        Cleaning::ClosedSessions(age) => (
            age,
            format!(
                "DELETE FROM sessions WHERE id = ANY (ARRAY( \
                   SELECT id FROM sessions, mine WHERE ok AND NOT is_active AND {UNUSED} AND {ANY_MESSAGE} IS NULL \
                   ORDER BY created_at LIMIT $2)) \
                 AND NOT is_active AND {UNUSED} RETURNING 1"
            ),
        ),
        Cleaning::AuditLog(age) => (
            age,
            "DELETE FROM audit_log WHERE id = ANY (ARRAY( \
               SELECT id FROM audit_log, mine WHERE ok AND at < now() - make_interval(secs => $3) \
             ORDER BY at LIMIT $2)) RETURNING 1"
                .to_owned(),
        ),
    }
}
