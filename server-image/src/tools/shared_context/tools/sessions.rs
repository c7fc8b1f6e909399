//! Tools for sessions.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::SharedContext;
use crate::tools::shared_context::caller::{Caller, Claim};
use crate::tools::shared_context::checks::{self, explain};
use crate::tools::shared_context::limits;
use crate::tools::shared_context::model::{NewSession, SessionHeader};
use crate::tools::shared_context::permission::Permission;
use crate::tools::shared_context::storage::StorageError;
use crate::tools::{CallContext, Effect, InvalidTool, ToolError, ToolRegistry, ToolResult};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateSession {
    /// What the session is for.
    #[schemars(length(min = 1, max = 1_000))]
    purpose: String,
    /// Free-form object of at most 10 KiB, unless this server is set otherwise.
    metadata: Option<serde_json::Map<String, Value>>,
    /// Your agent id, where no token proves it; "anonymous" if left out.
    agent_id: Option<String>,
    /// Your token from `authenticate_agent`.
    auth_token: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetSession {
    /// Id from `create_session`.
    session_id: String,
    /// Your agent id, where no token proves it; "anonymous" if left out.
    agent_id: Option<String>,
    /// Your token from `authenticate_agent`.
    auth_token: Option<String>,
}

impl SharedContext {
    pub(super) fn register_sessions(self: &Arc<Self>, registry: &mut ToolRegistry) -> Result<(), InvalidTool> {
        registry.add(
            "create_session",
            Effect::Adds,
            format!(
                "Creates a session that agents share, and returns its session_id. A named agent may have {} in use.",
                self.quotas.sessions_per_agent
            ),
            self.method(Self::create_session),
        )?;
        registry.add(
            "get_session",
            Effect::Reads,
            "Returns a session with its 50 most recent messages that you may read, newest first; with fewer if they \
             are long.",
            self.method(Self::get_session),
        )
    }

    async fn create_session(self: Arc<Self>, arguments: CreateSession, context: CallContext) -> ToolResult {
        let claim = Claim {
            agent_id: arguments.agent_id,
            auth_token: arguments.auth_token,
        };
        let caller = self
            .caller(claim, Permission::Write, "create_session", &context)
            .await?;
        checks::text("purpose", &arguments.purpose, limits::PURPOSE_MAX)?;
        let metadata = checks::metadata(arguments.metadata, self.quotas.metadata_bytes)?;
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

    async fn get_session(self: Arc<Self>, arguments: GetSession, context: CallContext) -> ToolResult {
        let claim = Claim {
            agent_id: arguments.agent_id,
            auth_token: arguments.auth_token,
        };
        let caller = self.caller(claim, Permission::Read, "get_session", &context).await?;
        let id = checks::session_id(arguments.session_id)?;
        self.session_for(&id, &caller, limits::RECENT_MESSAGES).await
    }

    /// A session with its most recent messages, as the caller sees it.
    pub(in crate::tools::shared_context) async fn session_for(
        &self,
        id: &str,
        caller: &Caller,
        recent: i64,
    ) -> ToolResult {
        let header = self.header(id).await?;
        let view = self
            .storage
            .session_view(id, caller.agent(), recent)
            .await
            .map_err(explain)?;
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
        let header = self.storage.session_header(id).await.map_err(explain)?;
        header.ok_or_else(|| explain(StorageError::SessionNotFound))
    }
}
