//! What can be cached, and what names it.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::memory_size::HeapBytes;

/// What can be cached.
pub trait Cached: Clone + HeapBytes + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Begins the keys of all values of this type; no other type's may.
    const KIND: &'static str;

    /// When the value ends by itself, if it does.
    fn expires_at(&self) -> Option<Timestamp> {
        None
    }
}

/// What a value depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub(super) text: Arc<str>,
    pub(super) tags: Vec<String>,
}

impl Key {
    /// The key of a value of type `Kind` that answers `query`, which must hold everything that the answer depends on,
    /// the reader included: its `Debug` text is the key. `tags` name what changes it, as the journal does.
    pub fn new<Kind: Cached>(query: &impl std::fmt::Debug, tags: Vec<String>) -> Self {
        Self {
            text: format!("{}:{query:?}", Kind::KIND).into(),
            tags,
        }
    }
}

/// Tag of a session, its messages included.
#[must_use]
pub fn session_tag(session_id: &str) -> String {
    format!("session:{session_id}")
}

/// Tag of one entry of an agent's memory.
#[must_use]
pub fn memory_tag(agent_id: &str, session_id: Option<&str>, key: &str) -> String {
    format!("memory:{agent_id}\u{1f}{}\u{1f}{key}", session_id.unwrap_or_default())
}
