//! The one interface to stored context, and its two implementations. Who may read what is decided in the queries, so
//! that no caller of this interface can forget it.

mod cached;
pub(super) mod postgres;
mod schema;
pub(super) mod sqlite;

pub use cached::cached;
pub use schema::MIGRATIONS;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::audit::Refusal;
use super::limits::Quotas;
use super::model::{
    Agent, ListedMemory, MemoryEntry, MemoryQuery, MessagePage, NewMemory, NewMessage, NewSession, NewToken,
    SessionHeader, SessionView, StoredMemory, StoredMessage, TokenClaims, TokenHash, Visibility,
};
use super::permission::Permissions;
use super::retention::{Cleaned, Cleaning, Place};
use super::search::Search;
use crate::database::{Database, DatabaseError};

/// Setting memory of a session counts as a use of the session, which is noted once in this time: more often it would
/// make writers wait for each other, and all replicas forget the session's messages.
const USE_NOTED_EVERY: Duration = Duration::from_mins(1);

/// Which messages to read.
#[derive(Debug, Clone)]
pub struct MessageQuery {
    /// Of which session.
    pub session_id: String,
    /// On whose behalf.
    pub reader: Agent,
    /// Only those of this visibility.
    pub visibility: Option<Visibility>,
    /// At most this many.
    pub limit: i64,
    /// After skipping this many.
    pub offset: i64,
}

/// Why something was not stored or found.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// There is no such session.
    #[error("session not found")]
    SessionNotFound,
    /// The session has been closed.
    #[error("the session is closed")]
    SessionClosed,
    /// The session has as many messages as it may.
    #[error("the session is full")]
    SessionFull {
        /// How many that is.
        max: i32,
    },
    /// The message to answer does not exist in this session, or the caller may not read it.
    #[error("parent message not found")]
    ParentNotFound,
    /// The agent has as many sessions in use as it may.
    #[error("too many sessions")]
    TooManySessions {
        /// How many that is.
        max: i64,
        /// One that is not used for this long no longer counts.
        timeout: Duration,
    },
    /// The agent's memory is full.
    #[error("memory full")]
    MemoryFull {
        /// Most entries.
        entries: i64,
        /// Most bytes.
        bytes: i64,
    },
    /// The key is taken and must not be overwritten.
    #[error("key exists")]
    KeyExists,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<rusqlite::Error> for StorageError {
    fn from(error: rusqlite::Error) -> Self {
        DatabaseError::from(error).into()
    }
}

impl From<tokio_postgres::Error> for StorageError {
    fn from(error: tokio_postgres::Error) -> Self {
        DatabaseError::from(error).into()
    }
}

impl From<serde_json::Error> for StorageError {
    fn from(error: serde_json::Error) -> Self {
        DatabaseError::from(error).into()
    }
}

/// Stored sessions.
#[async_trait]
pub trait Sessions: Send + Sync + 'static {
    /// Creates a session; `has_quota` says whether the creator's limit applies.
    ///
    /// # Errors
    /// [`StorageError::TooManySessions`], [`StorageError::Database`].
    async fn create_session(&self, session: NewSession, has_quota: bool) -> Result<SessionHeader, StorageError>;

    /// The unchanging part of a session; `None` if there is none.
    ///
    /// # Errors
    /// [`StorageError::Database`].
    async fn session_header(&self, id: &str) -> Result<Option<SessionHeader>, StorageError>;

    /// The changing part of a session as `reader` sees it, with at most `recent` messages, and no more than fit in
    /// [`PAGE_BYTES`](super::limits::PAGE_BYTES); `None` if there is no such session.
    ///
    /// # Errors
    /// [`StorageError::Database`].
    async fn session_view(&self, id: &str, reader: &Agent, recent: i64) -> Result<Option<SessionView>, StorageError>;
}

/// Stored messages.
#[async_trait]
pub trait Messages: Send + Sync + 'static {
    /// Adds a message to an active session.
    ///
    /// # Errors
    /// [`StorageError::SessionNotFound`], [`StorageError::SessionClosed`], [`StorageError::SessionFull`],
    /// [`StorageError::ParentNotFound`], [`StorageError::Database`].
    async fn add_message(&self, message: NewMessage) -> Result<StoredMessage, StorageError>;

    /// Reads a page of messages: as many as are asked for, or fit in [`PAGE_BYTES`](super::limits::PAGE_BYTES); at
    /// least one, if there is one.
    ///
    /// # Errors
    /// [`StorageError::SessionNotFound`], [`StorageError::Database`].
    async fn get_messages(&self, query: MessageQuery) -> Result<MessagePage, StorageError>;
}

/// Stored memory of agents.
#[async_trait]
pub trait Memory: Send + Sync + 'static {
    /// Sets a memory entry. A session that it is limited to has been used with that.
    ///
    /// # Errors
    /// [`StorageError::SessionNotFound`], [`StorageError::KeyExists`], [`StorageError::MemoryFull`],
    /// [`StorageError::Database`].
    async fn set_memory(&self, entry: NewMemory) -> Result<StoredMemory, StorageError>;

    /// Reads a live memory entry; `None` if there is none.
    ///
    /// # Errors
    /// [`StorageError::Database`].
    async fn get_memory(
        &self,
        agent_id: &str,
        session_id: Option<&str>,
        key: &str,
    ) -> Result<Option<MemoryEntry>, StorageError>;

    /// Lists live memory entries.
    ///
    /// # Errors
    /// [`StorageError::Database`].
    async fn list_memory(&self, query: MemoryQuery) -> Result<Vec<ListedMemory>, StorageError>;
}

/// Stored tokens of agents.
#[async_trait]
pub trait StoredTokens: Send + Sync + 'static {
    /// Stores a new token.
    ///
    /// # Errors
    /// [`StorageError::Database`].
    async fn issue_token(
        &self,
        hash: TokenHash,
        token: NewToken,
        lifetime: Duration,
    ) -> Result<TokenClaims, StorageError>;

    /// What a token stands for; `None` if there is no such token or it has expired.
    ///
    /// # Errors
    /// [`StorageError::Database`].
    async fn token_claims(&self, hash: TokenHash) -> Result<Option<TokenClaims>, StorageError>;

    /// Replaces the token `old` by `new`, which stands for the same; `None` if there is no such token or it has
    /// expired. Of several at once, one succeeds.
    ///
    /// # Errors
    /// [`StorageError::Database`].
    async fn replace_token(
        &self,
        old: TokenHash,
        new: TokenHash,
        lifetime: Duration,
    ) -> Result<Option<TokenClaims>, StorageError>;
}

/// The audit log, as far as it is not written together with a change.
#[async_trait]
pub trait AuditLog: Send + Sync + 'static {
    /// Writes a line for each refusal, with how often it happened.
    ///
    /// # Errors
    /// [`StorageError::Database`].
    async fn audit_refusals(&self, refusals: BTreeMap<Refusal, i64>) -> Result<(), StorageError>;
}

/// Removal of what has ended.
#[async_trait]
pub trait Retention: Send + Sync + 'static {
    /// Does a step of `chore`, in one short transaction: looks at no more than `batch` sessions behind `place`, or as
    /// many rows of what has no such place, and changes no more rows than that. The chore is done when nothing is left,
    /// or when another replica does the same now.
    ///
    /// # Errors
    /// [`StorageError::Database`].
    async fn clean(&self, chore: Cleaning, place: &Place, batch: i64) -> Result<Cleaned, StorageError>;
}

/// Everything the toolset stores.
pub trait Storage: Sessions + Messages + Memory + Search + StoredTokens + AuditLog + Retention {}

impl<Kind: Sessions + Messages + Memory + Search + StoredTokens + AuditLog + Retention> Storage for Kind {}

impl Quotas {
    const fn session_full(&self) -> StorageError {
        StorageError::SessionFull {
            max: self.messages_per_session,
        }
    }

    const fn too_many_sessions(&self) -> StorageError {
        StorageError::TooManySessions {
            max: self.sessions_per_agent,
            timeout: self.session_timeout,
        }
    }

    const fn memory_full(&self) -> StorageError {
        StorageError::MemoryFull {
            entries: self.memory_entries_per_agent,
            bytes: self.memory_bytes_per_agent,
        }
    }
}

/// The storage for a database, which holds as much as `quotas` allow.
#[must_use]
pub fn open(database: &Database, quotas: Quotas) -> Arc<dyn Storage> {
    match database {
        Database::Postgres(database) => Arc::new(postgres::PostgresStorage::new(database.clone(), quotas)),
        Database::Sqlite(database) => Arc::new(sqlite::SqliteStorage::new(database.clone(), quotas)),
    }
}

/// JSON is stored as text: it comes back exactly as it was written, in either database.
fn to_text(value: Option<&Value>) -> Option<String> {
    value.map(Value::to_string)
}

fn from_text(text: Option<&str>) -> Result<Option<Value>, StorageError> {
    Ok(text.map(serde_json::from_str).transpose()?)
}

/// What a memory entry counts against its agent's limit.
fn memory_size(entry: &NewMemory, value: &str, metadata: Option<&str>) -> i64 {
    i64::try_from(entry.key.len() + value.len() + metadata.map_or(0, str::len)).unwrap_or(i64::MAX)
}

/// What callers call the part of memory that an entry belongs to.
const fn scope_name(session_id: Option<&str>) -> &'static str {
    if session_id.is_some() { "session" } else { "global" }
}

fn permissions_to_text(permissions: &Permissions) -> Result<String, StorageError> {
    Ok(serde_json::to_string(permissions)?)
}

fn permissions_from_text(text: &str) -> Result<Permissions, StorageError> {
    Ok(serde_json::from_str(text)?)
}

/// What the audit log calls an agent of whom nothing is known.
const NOBODY: &str = "";
