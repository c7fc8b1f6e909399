//! What a tool knows of a call besides its arguments.

use http::request::Parts;
use rmcp::RoleServer;
use rmcp::service::RequestContext;

/// The circumstances of one call. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CallContext {
    request: RequestContext<RoleServer>,
}

impl CallContext {
    /// The context of a call that arrived as the MCP request `request`.
    #[must_use]
    pub const fn new(request: RequestContext<RoleServer>) -> Self {
        Self { request }
    }

    /// The HTTP request that carried the call: its headers, and what middleware attached to it.
    #[must_use]
    pub fn http(&self) -> Option<&Parts> {
        self.request.extensions.get()
    }

    /// The MCP request: the way to notify its client.
    #[must_use]
    pub const fn request(&self) -> &RequestContext<RoleServer> {
        &self.request
    }
}
