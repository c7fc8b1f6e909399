//! A server starts, serves real clients from any pod, and does not depend on its neighbours.

use std::{process::Command, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::LogParams};
use mcpscale_tests::{Cluster, TestResult, installation::repository, run_in_cluster};
use serde_json::json;

use super::support::{
    apply, call, condition, first_call, install, pods, read, wait_for, wait_for_replicas, wait_until_ready,
};

/// What a user loses without it: the promise of the README, and every client whose next request meets another pod.
#[test]
fn a_new_server_serves_within_thirty_seconds_and_any_pod_serves_any_client() -> TestResult {
    // Outside of the cluster's network, where packages can be had.
    let python = Command::new(repository().join("tests/clients/venv.sh")).output()?;
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    let python = String::from_utf8(python.stdout)?.trim().to_owned();
    run_in_cluster(async |cluster| {
        install(&cluster).await?;
        let client = cluster.client();
        let namespace = cluster.namespace("serving").await?;
        apply(&client, &namespace, "context", json!({"replicas": 3})).await?;
        let took = wait_until_ready(&client, &namespace, "context").await?;
        println!("ready after {took:.1?}");
        // A cluster of the user's own may have to pull images first.
        assert!(!cluster.is_node() || took < Duration::from_secs(30), "it took {took:?}");
        wait_for_replicas(&client, &namespace, "context", 3, Duration::from_mins(1)).await?;
        if cluster.is_node() {
            written_through_one_read_through_another(&cluster, &namespace).await?;
        }
        let endpoint = cluster.endpoint(&namespace, "context", 80).await?;
        official_client(&python, &format!("{}/mcp", endpoint.url())).await?;
        access_log_is_json(&cluster, &namespace).await
    })
}

async fn written_through_one_read_through_another(cluster: &Cluster, namespace: &str) -> TestResult {
    let client = cluster.client();
    let urls: Vec<_> = pods(&client, namespace, "context", "server")
        .await?
        .iter()
        .filter_map(|pod| Some(format!("http://{}:8080/mcp", pod.status.as_ref()?.pod_ip.as_ref()?)))
        .collect();
    assert_eq!(urls.len(), 3);
    let created = call(&urls[0], "create_session", json!({"purpose": "shared by all pods"})).await?;
    let session = created["session_id"].as_str().ok_or("no session_id")?.to_owned();
    call(
        &urls[1],
        "add_message",
        json!({"session_id": session, "content": "written through another pod"}),
    )
    .await?;
    let read = call(&urls[2], "get_messages", json!({"session_id": session})).await?;
    assert_eq!(
        read.pointer("/messages/0/content"),
        Some(&json!("written through another pod")),
        "{read}"
    );
    Ok(())
}

/// The official Python client, in both eras, with sessions that nginx spreads over the pods.
async fn official_client(python: &str, url: &str) -> TestResult {
    let script = repository().join("tests/clients/official_client.py");
    let mut command = Command::new(python);
    command
        .arg(script)
        .args(["--url", url, "--clients", "4", "--rounds", "4"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}\n{err}");
    let summary: serde_json::Value = serde_json::from_str(&out)?;
    assert_eq!(summary["ok"], true, "{out}");
    Ok(())
}

/// What an administrator loses without it: a log that tools can read.
async fn access_log_is_json(cluster: &Cluster, namespace: &str) -> TestResult {
    let client = cluster.client();
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut lines = 0;
    for pod in pods(&client, namespace, "context", "nginx").await? {
        let name = pod.metadata.name.unwrap_or_default();
        let log = api
            .logs(
                &name,
                &LogParams {
                    container: Some("nginx".into()),
                    ..LogParams::default()
                },
            )
            .await?;
        for line in log.lines().filter(|line| line.starts_with('{')) {
            let entry: serde_json::Value = serde_json::from_str(line).map_err(|error| format!("{line}: {error}"))?;
            assert!(
                entry["st"].is_u64() && entry["up"].is_string() && entry["id"].is_string(),
                "{line}"
            );
            lines += 1;
        }
    }
    assert!(lines > 50, "{lines} lines for several hundred requests");
    Ok(())
}

/// What an administrator of many teams loses without it: one team's mistake stops another team's server.
#[test]
fn two_servers_serve_while_a_third_says_what_is_wrong_with_it() -> TestResult {
    run_in_cluster(async |cluster| {
        install(&cluster).await?;
        let client = cluster.client();
        let (first, second, third) = (
            cluster.namespace("first").await?,
            cluster.namespace("second").await?,
            cluster.namespace("third").await?,
        );
        // More pods than Postgres has connections for: no schema can see it.
        apply(
            &client,
            &third,
            "context",
            json!({"autoscaling": {"maxReplicas": 200}, "postgres": {"maxConnections": 100}}),
        )
        .await?;
        for namespace in [&first, &second] {
            apply(&client, namespace, "context", json!({"loadBalancer": {"replicas": 1}})).await?;
        }
        for namespace in [&first, &second] {
            wait_until_ready(&client, namespace, "context").await?;
            let endpoint = cluster.endpoint(namespace, "context", 80).await?;
            let url = format!("{}/mcp", endpoint.url());
            first_call(&url).await?;
        }
        wait_for(
            &client,
            (&third, "context"),
            ("Accepted", "False", Some("ConnectionBudgetTooSmall")),
            Duration::from_secs(10),
        )
        .await?;
        let (_, _, message) = condition(&read(&client, &third, "context").await?, "Accepted").ok_or("no condition")?;
        assert!(
            message.contains("set postgres.maxConnections to at least 460"),
            "{message}"
        );
        assert!(
            pods(&client, &third, "context", "server").await?.is_empty(),
            "it was half applied"
        );
        let events = cluster.kubectl(&["get", "events", "--namespace", &third]).await?;
        assert!(events.contains("ConnectionBudgetTooSmall"), "{events}");
        Ok(())
    })
}
