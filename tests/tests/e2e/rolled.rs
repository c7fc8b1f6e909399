//! Roll-outs under load.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Client, ResourceExt};
use mcpscale_tests::{TestResult, eventually, run_in_cluster};
use reqwest::Method;
use serde_json::json;

use super::{
    support::{
        Result, apply, condition, first_call, install, no_connection_was_refused, pods, read, wait_for_replicas,
        wait_until_ready,
    },
    writers::Writers,
};

/// What a user loses without it: calls that fail whenever something is changed; a Postgres that turns pods away because
/// the old ones still hold their connections; and a pipeline that goes on when the change has only begun.
#[test]
fn servers_and_load_balancers_roll_under_load_without_a_failed_call() -> TestResult {
    run_in_cluster(async |cluster| {
        install(&cluster).await?;
        let client = cluster.client();
        let namespace = cluster.namespace("rolled").await?;
        let spec = |protocol_mode: &str, note: &str| {
            json!({
                "replicas": 2,
                "loadBalancer": {"replicas": 2},
                "server": {"protocolMode": protocol_mode, "env": [{"name": "NOTE", "value": note}]},
                // Two for each pod, with those that surge and those that end.
                "postgres": {"maxConnections": 20},
            })
        };
        apply(&client, &namespace, "context", spec("Auto", "before")).await?;
        wait_until_ready(&client, &namespace, "context").await?;
        wait_for_replicas(&client, &namespace, "context", 2, Duration::from_mins(1)).await?;
        is_reconciled(&client, &namespace, 1).await?;
        let endpoint = cluster.endpoint(&namespace, "context", 80).await?;
        let url = format!("{}/mcp", endpoint.url());
        first_call(&url).await?;
        let before = templates(&client, &namespace).await?;

        // A connection for each call: one that is kept may be closed in the moment in which it is used, whoever closes it.
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(10))
            .pool_max_idle_per_host(0)
            .build()?;
        let writers = Writers::start(&url, &http, 8).await?;
        writers.have_stored(5).await?;
        let changed = apply(&client, &namespace, "context", spec("Stateless", "after")).await?;
        is_reconciled(&client, &namespace, changed.metadata.generation.unwrap_or_default()).await?;
        let after = templates(&client, &namespace).await?;
        for component in ["server", "nginx"] {
            assert_eq!(
                after[component].len(),
                1,
                "{component}: not all pods are new: {after:?}"
            );
            assert!(
                after[component].is_disjoint(&before[component]),
                "{component} has not rolled: {after:?}"
            );
        }
        writers.have_stored(5).await?;
        assert_eq!(writers.finish().await?, Vec::<String>::new());
        no_connection_was_refused(&client, &namespace, "context").await?;

        let without_version = http.post(&url).body("{}").send().await?;
        assert_eq!(without_version.status(), 400, "an older client is turned away");
        assert!(without_version.text().await?.contains("-32022"));
        // What a browser asks before it lets a page call has no version yet; the server answers it.
        let preflight = http.request(Method::OPTIONS, &url).header("Origin", "http://localhost");
        let preflight = preflight.header("Access-Control-Request-Method", "POST").send().await?;
        let (status, allows) = (
            preflight.status(),
            preflight.headers().get("access-control-allow-methods"),
        );
        assert!(
            status.is_success() && allows.is_some(),
            "{status}: {:?}",
            preflight.headers()
        );
        Ok(())
    })
}

/// Waits until the status says of a generation that it is reconciled.
async fn is_reconciled(client: &Client, namespace: &str, generation: i64) -> Result<()> {
    let what = format!("generation {generation} is reconciled");
    eventually(Duration::from_mins(2), &what, async || {
        let server = read(client, namespace, "context").await?;
        let observed = server.status.as_ref().and_then(|status| status.observed_generation);
        match condition(&server, "Reconciling") {
            Some((status, _, _)) if status == "False" && observed >= Some(generation) => Ok(()),
            other => Err(format!("{observed:?}: {other:?}")),
        }
    })
    .await?;
    Ok(())
}

/// By component, the templates that its pods are made from.
async fn templates(client: &Client, namespace: &str) -> Result<BTreeMap<&'static str, BTreeSet<String>>> {
    let mut found = BTreeMap::new();
    for component in ["server", "nginx"] {
        let pods = pods(client, namespace, "context", component).await?;
        let staying = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        found.insert(component, staying.filter_map(template).collect());
    }
    Ok(found)
}

fn template(pod: &Pod) -> Option<String> {
    pod.labels().get("pod-template-hash").cloned()
}
