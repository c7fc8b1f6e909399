//! The loop: load rises, replicas rise; load falls, replicas fall; nothing fails meanwhile, and nothing is done on
//! missing data.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client,
    api::{ListParams, LogParams, Patch, PatchParams},
};
use mcp_load::{CancellationToken, Era, Mix, Phase, Plan, Report};
use mcpscale_tests::{
    Cluster, TestResult, eventually,
    installation::{NAMESPACE, OPERATOR},
    run_in_cluster,
};
use serde_json::json;
use tokio::task::JoinHandle;

use super::support::{Result, apply, condition, install, pods, read, scaled, wait_for, wait_until_ready};

/// Time that one call of the load takes in its slot. With four slots a pod does 100 such calls a second at most.
const CALL_MILLISECONDS: u64 = 40;

/// A load that runs beside the test.
struct Load {
    stop: CancellationToken,
    task: JoinHandle<std::result::Result<Report, mcp_load::RunError>>,
}

impl Load {
    fn start(url: &str, phases: Vec<Phase>) -> Self {
        let mut plan = Plan::new(url, Mix::simulate_work(CALL_MILLISECONDS, 0), phases);
        plan.era = Era::Mixed;
        let stop = CancellationToken::new();
        let task = tokio::spawn(mcp_load::run(plan, None, stop.clone()));
        Self { stop, task }
    }

    async fn finish(self) -> Result<Report> {
        let report = self.task.await??;
        println!("{}", mcp_load::table(&report));
        Ok(report)
    }

    async fn stop(self) -> Result<Report> {
        self.stop.cancel();
        self.finish().await
    }
}

async fn replicas(client: &Client, namespace: &str) -> std::result::Result<i32, String> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let deployment = deployments
        .get("loop-server")
        .await
        .map_err(|error| error.to_string())?;
    Ok(deployment.spec.and_then(|spec| spec.replicas).unwrap_or(0))
}

/// A started server and the URL of its load balancer.
async fn started(
    cluster: &Cluster,
    prefix: &str,
    minimum: i32,
    maximum: i32,
) -> Result<(String, String, mcpscale_tests::Endpoint)> {
    install(cluster).await?;
    let client = cluster.client();
    let namespace = cluster.namespace(prefix).await?;
    apply(&client, &namespace, "loop", scaled(minimum, maximum)).await?;
    wait_until_ready(&client, &namespace, "loop").await?;
    wait_for(
        &client,
        (&namespace, "loop"),
        ("MetricsAvailable", "True", None),
        Duration::from_secs(90),
    )
    .await?;
    let endpoint = cluster.endpoint(&namespace, "loop", 80).await?;
    let url = format!("{}/mcp", endpoint.url());
    Ok((namespace, url, endpoint))
}

/// The main job. What a user loses without it: everything the project is for.
#[test]
fn load_times_five_scales_up_and_down_without_a_failed_request() -> TestResult {
    run_in_cluster(async |cluster| {
        let (namespace, url, _endpoint) = started(&cluster, "loop", 1, 6).await?;
        let client = cluster.client();
        let phases = [(30.0, 30), (150.0, 90), (20.0, 100)];
        let load = Load::start(
            &url,
            phases
                .map(|(rate, seconds)| Phase::constant(rate, Duration::from_secs(seconds)))
                .into(),
        );
        let grown = eventually(Duration::from_secs(90), "replicas rise with the load", async || {
            let now = replicas(&client, &namespace).await?;
            if now >= 2 {
                Ok(now)
            } else {
                Err(format!("{now} replicas"))
            }
        })
        .await?;
        println!("grew to {grown}");
        eventually(Duration::from_secs(200), "replicas fall after the load", async || {
            let now = replicas(&client, &namespace).await?;
            if now == 1 {
                Ok(())
            } else {
                Err(format!("{now} replicas"))
            }
        })
        .await?;
        let report = load.finish().await?;
        let server = read(&client, &namespace, "loop").await?;
        let scaling = server
            .status
            .clone()
            .and_then(|status| status.scaling)
            .ok_or("no scaling status")?;
        for decision in &scaling.decisions {
            println!(
                "{} -> {}: {} {}",
                decision.from, decision.to, decision.reason, decision.message
            );
        }
        assert!(
            report.is_valid(),
            "the load tester could not keep its own schedule: {:?}",
            report.invalid
        );
        assert_eq!(report.failed(), 0, "{:?}", report.failures);
        // The first seconds of the step exceed what one pod can do; the last thirty of the hold must be served in full.
        let held = report.window(90, 119);
        assert_eq!(held.counts.shed, 0, "shed although there were pods enough");
        let p95 = held.quantile(0.95).ok_or("no latency")?;
        assert!(p95 < Duration::from_millis(150), "p95 of {p95:?} while holding");
        let before = report.window(0, 29);
        assert_eq!(before.counts.shed, 0, "shed under light load");
        assert!(scaling.decisions.iter().any(|d| d.to > d.from) && scaling.decisions.iter().any(|d| d.to < d.from));
        assert!(
            scaling.decisions.iter().all(|d| d.message.len() > 20),
            "a decision without its sentence"
        );
        no_connection_was_refused(&client, &namespace).await
    })
}

/// What a user loses without it: the pools of all pods together ask more of Postgres than it has.
async fn no_connection_was_refused(client: &Client, namespace: &str) -> TestResult {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    for pod in pods(client, namespace, "loop", "postgres").await? {
        let name = pod.metadata.name.unwrap_or_default();
        let log = api
            .logs(
                &name,
                &LogParams {
                    container: Some("postgres".into()),
                    ..LogParams::default()
                },
            )
            .await?;
        assert!(
            log.contains("ready to accept connections"),
            "this is not the log of Postgres: {log}"
        );
        assert!(
            !log.contains("too many clients") && !log.contains("remaining connection slots"),
            "{log}"
        );
    }
    Ok(())
}

/// What a user loses without it: a monitoring outage becomes an outage of the service.
#[test]
fn without_prometheus_nothing_is_scaled_down_and_it_recovers() -> TestResult {
    run_in_cluster(async |cluster| {
        let (namespace, url, _endpoint) = started(&cluster, "blind", 1, 4).await?;
        let client = cluster.client();
        let load = Load::start(&url, vec![Phase::constant(150.0, Duration::from_mins(10))]);
        let grown = eventually(Duration::from_secs(90), "replicas rise with the load", async || {
            let now = replicas(&client, &namespace).await?;
            if now >= 2 {
                Ok(now)
            } else {
                Err(format!("{now} replicas"))
            }
        })
        .await?;
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
        eventually(
            Duration::from_mins(3),
            "replicas fall once there is data again",
            async || {
                let now = replicas(&client, &namespace).await?;
                if now == 1 {
                    Ok(())
                } else {
                    Err(format!("{now} replicas"))
                }
            },
        )
        .await?;
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

/// What the cluster loses without it: an API server that is busy with an operator that has nothing to say.
#[test]
fn a_steady_server_is_not_written_to() -> TestResult {
    run_in_cluster(async |cluster| {
        if !cluster.is_node() {
            println!("writes can be counted on the node of this machine only: nothing to see here");
            return Ok(());
        }
        let (namespace, url, _endpoint) = started(&cluster, "steady", 2, 4).await?;
        quiet_for_a_minute(&cluster, &namespace, "idle").await?;
        let load = Load::start(&url, vec![Phase::constant(60.0, Duration::from_mins(10))]);
        quiet_for_a_minute(&cluster, &namespace, "under steady load").await?;
        let report = load.stop().await?;
        assert_eq!((report.failed(), report.shed()), (0, 0), "{:?}", report.failures);
        Ok(())
    })
}

/// Waits for a minute in which the operator writes nothing but its Lease; what comes before is its way there.
async fn quiet_for_a_minute(cluster: &Cluster, namespace: &str, when: &str) -> Result<()> {
    eventually(
        Duration::from_mins(4),
        &format!("a minute without a write, {when}"),
        async || {
            let since = Timestamp::now();
            loop {
                let writes = cluster
                    .audit_writes(OPERATOR, since)
                    .map_err(|error| error.to_string())?;
                let writes: Vec<_> = writes
                    .into_iter()
                    .filter(|write| write.resource != "leases")
                    .map(|write| format!("{} {}/{} {}", write.verb, write.resource, write.subresource, write.name))
                    .collect();
                if !writes.is_empty() {
                    println!("{when}, still settling in {namespace}: {writes:?}");
                    return Err(format!("{writes:?}"));
                }
                if since.duration_until(Timestamp::now()).as_secs() >= 60 {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        },
    )
    .await?;
    // The audit log works: the Lease is renewed all the time.
    let all = cluster.audit_writes(OPERATOR, Timestamp::UNIX_EPOCH)?;
    assert!(
        all.iter().any(|write| write.resource == "leases"),
        "the audit log shows no write of the operator at all"
    );
    Ok(())
}
