//! What a session is, in the database.

use std::time::Duration;

use async_trait::async_trait;
use rmcp::transport::streamable_http_server::session::{SessionState, SessionStore, SessionStoreError};
use rusqlite::{OptionalExtension, params};

use crate::database::{Database, DatabaseError};

/// A session that nobody has used for this long is forgotten.
pub const FORGET_AFTER: Duration = Duration::from_hours(7 * 24);
/// Most resources that one session follows.
pub const SUBSCRIPTIONS_MAX: usize = 1_000;

/// Whose session it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// Of somebody who showed no credential.
    Anonymous,
    /// Of this caller.
    Caller(String),
}

impl Owner {
    /// Whether it is `caller`, `None` for one who shows no credential.
    #[must_use]
    pub fn is(&self, caller: Option<&str>) -> bool {
        match self {
            Self::Anonymous => caller.is_none(),
            Self::Caller(name) => caller == Some(name),
        }
    }
}

/// The sessions in a database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SessionRecords {
    database: Database,
}

impl SessionRecords {
    /// Sessions in `database`.
    #[must_use]
    pub const fn new(database: Database) -> Self {
        Self { database }
    }

    /// What the client said in `initialize`; `None` for an unknown session. Whoever asks is going to use the session,
    /// which is noted: it may be out of memory again when [`Self::tidy`] looks.
    pub(super) async fn used(&self, id: &str) -> Result<Option<String>, DatabaseError> {
        let Some((state, is_due)) = self.state(id).await? else {
            return Ok(None);
        };
        if is_due && let Err(error) = self.touch(vec![id.to_owned()]).await {
            tracing::debug!(%error, "cannot note that a session is in use");
        }
        Ok(Some(state))
    }

    /// What the client said in `initialize`, and whether it is time to note again that the session is in use.
    async fn state(&self, id: &str) -> Result<Option<(String, bool)>, DatabaseError> {
        match &self.database {
            Database::Postgres(database) => {
                let read = "SELECT state, used_at < now() - interval '1 hour' FROM mcp_sessions WHERE id = $1";
                let row = database.connection().await?.query_opt(read, &[&id]).await?;
                row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
            }
            Database::Sqlite(database) => {
                let id = id.to_owned();
                let read = database.read(move |transaction| {
                    let sql = "SELECT state, used_at < unixepoch() - 3600 FROM mcp_sessions WHERE id = ?1";
                    let mut statement = transaction.prepare_cached(sql)?;
                    let row = statement.query_row([id], |row| Ok((row.get(0)?, row.get(1)?)));
                    Ok::<_, DatabaseError>(row.optional()?)
                });
                read.await
            }
        }
    }

    /// Notes that these sessions are in use.
    async fn touch(&self, ids: Vec<String>) -> Result<(), DatabaseError> {
        match &self.database {
            Database::Postgres(database) => {
                // Once an hour is enough for a week, and spares writes.
                let touch = "UPDATE mcp_sessions SET used_at = now() \
                             WHERE id = ANY($1) AND used_at < now() - interval '1 hour'";
                let connection = database.connection().await?;
                connection.query(touch, &[&ids]).await.map(drop)
            }
            Database::Sqlite(database) => {
                let touched = database.write(move |transaction| {
                    let mut touch = transaction.prepare_cached(
                        "UPDATE mcp_sessions SET used_at = unixepoch() WHERE id = ?1 AND used_at < unixepoch() - 3600",
                    )?;
                    for id in ids {
                        touch.execute([id])?;
                    }
                    Ok::<_, DatabaseError>(())
                });
                touched.await
            }
        }
    }

    async fn write(&self, id: &str, state: String) -> Result<(), DatabaseError> {
        match &self.database {
            Database::Postgres(database) => {
                let upsert = "INSERT INTO mcp_sessions (id, state) VALUES ($1, $2) \
                              ON CONFLICT (id) DO UPDATE SET state = excluded.state";
                let connection = database.connection().await?;
                connection.query(upsert, &[&id, &state]).await.map(drop)
            }
            Database::Sqlite(_) => {
                let upsert = "INSERT INTO mcp_sessions (id, state, used_at) VALUES (?1, ?2, unixepoch()) \
                              ON CONFLICT (id) DO UPDATE SET state = excluded.state";
                self.execute(upsert, upsert, id, state).await
            }
        }
    }

    /// Whether there is such a session.
    ///
    /// # Errors
    /// [`DatabaseError`] when the database does not answer.
    pub async fn exists(&self, id: &str) -> Result<bool, DatabaseError> {
        let known = self.text("SELECT id FROM mcp_sessions WHERE id = $1", id).await?;
        Ok(known.is_some())
    }

    /// Whose session it is; `None` for an unknown session.
    ///
    /// # Errors
    /// [`DatabaseError`] when the database does not answer.
    pub async fn owner(&self, id: &str) -> Result<Option<Owner>, DatabaseError> {
        let sql = "SELECT coalesce(owner, '') FROM mcp_sessions WHERE id = $1";
        let owner = self.text(sql, id).await?;
        Ok(owner.map(|name| {
            if name.is_empty() {
                Owner::Anonymous
            } else {
                Owner::Caller(name)
            }
        }))
    }

    /// Notes whose session it is.
    ///
    /// # Errors
    /// [`DatabaseError`] when the database does not answer.
    pub async fn set_owner(&self, id: &str, owner: &str) -> Result<(), DatabaseError> {
        self.execute(
            "UPDATE mcp_sessions SET owner = $2 WHERE id = $1",
            "UPDATE mcp_sessions SET owner = ?2 WHERE id = ?1",
            id,
            owner.to_owned(),
        )
        .await
    }

    /// Lets a session follow `uri`; `false` when it follows as many as it may.
    ///
    /// # Errors
    /// [`DatabaseError`] when the database does not answer.
    pub async fn subscribe(&self, id: &str, uri: &str) -> Result<bool, DatabaseError> {
        if self.subscriptions(id).await?.len() >= SUBSCRIPTIONS_MAX {
            return Ok(false);
        }
        self.execute(
            // A session that ends meanwhile follows nothing any more.
            "INSERT INTO mcp_session_subscriptions (session_id, uri) \
             SELECT id, $2::text FROM mcp_sessions WHERE id = $1 FOR KEY SHARE ON CONFLICT DO NOTHING",
            "INSERT INTO mcp_session_subscriptions (session_id, uri) \
             SELECT id, ?2 FROM mcp_sessions WHERE id = ?1 ON CONFLICT DO NOTHING",
            id,
            uri.to_owned(),
        )
        .await?;
        Ok(true)
    }

    /// Lets a session no longer follow `uri`.
    ///
    /// # Errors
    /// [`DatabaseError`] when the database does not answer.
    pub async fn unsubscribe(&self, id: &str, uri: &str) -> Result<(), DatabaseError> {
        // Postgres has no NUL in texts, so nothing of that name is followed.
        if uri.contains('\0') {
            return Ok(());
        }
        self.execute(
            "DELETE FROM mcp_session_subscriptions WHERE session_id = $1 AND uri = $2",
            "DELETE FROM mcp_session_subscriptions WHERE session_id = ?1 AND uri = ?2",
            id,
            uri.to_owned(),
        )
        .await
    }

    /// What a session follows.
    ///
    /// # Errors
    /// [`DatabaseError`] when the database does not answer.
    pub async fn subscriptions(&self, id: &str) -> Result<Vec<String>, DatabaseError> {
        match &self.database {
            Database::Postgres(database) => {
                let read = "SELECT uri FROM mcp_session_subscriptions WHERE session_id = $1 ORDER BY uri";
                let rows = database.connection().await?.query(read, &[&id]).await?;
                rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
            }
            Database::Sqlite(database) => {
                let id = id.to_owned();
                let read = database.read(move |transaction| {
                    let sql = "SELECT uri FROM mcp_session_subscriptions WHERE session_id = ?1 ORDER BY uri";
                    let mut statement = transaction.prepare_cached(sql)?;
                    let uris = statement.query_map([id], |row| row.get(0))?;
                    Ok::<_, DatabaseError>(uris.collect::<Result<Vec<String>, _>>()?)
                });
                read.await
            }
        }
    }

    /// Least severity of logs that a client wants; `None` when it never said.
    ///
    /// # Errors
    /// [`DatabaseError`] when the database does not answer.
    pub async fn log_level(&self, id: &str) -> Result<Option<String>, DatabaseError> {
        let sql = "SELECT log_level FROM mcp_sessions WHERE id = $1 AND log_level IS NOT NULL";
        self.text(sql, id).await
    }

    /// Sets the least severity of logs that a client wants.
    ///
    /// # Errors
    /// [`DatabaseError`] when the database does not answer.
    pub async fn set_log_level(&self, id: &str, level: &str) -> Result<(), DatabaseError> {
        self.execute(
            "UPDATE mcp_sessions SET log_level = $2 WHERE id = $1",
            "UPDATE mcp_sessions SET log_level = ?2 WHERE id = ?1",
            id,
            level.to_owned(),
        )
        .await
    }

    /// Notes that these sessions are in use, and forgets those that nobody has used for `FORGET_AFTER`.
    ///
    /// # Errors
    /// [`DatabaseError`] when the database does not answer.
    pub async fn tidy(&self, in_use: Vec<String>) -> Result<(), DatabaseError> {
        self.touch(in_use).await?;
        let seconds = i64::try_from(FORGET_AFTER.as_secs()).unwrap_or(i64::MAX);
        match &self.database {
            Database::Postgres(database) => {
                let connection = database.connection().await?;
                // A replica that does the same now is left alone, and no statement takes long.
                let forget = "DELETE FROM mcp_sessions WHERE id IN (SELECT id FROM mcp_sessions \
                              WHERE used_at < now() - make_interval(secs => $1::bigint) \
                              LIMIT 1000 FOR UPDATE SKIP LOCKED)";
                connection.query(forget, &[&seconds]).await.map(drop)
            }
            Database::Sqlite(database) => {
                let tidied = database.write(move |transaction| {
                    let forget = "DELETE FROM mcp_sessions WHERE used_at < unixepoch() - ?1";
                    transaction.prepare_cached(forget)?.execute([seconds])?;
                    Ok::<_, DatabaseError>(())
                });
                tidied.await
            }
        }
    }

    /// One text of the row that `sql` finds by the session's id.
    async fn text(&self, sql: &'static str, id: &str) -> Result<Option<String>, DatabaseError> {
        match &self.database {
            Database::Postgres(database) => {
                let row = database.connection().await?.query_opt(sql, &[&id]).await?;
                Ok(row.map(|row| row.try_get(0)).transpose()?)
            }
            Database::Sqlite(database) => {
                let id = id.to_owned();
                let read = database.read(move |transaction| {
                    // SQLite, too, knows $1.
                    let mut statement = transaction.prepare_cached(sql)?;
                    Ok::<_, DatabaseError>(statement.query_row([id], |row| row.get(0)).optional()?)
                });
                read.await
            }
        }
    }

    /// Runs a statement about a session with one more value.
    async fn execute(
        &self,
        postgres: &'static str,
        sqlite: &'static str,
        id: &str,
        value: String,
    ) -> Result<(), DatabaseError> {
        match &self.database {
            Database::Postgres(database) => {
                let connection = database.connection().await?;
                connection.query(postgres, &[&id, &value]).await.map(drop)
            }
            Database::Sqlite(database) => {
                let id = id.to_owned();
                let written = database.write(move |transaction| {
                    transaction.prepare_cached(sqlite)?.execute(params![id, value])?;
                    Ok::<_, DatabaseError>(())
                });
                written.await
            }
        }
    }

    pub(super) async fn remove(&self, id: &str) -> Result<(), DatabaseError> {
        match &self.database {
            Database::Postgres(database) => {
                let connection = database.connection().await?;
                let delete = "DELETE FROM mcp_sessions WHERE id = $1";
                connection.query(delete, &[&id]).await.map(drop)
            }
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
impl SessionStore for SessionRecords {
    async fn load(&self, session_id: &str) -> Result<Option<SessionState>, SessionStoreError> {
        let state = self.used(session_id).await?;
        Ok(state.as_deref().map(serde_json::from_str).transpose()?)
    }

    async fn store(&self, session_id: &str, state: &SessionState) -> Result<(), SessionStoreError> {
        Ok(self.write(session_id, serde_json::to_string(state)?).await?)
    }

    async fn delete(&self, session_id: &str) -> Result<(), SessionStoreError> {
        Ok(self.remove(session_id).await?)
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use crate::mcp::sessions::MIGRATIONS;

    /// Enough rows, and statistics of them, for the planner's choice to mean something.
    const FILL: &str = "
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
        INSERT INTO mcp_sessions (id, state, used_at) SELECT 's' || i, '{}', unixepoch() - i FROM n;
        INSERT INTO mcp_session_subscriptions (session_id, uri) SELECT id, 'test://a' FROM mcp_sessions;
        ANALYZE;
    ";

    /// The statements of this file that SQLite knows, taken from its text: what is added is tested, too.
    fn statements() -> Vec<String> {
        let (code, _) = include_str!("store.rs").split_once("#[cfg(test)]").unwrap();
        let literals = code.split('"').skip(1).step_by(2);
        // As the compiler does: a backslash at the end of a line takes the next one's indentation with it.
        let texts = literals.map(|literal| literal.split("\\\n").map(str::trim_start).collect::<String>());
        let verbs = ["SELECT ", "INSERT ", "UPDATE ", "DELETE "];
        let statements = texts.filter(|text| verbs.iter().any(|verb| text.starts_with(verb)));
        // Only Postgres has these.
        let of_postgres = ["now()", "FOR KEY SHARE"];
        statements
            .filter(|sql| !of_postgres.iter().any(|own| sql.contains(own)))
            .collect()
    }

    /// A request in a session that is fast with a few sessions and slow with a million would only be found out in
    /// production. For Postgres its own counters show it, from outside.
    #[test]
    fn no_statement_of_sqlite_scans_a_table() {
        let connection = Connection::open_in_memory().unwrap();
        for migration in MIGRATIONS {
            connection.execute_batch(migration.sqlite).unwrap();
        }
        connection.execute_batch(FILL).unwrap();
        let statements = statements();
        assert!(statements.len() > 15, "{statements:#?}");
        for sql in &statements {
            let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let mut rows = plan.raw_query();
            while let Some(row) = rows.next().unwrap() {
                let step: String = row.get(3).unwrap();
                assert!(!step.starts_with("SCAN "), "{step}: {sql}");
            }
        }
    }
}
