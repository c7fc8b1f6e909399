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
        let rows = self
            .database
            .write(move |transaction| {
                let rows = transaction.prepare_cached(statement)?.execute(params![before, batch])?;
                Ok::<_, StorageError>(u64::try_from(rows).unwrap_or(u64::MAX))
            })
            .await?;
        // Once in a round, when all of it is removed.
        if rows == 0 && chore.is_last() {
            self.database.tidy().await?;
        }
        Ok(rows)
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

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use rusqlite::Transaction;

    use super::*;
    use crate::database::{Database, DatabaseError, DatabaseTarget};
    use crate::tools::shared_context::limits::Quotas;
    use crate::tools::shared_context::retention::{BATCH, RetentionSettings};
    use crate::tools::shared_context::storage::MIGRATIONS;

    const FILL: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) \
        INSERT INTO audit_log (at, agent_id, action, outcome) SELECT 0, hex(zeroblob(1000)), 'a', 'ok' FROM n";

    fn pages(transaction: &Transaction<'_>) -> Result<i64, DatabaseError> {
        Ok(transaction.query_row("PRAGMA page_count", [], |row| row.get(0))?)
    }

    /// What retention removes must make room for other files, too.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_round_of_cleaning_shrinks_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let target: DatabaseTarget = format!("sqlite:{}", folder.path().join("test.db").display())
            .parse()
            .unwrap();
        let opened = Database::open(&target, 1, &mut Registry::default()).unwrap();
        opened.migrate(MIGRATIONS).await.unwrap();
        let Database::Sqlite(database) = opened else {
            panic!("{target:?} is a file");
        };
        let fill = |transaction: &Transaction<'_>| Ok::<_, DatabaseError>(transaction.execute_batch(FILL)?);
        database.write(fill).await.unwrap();
        let before = database.read(pages).await.unwrap();
        let storage = SqliteStorage::new(database, Quotas::default());
        for chore in RetentionSettings::default().chores() {
            while storage.clean(chore, BATCH).await.unwrap() > 0 {}
        }
        let after = storage.database.read(pages).await.unwrap();
        assert!(after + 100 < before, "{before} pages before, {after} after");
    }
}
