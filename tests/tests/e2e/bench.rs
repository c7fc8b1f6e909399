//! What a second replica is worth: `make bench-replicas`.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use mcpscale_tests::{Cluster, Endpoint, TestResult, run_in_cluster};
use serde_json::json;

use super::support::{Result, apply, call_with, first_call, http, install, wait_for_replicas, wait_until_ready};

/// Rounds, in each of which both servers have their turn; the medians count.
const ROUNDS: usize = 5;
/// Length of a turn.
const TURN: Duration = Duration::from_secs(10);
/// Clients of each replica, each of which waits for its answer before it asks again.
const CLIENTS: usize = 12;
/// Time of the processor that one call takes: so much that the replicas are the limit, and not who asks them.
const CALL_MILLISECONDS: u64 = 5;
/// How many times the work of one replica two must do.
const GOAL: f64 = 1.8;

/// What a user loses without it: the scaler adds replicas, and they do not help.
#[test]
fn two_replicas_do_nearly_twice_the_work_of_one() -> TestResult {
    run_in_cluster(async |cluster| {
        install(&cluster).await?;
        let one = Replicas::start(&cluster, 1).await?;
        let two = Replicas::start(&cluster, 2).await?;
        let (mut of_one, mut of_two) = (Vec::new(), Vec::new());
        for round in 1..=ROUNDS {
            let (one_per_second, two_per_second) = (one.turn().await?, two.turn().await?);
            // `make bench-server` reads it.
            let result = json!({"round": round, "one_per_second": one_per_second, "two_per_second": two_per_second});
            println!("{result}");
            of_one.push(one_per_second);
            of_two.push(two_per_second);
        }
        let ratio = median(&mut of_two) / median(&mut of_one);
        println!("two replicas of 250m do {ratio:.2} times the work of one (goal: {GOAL})");
        assert!(ratio >= GOAL, "{ratio:.2}");
        Ok(())
    })
}

/// A server with a fixed number of replicas of a quarter of a core each.
struct Replicas {
    count: usize,
    url: String,
    _endpoint: Endpoint,
}

impl Replicas {
    async fn start(cluster: &Cluster, count: i32) -> Result<Self> {
        let client = cluster.client();
        let namespace = cluster.namespace(&format!("bench{count}")).await?;
        let resources = json!({"requests": {"cpu": "250m"}, "limits": {"cpu": "250m"}});
        apply(
            &client,
            &namespace,
            "context",
            json!({
                "replicas": count,
                "server": {"resources": resources, "env": [{"name": "MCP_FIXTURES", "value": "load"}]},
            }),
        )
        .await?;
        wait_until_ready(&client, &namespace, "context").await?;
        wait_for_replicas(&client, &namespace, "context", count, Duration::from_mins(1)).await?;
        let endpoint = cluster.endpoint(&namespace, "context", 80).await?;
        let url = format!("{}/mcp", endpoint.url());
        first_call(&url).await?;
        Ok(Self {
            count: usize::try_from(count)?,
            url,
            _endpoint: endpoint,
        })
    }

    /// Answers a second while every replica has as much to do as it can.
    async fn turn(&self) -> Result<f64> {
        let (answered, ended) = (AtomicU64::new(0), AtomicBool::new(false));
        let clients = (0..self.count * CLIENTS).map(|_| async {
            let http = http()?;
            while !ended.load(Ordering::Relaxed) {
                let arguments = json!({"cpu_ms": CALL_MILLISECONDS});
                call_with(&http, &self.url, "simulate_work", arguments).await?;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Result::Ok(())
        });
        let clock = async {
            // What the pause before has saved up of the time slices is used up first.
            tokio::time::sleep(Duration::from_secs(2)).await;
            let (before, started) = (answered.load(Ordering::Relaxed), Instant::now());
            tokio::time::sleep(TURN).await;
            let count = answered.load(Ordering::Relaxed) - before;
            let seconds = started.elapsed().as_secs_f64();
            ended.store(true, Ordering::Relaxed);
            Result::Ok(f64::from(u32::try_from(count)?) / seconds)
        };
        let (rate, _) = tokio::try_join!(clock, futures::future::try_join_all(clients))?;
        Ok(rate)
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
