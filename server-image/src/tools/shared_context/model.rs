//! What is stored, and what callers see of it.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Who may read a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Every agent.
    Public,
    /// The sender only.
    Private,
    /// The sender only, as long as callers have no proven type that could widen it.
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
#[derive(Debug, Clone, PartialEq)]
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
    pub sender: String,
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
#[derive(Debug, Clone, PartialEq, Serialize)]
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

/// Some of a session's messages.
#[derive(Debug, Clone, PartialEq)]
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

/// A memory entry as read.
#[derive(Debug, Clone, PartialEq)]
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
