//! A server starts, serves real clients from any pod, and does not depend on its neighbours.

use std::{process::Command, time::Duration};

use mcp_load::{CancellationToken, Era, Mix, Phase, Plan};
use mcpscale_tests::{Cluster, TestResult, eventually, installation::repository, run_in_cluster};
use serde_json::json;

use super::support::{
    Result, apply, call, condition, first_call, http, install, logs, pods, read, wait_for, wait_for_replicas,
    wait_until_ready,
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
    let mut lines = 0;
    for log in logs(&client, namespace, "context", "nginx").await? {
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
        let server = json!({"env": [
            {"name": "MCP_REST_SHIM", "value": "true"},
            {"name": "MCP_ALLOWED_ORIGINS", "value": PAGE},
        ]});
        let spec = json!({"loadBalancer": {"replicas": 1}, "server": server});
        apply(&client, &first, "context", spec).await?;
        apply(&client, &second, "context", json!({"loadBalancer": {"replicas": 1}})).await?;
        for namespace in [&first, &second] {
            wait_until_ready(&client, namespace, "context").await?;
            let endpoint = cluster.endpoint(namespace, "context", 80).await?;
            let url = format!("{}/mcp", endpoint.url());
            first_call(&url).await?;
            if namespace == &first {
                what_is_not_mcp_is_served(endpoint.url()).await?;
            }
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

/// A page whose browser may use the server.
const PAGE: &str = "https://app.example.com";

/// What users lose without it: settings of the server that work alone, and not behind the load balancer.
async fn what_is_not_mcp_is_served(base: &str) -> Result<()> {
    let http = http()?;
    let created = http
        .post(format!("{base}/mcp/tool/create_session"))
        .json(&json!({"purpose": "over REST"}))
        .send()
        .await?
        .error_for_status()?;
    assert_eq!(created.json::<serde_json::Value>().await?["success"], true);
    let asked = http
        .request(reqwest::Method::OPTIONS, format!("{base}/mcp"))
        .header("origin", PAGE)
        .header("access-control-request-method", "POST")
        .send()
        .await?
        .error_for_status()?;
    assert_eq!(asked.headers()["access-control-allow-origin"], PAGE);
    // It has no login, so it has no such page; but it is the server who says so.
    let metadata = http
        .get(format!("{base}/.well-known/oauth-protected-resource/mcp"))
        .send()
        .await?;
    assert_eq!(metadata.status(), 404);
    assert!(metadata.headers().contains_key("x-request-id"), "{metadata:?}");
    Ok(())
}

/// What a user of an image with sessions of its own loses without it: clients that are led to a pod that does not know
/// them, or a load balancer that does not start.
#[test]
fn local_sessions_and_one_era_are_what_nginx_makes_of_them() -> TestResult {
    run_in_cluster(async |cluster| {
        install(&cluster).await?;
        let client = cluster.client();
        let namespace = cluster.namespace("legacy").await?;
        let spec = json!({
            "replicas": 2,
            "loadBalancer": {"replicas": 1},
            "server": {
                "sessions": "Local",
                "protocolMode": "Legacy",
                "env": [{"name": "MCP_FIXTURES", "value": "load"}],
            },
        });
        apply(&client, &namespace, "context", spec).await?;
        wait_until_ready(&client, &namespace, "context").await?;
        wait_for_replicas(&client, &namespace, "context", 2, Duration::from_mins(1)).await?;
        let endpoint = cluster.endpoint(&namespace, "context", 80).await?;
        let url = format!("{}/mcp", endpoint.url());
        let refused = eventually(
            Duration::from_secs(5),
            "a client of the other era is answered",
            async || match call(&url, "create_session", json!({"purpose": "refused"})).await {
                Err(error) if error.to_string().contains("-32022") => Ok(error.to_string()),
                other => Err(format!("{other:?}")),
            },
        )
        .await?;
        assert!(
            refused.contains("2025-11-25"),
            "the refusal does not say what is served: {refused}"
        );
        let mut plan = Plan::new(
            &url,
            Mix::simulate_work(1, 0),
            [Phase::constant(40.0, Duration::from_secs(8))],
        );
        plan.era = Era::Legacy;
        let load = tokio::spawn(mcp_load::run(plan, None, CancellationToken::new()));
        let mut most = 0.0_f64;
        while !load.is_finished() {
            if cluster.is_node() {
                most = most.max(sessions_in_memory(&cluster, &namespace).await?);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let report = load.await??;
        assert_eq!((report.failed(), report.shed()), (0, 0), "{:?}", report.failures);
        let opened = f64::from(u32::try_from(report.sessions.as_ref().ok_or("no sessions")?.opened)?);
        // A session that visits a second pod is restored there, and is then in the memory of both.
        assert!(
            !cluster.is_node() || (most > 0.9 * opened && most <= opened),
            "{most} sessions in the memory of two pods, of {opened} that were opened"
        );
        Ok(())
    })
}

/// Sessions of legacy clients in the memory of all server pods together.
async fn sessions_in_memory(cluster: &Cluster, namespace: &str) -> Result<f64> {
    let mut sessions = 0.0;
    for pod in pods(&cluster.client(), namespace, "context", "server").await? {
        let address = pod
            .status
            .and_then(|status| status.pod_ip)
            .ok_or("a pod without an address")?;
        let metrics = reqwest::get(format!("http://{address}:9090/metrics"))
            .await?
            .text()
            .await?;
        let active = metrics
            .lines()
            .find_map(|line| line.strip_prefix("mcp_active_sessions "));
        sessions += active.ok_or("no mcp_active_sessions")?.trim().parse::<f64>()?;
    }
    Ok(sessions)
}
