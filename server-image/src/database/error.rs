//! What can go wrong between the server and its database.

use std::error::Error;
use std::time::Duration;

use deadpool_postgres::{BuildError, PoolError};
use tokio_postgres::error::SqlState;

/// A database operation that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The schema has not been brought up to date yet.
    #[error("the database is not ready: the server is still connecting to it and preparing the schema")]
    NotReady,
    /// All connections are in use.
    #[error(
        "no database connection became free within {waited:?}: all {max} of this server's pool are in use; raise the \
         pool (--pool-max) within the database's max_connections, or add replicas"
    )]
    PoolTimeout {
        /// How long the request waited.
        waited: Duration,
        /// Size of the pool.
        max: usize,
    },
    /// A connection could not be made.
    #[error("cannot connect to the database: {0}")]
    Connect(String),
    /// The database accepted a statement but did not answer.
    #[error("the database did not answer within {0:?}")]
    NoAnswer(Duration),
    /// Others used tables that a step of the schema changes, for longer than it is waited for.
    #[error(
        "the schema cannot be brought up to date: in {waited:?}, the tables that it changes were never free; in use by \
         {holders}. Nothing is changed; it works as soon as that has ended, by itself or by SELECT \
         pg_terminate_backend(PROCESS)"
    )]
    Locked {
        /// How long it was tried.
        waited: Duration,
        /// Who uses tables now.
        holders: String,
    },
    /// Postgres refused or lost a statement.
    #[error("Postgres: {}", describe(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// SQLite could not make a write last; it is undone.
    #[error("SQLite could not commit: {0}")]
    NotCommitted(String),
    /// SQLite refused a statement.
    #[error("SQLite: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The pool's settings are impossible.
    #[error("cannot set up the connection pool: {0}")]
    Pool(#[from] BuildError),
    /// The threads that own the SQLite file could not be started.
    #[error("cannot start a thread for the SQLite file: {0}")]
    Thread(#[from] std::io::Error),
    /// The threads that own the SQLite file are gone.
    #[error("the SQLite file's threads have stopped")]
    Stopped,
    /// The work for a SQLite file panicked; it is undone.
    #[error("a mistake in the server ended the work on the SQLite file; it is undone")]
    Panicked,
    /// A statement that must return a row returned none.
    #[error("the database returned no row where there must be one")]
    NoRow,
    /// What was read back is not what was written.
    #[error("stored data is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
}

impl DatabaseError {
    /// Whether a row names another row (such as a session) that does not exist.
    #[must_use]
    pub fn is_missing_reference(&self) -> bool {
        match self {
            Self::Postgres(error) => error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION),
            Self::Sqlite(rusqlite::Error::SqliteFailure(error, _)) => {
                error.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY
            }
            _ => false,
        }
    }

    /// Whether the connection broke before an answer came.
    #[must_use]
    pub fn is_lost_connection(&self) -> bool {
        match self {
            Self::Postgres(error) => error.is_closed() || error.code() == Some(&SqlState::ADMIN_SHUTDOWN),
            Self::Connect(_) => true,
            _ => false,
        }
    }

    /// Whether Postgres refused to write at all, as a standby does: another connection may lead to a server that writes.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(self, Self::Postgres(error) if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION))
    }

    /// Whether it is certain that nothing was done: no connection was made, or to a server that only reads, or Postgres
    /// gave the transaction up.
    #[must_use]
    pub fn is_proven_undone(&self) -> bool {
        match self {
            Self::Postgres(error) => matches!(
                error.code(),
                Some(
                    &SqlState::T_R_SERIALIZATION_FAILURE
                        | &SqlState::T_R_DEADLOCK_DETECTED
                        | &SqlState::READ_ONLY_SQL_TRANSACTION
                )
            ),
            Self::Connect(_) => true,
            _ => false,
        }
    }

    pub(super) fn from_pool(error: PoolError, waited: Duration, max: usize) -> Self {
        match error {
            PoolError::Timeout(deadpool_postgres::TimeoutType::Wait) => Self::PoolTimeout { waited, max },
            PoolError::Timeout(_) => Self::Connect(format!("no answer within {waited:?}")),
            PoolError::Backend(error) => Self::Connect(describe(&error)),
            other => Self::Connect(other.to_string()),
        }
    }
}

/// The client's own message hides the cause in its source.
fn describe(error: &tokio_postgres::Error) -> String {
    error
        .source()
        .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A write that is done again although it may have been done is done twice.
    #[test]
    fn only_a_connection_that_was_never_made_proves_something_by_itself() {
        let waited = Duration::from_secs(2);
        for (error, expected) in [
            (DatabaseError::Connect("refused".to_owned()), true),
            (DatabaseError::NoAnswer(waited), false),
            (DatabaseError::PoolTimeout { waited, max: 1 }, false),
            (DatabaseError::Stopped, false),
            (DatabaseError::Panicked, false),
            (DatabaseError::NoRow, false),
            (DatabaseError::NotCommitted("the disk is full".to_owned()), false),
            (DatabaseError::Sqlite(rusqlite::Error::InvalidQuery), false),
        ] {
            assert_eq!(error.is_proven_undone(), expected, "{error}");
        }
    }
}
