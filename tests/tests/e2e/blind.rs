//! Monitoring that is away. Tests of what scales do not run at the same time.

use std::time::Duration;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use mcp_load::Phase;
use mcpscale_tests::{TestResult, eventually, installation::NAMESPACE, run_in_cluster};
use serde_json::json;

use super::{
    load::{Load, replicas, started, until_metrics, until_set},
    support::{Result, condition, read},
};

/// What a user loses without it: a monitoring outage becomes an outage of the service.
#[test]
fn without_prometheus_nothing_is_scaled_down_and_it_recovers() -> TestResult {
    run_in_cluster(async |cluster| {
        let (namespace, url, _endpoint) = started(&cluster, "blind", 1, 4).await?;
        let client = cluster.client();
        let load = Load::start(&url, vec![Phase::constant(150.0, Duration::from_mins(10))]);
        let grown = until_set(&client, &namespace, 2.., Duration::from_secs(90)).await?;
        scale_prometheus(&client, 0).await?;
        until_metrics(&client, &namespace, "False", Duration::from_mins(1)).await?;
        let (_, reason, _) =
            condition(&read(&client, &namespace, "loop").await?, "MetricsAvailable").ok_or("no condition")?;
        println!("without Prometheus: {reason}");
        // The load goes; a scaler that took silence for zero would shrink after its window of 30 s.
        let report = load.stop().await?;
        assert_eq!(report.failed(), 0, "{:?}", report.failures);
        let blind = replicas(&client, &namespace).await?;
        assert!(blind >= grown);
        let until = tokio::time::Instant::now() + Duration::from_secs(50);
        while tokio::time::Instant::now() < until {
            assert!(
                replicas(&client, &namespace).await? >= blind,
                "scaled down on missing data"
            );
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(
            condition(&read(&client, &namespace, "loop").await?, "Ready").map(|c| c.0),
            Some("True".into())
        );
        scale_prometheus(&client, 1).await?;
        until_metrics(&client, &namespace, "True", Duration::from_secs(90)).await?;
        until_set(&client, &namespace, 1..=1, Duration::from_mins(3)).await?;
        Ok(())
    })
}

/// Stops or starts Prometheus, and waits until it is gone or ready.
async fn scale_prometheus(client: &Client, replicas: i32) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let labels = ListParams::default().labels("app.kubernetes.io/component=prometheus");
    let name = deployments
        .list(&labels)
        .await?
        .items
        .first()
        .and_then(|d| d.metadata.name.clone())
        .ok_or("no Prometheus")?;
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    deployments.patch(&name, &PatchParams::default(), &patch).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    eventually(Duration::from_secs(90), "Prometheus follows", async || {
        let deployment = deployments.get(&name).await.map_err(|error| error.to_string())?;
        let ready = deployment.status.and_then(|status| status.ready_replicas).unwrap_or(0);
        let left = pods.list(&labels).await.map_err(|error| error.to_string())?.items.len();
        if ready == replicas && (replicas > 0 || left == 0) {
            Ok(())
        } else {
            Err(format!("{ready} ready, {left} pods"))
        }
    })
    .await?;
    Ok(())
}
