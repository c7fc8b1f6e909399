//! What the operator watches, kept in memory. Every watch but the one on `McpServer`s selects by label, so that memory
//! follows what the operator owns and not what the cluster holds. Kinds whose content matters for readiness are kept
//! whole; of the rest only metadata. Secrets are not watched at all: the operator cannot read them.

use std::{fmt::Debug, hash::Hash, sync::Arc};

use futures::{StreamExt, stream::BoxStream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store, store::WriterDropped},
        watcher,
    },
};
use mcpscale_crds::{labels, v1alpha1::McpServer};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::resources::ChildKind;

/// An `McpServer` that may not parse: one that does not must not stop the watch of the others.
pub type GuardedServer = DeserializeGuard<McpServer>;

/// Caches of one watch scope.
#[derive(Clone, Debug)]
pub struct Caches {
    /// Server, nginx and Redis Deployments.
    pub deployments: Store<Deployment>,
    /// Postgres.
    pub stateful_sets: Store<StatefulSet>,
    /// Pods of all tiers.
    pub pods: Store<Pod>,
    services: Store<PartialObjectMeta<Service>>,
    config_maps: Store<PartialObjectMeta<ConfigMap>>,
    service_accounts: Store<PartialObjectMeta<ServiceAccount>>,
    claims: Store<PartialObjectMeta<PersistentVolumeClaim>>,
    disruption_budgets: Store<PartialObjectMeta<PodDisruptionBudget>>,
}

/// Metadata of a child as the cache has it.
#[derive(Clone, Debug)]
pub struct CachedChild {
    /// Its kind.
    pub kind: ChildKind,
    /// Its metadata.
    pub metadata: ObjectMeta,
}

/// A running watch per kind; each yields the server that a change belongs to.
pub type Watches = Vec<BoxStream<'static, ()>>;

impl Caches {
    /// Makes the caches and the streams that fill them. Each stream must be driven for as long as the caches are used;
    /// it sends the owner of every object that changed to `touched`.
    #[must_use]
    pub fn new(
        client: &Client,
        namespace: Option<&str>,
        touched: &mpsc::UnboundedSender<ObjectRef<GuardedServer>>,
    ) -> (Self, Watches) {
        let mut watches = Watches::new();
        let caches = Self {
            deployments: watch(client, namespace, touched, &mut watches),
            stateful_sets: watch(client, namespace, touched, &mut watches),
            pods: watch(client, namespace, touched, &mut watches),
            services: watch_metadata(client, namespace, touched, &mut watches),
            config_maps: watch_metadata(client, namespace, touched, &mut watches),
            service_accounts: watch_metadata(client, namespace, touched, &mut watches),
            claims: watch_metadata(client, namespace, touched, &mut watches),
            disruption_budgets: watch_metadata(client, namespace, touched, &mut watches),
        };
        (caches, watches)
    }

    /// Waits until every cache has seen the whole list once.
    ///
    /// # Errors
    /// When a watch ended before that.
    pub async fn wait_until_ready(&self) -> Result<(), WriterDropped> {
        self.deployments.wait_until_ready().await?;
        self.stateful_sets.wait_until_ready().await?;
        self.pods.wait_until_ready().await?;
        self.services.wait_until_ready().await?;
        self.config_maps.wait_until_ready().await?;
        self.service_accounts.wait_until_ready().await?;
        self.claims.wait_until_ready().await?;
        self.disruption_budgets.wait_until_ready().await
    }

    /// Every cached child of the server with this name, pods excepted.
    #[must_use]
    pub fn children(&self, namespace: &str, server: &str) -> Vec<CachedChild> {
        let mut all = Vec::new();
        collect(&self.deployments, ChildKind::Deployment, namespace, server, &mut all);
        collect(&self.stateful_sets, ChildKind::StatefulSet, namespace, server, &mut all);
        collect(&self.services, ChildKind::Service, namespace, server, &mut all);
        collect(&self.config_maps, ChildKind::ConfigMap, namespace, server, &mut all);
        collect(
            &self.service_accounts,
            ChildKind::ServiceAccount,
            namespace,
            server,
            &mut all,
        );
        collect(
            &self.claims,
            ChildKind::PersistentVolumeClaim,
            namespace,
            server,
            &mut all,
        );
        collect(
            &self.disruption_budgets,
            ChildKind::PodDisruptionBudget,
            namespace,
            server,
            &mut all,
        );
        all
    }

    /// The server's pods of one tier.
    #[must_use]
    pub fn pods_of(&self, namespace: &str, server: &str, component: &str) -> Vec<Arc<Pod>> {
        self.pods.state_filter(|pod| {
            belongs(pod.meta(), namespace, server)
                && pod.labels().get(labels::COMPONENT_KEY).is_some_and(|c| c == component)
        })
    }
}

fn belongs(metadata: &ObjectMeta, namespace: &str, server: &str) -> bool {
    metadata.namespace.as_deref() == Some(namespace)
        && metadata
            .labels
            .as_ref()
            .and_then(|all| all.get(labels::INSTANCE_KEY))
            .is_some_and(|instance| instance == server)
}

fn collect<K>(store: &Store<K>, kind: ChildKind, namespace: &str, server: &str, all: &mut Vec<CachedChild>)
where
    K: Resource + Clone + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    let found = store.state_filter(|object| belongs(object.meta(), namespace, server));
    all.extend(found.iter().map(|object| CachedChild {
        kind,
        metadata: object.meta().clone(),
    }));
}

fn watch<K>(
    client: &Client,
    namespace: Option<&str>,
    touched: &mpsc::UnboundedSender<ObjectRef<GuardedServer>>,
    watches: &mut Watches,
) -> Store<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    fill(scoped(client, namespace), touched, watches)
}

fn watch_metadata<K>(
    client: &Client,
    namespace: Option<&str>,
    touched: &mpsc::UnboundedSender<ObjectRef<GuardedServer>>,
    watches: &mut Watches,
) -> Store<PartialObjectMeta<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    fill(scoped(client, namespace), touched, watches)
}

/// The API of a kind in one namespace, or in all.
#[must_use]
pub fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn fill<K>(api: Api<K>, touched: &mpsc::UnboundedSender<ObjectRef<GuardedServer>>, watches: &mut Watches) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (reader, writer) = reflector::store();
    let config = watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY_KEY, labels::MANAGER));
    let touched = touched.clone();
    let stream = reflector::reflector(writer, watcher(api, config).default_backoff())
        .touched_objects()
        .for_each(move |event| {
            match event {
                Ok(object) => {
                    if let Some(owner) = owner(object.meta()) {
                        // The receiver is gone only when the controller has ended.
                        let _ = touched.send(owner);
                    }
                }
                Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "a watch failed and is taken up again"),
            }
            std::future::ready(())
        });
    watches.push(futures::stream::once(stream).boxed());
    reader
}

/// The server that an object belongs to, by its label: data-bearing objects have no ownerReference.
fn owner(metadata: &ObjectMeta) -> Option<ObjectRef<GuardedServer>> {
    let name = metadata.labels.as_ref()?.get(labels::INSTANCE_KEY)?;
    Some(ObjectRef::new(name).within(metadata.namespace.as_deref()?))
}
