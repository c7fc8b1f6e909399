//! Shared context in a SQLite file. Times are microseconds since 1970.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::{MessageQuery, Storage, StorageError, from_text, memory_size, to_text};
use crate::database::{DatabaseError, SqliteDatabase};
use crate::tools::shared_context::limits;
use crate::tools::shared_context::model::{
    MemoryEntry, Message, MessagePage, NewMemory, NewMessage, NewSession, SessionHeader, SessionView, StoredMemory,
    StoredMessage, Visibility,
};

/// What `:reader` may see. Nobody is an administrator as long as callers prove nothing.
const VISIBLE: &str = "(visibility = 'public' OR (visibility IN ('private', 'agent_only') AND sender = :reader))";

const MESSAGE_COLUMNS: &str = "id, session_id, sender, content, visibility, metadata, created_at, parent_message_id";

pub(super) struct SqliteStorage {
    database: SqliteDatabase,
}

impl SqliteStorage {
    pub(super) const fn new(database: SqliteDatabase) -> Self {
        Self { database }
    }
}

#[async_trait]
impl Storage for SqliteStorage {
    async fn create_session(&self, session: NewSession, has_quota: bool) -> Result<SessionHeader, StorageError> {
        self.database
            .write(move |transaction| create_session(transaction, session, has_quota))
            .await
    }

    async fn session_header(&self, id: &str) -> Result<Option<SessionHeader>, StorageError> {
        let id = id.to_owned();
        self.database
            .read(move |transaction| session_header(transaction, &id))
            .await
    }

    async fn session_view(&self, id: &str, reader: &str) -> Result<Option<SessionView>, StorageError> {
        let (id, reader) = (id.to_owned(), reader.to_owned());
        self.database
            .read(move |transaction| session_view(transaction, &id, &reader))
            .await
    }

    async fn add_message(&self, message: NewMessage) -> Result<StoredMessage, StorageError> {
        self.database
            .write(move |transaction| add_message(transaction, &message))
            .await
    }

    async fn get_messages(&self, query: MessageQuery) -> Result<MessagePage, StorageError> {
        self.database
            .read(move |transaction| get_messages(transaction, &query))
            .await
    }

    async fn set_memory(&self, entry: NewMemory) -> Result<StoredMemory, StorageError> {
        self.database
            .write(move |transaction| set_memory(transaction, &entry))
            .await
    }

    async fn get_memory(
        &self,
        agent_id: &str,
        session_id: Option<&str>,
        key: &str,
    ) -> Result<Option<MemoryEntry>, StorageError> {
        let (agent_id, session_id, key) = (agent_id.to_owned(), session_id.map(str::to_owned), key.to_owned());
        self.database
            .read(move |transaction| get_memory(transaction, &agent_id, session_id.as_deref(), &key))
            .await
    }
}

fn create_session(
    connection: &Connection,
    session: NewSession,
    has_quota: bool,
) -> Result<SessionHeader, StorageError> {
    let now = Timestamp::now();
    if has_quota {
        let used: i64 = connection
            .prepare_cached("SELECT count(*) FROM sessions WHERE created_by = ?1 AND is_active AND updated_at > ?2")?
            .query_row(
                params![
                    session.created_by,
                    micros(now) - limits::SESSION_TIMEOUT_SECONDS * 1_000_000
                ],
                |row| row.get(0),
            )?;
        if used >= limits::SESSIONS_PER_AGENT {
            return Err(StorageError::TooManySessions);
        }
    }
    connection
        .prepare_cached("INSERT INTO sessions (id, purpose, created_by, metadata, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?5)")?
        .execute(params![session.id, session.purpose, session.created_by, to_text(session.metadata.as_ref()), micros(now)])?;
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
        created_at: time(micros(now)),
        metadata,
    })
}

fn session_header(connection: &Connection, id: &str) -> Result<Option<SessionHeader>, StorageError> {
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

fn session_view(connection: &Connection, id: &str, reader: &str) -> Result<Option<SessionView>, StorageError> {
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
    let rows = statement.query_and_then(
        named_params! {":session": id, ":reader": reader, ":limit": limits::RECENT_MESSAGES},
        message,
    )?;
    Ok(Some(SessionView {
        is_active,
        updated_at: time(updated_at),
        recent: rows.collect::<Result<_, _>>()?,
    }))
}

fn add_message(connection: &Connection, message: &NewMessage) -> Result<StoredMessage, StorageError> {
    let session: Option<(bool, i32)> = connection
        .prepare_cached("SELECT is_active, message_count FROM sessions WHERE id = ?1")?
        .query_row([&message.session_id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match session {
        None => return Err(StorageError::SessionNotFound),
        Some((false, _)) => return Err(StorageError::SessionClosed),
        Some((true, count)) if count >= limits::MESSAGES_PER_SESSION => return Err(StorageError::SessionFull),
        Some(_) => {}
    }
    if let Some(parent) = message.parent_message_id {
        let sql = format!("SELECT 1 FROM messages WHERE session_id = :session AND id = :parent AND {VISIBLE}");
        let visible = connection
            .prepare_cached(&sql)?
            .exists(named_params! {":session": message.session_id, ":parent": parent, ":reader": message.sender})?;
        if !visible {
            return Err(StorageError::ParentNotFound);
        }
    }
    let now = micros(Timestamp::now());
    connection
        .prepare_cached("UPDATE sessions SET message_count = message_count + 1, updated_at = ?2 WHERE id = ?1")?
        .execute(params![message.session_id, now])?;
    connection
        .prepare_cached(
            "INSERT INTO messages (session_id, sender, content, visibility, metadata, parent_message_id, created_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            message.session_id,
            message.sender,
            message.content,
            message.visibility.as_str(),
            to_text(message.metadata.as_ref()),
            message.parent_message_id,
            now
        ])?;
    Ok(StoredMessage {
        id: connection.last_insert_rowid(),
        timestamp: time(now),
    })
}

fn get_messages(connection: &Connection, query: &MessageQuery) -> Result<MessagePage, StorageError> {
    if !connection
        .prepare_cached("SELECT 1 FROM sessions WHERE id = ?1")?
        .exists([&query.session_id])?
    {
        return Err(StorageError::SessionNotFound);
    }
    let visibility = query.visibility.map(Visibility::as_str);
    let filter = format!("session_id = :session AND {VISIBLE} AND (:visibility IS NULL OR visibility = :visibility)");
    let total_count = connection
        .prepare_cached(&format!("SELECT count(*) FROM messages WHERE {filter}"))?
        .query_row(
            named_params! {":session": query.session_id, ":reader": query.reader, ":visibility": visibility},
            |row| row.get(0),
        )?;
    let page = format!("SELECT {MESSAGE_COLUMNS} FROM messages WHERE {filter} ORDER BY id LIMIT :limit OFFSET :offset");
    let mut statement = connection.prepare_cached(&page)?;
    let rows = statement.query_and_then(
        named_params! {
            ":session": query.session_id,
            ":reader": query.reader,
            ":visibility": visibility,
            ":limit": query.limit,
            ":offset": query.offset,
        },
        message,
    )?;
    Ok(MessagePage {
        messages: rows.collect::<Result<_, _>>()?,
        total_count,
    })
}

fn set_memory(connection: &Connection, entry: &NewMemory) -> Result<StoredMemory, StorageError> {
    let now = micros(Timestamp::now());
    let value = entry.value.to_string();
    let metadata = to_text(entry.metadata.as_ref());
    let size = memory_size(entry, &value, metadata.as_deref());
    if entry.has_quota && !fits(connection, entry, size, now)? {
        return Err(StorageError::MemoryFull);
    }
    let expires_at = entry.expires_in.map(|seconds| now + seconds * 1_000_000);
    let stored = connection
        .prepare_cached(
            "INSERT INTO agent_memory AS old (agent_id, session_id, key, value, metadata, size_bytes, created_at, updated_at, expires_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8) \
             ON CONFLICT (agent_id, ifnull(session_id, ''), key) DO UPDATE SET value = excluded.value, \
               metadata = excluded.metadata, size_bytes = excluded.size_bytes, expires_at = excluded.expires_at, \
               updated_at = excluded.updated_at, created_at = iif(old.expires_at <= ?7, ?7, old.created_at) \
             WHERE ?9 OR old.expires_at <= ?7",
        )?
        .execute(params![entry.agent_id, entry.session_id, entry.key, value, metadata, size, now, expires_at, entry.overwrite])
        .map_err(missing_session)?;
    if stored == 0 {
        return Err(StorageError::KeyExists);
    }
    Ok(StoredMemory {
        updated_at: time(now),
        expires_at: expires_at.map(time),
    })
}

fn fits(connection: &Connection, entry: &NewMemory, size: i64, now: i64) -> Result<bool, StorageError> {
    let (entries, bytes): (i64, i64) = connection
        .prepare_cached(
            "SELECT count(*), ifnull(sum(size_bytes), 0) FROM agent_memory \
             WHERE agent_id = ?1 AND (expires_at IS NULL OR expires_at > ?4) AND NOT (session_id IS ?2 AND key = ?3)",
        )?
        .query_row(params![entry.agent_id, entry.session_id, entry.key, now], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    Ok(entries < limits::MEMORY_ENTRIES_PER_AGENT && bytes + size <= limits::MEMORY_BYTES_PER_AGENT)
}

fn get_memory(
    connection: &Connection,
    agent_id: &str,
    session_id: Option<&str>,
    key: &str,
) -> Result<Option<MemoryEntry>, StorageError> {
    let mut statement = connection.prepare_cached(
        "SELECT value, metadata, created_at, updated_at, expires_at FROM agent_memory \
         WHERE agent_id = ?1 AND ifnull(session_id, '') = ifnull(?2, '') AND key = ?3 AND (expires_at IS NULL OR expires_at > ?4)",
    )?;
    let mut rows = statement.query(params![agent_id, session_id, key, micros(Timestamp::now())])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some(MemoryEntry {
        value: serde_json::from_str(&row.get::<_, String>(0)?)?,
        metadata: from_text(row.get::<_, Option<String>>(1)?.as_deref())?,
        created_at: time(row.get(2)?),
        updated_at: time(row.get(3)?),
        expires_at: row.get::<_, Option<i64>>(4)?.map(time),
    }))
}

fn message(row: &Row<'_>) -> Result<Message, StorageError> {
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

fn missing_session(error: rusqlite::Error) -> StorageError {
    let error = DatabaseError::from(error);
    if error.is_missing_reference() {
        StorageError::SessionNotFound
    } else {
        error.into()
    }
}

fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

/// A stored time; one that no calendar knows can only come from a damaged file and is shown as the epoch.
fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}
