//! Agents' memory in a SQLite file.

use async_trait::async_trait;
use rusqlite::{Connection, Row, params};

use super::{Audited, SqliteStorage, audit, micros, missing_session, now, time};
use crate::tools::shared_context::limits::Quotas;
use crate::tools::shared_context::model::{
    ListedMemory, MemoryEntry, MemoryQuery, MemoryScope, NewMemory, StoredMemory,
};
use crate::tools::shared_context::storage::{
    Memory, StorageError, USE_NOTED_EVERY, from_text, memory_size, scope_name, to_text,
};

#[async_trait]
impl Memory for SqliteStorage {
    async fn set_memory(&self, entry: NewMemory) -> Result<StoredMemory, StorageError> {
        let quotas = self.quotas;
        self.database
            .write(move |transaction| set_memory(transaction, &entry, quotas))
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

    async fn list_memory(&self, query: MemoryQuery) -> Result<Vec<ListedMemory>, StorageError> {
        self.database
            .read(move |transaction| list_memory(transaction, &query))
            .await
    }
}

pub(super) fn set_memory(
    connection: &Connection,
    entry: &NewMemory,
    quotas: Quotas,
) -> Result<StoredMemory, StorageError> {
    let now = now();
    let value = entry.value.to_string();
    let metadata = to_text(entry.metadata.as_ref());
    let size = memory_size(entry, &value, metadata.as_deref());
    if entry.has_quota && !fits(connection, entry, size, now, quotas)? {
        return Err(quotas.memory_full());
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
    if let Some(session_id) = &entry.session_id {
        note_use(connection, session_id, now)?;
    }
    let line = Audited {
        agent_id: &entry.agent_id,
        agent_type: None,
        action: "set_memory",
        session_id: entry.session_id.as_deref(),
        target: Some(&entry.key),
    };
    audit(connection, now, &line)?;
    Ok(StoredMemory {
        updated_at: time(now),
        expires_at: expires_at.map(time),
    })
}

/// Lets the session live on for the entry.
fn note_use(connection: &Connection, session_id: &str, now: i64) -> Result<(), StorageError> {
    connection
        .prepare_cached("UPDATE sessions SET updated_at = ?2 WHERE id = ?1 AND updated_at < ?3")?
        .execute(params![session_id, now, now.saturating_sub(micros(USE_NOTED_EVERY))])?;
    Ok(())
}

/// Whether there is room for an entry. What takes no more than the one that it replaces needs none, and no count.
fn fits(connection: &Connection, entry: &NewMemory, size: i64, now: i64, quotas: Quotas) -> Result<bool, StorageError> {
    let replaces = connection
        .prepare_cached(
            "SELECT 1 FROM agent_memory WHERE agent_id = ?1 AND ifnull(session_id, '') = ifnull(?2, '') AND key = ?3 \
             AND size_bytes >= ?5 AND (expires_at IS NULL OR expires_at > ?4)",
        )?
        .exists(params![entry.agent_id, entry.session_id, entry.key, now, size])?;
    if replaces {
        return Ok(true);
    }
    let (entries, bytes): (i64, i64) = connection
        .prepare_cached(
            "SELECT count(*), ifnull(sum(size_bytes), 0) FROM agent_memory \
             WHERE agent_id = ?1 AND (expires_at IS NULL OR expires_at > ?4) AND NOT (session_id IS ?2 AND key = ?3)",
        )?
        .query_row(params![entry.agent_id, entry.session_id, entry.key, now], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    Ok(entries < quotas.memory_entries_per_agent && bytes.saturating_add(size) <= quotas.memory_bytes_per_agent)
}

pub(super) fn get_memory(
    connection: &Connection,
    agent_id: &str,
    session_id: Option<&str>,
    key: &str,
) -> Result<Option<MemoryEntry>, StorageError> {
    let mut statement = connection.prepare_cached(
        "SELECT value, metadata, created_at, updated_at, expires_at FROM agent_memory \
         WHERE agent_id = ?1 AND ifnull(session_id, '') = ifnull(?2, '') AND key = ?3 AND (expires_at IS NULL OR expires_at > ?4)",
    )?;
    let mut rows = statement.query(params![agent_id, session_id, key, now()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some(MemoryEntry {
        value: serde_json::from_str(&row.get::<_, String>(0)?)?,
        metadata: from_text(row.get::<_, Option<String>>(1)?.as_deref())?,
        created_at: time(row.get(2)?),
        updated_at: time(row.get(3)?),
        expires_at: row.get::<_, Option<i64>>(4)?.map(time),
    }))
}

pub(super) fn list_memory(connection: &Connection, query: &MemoryQuery) -> Result<Vec<ListedMemory>, StorageError> {
    let (scope, session_id) = match &query.scope {
        MemoryScope::Global => ("ifnull(session_id, '') = '' AND ?4 IS NULL", None),
        MemoryScope::Session(id) => ("ifnull(session_id, '') = ?4", Some(id)),
        MemoryScope::All => ("?4 IS NULL", None),
    };
    let value = if query.value_bytes > 0 {
        "iif(sum(octet_length(value)) OVER (ORDER BY updated_at DESC, key, session_id) <= ?6, value, NULL)"
    } else {
        "iif(?6 IS NULL, value, NULL)"
    };
    let select = format!(
        "SELECT key, session_id, created_at, updated_at, expires_at, octet_length(value), {value} FROM agent_memory \
         WHERE agent_id = ?1 AND {scope} AND substr(key, 1, length(?2)) = ?2 AND (expires_at IS NULL OR expires_at > ?5) \
         ORDER BY updated_at DESC, key, session_id LIMIT ?3"
    );
    let mut statement = connection.prepare_cached(&select)?;
    let rows = statement.query_and_then(
        params![
            query.agent_id,
            query.prefix,
            query.limit,
            session_id,
            now(),
            query.value_bytes
        ],
        listed,
    )?;
    rows.collect()
}

fn listed(row: &Row<'_>) -> Result<ListedMemory, StorageError> {
    let session_id: Option<String> = row.get(1)?;
    Ok(ListedMemory {
        key: row.get(0)?,
        scope: scope_name(session_id.as_deref()),
        session_id,
        created_at: time(row.get(2)?),
        updated_at: time(row.get(3)?),
        expires_at: row.get::<_, Option<i64>>(4)?.map(time),
        value_size: row.get(5)?,
        value: from_text(row.get::<_, Option<String>>(6)?.as_deref())?,
    })
}
