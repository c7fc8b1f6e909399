//! The cluster of the end-to-end tests: the node of this machine, or one that the user has.

use std::{
    any::Any,
    env,
    error::Error,
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};

use crate::{
    AuditEvent, Endpoint, HarnessError,
    access::Access,
    collect::collect,
    command::run_async,
    eventually, images,
    node::{self, NodeCluster, network},
    pki, process,
};

/// How a test ends. Any error will do; it is printed with what the harness collected.
pub type TestResult = Result<(), Box<dyn Error + Send + Sync>>;

/// How long a new namespace may take to be ready for pods.
const NAMESPACE_PATIENCE: Duration = Duration::from_secs(30);

/// A cluster that runs pods.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    access: Access,
    /// The node of this machine, `None` for a cluster that the user has.
    node: Option<NodeCluster>,
    /// The namespaces that were made for the test.
    namespaces: Mutex<Vec<String>>,
}

/// Runs the end-to-end test `test` in the cluster that `CLUSTER` names and waits for its end.
///
/// With `CLUSTER=node`, which is the default, it is the node of this machine: started unless it runs, with the images
/// of these sources, and left running for the next test. The test then runs *inside the cluster's network*: addresses
/// of Services and pods can be reached, those of the outside cannot. With `CLUSTER=current` it is what the kubeconfig
/// of the environment names; images must be there already.
///
/// The namespaces that the test made are deleted in the end, unless `KEEP=1`. When the test fails or panics, the state
/// of the cluster is collected first, and the folder's path printed.
///
/// # Errors
/// When the cluster cannot be used, and whatever the test returns.
pub fn run_in_cluster<F>(test: impl FnOnce(Cluster) -> F + Send) -> TestResult
where
    F: Future<Output = TestResult>,
{
    let name = thread::current().name().unwrap_or("test").to_owned();
    match env::var("CLUSTER").as_deref() {
        Err(_) | Ok("" | "node") => {
            let node = NodeCluster::of_this_machine()?;
            let _held = node.hold()?;
            node.load(&images::all()?)?;
            network::inside(|| run(Some(node), test, &name))?
        }
        Ok("current") => {
            let runtime = tokio::runtime::Runtime::new()?;
            runtime.block_on(run(None, test, &name))
        }
        Ok(other) => Err(format!("CLUSTER is `{other}`: set it to `node` or `current`").into()),
    }
}

async fn run<F>(node: Option<NodeCluster>, test: impl FnOnce(Cluster) -> F, name: &str) -> TestResult
where
    F: Future<Output = TestResult>,
{
    let cluster = Cluster::connect(node).await?;
    let result = AssertUnwindSafe(test(cluster.clone())).catch_unwind().await;
    if !matches!(result, Ok(Ok(()))) {
        match cluster.collect(name).await {
            Ok(folder) => eprintln!("{name} failed; the state of the cluster is in {}", folder.display()),
            Err(error) => eprintln!("{name} failed; the state of the cluster is lost: {error}"),
        }
    }
    if env::var("KEEP").is_ok_and(|keep| keep == "1") {
        eprintln!("kept the namespaces {:?}", cluster.namespaces());
    } else {
        cluster.delete_namespaces().await;
    }
    result.unwrap_or_else(|panic: Box<dyn Any + Send>| std::panic::resume_unwind(panic))
}

impl Cluster {
    async fn connect(node: Option<NodeCluster>) -> Result<Self, HarnessError> {
        let (client, access) = if let Some(node) = &node {
            (node.client().await?, node.access())
        } else {
            let client = Client::try_default()
                .await
                .map_err(HarnessError::kube("use the kubeconfig"))?;
            (
                client,
                Access {
                    network: None,
                    kubeconfig: None,
                },
            )
        };
        let namespaces = Mutex::new(Vec::new());
        Ok(Self {
            shared: Arc::new(Shared {
                client,
                access,
                node,
                namespaces,
            }),
        })
    }

    /// A client with the rights of an administrator, or of the user's kubeconfig.
    #[must_use]
    pub fn client(&self) -> Client {
        self.shared.client.clone()
    }

    /// Whether it is the node of this machine, where images can be loaded, writes counted and processes looked at.
    #[must_use]
    pub fn is_node(&self) -> bool {
        self.shared.node.is_some()
    }

    /// Makes a namespace whose name begins with `prefix`. Only pods that meet Pod Security `restricted` may run in it.
    ///
    /// # Errors
    /// When the API server refuses it, or it does not get its service account.
    pub async fn namespace(&self, prefix: &str) -> Result<String, HarnessError> {
        if let Some(node) = &self.shared.node {
            // Two tests at once would make the same volume.
            static RECYCLING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
            let _one_at_a_time = RECYCLING.lock().await;
            node::recycle(&self.client(), &node.volumes()).await?;
        }
        let name = format!("{prefix}-{}", &pki::random_token()?[..6]);
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.clone());
        let labels = [
            ("pod-security.kubernetes.io/enforce", "restricted"),
            ("mcpscale.dev/test", "true"),
        ];
        namespace.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        Api::<Namespace>::all(self.client())
            .create(&PostParams::default(), &namespace)
            .await
            .map_err(HarnessError::kube(format!("make the namespace {name}")))?;
        self.shared
            .namespaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(name.clone());
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), &name);
        eventually(NAMESPACE_PATIENCE, "the service account `default`", async || {
            accounts
                .get("default")
                .await
                .map(drop)
                .map_err(|error| error.to_string())
        })
        .await?;
        Ok(name)
    }

    /// The namespaces that [`namespace`](Self::namespace) has made for this test.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        self.shared
            .namespaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A way to reach `port` of `service` from this process, open as long as it is kept.
    ///
    /// # Errors
    /// When there is no such Service, or, in a cluster that the user has, no pod behind it to forward to.
    pub async fn endpoint(&self, namespace: &str, service: &str, port: u16) -> Result<Endpoint, HarnessError> {
        if self.is_node() {
            Endpoint::of_service(&self.client(), namespace, service, port).await
        } else {
            Endpoint::forwarded(&self.shared.access, namespace, service, port).await
        }
    }

    /// Ends the processes of `pod` by SIGKILL, as the kernel does when memory runs out; the kubelet starts them again.
    ///
    /// # Errors
    /// When none is found, one does not end, or it is not the node of this machine.
    pub fn kill(&self, pod: &Pod) -> Result<(), HarnessError> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let processes = if self.is_node() && !uid.is_empty() {
            process::of_pod(uid)
        } else {
            Vec::new()
        };
        if processes.is_empty() {
            return Err(HarnessError::Unusable(format!("no process of pod {uid:?} is found")));
        }
        process::end(&processes, Duration::ZERO)
    }

    /// Runs `helm` with `arguments` and returns what it prints.
    ///
    /// # Errors
    /// When helm ends with an error.
    pub async fn helm(&self, arguments: &[&str]) -> Result<String, HarnessError> {
        run_async(self.shared.access.helm(arguments)?).await
    }

    /// Runs `kubectl` with `arguments` and returns what it prints.
    ///
    /// # Errors
    /// When kubectl ends with an error.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String, HarnessError> {
        run_async(self.shared.access.kubectl(arguments)?).await
    }

    /// The writes by `user` that arrived at `since` or later: only on the node of this machine.
    ///
    /// # Errors
    /// When the audit log cannot be read; always in a cluster that the user has.
    pub fn audit_writes(&self, user: &str, since: Timestamp) -> Result<Vec<AuditEvent>, HarnessError> {
        match &self.shared.node {
            Some(node) => node.audit_writes(user, since),
            None => Err(HarnessError::Unusable(
                "writes can be counted only with CLUSTER=node".into(),
            )),
        }
    }

    /// Writes the state of the cluster, or of the test's namespaces in a cluster that the user has, into a new folder.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub async fn collect(&self, name: &str) -> Result<PathBuf, HarnessError> {
        let shared = Arc::clone(&self.shared);
        let name = name.to_owned();
        let namespaces = if self.is_node() { Vec::new() } else { self.namespaces() };
        let collected = tokio::task::spawn_blocking(move || {
            let logs = shared.node.as_ref().map(NodeCluster::logs);
            collect(&shared.access, &namespaces, logs.as_deref(), &name)
        });
        collected
            .await
            .map_err(|error| HarnessError::Unusable(format!("collecting broke off: {error}")))?
    }

    async fn delete_namespaces(&self) {
        let api: Api<Namespace> = Api::all(self.client());
        for name in self.namespaces() {
            if let Err(error) = api.delete(&name, &DeleteParams::background()).await {
                eprintln!("the namespace {name} stays: {error}");
            }
        }
    }
}
