//! Messages in Postgres.

use async_trait::async_trait;
use futures::future::try_join;

use super::{MESSAGE_COLUMNS, PostgresStorage, message, page, visible};
use crate::database::PostgresConnection;
use crate::tools::shared_context::limits::Quotas;
use crate::tools::shared_context::model::{MessagePage, NewMessage, StoredMessage, Visibility};
use crate::tools::shared_context::storage::{MessageQuery, Messages, StorageError, to_text};

#[async_trait]
impl Messages for PostgresStorage {
    async fn add_message(&self, message: NewMessage) -> Result<StoredMessage, StorageError> {
        let connection = self.database.connection().await?;
        let insert = format!(
            "WITH counted AS ( \
               UPDATE sessions SET message_count = message_count + 1, updated_at = now() \
               WHERE id = $1 AND is_active AND message_count < $5 AND ($6::bigint IS NULL OR EXISTS \
                 (SELECT FROM messages WHERE session_id = $1 AND messages.id = $6 AND {})) \
               RETURNING sessions.id), \
             added AS ( \
               INSERT INTO messages (session_id, sender, sender_type, content, visibility, metadata, parent_message_id) \
               SELECT id, $2, $3, $7, $8, $9, $6 FROM counted RETURNING id, created_at), \
             audited AS ( \
               INSERT INTO audit_log (agent_id, agent_type, action, session_id, target) \
               SELECT $2, $3, 'add_message', $1, id::text FROM added) \
             SELECT id, created_at FROM added",
            visible(2)
        );
        let row = connection
            .query_opt(
                &insert,
                &[
                    &message.session_id,
                    &message.sender.id,
                    &message.sender.agent_type,
                    &message.sender.is_admin,
                    &self.quotas.messages_per_session,
                    &message.parent_message_id,
                    &message.content,
                    &message.visibility.as_str(),
                    &to_text(message.metadata.as_ref()),
                ],
            )
            .await?;
        match row {
            Some(row) => Ok(StoredMessage {
                id: row.try_get(0)?,
                timestamp: row.try_get(1)?,
            }),
            None => Err(why_not_added(&connection, &message.session_id, self.quotas).await?),
        }
    }

    async fn get_messages(&self, query: MessageQuery) -> Result<MessagePage, StorageError> {
        let connection = self.database.connection().await?;
        let filter = format!(
            "session_id = $1 AND {} AND ($5::text IS NULL OR visibility = $5)",
            visible(2)
        );
        let count = format!(
            "SELECT EXISTS (SELECT FROM sessions WHERE id = $1), (SELECT count(*) FROM messages WHERE {filter})"
        );
        let found = format!("SELECT {MESSAGE_COLUMNS} FROM messages WHERE {filter} ORDER BY id LIMIT $6 OFFSET $7");
        let visibility = query.visibility.map(Visibility::as_str);
        let reader = &query.reader;
        let (counted, rows) = try_join(
            connection.query_one(
                &count,
                &[
                    &query.session_id,
                    &reader.id,
                    &reader.agent_type,
                    &reader.is_admin,
                    &visibility,
                ],
            ),
            connection.query(
                &page(&found, "id"),
                &[
                    &query.session_id,
                    &reader.id,
                    &reader.agent_type,
                    &reader.is_admin,
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
}

/// Finds out which condition of the insertion did not hold.
async fn why_not_added(
    connection: &PostgresConnection,
    session_id: &str,
    quotas: Quotas,
) -> Result<StorageError, StorageError> {
    let session = connection
        .query_opt(
            "SELECT is_active, message_count FROM sessions WHERE id = $1",
            &[&session_id],
        )
        .await?;
    Ok(match session {
        None => StorageError::SessionNotFound,
        Some(row) if !row.try_get::<_, bool>(0)? => StorageError::SessionClosed,
        Some(row) if row.try_get::<_, i32>(1)? >= quotas.messages_per_session => quotas.session_full(),
        Some(_) => StorageError::ParentNotFound,
    })
}
