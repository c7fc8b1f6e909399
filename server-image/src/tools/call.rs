//! What a tool knows of a call besides its arguments.
#![expect(
    deprecated,
    reason = "logging is deprecated in the protocol, and older clients may still use it"
)]

use std::sync::Arc;

use http::request::Parts;
use rmcp::RoleServer;
use rmcp::model::{LoggingLevel, LoggingMessageNotification, LoggingMessageNotificationParam, ServerNotification};
use rmcp::service::RequestContext;

use crate::mcp::ClientLog;
use crate::mcp::sessions::severity;
use crate::telemetry::Followed;

/// The circumstances of one call. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CallContext(Origin);

#[derive(Debug, Clone)]
enum Origin {
    /// An MCP request. Boxed in common: handlers pass contexts on by cloning them.
    Mcp(Arc<RequestContext<RoleServer>>),
    /// A plain HTTP request, such as one of the REST shim.
    Http(Arc<Parts>),
}

impl CallContext {
    /// The context of a call that arrived as the MCP request `request`.
    #[must_use]
    pub fn new(request: RequestContext<RoleServer>) -> Self {
        Self(Origin::Mcp(Arc::new(request)))
    }

    /// The context of a call that arrived as the plain HTTP request `parts`.
    #[must_use]
    pub fn of_http(parts: Arc<Parts>) -> Self {
        Self(Origin::Http(parts))
    }

    /// The HTTP request that carried the call: its headers, and what middleware attached to it. `None` on stdio.
    #[must_use]
    pub fn http(&self) -> Option<&Parts> {
        match &self.0 {
            Origin::Mcp(request) => request.extensions.get(),
            Origin::Http(parts) => Some(parts),
        }
    }

    /// Notes the agent that the call came from, once that is known.
    pub fn called_by(&self, agent_id: &str) {
        let extensions = self.http().map(|parts| &parts.extensions);
        if let Some(followed) = extensions.and_then(|extensions| extensions.get::<Arc<Followed>>()) {
            followed.called_by(agent_id);
        }
    }

    /// Writes to the client's log, if it asked for logs of this severity. Logging is deprecated in the protocol.
    pub async fn log(&self, level: LoggingLevel, message: &str) {
        let Some(request) = self.request() else { return };
        let message = LoggingMessageNotificationParam::new(level, message.into());
        if let Some(log) = self.http().and_then(|parts| parts.extensions.get::<ClientLog>()) {
            let notification = LoggingMessageNotification::new(message);
            log.write(level, ServerNotification::LoggingMessageNotification(notification))
                .await;
        } else if request
            .meta
            .log_level()
            .is_some_and(|wanted| severity(level) >= severity(wanted))
        {
            // A client that has gone misses it.
            let _ = request.peer.notify_logging_message(message).await;
        }
    }

    /// The MCP request: the way to notify its client. `None` for a plain HTTP request.
    #[must_use]
    pub fn request(&self) -> Option<&RequestContext<RoleServer>> {
        match &self.0 {
            Origin::Mcp(request) => Some(request),
            Origin::Http(_) => None,
        }
    }
}
