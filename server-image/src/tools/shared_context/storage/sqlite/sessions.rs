//! Sessions in a SQLite file.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, named_params, params};

use super::{Audited, MESSAGE_COLUMNS, SqliteStorage, VISIBLE, audit, micros, now, page, time};
use crate::tools::shared_context::limits::Quotas;
use crate::tools::shared_context::model::{Agent, NewSession, SessionHeader, SessionView};
use crate::tools::shared_context::storage::{Sessions, StorageError, from_text, to_text};

#[async_trait]
impl Sessions for SqliteStorage {
    async fn create_session(&self, session: NewSession, has_quota: bool) -> Result<SessionHeader, StorageError> {
        let quotas = has_quota.then_some(self.quotas);
        self.database
            .write(move |transaction| create_session(transaction, session, quotas))
            .await
    }

    async fn session_header(&self, id: &str) -> Result<Option<SessionHeader>, StorageError> {
        let id = id.to_owned();
        self.database
            .read(move |transaction| session_header(transaction, &id))
            .await
    }

    async fn session_view(&self, id: &str, reader: &Agent, recent: i64) -> Result<Option<SessionView>, StorageError> {
        let (id, reader) = (id.to_owned(), reader.clone());
        self.database
            .read(move |transaction| session_view(transaction, &id, &reader, recent))
            .await
    }
}

pub(super) fn create_session(
    connection: &Connection,
    session: NewSession,
    quotas: Option<Quotas>,
) -> Result<SessionHeader, StorageError> {
    let now = now();
    if let Some(quotas) = quotas {
        let unused = now.saturating_sub(micros(quotas.session_timeout));
        let used: i64 = connection
            .prepare_cached("SELECT count(*) FROM sessions WHERE created_by = ?1 AND is_active AND updated_at > ?2")?
            .query_row(params![session.created_by, unused], |row| row.get(0))?;
        if used >= quotas.sessions_per_agent {
            return Err(quotas.too_many_sessions());
        }
    }
    let metadata = to_text(session.metadata.as_ref());
    connection
        .prepare_cached(
            "INSERT INTO sessions (id, purpose, created_by, metadata, created_at, updated_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
        )?
        .execute(params![session.id, session.purpose, session.created_by, metadata, now])?;
    let line = Audited {
        agent_id: &session.created_by,
        agent_type: None,
        action: "create_session",
        session_id: Some(&session.id),
        target: None,
    };
    audit(connection, now, &line)?;
    let NewSession {
        id,
        purpose,
        created_by,
        metadata,
    } = session;
    Ok(SessionHeader {
        id,
        purpose,
        created_by,
        created_at: time(now),
        metadata,
    })
}

pub(super) fn session_header(connection: &Connection, id: &str) -> Result<Option<SessionHeader>, StorageError> {
    let mut statement = connection
        .prepare_cached("SELECT id, purpose, created_by, created_at, metadata FROM sessions WHERE id = ?1")?;
    let mut rows = statement.query([id])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some(SessionHeader {
        id: row.get(0)?,
        purpose: row.get(1)?,
        created_by: row.get(2)?,
        created_at: time(row.get(3)?),
        metadata: from_text(row.get::<_, Option<String>>(4)?.as_deref())?,
    }))
}

pub(super) fn session_view(
    connection: &Connection,
    id: &str,
    reader: &Agent,
    recent: i64,
) -> Result<Option<SessionView>, StorageError> {
    let session: Option<(bool, i64)> = connection
        .prepare_cached("SELECT is_active, updated_at FROM sessions WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((is_active, updated_at)) = session else {
        return Ok(None);
    };
    let sql = format!(
        "SELECT {MESSAGE_COLUMNS} FROM messages WHERE session_id = :session AND {VISIBLE} ORDER BY id DESC LIMIT :limit"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query(named_params! {
        ":session": id,
        ":reader": reader.id,
        ":type": reader.agent_type,
        ":admin": reader.is_admin,
        ":limit": recent,
    })?;
    Ok(Some(SessionView {
        is_active,
        updated_at: time(updated_at),
        recent: page(rows)?,
    }))
}
