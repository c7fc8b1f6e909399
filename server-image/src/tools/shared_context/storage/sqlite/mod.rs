//! Shared context in a SQLite file. Times are microseconds since 1970.

mod memory;
mod messages;
#[cfg(test)]
mod plans;
mod retention;
mod sessions;
mod tokens;

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, Row, Rows, params};

use super::{StorageError, from_text};
use crate::database::{DatabaseError, SqliteDatabase};
use crate::tools::shared_context::limits::{PAGE_BYTES, Quotas};
use crate::tools::shared_context::model::Message;

pub(in crate::tools::shared_context) struct SqliteStorage {
    pub(in crate::tools::shared_context) database: SqliteDatabase,
    quotas: Quotas,
}

impl SqliteStorage {
    pub(super) const fn new(database: SqliteDatabase, quotas: Quotas) -> Self {
        Self { database, quotas }
    }
}

/// What a reader may see: `:reader` is its id, `:type` its proven type, `:admin` whether it is an administrator.
pub(in crate::tools::shared_context) const VISIBLE: &str = "(visibility = 'public' \
    OR visibility IN ('private', 'agent_only') AND sender = :reader \
    OR visibility = 'agent_only' AND sender_type = :type \
    OR visibility = 'admin_only' AND :admin)";

/// Columns that [`message`] reads.
pub(in crate::tools::shared_context) const MESSAGE_COLUMNS: &str =
    "id, session_id, sender, content, visibility, metadata, created_at, parent_message_id";

/// A message from a row of [`MESSAGE_COLUMNS`].
pub(in crate::tools::shared_context) fn message(row: &Row<'_>) -> Result<Message, StorageError> {
    Ok(Message {
        id: row.get(0)?,
        session_id: row.get(1)?,
        sender: row.get(2)?,
        content: row.get(3)?,
        visibility: row.get(4)?,
        metadata: from_text(row.get::<_, Option<String>>(5)?.as_deref())?,
        timestamp: time(row.get(6)?),
        parent_message_id: row.get(7)?,
    })
}

/// The messages of a page, from rows of [`MESSAGE_COLUMNS`]. Rows that do not fit are not read.
pub(in crate::tools::shared_context) fn page(mut rows: Rows<'_>) -> Result<Vec<Message>, StorageError> {
    let (mut messages, mut bytes) = (Vec::new(), 0);
    while bytes < PAGE_BYTES
        && let Some(row) = rows.next()?
    {
        bytes += size(row)?;
        messages.push(message(row)?);
    }
    Ok(messages)
}

/// What a message counts in a page, in bytes.
fn size(row: &Row<'_>) -> Result<usize, rusqlite::Error> {
    let content = row.get_ref(3)?.as_str()?;
    let metadata = row.get_ref(5)?.as_str_or_null()?;
    Ok(content.len() + metadata.map_or(0, str::len))
}

/// One line of the audit log.
struct Audited<'a> {
    agent_id: &'a str,
    agent_type: Option<&'a str>,
    action: &'static str,
    session_id: Option<&'a str>,
    target: Option<&'a str>,
}

/// Writes a line of the audit log in the transaction of what it tells of.
fn audit(connection: &Connection, at: i64, line: &Audited<'_>) -> Result<(), StorageError> {
    connection
        .prepare_cached(
            "INSERT INTO audit_log (at, agent_id, agent_type, action, session_id, target, outcome) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'ok')",
        )?
        .execute(params![
            at,
            line.agent_id,
            line.agent_type,
            line.action,
            line.session_id,
            line.target
        ])?;
    Ok(())
}

fn missing_session(error: rusqlite::Error) -> StorageError {
    let error = DatabaseError::from(error);
    if error.is_missing_reference() {
        StorageError::SessionNotFound
    } else {
        error.into()
    }
}

fn now() -> i64 {
    Timestamp::now().as_microsecond()
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// A stored time; one that no calendar knows can only come from a damaged file and is shown as the epoch.
pub(in crate::tools::shared_context) fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}
