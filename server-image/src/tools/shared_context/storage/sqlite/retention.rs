//! Removal of what has ended, in a SQLite file, which one process owns.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::params;

use super::{SqliteStorage, micros, now};
use crate::tools::shared_context::retention::Cleaning;
use crate::tools::shared_context::storage::{Retention, StorageError};

#[async_trait]
impl Retention for SqliteStorage {
    async fn clean(&self, chore: Cleaning, batch: i64) -> Result<u64, StorageError> {
        let (age, statement) = work(chore);
        let before = now().saturating_sub(micros(age));
        self.database
            .write(move |transaction| {
                let rows = transaction.prepare_cached(statement)?.execute(params![before, batch])?;
                Ok(u64::try_from(rows).unwrap_or(u64::MAX))
            })
            .await
    }
}

/// The age that a chore is about, and what it does with what ended before `?1`, `?2` rows at most. The creation of a
/// session narrows down what must be looked at: it has an index.
pub(super) const fn work(chore: Cleaning) -> (Duration, &'static str) {
    match chore {
        Cleaning::ExpiredMemory => (
            Duration::ZERO,
            "DELETE FROM agent_memory WHERE rowid IN (SELECT rowid FROM agent_memory WHERE expires_at < ?1 LIMIT ?2)",
        ),
        Cleaning::ExpiredTokens => (
            Duration::ZERO,
            "DELETE FROM secure_tokens WHERE rowid IN (SELECT rowid FROM secure_tokens WHERE expires_at < ?1 LIMIT ?2)",
        ),
        Cleaning::InactiveSessions(age) => (
            age,
            "UPDATE sessions SET is_active = 0 WHERE rowid IN \
             (SELECT rowid FROM sessions WHERE is_active AND created_at < ?1 AND updated_at < ?1 LIMIT ?2)",
        ),
        Cleaning::MessagesOfClosedSessions(age) => (
            age,
            "DELETE FROM messages WHERE id IN (SELECT id FROM messages WHERE session_id = \
               (SELECT id FROM sessions WHERE NOT is_active AND created_at < ?1 AND updated_at < ?1 \
                AND EXISTS (SELECT 1 FROM messages WHERE session_id = sessions.id) LIMIT 1) \
             ORDER BY id DESC LIMIT ?2)",
        ),
        Cleaning::ClosedSessions(age) => (
            age,
            "DELETE FROM sessions WHERE rowid IN (SELECT rowid FROM sessions WHERE NOT is_active AND created_at < ?1 \
             AND updated_at < ?1 AND NOT EXISTS (SELECT 1 FROM messages WHERE session_id = sessions.id) LIMIT ?2)",
        ),
        Cleaning::AuditLog(age) => (
            age,
            "DELETE FROM audit_log WHERE id IN (SELECT id FROM audit_log WHERE at < ?1 LIMIT ?2)",
        ),
    }
}
