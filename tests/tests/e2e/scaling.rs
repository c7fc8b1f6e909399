//! The loop: load rises, replicas rise; load falls, replicas fall; nothing fails meanwhile, and nothing is done on
//! missing data.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::LogParams};
use mcp_load::Phase;
use mcpscale_tests::{Cluster, TestResult, eventually, installation::OPERATOR, run_in_cluster};

use super::{
    load::{Load, replicas, started},
    support::{Result, pods, read},
};

/// The main job. What a user loses without it: everything the project is for.
#[test]
fn load_times_five_scales_up_and_down_without_a_failed_request() -> TestResult {
    run_in_cluster(async |cluster| {
        let (namespace, url, _endpoint) = started(&cluster, "loop", 1, 6).await?;
        let client = cluster.client();
        let phases = [(30.0, 20), (150.0, 70), (20.0, 70)];
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
        let held = report.window(60, 89);
        assert_eq!(held.counts.shed, 0, "shed although there were pods enough");
        let p95 = held.quantile(0.95).ok_or("no latency")?;
        assert!(p95 < Duration::from_millis(150), "p95 of {p95:?} while holding");
        let before = report.window(0, 19);
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

/// Waits for a minute in which the operator writes nothing to the namespace; what comes before is its way there.
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
                    .filter(|write| write.namespace == namespace)
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
