//! The reconcile itself: the five steps in order, and what happens when one fails.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};
use mcpscale_crds::{
    labels::FIELD_MANAGER,
    v1alpha1::{McpServer, McpServerStatus},
};
use serde_json::json;
use thiserror::Error;

use super::{
    apply::{self, ApplyError, apply, terminating},
    caches::GuardedServer,
    context::Context,
    dereference::{DereferenceError, dereference},
    events,
    plan::plan,
    scaling::key_of,
    status::{Facts, status},
    validate::validate,
};

/// A server whose caches lag behind our own writes is looked at again after this; the watch event usually comes first.
const CACHE_LAG: Duration = Duration::from_millis(250);
/// Everything is looked at again at least this often, in case a watch missed something.
const RESYNC: Duration = Duration::from_mins(10);

/// Why a reconcile failed.
#[derive(Debug, Error)]
pub enum ReconcileError {
    /// A read failed.
    #[error(transparent)]
    Dereference(#[from] DereferenceError),
    /// A write of a child failed.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The status could not be written.
    #[error("could not write the status: {0}")]
    Status(#[source] kube::Error),
    /// It took too long.
    #[error("the reconcile took longer than {} s and was given up; the API server may be slow", .0.as_secs())]
    TimedOut(Duration),
    /// The object does not parse.
    #[error(
        "the object does not parse as an McpServer of this operator's version: {0}; apply the CRD of the operator's version and correct the object"
    )]
    Malformed(String),
}

impl ReconcileError {
    /// Stable word for Events and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Dereference(_) => "ReadFailed",
            Self::Apply(error) => error.reason(),
            Self::Status(_) => "StatusFailed",
            Self::TimedOut(_) => "ReconcileTimedOut",
            Self::Malformed(_) => "MalformedObject",
        }
    }
}

/// Reconciles one server.
///
/// # Errors
/// When a step fails; [`error_policy`] says when it is tried again.
pub async fn reconcile(guarded: Arc<GuardedServer>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let resource = match &guarded.0 {
        Ok(resource) => resource,
        Err(invalid) => return Err(ReconcileError::Malformed(invalid.error.clone())),
    };
    let _timer = context.metrics.reconcile();
    let limit = context.reconcile_timeout;
    let action = tokio::time::timeout(limit, pipeline(resource, &context))
        .await
        .map_err(|_| ReconcileError::TimedOut(limit))??;
    context.reset_backoff(&key_of(resource));
    Ok(action)
}

async fn pipeline(resource: &McpServer, context: &Context) -> Result<Action, ReconcileError> {
    if terminating(resource) {
        return Ok(Action::await_change());
    }
    let key = key_of(resource);
    let observed = dereference(&context.client, &context.caches, resource).await?;
    if !has_seen_own_writes(resource, &observed, context) {
        return Ok(Action::requeue(CACHE_LAG));
    }
    let outlook = context.outlooks.lock().get(&key).cloned();
    let validated = validate(resource, &observed, &context.installation);
    let planned = validated.as_ref().map(|validated| {
        let desired = outlook
            .as_ref()
            .and_then(|outlook| i32::try_from(outlook.decision.to).ok());
        (validated, plan(validated, &observed, desired))
    });
    let applied = match &planned {
        Ok((validated, plan)) if !resource.spec.paused => Some(apply(context, validated, plan, &observed).await),
        _ => None,
    };
    if let Some(Err(error)) = &applied
        && error.is_in_ending_namespace()
    {
        tracing::debug!(namespace = %key.0, name = %key.1, %error, "the namespace is being deleted");
        return Ok(Action::requeue(RESYNC));
    }
    let new = status(&Facts {
        resource,
        observed: &observed,
        outcome: planned
            .as_ref()
            .map(|(validated, plan)| (*validated, plan))
            .map_err(|error| *error),
        applied: applied.as_ref().map(|applied| applied.as_ref().copied()),
        outlook: outlook.as_ref(),
        has_metrics_source: context.has_metrics_source,
        installation: &context.installation,
        now: Timestamp::now(),
    });
    // What was applied decides how the reconcile ends, but a failure must not keep the status from being told.
    let written = write_status(resource, new, context).await;
    applied.transpose()?;
    written?;
    Ok(Action::requeue(RESYNC))
}

fn has_seen_own_writes(resource: &McpServer, observed: &super::dereference::Observed, context: &Context) -> bool {
    context.written.lock().get(&key_of(resource)).is_none_or(|written| {
        written.seen_by(&observed.children) && written.status_version <= apply::version(&resource.metadata)
    })
}

/// Writes the status when it differs, and tells what changed.
async fn write_status(resource: &McpServer, new: McpServerStatus, context: &Context) -> Result<(), ReconcileError> {
    if resource.status.as_ref() == Some(&new) {
        return Ok(());
    }
    let servers: Api<McpServer> = Api::namespaced(context.client.clone(), &resource.namespace().unwrap_or_default());
    let body = json!({"apiVersion": "mcpscale.dev/v1alpha1", "kind": "McpServer", "status": new});
    context.metrics.writes.inc();
    let result = servers
        .patch_status(
            &resource.name_any(),
            &PatchParams::apply(FIELD_MANAGER).force(),
            &Patch::Apply(&body),
        )
        .await;
    let written = match result {
        Ok(written) => written,
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
        Err(error) => return Err(ReconcileError::Status(error)),
    };
    context
        .written
        .lock()
        .entry(key_of(resource))
        .or_default()
        .status_version = apply::version(&written.metadata);
    events::publish(
        &context.recorder,
        resource,
        &events::events(resource.status.as_ref(), &new),
    )
    .await;
    Ok(())
}

/// When a failed reconcile is tried again: with growing pauses, or not before the object changes when only that helps.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "the signature is the controller's")]
pub fn error_policy(guarded: Arc<GuardedServer>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let key = (guarded.namespace().unwrap_or_default(), guarded.name_any());
    context.metrics.failed(error.reason());
    if matches!(error, ReconcileError::Malformed(_)) {
        return Action::await_change();
    }
    let delay = context.back_off(&key);
    tracing::warn!(namespace = %key.0, name = %key.1, reason = error.reason(), %error, retry_in = ?delay, "a reconcile failed");
    Action::requeue(delay)
}
