//! Removing a cluster, whole or broken: after a crash, after a reboot, twice in a row.
//!
//! What belongs to the cluster is found by marks that nothing else bears: the record of processes, the socket that its
//! container shims were started with, mounts below its folder, the name of its pod network. Nothing is ended or removed
//! for its name alone.

use std::{fs, os::unix::ffi::OsStrExt, path::Path, path::PathBuf, time::Duration};

use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
};
use serde_json::Value;

use super::{
    MARKER,
    configuration::{POD_NETWORK, SOCKET},
    network,
};
use crate::{
    HarnessError, files,
    process::{self, ProcessId, Processes, Stat},
};

/// How long components may take to end by themselves.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where the network plugins note what they connected.
const NETWORK_RESULTS: &str = "/var/lib/cni/results";
/// Where control groups are.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";
/// Where kubelet makes links to the logs of containers, wherever these are.
const LOG_LINKS: &str = "/var/log/containers";

/// Ends and removes all of the cluster in `folder`.
pub(super) fn clean(folder: &Path) -> Result<(), HarnessError> {
    if folder.join(MARKER).exists() {
        let processes = Processes::in_folder(folder);
        // First kubelet and all that could start a container again, then the containers, then what holds them.
        processes.stop(PATIENCE, |name| name != "containerd")?;
        end_containers(&folder.join(SOCKET))?;
        processes.stop(PATIENCE, |_| true)?;
        unmount_below(folder)?;
        remove_control_groups(folder);
        remove_log_links(folder);
    }
    delete_pod_networks()?;
    network::delete(network::NAME)?;
    if folder.join(MARKER).exists() {
        files::remove_folder(folder)?;
    }
    Ok(())
}

/// Ends the containers whose shims serve the containerd at `socket`: first the containers, the children of the shims
/// and first processes of their namespaces, so that all that runs in them goes too; then the shims.
fn end_containers(socket: &Path) -> Result<(), HarnessError> {
    let shims: Vec<ProcessId> = process::all_process_ids()
        .into_iter()
        .filter(|pid| is_shim(*pid, socket))
        .filter_map(ProcessId::of)
        .collect();
    let is_child = |pid: &i32| Stat::read(*pid).is_some_and(|stat| shims.iter().any(|shim| shim.pid == stat.parent));
    let containers: Vec<ProcessId> = process::all_process_ids()
        .into_iter()
        .filter(is_child)
        .filter_map(ProcessId::of)
        .collect();
    process::end(&containers, Duration::ZERO)?;
    process::end(&shims, Duration::ZERO)?;
    remove_shim_sockets(socket);
    Ok(())
}

/// Whether the process is a container shim of the containerd at `socket`.
fn is_shim(pid: i32, socket: &Path) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let is_shim = arguments
        .first()
        .is_some_and(|program| program.ends_with(b"containerd-shim-runc-v2"));
    is_shim
        && arguments
            .windows(2)
            .any(|pair| pair[0] == b"-address" && pair[1] == socket.as_os_str().as_bytes())
}

/// Removes the sockets of killed shims. They lie outside the state folder; each bundle names its own.
fn remove_shim_sockets(socket: &Path) {
    let bundles = socket.with_file_name("containerd/state/io.containerd.runtime.v2.task/k8s.io");
    for bundle in fs::read_dir(bundles).into_iter().flatten().flatten() {
        let address = fs::read_to_string(bundle.path().join("address")).unwrap_or_default();
        if let Some(path) = address.trim().strip_prefix("unix://") {
            // It is gone already if the shim removed it.
            let _ = fs::remove_file(path);
        }
    }
}

/// Unmounts all below `folder`, the latest first. Nothing may be mounted there when the folder is removed: the removal
/// would go into what is mounted.
fn unmount_below(folder: &Path) -> Result<(), HarnessError> {
    for mount in mounts_below(folder)?.iter().rev() {
        match umount2(mount, MntFlags::MNT_DETACH) {
            // It is mounted no more: what ends by itself unmounts its own. The look below sees what really stays.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => return Err(HarnessError::io("unmount", mount.as_path())(error.into())),
        }
    }
    match mounts_below(folder)?.first() {
        Some(left) => Err(HarnessError::Unusable(format!(
            "{} cannot be unmounted",
            left.display()
        ))),
        None => Ok(()),
    }
}

fn mounts_below(folder: &Path) -> Result<Vec<PathBuf>, HarnessError> {
    let table = files::read_text(Path::new("/proc/self/mountinfo"))?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    Ok(points
        .filter(|point| point.starts_with(folder) && point != folder)
        .collect())
}

/// A path as the mount table writes it: blanks and the like are octal numbers.
fn unescape(escaped: &str) -> PathBuf {
    let plain = escaped
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\");
    PathBuf::from(plain)
}

/// Removes the network namespaces of pods that were connected to this cluster's pod network and never disconnected.
fn delete_pod_networks() -> Result<(), HarnessError> {
    for entry in fs::read_dir(NETWORK_RESULTS).into_iter().flatten().flatten() {
        if !entry
            .file_name()
            .to_string_lossy()
            .starts_with(&format!("{POD_NETWORK}-"))
        {
            continue;
        }
        let content: Value = fs::read(entry.path())
            .ok()
            .and_then(|content| serde_json::from_slice(&content).ok())
            .unwrap_or_default();
        for interface in content["result"]["interfaces"].as_array().into_iter().flatten() {
            let sandbox = Path::new(interface["sandbox"].as_str().unwrap_or_default());
            if let Some(name) = sandbox
                .file_name()
                .and_then(|name| name.to_str())
                .filter(|name| name.starts_with("cni-"))
            {
                network::delete(name)?;
            }
        }
        // containerd connects each pod's loopback by a network that all clusters of a machine share.
        let pod = content["containerId"].as_str().unwrap_or_default();
        let _ = fs::remove_file(Path::new(NETWORK_RESULTS).join(format!("cni-loopback-{pod}-lo")));
        fs::remove_file(entry.path()).map_err(HarnessError::io("remove", entry.path()))?;
    }
    Ok(())
}

/// Removes the control groups of the pods that kubelet kept in `folder`. They are empty now; one that stays does no
/// harm.
fn remove_control_groups(folder: &Path) {
    // With version 1 each controller has a tree of its own, with version 2 there is one.
    let trees = names_in(Path::new(CONTROL_GROUPS)).map(|name| Path::new(CONTROL_GROUPS).join(name).join("kubepods"));
    let trees: Vec<PathBuf> = trees.chain([Path::new(CONTROL_GROUPS).join("kubepods")]).collect();
    for pod in names_in(&folder.join("kubelet/pods")) {
        for (tree, class) in trees
            .iter()
            .flat_map(|tree| ["", "besteffort", "burstable"].map(|class| (tree, class)))
        {
            let group = tree.join(class).join(format!("pod{pod}"));
            for container in names_in(&group) {
                let _ = fs::remove_dir(group.join(container));
            }
            let _ = fs::remove_dir(group);
        }
    }
}

/// The names in a folder, none if it is not there.
fn names_in(folder: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Removes the links to logs in `folder` that kubelet made in the machine's own folder of logs.
fn remove_log_links(folder: &Path) {
    for entry in fs::read_dir(LOG_LINKS).into_iter().flatten().flatten() {
        if fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(folder)) {
            // A link that stays behind does no harm.
            let _ = fs::remove_file(entry.path());
        }
    }
}
