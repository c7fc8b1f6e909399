//! What a second replica is worth: `make bench-replicas`.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use mcpscale_tests::{Cluster, Endpoint, TestResult, run_in_cluster};
use serde_json::{Value, json};

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
/// The same for [`Load::Context`].
const CONTEXT_GOAL: f64 = 1.5;

/// What a user loses without it: the scaler adds replicas, and they do not help.
#[test]
fn two_replicas_do_nearly_twice_the_work_of_one() -> TestResult {
    run_in_cluster(async |cluster| {
        install(&cluster).await?;
        let one = Replicas::start(&cluster, 1).await?;
        let two = Replicas::start(&cluster, 2).await?;
        let mut rounds = Vec::new();
        for round in 1..=ROUNDS {
            let rates = [
                one.turn(Load::Work).await?,
                two.turn(Load::Work).await?,
                one.turn(Load::Context).await?,
                two.turn(Load::Context).await?,
            ];
            // `make bench-server` reads it.
            println!(
                "{}",
                json!({
                    "round": round,
                    "one_per_second": rates[0],
                    "two_per_second": rates[1],
                    "one_context_per_second": rates[2],
                    "two_context_per_second": rates[3],
                })
            );
            rounds.push(rates);
        }
        let medians = [0, 1, 2, 3].map(|place| median(rounds.iter().map(|rates| rates[place]).collect()));
        let (work, context) = (medians[1] / medians[0], medians[3] / medians[2]);
        println!("two replicas of 250m do {work:.2} times the work of one (goal: {GOAL})");
        println!("of shared context they do {context:.2} times that of one (goal: {CONTEXT_GOAL})");
        assert!(work >= GOAL, "{work:.2}");
        assert!(context >= CONTEXT_GOAL, "{context:.2}");
        Ok(())
    })
}

/// What clients ask for.
#[derive(Clone, Copy)]
enum Load {
    /// Calls that keep the replicas busy, and nothing else.
    Work,
    /// Messages, added and read: replicas share a Postgres and an nginx for them, which take their part of the machine.
    Context,
}

impl Load {
    /// The calls that a client makes in turns.
    async fn calls(self, http: &reqwest::Client, url: &str) -> Result<Vec<(&'static str, Value)>> {
        if matches!(self, Self::Work) {
            return Ok(vec![("simulate_work", json!({"cpu_ms": CALL_MILLISECONDS}))]);
        }
        let created = call_with(http, url, "create_session", json!({"purpose": "bench"})).await?;
        let session = &created["session_id"];
        let content = "the deployment is complete; the review of the results found two errors in the search";
        Ok(vec![
            ("add_message", json!({"session_id": session, "content": content})),
            ("get_messages", json!({"session_id": session, "limit": 10})),
        ])
    }
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
    async fn turn(&self, load: Load) -> Result<f64> {
        let (answered, ended) = (AtomicU64::new(0), AtomicBool::new(false));
        let clients = (0..self.count * CLIENTS).map(|_| async {
            let http = http()?;
            let calls = load.calls(&http, &self.url).await?;
            for (tool, arguments) in calls.iter().cycle() {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                call_with(&http, &self.url, tool, arguments.clone()).await?;
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

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
