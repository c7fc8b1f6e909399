//! The configuration files of the node's components.

use std::path::Path;

use super::network::NODE_ADDRESS;
use crate::{
    HarnessError,
    files::{make_folder, write_whole},
};

/// The name of the node.
pub(super) const NODE: &str = "node-0";
/// The addresses of pods.
pub(super) const POD_RANGE: &str = "10.88.0.0/16";
/// The name of the pod network: files that the network plugins leave on the machine begin with it.
pub(super) const POD_NETWORK: &str = "mcpscale-test";
/// Where Debian keeps the network plugins.
pub(super) const NETWORK_PLUGINS: &str = "/usr/lib/cni";
/// The plugin that connects a pod. It routes all that pods say to each other through the node, so that kube-proxy sees
/// it. With the plugin `bridge` that takes the kernel module `br_netfilter` and settings of the whole machine.
pub(super) const NETWORK_PLUGIN: &str = "ptp";
/// containerd's socket in the state folder.
pub(super) const SOCKET: &str = "containerd.sock";

/// Writes all configuration files into `folder`.
pub(super) fn write(folder: &Path) -> Result<(), HarnessError> {
    make_folder(&folder.join("cni"))?;
    write_whole(&folder.join("cni/10-pods.conflist"), pod_network(folder))?;
    write_whole(&folder.join("containerd.toml"), containerd(folder))?;
    write_whole(&folder.join("kubelet.yaml"), kubelet(folder))?;
    write_whole(&folder.join("Corefile"), name_server(folder))
}

/// The pod network. Addresses are handed out from a folder of this cluster: the machine's own would leak them from run
/// to run.
fn pod_network(folder: &Path) -> String {
    serde_json::json!({
        "cniVersion": "1.0.0",
        "name": POD_NETWORK,
        "plugins": [{
            "type": NETWORK_PLUGIN,
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": folder.join("addresses"),
                "ranges": [[{"subnet": POD_RANGE}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
    .to_string()
}

/// containerd, with everything it writes in the state folder. `restrict_oom_score_adj` lets it run where the harness
/// itself may not lower scores, as in a container.
fn containerd(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"version = 2
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{folder}/{SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "registry.k8s.io/pause:3.10"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = "{folder}/containerd/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{NETWORK_PLUGINS}"
    conf_dir = "{folder}/cni"
"#
    )
}

/// kubelet. It takes both versions of control groups, keeps nothing of the machine for itself, never removes an image
/// (there is nowhere to pull it from again), and evicts only when the machine is about to be full.
fn kubelet(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix://{folder}/{SOCKET}
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
clusterDNS: ["{NODE_ADDRESS}"]
clusterDomain: cluster.local
resolvConf: /dev/null
podLogsDir: {folder}/pod-logs
failSwapOn: false
enforceNodeAllocatable: []
evictionHard: {{memory.available: 50Mi, nodefs.available: 100Mi, imagefs.available: 100Mi}}
imageGCHighThresholdPercent: 100
"#
    )
}

/// `CoreDNS`. Five seconds are the time to live that it gives Services by default.
fn name_server(folder: &Path) -> String {
    format!(
        "cluster.local:53 in-addr.arpa:53 {{\n  bind {NODE_ADDRESS}\n  errors\n  kubernetes {{\n    kubeconfig {}/kubeconfig\n    \
         pods insecure\n  }}\n  cache 5\n}}\n",
        folder.display()
    )
}
