//! A load beside a test, and the server that it is sent to.

use std::{fmt::Debug, ops::RangeBounds, time::Duration};

use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, Client};
use mcp_load::{CancellationToken, Era, Mix, Phase, Plan, Report};
use mcpscale_tests::{Cluster, Endpoint, eventually};
use tokio::task::JoinHandle;

use super::support::{Result, apply, first_call, install, scaled, wait_for, wait_until_ready};

/// Time that one call of the load takes in its slot. With four slots a pod does 100 such calls a second at most.
const CALL_MILLISECONDS: u64 = 40;

/// A load that runs beside the test.
pub struct Load {
    stop: CancellationToken,
    task: JoinHandle<std::result::Result<Report, mcp_load::RunError>>,
}

impl Load {
    /// Starts one of which it matters that no request fails. That it keeps its schedule to the millisecond does not.
    pub fn start(url: &str, phases: Vec<Phase>) -> Self {
        Self::run(Plan {
            max_lag: Duration::from_secs(1),
            ..plan(url, phases)
        })
    }

    /// Starts one whose latencies are judged: its report is valid only if it keeps its schedule.
    pub fn start_punctual(url: &str, phases: Vec<Phase>) -> Self {
        Self::run(plan(url, phases))
    }

    fn run(plan: Plan) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(mcp_load::run(plan, None, stop.clone()));
        Self { stop, task }
    }

    /// Ends it now.
    pub async fn stop(self) -> Result<Report> {
        self.stop.cancel();
        let report = self.task.await??;
        println!("{}", mcp_load::table(&report));
        Ok(report)
    }
}

fn plan(url: &str, phases: Vec<Phase>) -> Plan {
    Plan {
        era: Era::Mixed,
        ..Plan::new(url, Mix::simulate_work(CALL_MILLISECONDS, 0), phases)
    }
}

/// Server pods that are set.
pub async fn replicas(client: &Client, namespace: &str) -> std::result::Result<i32, String> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let deployment = deployments
        .get("loop-server")
        .await
        .map_err(|error| error.to_string())?;
    Ok(deployment.spec.and_then(|spec| spec.replicas).unwrap_or(0))
}

/// Waits until as many server pods are set as are `wanted`; gives their number.
pub async fn until_set(
    client: &Client,
    namespace: &str,
    wanted: impl RangeBounds<i32> + Debug,
    deadline: Duration,
) -> Result<i32> {
    let what = format!("{wanted:?} replicas are set");
    let found = eventually(deadline, &what, async || {
        let now = replicas(client, namespace).await?;
        if wanted.contains(&now) {
            Ok(now)
        } else {
            Err(format!("{now} replicas"))
        }
    });
    Ok(found.await?)
}

/// Waits until the operator says that it has metrics (`True`) or lacks them (`False`).
pub async fn until_metrics(client: &Client, namespace: &str, status: &str, deadline: Duration) -> Result<()> {
    wait_for(
        client,
        (namespace, "loop"),
        ("MetricsAvailable", status, None),
        deadline,
    )
    .await?;
    Ok(())
}

/// A started server and the URL of its load balancer.
pub async fn started(
    cluster: &Cluster,
    prefix: &str,
    minimum: i32,
    maximum: i32,
) -> Result<(String, String, Endpoint)> {
    install(cluster).await?;
    let client = cluster.client();
    let namespace = cluster.namespace(prefix).await?;
    apply(&client, &namespace, "loop", scaled(minimum, maximum)).await?;
    wait_until_ready(&client, &namespace, "loop").await?;
    until_metrics(&client, &namespace, "True", Duration::from_secs(90)).await?;
    let endpoint = cluster.endpoint(&namespace, "loop", 80).await?;
    let url = format!("{}/mcp", endpoint.url());
    first_call(&url).await?;
    Ok((namespace, url, endpoint))
}
