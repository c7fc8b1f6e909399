//! Builders: one pure module per kind of thing that an `McpServer` consists of. They take the validated model, never
//! the raw resource, and do no I/O.
//!
//! Bodies are written as the YAML that they become. The API server validates every field strictly when they are
//! applied, and a test applies them all to a real one.

pub mod nginx;
pub mod nginx_config;
pub mod postgres;
pub mod redis;
pub mod server;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service, ServiceAccount},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::api::ApiResource;
use mcpscale_crds::labels;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::controller::validate::ValidatedServer;

/// The kinds of objects that an `McpServer` consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is the Kubernetes kind of its name")]
pub enum ChildKind {
    ServiceAccount,
    Secret,
    PersistentVolumeClaim,
    ConfigMap,
    Service,
    StatefulSet,
    Deployment,
    PodDisruptionBudget,
}

impl ChildKind {
    /// How the API server calls the kind.
    #[must_use]
    pub fn api_resource(self) -> ApiResource {
        match self {
            Self::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
            Self::Secret => ApiResource::erase::<Secret>(&()),
            Self::PersistentVolumeClaim => ApiResource::erase::<PersistentVolumeClaim>(&()),
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
            Self::PodDisruptionBudget => ApiResource::erase::<PodDisruptionBudget>(&()),
        }
    }

    /// Whether objects of this kind make pods.
    #[must_use]
    pub fn runs_pods(self) -> bool {
        matches!(self, Self::Deployment | Self::StatefulSet)
    }

    /// Whether objects of this kind hold data that must outlive the `McpServer`.
    #[must_use]
    pub fn bears_data(self) -> bool {
        matches!(self, Self::PersistentVolumeClaim | Self::Secret)
    }
}

/// An object as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// Its kind.
    pub kind: ChildKind,
    /// Its name; the namespace is the `McpServer`'s.
    pub name: String,
    /// The whole object, as it is applied.
    pub body: Value,
}

/// The tiers of an `McpServer`, as the label `app.kubernetes.io/component` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the tier of its name")]
pub enum Component {
    Server,
    Nginx,
    Redis,
    Postgres,
}

impl Component {
    /// Value of the label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Nginx => "nginx",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }
}

/// Name of a tier's objects.
#[must_use]
pub fn component_name(server: &str, component: Component) -> String {
    format!("{server}-{}", component.as_str())
}

/// Labels by which a tier's pods are selected. They never change: selectors are immutable.
#[must_use]
pub fn selector_labels(server: &str, component: Component) -> BTreeMap<String, String> {
    [
        (labels::NAME_KEY, labels::NAME),
        (labels::INSTANCE_KEY, server),
        (labels::COMPONENT_KEY, component.as_str()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// Labels of a tier's objects and pods.
#[must_use]
pub fn object_labels(server: &ValidatedServer, component: Component) -> BTreeMap<String, String> {
    let mut all = server.extra_labels.clone();
    all.extend(selector_labels(&server.name, component));
    all.insert(labels::PART_OF_KEY.into(), labels::MANAGER.into());
    all.insert(labels::MANAGED_BY_KEY.into(), labels::MANAGER.into());
    all
}

/// An object of a tier: kind, metadata with an ownerReference unless it bears data, and the given fields.
#[must_use]
pub fn child(server: &ValidatedServer, kind: ChildKind, component: Component, name: &str, fields: Value) -> Child {
    let resource = kind.api_resource();
    let mut metadata = json!({
        "name": name,
        "namespace": server.namespace,
        "labels": object_labels(server, component),
    });
    if !server.extra_annotations.is_empty() {
        metadata["annotations"] = json!(server.extra_annotations);
    }
    if kind.bears_data() {
        metadata["labels"][labels::OWNER_UID_KEY] = json!(server.uid);
    } else {
        metadata["ownerReferences"] = json!([owner_reference(server)]);
    }
    let mut body = json!({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata});
    merge(&mut body, fields);
    Child {
        kind,
        name: name.to_owned(),
        body,
    }
}

/// Merges objects recursively; anything else in `addition` replaces what `base` has.
fn merge(base: &mut Value, addition: Value) {
    match (base, addition) {
        (Value::Object(base), Value::Object(addition)) => {
            for (key, value) in addition {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, addition) => *base = addition,
    }
}

fn owner_reference(server: &ValidatedServer) -> OwnerReference {
    OwnerReference {
        api_version: "mcpscale.dev/v1alpha1".into(),
        kind: "McpServer".into(),
        name: server.name.clone(),
        uid: server.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Metadata of a tier's pods.
#[must_use]
pub fn pod_metadata(server: &ValidatedServer, component: Component) -> Value {
    let mut metadata = json!({"labels": object_labels(server, component)});
    if !server.extra_annotations.is_empty() {
        metadata["annotations"] = json!(server.extra_annotations);
    }
    metadata
}

/// The part of a pod's spec that every tier shares: Pod Security `restricted`, no API token, placement.
#[must_use]
pub fn pod_spec(server: &ValidatedServer, user: i64, fields: Value) -> Value {
    let mut spec = json!({
        "serviceAccountName": server.name,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    });
    let pod = &server.pod;
    if !pod.node_selector.is_empty() {
        spec["nodeSelector"] = json!(pod.node_selector);
    }
    if !pod.tolerations.is_empty() {
        spec["tolerations"] = json!(pod.tolerations);
    }
    if !pod.image_pull_secrets.is_empty() {
        spec["imagePullSecrets"] = json!(pod.image_pull_secrets);
    }
    if let Some(class) = &pod.priority_class_name {
        spec["priorityClassName"] = json!(class);
    }
    merge(&mut spec, fields);
    spec
}

/// Security context of every container: Pod Security `restricted` and a read-only root.
#[must_use]
pub fn container_security() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    })
}

/// Spreads a tier over nodes where that is possible, and lets it run where it is not.
#[must_use]
pub fn spread(server: &ValidatedServer, component: Component) -> Value {
    json!([{
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector_labels(&server.name, component)},
    }])
}

/// A disruption budget that lets one pod of a tier go at a time.
#[must_use]
pub fn disruption_budget(server: &ValidatedServer, component: Component) -> Child {
    child(
        server,
        ChildKind::PodDisruptionBudget,
        component,
        &component_name(&server.name, component),
        json!({"spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector_labels(&server.name, component)},
        }}),
    )
}

/// The ServiceAccount of all pods. It has no rights and no pod mounts its token.
#[must_use]
pub fn service_account(server: &ValidatedServer) -> Child {
    child(
        server,
        ChildKind::ServiceAccount,
        Component::Server,
        &server.name,
        json!({"automountServiceAccountToken": false}),
    )
}

/// First ten hexadecimal digits of the SHA-256 of a text: the suffix of objects that are named by their content.
#[must_use]
pub fn content_hash(content: &str) -> String {
    hex::encode(Sha256::digest(content.as_bytes()))
        .chars()
        .take(10)
        .collect()
}
