//! The documented limits. Lengths of text are in characters, sizes in bytes of the JSON text.

use std::time::Duration;

/// How much a session, and a named agent, may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// Messages per session.
    pub messages_per_session: i32,
    /// Sessions a named agent may have in use at once.
    pub sessions_per_agent: i64,
    /// After this time without use a session no longer counts against its creator.
    pub session_timeout: Duration,
    /// Live memory entries of a named agent.
    pub memory_entries_per_agent: i64,
    /// Size of all live memory entries of a named agent.
    pub memory_bytes_per_agent: i64,
    /// Size of the metadata of one session, message or memory entry.
    pub metadata_bytes: usize,
}

impl Default for Quotas {
    /// The documented ones.
    fn default() -> Self {
        Self {
            messages_per_session: 10_000,
            sessions_per_agent: 50,
            session_timeout: Duration::from_hours(1),
            memory_entries_per_agent: 1_000,
            memory_bytes_per_agent: 100 * 1024 * 1024,
            metadata_bytes: 10 * 1024,
        }
    }
}

/// Longest agent id.
pub const AGENT_ID_MAX: usize = 100;
/// Longest type of an agent.
pub const AGENT_TYPE_MAX: usize = 50;
/// Longest purpose of a session; it is meant to be a sentence.
pub const PURPOSE_MAX: usize = 1_000;
/// Longest message.
pub const CONTENT_MAX: usize = 100_000;
/// Longest key of a memory entry.
pub const KEY_MAX: usize = 255;
/// Longest life of a memory entry with an expiry, in seconds: one year.
pub const EXPIRES_IN_MAX: i64 = 365 * 24 * 3600;
/// Most messages in one page.
pub const PAGE_MAX: i64 = 1_000;
/// Messages in a page unless asked otherwise.
pub const PAGE_DEFAULT: i64 = 50;
/// Size of a page after which it takes in no more messages, in bytes: a thousand of the longest ones have 400 MB, more
/// than a pod.
pub const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Most recent messages that `get_session` shows.
pub const RECENT_MESSAGES: i64 = 50;
/// Most memory entries in one list.
pub const MEMORY_LIST_MAX: i64 = 200;
/// Memory entries in a list unless asked otherwise.
pub const MEMORY_LIST_DEFAULT: i64 = 50;
/// Memory entries that the resource `agent://{agent_id}/memory` shows.
pub const MEMORY_RESOURCE_ENTRIES: i64 = 200;
/// Size of all values that it shows.
pub const MEMORY_RESOURCE_BYTES: i64 = 1024 * 1024;
/// Longest query of a search.
pub const QUERY_MAX: usize = 500;
/// Least score of a search result unless asked otherwise.
pub const THRESHOLD_DEFAULT: f64 = 60.0;
/// Most results of a search.
pub const RESULTS_MAX: i64 = 100;
/// Results of a search unless asked otherwise.
pub const RESULTS_DEFAULT: i64 = 10;
/// Length of the excerpt that a search result shows.
pub const PREVIEW: usize = 150;
/// Most messages of a sender in one answer.
pub const OF_SENDER_MAX: i64 = 100;
/// Messages of a sender in one answer unless asked otherwise.
pub const OF_SENDER_DEFAULT: i64 = 20;
/// Most messages of a time in one answer.
pub const OF_TIME_MAX: i64 = 200;
/// Messages of a time in one answer unless asked otherwise.
pub const OF_TIME_DEFAULT: i64 = 50;
