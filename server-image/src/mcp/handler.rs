//! What rmcp asks of this server: who it is, its tools, and to run them.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use rmcp::model::{
    CacheScope, CallToolRequestParams, CallToolResponse, CallToolResult, ErrorCode, Implementation, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ServerConfig, SubscriptionFilter, Tool,
};
use rmcp::service::{RequestContext, SubscriptionContext};
use rmcp::{ErrorData, RoleServer, ServerHandler};

use super::record::Record;
use crate::drain::Drain;
use crate::metrics::requests::Outcome;
use crate::tools::{CallContext, ToolRegistry, ToolResult};

/// How long clients may keep the list of tools, in milliseconds. It changes only with the server's version.
const TOOLS_FRESH_MS: u64 = 300_000;

const INSTRUCTIONS: &str = "Shared context for agents: create_session, then add_message and get_messages with its \
    session_id; set_memory and get_memory keep values of an agent. Pass agent_id to be told apart from other agents.";

/// The MCP side of the server. Cheap to clone: rmcp takes one for each request or session.
#[derive(Clone)]
pub struct McpHandler {
    tools: Arc<ToolRegistry>,
    drain: Drain,
}

impl McpHandler {
    /// A handler that offers `tools`, and ends subscriptions when the drain begins.
    #[must_use]
    pub const fn new(tools: Arc<ToolRegistry>, drain: Drain) -> Self {
        Self { tools, drain }
    }
}

impl ServerHandler for McpHandler {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("mcpscale-mcp-server", env!("CARGO_PKG_VERSION")))
            .with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let mut result = ListToolsResult::with_all_items(self.tools.definitions());
        result.ttl_ms = Some(TOOLS_FRESH_MS);
        result.cache_scope = Some(CacheScope::Public);
        Ok(result)
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.tools.definition(name).cloned()
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let result = self.run_tool(request, &context).await;
        if let Some(record) = record_of(&context) {
            record.handled(match &result {
                Ok(Ok(_)) => Outcome::Ok,
                Ok(Err(error)) if error.is_server_failure() => Outcome::ServerFailure,
                Ok(Err(_)) => Outcome::ToolError,
                Err(error) => Outcome::RpcError(error.code.0),
            });
        }
        let result = match result? {
            Ok(value) => CallToolResult::structured(value),
            Err(error) => CallToolResult::structured_error(error.into_envelope()),
        };
        Ok(result.into())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        // rmcp narrows this to the capabilities above. A client may listen; nothing it could hear of changes yet.
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        tokio::select! {
            () = context.cancelled() => {}
            // Returning tells the client that the server ends in good order, so that it listens elsewhere.
            () = self.drain.begun() => {}
        }
        Ok(())
    }
}

impl McpHandler {
    async fn run_tool(
        &self,
        request: CallToolRequestParams,
        context: &RequestContext<RoleServer>,
    ) -> Result<ToolResult, ErrorData> {
        let running = self
            .tools
            .call(
                &request.name,
                request.arguments.unwrap_or_default(),
                CallContext::new(context.clone()),
            )
            .ok_or_else(|| ErrorData::invalid_params(format!("unknown tool: {}", request.name), None))?;
        tokio::select! {
            // rmcp tells of a client that went away or cancelled, but leaves stopping to the handler.
            () = context.ct.cancelled() => Err(ErrorData::new(ErrorCode::INVALID_REQUEST, "the client cancelled the call", None)),
            // A tool that panics must cost one call, not leave its client waiting for ever.
            result = AssertUnwindSafe(running).catch_unwind() => {
                result.map_err(|_| ErrorData::internal_error("the tool crashed; this is a bug of the server", None))
            }
        }
    }
}

/// The record that the endpoint attached to the HTTP request.
fn record_of(context: &RequestContext<RoleServer>) -> Option<&Arc<Record>> {
    context.extensions.get::<http::request::Parts>()?.extensions.get()
}
