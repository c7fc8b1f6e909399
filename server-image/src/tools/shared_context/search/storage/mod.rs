//! Stored messages as the search reads them. Who may read what is decided in the queries, with the conditions of the
//! toolset's storage.

mod postgres;
mod sqlite;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ranking::{Ranked, Wanted};
use crate::database::Migration;
use crate::tools::shared_context::limits::PAGE_BYTES;
use crate::tools::shared_context::model::{Agent, Message, Visibility};
use crate::tools::shared_context::storage::StorageError;

/// The index for messages of a sender. Messages in the order of their ids have one.
pub const BY_SENDER: Migration = Migration {
    name: "shared_context_search_1_messages_by_sender",
    postgres: "CREATE INDEX CONCURRENTLY IF NOT EXISTS messages_by_sender ON messages (session_id, sender, id)",
    sqlite: "CREATE INDEX IF NOT EXISTS messages_by_sender ON messages (session_id, sender, id)",
};

/// The index for messages of a time.
pub const BY_TIME: Migration = Migration {
    name: "shared_context_search_2_messages_by_time",
    postgres: "CREATE INDEX CONCURRENTLY IF NOT EXISTS messages_by_time ON messages (session_id, created_at, id)",
    sqlite: "CREATE INDEX IF NOT EXISTS messages_by_time ON messages (session_id, created_at, id)",
};

/// So many results are read at once: one answer as a rule, and not much more than fits when messages are long.
const AT_ONCE: usize = 10;

/// Which messages to search.
#[derive(Debug, Clone)]
pub struct SearchQuery {
    /// Of which session.
    pub session_id: String,
    /// On whose behalf.
    pub reader: Agent,
    /// Only those of this visibility.
    pub visibility: Option<Visibility>,
}

/// Which sender's messages to read.
#[derive(Debug, Clone)]
pub struct SenderQuery {
    /// Of which session.
    pub session_id: String,
    /// On whose behalf.
    pub reader: Agent,
    /// Who sent them.
    pub sender: String,
    /// At most this many, the newest.
    pub limit: i64,
}

/// Messages of which time to read.
#[derive(Debug, Clone)]
pub struct TimeQuery {
    /// Of which session.
    pub session_id: String,
    /// On whose behalf.
    pub reader: Agent,
    /// From this time on.
    pub start: Timestamp,
    /// Up to and including this time.
    pub end: Timestamp,
    /// At most this many, the oldest.
    pub limit: i64,
}

/// A message that fits a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The message.
    pub message: Message,
    /// How well it fits, from 0 to 100.
    pub score: f64,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchResults {
    /// The best messages, the best first. Shared, because the same answer may go to many.
    pub best: Arc<Vec<Found>>,
    /// Whether they were kept from an earlier search of the same.
    pub is_kept: bool,
}

impl SearchResults {
    /// Results that were found just now.
    fn new(best: Vec<Found>) -> Self {
        Self {
            best: Arc::new(best),
            is_kept: false,
        }
    }
}

/// Finding messages.
#[async_trait]
pub trait Search: Send + Sync + 'static {
    /// Compares all messages that the reader may read with what is `wanted`, and returns the best of them: as many as
    /// are wanted, or fit in [`PAGE_BYTES`].
    ///
    /// Messages are read newest first and in portions, so that memory is bounded whatever the session holds, and no
    /// other work waits for more than a portion. What arrives meanwhile is not seen; what is removed is not returned.
    ///
    /// # Errors
    /// [`StorageError::SessionNotFound`], [`StorageError::Database`].
    async fn search(&self, query: SearchQuery, wanted: Wanted) -> Result<SearchResults, StorageError>;

    /// The newest messages of a sender, the newest first; as many as fit in [`PAGE_BYTES`].
    ///
    /// # Errors
    /// [`StorageError::SessionNotFound`], [`StorageError::Database`].
    async fn messages_of_sender(&self, query: SenderQuery) -> Result<Vec<Message>, StorageError>;

    /// The messages of a time, the oldest first; as many as fit in [`PAGE_BYTES`].
    ///
    /// # Errors
    /// [`StorageError::SessionNotFound`], [`StorageError::Database`].
    async fn messages_of_time(&self, query: TimeQuery) -> Result<Vec<Message>, StorageError>;
}

/// Results in the order of the ranking, as many as fit in a page.
#[derive(Debug, Default)]
struct Results {
    found: Vec<Found>,
    bytes: usize,
}

impl Results {
    /// Adds the messages of `ranked` that were read by id, in any order, as long as there is room.
    fn add(&mut self, ranked: &[Ranked], mut messages: Vec<Message>) {
        for ranked in ranked {
            let Some(place) = messages.iter().position(|message| message.id == ranked.id) else {
                continue;
            };
            if self.are_full() {
                return;
            }
            let message = messages.swap_remove(place);
            self.bytes += message.size();
            self.found.push(Found {
                message,
                score: ranked.score,
            });
        }
    }

    const fn are_full(&self) -> bool {
        self.bytes >= PAGE_BYTES
    }
}
