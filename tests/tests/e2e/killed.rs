//! Pods that are killed while clients write through the load balancer.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mcpscale_tests::{TestResult, eventually, run_in_cluster};
use serde_json::{Value, json};

use super::support::{
    Result, apply, call, call_with, first_call, http, install, pods, wait_for_replicas, wait_until_ready,
};

const WRITERS: usize = 12;
const PAGE: usize = 100;

/// One agent that writes numbered messages to a session of its own, each once, whatever becomes of it.
struct Writer {
    url: String,
    session: Value,
    acknowledged: AtomicUsize,
}

/// What became of the messages of a writer, by number: whether it was told that the message is stored.
type Written = BTreeMap<usize, bool>;

impl Writer {
    async fn begin(url: &str) -> Result<Arc<Self>> {
        let session = call(url, "create_session", json!({"purpose": "killed"})).await?;
        Ok(Arc::new(Self {
            url: url.to_owned(),
            session: session["session_id"].clone(),
            acknowledged: AtomicUsize::new(0),
        }))
    }

    async fn write(self: Arc<Self>, stop: Arc<AtomicBool>) -> Result<Written> {
        let http = http()?;
        let mut written = Written::new();
        while !stop.load(Ordering::Acquire) {
            let number = written.len();
            let message = json!({"session_id": self.session, "content": number.to_string()});
            let answer = call_with(&http, &self.url, "add_message", message).await;
            let is_stored = answer.is_ok_and(|answer| answer["success"] == true);
            written.insert(number, is_stored);
            if is_stored {
                self.acknowledged.fetch_add(1, Ordering::AcqRel);
            } else {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(written)
    }

    /// How often each message is stored.
    async fn stored(&self) -> Result<BTreeMap<usize, usize>> {
        let mut stored = BTreeMap::new();
        for page in 0.. {
            let page = json!({"session_id": self.session, "offset": page * PAGE, "limit": PAGE});
            let found = call(&self.url, "get_messages", page).await?;
            let messages = found["messages"].as_array().ok_or("no messages")?;
            for message in messages {
                let number: usize = message["content"].as_str().ok_or("no content")?.parse()?;
                *stored.entry(number).or_default() += 1;
            }
            if messages.len() < PAGE {
                break;
            }
        }
        Ok(stored)
    }
}

/// What a user loses without it: messages that a caller was told are stored, or one message twice, whenever a node fails.
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

        let mut writers = Vec::new();
        for _ in 0..WRITERS {
            writers.push(Writer::begin(&url).await?);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let writing: Vec<_> = writers
            .iter()
            .map(|writer| tokio::spawn(Arc::clone(writer).write(Arc::clone(&stop))))
            .collect();
        let all_have_stored = async |more: usize| {
            let before: Vec<_> = writers.iter().map(|w| w.acknowledged.load(Ordering::Acquire)).collect();
            eventually(Duration::from_mins(1), "everybody's messages are stored", async || {
                let now = writers.iter().map(|w| w.acknowledged.load(Ordering::Acquire));
                let least = now.zip(&before).map(|(now, before)| now - before).min();
                if least >= Some(more) {
                    Ok(())
                } else {
                    Err(format!("the slowest has {least:?} more"))
                }
            })
            .await
        };
        for pod in pods(&client, &namespace, "context", "server").await? {
            all_have_stored(10).await?;
            cluster.kill(&pod)?;
        }
        all_have_stored(10).await?;
        stop.store(true, Ordering::Release);

        let mut unanswered = 0;
        for (writer, writing) in writers.iter().zip(writing) {
            let written = writing.await??;
            let stored = writer.stored().await?;
            for (number, is_acknowledged) in &written {
                let copies = stored.get(number).copied().unwrap_or(0);
                let is_right = if *is_acknowledged { copies == 1 } else { copies <= 1 };
                assert!(
                    is_right,
                    "message {number}, acknowledged: {is_acknowledged}, is stored {copies} times"
                );
            }
            assert!(stored.keys().all(|number| written.contains_key(number)));
            unanswered += written.values().filter(|is_acknowledged| !**is_acknowledged).count();
        }
        // Else no pod was killed in the middle of a write.
        assert!(unanswered > 0, "every write was acknowledged");
        println!("{unanswered} writes had no answer");
        Ok(())
    })
}
