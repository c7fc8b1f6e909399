//! A server that does not change is left in peace.

use std::time::Duration;

use jiff::Timestamp;
use mcp_load::Phase;
use mcpscale_tests::{Cluster, TestResult, eventually, installation::OPERATOR, run_in_cluster};

use super::{
    load::{Load, started},
    support::Result,
};

/// What the cluster loses without it: an API server that is busy with an operator that has nothing to say.
#[test]
fn a_steady_server_is_not_written_to() -> TestResult {
    run_in_cluster(async |cluster| {
        if !cluster.is_node() {
            println!("writes can be counted on the node of this machine only: nothing to see here");
            return Ok(());
        }
        // Both at once: a minute of quiet each.
        let (idle, _, _idle_endpoint) = started(&cluster, "idle", 2, 4).await?;
        let (steady, url, _steady_endpoint) = started(&cluster, "steady", 2, 4).await?;
        let load = Load::start(&url, vec![Phase::constant(60.0, Duration::from_mins(10))]);
        tokio::try_join!(
            quiet_for_a_minute(&cluster, &idle, "idle"),
            quiet_for_a_minute(&cluster, &steady, "under steady load"),
        )?;
        let report = load.stop().await?;
        assert_eq!((report.failed(), report.shed()), (0, 0), "{:?}", report.failures);
        Ok(())
    })
}

/// Waits until the server has settled, which is half a minute without a write; then a whole minute must have none.
async fn quiet_for_a_minute(cluster: &Cluster, namespace: &str, when: &str) -> Result<()> {
    eventually(
        Duration::from_mins(4),
        &format!("the server has settled, {when}"),
        async || {
            let writes = writes_within(cluster, namespace, Duration::from_secs(30)).await?;
            if writes.is_empty() {
                return Ok(());
            }
            println!("{when}, still settling in {namespace}: {writes:?}");
            Err(format!("{writes:?}"))
        },
    )
    .await?;
    let writes = writes_within(cluster, namespace, Duration::from_mins(1)).await?;
    assert!(writes.is_empty(), "{when}: {writes:?}");
    // The audit log works: the Lease is renewed all the time.
    let all = cluster.audit_writes(OPERATOR, Timestamp::UNIX_EPOCH)?;
    assert!(
        all.iter().any(|write| write.resource == "leases"),
        "the audit log shows no write of the operator at all"
    );
    Ok(())
}

/// The operator's first writes from now on to the namespace, or to none; returns early when there is one.
async fn writes_within(cluster: &Cluster, namespace: &str, span: Duration) -> std::result::Result<Vec<String>, String> {
    let since = Timestamp::now();
    loop {
        let writes = cluster
            .audit_writes(OPERATOR, since)
            .map_err(|error| error.to_string())?;
        let writes: Vec<_> = writes
            .into_iter()
            .filter(|write| write.namespace == namespace || write.namespace.is_empty())
            .map(|write| format!("{} {}/{} {}", write.verb, write.resource, write.subresource, write.name))
            .collect();
        let passed = since.duration_until(Timestamp::now()).unsigned_abs();
        if !writes.is_empty() || passed >= span {
            return Ok(writes);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
