//! Advice on how to use the toolset, for the caller's own permissions.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::SharedContext;
use crate::tools::shared_context::caller::{Caller, Claim};
use crate::tools::shared_context::permission::Permission;
use crate::tools::shared_context::retention::{RetentionSettings, in_days};
use crate::tools::{CallContext, Effect, InvalidTool, ToolRegistry, ToolResult};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetUsageGuidance {
    /// What the advice shall be about.
    #[serde(default = "operations")]
    guidance_type: GuidanceType,
    /// Your agent id, where no token proves it; "anonymous" if left out.
    agent_id: Option<String>,
    /// Your token from `authenticate_agent`.
    auth_token: Option<String>,
}

/// A subject of advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum GuidanceType {
    /// Which tools there are for what.
    Operations,
    /// How several agents work together.
    Coordination,
    /// Who sees what, and how tokens work.
    Security,
    /// What to do about errors.
    Troubleshooting,
}

const fn operations() -> GuidanceType {
    GuidanceType::Operations
}

impl SharedContext {
    pub(super) fn register_guidance(self: &Arc<Self>, registry: &mut ToolRegistry) -> Result<(), InvalidTool> {
        registry.add(
            "get_usage_guidance",
            Effect::Reads,
            "Explains how to use this server with the permissions you have: operations, coordination, security or \
             troubleshooting.",
            self.method(Self::get_usage_guidance),
        )
    }

    async fn get_usage_guidance(self: Arc<Self>, arguments: GetUsageGuidance, context: CallContext) -> ToolResult {
        let claim = Claim {
            agent_id: arguments.agent_id,
            auth_token: arguments.auth_token,
        };
        let caller = self
            .caller(claim, Permission::Read, "get_usage_guidance", &context)
            .await?;
        Ok(json!({
            "success": true,
            "guidance_type": arguments.guidance_type,
            "agent_id": caller.agent_id(),
            "permissions": caller.permissions(),
            "guidance": guidance(arguments.guidance_type, &caller, self.callers.keys().is_open(), self.retention),
        }))
    }
}

fn guidance(subject: GuidanceType, caller: &Caller, is_open: bool, retention: RetentionSettings) -> Value {
    let (closed_after, deleted_after) = (in_days(retention.inactive_session), in_days(retention.closed_session));
    match subject {
        GuidanceType::Operations => operations_for(caller),
        GuidanceType::Coordination => json!({
            "steps": [
                "One agent calls create_session and gives its session_id to the others.",
                "Each agent adds what it found with add_message, and answers with parent_message_id.",
                "Each agent reads with get_messages, or follows the resource session://{session_id} to hear of changes.",
                "What only one agent needs later goes to its memory: set_memory, with session_id if it belongs to the session.",
            ],
            "handing_over": "Write a public message that says what is done and what is open; memory is private to an agent.",
            "finding": "search_context finds text that is only similar; search_by_sender and search_by_timerange narrow down.",
            "sessions_end": format!(
                "A session that gets no messages and no memory is closed after {closed_after}, and deleted after \
                 {deleted_after}."
            ),
        }),
        GuidanceType::Security => json!({
            "who_you_are": if is_open {
                "This server has no API keys: agents are who they say they are (agent_id). Do not keep secrets here."
            } else {
                "A token of authenticate_agent proves who you are; a claimed agent_id counts for nothing."
            },
            "visibility": {
                "public": "every agent",
                "private": "you alone",
                "agent_only": "you, and agents whose token proves the same agent_type as yours",
                "admin_only": "agents with the permission admin",
            },
            "memory": "Only you can read your memory.",
            "tokens": [
                "Give each agent a token of its own, with the permissions it needs.",
                "Call refresh_token before expires_at; the old token ends then.",
                "Never put a token or an API key into a message or into memory.",
            ],
        }),
        GuidanceType::Troubleshooting => json!({
            "INVALID_INPUT_FORMAT": "An argument is wrong; context.field names it. tools/list shows the schema.",
            "SESSION_NOT_FOUND": format!("Check the session_id; sessions unused for {deleted_after} are deleted."),
            "SESSION_CLOSED": format!("Nothing happened there for {closed_after}. Go on in a new session."),
            "MEMORY_NOT_FOUND": "Entries belong to one agent and to one session or none; list_memory with session_id \"all\" shows yours.",
            "PERMISSION_DENIED": "The call needs a token, or a permission that yours does not have.",
            "TOKEN_AUTHENTICATION_FAILED": "The token has ended. Call authenticate_agent again.",
            "INVALID_API_KEY": "The header X-API-Key is missing or wrong. Ask whoever runs the server.",
            "CONTENT_TOO_LARGE": "context.max says how much is allowed. Split the text.",
            "MEMORY_LIMIT_EXCEEDED": "Overwrite what you no longer need, and give entries an expiry.",
            "SYSTEM_UNAVAILABLE": "Nothing is wrong with the call. Wait some seconds and repeat it.",
        }),
    }
}

/// The tools that the caller may use, by what they are for.
fn operations_for(caller: &Caller) -> Value {
    let mut operations = json!({
        "identity": ["authenticate_agent", "refresh_token"],
        "help": ["get_usage_guidance"],
    });
    let more: [(Permission, &str, &[&str]); 6] = [
        (Permission::Write, "share", &["create_session", "add_message"]),
        (Permission::Read, "read", &["get_session", "get_messages"]),
        (
            Permission::Read,
            "find",
            &["search_context", "search_by_sender", "search_by_timerange"],
        ),
        (Permission::Write, "remember", &["set_memory"]),
        (Permission::Read, "recall", &["get_memory", "list_memory"]),
        (Permission::Admin, "administrate", &["get_performance_metrics"]),
    ];
    for (needed, purpose, tools) in more {
        if caller.require(needed).is_ok() {
            operations[purpose] = json!(tools);
        }
    }
    operations
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent that is told of tools it may not use wastes its calls on them.
    #[test]
    fn advice_names_only_what_the_caller_may_use() {
        let caller = Caller::claimed(None).unwrap();
        let operations = operations_for(&caller);
        assert_eq!(operations["share"][1], "add_message");
        assert_eq!(operations.get("administrate"), None);
    }
}
