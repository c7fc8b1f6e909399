//! What rmcp asks of this server: who it is, what it offers, and to run it.
#![expect(
    deprecated,
    reason = "logging is deprecated in the protocol, and older clients may still use it"
)]

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use http::{Extensions, HeaderMap};
use rmcp::model::{
    CacheScope, CallToolRequestParams, CallToolResponse, CompleteRequestParams, CompleteResult, CompletionInfo,
    CustomRequest, CustomResult, ErrorCode, GetPromptRequestParams, GetPromptResponse, Implementation,
    ListPromptsRequestMethod, ListPromptsResult, ListResourceTemplatesResult, ListResourcesRequestMethod,
    ListResourcesResult, ListToolsResult, PaginatedRequestParams, ReadResourceRequestParams, ReadResourceResponse,
    ReadResourceResult, Reference, ServerCapabilities, ServerConfig, SetLevelRequestMethod, SetLevelRequestParams,
    SubscribeRequestParams, SubscriptionFilter, Tool, UnsubscribeRequestParams,
};
use rmcp::service::{NotificationContext, RequestContext, SubscriptionContext};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::json;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::called;
use super::headers;
use super::message;
use super::record::Record;
use super::sessions::{SUBSCRIPTIONS_MAX, SessionRecords, session_topic};
use super::subscriptions::{self, Follows};
use crate::auth::until_asked_again;
use crate::changes::Changes;
use crate::database::DatabaseError;
use crate::drain::Drain;
use crate::metrics::agents::ActiveAgents;
use crate::metrics::requests::{Operation, Outcome};
use crate::metrics::sessions::{SessionClock, SessionMetrics};
use crate::telemetry::{Followed, Observed, Observer};
use crate::tools::{CallContext, Called, Catalog};

/// Value of the label `mcp_protocol_version` for calls on standard input.
const STDIO: &str = "stdio";
/// How long clients may keep lists. They change only with the server's version, or with news of it.
const LISTS_FRESH: Duration = Duration::from_mins(5);

const INSTRUCTIONS: &str = "Shared context for agents: create_session, then add_message and get_messages with its \
    session_id; set_memory and get_memory keep values of an agent. Pass agent_id to be told apart from other agents.";

/// The MCP side of the server. Cheap to clone: rmcp takes one for each request or session.
#[derive(Clone)]
pub struct McpHandler {
    catalog: Arc<Catalog>,
    changes: Changes,
    records: SessionRecords,
    /// What a client on stdio follows.
    follows: Follows,
    drain: Drain,
    sessions: Option<SessionMetrics>,
    /// Who is told of calls that no endpoint in front tells of.
    observer: Option<Arc<Observer>>,
    /// Runs while the session of a client up to 2025-11-25 does.
    session: Arc<OnceLock<SessionClock>>,
}

impl McpHandler {
    /// A handler that offers `catalog`, tells subscribers of `changes`, keeps subscriptions of sessions in `records`,
    /// and ends subscriptions without session when the drain begins.
    #[must_use]
    pub fn new(catalog: Arc<Catalog>, changes: Changes, records: SessionRecords, drain: Drain) -> Self {
        Self {
            catalog,
            changes,
            records,
            follows: Follows::default(),
            drain,
            sessions: None,
            observer: None,
            session: Arc::default(),
        }
    }

    /// Measures how long sessions last.
    #[must_use]
    pub fn with_session_metrics(mut self, sessions: SessionMetrics) -> Self {
        self.sessions = Some(sessions);
        self
    }

    /// Tells `observer` of calls, for a server without an endpoint in front.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    fn observe(&self, tool: &str) -> Option<Observed> {
        let observer = self.observer.as_ref()?;
        let operation = Operation {
            method: message::TOOLS_CALL,
            tool: self.catalog.tools.known_name(tool).unwrap_or(message::UNKNOWN_TOOL),
            protocol_version: STDIO,
        };
        let followed = Arc::new(Followed::new(&HeaderMap::new(), ActiveAgents::default()));
        Some(observer.begin(operation, followed, None, Instant::now()))
    }

    /// The handler of another session, or of one request of a client that has none.
    #[must_use]
    pub fn of_another(&self) -> Self {
        Self {
            follows: Follows::default(),
            session: Arc::default(),
            ..self.clone()
        }
    }

    fn capabilities(&self) -> ServerCapabilities {
        let mut all = ServerCapabilities::builder()
            .enable_tools()
            .enable_tool_list_changed()
            .enable_resources()
            .enable_resources_list_changed()
            .enable_resources_subscribe()
            .enable_prompts()
            .enable_prompts_list_changed()
            .enable_completions()
            .build();
        if self.catalog.resources.is_empty() {
            all.resources = None;
        }
        if self.catalog.prompts.is_empty() {
            all.prompts = None;
            all.completions = None;
        }
        if self.catalog.is_logging {
            all.logging = Some(rmcp::model::JsonObject::new());
        }
        all
    }
}

/// What rmcp asks for, without the record of how it ended.
impl McpHandler {
    fn completion(&self, request: CompleteRequestParams) -> Result<CompleteResult, ErrorData> {
        let argument = request.argument;
        let mut values = match request.r#ref {
            Reference::Prompt(prompt) => self
                .catalog
                .prompts
                .complete(&prompt.name, &argument.name, &argument.value)
                .ok_or_else(|| ErrorData::invalid_params(format!("unknown prompt: {}", prompt.name), None))?,
            // The variable parts of URIs are ids of the caller's own things; it knows them.
            _ => Vec::new(),
        };
        values.truncate(CompletionInfo::MAX_VALUES);
        let completion = CompletionInfo::with_all_values(values);
        Ok(CompleteResult::new(
            completion.map_err(|error| ErrorData::internal_error(error, None))?,
        ))
    }

    async fn begin_to_follow(&self, uri: String, context: &RequestContext<RoleServer>) -> Result<(), ErrorData> {
        subscriptions::may_follow(&self.catalog, &uri, &CallContext::new(context.clone())).await?;
        let Some(session) = session(context)? else {
            self.follows.begin(&self.changes, uri, context.peer.clone());
            return Ok(());
        };
        let added = self.records.subscribe(session, &uri).await.map_err(failure)?;
        if !added {
            let message =
                format!("a session follows at most {SUBSCRIPTIONS_MAX} resources: unsubscribe from some first");
            return Err(ErrorData::invalid_request(message, None));
        }
        self.changes.publish(&session_topic(session));
        Ok(())
    }

    async fn end_to_follow(&self, uri: &str, context: &RequestContext<RoleServer>) -> Result<(), ErrorData> {
        let Some(session) = session(context)? else {
            self.follows.end(uri);
            return Ok(());
        };
        self.records.unsubscribe(session, uri).await.map_err(failure)?;
        self.changes.publish(&session_topic(session));
        Ok(())
    }

    async fn level_of_logs(
        &self,
        request: SetLevelRequestParams,
        context: &RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        if !self.catalog.is_logging || context.meta.protocol_version().is_some() {
            return Err(ErrorData::method_not_found::<SetLevelRequestMethod>());
        }
        let level = json!(request.level);
        let level = level.as_str().unwrap_or_default();
        let session = session(context)?;
        let session = session.ok_or_else(|| ErrorData::invalid_request("logs need a session over HTTP", None))?;
        self.records.set_log_level(session, level).await.map_err(failure)
    }
}

/// Fills in how long a list may be kept, and by whom.
macro_rules! listed {
    ($result:ident, $items:expr) => {{
        let fresh = u64::try_from(LISTS_FRESH.as_millis()).unwrap_or(u64::MAX);
        Ok($result::with_all_items($items)
            .with_ttl_ms(fresh)
            .with_cache_scope(CacheScope::Public))
    }};
}

impl ServerHandler for McpHandler {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(self.capabilities())
            .with_server_info(Implementation::new("mcpscale-mcp-server", env!("CARGO_PKG_VERSION")))
            .with_instructions(INSTRUCTIONS)
    }

    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        let version = context
            .peer
            .peer_info()
            .map(|client| client.protocol_version.to_string());
        if let Some(sessions) = &self.sessions {
            self.session
                .get_or_init(|| sessions.begin(message::protocol_version(version.as_deref())));
        }
    }

    async fn list_tools(
        &self,
        page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        only_page(page)?;
        listed!(ListToolsResult, self.catalog.tools.definitions())
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.catalog.tools.definition(name).cloned()
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let name = request.name.clone();
        let (began, observed) = (Instant::now(), self.observe(&name));
        let running = self
            .catalog
            .tools
            .call(request, CallContext::new(context.clone()))
            .ok_or_else(|| ErrorData::invalid_params(format!("unknown tool: {name}"), None));
        let called = match running {
            Ok(running) => guarded(&context, running).await,
            Err(unknown) => Err(unknown),
        };
        let called = called.unwrap_or_else(Called::Refused);
        let outcome = called::outcome(&called);
        note(&context, outcome);
        if let Some(observed) = observed {
            observed.ended(outcome, Some(began.elapsed()));
        }
        called::answer(called)
    }

    async fn list_resources(
        &self,
        page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        only_page(page)?;
        if self.catalog.resources.is_empty() {
            return Err(ErrorData::method_not_found::<ListResourcesRequestMethod>());
        }
        listed!(ListResourcesResult, self.catalog.resources.resources())
    }

    async fn list_resource_templates(
        &self,
        page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        only_page(page)?;
        listed!(ListResourceTemplatesResult, self.catalog.resources.templates())
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let read = async {
            let reading = self
                .catalog
                .resources
                .read(&request.uri, &CallContext::new(context.clone()))
                .ok_or_else(|| no_such_resource(&request.uri))?;
            guarded(&context, reading)
                .await?
                .map_err(crate::tools::ToolError::into_protocol)
        };
        let answer = noted(&context, read.await)?;
        Ok(ReadResourceResult::from(answer).into())
    }

    async fn list_prompts(
        &self,
        page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        only_page(page)?;
        if self.catalog.prompts.is_empty() {
            return Err(ErrorData::method_not_found::<ListPromptsRequestMethod>());
        }
        listed!(ListPromptsResult, self.catalog.prompts.definitions())
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let get = async {
            let getting = self.catalog.prompts.get(request, CallContext::new(context.clone()))?;
            guarded(&context, getting).await?
        };
        noted(&context, get.await)
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        noted(&context, self.completion(request))
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        noted(&context, self.begin_to_follow(request.uri, &context).await)
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        noted(&context, self.end_to_follow(&request.uri, &context).await)
    }

    async fn set_level(
        &self,
        request: SetLevelRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        noted(&context, self.level_of_logs(request, &context).await)
    }

    async fn on_custom_request(
        &self,
        request: CustomRequest,
        context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        let method = request.method;
        let has_sessions = context.meta.protocol_version().is_none();
        // rmcp takes what it cannot read for a method that it does not know.
        let error = if message::is_known(&method, has_sessions) {
            ErrorData::invalid_params(format!("the parameters are not what {method} takes"), None)
        } else {
            ErrorData::new(ErrorCode::METHOD_NOT_FOUND, method, None)
        };
        noted(&context, Err(error))
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        // rmcp narrows this to the capabilities above.
        Some(subscriptions::bounded(requested))
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let listener = subscriptions::follow(&self.changes, &context);
        subscriptions::check(&self.catalog, &context).await?;
        let parts = context.request_context().extensions.get::<http::request::Parts>();
        let again = until_asked_again(parts.map_or(&Extensions::new(), |parts| &parts.extensions));
        let ending = async {
            tokio::select! {
                () = self.drain.begun() => {}
                () = again => {}
            }
        };
        tokio::select! {
            () = context.cancelled() => {}
            () = subscriptions::serve(listener, &context, ending) => {}
        }
        Ok(())
    }
}

/// The session that a request of a client up to 2025-11-25 belongs to; `None` on stdio, where there is one client. Over
/// HTTP such a request needs one: nobody would hear what it follows.
fn session(context: &RequestContext<RoleServer>) -> Result<Option<&str>, ErrorData> {
    let Some(parts) = context.extensions.get::<http::request::Parts>() else {
        return Ok(None);
    };
    let session = headers::text(&parts.headers, headers::SESSION_ID);
    session
        .map(Some)
        .ok_or_else(|| ErrorData::invalid_request("over HTTP this needs a session: send initialize first", None))
}

/// Lists have one page, so whoever asks for another has its cursor from elsewhere.
fn only_page(page: Option<PaginatedRequestParams>) -> Result<(), ErrorData> {
    match page.and_then(|page| page.cursor) {
        None => Ok(()),
        Some(cursor) => Err(ErrorData::invalid_params(
            format!("{cursor:?} is no cursor of this server: the list has one page"),
            None,
        )),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err wants")]
fn failure(error: DatabaseError) -> ErrorData {
    tracing::warn!(%error, "a request failed");
    ErrorData::internal_error("the database does not answer; try again in a few seconds", None)
}

/// The answer to a request for a resource that does not exist.
pub(super) fn no_such_resource(uri: &str) -> ErrorData {
    ErrorData::resource_not_found(format!("there is no resource {uri}"), Some(json!({"uri": uri})))
}

/// Runs what a toolset does for a request, until its client cancels it.
async fn guarded<T>(
    context: &RequestContext<RoleServer>,
    running: impl Future<Output = T> + Send,
) -> Result<T, ErrorData> {
    tokio::select! {
        // rmcp tells of a client that went away or cancelled, but leaves stopping to the handler.
        () = context.ct.cancelled() => Err(ErrorData::new(ErrorCode::INVALID_REQUEST, "the client cancelled the request", None)),
        // What panics must cost one request, not leave its client waiting for ever.
        result = AssertUnwindSafe(in_the_requests_log(context, running)).catch_unwind() => {
            result.map_err(|_| called::crashed())
        }
    }
}

/// Runs `running` so that its lines in the log carry the request's id; rmcp runs handlers in tasks of their own.
fn in_the_requests_log<T>(
    context: &RequestContext<RoleServer>,
    running: impl Future<Output = T>,
) -> impl Future<Output = T> {
    let parts = context.extensions.get::<http::request::Parts>();
    let followed = parts.and_then(|parts| parts.extensions.get::<Arc<Followed>>());
    running.instrument(followed.map_or_else(Span::none, |followed| followed.span().clone()))
}

/// Tells the record how a request ended, and passes the result on.
fn noted<T>(context: &RequestContext<RoleServer>, result: Result<T, ErrorData>) -> Result<T, ErrorData> {
    if let Err(error) = &result {
        note(context, Outcome::RpcError(error.code.0));
    }
    result
}

/// Tells the record that the endpoint attached to the HTTP request.
fn note(context: &RequestContext<RoleServer>, outcome: Outcome) {
    let parts = context.extensions.get::<http::request::Parts>();
    if let Some(record) = parts.and_then(|parts| parts.extensions.get::<Arc<Record>>()) {
        record.handled(outcome);
    }
}
