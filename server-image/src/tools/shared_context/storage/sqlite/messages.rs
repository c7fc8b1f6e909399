//! Messages in a SQLite file.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, named_params, params};

use super::{Audited, MESSAGE_COLUMNS, SqliteStorage, VISIBLE, audit, now, page, time};
use crate::tools::shared_context::limits::Quotas;
use crate::tools::shared_context::model::{MessagePage, NewMessage, StoredMessage, Visibility};
use crate::tools::shared_context::storage::{MessageQuery, Messages, StorageError, to_text};

#[async_trait]
impl Messages for SqliteStorage {
    async fn add_message(&self, message: NewMessage) -> Result<StoredMessage, StorageError> {
        let quotas = self.quotas;
        self.database
            .write(move |transaction| add_message(transaction, &message, quotas))
            .await
    }

    async fn get_messages(&self, query: MessageQuery) -> Result<MessagePage, StorageError> {
        self.database
            .read(move |transaction| get_messages(transaction, &query))
            .await
    }
}

pub(super) fn add_message(
    connection: &Connection,
    message: &NewMessage,
    quotas: Quotas,
) -> Result<StoredMessage, StorageError> {
    check_session(connection, &message.session_id, quotas)?;
    if let Some(parent) = message.parent_message_id {
        check_parent(connection, message, parent)?;
    }
    let now = now();
    connection
        .prepare_cached("UPDATE sessions SET message_count = message_count + 1, updated_at = ?2 WHERE id = ?1")?
        .execute(params![message.session_id, now])?;
    connection
        .prepare_cached(
            "INSERT INTO messages \
             (session_id, sender, sender_type, content, visibility, metadata, parent_message_id, created_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            message.session_id,
            message.sender.id,
            message.sender.agent_type,
            message.content,
            message.visibility.as_str(),
            to_text(message.metadata.as_ref()),
            message.parent_message_id,
            now
        ])?;
    let id = connection.last_insert_rowid();
    let line = Audited {
        agent_id: &message.sender.id,
        agent_type: message.sender.agent_type.as_deref(),
        action: "add_message",
        session_id: Some(&message.session_id),
        target: Some(&id.to_string()),
    };
    audit(connection, now, &line)?;
    Ok(StoredMessage {
        id,
        timestamp: time(now),
    })
}

/// The session must take messages.
fn check_session(connection: &Connection, id: &str, quotas: Quotas) -> Result<(), StorageError> {
    let session: Option<(bool, i32)> = connection
        .prepare_cached("SELECT is_active, message_count FROM sessions WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match session {
        None => Err(StorageError::SessionNotFound),
        Some((false, _)) => Err(StorageError::SessionClosed),
        Some((true, count)) if count >= quotas.messages_per_session => Err(quotas.session_full()),
        Some(_) => Ok(()),
    }
}

/// The message to answer must be one that the sender may read.
fn check_parent(connection: &Connection, message: &NewMessage, parent: i64) -> Result<(), StorageError> {
    let sql = format!("SELECT 1 FROM messages WHERE session_id = :session AND id = :parent AND {VISIBLE}");
    let visible = connection.prepare_cached(&sql)?.exists(named_params! {
        ":session": message.session_id,
        ":parent": parent,
        ":reader": message.sender.id,
        ":type": message.sender.agent_type,
        ":admin": message.sender.is_admin,
    })?;
    if visible {
        Ok(())
    } else {
        Err(StorageError::ParentNotFound)
    }
}

pub(super) fn get_messages(connection: &Connection, query: &MessageQuery) -> Result<MessagePage, StorageError> {
    if !connection
        .prepare_cached("SELECT 1 FROM sessions WHERE id = ?1")?
        .exists([&query.session_id])?
    {
        return Err(StorageError::SessionNotFound);
    }
    let visibility = query.visibility.map(Visibility::as_str);
    let filter = format!("session_id = :session AND {VISIBLE} AND (:visibility IS NULL OR visibility = :visibility)");
    let reader = &query.reader;
    let total_count = connection
        .prepare_cached(&format!("SELECT count(*) FROM messages WHERE {filter}"))?
        .query_row(
            named_params! {
                ":session": query.session_id,
                ":reader": reader.id,
                ":type": reader.agent_type,
                ":admin": reader.is_admin,
                ":visibility": visibility,
            },
            |row| row.get(0),
        )?;
    let sql = format!("SELECT {MESSAGE_COLUMNS} FROM messages WHERE {filter} ORDER BY id LIMIT :limit OFFSET :offset");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query(named_params! {
        ":session": query.session_id,
        ":reader": reader.id,
        ":type": reader.agent_type,
        ":admin": reader.is_admin,
        ":visibility": visibility,
        ":limit": query.limit,
        ":offset": query.offset,
    })?;
    Ok(MessagePage {
        messages: page(rows)?,
        total_count,
    })
}
