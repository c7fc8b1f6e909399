//! The steps of the schema that run in a transaction; those that do not are in [`super::online`].

use super::PostgresConnection;
use crate::database::{DatabaseError, Migration};

/// Key of the advisory lock that lets one replica migrate at a time; any constant that nobody else uses.
const MIGRATION_LOCK: i64 = 0x6d63_7073_6361_6c65;

impl PostgresConnection {
    /// Applies those `migrations` that are not built online, in one transaction; one replica at a time.
    pub(super) async fn migrate(&mut self, migrations: &[Migration]) -> Result<(), DatabaseError> {
        let transaction = self.borrowed.client_mut()?.transaction().await?;
        // Waiting for the lock while another replica migrates may take longer than a statement is allowed to.
        transaction.batch_execute("SET LOCAL statement_timeout = 0").await?;
        let lock = "SELECT pg_advisory_xact_lock($1)";
        self.statements.query(&transaction, lock, &[&MIGRATION_LOCK]).await?;
        transaction
            .batch_execute(
                "CREATE TABLE IF NOT EXISTS schema_migrations \
                 (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())",
            )
            .await?;
        for migration in migrations.iter().filter(|step| step.online_index().is_none()) {
            let new = "INSERT INTO schema_migrations (name) VALUES ($1) ON CONFLICT DO NOTHING RETURNING name";
            let new = self.statements.query(&transaction, new, &[&migration.name]).await?;
            if !new.is_empty() {
                transaction.batch_execute(migration.postgres).await?;
            }
        }
        Ok(transaction.commit().await?)
    }
}
