//! Agents' memory in Postgres.

use async_trait::async_trait;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::{PostgresStorage, missing_session, seconds};
use crate::tools::shared_context::model::{
    ListedMemory, MemoryEntry, MemoryQuery, MemoryScope, NewMemory, StoredMemory,
};
use crate::tools::shared_context::storage::{
    Memory, StorageError, USE_NOTED_EVERY, from_text, memory_size, scope_name, to_text,
};

/// Changes of one agent's memory wait for each other, so that two at once cannot both take the last place.
const ONE_AT_A_TIME: &str = "SELECT pg_advisory_xact_lock(hashtextextended('memory:' || $1, 0))";

/// What is true of the entries of the session that the parameter names, or of those of none. `IS NOT DISTINCT FROM` would
/// need no second text, but no index either.
fn scope(in_session: bool, parameter: &str) -> String {
    if in_session {
        format!("session_id = {parameter}")
    } else {
        format!("session_id IS NULL AND {parameter}::text IS NULL")
    }
}

/// `$1` to `$3` name the entry; the answer says whether it fits, and if it was stored, when.
fn set(has_quota: bool, in_session: bool) -> String {
    let scope = scope(in_session, "$2");
    // Counting costs a look at all entries of the agent: only where there is a limit, and only for what takes more room
    // than the entry that it replaces.
    let fits = if has_quota {
        format!(
            "SELECT EXISTS ( \
               SELECT FROM agent_memory WHERE agent_id = $1 AND {scope} AND key = $3 AND size_bytes >= $6 \
               AND (expires_at IS NULL OR expires_at > now())) \
             OR ( \
               SELECT count(*) < $9 AND coalesce(sum(size_bytes), 0)::bigint + $6 <= $10 FROM agent_memory \
               WHERE agent_id = $1 AND (expires_at IS NULL OR expires_at > now()) \
               AND NOT (session_id IS NOT DISTINCT FROM $2 AND key = $3)) AS fits"
        )
    } else {
        "SELECT $9::bigint IS NOT NULL AND $10::bigint IS NOT NULL AS fits".to_owned()
    };
    format!(
        "WITH quota AS MATERIALIZED ({fits}), \
         stored AS ( \
           INSERT INTO agent_memory AS old (agent_id, session_id, key, value, metadata, size_bytes, expires_at) \
           SELECT $1, $2, $3, $4, $5, $6::bigint, now() + make_interval(secs => $7) FROM quota WHERE fits \
           ON CONFLICT (agent_id, session_id, key) DO UPDATE SET value = excluded.value, \
             metadata = excluded.metadata, size_bytes = excluded.size_bytes, expires_at = excluded.expires_at, \
             updated_at = now(), created_at = CASE WHEN old.expires_at <= now() THEN now() ELSE old.created_at END \
           WHERE $8 OR old.expires_at <= now() RETURNING updated_at, expires_at), \
         used AS ( \
           UPDATE sessions SET updated_at = now() WHERE id = $2 AND EXISTS (SELECT FROM stored) \
           AND updated_at < now() - make_interval(secs => {})), \
         audited AS ( \
           INSERT INTO audit_log (agent_id, action, session_id, target) SELECT $1, 'set_memory', $2, $3 FROM stored) \
         SELECT fits, updated_at, expires_at FROM quota LEFT JOIN stored ON true",
        USE_NOTED_EVERY.as_secs()
    )
}

#[async_trait]
impl Memory for PostgresStorage {
    async fn set_memory(&self, entry: NewMemory) -> Result<StoredMemory, StorageError> {
        let connection = self.database.connection().await?;
        let value = entry.value.to_string();
        let metadata = to_text(entry.metadata.as_ref());
        let size = memory_size(&entry, &value, metadata.as_deref());
        let expires_in = entry.expires_in.map(seconds);
        let parameters: [&(dyn ToSql + Sync); 10] = [
            &entry.agent_id,
            &entry.session_id,
            &entry.key,
            &value,
            &metadata,
            &size,
            &expires_in,
            &entry.overwrite,
            &self.quotas.memory_entries_per_agent,
            &self.quotas.memory_bytes_per_agent,
        ];
        let set = set(entry.has_quota, entry.session_id.is_some());
        let row = if entry.has_quota {
            let statements = [(ONE_AT_A_TIME, &[&entry.agent_id as _][..]), (&set, &parameters)];
            let mut answers = connection.transact(&statements).await.map_err(missing_session)?;
            answers.pop().and_then(|rows| rows.into_iter().next())
        } else {
            connection.query_opt(&set, &parameters).await.map_err(missing_session)?
        };
        let row = row.ok_or_else(|| self.quotas.memory_full())?;
        if !row.try_get::<_, bool>(0)? {
            return Err(self.quotas.memory_full());
        }
        Ok(StoredMemory {
            updated_at: row.try_get::<_, Option<_>>(1)?.ok_or(StorageError::KeyExists)?,
            expires_at: row.try_get(2)?,
        })
    }

    async fn get_memory(
        &self,
        agent_id: &str,
        session_id: Option<&str>,
        key: &str,
    ) -> Result<Option<MemoryEntry>, StorageError> {
        let scope = scope(session_id.is_some(), "$3");
        let select = format!(
            "SELECT value, metadata, created_at, updated_at, expires_at FROM agent_memory \
             WHERE agent_id = $1 AND {scope} AND key = $2 AND (expires_at IS NULL OR expires_at > now())"
        );
        let connection = self.database.connection().await?;
        let row = connection.query_opt(&select, &[&agent_id, &key, &session_id]).await?;
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

    async fn list_memory(&self, query: MemoryQuery) -> Result<Vec<ListedMemory>, StorageError> {
        let (scope, session_id) = match &query.scope {
            MemoryScope::Global => ("session_id IS NULL AND $4::text IS NULL", None),
            MemoryScope::Session(id) => ("session_id = $4", Some(id)),
            MemoryScope::All => ("$4::text IS NULL", None),
        };
        let value = if query.value_bytes > 0 {
            "CASE WHEN sum(octet_length(value)) OVER (ORDER BY updated_at DESC, key, session_id) <= $5 THEN value END"
        } else {
            "CASE WHEN $5::bigint IS NULL THEN value END"
        };
        let select = format!(
            "SELECT key, session_id, created_at, updated_at, expires_at, octet_length(value)::bigint, {value} \
             FROM agent_memory \
             WHERE agent_id = $1 AND {scope} AND starts_with(key, $2) AND (expires_at IS NULL OR expires_at > now()) \
             ORDER BY updated_at DESC, key, session_id LIMIT $3"
        );
        let connection = self.database.connection().await?;
        let rows = connection
            .query(
                &select,
                &[
                    &query.agent_id,
                    &query.prefix,
                    &query.limit,
                    &session_id,
                    &query.value_bytes,
                ],
            )
            .await?;
        rows.iter().map(listed).collect()
    }
}

fn listed(row: &Row) -> Result<ListedMemory, StorageError> {
    let session_id: Option<String> = row.try_get(1)?;
    Ok(ListedMemory {
        key: row.try_get(0)?,
        scope: scope_name(session_id.as_deref()),
        session_id,
        created_at: row.try_get(2)?,
        updated_at: row.try_get(3)?,
        expires_at: row.try_get(4)?,
        value_size: row.try_get(5)?,
        value: from_text(row.try_get(6)?)?,
    })
}
