//! Pods that are killed while clients write through the load balancer.

use std::time::Duration;

use mcpscale_tests::{TestResult, run_in_cluster};
use serde_json::json;

use super::{
    support::{apply, first_call, http, install, pods, wait_for_replicas, wait_until_ready},
    writers::Writers,
};

/// What a user loses without it: messages that a caller was told are stored, or one message twice, whenever a node
/// fails.
#[test]
fn no_acknowledged_write_is_lost_or_doubled_when_pods_are_killed() -> TestResult {
    run_in_cluster(async |cluster| {
        if !cluster.is_node() {
            // Elsewhere a pod can only be asked to end.
            return Ok(());
        }
        install(&cluster).await?;
        let client = cluster.client();
        let namespace = cluster.namespace("killed").await?;
        apply(&client, &namespace, "context", json!({"replicas": 2})).await?;
        wait_until_ready(&client, &namespace, "context").await?;
        wait_for_replicas(&client, &namespace, "context", 2, Duration::from_mins(1)).await?;
        let endpoint = cluster.endpoint(&namespace, "context", 80).await?;
        let url = format!("{}/mcp", endpoint.url());
        first_call(&url).await?;

        let writers = Writers::start(&url, &http()?, 12).await?;
        for pod in pods(&client, &namespace, "context", "server").await? {
            writers.have_stored(10).await?;
            cluster.kill(&pod)?;
        }
        writers.have_stored(10).await?;
        let errors = writers.finish().await?;
        // Else no pod was killed in the middle of a write.
        assert!(!errors.is_empty(), "every write was acknowledged");
        println!("{} writes had no answer", errors.len());
        Ok(())
    })
}
