//! What pods that come and go do to the calls and streams of clients.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use mcpscale_crds::v1alpha1::McpServer;
use mcpscale_tests::{Cluster, Endpoint, TestResult, eventually, run_in_cluster};
use serde_json::{Value, json};

use super::support::{Result, apply, call, first_call, install, pods, wait_for_replicas, wait_until_ready};

/// What a user loses without it: a tool that is called once and runs twice, because a pod died in the middle.
#[test]
fn a_call_that_dies_with_its_pod_is_not_run_again_by_another() -> TestResult {
    run_in_cluster(async |cluster| {
        if !cluster.is_node() {
            // The pods' metrics are read at their addresses, which only this machine's node gives.
            return Ok(());
        }
        let client = cluster.client();
        let (namespace, url, _endpoint) = served(&cluster, "once", 2).await?;
        let running = tokio::spawn({
            let url = url.clone();
            async move { call(&url, "simulate_work", json!({"io_ms": 9_000})).await }
        });
        let victim = eventually(Duration::from_secs(8), "a pod runs the call", async || {
            let calls = calls_by_pod(&client, &namespace).await.map_err(|e| e.to_string())?;
            let running = calls.iter().find(|pod| pod.in_flight > 0.0);
            running.map(|pod| pod.name.clone()).ok_or_else(|| format!("{calls:?}"))
        })
        .await?;
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        api.delete(&victim, &DeleteParams::default().grace_period(0)).await?;
        let error = running
            .await?
            .err()
            .ok_or("the call succeeded without its pod")?
            .to_string();
        assert!(
            error.contains("502"),
            "the client is not told that its call failed: {error}"
        );
        let others = calls_by_pod(&client, &namespace).await?;
        assert!(
            others
                .iter()
                .all(|pod| pod.name == victim || (pod.in_flight, pod.finished) == (0.0, 0.0)),
            "another pod runs the call of {victim}: {others:?}"
        );
        Ok(())
    })
}

/// What a user loses without it: a client that listens is cut off in the middle of a roll-out, and cannot tell that
/// from a broken network.
#[test]
fn a_stream_ends_in_good_order_when_its_pod_is_replaced() -> TestResult {
    run_in_cluster(async |cluster| {
        let client = cluster.client();
        let (namespace, url, _endpoint) = served(&cluster, "listen", 1).await?;
        let mut stream = listen(&url).await?;
        let first = stream.chunk().await?.ok_or("the stream ended at once")?;
        let mut text = String::from_utf8_lossy(&first).into_owned();
        let servers: Api<McpServer> = Api::namespaced(client.clone(), &namespace);
        let roll = json!({"spec": {"server": {"env": [
            {"name": "MCP_FIXTURES", "value": "load"},
            {"name": "MCP_LOG_FORMAT", "value": "json"},
        ]}}});
        servers
            .patch("context", &PatchParams::default(), &Patch::Merge(roll))
            .await?;
        let ended = tokio::time::timeout(Duration::from_mins(2), async {
            while let Some(chunk) = stream.chunk().await? {
                text.push_str(&String::from_utf8_lossy(&chunk));
            }
            Ok::<_, reqwest::Error>(())
        });
        ended
            .await?
            .map_err(|error| format!("the stream was cut: {error}; it said {text}"))?;
        let result = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data:")?).ok())
            .find(|message| message["id"] == "listening" && message.get("result").is_some());
        assert!(result.is_some(), "no completion before the end: {text}");
        Ok(())
    })
}

/// A server that serves, with the tools for load tests; answers its namespace and URL.
async fn served(cluster: &Cluster, namespace: &str, replicas: i32) -> Result<(String, String, Endpoint)> {
    install(cluster).await?;
    let client = cluster.client();
    let namespace = cluster.namespace(namespace).await?;
    let spec = json!({
        "replicas": replicas,
        "loadBalancer": {"replicas": 1},
        "server": {"env": [{"name": "MCP_FIXTURES", "value": "load"}]},
    });
    apply(&client, &namespace, "context", spec).await?;
    wait_until_ready(&client, &namespace, "context").await?;
    wait_for_replicas(&client, &namespace, "context", replicas, Duration::from_mins(1)).await?;
    let endpoint = cluster.endpoint(&namespace, "context", 80).await?;
    let url = format!("{}/mcp", endpoint.url());
    first_call(&url).await?;
    Ok((namespace, url, endpoint))
}

/// Calls of `simulate_work` in one pod.
#[derive(Debug)]
struct Calls {
    name: String,
    in_flight: f64,
    finished: f64,
}

async fn calls_by_pod(client: &Client, namespace: &str) -> Result<Vec<Calls>> {
    let mut found = Vec::new();
    for pod in pods(client, namespace, "context", "server").await? {
        let name = pod.name_any();
        let Some(address) = pod.status.and_then(|status| status.pod_ip) else {
            continue;
        };
        let Ok(answer) = reqwest::get(format!("http://{address}:9090/metrics")).await else {
            continue;
        };
        let metrics = answer.text().await?;
        let sum = |start: &str, label: &str| {
            let series = metrics
                .lines()
                .filter(|line| line.starts_with(start) && line.contains(label));
            series
                .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
                .sum()
        };
        found.push(Calls {
            name,
            in_flight: sum("mcp_in_flight_requests ", ""),
            finished: sum("mcp_requests_total{", "tool=\"simulate_work\""),
        });
    }
    Ok(found)
}

async fn listen(url: &str) -> Result<reqwest::Response> {
    let body = json!({
        "jsonrpc": "2.0",
        "id": "listening",
        "method": "subscriptions/listen",
        "params": {
            "notifications": {"toolsListChanged": true},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
            },
        },
    });
    let response = reqwest::Client::builder()
        .no_proxy()
        .build()?
        .post(url)
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "subscriptions/listen")
        .json(&body)
        .send()
        .await?;
    if response.status().is_success() {
        Ok(response)
    } else {
        Err(format!("{}: {}", response.status(), response.text().await?).into())
    }
}
