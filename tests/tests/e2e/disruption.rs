//! Tests that take away what all share: Prometheus, the operator. They bear each other, and run when no other does.

use std::time::Duration;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use mcp_load::Phase;
use mcpscale_tests::{TestResult, eventually, installation::NAMESPACE, run_in_cluster};
use serde_json::json;

use super::{
    load::{Load, replicas, started, until_set},
    support::{Result, apply, condition, install, pods, read, wait_for, wait_for_replicas, wait_until_ready},
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
        wait_for(
            &client,
            (&namespace, "loop"),
            ("MetricsAvailable", "False", None),
            Duration::from_mins(1),
        )
        .await?;
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
        wait_for(
            &client,
            (&namespace, "loop"),
            ("MetricsAvailable", "True", None),
            Duration::from_secs(90),
        )
        .await?;
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

/// What a user loses without it: a roll-out that stops half way when a node with the operator dies.
#[test]
fn an_operator_killed_in_a_rollout_is_no_loss() -> TestResult {
    run_in_cluster(async |cluster| {
        install(&cluster).await?;
        let client = cluster.client();
        let namespace = cluster.namespace("rollout").await?;
        let spec = |value: &str| json!({"replicas": 2, "server": {"env": [{"name": "ROLLOUT", "value": value}]}});
        apply(&client, &namespace, "context", spec("first")).await?;
        wait_until_ready(&client, &namespace, "context").await?;
        wait_for_replicas(&client, &namespace, "context", 2, Duration::from_mins(1)).await?;
        apply(&client, &namespace, "context", spec("second")).await?;
        kill_operator(&client).await?;
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
        eventually(
            Duration::from_secs(90),
            "the next operator carries the change on",
            async || {
                let deployment = deployments
                    .get("context-server")
                    .await
                    .map_err(|error| error.to_string())?;
                let text = serde_json::to_string(&deployment.spec).map_err(|error| error.to_string())?;
                if text.contains("second") {
                    Ok(())
                } else {
                    Err("the Deployment has the old value")
                }
                .map_err(str::to_owned)
            },
        )
        .await?;
        kill_operator(&client).await?;
        wait_for_replicas(&client, &namespace, "context", 2, Duration::from_mins(2)).await?;
        wait_for(
            &client,
            (&namespace, "context"),
            ("Reconciling", "False", Some("Reconciled")),
            Duration::from_secs(90),
        )
        .await?;
        for pod in pods(&client, &namespace, "context", "server").await? {
            let text = serde_json::to_string(&pod.spec)?;
            assert!(
                pod.metadata.deletion_timestamp.is_some() || text.contains("second"),
                "a pod of the old generation is left"
            );
        }
        Ok(())
    })
}

/// Ends the operator's pods at once, as the loss of their node would.
async fn kill_operator(client: &Client) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let labels = ListParams::default().labels("app.kubernetes.io/component=operator");
    let running = eventually(Duration::from_secs(30), "an operator runs", async || {
        let pods = api.list(&labels).await.map_err(|error| error.to_string())?.items;
        let running: Vec<String> = pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .map(ResourceExt::name_any)
            .collect();
        if running.is_empty() {
            Err("none".to_owned())
        } else {
            Ok(running)
        }
    })
    .await?;
    for pod in running {
        match api.delete(&pod, &DeleteParams::default().grace_period(0)).await {
            // One that goes by itself in this moment is as good.
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            other => drop(other?),
        }
    }
    Ok(())
}
