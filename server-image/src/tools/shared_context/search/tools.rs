//! Tools for finding messages.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ranking::Wanted;
use super::storage::{Found, SearchQuery, SenderQuery, TimeQuery};
use crate::tools::shared_context::caller::Claim;
use crate::tools::shared_context::checks::{self, explain};
use crate::tools::shared_context::limits;
use crate::tools::shared_context::model::{Message, Visibility};
use crate::tools::shared_context::permission::Permission;
use crate::tools::shared_context::tools::SharedContext;
use crate::tools::{CallContext, Effect, InvalidTool, ToolError, ToolRegistry, ToolResult};

/// Which messages to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Scope {
    /// All that you may read.
    All,
    /// Public ones.
    Public,
    /// Your private ones.
    Private,
}

impl Scope {
    const fn visibility(self) -> Option<Visibility> {
        match self {
            Self::All => None,
            Self::Public => Some(Visibility::Public),
            Self::Private => Some(Visibility::Private),
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SearchContext {
    /// Id from `create_session`.
    session_id: String,
    /// What to look for; neither case nor typing errors matter.
    #[schemars(length(min = 1, max = 500))]
    query: String,
    /// Least score of a result: 100 if the query is in the message word for word, 0 shows every message.
    #[serde(default = "threshold_default")]
    #[schemars(range(min = 0, max = 100))]
    fuzzy_threshold: f64,
    /// Most results to return. Fewer are returned when they are long, and `is_shortened` is true then.
    #[serde(default = "results_default")]
    #[schemars(range(min = 1, max = 100))]
    limit: i64,
    /// Whether the values of messages' metadata are searched, too.
    #[serde(default = "yes")]
    search_metadata: bool,
    /// Which messages to search: all that you may read, the public ones, or your private ones.
    #[serde(default = "all")]
    search_scope: Scope,
    /// Your agent id, where no token proves it; "anonymous" if left out.
    agent_id: Option<String>,
    /// Your token from `authenticate_agent`.
    auth_token: Option<String>,
}

const fn threshold_default() -> f64 {
    limits::THRESHOLD_DEFAULT
}

const fn results_default() -> i64 {
    limits::RESULTS_DEFAULT
}

const fn yes() -> bool {
    true
}

const fn all() -> Scope {
    Scope::All
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SearchBySender {
    /// Id from `create_session`.
    session_id: String,
    /// Agent that sent the messages.
    #[schemars(length(min = 1, max = 100))]
    sender: String,
    /// Most messages to return. Fewer are returned when they are long, and `is_shortened` is true then.
    #[serde(default = "of_sender_default")]
    #[schemars(range(min = 1, max = 100))]
    limit: i64,
    /// Your agent id, where no token proves it; "anonymous" if left out.
    agent_id: Option<String>,
    /// Your token from `authenticate_agent`.
    auth_token: Option<String>,
}

const fn of_sender_default() -> i64 {
    limits::OF_SENDER_DEFAULT
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SearchByTimerange {
    /// Id from `create_session`.
    session_id: String,
    /// Start of the time in ISO 8601, such as 2026-07-28T09:30:00Z; without an offset it is in UTC.
    start_time: String,
    /// End of the time, which belongs to it, written likewise.
    end_time: String,
    /// Most messages to return. Fewer are returned when they are long, and `is_shortened` is true then.
    #[serde(default = "of_time_default")]
    #[schemars(range(min = 1, max = 200))]
    limit: i64,
    /// Your agent id, where no token proves it; "anonymous" if left out.
    agent_id: Option<String>,
    /// Your token from `authenticate_agent`.
    auth_token: Option<String>,
}

const fn of_time_default() -> i64 {
    limits::OF_TIME_DEFAULT
}

impl SharedContext {
    pub(in crate::tools::shared_context) fn register_search(
        self: &Arc<Self>,
        registry: &mut ToolRegistry,
    ) -> Result<(), InvalidTool> {
        registry.add(
            "search_context",
            Effect::Reads,
            "Finds the messages of a session that fit a query best, among all that you may read: in sender, content and \
             metadata, whatever the case, and despite typing errors. Best first; of equal ones the newest first.",
            self.method(Self::search_context),
        )?;
        registry.add(
            "search_by_sender",
            Effect::Reads,
            "Returns the newest messages of one sender in a session that you may read, newest first.",
            self.method(Self::search_by_sender),
        )?;
        registry.add(
            "search_by_timerange",
            Effect::Reads,
            "Returns the messages of a time in a session that you may read, oldest first.",
            self.method(Self::search_by_timerange),
        )
    }

    async fn search_context(self: Arc<Self>, arguments: SearchContext, context: CallContext) -> ToolResult {
        let started = Instant::now();
        let claim = Claim {
            agent_id: arguments.agent_id,
            auth_token: arguments.auth_token,
        };
        let caller = self.caller(claim, Permission::Read, "search_context", &context).await?;
        let session_id = checks::session_id(arguments.session_id)?;
        checks::text("query", &arguments.query, limits::QUERY_MAX)?;
        threshold(arguments.fuzzy_threshold)?;
        let query = SearchQuery {
            session_id,
            reader: caller.agent().clone(),
            visibility: arguments.search_scope.visibility(),
        };
        let wanted = Wanted {
            query: arguments.query,
            threshold: arguments.fuzzy_threshold,
            limit: count(arguments.limit, limits::RESULTS_MAX)?,
            metadata: arguments.search_metadata,
        };
        let found = self.storage.search(query, wanted.clone()).await.map_err(explain)?;
        Ok(json!({
            "success": true,
            "message_count": found.best.len(),
            "is_shortened": is_shortened(found.best.iter().map(|found| &found.message), arguments.limit),
            "results": found.best.iter().map(result).collect::<Vec<_>>(),
            "query": wanted.query,
            "threshold": wanted.threshold,
            "search_scope": arguments.search_scope,
            "search_time_ms": hundredths(started.elapsed().as_secs_f64() * 1000.0),
            "cache_hit": found.is_kept,
        }))
    }

    async fn search_by_sender(self: Arc<Self>, arguments: SearchBySender, context: CallContext) -> ToolResult {
        let claim = Claim {
            agent_id: arguments.agent_id,
            auth_token: arguments.auth_token,
        };
        let caller = self
            .caller(claim, Permission::Read, "search_by_sender", &context)
            .await?;
        let session_id = checks::session_id(arguments.session_id)?;
        checks::name("sender", &arguments.sender, limits::AGENT_ID_MAX)?;
        checks::range("limit", arguments.limit, 1, limits::OF_SENDER_MAX)?;
        let query = SenderQuery {
            session_id,
            reader: caller.agent().clone(),
            sender: arguments.sender.clone(),
            limit: arguments.limit,
        };
        let messages = self.storage.messages_of_sender(query).await.map_err(explain)?;
        Ok(json!({
            "success": true,
            "count": messages.len(),
            "is_shortened": is_shortened(messages.iter(), arguments.limit),
            "messages": messages,
            "sender": arguments.sender,
        }))
    }

    async fn search_by_timerange(self: Arc<Self>, arguments: SearchByTimerange, context: CallContext) -> ToolResult {
        let claim = Claim {
            agent_id: arguments.agent_id,
            auth_token: arguments.auth_token,
        };
        let caller = self
            .caller(claim, Permission::Read, "search_by_timerange", &context)
            .await?;
        let session_id = checks::session_id(arguments.session_id)?;
        checks::range("limit", arguments.limit, 1, limits::OF_TIME_MAX)?;
        let (start, end) = (
            time("start_time", &arguments.start_time)?,
            time("end_time", &arguments.end_time)?,
        );
        if end < start {
            return Err(ToolError::invalid("end_time must not be before start_time", "end_time"));
        }
        let query = TimeQuery {
            session_id,
            reader: caller.agent().clone(),
            start,
            end,
            limit: arguments.limit,
        };
        let messages = self.storage.messages_of_time(query).await.map_err(explain)?;
        Ok(json!({
            "success": true,
            "count": messages.len(),
            "is_shortened": is_shortened(messages.iter(), arguments.limit),
            "messages": messages,
            "timerange": {"start": arguments.start_time, "end": arguments.end_time},
        }))
    }
}

/// Whether fewer messages were returned than asked for because they are as long as an answer may be.
fn is_shortened<'a>(messages: impl ExactSizeIterator<Item = &'a Message>, limit: i64) -> bool {
    let is_less = i64::try_from(messages.len()).is_ok_and(|count| count < limit);
    is_less && messages.map(Message::size).sum::<usize>() >= limits::PAGE_BYTES
}

fn result(found: &Found) -> Value {
    json!({
        "score": hundredths(found.score),
        "match_preview": preview(&found.message.content),
        "relevance": relevance(found.score),
        "message": found.message,
    })
}

/// The start of a message; dots tell that it goes on.
fn preview(content: &str) -> String {
    match content.char_indices().nth(limits::PREVIEW) {
        Some((end, _)) => format!("{}...", &content[..end]),
        None => content.to_owned(),
    }
}

fn relevance(score: f64) -> &'static str {
    if score >= 80.0 {
        "high"
    } else if score >= 60.0 {
        "medium"
    } else {
        "low"
    }
}

/// Rounded to two digits after the point, exactly as the decimal value says.
fn hundredths(value: f64) -> f64 {
    format!("{value:.2}").parse().unwrap_or(value)
}

fn threshold(threshold: f64) -> Result<(), ToolError> {
    if (0.0..=100.0).contains(&threshold) {
        return Ok(());
    }
    Err(ToolError::invalid(
        format!("fuzzy_threshold must be from 0 to 100, not {threshold}"),
        "fuzzy_threshold",
    ))
}

fn count(limit: i64, max: i64) -> Result<usize, ToolError> {
    checks::range("limit", limit, 1, max)?;
    usize::try_from(limit).map_err(|error| ToolError::internal(&error))
}

fn time(field: &str, text: &str) -> Result<Timestamp, ToolError> {
    let text = text.trim();
    let time = text.parse::<Timestamp>().ok().or_else(|| {
        let local: DateTime = text.parse().ok()?;
        Some(local.to_zoned(TimeZone::UTC).ok()?.timestamp())
    });
    time.ok_or_else(|| {
        let example = "a time in ISO 8601, such as 2026-07-28T09:30:00Z";
        ToolError::invalid(format!("{field} must be {example}, not {text:?}"), field)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Agents write times as they like; a time read wrongly finds the wrong messages.
    #[test]
    fn times_are_read_with_and_without_an_offset() {
        for (text, expected) in [
            ("2026-07-28T09:30:00Z", Some("2026-07-28T09:30:00Z")),
            ("2026-07-28T09:30:00.123456+00:00", Some("2026-07-28T09:30:00.123456Z")),
            ("2026-07-28T11:30:00+02:00", Some("2026-07-28T09:30:00Z")),
            ("2026-07-28 09:30:00", Some("2026-07-28T09:30:00Z")),
            (" 2026-07-28T09:30 ", Some("2026-07-28T09:30:00Z")),
            ("2026-07-28", Some("2026-07-28T00:00:00Z")),
            ("yesterday", None),
            ("", None),
            ("2026-02-30T00:00:00Z", None),
        ] {
            let found = time("start_time", text).ok().map(|time| time.to_string());
            assert_eq!(found.as_deref(), expected, "{text:?}");
        }
    }

    /// A message is cut between characters, never within one.
    #[test]
    fn previews_have_150_characters() {
        for (name, content, expected) in [
            ("short", "é".repeat(150), "é".repeat(150)),
            ("long", "é".repeat(151), format!("{}...", "é".repeat(150))),
            ("empty", String::new(), String::new()),
        ] {
            assert_eq!(preview(&content), expected, "{name}");
        }
    }

    /// Agents act on these words.
    #[test]
    fn relevance_is_as_documented() {
        for (score, expected) in [
            (100.0, "high"),
            (80.0, "high"),
            (79.99, "medium"),
            (60.0, "medium"),
            (59.9, "low"),
        ] {
            assert_eq!(relevance(score), expected, "{score}");
        }
    }

    /// Thresholds that are not numbers, or out of range, are told to the caller.
    #[test]
    fn thresholds_are_from_0_to_100() {
        for (value, valid) in [
            (0.0, true),
            (100.0, true),
            (-0.1, false),
            (100.1, false),
            (f64::NAN, false),
        ] {
            assert_eq!(threshold(value).is_ok(), valid, "{value}");
        }
    }
}
