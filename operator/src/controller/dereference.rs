//! Step 1: the only reads. Everything comes from caches, except the data claim, which is asked of the API server itself
//! before anything is done that could cost data.

use std::sync::Arc;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, ResourceExt, runtime::reflector::ObjectRef};
use mcpscale_crds::{
    labels,
    v1alpha1::{DataTierMode, McpServer},
};
use thiserror::Error;

use super::caches::{CachedChild, Caches};
use crate::resources::{ChildKind, Component, component_name};

/// What was observed of one server.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The server Deployment.
    pub server: Option<Arc<Deployment>>,
    /// The nginx Deployment.
    pub nginx: Option<Arc<Deployment>>,
    /// The Redis Deployment.
    pub redis: Option<Arc<Deployment>>,
    /// The Postgres StatefulSet.
    pub postgres: Option<Arc<StatefulSet>>,
    /// The server's pods, terminating ones included.
    pub pods: Vec<Arc<Pod>>,
    /// The claim that holds the data, whoever owns it.
    pub data_claim: Option<DataClaim>,
    /// Images that run.
    pub images: RunningImages,
    /// Metadata of every child.
    pub children: Vec<CachedChild>,
}

impl Observed {
    /// Number of server pods that the Deployment asks for.
    #[must_use]
    pub fn replicas(&self) -> Option<i32> {
        self.server.as_ref()?.spec.as_ref()?.replicas
    }
}

/// A data claim as far as it concerns whose data it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataClaim {
    /// Its name.
    pub name: String,
    /// UID of the `McpServer` whose data it holds.
    pub owner_uid: Option<String>,
    /// Major version of Postgres that wrote it.
    pub postgres_major: Option<String>,
    /// Data directory in it.
    pub pgdata: Option<String>,
}

/// Images that run, by tier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the image of the tier of its name")]
pub struct RunningImages {
    pub server: Option<String>,
    pub nginx: Option<String>,
    pub redis: Option<String>,
    pub postgres: Option<String>,
}

/// Why a read failed.
#[derive(Debug, Error)]
pub enum DereferenceError {
    /// The data claim could not be asked for.
    #[error(
        "could not read the PersistentVolumeClaim {namespace}/{name}, so whose data it holds is not known: {source}"
    )]
    DataClaim {
        /// Namespace of the claim.
        namespace: String,
        /// Name of the claim.
        name: String,
        /// What the client says.
        source: kube::Error,
    },
}

/// Reads what is known of a server.
///
/// # Errors
/// When the API server does not answer the one question that is asked of it directly.
pub async fn dereference(client: &Client, caches: &Caches, resource: &McpServer) -> Result<Observed, DereferenceError> {
    let name = resource.name_any();
    let namespace = resource.namespace().unwrap_or_default();
    let deployment = |component| {
        caches
            .deployments
            .get(&ObjectRef::new(&component_name(&name, component)).within(&namespace))
    };
    let postgres = component_name(&name, Component::Postgres);
    let mut observed = Observed {
        server: deployment(Component::Server),
        nginx: deployment(Component::Nginx),
        redis: deployment(Component::Redis),
        postgres: caches.stateful_sets.get(&ObjectRef::new(&postgres).within(&namespace)),
        pods: caches.pods_of(&namespace, &name, Component::Server.as_str()),
        children: caches.children(&namespace, &name),
        ..Observed::default()
    };
    observed.images = running_images(&observed);
    if resource.spec.postgres.mode == DataTierMode::Embedded {
        observed.data_claim = data_claim(client, &observed, &namespace, &postgres, resource.uid().as_deref()).await?;
    }
    Ok(observed)
}

/// The claim from the cache when it is ours there; otherwise from the API server, since a cache that has not seen it
/// yet looks the same as no claim.
async fn data_claim(
    client: &Client,
    observed: &Observed,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
) -> Result<Option<DataClaim>, DereferenceError> {
    let cached = observed
        .children
        .iter()
        .filter(|child| child.kind == ChildKind::PersistentVolumeClaim)
        .map(|child| DataClaim::from(&child.metadata))
        .find(|claim| claim.name == name && claim.owner_uid.as_deref() == uid);
    if cached.is_some() {
        return Ok(cached);
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    match claims.get_metadata_opt(name).await {
        Ok(claim) => Ok(claim.map(|claim| DataClaim::from(&claim.metadata))),
        Err(source) => Err(DereferenceError::DataClaim {
            namespace: namespace.into(),
            name: name.into(),
            source,
        }),
    }
}

impl From<&ObjectMeta> for DataClaim {
    fn from(metadata: &ObjectMeta) -> Self {
        let annotation = |key: &str| metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned();
        Self {
            name: metadata.name.clone().unwrap_or_default(),
            owner_uid: metadata
                .labels
                .as_ref()
                .and_then(|all| all.get(labels::OWNER_UID_KEY))
                .cloned(),
            postgres_major: annotation(labels::POSTGRES_MAJOR_KEY),
            pgdata: annotation(labels::POSTGRES_PGDATA_KEY),
        }
    }
}

fn running_images(observed: &Observed) -> RunningImages {
    let of_deployment = |deployment: &Option<Arc<Deployment>>| {
        deployment
            .as_ref()
            .and_then(|d| d.spec.as_ref())
            .and_then(|spec| first_image(&spec.template))
    };
    RunningImages {
        server: of_deployment(&observed.server),
        nginx: of_deployment(&observed.nginx),
        redis: of_deployment(&observed.redis),
        postgres: observed
            .postgres
            .as_ref()
            .and_then(|s| s.spec.as_ref())
            .and_then(|spec| first_image(&spec.template)),
    }
}

fn first_image(template: &PodTemplateSpec) -> Option<String> {
    template.spec.as_ref()?.containers.first()?.image.clone()
}
