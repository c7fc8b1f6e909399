//! The steps of the schema that run in a transaction; those that do not are in [`super::online`].
//!
//! A step that changes a table needs it for itself, and while it waits for that, everybody who comes later waits behind
//! it, readers included. So it waits for a moment only; then all that was locked is let go, others pass, and it is
//! tried again. The replica stays the one that migrates meanwhile: if each took its turn, somebody would wait for the
//! table all the time, and others would hardly get to it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use deadpool_postgres::Transaction;
use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;

use super::PostgresConnection;
use super::statements::Statements;
use crate::database::{DatabaseError, Migration};

/// Key of the advisory lock that lets one replica migrate at a time; any constant that nobody else uses.
const MIGRATION_LOCK: i64 = 0x6d63_7073_6361_6c65;
/// Longest time for all of it, the wait for other replicas that migrate at the same time included.
const MIGRATION: Duration = Duration::from_mins(1);
/// Longest wait for a table that others use, and so the longest that anybody waits behind it.
const TABLE: Duration = Duration::from_secs(2);
/// Pause before the next attempt, for those who have waited. Shorter than a transaction may be idle.
const PAUSE: Duration = Duration::from_secs(3);
/// No attempt begins later than this after the start.
const PATIENCE: Duration = Duration::from_secs(45);

/// Transactions that have locks on tables, the oldest first. What a session does is hidden from ordinary users for the
/// sessions of others, their locks are not. Lower numbers are those of the system's own tables.
const HOLDERS: &str = "
SELECT format('process %s of %s, user %s, in a transaction for %s', a.pid,
    coalesce(nullif(a.application_name, ''), 'a program without a name'), a.usename,
    coalesce(date_trunc('second', clock_timestamp() - a.xact_start)::text, 'an unknown time'))
FROM pg_stat_activity AS a
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
    AND EXISTS (SELECT FROM pg_locks AS l WHERE l.pid = a.pid AND l.granted AND l.locktype = 'relation'
        AND l.database = a.datid AND l.relation >= 16384)
ORDER BY a.xact_start LIMIT 3";

impl PostgresConnection {
    /// Applies those `migrations` that are not built online, in one transaction; one replica at a time. If that is
    /// given up before it ends, the connection is closed instead of given back.
    pub(super) async fn migrate(&mut self, migrations: &[Migration]) -> Result<(), DatabaseError> {
        self.is_migrating = true;
        let Ok(applied) = timeout(MIGRATION, self.apply(migrations)).await else {
            return Err(DatabaseError::NoAnswer(MIGRATION));
        };
        self.is_migrating = false;
        if applied.as_ref().is_err_and(DatabaseError::is_read_only) {
            self.is_unfit.store(true, Ordering::Relaxed);
        }
        applied
    }

    async fn apply(&mut self, migrations: &[Migration]) -> Result<(), DatabaseError> {
        let started = Instant::now();
        let transaction = self.borrowed.client_mut()?.transaction().await?;
        // Waiting while another replica migrates may take longer than a statement, or any other lock, is allowed to.
        transaction
            .batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
            .await?;
        let lock = "SELECT pg_advisory_xact_lock($1)";
        self.statements.query(&transaction, lock, &[&MIGRATION_LOCK]).await?;
        transaction
            .batch_execute(
                "CREATE TABLE IF NOT EXISTS schema_migrations \
                 (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())",
            )
            .await?;
        let attempts = format!("SET LOCAL lock_timeout = {}; SAVEPOINT attempt", TABLE.as_millis());
        transaction.batch_execute(&attempts).await?;
        while let Err(error) = run(&transaction, &self.statements, migrations).await {
            if !is_kept_out(&error) {
                return Err(error.into());
            }
            // What the server says about others would stand still within a transaction.
            transaction
                .batch_execute("ROLLBACK TO SAVEPOINT attempt; SELECT pg_stat_clear_snapshot()")
                .await?;
            let holders = holders(&transaction, &self.statements).await?;
            if started.elapsed() + PAUSE > PATIENCE {
                let waited = Duration::from_secs(started.elapsed().as_secs());
                return Err(DatabaseError::Locked { waited, holders });
            }
            tracing::warn!(%holders, retry_in = ?PAUSE, "tables that a step of the schema changes are in use");
            sleep(PAUSE).await;
        }
        Ok(transaction.commit().await?)
    }
}

async fn run(
    transaction: &Transaction<'_>,
    statements: &Statements,
    migrations: &[Migration],
) -> Result<(), tokio_postgres::Error> {
    for migration in migrations.iter().filter(|step| step.online().is_none()) {
        let new = "INSERT INTO schema_migrations (name) VALUES ($1) ON CONFLICT DO NOTHING RETURNING name";
        let new = statements.query(transaction, new, &[&migration.name]).await?;
        if !new.is_empty() {
            transaction.batch_execute(migration.postgres).await?;
        }
    }
    Ok(())
}

/// Whether a table was in use for too long, or its users waited in turn for what the steps had locked already.
fn is_kept_out(error: &tokio_postgres::Error) -> bool {
    let waits = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED];
    error.code().is_some_and(|code| waits.contains(code))
}

async fn holders(transaction: &Transaction<'_>, statements: &Statements) -> Result<String, DatabaseError> {
    let rows = statements.query(transaction, HOLDERS, &[]).await?;
    let holders: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    Ok(if holders.is_empty() {
        "nobody any more".to_owned()
    } else {
        holders.join("; ")
    })
}
