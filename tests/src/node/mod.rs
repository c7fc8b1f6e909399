//! Node mode: a node that runs real pods, Services, volumes and DNS, in a network namespace of its own.
//!
//! Everything of the cluster lives in one folder and one network namespace; nothing changes on the machine's own
//! network. Processes on this machine reach the cluster by entering the namespace (`network::inside`).
//!
//! The node is what a user's node is, with these exceptions: no `NetworkPolicy` is enforced, there is one node, images
//! are loaded instead of pulled, and volumes are folders of this machine.

mod clean;
mod components;
mod configuration;
pub(crate) mod network;
mod volumes;

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use kube::Client;

pub(crate) use volumes::recycle;

use crate::{
    HarnessError,
    access::Access,
    audit,
    collect::collect,
    command::missing,
    control_plane::{ControlPlane, client_config},
    files::{self, Lock, make_folder},
    images,
    process::Processes,
    tools::{self, Tool},
};

/// The environment variable that names another state folder.
pub const STATE_VARIABLE: &str = "MCPSCALE_CLUSTER_STATE";
/// How long the API server, and then the node, may take. Five seconds are usual.
const START_PATIENCE: Duration = Duration::from_mins(2);
/// The file that marks a folder as ours to fill and to remove.
const MARKER: &str = ".mcpscale-cluster";
/// The file that says that a cluster has come up whole.
const COMPLETE: &str = "complete";
/// What must be on the `PATH`.
const PROGRAMS: [&str; 8] = [
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "runc",
    "ip",
    "nft",
    "iptables",
    "conntrack",
];
/// Space that the file system of the state folder must have: images, volumes and logs of one run of every test.
const DISK_BYTES: u64 = 3 << 30;
/// The longest path a Unix socket may have is 107 bytes; the longest one below the state folder takes this many.
const LONGEST_STATE_PATH: usize = 107 - "/kubelet/pod-resources/kubelet.sock".len();

/// The one cluster of the node mode on this machine.
#[derive(Clone, Debug)]
pub struct NodeCluster {
    folder: PathBuf,
}

impl NodeCluster {
    /// The cluster, whether it runs or not.
    ///
    /// # Errors
    /// When the state folder has no path that can be used.
    pub fn of_this_machine() -> Result<Self, HarnessError> {
        let folder = match env::var_os(STATE_VARIABLE) {
            Some(folder) => {
                std::path::absolute(PathBuf::from(folder)).map_err(HarnessError::io("use", STATE_VARIABLE))?
            }
            None => files::cache()?.join("cluster"),
        };
        if folder.as_os_str().len() > LONGEST_STATE_PATH {
            return Err(HarnessError::Unusable(format!(
                "the path {} is too long for Unix sockets: set {STATE_VARIABLE} to one of at most {LONGEST_STATE_PATH} bytes",
                folder.display()
            )));
        }
        Ok(Self { folder })
    }

    /// Starts the cluster unless it runs; waits until the node is ready.
    ///
    /// # Errors
    /// When it is not started by root, a package is missing, or a component does not become ready.
    pub fn up(&self) -> Result<(), HarnessError> {
        check_machine()?;
        let _lock = self.lock()?;
        if self.is_up() {
            return Ok(());
        }
        check_disk(&self.folder, DISK_BYTES)?;
        self.clean()?;
        let start = Instant::now();
        let started = self.start();
        if started.is_ok() {
            eprintln!("the cluster is up after {:.1} s", start.elapsed().as_secs_f64());
        }
        started
    }

    /// Whether the cluster runs and has come up whole.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.folder.join(COMPLETE).exists() && self.processes().all_running().is_ok()
    }

    /// Stops the cluster and removes all it left, also after a crash; if there is nothing, that is fine.
    ///
    /// # Errors
    /// When something of it cannot be ended or removed.
    pub fn down(&self) -> Result<(), HarnessError> {
        if !self.folder.exists() && !network::exists() {
            return Ok(());
        }
        require_root()?;
        let _lock = self.lock()?;
        self.clean()
    }

    /// Starts the cluster unless it runs, and keeps it from being taken down until the lock is dropped.
    ///
    /// # Errors
    /// As [`up`](Self::up).
    pub fn hold(&self) -> Result<Lock, HarnessError> {
        loop {
            self.up()?;
            let held = Lock::share(&self.users())?;
            // Someone may have taken it down in between.
            if self.is_up() {
                return Ok(held);
            }
        }
    }

    /// Loads those `bundles` of images that the node does not have yet.
    ///
    /// # Errors
    /// When containerd refuses one.
    pub fn load(&self, bundles: &[images::Bundle]) -> Result<(), HarnessError> {
        let _lock = self.lock()?;
        images::load(&self.folder.join("images.json"), &self.socket(), bundles)
    }

    /// The processes of the cluster.
    #[must_use]
    pub fn processes(&self) -> Processes {
        Processes::in_folder(&self.folder)
    }

    /// The kubeconfig of an administrator; its address is in the cluster's network namespace.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.plane().kubeconfig()
    }

    /// The script that runs kubectl against the cluster.
    #[must_use]
    pub fn kubectl_script(&self) -> PathBuf {
        self.folder.join("kubectl")
    }

    /// The folder with the logs of the components.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// kubectl with `arguments`, against the cluster.
    ///
    /// # Errors
    /// When kubectl cannot be built.
    pub fn kubectl(&self, arguments: &[String]) -> Result<Command, HarnessError> {
        self.access().kubectl(arguments)
    }

    /// helm with `arguments`, against the cluster.
    ///
    /// # Errors
    /// When helm cannot be built.
    pub fn helm(&self, arguments: &[String]) -> Result<Command, HarnessError> {
        self.access().helm(arguments)
    }

    /// Writes the state of the whole cluster into a new folder, whose name ends with `name`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn collect(&self, name: &str) -> Result<PathBuf, HarnessError> {
        collect(&self.access(), &[], Some(&self.logs()), name)
    }

    pub(crate) fn access(&self) -> Access {
        Access {
            network: Some(network::NAME),
            kubeconfig: Some(self.kubeconfig()),
        }
    }

    /// A client; only for code that runs [`network::inside`].
    pub(crate) async fn client(&self) -> Result<Client, HarnessError> {
        let config = client_config(&self.kubeconfig()).await?;
        Client::try_from(config).map_err(HarnessError::kube("make a client"))
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.folder.join("volumes")
    }

    pub(crate) fn audit_writes(
        &self,
        user: &str,
        since: jiff::Timestamp,
    ) -> Result<Vec<audit::AuditEvent>, HarnessError> {
        audit::writes(&self.plane().audit_log(), user, since)
    }

    fn start(&self) -> Result<(), HarnessError> {
        let plane = self.plane();
        self.prepare_folder()?;
        // Now, since nothing can be downloaded inside of the cluster's network.
        for tool in [Tool::Kubernetes, Tool::CoreDns, Tool::Helm] {
            tool.path()?;
        }
        network::create()?;
        plane.prepare()?;
        configuration::write(&self.folder)?;
        self.write_script("kubectl", &tools::component("kubectl")?)?;
        self.write_script("helm", &Tool::Helm.path()?)?;
        let processes = self.processes();
        processes.start("containerd", self.containerd())?;
        processes.start("etcd", plane.etcd()?)?;
        let mut api_server = plane.api_server()?;
        api_server.args(["--authorization-mode", "Node,RBAC", "--allow-privileged=true"]);
        api_server.args(["--kubelet-preferred-address-types", "InternalIP"]);
        processes.start("kube-apiserver", api_server)?;
        network::inside(|| async {
            let client = self.client().await?;
            plane.ready(&processes, &client, START_PATIENCE).await?;
            self.start_node(&plane, &processes)?;
            self.node_ready(&processes, &client).await?;
            volumes::create(&client, &self.volumes()).await
        })??;
        images::load(&self.folder.join("images.json"), &self.socket(), &[images::pause()?])?;
        files::write_whole(&self.folder.join(COMPLETE), "")
    }

    fn plane(&self) -> ControlPlane {
        ControlPlane {
            folder: self.folder.clone(),
            network: Some(network::NAME),
            address: network::NODE_ADDRESS,
            api_port: 6443,
            etcd_port: 2379,
            peer_port: 2380,
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.join(configuration::SOCKET)
    }

    /// Removes what there is of the cluster, once no test uses it any more.
    fn clean(&self) -> Result<(), HarnessError> {
        let _alone = Lock::take(&self.users())?;
        clean::clean(&self.folder)
    }

    fn users(&self) -> PathBuf {
        self.folder.with_extension("users")
    }

    fn lock(&self) -> Result<Lock, HarnessError> {
        Lock::take(&self.folder.with_extension("lock"))
    }

    /// Makes the state folder. One with foreign content is refused, as it is removed with all in it later.
    fn prepare_folder(&self) -> Result<(), HarnessError> {
        make_folder(&self.folder)?;
        let mut entries = fs::read_dir(&self.folder).map_err(HarnessError::io("list", &self.folder))?;
        if entries.next().is_some() {
            return Err(HarnessError::Unusable(format!(
                "{} holds files that are not the cluster's: set {STATE_VARIABLE} to a new folder",
                self.folder.display()
            )));
        }
        fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o711))
            .map_err(HarnessError::io("protect", &self.folder))?;
        files::write_whole(&self.folder.join(MARKER), "")
    }

    /// Writes a script that runs `program` against the cluster.
    fn write_script(&self, name: &str, program: &Path) -> Result<(), HarnessError> {
        let path = self.folder.join(name);
        let content = format!(
            "#!/bin/sh\nKUBECONFIG='{}' exec nsenter --net=/run/netns/{} -- '{}' \"$@\"\n",
            self.kubeconfig().display(),
            network::NAME,
            program.display()
        );
        files::write_whole(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(HarnessError::io("allow to run", &path))
    }
}

/// Says what the machine lacks for a cluster.
fn check_machine() -> Result<(), HarnessError> {
    require_root()?;
    if let Some(program) = PROGRAMS.iter().find(|program| !tools::on_path(program)) {
        return Err(missing(program));
    }
    let plugin = Path::new(configuration::NETWORK_PLUGINS).join(configuration::NETWORK_PLUGIN);
    if plugin.exists() {
        Ok(())
    } else {
        Err(missing(configuration::NETWORK_PLUGIN))
    }
}

/// A node that runs out of disk evicts pods and takes no new ones, far from where a person would look: better told
/// before.
fn check_disk(folder: &Path, needed: u64) -> Result<(), HarnessError> {
    let existing = folder.ancestors().find(|path| path.exists()).unwrap_or(folder);
    let disk = nix::sys::statvfs::statvfs(existing)
        .map_err(|error| HarnessError::io("look at the disk of", existing)(error.into()))?;
    let free = disk.blocks_available() * disk.fragment_size();
    if free >= needed {
        return Ok(());
    }
    Err(HarnessError::Unusable(format!(
        "the disk of {} has {} MiB left and the cluster needs {}: free some, or name a folder elsewhere with {STATE_VARIABLE}",
        existing.display(),
        free >> 20,
        needed >> 20
    )))
}

fn require_root() -> Result<(), HarnessError> {
    if nix::unistd::geteuid().is_root() {
        Ok(())
    } else {
        Err(HarnessError::NotRoot {
            what: "the cluster with real pods",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a user loses without it: tests that fail by the minute, each with another symptom, because a disk is full.
    #[test]
    fn a_disk_that_is_too_full_is_told_with_its_size_and_the_way_out() {
        let folder = Path::new("/tmp/not/there/yet");
        assert!(check_disk(folder, 1).is_ok());
        let error = check_disk(folder, u64::MAX).unwrap_err().to_string();
        assert!(
            error.starts_with("the disk of /tmp has ") && error.contains(STATE_VARIABLE),
            "{error}"
        );
    }
}
