//! Indexes built and dropped while others read and write, by however many replicas start at once.
//!
//! `CREATE INDEX CONCURRENTLY` cannot run in a transaction, so no advisory lock of a transaction can keep replicas
//! apart, and one of a session would not survive a pooler in transaction mode. The catalog decides instead: one replica
//! gets to create the index, the others see it there, not valid yet and being built, and wait. What a replica left half
//! built when it was killed is not being built by anybody: it is dropped and built again. Where an index is of no use any
//! more, replicas need not be kept apart: Postgres lets one of them drop it, and the others find it gone.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::error::SqlState;

use super::{DatabaseError, Migration, PostgresConnection, PostgresDatabase};
use crate::database::Online;

/// Pause between two looks at an index that another replica builds.
const LOOK: Duration = Duration::from_millis(200);
/// Looks in a row without anybody building before an index counts as abandoned: a builder shows up in the list of those
/// at work only some moments after its index.
const ABANDONED: u32 = 5;

/// State of an index.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Missing,
    Valid,
    Building,
    Unfinished,
}

impl PostgresDatabase {
    /// Builds and drops the indexes of those `migrations` that are done online, in order, and records them, however long
    /// that takes. Only who builds or drops keeps a connection meanwhile; who waits for another replica to build takes
    /// one for each look.
    pub(in crate::database) async fn build_online(&self, migrations: &[Migration]) -> Result<(), DatabaseError> {
        for (place, migration) in migrations.iter().enumerate() {
            let Some(online) = migration.online() else {
                continue;
            };
            let known = "SELECT FROM schema_migrations WHERE name = $1";
            let known = self
                .untimed_connection()
                .await?
                .query(known, &[&migration.name])
                .await?;
            if !known.is_empty() {
                continue;
            }
            match online {
                // Another replica may have built and dropped it a moment ago: nothing would drop it a second time.
                Online::Build(index) if is_dropped(index, &migrations[place..]) => {}
                Online::Build(index) => self.until_valid(index, migration.postgres).await?,
                Online::Drop(index) => self.until_gone(index, migration.postgres).await?,
            }
            let record = "INSERT INTO schema_migrations (name) VALUES ($1) ON CONFLICT DO NOTHING";
            self.untimed_connection()
                .await?
                .query(record, &[&migration.name])
                .await?;
        }
        Ok(())
    }

    async fn until_valid(&self, index: &str, create: &str) -> Result<(), DatabaseError> {
        let mut unfinished = 0;
        loop {
            let connection = self.untimed_connection().await?;
            match state(&connection, index).await? {
                State::Valid => return Ok(()),
                State::Building => unfinished = 0,
                State::Unfinished if unfinished < ABANDONED => unfinished += 1,
                State::Missing => {
                    tracing::info!(index, "building an index; reading and writing go on");
                    ignore_races(connection.run_long(create).await)?;
                    continue;
                }
                State::Unfinished => {
                    tracing::warn!(index, "an index was left half built: building it again");
                    let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {index}");
                    ignore_races(connection.run_long(&drop).await)?;
                    continue;
                }
            }
            drop(connection);
            sleep(LOOK).await;
        }
    }

    async fn until_gone(&self, index: &str, drop: &str) -> Result<(), DatabaseError> {
        loop {
            let connection = self.untimed_connection().await?;
            if state(&connection, index).await? == State::Missing {
                return Ok(());
            }
            ignore_races(connection.run_long(drop).await)?;
        }
    }
}

/// Whether one of `later` steps drops the index.
fn is_dropped(index: &'static str, later: &[Migration]) -> bool {
    later.iter().any(|step| step.online() == Some(Online::Drop(index)))
}

async fn state(connection: &PostgresConnection, index: &str) -> Result<State, DatabaseError> {
    let look = "SELECT i.indisvalid, \
                  EXISTS (SELECT FROM pg_stat_progress_create_index AS work WHERE work.relid = i.indrelid) \
                FROM pg_index AS i WHERE i.indexrelid = to_regclass($1::text)";
    let Some(row) = connection.query_opt(look, &[&index]).await? else {
        return Ok(State::Missing);
    };
    Ok(match (row.try_get(0)?, row.try_get(1)?) {
        (true, _) => State::Valid,
        (false, true) => State::Building,
        (false, false) => State::Unfinished,
    })
}

impl PostgresConnection {
    /// Runs a statement that may take longer than others and be in no transaction, which could limit to it what it
    /// needs. If that is given up, the connection is closed, and the database goes on with the statement for whoever
    /// looks next.
    async fn run_long(&self, statement: &str) -> Result<(), DatabaseError> {
        let client = self.borrowed.client()?;
        self.is_unfit.store(true, Ordering::Relaxed);
        // A pooler hands on no limit of ours, and what is set here would stay with a connection that others use.
        let is_limited = self.statements.canceller().is_none();
        if is_limited {
            client.batch_execute("SET statement_timeout = 0").await?;
        }
        let done = client.batch_execute(statement).await.map_err(DatabaseError::from);
        if is_limited {
            client.batch_execute("RESET statement_timeout").await?;
        }
        let is_read_only = done.as_ref().is_err_and(DatabaseError::is_read_only);
        self.is_unfit.store(is_read_only, Ordering::Relaxed);
        done
    }
}

/// What replicas do to each other when they begin in the same moment is no failure: the next look shows what came of
/// it.
fn ignore_races(result: Result<(), DatabaseError>) -> Result<(), DatabaseError> {
    let harmless = [
        SqlState::DUPLICATE_TABLE,
        SqlState::UNIQUE_VIOLATION,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::UNDEFINED_OBJECT,
        SqlState::UNDEFINED_TABLE,
    ];
    match result {
        Err(DatabaseError::Postgres(error)) if error.code().is_some_and(|code| harmless.contains(code)) => Ok(()),
        other => other,
    }
}
