//! What is stored, and what callers see of it.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::permission::Permissions;

/// Who may read a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Every agent.
    Public,
    /// The sender only.
    Private,
    /// The sender, and agents that have proven to be of the sender's type.
    AgentOnly,
    /// Administrators only.
    AdminOnly,
}

impl Visibility {
    /// As stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::AgentOnly => "agent_only",
            Self::AdminOnly => "admin_only",
        }
    }
}

/// An agent that reads or writes, as far as it decides what the agent may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Its name.
    pub id: String,
    /// Its type, if it has proven it.
    pub agent_type: Option<String>,
    /// Whether it may see what is for administrators only.
    pub is_admin: bool,
}

impl Agent {
    /// An agent of whom nothing but a name is known.
    #[must_use]
    pub fn named(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            agent_type: None,
            is_admin: false,
        }
    }
}

/// SHA-256 of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash(pub [u8; 32]);

/// What a new token shall stand for.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// The agent.
    pub agent_id: String,
    /// Its type.
    pub agent_type: String,
    /// What it may do.
    pub permissions: Permissions,
    /// Whether whoever asked for it proved that it may.
    pub is_proven: bool,
    /// The key with which it did, if it was one of the server's: the token ends with it.
    pub key_id: Option<String>,
}

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenClaims {
    /// The agent.
    pub agent_id: String,
    /// Its type.
    pub agent_type: String,
    /// What it may do.
    pub permissions: Permissions,
    /// Whether whoever asked for it proved that it may.
    pub is_proven: bool,
    /// The key with which it did, if it was one of the server's.
    pub key_id: Option<String>,
    /// When it was made.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// A session to create.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// `session_` and 16 hexadecimal digits.
    pub id: String,
    /// What it is for.
    pub purpose: String,
    /// Agent that creates it.
    pub created_by: String,
    /// Free-form.
    pub metadata: Option<Value>,
}

/// The part of a session that never changes, and may therefore be cached without invalidation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionHeader {
    /// `session_` and 16 hexadecimal digits.
    pub id: String,
    /// What it is for.
    pub purpose: String,
    /// Agent that created it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// Free-form.
    pub metadata: Option<Value>,
}

/// The part of a session that changes, as one caller sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionView {
    /// Whether messages may be added.
    pub is_active: bool,
    /// Time of the last change.
    pub updated_at: Timestamp,
    /// The most recent messages that the caller may read, newest first.
    pub recent: Vec<Message>,
}

/// A message to add.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Session it belongs to.
    pub session_id: String,
    /// Agent that sends it.
    pub sender: Agent,
    /// Text.
    pub content: String,
    /// Who may read it.
    pub visibility: Visibility,
    /// Free-form.
    pub metadata: Option<Value>,
    /// Message of the same session that it answers.
    pub parent_message_id: Option<i64>,
}

/// What the store adds to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredMessage {
    /// Grows within a session in the order of messages.
    pub id: i64,
    /// When it was stored.
    pub timestamp: Timestamp,
}

/// A message as read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Grows within a session in the order of messages.
    pub id: i64,
    /// Session it belongs to.
    pub session_id: String,
    /// Agent that sent it.
    pub sender: String,
    /// Text.
    pub content: String,
    /// Who may read it.
    pub visibility: String,
    /// Free-form.
    pub metadata: Option<Value>,
    /// When it was stored.
    pub timestamp: Timestamp,
    /// Message that it answers.
    pub parent_message_id: Option<i64>,
}

impl Message {
    /// What it counts in a page, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        let metadata = self.metadata.as_ref().map_or(0, |metadata| metadata.to_string().len());
        self.content.len() + metadata
    }
}

/// Some of a session's messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MessagePage {
    /// Oldest first.
    pub messages: Vec<Message>,
    /// How many the caller may read in all.
    pub total_count: i64,
}

/// A memory entry to set.
#[derive(Debug, Clone)]
pub struct NewMemory {
    /// Agent whose memory it is.
    pub agent_id: String,
    /// Session it is limited to; `None` for the agent's global memory.
    pub session_id: Option<String>,
    /// Name within agent and session.
    pub key: String,
    /// Anything.
    pub value: Value,
    /// Free-form.
    pub metadata: Option<Value>,
    /// Life in seconds; `None` for ever.
    pub expires_in: Option<i64>,
    /// Whether to replace a live entry.
    pub overwrite: bool,
    /// Whether the limits per agent apply.
    pub has_quota: bool,
}

/// What the store adds to a memory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredMemory {
    /// When it was set.
    pub updated_at: Timestamp,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

/// Which of an agent's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryScope {
    /// What belongs to no session.
    Global,
    /// What belongs to this session.
    Session(String),
    /// Both.
    All,
}

/// Which memory entries to list.
#[derive(Debug, Clone)]
pub struct MemoryQuery {
    /// Agent whose memory it is.
    pub agent_id: String,
    /// Which part of it.
    pub scope: MemoryScope,
    /// Only keys that begin so; all if empty.
    pub prefix: String,
    /// At most this many, the most recently set first.
    pub limit: i64,
    /// Values too, of the first entries until they have this many bytes in all; none for 0.
    pub value_bytes: i64,
}

/// A memory entry in a list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ListedMemory {
    /// Name within agent and session.
    pub key: String,
    /// `global` or `session`.
    pub scope: &'static str,
    /// Session it is limited to.
    pub session_id: Option<String>,
    /// When it was first set.
    pub created_at: Timestamp,
    /// When it was last set.
    pub updated_at: Timestamp,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// Length of the value's JSON text, in bytes.
    pub value_size: i64,
    /// The value, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
}

/// A memory entry as read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryEntry {
    /// Anything.
    pub value: Value,
    /// Free-form.
    pub metadata: Option<Value>,
    /// When it was first set.
    pub created_at: Timestamp,
    /// When it was last set.
    pub updated_at: Timestamp,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}
