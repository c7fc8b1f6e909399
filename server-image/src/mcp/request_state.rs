//! The state of a call in several rounds: the client of 2026-07-28 carries it, sealed so that it cannot be changed, and
//! any replica can open it.
//!
//! The key is what the administrator gives (`--request-state-key-file` or `MCP_REQUEST_STATE_KEY`). Without one, the
//! first replica that needs a key makes one and leaves it in the database for the others.

use std::sync::Arc;
use std::time::Duration;

use rmcp::ErrorData;
use rmcp::model::{RequestStateCodec, RequestStateError, SealOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::database::{Database, DatabaseError, Migration};

/// Shortest key, in bytes: as long as the seal.
pub const KEY_MIN: usize = RequestStateCodec::MIN_KEY_LENGTH;
/// How long a client may take for one round.
const ROUND_MAX: Duration = Duration::from_mins(30);
/// Name of the key in the table of secrets.
const NAME: &str = "request_state_key";

/// The table of what replicas share and nobody else may know.
pub const MIGRATIONS: &[Migration] = &[Migration {
    name: "mcp_3_secrets",
    postgres: "CREATE TABLE mcp_secrets (name text PRIMARY KEY, value text NOT NULL)",
    sqlite: "CREATE TABLE mcp_secrets (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
}];

/// A key too short to protect anything.
#[derive(Debug, thiserror::Error)]
#[error(
    "the key for request states (--request-state-key-file, MCP_REQUEST_STATE_KEY) has {0} bytes; it needs {KEY_MIN} or more"
)]
pub struct KeyTooShort(usize);

/// Seals and opens states.
#[derive(Debug)]
pub struct RequestStates {
    codec: OnceCell<RequestStateCodec>,
    database: Database,
}

impl RequestStates {
    /// States sealed with `key`, or with the key in `database`.
    ///
    /// # Errors
    /// [`KeyTooShort`].
    pub fn new(key: Option<&[u8]>, database: Database) -> Result<Arc<Self>, KeyTooShort> {
        let codec = match key {
            None => OnceCell::new(),
            Some(key) => {
                let codec = RequestStateCodec::try_new(key).map_err(|_| KeyTooShort(key.len()))?;
                OnceCell::new_with(Some(codec))
            }
        };
        Ok(Arc::new(Self { codec, database }))
    }

    /// Seals `state` for the next round of `purpose` (such as a tool's name): it opens for nothing else.
    ///
    /// # Errors
    /// The key cannot be read, or `state` is no JSON.
    pub async fn seal(&self, purpose: &str, state: &impl Serialize) -> Result<String, ErrorData> {
        let options = SealOptions::new().associated_data(purpose.as_bytes()).ttl(ROUND_MAX);
        self.codec()
            .await?
            .seal_json_with(state, &options)
            .map_err(|error| ErrorData::internal_error(error.to_string(), None))
    }

    /// Opens what came back from a client.
    ///
    /// # Errors
    /// The state was changed, is for something else, or is too old.
    pub async fn open<State: DeserializeOwned>(&self, purpose: &str, sealed: &str) -> Result<State, ErrorData> {
        let opened = self.codec().await?.open_json_with(sealed, purpose.as_bytes());
        opened.map_err(|error| match error {
            RequestStateError::Expired => {
                ErrorData::invalid_params("requestState is more than 30 minutes old: begin again without it", None)
            }
            _ => ErrorData::invalid_params(
                "requestState is not what this server sent: repeat it unchanged, or begin again without it",
                None,
            ),
        })
    }

    async fn codec(&self) -> Result<&RequestStateCodec, ErrorData> {
        let made = self.codec.get_or_try_init(async || {
            let key = self.shared_key().await?;
            Ok::<_, DatabaseError>(RequestStateCodec::new_unchecked(key))
        });
        made.await.map_err(|error| {
            tracing::warn!(%error, "cannot read the key for request states");
            ErrorData::internal_error("the server cannot read its key for request states", None)
        })
    }

    /// The key that all replicas use: this one's suggestion, unless another was first.
    async fn shared_key(&self) -> Result<String, DatabaseError> {
        // Two random UUIDs hold 244 random bits.
        let suggestion = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        match &self.database {
            Database::Postgres(database) => {
                let connection = database.connection().await?;
                let insert = "INSERT INTO mcp_secrets (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING";
                connection.query(insert, &[&NAME, &suggestion]).await?;
                let read = "SELECT value FROM mcp_secrets WHERE name = $1";
                Ok(connection.query_one(read, &[&NAME]).await?.try_get(0)?)
            }
            Database::Sqlite(database) => {
                let shared = database.write(move |transaction| {
                    let insert = "INSERT INTO mcp_secrets (name, value) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
                    transaction.execute(insert, [NAME, &suggestion])?;
                    let read = "SELECT value FROM mcp_secrets WHERE name = ?1";
                    Ok::<_, DatabaseError>(transaction.query_row(read, [NAME], |row| row.get(0))?)
                });
                shared.await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::DatabaseTarget;
    use prometheus_client::registry::Registry;
    use serde_json::{Value, json};

    fn states(key: &[u8], folder: &tempfile::TempDir) -> Result<Arc<RequestStates>, KeyTooShort> {
        let target = DatabaseTarget::Sqlite(folder.path().join("test.db"));
        let database = Database::open(&target, 1, &mut Registry::default()).unwrap();
        RequestStates::new(Some(key), database)
    }

    /// Replicas with the administrator's key must understand each other; anybody else's state must be refused.
    #[tokio::test]
    async fn a_state_opens_with_the_same_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = ([7; KEY_MIN], [8; KEY_MIN]);
        let sealed = states(&ours, &folder)
            .unwrap()
            .seal("tool", &json!({"round": 1}))
            .await
            .unwrap();
        let opened: Value = states(&ours, &folder).unwrap().open("tool", &sealed).await.unwrap();
        assert_eq!(opened, json!({"round": 1}));
        for (name, key, purpose) in [("another key", theirs, "tool"), ("another tool", ours, "other")] {
            let refused = states(&key, &folder).unwrap().open::<Value>(purpose, &sealed).await;
            assert!(refused.is_err(), "{name}");
        }
    }

    #[test]
    fn a_short_key_is_refused_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let error = states(&[7; KEY_MIN - 1], &folder).unwrap_err().to_string();
        assert!(
            error.contains("--request-state-key-file") && error.contains("31 bytes"),
            "{error}"
        );
    }
}
