//! What a tool knows of a call besides its arguments.

use std::sync::Arc;

use http::request::Parts;
use rmcp::RoleServer;
use rmcp::service::RequestContext;

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

    /// The MCP request: the way to notify its client. `None` for a plain HTTP request.
    #[must_use]
    pub fn request(&self) -> Option<&RequestContext<RoleServer>> {
        match &self.0 {
            Origin::Mcp(request) => Some(request),
            Origin::Http(_) => None,
        }
    }
}
