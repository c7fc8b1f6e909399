//! The six tools: checking arguments, calling the storage, shaping results.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::caller::Caller;
use super::checks::{self, explain};
use super::header_cache::HeaderCache;
use super::limits;
use super::model::{NewMemory, NewMessage, NewSession, SessionHeader, Visibility};
use super::storage::{MessageQuery, Storage, StorageError};
use crate::tools::{Effect, InvalidTool, ToolError, ToolRegistry, ToolResult};

/// The toolset.
pub struct SharedContext {
    storage: Arc<dyn Storage>,
    cache: Option<HeaderCache>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateSession {
    /// What the session is for.
    #[schemars(length(min = 1, max = 1_000))]
    purpose: String,
    /// Free-form object of at most 10 KiB.
    metadata: Option<serde_json::Map<String, Value>>,
    /// Your agent id; "anonymous" if left out.
    agent_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetSession {
    /// Id from `create_session`.
    session_id: String,
    /// Your agent id; "anonymous" if left out.
    agent_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AddMessage {
    /// Id from `create_session`.
    session_id: String,
    /// Text of the message.
    #[schemars(length(min = 1, max = 100_000))]
    content: String,
    /// Who may read it: public (everybody), private or `agent_only` (only you), `admin_only`.
    #[serde(default = "public")]
    visibility: Visibility,
    /// Free-form object of at most 10 KiB.
    metadata: Option<serde_json::Map<String, Value>>,
    /// Message of the same session that this one answers.
    parent_message_id: Option<i64>,
    /// Your agent id; "anonymous" if left out.
    agent_id: Option<String>,
}

const fn public() -> Visibility {
    Visibility::Public
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetMessages {
    /// Id from `create_session`.
    session_id: String,
    /// Most messages to return.
    #[serde(default = "page_default")]
    #[schemars(range(min = 1, max = 1_000))]
    limit: i64,
    /// Messages to skip, oldest first.
    #[serde(default)]
    #[schemars(range(min = 0))]
    offset: i64,
    /// Only messages of this visibility.
    visibility_filter: Option<Visibility>,
    /// Your agent id; "anonymous" if left out.
    agent_id: Option<String>,
}

const fn page_default() -> i64 {
    limits::PAGE_DEFAULT
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SetMemory {
    /// Name of the entry.
    #[schemars(length(min = 1, max = 255))]
    key: String,
    /// Any JSON value.
    value: Value,
    /// Session the entry is limited to; left out for your global memory.
    session_id: Option<String>,
    /// Seconds the entry lives, at most a year; left out or 0 for ever.
    #[schemars(range(min = 0, max = 31_536_000))]
    expires_in: Option<i64>,
    /// Free-form object of at most 10 KiB.
    metadata: Option<serde_json::Map<String, Value>>,
    /// Whether to replace an existing entry.
    #[serde(default = "yes")]
    overwrite: bool,
    /// Your agent id; "anonymous" if left out.
    agent_id: Option<String>,
}

const fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetMemory {
    /// Name of the entry.
    key: String,
    /// Session the entry is limited to; left out for your global memory.
    session_id: Option<String>,
    /// Your agent id; "anonymous" if left out.
    agent_id: Option<String>,
}

impl SharedContext {
    /// The toolset on `storage`; `cache` speeds up `get_session`.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, cache: Option<HeaderCache>) -> Arc<Self> {
        Arc::new(Self { storage, cache })
    }

    /// Adds the tools.
    ///
    /// # Errors
    /// [`InvalidTool`] never in practice: all arguments are objects.
    pub fn register(self: &Arc<Self>, registry: &mut ToolRegistry) -> Result<(), InvalidTool> {
        let this = Arc::clone(self);
        registry.add(
            "create_session",
            Effect::Adds,
            "Creates a session that agents share, and returns its session_id. A named agent may have 50 in use.",
            move |arguments, _context| Arc::clone(&this).create_session(arguments),
        )?;
        let this = Arc::clone(self);
        registry.add(
            "get_session",
            Effect::Reads,
            "Returns a session with its 50 most recent messages that you may read, newest first.",
            move |arguments, _context| Arc::clone(&this).get_session(arguments),
        )?;
        let this = Arc::clone(self);
        registry.add(
            "add_message",
            Effect::Adds,
            "Adds a message to a session. Private messages of callers without agent_id are readable by all such callers.",
            move |arguments, _context| Arc::clone(&this).add_message(arguments),
        )?;
        let this = Arc::clone(self);
        registry.add(
            "get_messages",
            Effect::Reads,
            "Returns messages of a session that you may read, oldest first, a page at a time.",
            move |arguments, _context| Arc::clone(&this).get_messages(arguments),
        )?;
        let this = Arc::clone(self);
        registry.add(
            "set_memory",
            Effect::Sets,
            "Stores a value under a key in your memory. Callers without agent_id share one memory.",
            move |arguments, _context| Arc::clone(&this).set_memory(arguments),
        )?;
        let this = Arc::clone(self);
        registry.add(
            "get_memory",
            Effect::Reads,
            "Returns a value from your memory.",
            move |arguments, _context| Arc::clone(&this).get_memory(arguments),
        )
    }

    async fn create_session(self: Arc<Self>, arguments: CreateSession) -> ToolResult {
        let caller = Caller::claimed(arguments.agent_id)?;
        checks::text("purpose", &arguments.purpose, limits::PURPOSE_MAX)?;
        let metadata = checks::metadata(arguments.metadata)?;
        let id = format!("session_{}", &Uuid::new_v4().simple().to_string()[..16]);
        let session = NewSession {
            id,
            purpose: arguments.purpose,
            created_by: caller.agent_id().to_owned(),
            metadata,
        };
        let header = self
            .storage
            .create_session(session, caller.has_quota())
            .await
            .map_err(explain)?;
        Ok(json!({
            "success": true,
            "session_id": header.id,
            "created_by": header.created_by,
            "created_at": header.created_at,
        }))
    }

    async fn get_session(self: Arc<Self>, arguments: GetSession) -> ToolResult {
        let caller = Caller::claimed(arguments.agent_id)?;
        let id = checks::session_id(arguments.session_id)?;
        let header = self.header(&id).await?;
        let view = self.storage.session_view(&id, caller.agent()).await.map_err(explain)?;
        let view = view.ok_or_else(|| explain(StorageError::SessionNotFound))?;
        Ok(json!({
            "success": true,
            "session": {
                "id": header.id,
                "purpose": header.purpose,
                "created_by": header.created_by,
                "created_at": header.created_at,
                "updated_at": view.updated_at,
                "is_active": view.is_active,
                "metadata": header.metadata,
            },
            "message_count": view.recent.len(),
            "messages": view.recent,
        }))
    }

    async fn header(&self, id: &str) -> Result<SessionHeader, ToolError> {
        if let Some(cache) = &self.cache
            && let Some(header) = cache.get(id).await
        {
            return Ok(header);
        }
        let header = self.storage.session_header(id).await.map_err(explain)?;
        let header = header.ok_or_else(|| explain(StorageError::SessionNotFound))?;
        if let Some(cache) = &self.cache {
            cache.put(&header).await;
        }
        Ok(header)
    }

    async fn add_message(self: Arc<Self>, arguments: AddMessage) -> ToolResult {
        let caller = Caller::claimed(arguments.agent_id)?;
        let session_id = checks::session_id(arguments.session_id)?;
        checks::text("content", &arguments.content, limits::CONTENT_MAX)?;
        let metadata = checks::metadata(arguments.metadata)?;
        if arguments.visibility == Visibility::AdminOnly {
            return Err(ToolError::permission_denied(
                "admin_only messages need the admin permission, which no caller has without authentication",
                "Use visibility public, private or agent_only",
            ));
        }
        let message = NewMessage {
            session_id,
            sender: caller.agent().clone(),
            content: arguments.content,
            visibility: arguments.visibility,
            metadata,
            parent_message_id: arguments.parent_message_id,
        };
        let stored = self.storage.add_message(message).await.map_err(explain)?;
        Ok(json!({"success": true, "message_id": stored.id, "timestamp": stored.timestamp}))
    }

    async fn get_messages(self: Arc<Self>, arguments: GetMessages) -> ToolResult {
        let caller = Caller::claimed(arguments.agent_id)?;
        let session_id = checks::session_id(arguments.session_id)?;
        let GetMessages {
            limit,
            offset,
            visibility_filter,
            ..
        } = arguments;
        checks::range("limit", limit, 1, limits::PAGE_MAX)?;
        checks::range("offset", offset, 0, i64::MAX)?;
        let query = MessageQuery {
            session_id,
            reader: caller.agent().clone(),
            visibility: visibility_filter,
            limit,
            offset,
        };
        let page = self.storage.get_messages(query).await.map_err(explain)?;
        Ok(json!({
            "success": true,
            "count": page.messages.len(),
            "messages": page.messages,
            "total_count": page.total_count,
            "has_more": offset.saturating_add(limit) < page.total_count,
        }))
    }

    async fn set_memory(self: Arc<Self>, arguments: SetMemory) -> ToolResult {
        let caller = Caller::claimed(arguments.agent_id)?;
        checks::text("key", &arguments.key, limits::KEY_MAX)?;
        let session_id = arguments.session_id.map(checks::session_id).transpose()?;
        let metadata = checks::metadata(arguments.metadata)?;
        if let Some(seconds) = arguments.expires_in {
            checks::range("expires_in", seconds, 0, limits::EXPIRES_IN_MAX)?;
        }
        let scope = scope(session_id.as_deref());
        let entry = NewMemory {
            agent_id: caller.agent_id().to_owned(),
            session_id,
            key: arguments.key.clone(),
            value: arguments.value,
            metadata,
            expires_in: arguments.expires_in.filter(|seconds| *seconds > 0),
            overwrite: arguments.overwrite,
            has_quota: caller.has_quota(),
        };
        let stored = self.storage.set_memory(entry).await.map_err(explain)?;
        Ok(json!({
            "success": true,
            "key": arguments.key,
            "session_scoped": scope == "session",
            "scope": scope,
            "expires_at": stored.expires_at,
            "stored_at": stored.updated_at,
        }))
    }

    async fn get_memory(self: Arc<Self>, arguments: GetMemory) -> ToolResult {
        let caller = Caller::claimed(arguments.agent_id)?;
        checks::text("key", &arguments.key, limits::KEY_MAX)?;
        let session_id = arguments.session_id.map(checks::session_id).transpose()?;
        let entry = self
            .storage
            .get_memory(caller.agent_id(), session_id.as_deref(), &arguments.key)
            .await
            .map_err(explain)?;
        let entry = entry.ok_or_else(|| {
            ToolError::new(
                "MEMORY_NOT_FOUND",
                format!("there is no live memory entry with the key {:?}", arguments.key),
                &[
                    "Check the key, the session_id and your agent_id",
                    "The entry may have expired",
                ],
            )
            .with_related(&["set_memory"])
        })?;
        Ok(json!({
            "success": true,
            "key": arguments.key,
            "value": entry.value,
            "metadata": entry.metadata,
            "created_at": entry.created_at,
            "updated_at": entry.updated_at,
            "expires_at": entry.expires_at,
            "scope": scope(session_id.as_deref()),
        }))
    }
}

const fn scope(session_id: Option<&str>) -> &'static str {
    if session_id.is_some() { "session" } else { "global" }
}
