//! What a request may do, once it is known what it asks for: its caller's scopes, and
//! how often it asks.
//!
//! Authentication stands in front of everything; this is asked by whoever has read a request and is about to serve it.

use std::sync::Arc;

use axum::response::Response;
use http::request::Parts;
use serde_json::Value;

use crate::auth::Auth;
use crate::limits::RateLimits;

/// What a request asks for.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// JSON-RPC method.
    pub method: &'a str,
    /// Tool of a `tools/call`; empty for other methods.
    pub tool: &'a str,
    /// URI of a resource that is read, name of a prompt that is got; empty for other methods.
    pub subject: String,
    /// Its JSON-RPC id, null if it has none.
    pub id: Value,
}

/// The checks of one server process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Guard {
    auth: Option<Arc<Auth>>,
    limits: Option<Arc<RateLimits>>,
}

impl Guard {
    /// Checks scopes as `auth` says, and rates as `limits` say.
    #[must_use]
    pub fn new(auth: Option<Arc<Auth>>, limits: Option<Arc<RateLimits>>) -> Self {
        Self {
            auth: auth.filter(|auth| auth.knows_tools()),
            limits,
        }
    }

    /// The answer to a request that may not pass; `None` if it may. `wanted` is asked only if it matters.
    pub async fn refuse<'a>(&self, request: &Parts, wanted: impl FnOnce() -> Wanted<'a>) -> Option<Response> {
        if self.auth.is_none() && self.limits.is_none() {
            return None;
        }
        let wanted = wanted();
        if let Some(limits) = &self.limits
            && let Err(early) = limits.check(request, &wanted).await
        {
            return Some(early.answer(&wanted.id));
        }
        let auth = self.auth.as_ref()?;
        let refusal = auth.allow(request, wanted.method, wanted.tool).err()?;
        Some(auth.refuse(&request.headers, &refusal, &wanted.id))
    }

    /// Whether it matters what a request asks for: one that can be read in two ways must not pass then.
    #[must_use]
    pub const fn reads_requests(&self) -> bool {
        self.auth.is_some()
    }
}
