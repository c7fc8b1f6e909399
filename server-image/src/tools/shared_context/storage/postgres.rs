//! Shared context in Postgres.

use async_trait::async_trait;
use futures::future::try_join;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::{MessageQuery, Storage, StorageError, from_text, memory_size, to_text};
use crate::database::{DatabaseError, PostgresConnection, PostgresDatabase};
use crate::tools::shared_context::limits;
use crate::tools::shared_context::model::{
    MemoryEntry, Message, MessagePage, NewMemory, NewMessage, NewSession, SessionHeader, SessionView, StoredMemory,
    StoredMessage, Visibility,
};

/// What `$2`, the reader, may see. Nobody is an administrator as long as callers prove nothing.
const VISIBLE: &str = "(visibility = 'public' OR (visibility IN ('private', 'agent_only') AND sender = $2))";

const MESSAGE_COLUMNS: &str = "id, session_id, sender, content, visibility, metadata, created_at, parent_message_id";

pub(super) struct PostgresStorage {
    database: PostgresDatabase,
}

impl PostgresStorage {
    pub(super) const fn new(database: PostgresDatabase) -> Self {
        Self { database }
    }
}

#[async_trait]
impl Storage for PostgresStorage {
    async fn create_session(&self, session: NewSession, has_quota: bool) -> Result<SessionHeader, StorageError> {
        let mut connection = self.database.connection().await?;
        let transaction = connection.transaction().await?;
        if has_quota {
            // Creations of one agent wait for each other, so that two at once cannot both take the last place.
            transaction
                .query_opt(
                    "SELECT pg_advisory_xact_lock(hashtextextended('session:' || $1, 0))",
                    &[&session.created_by],
                )
                .await?;
        }
        let row = transaction
            .query_opt(
                "INSERT INTO sessions (id, purpose, created_by, metadata) SELECT $1, $2, $3, $4 \
                 WHERE NOT $5 OR (SELECT count(*) FROM sessions WHERE created_by = $3 AND is_active \
                 AND updated_at > now() - make_interval(secs => $6)) < $7 RETURNING created_at",
                &[
                    &session.id,
                    &session.purpose,
                    &session.created_by,
                    &to_text(session.metadata.as_ref()),
                    &has_quota,
                    &seconds(limits::SESSION_TIMEOUT_SECONDS),
                    &limits::SESSIONS_PER_AGENT,
                ],
            )
            .await?
            .ok_or(StorageError::TooManySessions)?;
        transaction.commit().await?;
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
            created_at: row.try_get(0)?,
            metadata,
        })
    }

    async fn session_header(&self, id: &str) -> Result<Option<SessionHeader>, StorageError> {
        let connection = self.database.connection().await?;
        let row = connection
            .query_opt(
                "SELECT id, purpose, created_by, created_at, metadata FROM sessions WHERE id = $1",
                &[&id],
            )
            .await?;
        row.map(|row| {
            Ok(SessionHeader {
                id: row.try_get(0)?,
                purpose: row.try_get(1)?,
                created_by: row.try_get(2)?,
                created_at: row.try_get(3)?,
                metadata: from_text(row.try_get(4)?)?,
            })
        })
        .transpose()
    }

    async fn session_view(&self, id: &str, reader: &str) -> Result<Option<SessionView>, StorageError> {
        let connection = self.database.connection().await?;
        let recent = format!(
            "SELECT {MESSAGE_COLUMNS} FROM messages WHERE session_id = $1 AND {VISIBLE} ORDER BY id DESC LIMIT $3"
        );
        let (session, messages) = try_join(
            connection.query_opt("SELECT is_active, updated_at FROM sessions WHERE id = $1", &[&id]),
            connection.query(&recent, &[&id, &reader, &limits::RECENT_MESSAGES]),
        )
        .await?;
        let Some(session) = session else { return Ok(None) };
        Ok(Some(SessionView {
            is_active: session.try_get(0)?,
            updated_at: session.try_get(1)?,
            recent: messages.iter().map(message).collect::<Result<_, _>>()?,
        }))
    }

    async fn add_message(&self, message: NewMessage) -> Result<StoredMessage, StorageError> {
        let connection = self.database.connection().await?;
        let insert = format!(
            "WITH counted AS ( \
               UPDATE sessions SET message_count = message_count + 1, updated_at = now() \
               WHERE id = $1 AND is_active AND message_count < $7 AND ($6::bigint IS NULL OR EXISTS \
                 (SELECT FROM messages WHERE session_id = $1 AND messages.id = $6 AND {VISIBLE})) \
               RETURNING sessions.id) \
             INSERT INTO messages (session_id, sender, content, visibility, metadata, parent_message_id) \
             SELECT id, $2, $3, $4, $5, $6 FROM counted RETURNING id, created_at"
        );
        let row = connection
            .query_opt(
                &insert,
                &[
                    &message.session_id,
                    &message.sender,
                    &message.content,
                    &message.visibility.as_str(),
                    &to_text(message.metadata.as_ref()),
                    &message.parent_message_id,
                    &limits::MESSAGES_PER_SESSION,
                ],
            )
            .await?;
        match row {
            Some(row) => Ok(StoredMessage {
                id: row.try_get(0)?,
                timestamp: row.try_get(1)?,
            }),
            None => Err(why_not_added(&connection, &message.session_id).await?),
        }
    }

    async fn get_messages(&self, query: MessageQuery) -> Result<MessagePage, StorageError> {
        let connection = self.database.connection().await?;
        let filter = format!("session_id = $1 AND {VISIBLE} AND ($3::text IS NULL OR visibility = $3)");
        let count = format!(
            "SELECT EXISTS (SELECT FROM sessions WHERE id = $1), (SELECT count(*) FROM messages WHERE {filter})"
        );
        let page = format!("SELECT {MESSAGE_COLUMNS} FROM messages WHERE {filter} ORDER BY id LIMIT $4 OFFSET $5");
        let visibility = query.visibility.map(Visibility::as_str);
        let (counted, rows) = try_join(
            connection.query_one(&count, &[&query.session_id, &query.reader, &visibility]),
            connection.query(
                &page,
                &[
                    &query.session_id,
                    &query.reader,
                    &visibility,
                    &query.limit,
                    &query.offset,
                ],
            ),
        )
        .await?;
        if !counted.try_get::<_, bool>(0)? {
            return Err(StorageError::SessionNotFound);
        }
        let messages = rows.iter().map(message).collect::<Result<_, _>>()?;
        Ok(MessagePage {
            messages,
            total_count: counted.try_get(1)?,
        })
    }

    async fn set_memory(&self, entry: NewMemory) -> Result<StoredMemory, StorageError> {
        let mut connection = self.database.connection().await?;
        let transaction = connection.transaction().await?;
        let value = entry.value.to_string();
        let metadata = to_text(entry.metadata.as_ref());
        let size = memory_size(&entry, &value, metadata.as_deref());
        if entry.has_quota {
            transaction
                .query_opt(
                    "SELECT pg_advisory_xact_lock(hashtextextended('memory:' || $1, 0))",
                    &[&entry.agent_id],
                )
                .await?;
            let fits = transaction
                .query_opt(
                    "SELECT count(*) < $4 AND coalesce(sum(size_bytes), 0)::bigint + $5 <= $6 FROM agent_memory \
                     WHERE agent_id = $1 AND (expires_at IS NULL OR expires_at > now()) \
                     AND NOT (session_id IS NOT DISTINCT FROM $2 AND key = $3)",
                    &[
                        &entry.agent_id,
                        &entry.session_id,
                        &entry.key,
                        &limits::MEMORY_ENTRIES_PER_AGENT,
                        &size,
                        &limits::MEMORY_BYTES_PER_AGENT,
                    ],
                )
                .await?;
            if !fits.map(|row| row.try_get(0)).transpose()?.unwrap_or(false) {
                return Err(StorageError::MemoryFull);
            }
        }
        let row = transaction
            .query_opt(
                "INSERT INTO agent_memory AS old (agent_id, session_id, key, value, metadata, size_bytes, expires_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7)) \
                 ON CONFLICT (agent_id, session_id, key) DO UPDATE SET value = excluded.value, \
                   metadata = excluded.metadata, size_bytes = excluded.size_bytes, expires_at = excluded.expires_at, \
                   updated_at = now(), created_at = CASE WHEN old.expires_at <= now() THEN now() ELSE old.created_at END \
                 WHERE $8 OR old.expires_at <= now() RETURNING updated_at, expires_at",
                &[
                    &entry.agent_id,
                    &entry.session_id,
                    &entry.key,
                    &value,
                    &metadata,
                    &size,
                    &entry.expires_in.map(seconds),
                    &entry.overwrite,
                ],
            )
            .await
            .map_err(missing_session)?
            .ok_or(StorageError::KeyExists)?;
        transaction.commit().await?;
        Ok(StoredMemory {
            updated_at: row.try_get(0)?,
            expires_at: row.try_get(1)?,
        })
    }

    async fn get_memory(
        &self,
        agent_id: &str,
        session_id: Option<&str>,
        key: &str,
    ) -> Result<Option<MemoryEntry>, StorageError> {
        let connection = self.database.connection().await?;
        let row = connection
            .query_opt(
                "SELECT value, metadata, created_at, updated_at, expires_at FROM agent_memory \
                 WHERE agent_id = $1 AND session_id IS NOT DISTINCT FROM $2 AND key = $3 \
                 AND (expires_at IS NULL OR expires_at > now())",
                &[&agent_id, &session_id, &key],
            )
            .await?;
        row.map(|row| {
            Ok(MemoryEntry {
                value: serde_json::from_str(row.try_get(0)?)?,
                metadata: from_text(row.try_get(1)?)?,
                created_at: row.try_get(2)?,
                updated_at: row.try_get(3)?,
                expires_at: row.try_get(4)?,
            })
        })
        .transpose()
    }
}

fn message(row: &Row) -> Result<Message, StorageError> {
    Ok(Message {
        id: row.try_get(0)?,
        session_id: row.try_get(1)?,
        sender: row.try_get(2)?,
        content: row.try_get(3)?,
        visibility: row.try_get(4)?,
        metadata: from_text(row.try_get(5)?)?,
        timestamp: row.try_get::<_, Timestamp>(6)?,
        parent_message_id: row.try_get(7)?,
    })
}

/// Finds out which condition of the insertion did not hold.
async fn why_not_added(connection: &PostgresConnection, session_id: &str) -> Result<StorageError, StorageError> {
    let session = connection
        .query_opt(
            "SELECT is_active, message_count FROM sessions WHERE id = $1",
            &[&session_id],
        )
        .await?;
    Ok(match session {
        None => StorageError::SessionNotFound,
        Some(row) if !row.try_get::<_, bool>(0)? => StorageError::SessionClosed,
        Some(row) if row.try_get::<_, i32>(1)? >= limits::MESSAGES_PER_SESSION => StorageError::SessionFull,
        Some(_) => StorageError::ParentNotFound,
    })
}

fn missing_session(error: DatabaseError) -> StorageError {
    if error.is_missing_reference() {
        StorageError::SessionNotFound
    } else {
        error.into()
    }
}

/// `make_interval` takes its seconds as a floating-point number.
#[expect(clippy::cast_precision_loss, reason = "lengths of time here are below 2^52 seconds")]
const fn seconds(value: i64) -> f64 {
    value as f64
}
