//! The components of the node: what runs besides etcd and kube-apiserver.

use std::{
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};

use super::{NodeCluster, START_PATIENCE, configuration, network};
use crate::{
    HarnessError,
    control_plane::{ControlPlane, in_network},
    eventually,
    process::Processes,
    tools::Tool,
};

impl NodeCluster {
    /// Starts what needs an API server that answers.
    pub(super) fn start_node(&self, plane: &ControlPlane, processes: &Processes) -> Result<(), HarnessError> {
        let kubeconfig = plane.kubeconfig();
        processes.start("kube-controller-manager", plane.controller_manager()?)?;

        let mut scheduler = plane.component("kube-scheduler")?;
        scheduler
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .arg("--leader-elect=false");
        processes.start("kube-scheduler", scheduler)?;

        let mut kubelet = plane.component("kubelet")?;
        kubelet
            .arg("--config")
            .arg(self.folder.join("kubelet.yaml"))
            .arg("--kubeconfig")
            .arg(&kubeconfig);
        kubelet.args([
            "--node-ip",
            &network::NODE_ADDRESS.to_string(),
            "--hostname-override",
            configuration::NODE,
        ]);
        kubelet.arg("--root-dir").arg(self.folder.join("kubelet"));
        kubelet.arg("--cert-dir").arg(self.folder.join("kubelet-certificates"));
        self.containerd_ready(processes)?;
        processes.start("kubelet", kubelet)?;

        // The conntrack limits belong to the machine: they are left as they are.
        let mut proxy = plane.component("kube-proxy")?;
        proxy
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .args(["--proxy-mode", "nftables"]);
        proxy.args([
            "--hostname-override",
            configuration::NODE,
            "--cluster-cidr",
            configuration::POD_RANGE,
        ]);
        proxy.args([
            "--conntrack-max-per-core",
            "0",
            "--conntrack-tcp-timeout-established",
            "0",
        ]);
        proxy.args(["--conntrack-tcp-timeout-close-wait", "0"]);
        processes.start("kube-proxy", proxy)?;

        let mut coredns = in_network(Some(network::NAME), &Tool::CoreDns.path()?);
        coredns.arg("-conf").arg(self.folder.join("Corefile"));
        processes.start("coredns", coredns).map(drop)
    }

    pub(super) fn containerd(&self) -> Command {
        let mut command = in_network(Some(network::NAME), Path::new("containerd"));
        command.arg("--config").arg(self.folder.join("containerd.toml"));
        command
    }

    /// Waits for containerd: kubelet ends when it finds none.
    fn containerd_ready(&self, processes: &Processes) -> Result<(), HarnessError> {
        let start = Instant::now();
        while UnixStream::connect(self.socket()).is_err() {
            processes.all_running()?;
            if start.elapsed() > START_PATIENCE {
                return Err(processes.ended("containerd", format!("does not listen after {START_PATIENCE:?}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    pub(super) async fn node_ready(&self, processes: &Processes, client: &Client) -> Result<(), HarnessError> {
        let nodes: Api<Node> = Api::all(client.clone());
        let ready = eventually(START_PATIENCE, "the node to be ready", async || {
            processes.all_running().map_err(|error| error.to_string())?;
            let node = nodes
                .get(configuration::NODE)
                .await
                .map_err(|error| error.to_string())?;
            let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
            match conditions.iter().find(|condition| condition.type_ == "Ready") {
                Some(condition) if condition.status == "True" => Ok(()),
                Some(condition) => Err(condition.message.clone().unwrap_or_default()),
                None => Err("the node has no condition Ready".to_owned()),
            }
        });
        ready
            .await
            .map_err(|error| processes.ended("kubelet", error.to_string()))
    }
}
