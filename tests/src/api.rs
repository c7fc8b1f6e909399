//! API mode: etcd and kube-apiserver, nothing else. No root, ready in seconds, any number side by side.
//!
//! Objects live as in any cluster: schemas, admission, server-side apply, watches. Nothing acts on them: a Deployment
//! gets no pods, and an owner's death takes nothing along, unless the controllers that do that are asked for.
//!
//! Each cluster lives in a folder of its own in the system's folder for temporary files and is gone when the
//! [`ApiCluster`] is dropped. One whose test was killed is found and removed by the next start.

use std::{
    env, fmt, fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use kube::{Client, Config};

use crate::{
    AuditEvent, HarnessError,
    access::Access,
    audit,
    collect::collect,
    control_plane::{ControlPlane, client_config},
    files,
    process::{ProcessId, Processes},
};

/// How the folders of API clusters begin.
const PREFIX: &str = "mcpscale-api-";
/// The file that says which process a cluster belongs to.
const OWNER: &str = "owner.json";
/// How long the API server may take. Two seconds are usual; a machine busy compiling takes longer.
const START_PATIENCE: Duration = Duration::from_mins(1);
/// How often to start again when a port that was free is taken by someone else.
const ATTEMPTS: u32 = 3;
/// A folder without owner that is older than this was left behind in the middle of a start.
const ABANDONED_AFTER: Duration = Duration::from_mins(1);

/// An API server with its own etcd.
pub struct ApiCluster {
    folder: PathBuf,
    kubeconfig: PathBuf,
    config: Config,
    client: Client,
    processes: Processes,
}

impl ApiCluster {
    /// Starts a cluster and waits until it answers.
    ///
    /// # Errors
    /// When the programs cannot be built or the API server does not become ready; the end of its log is in the error.
    pub async fn start() -> Result<Self, HarnessError> {
        Self::start_with_controllers(&[]).await
    }

    /// As [`start`](Self::start), with a kube-controller-manager that runs just `controllers`, by their names, for
    /// example `garbage-collector-controller` and `namespace-controller`.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with_controllers(controllers: &[&str]) -> Result<Self, HarnessError> {
        remove_abandoned()?;
        let mut attempt = 1;
        loop {
            match Self::try_start(controllers).await {
                Err(HarnessError::Component { tail, .. })
                    if attempt < ATTEMPTS && tail.contains("address already in use") =>
                {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn try_start(controllers: &[&str]) -> Result<Self, HarnessError> {
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir()
            .map_err(HarnessError::io("create a folder in", env::temp_dir()))?
            .keep();
        let started = start_in(&folder, controllers).await;
        if started.is_err() {
            remove(&folder)?;
        }
        started
    }

    /// A client with all rights. It belongs to the tokio runtime that started the cluster; for a cluster that several
    /// runtimes share, make one from [`config`](Self::config) in each.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The client configuration, to make clients of one's own: as another user, through a proxy, with other limits.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// The kubeconfig of an administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The folder with the components' data and logs; gone with the cluster.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The writes by `user` that arrived at `since` or later. The administrator's name is `admin`.
    ///
    /// # Errors
    /// When the audit log cannot be read.
    pub fn audit_writes(&self, user: &str, since: Timestamp) -> Result<Vec<AuditEvent>, HarnessError> {
        audit::writes(&self.folder.join("log/audit.log"), user, since)
    }

    fn keep_evidence(&self) {
        let access = Access {
            network: None,
            kubeconfig: Some(self.kubeconfig.clone()),
        };
        let test = thread::current().name().unwrap_or("api").to_owned();
        match collect(&access, &[], Some(&self.folder.join("log")), &test) {
            Ok(folder) => eprintln!("the state of the cluster is in {}", folder.display()),
            Err(error) => eprintln!("the state of the cluster is lost: {error}"),
        }
    }
}

impl fmt::Debug for ApiCluster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ApiCluster")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl Drop for ApiCluster {
    fn drop(&mut self) {
        if thread::panicking() {
            self.keep_evidence();
        }
        if let Err(error) = self
            .processes
            .stop(Duration::ZERO, |_| true)
            .and_then(|()| remove(&self.folder))
        {
            eprintln!("an API cluster is left behind: {error}");
        }
    }
}

/// Starts the components in `folder`.
async fn start_in(folder: &Path, controllers: &[&str]) -> Result<ApiCluster, HarnessError> {
    let owner = serde_json::to_vec(&ProcessId::of(own_pid())).unwrap_or_default();
    files::write_whole(&folder.join(OWNER), owner)?;
    let [api_port, etcd_port, peer_port] = free_ports()?;
    let address = Ipv4Addr::LOCALHOST;
    let plane = ControlPlane {
        folder: folder.to_path_buf(),
        network: None,
        address,
        api_port,
        etcd_port,
        peer_port,
    };
    plane.prepare()?;
    let processes = Processes::in_folder(folder);
    processes.start("etcd", plane.etcd()?)?;
    let mut api_server = plane.api_server()?;
    // A loopback address cannot be an endpoint of the Service `kubernetes`, and nobody here asks for it.
    api_server.args(["--bind-address", "127.0.0.1", "--endpoint-reconciler-type", "none"]);
    // Nobody makes the ServiceAccounts and quotas that these would wait for.
    api_server.args([
        "--authorization-mode",
        "RBAC",
        "--disable-admission-plugins",
        "ServiceAccount",
    ]);
    processes.start("kube-apiserver", api_server)?;
    let config = client_config(&plane.kubeconfig()).await?;
    let client = Client::try_from(config.clone()).map_err(HarnessError::kube("make a client"))?;
    plane.ready(&processes, &client, START_PATIENCE).await?;
    if !controllers.is_empty() {
        let mut manager = plane.controller_manager()?;
        manager.args(["--controllers", &controllers.join(","), "--secure-port", "0"]);
        processes.start("kube-controller-manager", manager)?;
    }
    Ok(ApiCluster {
        folder: folder.to_path_buf(),
        kubeconfig: plane.kubeconfig(),
        config,
        client,
        processes,
    })
}

/// Removes the API clusters whose owner is dead. `start` does this by itself.
///
/// # Errors
/// When a process does not end or a folder cannot be removed.
pub fn remove_abandoned() -> Result<(), HarnessError> {
    let entries = fs::read_dir(env::temp_dir()).map_err(HarnessError::io("list", env::temp_dir()))?;
    for folder in entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
    {
        if is_abandoned(&folder.path()) {
            remove(&folder.path())?;
        }
    }
    Ok(())
}

/// Whether the cluster in `folder` has lost its owner. A folder of another user cannot be read and is let be.
fn is_abandoned(folder: &Path) -> bool {
    match fs::read(folder.join(OWNER)) {
        Ok(content) => match serde_json::from_slice::<ProcessId>(&content) {
            Ok(owner) => !owner.is_running(),
            Err(_) => false,
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let modified = fs::metadata(folder).and_then(|metadata| metadata.modified());
            modified.is_ok_and(|time| SystemTime::now().duration_since(time).unwrap_or_default() > ABANDONED_AFTER)
        }
        Err(_) => false,
    }
}

fn remove(folder: &Path) -> Result<(), HarnessError> {
    Processes::in_folder(folder).stop(Duration::ZERO, |_| true)?;
    files::remove_folder(folder)
}

fn own_pid() -> i32 {
    nix::unistd::getpid().as_raw()
}

/// Three different ports of loopback that are free now.
fn free_ports() -> Result<[u16; 3], HarnessError> {
    let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    // All three are held before the first is let go, so that no port comes twice.
    let ports = (|| {
        let held = [free()?, free()?, free()?];
        Ok([
            held[0].local_addr()?.port(),
            held[1].local_addr()?.port(),
            held[2].local_addr()?.port(),
        ])
    })();
    ports.map_err(HarnessError::io("find a free port on", "127.0.0.1"))
}
