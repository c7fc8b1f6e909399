//! Sessions of clients up to 2025-11-25, in the database.
//!
//! What a session needs is what the client said in `initialize`. A replica that is asked to go on with a session it
//! does not know looks here; so sessions survive the replica that made them, and idle ones need no memory.

use async_trait::async_trait;
use rmcp::transport::streamable_http_server::session::{SessionState, SessionStore, SessionStoreError};

use rusqlite::OptionalExtension;

use crate::database::{Database, DatabaseError, Migration};

/// The table of sessions.
pub const MIGRATIONS: &[Migration] = &[Migration {
    name: "mcp_1_sessions",
    postgres: "CREATE TABLE mcp_sessions (
        id         text PRIMARY KEY,
        state      text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    )",
    sqlite: "CREATE TABLE mcp_sessions (
        id         TEXT PRIMARY KEY,
        state      TEXT NOT NULL,
        created_at INTEGER NOT NULL DEFAULT (unixepoch())
    ) STRICT",
}];

/// The store that rmcp saves sessions to and restores them from.
#[derive(Debug)]
pub struct DatabaseSessionStore {
    database: Database,
}

impl DatabaseSessionStore {
    /// Sessions in `database`.
    #[must_use]
    pub const fn new(database: Database) -> Self {
        Self { database }
    }

    async fn read(&self, id: &str) -> Result<Option<String>, DatabaseError> {
        match &self.database {
            Database::Postgres(database) => {
                let connection = database.connection().await?;
                let row = connection
                    .query_opt("SELECT state FROM mcp_sessions WHERE id = $1", &[&id])
                    .await?;
                Ok(row.map(|row| row.try_get(0)).transpose()?)
            }
            Database::Sqlite(database) => {
                let id = id.to_owned();
                let read = database.read(move |transaction| {
                    let mut statement = transaction.prepare_cached("SELECT state FROM mcp_sessions WHERE id = ?1")?;
                    Ok::<_, DatabaseError>(statement.query_row([id], |row| row.get(0)).optional()?)
                });
                read.await
            }
        }
    }

    async fn write(&self, id: &str, state: String) -> Result<(), DatabaseError> {
        match &self.database {
            Database::Postgres(database) => {
                let upsert = "INSERT INTO mcp_sessions (id, state) VALUES ($1, $2) \
                              ON CONFLICT (id) DO UPDATE SET state = excluded.state";
                database
                    .connection()
                    .await?
                    .query(upsert, &[&id, &state])
                    .await
                    .map(drop)
            }
            Database::Sqlite(database) => {
                let id = id.to_owned();
                let written = database.write(move |transaction| {
                    let upsert = "INSERT INTO mcp_sessions (id, state) VALUES (?1, ?2) \
                                  ON CONFLICT (id) DO UPDATE SET state = excluded.state";
                    transaction.prepare_cached(upsert)?.execute([id, state])?;
                    Ok::<_, DatabaseError>(())
                });
                written.await
            }
        }
    }

    async fn remove(&self, id: &str) -> Result<(), DatabaseError> {
        match &self.database {
            Database::Postgres(database) => database
                .connection()
                .await?
                .query("DELETE FROM mcp_sessions WHERE id = $1", &[&id])
                .await
                .map(drop),
            Database::Sqlite(database) => {
                let id = id.to_owned();
                let removed = database.write(move |transaction| {
                    transaction
                        .prepare_cached("DELETE FROM mcp_sessions WHERE id = ?1")?
                        .execute([id])?;
                    Ok::<_, DatabaseError>(())
                });
                removed.await
            }
        }
    }
}

#[async_trait]
impl SessionStore for DatabaseSessionStore {
    async fn load(&self, session_id: &str) -> Result<Option<SessionState>, SessionStoreError> {
        let state = self.read(session_id).await?;
        Ok(state.as_deref().map(serde_json::from_str).transpose()?)
    }

    async fn store(&self, session_id: &str, state: &SessionState) -> Result<(), SessionStoreError> {
        Ok(self.write(session_id, serde_json::to_string(state)?).await?)
    }

    async fn delete(&self, session_id: &str) -> Result<(), SessionStoreError> {
        Ok(self.remove(session_id).await?)
    }
}
