//! Step 4: the only writes of children. Server-side apply, forced, in the order of the plan; then what we own and no
//! longer want is removed.
//!
//! Nothing changes, nothing is written: an apply is skipped while the desired object is the one that was last applied
//! and the API server still records the same fields as ours. Another writer that takes one of our fields takes it out
//! of that record, so drift is seen without keeping whole objects in memory.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions, ValidationDirective},
    core::ObjectMeta,
};
use mcpscale_crds::labels::{FIELD_MANAGER, REPLICAS_FIELD_MANAGER};
use serde_json::json;
use thiserror::Error;

use super::{
    caches::CachedChild,
    context::{Context, ServerKey, older_than},
    dereference::Observed,
    plan::Plan,
    validate::ValidatedServer,
};
use crate::resources::{Child, ChildKind, Component, component_name, postgres};

/// How long a cache may take to show our last write before the guard lets a reconcile pass all the same.
const GUARD_LIMIT: Duration = Duration::from_secs(10);
/// Random bytes of a generated password.
const PASSWORD_BYTES: usize = 32;

/// Why a write failed.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The API server refused an object or did not answer.
    #[error("could not apply {kind:?} {name}: {}", words(.source))]
    Apply {
        /// Kind of the object.
        kind: ChildKind,
        /// Its name.
        name: String,
        /// What the client says.
        source: kube::Error,
    },
    /// The number of server pods could not be set.
    #[error("could not set the replicas of Deployment {name} to {replicas}: {}", words(.source))]
    Scale {
        /// Name of the Deployment.
        name: String,
        /// The number.
        replicas: i32,
        /// What the client says.
        source: kube::Error,
    },
    /// An object that is no longer wanted could not be removed.
    #[error("could not delete {kind:?} {name}, which is no longer wanted: {}", words(.source))]
    Prune {
        /// Kind of the object.
        kind: ChildKind,
        /// Its name.
        name: String,
        /// What the client says.
        source: kube::Error,
    },
    /// The system gave no random bytes.
    #[error("could not make a password: {0}")]
    Password(getrandom::Error),
}

/// What an apply did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Whether a Deployment or the StatefulSet is another than before: its pods will follow, which what was observed
    /// before does not show yet. The number of pods does not count.
    pub changed_workloads: bool,
}

impl ApplyError {
    /// Whether the API server understood the request and will not have it: only a change by a person helps.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        let (Self::Apply { source, .. } | Self::Scale { source, .. } | Self::Prune { source, .. }) = self else {
            return false;
        };
        matches!(source, kube::Error::Api(status) if matches!(status.code, 400 | 403 | 405 | 422))
    }

    /// Stable word for conditions, Events and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Apply { .. } => "ApplyFailed",
            Self::Scale { .. } => "ScaleFailed",
            Self::Prune { .. } => "PruneFailed",
            Self::Password(_) => "PasswordFailed",
        }
    }

    /// Whether the write was refused because the namespace is being deleted. Nothing helps then, and nothing needs to:
    /// the server goes with its namespace.
    #[must_use]
    pub fn is_in_ending_namespace(&self) -> bool {
        match self {
            Self::Apply { source, .. } | Self::Scale { source, .. } | Self::Prune { source, .. } => {
                namespace_is_ending(source)
            }
            Self::Password(_) => false,
        }
    }
}

/// What the API server said. The client's own text repeats it with everything around it.
fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Whether the API server refused to create something because its namespace is being deleted.
pub(super) fn namespace_is_ending(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// What was last written of one server.
#[derive(Debug, Default)]
pub struct Written {
    children: HashMap<(ChildKind, String), Record>,
    /// resourceVersion of the `McpServer` after our last write of its status.
    pub status_version: Option<u64>,
    secret_ensured: bool,
}

#[derive(Clone, Debug)]
struct Record {
    desired: u64,
    uid: Option<String>,
    version: Option<u64>,
    our_fields: Option<u64>,
    at: Instant,
}

impl Written {
    /// Whether the caches have seen everything that was written. Acting on an older picture would undo our own writes.
    #[must_use]
    pub fn seen_by(&self, children: &[CachedChild]) -> bool {
        self.children.iter().all(|((kind, name), record)| {
            let cached = children
                .iter()
                .find(|child| child.kind == *kind && child.metadata.name.as_ref() == Some(name));
            let seen = cached.is_some_and(|child| version(&child.metadata) >= record.version);
            seen || older_than(record.at, GUARD_LIMIT)
        })
    }
}

/// The resourceVersion as a number. The comparison is ours to make since Kubernetes 1.35 declares it orderable; on a
/// server where it is no number the guard lets pass.
#[must_use]
pub fn version(metadata: &ObjectMeta) -> Option<u64> {
    metadata.resource_version.as_deref().and_then(|text| text.parse().ok())
}

/// Applies a plan.
///
/// # Errors
/// At the first write that fails; what was written stays, and the next reconcile goes on from there.
pub async fn apply(
    context: &Context,
    server: &ValidatedServer,
    plan: &Plan,
    observed: &Observed,
) -> Result<Applied, ApplyError> {
    let writer = Writer {
        context,
        key: (server.namespace.clone(), server.name.clone()),
    };
    if plan.needs_secret {
        writer.ensure_secret(server).await?;
    }
    let mut applied = Applied::default();
    for child in &plan.children {
        let changed = writer.apply_child(child, observed).await?;
        applied.changed_workloads |= changed && child.kind.runs_pods();
    }
    writer.scale(server, plan, observed).await?;
    writer.prune(server, plan, observed).await?;
    Ok(applied)
}

struct Writer<'a> {
    context: &'a Context,
    key: ServerKey,
}

impl Writer<'_> {
    fn api(&self, kind: ChildKind) -> Api<DynamicObject> {
        Api::namespaced_with(self.context.client.clone(), &self.key.0, &kind.api_resource())
    }

    /// Writes the Secret if there is none. An existing one is never replaced: its password is the one in the database.
    async fn ensure_secret(&self, server: &ValidatedServer) -> Result<(), ApplyError> {
        if self
            .context
            .written
            .lock()
            .get(&self.key)
            .is_some_and(|written| written.secret_ensured)
        {
            return Ok(());
        }
        let mut bytes = [0_u8; PASSWORD_BYTES];
        getrandom::fill(&mut bytes).map_err(ApplyError::Password)?;
        let secret = postgres::secret(server, &hex::encode(bytes));
        match self.create(&secret).await {
            Err(ApplyError::Apply {
                source: kube::Error::Api(status),
                ..
            }) if status.is_already_exists() => {}
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        self.context
            .written
            .lock()
            .entry(self.key.clone())
            .or_default()
            .secret_ensured = true;
        Ok(())
    }

    async fn create(&self, child: &Child) -> Result<(), ApplyError> {
        let failed = |source| ApplyError::Apply {
            kind: child.kind,
            name: child.name.clone(),
            source,
        };
        let parameters = PostParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..PostParams::default()
        };
        let object = serde_json::from_value(child.body.clone()).map_err(|e| failed(kube::Error::SerdeError(e)))?;
        self.context.metrics.writes.inc();
        self.api(child.kind)
            .create(&parameters, &object)
            .await
            .map(|_| ())
            .map_err(failed)
    }

    /// Answers whether its spec is another than before.
    async fn apply_child(&self, child: &Child, observed: &Observed) -> Result<bool, ApplyError> {
        if child.kind == ChildKind::PersistentVolumeClaim && observed.data_claim.is_none() {
            // Create, not apply: a claim that has appeared meanwhile may hold another's data and must not become ours.
            return self.create(child).await.map(|()| true);
        }
        let desired = fingerprint(&child.body.to_string());
        let cached = observed
            .children
            .iter()
            .find(|c| c.kind == child.kind && c.metadata.name.as_ref() == Some(&child.name));
        if let Some(cached) = cached
            && self.is_current(child, desired, &cached.metadata)
        {
            return Ok(false);
        }
        let parameters = PatchParams {
            field_manager: Some(FIELD_MANAGER.into()),
            force: true,
            field_validation: Some(ValidationDirective::Strict),
            ..PatchParams::default()
        };
        self.context.metrics.writes.inc();
        let applied = self
            .api(child.kind)
            .patch(&child.name, &parameters, &Patch::Apply(&child.body))
            .await
            .map_err(|source| ApplyError::Apply {
                kind: child.kind,
                name: child.name.clone(),
                source,
            })?;
        tracing::debug!(kind = ?child.kind, name = %child.name, "applied");
        self.remember(child.kind, &child.name, desired, &applied.metadata);
        Ok(cached.is_none_or(|cached| cached.metadata.generation != applied.metadata.generation))
    }

    fn is_current(&self, child: &Child, desired: u64, cached: &ObjectMeta) -> bool {
        self.context
            .written
            .lock()
            .get(&self.key)
            .and_then(|written| written.children.get(&(child.kind, child.name.clone())))
            .is_some_and(|record| {
                record.desired == desired && record.uid == cached.uid && record.our_fields == our_fields(cached)
            })
    }

    fn remember(&self, kind: ChildKind, name: &str, desired: u64, metadata: &ObjectMeta) {
        let record = Record {
            desired,
            uid: metadata.uid.clone(),
            version: version(metadata),
            our_fields: our_fields(metadata),
            at: Instant::now(),
        };
        self.context
            .written
            .lock()
            .entry(self.key.clone())
            .or_default()
            .children
            .insert((kind, name.to_owned()), record);
    }

    /// Sets the replicas by their own field manager. They are left alone while they are right.
    async fn scale(&self, server: &ValidatedServer, plan: &Plan, observed: &Observed) -> Result<(), ApplyError> {
        if observed.replicas() == Some(plan.replicas) {
            return Ok(());
        }
        let name = component_name(&server.name, Component::Server);
        let body = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {"replicas": plan.replicas},
        });
        let deployments: Api<Deployment> = Api::namespaced(self.context.client.clone(), &self.key.0);
        self.context.metrics.writes.inc();
        let scaled = deployments
            .patch(
                &name,
                &PatchParams::apply(REPLICAS_FIELD_MANAGER).force(),
                &Patch::Apply(&body),
            )
            .await
            .map_err(|source| ApplyError::Scale {
                name: name.clone(),
                replicas: plan.replicas,
                source,
            })?;
        let mut written = self.context.written.lock();
        let record = written
            .get_mut(&self.key)
            .and_then(|w| w.children.get_mut(&(ChildKind::Deployment, name)));
        if let Some(record) = record {
            record.version = version(&scaled.metadata);
            record.at = Instant::now();
        }
        Ok(())
    }

    /// Removes what carries our ownerReference and is not in the plan. Data has no ownerReference, and is excepted by
    /// kind as well.
    async fn prune(&self, server: &ValidatedServer, plan: &Plan, observed: &Observed) -> Result<(), ApplyError> {
        let wanted = |child: &CachedChild| {
            plan.children
                .iter()
                .any(|w| w.kind == child.kind && Some(&w.name) == child.metadata.name.as_ref())
        };
        for child in &observed.children {
            let kept = child.kind == ChildKind::ConfigMap && plan.keep_old_configuration;
            if child.kind.bears_data() || kept || wanted(child) || !owned_by(&child.metadata, &server.uid) {
                continue;
            }
            self.delete(child).await?;
        }
        Ok(())
    }

    async fn delete(&self, child: &CachedChild) -> Result<(), ApplyError> {
        let name = child.metadata.name.clone().unwrap_or_default();
        self.context
            .written
            .lock()
            .entry(self.key.clone())
            .or_default()
            .children
            .remove(&(child.kind, name.clone()));
        if child.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let parameters = DeleteParams::background().preconditions(Preconditions {
            uid: child.metadata.uid.clone(),
            resource_version: None,
        });
        self.context.metrics.writes.inc();
        match self.api(child.kind).delete(&name, &parameters).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
            Err(source) => Err(ApplyError::Prune {
                kind: child.kind,
                name,
                source,
            }),
        }
    }
}

/// Whether an object's controller is the `McpServer` with this UID.
#[must_use]
pub fn owned_by(metadata: &ObjectMeta, uid: &str) -> bool {
    metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.uid == uid && owner.controller == Some(true))
}

/// Fingerprint of the fields that the API server records as applied by us; `None` when there is no such record.
fn our_fields(metadata: &ObjectMeta) -> Option<u64> {
    let entry = metadata.managed_fields.iter().flatten().find(|entry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER)
            && entry.operation.as_deref() == Some("Apply")
            && entry.subresource.is_none()
    })?;
    serde_json::to_string(&entry.fields_v1)
        .ok()
        .map(|text| fingerprint(&text))
}

/// For comparison within this process only: the hash may differ between builds.
fn fingerprint(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Whether an object with this metadata is on its way out.
#[must_use]
pub fn terminating<K: ResourceExt>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}
