//! Operators that are killed. No other test runs at the same time, since none could rely on theirs.

use std::time::Duration;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
};
use mcpscale_tests::{TestResult, eventually, installation::NAMESPACE, run_in_cluster};
use serde_json::json;

use super::support::{Result, apply, install, pods, wait_for, wait_for_replicas, wait_until_ready};

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
