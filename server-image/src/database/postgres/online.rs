//! Indexes built while others read and write, by however many replicas start at once.
//!
//! `CREATE INDEX CONCURRENTLY` cannot run in a transaction, so no advisory lock of a transaction can keep replicas
//! apart, and one of a session would not survive a pooler in transaction mode. The catalog decides instead: one replica
//! gets to create the index, the others see it there, not valid yet and being built, and wait. What a replica left half
//! built when it was killed is not being built by anybody: it is dropped and built again.

use std::time::Duration;

use deadpool_postgres::Client;
use tokio::time::sleep;
use tokio_postgres::error::SqlState;

use super::statements::Statements;
use super::{DatabaseError, Migration, PostgresConnection};

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

impl PostgresConnection {
    /// Builds the indexes of those `migrations` that are built online, and records them.
    pub(super) async fn build_online(&self, migrations: &[Migration]) -> Result<(), DatabaseError> {
        let client = self.borrowed.client()?;
        let statements = &self.statements;
        for migration in migrations {
            let Some(index) = migration.online_index() else {
                continue;
            };
            let known = "SELECT FROM schema_migrations WHERE name = $1";
            if !statements.query(client, known, &[&migration.name]).await?.is_empty() {
                continue;
            }
            self.build(client, index, migration.postgres).await?;
            let record = "INSERT INTO schema_migrations (name) VALUES ($1) ON CONFLICT DO NOTHING";
            statements.query(client, record, &[&migration.name]).await?;
        }
        Ok(())
    }

    async fn build(&self, client: &Client, index: &str, create: &str) -> Result<(), DatabaseError> {
        if self.statements.canceller().is_some() {
            // A pooler hands on no limit of ours, and what is set here would stay with a connection that others use.
            return until_valid(client, &self.statements, index, create).await;
        }
        // Building may take longer than a statement is allowed to, and no transaction is there to limit this to.
        client.batch_execute("SET statement_timeout = 0").await?;
        let built = until_valid(client, &self.statements, index, create).await;
        client.batch_execute("RESET statement_timeout").await?;
        built
    }
}

async fn until_valid(client: &Client, statements: &Statements, index: &str, create: &str) -> Result<(), DatabaseError> {
    let mut unfinished = 0;
    loop {
        match state(client, statements, index).await? {
            State::Valid => return Ok(()),
            State::Building => unfinished = 0,
            State::Unfinished if unfinished < ABANDONED => unfinished += 1,
            State::Missing => {
                tracing::info!(index, "building an index; reading and writing go on");
                ignore_races(client.batch_execute(create).await)?;
                continue;
            }
            State::Unfinished => {
                tracing::warn!(index, "an index was left half built: building it again");
                let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {index}");
                ignore_races(client.batch_execute(&drop).await)?;
                continue;
            }
        }
        sleep(LOOK).await;
    }
}

async fn state(client: &Client, statements: &Statements, index: &str) -> Result<State, DatabaseError> {
    let look = "SELECT i.indisvalid, EXISTS (SELECT FROM pg_stat_progress_create_index AS work WHERE work.relid = i.indrelid) \
                FROM pg_index AS i WHERE i.indexrelid = to_regclass($1::text)";
    let rows = statements.query(client, look, &[&index]).await?;
    let Some(row) = rows.first() else {
        return Ok(State::Missing);
    };
    Ok(match (row.try_get(0)?, row.try_get(1)?) {
        (true, _) => State::Valid,
        (false, true) => State::Building,
        (false, false) => State::Unfinished,
    })
}

/// What replicas do to each other when they begin in the same moment is no failure: the next look shows what came of
/// it.
fn ignore_races(result: Result<(), tokio_postgres::Error>) -> Result<(), DatabaseError> {
    let harmless = [
        SqlState::DUPLICATE_TABLE,
        SqlState::UNIQUE_VIOLATION,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::UNDEFINED_OBJECT,
        SqlState::UNDEFINED_TABLE,
    ];
    match result {
        Err(error) if error.code().is_some_and(|code| harmless.contains(code)) => Ok(()),
        other => Ok(other?),
    }
}
