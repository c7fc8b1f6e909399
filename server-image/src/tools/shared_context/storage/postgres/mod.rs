//! Shared context in Postgres. What a tool call needs is one statement, or several sent at once: one round trip.

mod memory;
mod messages;
mod retention;
mod sessions;
mod tokens;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::{StorageError, from_text};
use crate::database::{DatabaseError, PostgresDatabase};
use crate::tools::shared_context::limits::{PAGE_BYTES, Quotas};
use crate::tools::shared_context::model::Message;

pub(in crate::tools::shared_context) struct PostgresStorage {
    pub(in crate::tools::shared_context) database: PostgresDatabase,
    quotas: Quotas,
}

impl PostgresStorage {
    pub(super) const fn new(database: PostgresDatabase, quotas: Quotas) -> Self {
        Self { database, quotas }
    }
}

/// What a reader may see: the parameters `$first` and the two after it are its id, its proven type, and whether it is
/// an administrator.
pub(in crate::tools::shared_context) fn visible(first: u8) -> String {
    let [id, agent_type, is_admin] = [first, first + 1, first + 2];
    format!(
        "(visibility = 'public' \
         OR visibility IN ('private', 'agent_only') AND sender = ${id} \
         OR visibility = 'agent_only' AND sender_type = ${agent_type}::text \
         OR visibility = 'admin_only' AND ${is_admin}::boolean)"
    )
}

/// Columns that [`message`] reads.
pub(in crate::tools::shared_context) const MESSAGE_COLUMNS: &str =
    "id, session_id, sender, content, visibility, metadata, created_at, parent_message_id";

/// The messages of a page, of those that `found` selects in the order `order`. Sizes are those of the stored values,
/// which Postgres knows without reading them.
pub(in crate::tools::shared_context) fn page(found: &str, order: &str) -> String {
    format!(
        "SELECT {MESSAGE_COLUMNS} FROM ( \
           SELECT {MESSAGE_COLUMNS}, sum(octet_length(content) + coalesce(octet_length(metadata), 0)) \
             OVER (ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before \
           FROM ({found}) AS found) AS sized \
         WHERE coalesce(bytes_before, 0) < {PAGE_BYTES} ORDER BY {order}"
    )
}

/// A message from a row of [`MESSAGE_COLUMNS`].
pub(in crate::tools::shared_context) fn message(row: &Row) -> Result<Message, StorageError> {
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
