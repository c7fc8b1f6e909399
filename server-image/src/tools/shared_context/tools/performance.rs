//! How the server does, for administrators.

use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::SharedContext;
use crate::tools::shared_context::caller::Claim;
use crate::tools::shared_context::permission::Permission;
use crate::tools::{CallContext, Effect, InvalidTool, ToolError, ToolRegistry, ToolResult};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetPerformanceMetrics {
    /// Your agent id; it has no permission without a token.
    agent_id: Option<String>,
    /// Your token from `authenticate_agent`, with the permission admin.
    auth_token: Option<String>,
}

impl SharedContext {
    pub(super) fn register_performance(self: &Arc<Self>, registry: &mut ToolRegistry) -> Result<(), InvalidTool> {
        registry.add(
            "get_performance_metrics",
            Effect::Reads,
            "Returns what this replica did in the last minutes (requests, latencies, cache, pool, memory), what limits it, \
             and what to do about it. Needs the permission admin.",
            self.method(Self::get_performance_metrics),
        )
    }

    async fn get_performance_metrics(
        self: Arc<Self>,
        arguments: GetPerformanceMetrics,
        context: CallContext,
    ) -> ToolResult {
        let claim = Claim {
            agent_id: arguments.agent_id,
            auth_token: arguments.auth_token,
        };
        self.performance_for(claim, "get_performance_metrics", &context).await
    }

    /// The server's report on itself, for who may see it.
    pub(in crate::tools::shared_context) async fn performance_for(
        &self,
        claim: Claim,
        action: &'static str,
        context: &CallContext,
    ) -> ToolResult {
        self.caller(claim, Permission::Admin, action, context).await?;
        let report = self.performance.report().ok_or_else(|| {
            ToolError::new(
                "SYSTEM_UNAVAILABLE",
                "the server has not measured anything yet",
                &["Try again in a few seconds"],
            )
        })?;
        Ok(json!({"success": true, "timestamp": Timestamp::now(), "performance": report}))
    }
}
