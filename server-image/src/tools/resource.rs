//! Resources: what clients read by URI and may follow.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rmcp::model::{CacheScope, ReadResourceResult, Resource, ResourceContents, ResourceTemplate};

use super::{CallContext, ToolError};

/// What reading a resource gives.
#[derive(Debug, Clone)]
pub struct ResourceAnswer {
    /// The contents; one entry for a plain resource.
    pub contents: Vec<ResourceContents>,
    /// How long a client may keep them; zero when they may change at any time.
    pub fresh: Duration,
    /// Who may keep them: `Private` unless every caller gets the same.
    pub scope: CacheScope,
}

impl ResourceAnswer {
    /// An answer that is for this caller only and may change at any time.
    #[must_use]
    pub fn private(contents: ResourceContents) -> Self {
        Self {
            contents: vec![contents],
            fresh: Duration::ZERO,
            scope: CacheScope::Private,
        }
    }

    /// An answer that is the same for every caller for at least `fresh`.
    #[must_use]
    pub fn public(contents: ResourceContents, fresh: Duration) -> Self {
        Self {
            contents: vec![contents],
            fresh,
            scope: CacheScope::Public,
        }
    }
}

impl From<ResourceAnswer> for ReadResourceResult {
    fn from(answer: ResourceAnswer) -> Self {
        let fresh = u64::try_from(answer.fresh.as_millis()).unwrap_or(u64::MAX);
        Self::new(answer.contents)
            .with_ttl_ms(fresh)
            .with_cache_scope(answer.scope)
    }
}

/// The contents of a resource, or the error for the caller.
pub type ReadResult = Result<ResourceAnswer, ToolError>;

/// The resources of one toolset.
pub trait ResourceProvider: Send + Sync + 'static {
    /// Resources with a fixed URI.
    fn resources(&self) -> Vec<Resource> {
        Vec::new()
    }

    /// Forms of URI with variable parts.
    fn templates(&self) -> Vec<ResourceTemplate> {
        Vec::new()
    }

    /// Starts to read `uri` on behalf of the caller in `context`; `None` when the URI is none of this provider's.
    fn read(&self, uri: &str, context: CallContext) -> Option<BoxFuture<'static, ReadResult>>;

    /// Starts to find out whether the caller may follow `uri`, which is when it may read it; `None` when the URI is
    /// none of this provider's. A provider for which reading is costly gives a cheaper answer of its own.
    fn may_follow(&self, uri: &str, context: CallContext) -> Option<BoxFuture<'static, Result<(), ToolError>>> {
        let reading = self.read(uri, context)?;
        Some(reading.map(|read| read.map(drop)).boxed())
    }
}

/// Longest URI that can be followed, in bytes. It is kept for as long as somebody follows it, in memory and, for
/// sessions, as a key in the database. The longest that names something is an agent's, of 100 characters, each
/// of at most 12 bytes when it is escaped.
const FOLLOWED_URI_MAX: usize = 1280;

/// All resources of a server.
#[derive(Default)]
pub struct ResourceRegistry {
    providers: Vec<Arc<dyn ResourceProvider>>,
}

impl ResourceRegistry {
    /// Adds the resources of a toolset.
    pub fn add(&mut self, provider: Arc<dyn ResourceProvider>) {
        self.providers.push(provider);
    }

    /// Whether there are no resources.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.providers.is_empty()
    }

    /// Resources with a fixed URI, in the order of URIs.
    #[must_use]
    pub fn resources(&self) -> Vec<Resource> {
        let mut all: Vec<Resource> = self
            .providers
            .iter()
            .flat_map(|provider| provider.resources())
            .collect();
        all.sort_by(|a, b| a.uri.cmp(&b.uri));
        all
    }

    /// Forms of URI with variable parts, in the order of their text.
    #[must_use]
    pub fn templates(&self) -> Vec<ResourceTemplate> {
        let mut all: Vec<ResourceTemplate> = self
            .providers
            .iter()
            .flat_map(|provider| provider.templates())
            .collect();
        all.sort_by(|a, b| a.uri_template.cmp(&b.uri_template));
        all
    }

    /// Starts to read `uri`; `None` when there is no such resource.
    #[must_use]
    pub fn read(&self, uri: &str, context: &CallContext) -> Option<BoxFuture<'static, ReadResult>> {
        self.providers
            .iter()
            .find_map(|provider| provider.read(uri, context.clone()))
    }

    /// Starts to find out whether the caller may follow `uri`; `None` when there is no such resource, or its URI is
    /// longer than 1280 bytes.
    #[must_use]
    pub fn may_follow(&self, uri: &str, context: &CallContext) -> Option<BoxFuture<'static, Result<(), ToolError>>> {
        // Postgres has no NUL in texts.
        if uri.len() > FOLLOWED_URI_MAX || uri.contains('\0') {
            return None;
        }
        self.providers
            .iter()
            .find_map(|provider| provider.may_follow(uri, context.clone()))
    }
}
