//! Removing the cluster after a crash. It ends with no cluster on this machine, so it is a test binary of its own, and
//! it is not run with `CLUSTER=current`.

use std::{env, fs, path::Path, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams};
use mcpscale_tests::{
    TestResult, eventually,
    node::NodeCluster,
    process::{self, ProcessId},
    run_in_cluster,
};
use serde_json::json;

/// The processes of this machine whose command line has `text` in it.
fn processes_with(text: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(text))
        .collect()
}

/// The names of what lies in `folder`, none if it is not there.
fn names_in(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Lost otherwise: a crash would leave processes, mounts and namespaces on a developer's machine, and the next run would
/// fail on them.
#[test]
fn node_a_crashed_cluster_is_removed_whole_and_once_more_does_no_harm() -> TestResult {
    if env::var("CLUSTER").is_ok_and(|cluster| cluster == "current") {
        eprintln!("not tried: a cluster that the user has is not crashed");
        return Ok(());
    }
    let networks_before = names_in("/run/netns");
    run_in_cluster(async |cluster| {
        let namespace = cluster.namespace("crash").await?;
        let pods: Api<Pod> = Api::namespaced(cluster.client(), &namespace);
        let pod = serde_json::from_value(json!({
            "metadata": {"name": "sleeper"},
            "spec": {
                "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "main",
                    "image": "debian:bookworm-slim",
                    "command": ["sh", "-c", "sleep 1000; : mcpscale-crash-test"],
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
    })?;

    let node = NodeCluster::of_this_machine()?;
    let state = node.kubeconfig().parent().expect("the state folder").to_path_buf();
    let components: Vec<ProcessId> = node
        .processes()
        .recorded()
        .into_iter()
        .map(|process| process.id)
        .collect();
    process::end(&components, Duration::ZERO)?;
    let marks = state.to_string_lossy().into_owned();
    assert!(
        !processes_with(&marks).is_empty(),
        "the container shims outlive the crash"
    );

    for round in ["first", "second"] {
        node.down()
            .unwrap_or_else(|error| panic!("the {round} clean-up: {error}"));
        assert!(!state.exists(), "{round}: the state folder is still there");
        assert_eq!(
            processes_with(&marks),
            Vec::<String>::new(),
            "{round}: processes are left"
        );
        assert_eq!(
            processes_with("mcpscale-crash-test"),
            Vec::<String>::new(),
            "{round}: a container is left"
        );
        assert!(
            !fs::read_to_string("/proc/self/mountinfo")?.contains(&marks),
            "{round}: mounts are left"
        );
        assert!(
            !Path::new("/run/netns/mcpscale").exists(),
            "{round}: the network namespace is left"
        );
        let left = names_in("/run/netns")
            .into_iter()
            .filter(|name| !networks_before.contains(name))
            .collect::<Vec<_>>();
        assert_eq!(
            left,
            Vec::<String>::new(),
            "{round}: network namespaces of pods are left"
        );
    }
    Ok(())
}
