//! Sessions in Postgres.

use async_trait::async_trait;
use futures::future::try_join;

use super::{MESSAGE_COLUMNS, PostgresStorage, message, page, visible};
use crate::tools::shared_context::model::{Agent, NewSession, SessionHeader, SessionView};
use crate::tools::shared_context::storage::{Sessions, StorageError, from_text, to_text};

/// Creations of one agent wait for each other, so that two at once cannot both take the last place.
const ONE_AT_A_TIME: &str = "SELECT pg_advisory_xact_lock(hashtextextended('session:' || $1, 0))";

const CREATE: &str = "\
    WITH created AS ( \
      INSERT INTO sessions (id, purpose, created_by, metadata) SELECT $1, $2, $3, $4 \
      WHERE NOT $5 OR (SELECT count(*) FROM sessions WHERE created_by = $3 AND is_active \
        AND updated_at > now() - make_interval(secs => $6)) < $7 \
      RETURNING created_at), \
    audited AS ( \
      INSERT INTO audit_log (agent_id, action, session_id) SELECT $3, 'create_session', $1 FROM created) \
    SELECT created_at FROM created";

#[async_trait]
impl Sessions for PostgresStorage {
    async fn create_session(&self, session: NewSession, has_quota: bool) -> Result<SessionHeader, StorageError> {
        let connection = self.database.connection().await?;
        let metadata = to_text(session.metadata.as_ref());
        let timeout = self.quotas.session_timeout.as_secs_f64();
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 7] = [
            &session.id,
            &session.purpose,
            &session.created_by,
            &metadata,
            &has_quota,
            &timeout,
            &self.quotas.sessions_per_agent,
        ];
        let row = if has_quota {
            let statements = [(ONE_AT_A_TIME, &[&session.created_by as _][..]), (CREATE, &parameters)];
            connection
                .transact(&statements)
                .await?
                .pop()
                .and_then(|rows| rows.into_iter().next())
        } else {
            connection.query_opt(CREATE, &parameters).await?
        };
        let created_at = row.ok_or_else(|| self.quotas.too_many_sessions())?.try_get(0)?;
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
            created_at,
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

    async fn session_view(&self, id: &str, reader: &Agent, recent: i64) -> Result<Option<SessionView>, StorageError> {
        let connection = self.database.connection().await?;
        let newest = format!(
            "SELECT {MESSAGE_COLUMNS} FROM messages WHERE session_id = $1 AND {} ORDER BY id DESC LIMIT $5",
            visible(2)
        );
        let (session, messages) = try_join(
            connection.query_opt("SELECT is_active, updated_at FROM sessions WHERE id = $1", &[&id]),
            connection.query(
                &page(&newest, "id DESC"),
                &[&id, &reader.id, &reader.agent_type, &reader.is_admin, &recent],
            ),
        )
        .await?;
        let Some(session) = session else { return Ok(None) };
        Ok(Some(SessionView {
            is_active: session.try_get(0)?,
            updated_at: session.try_get(1)?,
            recent: messages.iter().map(message).collect::<Result<_, _>>()?,
        }))
    }
}
