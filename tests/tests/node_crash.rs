//! Removing the cluster after a crash. It ends with no cluster on this machine, so it is a test binary of its own, and
//! it is not run with `CLUSTER=current`.

use std::{env, fs, path::Path, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams};
use mcpscale_tests::{
    Cluster, TestResult, eventually,
    node::NodeCluster,
    process::{self, ProcessId},
    run_in_cluster,
};
use serde_json::json;

/// What the container of the test has in its command line.
const CONTAINER_MARK: &str = "mcpscale-crash-test";

/// What a cluster leaves on a machine outside its own folder.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    network_namespaces: Vec<String>,
    notes_of_network_plugins: Vec<String>,
    containers: Vec<String>,
    control_groups: Vec<String>,
    processes: Vec<String>,
    mounts: Vec<String>,
}

impl Traces {
    /// What there is now of a cluster whose state folder is `state`, and of any other.
    fn now(state: &Path) -> Self {
        let state = state.to_string_lossy();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let pods = ["memory/kubepods/besteffort", "kubepods/besteffort"]
            .into_iter()
            .flat_map(|tree| names_in(&format!("/sys/fs/cgroup/{tree}")))
            .filter(|name| name.starts_with("pod"));
        Self {
            network_namespaces: names_in("/run/netns"),
            notes_of_network_plugins: names_in("/var/lib/cni/results"),
            containers: names_in("/run/containerd/runc/k8s.io"),
            control_groups: pods.collect(),
            processes: command_lines()
                .filter(|line| line.contains(&*state) || line.contains(CONTAINER_MARK))
                .collect(),
            mounts: mounts
                .lines()
                .filter(|line| line.contains(&*state))
                .map(str::to_owned)
                .collect(),
        }
    }
}

/// The command lines of all processes of this machine.
fn command_lines() -> impl Iterator<Item = String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
}

/// The names of what lies in `folder` in order, none if it is not there.
fn names_in(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Runs a pod and leaves it running.
async fn start_pod(cluster: Cluster) -> TestResult {
    let namespace = cluster.namespace("crash").await?;
    let pods: Api<Pod> = Api::namespaced(cluster.client(), &namespace);
    let pod = serde_json::from_value(json!({
        "metadata": {"name": "sleeper"},
        "spec": {
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "main",
                "image": "debian:bookworm-slim",
                "command": ["sh", "-c", format!("sleep 1000; : {CONTAINER_MARK}")],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    }))?;
    pods.create(&PostParams::default(), &pod).await?;
    eventually(Duration::from_mins(2), "the pod to run", async || {
        let status = pods
            .get("sleeper")
            .await
            .map_err(|error| error.to_string())?
            .status
            .unwrap_or_default();
        if status.phase.as_deref() == Some("Running") {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await?;
    Ok(())
}

/// Lost otherwise: a crash would leave processes, mounts and namespaces on a developer's machine, and the next run
/// would fail on them.
#[test]
fn node_a_crashed_cluster_is_removed_whole_and_once_more_does_no_harm() -> TestResult {
    if env::var("CLUSTER").is_ok_and(|cluster| cluster == "current") {
        eprintln!("not tried: a cluster that the user has is not crashed");
        return Ok(());
    }
    let node = NodeCluster::of_this_machine()?;
    let state = node.kubeconfig().parent().expect("the state folder").to_path_buf();
    node.down()?;
    let before = Traces::now(&state);

    run_in_cluster(start_pod)?;
    let components: Vec<ProcessId> = node
        .processes()
        .recorded()
        .into_iter()
        .map(|process| process.id)
        .collect();
    process::end(&components, Duration::ZERO)?;
    let crashed = Traces::now(&state);
    assert!(!crashed.processes.is_empty(), "the containers outlive the crash");
    assert_ne!(
        crashed.network_namespaces, before.network_namespaces,
        "so do their networks"
    );
    assert_ne!(crashed.mounts, before.mounts, "and their mounts");

    for round in ["first", "second"] {
        node.down()
            .unwrap_or_else(|error| panic!("the {round} clean-up: {error}"));
        assert!(!state.exists(), "{round}: the state folder is still there");
        assert_eq!(Traces::now(&state), before, "{round}");
    }
    Ok(())
}
