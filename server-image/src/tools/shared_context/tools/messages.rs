//! Tools for messages.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::SharedContext;
use crate::tools::shared_context::caller::Claim;
use crate::tools::shared_context::checks::{self, explain};
use crate::tools::shared_context::limits;
use crate::tools::shared_context::model::{NewMessage, Visibility};
use crate::tools::shared_context::permission::Permission;
use crate::tools::shared_context::storage::MessageQuery;
use crate::tools::{CallContext, Effect, InvalidTool, ToolRegistry, ToolResult};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AddMessage {
    /// Id from `create_session`.
    session_id: String,
    /// Text of the message.
    #[schemars(length(min = 1, max = 100_000))]
    content: String,
    /// Who may read it: public (everybody), private (only you), `agent_only` (you, and agents whose token proves your
    /// own type), `admin_only` (agents with the permission admin, which is needed to send it, too).
    #[serde(default = "public")]
    visibility: Visibility,
    /// Free-form object of at most 10 KiB, unless this server is set otherwise.
    metadata: Option<serde_json::Map<String, Value>>,
    /// Message of the same session that this one answers.
    parent_message_id: Option<i64>,
    /// Your agent id, where no token proves it; "anonymous" if left out.
    agent_id: Option<String>,
    /// Your token from `authenticate_agent`.
    auth_token: Option<String>,
}

const fn public() -> Visibility {
    Visibility::Public
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetMessages {
    /// Id from `create_session`.
    session_id: String,
    /// Most messages to return; fewer if they are long.
    #[serde(default = "page_default")]
    #[schemars(range(min = 1, max = 1_000))]
    limit: i64,
    /// Messages to skip, oldest first.
    #[serde(default)]
    #[schemars(range(min = 0))]
    offset: i64,
    /// Only messages of this visibility.
    visibility_filter: Option<Visibility>,
    /// Your agent id, where no token proves it; "anonymous" if left out.
    agent_id: Option<String>,
    /// Your token from `authenticate_agent`.
    auth_token: Option<String>,
}

const fn page_default() -> i64 {
    limits::PAGE_DEFAULT
}

impl SharedContext {
    pub(super) fn register_messages(self: &Arc<Self>, registry: &mut ToolRegistry) -> Result<(), InvalidTool> {
        registry.add(
            "add_message",
            Effect::Adds,
            "Adds a message to a session. agent_only messages are readable by agents of the same type: a type counts \
             only if a token of authenticate_agent proves it, for sender and reader. Private messages of callers \
             without agent_id are readable by all such callers.",
            self.method(Self::add_message),
        )?;
        registry.add(
            "get_messages",
            Effect::Reads,
            "Returns messages of a session that you may read, oldest first, a page at a time. While has_more is true, \
             go on at offset + count.",
            self.method(Self::get_messages),
        )
    }

    async fn add_message(self: Arc<Self>, arguments: AddMessage, context: CallContext) -> ToolResult {
        let claim = Claim {
            agent_id: arguments.agent_id,
            auth_token: arguments.auth_token,
        };
        let needed = if arguments.visibility == Visibility::AdminOnly {
            Permission::Admin
        } else {
            Permission::Write
        };
        let caller = self.caller(claim, needed, "add_message", &context).await?;
        caller.require(Permission::Write)?;
        let session_id = checks::session_id(arguments.session_id)?;
        checks::text("content", &arguments.content, limits::CONTENT_MAX)?;
        let metadata = checks::metadata(arguments.metadata, self.quotas.metadata_bytes)?;
        let message = NewMessage {
            session_id,
            sender: caller.agent().clone(),
            content: arguments.content,
            visibility: arguments.visibility,
            metadata,
            parent_message_id: arguments.parent_message_id,
        };
        let session = format!("session://{}", message.session_id);
        let stored = self
            .write(session, |storage| async move { storage.add_message(message).await })
            .await?;
        Ok(json!({"success": true, "message_id": stored.id, "timestamp": stored.timestamp}))
    }

    async fn get_messages(self: Arc<Self>, arguments: GetMessages, context: CallContext) -> ToolResult {
        let claim = Claim {
            agent_id: arguments.agent_id,
            auth_token: arguments.auth_token,
        };
        let caller = self.caller(claim, Permission::Read, "get_messages", &context).await?;
        let session_id = checks::session_id(arguments.session_id)?;
        let (limit, offset) = (arguments.limit, arguments.offset);
        checks::range("limit", limit, 1, limits::PAGE_MAX)?;
        checks::range("offset", offset, 0, i64::MAX)?;
        let query = MessageQuery {
            session_id,
            reader: caller.agent().clone(),
            visibility: arguments.visibility_filter,
            limit,
            offset,
        };
        let page = self.storage.get_messages(query).await.map_err(explain)?;
        // The page may have fewer messages than asked for, although there are more.
        let count = i64::try_from(page.messages.len()).unwrap_or(i64::MAX);
        Ok(json!({
            "success": true,
            "count": count,
            "messages": page.messages,
            "total_count": page.total_count,
            "has_more": offset.saturating_add(count) < page.total_count,
        }))
    }
}
