//! Tools for agents' memory.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::SharedContext;
use crate::tools::shared_context::caller::Claim;
use crate::tools::shared_context::checks::{self, explain};
use crate::tools::shared_context::limits;
use crate::tools::shared_context::model::{MemoryQuery, MemoryScope, NewMemory};
use crate::tools::shared_context::permission::Permission;
use crate::tools::shared_context::resources::{memory_uri, other_memory_uris};
use crate::tools::{CallContext, Effect, InvalidTool, ToolError, ToolRegistry, ToolResult};

/// Value of `session_id` that asks for the memory of all sessions, and the global one.
const ALL: &str = "all";

#[derive(Deserialize, JsonSchema)]
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
    /// Free-form object of at most 10 KiB, unless this server is set otherwise.
    metadata: Option<serde_json::Map<String, Value>>,
    /// Whether to replace an existing entry.
    #[serde(default = "yes")]
    overwrite: bool,
    /// Your agent id, where no token proves it; "anonymous" if left out.
    agent_id: Option<String>,
    /// Your token from `authenticate_agent`.
    auth_token: Option<String>,
}

const fn yes() -> bool {
    true
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetMemory {
    /// Name of the entry.
    key: String,
    /// Session the entry is limited to; left out for your global memory.
    session_id: Option<String>,
    /// Your agent id, where no token proves it; "anonymous" if left out.
    agent_id: Option<String>,
    /// Your token from `authenticate_agent`.
    auth_token: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListMemory {
    /// Session whose entries to list; left out for your global memory, "all" for both.
    session_id: Option<String>,
    /// Only keys that begin so.
    prefix: Option<String>,
    /// Most entries to return.
    #[serde(default = "list_default")]
    #[schemars(range(min = 1, max = 200))]
    limit: i64,
    /// Your agent id, where no token proves it; "anonymous" if left out.
    agent_id: Option<String>,
    /// Your token from `authenticate_agent`.
    auth_token: Option<String>,
}

const fn list_default() -> i64 {
    limits::MEMORY_LIST_DEFAULT
}

impl SharedContext {
    pub(super) fn register_memory(self: &Arc<Self>, registry: &mut ToolRegistry) -> Result<(), InvalidTool> {
        registry.add(
            "set_memory",
            Effect::Sets,
            "Stores a value under a key in your memory. Callers without agent_id share one memory.",
            self.method(Self::set_memory),
        )?;
        registry.add(
            "get_memory",
            Effect::Reads,
            "Returns a value from your memory.",
            self.method(Self::get_memory),
        )?;
        registry.add(
            "list_memory",
            Effect::Reads,
            "Lists entries of your memory without their values, the last set first.",
            self.method(Self::list_memory),
        )
    }

    async fn set_memory(self: Arc<Self>, arguments: SetMemory, context: CallContext) -> ToolResult {
        let claim = Claim {
            agent_id: arguments.agent_id,
            auth_token: arguments.auth_token,
        };
        let caller = self.caller(claim, Permission::Write, "set_memory", &context).await?;
        checks::text("key", &arguments.key, limits::KEY_MAX)?;
        let session_id = arguments.session_id.map(checks::session_id).transpose()?;
        let metadata = checks::metadata(arguments.metadata, self.quotas.metadata_bytes)?;
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
        let (memory, also) = (memory_uri(caller.agent_id()), other_memory_uris(caller.agent_id()));
        let changes = self.changes.clone();
        let stored = self
            .write(memory, |storage| async move {
                let stored = storage.set_memory(entry).await?;
                for uri in also {
                    changes.resource_updated(uri);
                }
                Ok(stored)
            })
            .await?;
        Ok(json!({
            "success": true,
            "key": arguments.key,
            "session_scoped": scope == "session",
            "scope": scope,
            "expires_at": stored.expires_at,
            "stored_at": stored.updated_at,
        }))
    }

    async fn get_memory(self: Arc<Self>, arguments: GetMemory, context: CallContext) -> ToolResult {
        let claim = Claim {
            agent_id: arguments.agent_id,
            auth_token: arguments.auth_token,
        };
        let caller = self.caller(claim, Permission::Read, "get_memory", &context).await?;
        checks::text("key", &arguments.key, limits::KEY_MAX)?;
        let session_id = arguments.session_id.map(checks::session_id).transpose()?;
        let entry = self
            .storage
            .get_memory(caller.agent_id(), session_id.as_deref(), &arguments.key)
            .await
            .map_err(explain)?;
        let entry = entry.ok_or_else(|| not_found(&arguments.key))?;
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

    async fn list_memory(self: Arc<Self>, arguments: ListMemory, context: CallContext) -> ToolResult {
        let claim = Claim {
            agent_id: arguments.agent_id,
            auth_token: arguments.auth_token,
        };
        let caller = self.caller(claim, Permission::Read, "list_memory", &context).await?;
        checks::range("limit", arguments.limit, 1, limits::MEMORY_LIST_MAX)?;
        let prefix = arguments.prefix.unwrap_or_default();
        if !prefix.is_empty() {
            checks::text("prefix", &prefix, limits::KEY_MAX)?;
        }
        let scope_filter = arguments.session_id.clone().unwrap_or_else(|| "global".to_owned());
        let scope = match arguments.session_id {
            None => MemoryScope::Global,
            Some(all) if all == ALL => MemoryScope::All,
            Some(id) => MemoryScope::Session(checks::session_id(id)?),
        };
        let query = MemoryQuery {
            agent_id: caller.agent_id().to_owned(),
            scope,
            prefix,
            limit: arguments.limit,
            value_bytes: 0,
        };
        let entries = self.storage.list_memory(query).await.map_err(explain)?;
        Ok(json!({
            "success": true,
            "count": entries.len(),
            "entries": entries,
            "scope_filter": scope_filter,
        }))
    }
}

fn not_found(key: &str) -> ToolError {
    ToolError::new(
        "MEMORY_NOT_FOUND",
        format!("there is no live memory entry with the key {key:?}"),
        &[
            "Check the key, the session_id and your agent_id",
            "The entry may have expired",
        ],
    )
    .with_related(&["set_memory", "list_memory"])
}

const fn scope(session_id: Option<&str>) -> &'static str {
    if session_id.is_some() { "session" } else { "global" }
}
