//! The tools: checking arguments, calling the storage, shaping results. One file for each subject.

mod agents;
mod guidance;
mod memory;
mod messages;
mod performance;
mod sessions;

use std::future::pending;
use std::panic::resume_unwind;
use std::sync::Arc;

use tracing::Instrument;

use super::audit::trail;
use super::caller::{Caller, Callers, Claim};
use super::checks::explain;
use super::chores::Chores;
use super::limits::Quotas;
use super::permission::Permission;
use super::resources::Resources;
use super::retention::RetentionSettings;
use super::settings::SharedContextSettings;
use super::storage::{Storage, StorageError};
use super::tokens::Tokens;
use crate::changes::Changes;
use crate::report::Performance;
use crate::tools::{CallContext, Catalog, InvalidTool, ToolError};

/// The toolset.
pub struct SharedContext {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) callers: Callers,
    pub(super) changes: Changes,
    pub(super) performance: Performance,
    /// For texts that tell of them; the storage and the chores keep to them.
    pub(super) retention: RetentionSettings,
    pub(super) quotas: Quotas,
}

impl SharedContext {
    /// The toolset on `storage`, and what must run beside it; `changes` hears of what is written, `performance` tells
    /// how the server does.
    #[must_use]
    pub fn new(
        storage: Arc<dyn Storage>,
        settings: &SharedContextSettings,
        changes: Changes,
        performance: Performance,
    ) -> (Arc<Self>, Chores) {
        let (audit, refusals) = trail();
        let tokens = Tokens::new(Arc::clone(&storage), settings.token_lifetime);
        let chores = Chores::new(Arc::clone(&storage), refusals, settings.retention);
        let toolset = Self {
            storage,
            callers: Callers::new(settings.api_keys.clone(), tokens, audit),
            changes,
            performance,
            retention: settings.retention,
            quotas: settings.quotas,
        };
        (Arc::new(toolset), chores)
    }

    /// Adds what the toolset offers.
    ///
    /// # Errors
    /// [`InvalidTool`] never in practice: all arguments are objects.
    pub fn register(self: &Arc<Self>, catalog: &mut Catalog) -> Result<(), InvalidTool> {
        let tools = &mut catalog.tools;
        self.register_agents(tools)?;
        self.register_sessions(tools)?;
        self.register_messages(tools)?;
        self.register_memory(tools)?;
        self.register_search(tools)?;
        self.register_guidance(tools)?;
        self.register_performance(tools)?;
        catalog.resources.add(Arc::new(Resources::new(self, &catalog.tools)));
        self.register_prompts(&mut catalog.prompts);
        Ok(())
    }

    /// A tool that runs as a method of this toolset.
    pub(super) fn method<Arguments, Running, Method>(
        self: &Arc<Self>,
        method: Method,
    ) -> impl Fn(Arguments, CallContext) -> Running + Send + Sync + use<Arguments, Running, Method>
    where
        Method: Fn(Arc<Self>, Arguments, CallContext) -> Running + Send + Sync + 'static,
    {
        let this = Arc::clone(self);
        move |arguments, context| method(Arc::clone(&this), arguments, context)
    }

    /// Runs `write` to its end and tells who follows `resource`, also if the caller goes away meanwhile: a database may
    /// do what it was asked all the same.
    pub(super) async fn write<T, Writing>(
        &self,
        resource: String,
        write: impl FnOnce(Arc<dyn Storage>) -> Writing,
    ) -> Result<T, ToolError>
    where
        T: Send + 'static,
        Writing: Future<Output = Result<T, StorageError>> + Send + 'static,
    {
        let changes = self.changes.clone();
        let writing = write(Arc::clone(&self.storage));
        let task = async move {
            let written = writing.await?;
            changes.resource_updated(resource);
            Ok(written)
        };
        match tokio::spawn(task.in_current_span()).await {
            Ok(written) => written.map_err(explain),
            Err(crash) => match crash.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The process ends, and this call with it.
                Err(_) => pending().await,
            },
        }
    }

    /// Who calls the tool `action`, if it may do what `needed` says.
    pub(super) async fn caller(
        &self,
        claim: Claim,
        needed: Permission,
        action: &'static str,
        context: &CallContext,
    ) -> Result<Caller, ToolError> {
        self.callers.resolve(claim, needed, action, context).await
    }
}
