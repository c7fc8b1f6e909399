//! Clients that write through the load balancer while something happens to the pods behind it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mcpscale_tests::eventually;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::support::{Result, call, call_with};

const PAGE: usize = 100;

/// Agents that write numbered messages, each to a session of its own, each message once, whatever becomes of it.
pub struct Writers {
    all: Vec<(Arc<Writer>, JoinHandle<Result<Written>>)>,
    stop: Arc<AtomicBool>,
}

struct Writer {
    url: String,
    http: reqwest::Client,
    session: Value,
    acknowledged: AtomicUsize,
}

/// What became of the messages of a writer, by number: nothing if it was told that the message is stored, else the
/// error.
type Written = BTreeMap<usize, Option<String>>;

impl Writers {
    /// Starts as many as `number`, which write by `http`.
    pub async fn start(url: &str, http: &reqwest::Client, number: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut all = Vec::new();
        for _ in 0..number {
            let session = call(url, "create_session", json!({"purpose": "writers"})).await?;
            let writer = Arc::new(Writer {
                url: url.to_owned(),
                http: http.clone(),
                session: session["session_id"].clone(),
                acknowledged: AtomicUsize::new(0),
            });
            let writing = tokio::spawn(Arc::clone(&writer).write(Arc::clone(&stop)));
            all.push((writer, writing));
        }
        Ok(Self { all, stop })
    }

    /// Waits until each has been told of as many more messages that they are stored.
    pub async fn have_stored(&self, more: usize) -> Result<()> {
        let acknowledged = || {
            self.all
                .iter()
                .map(|(writer, _)| writer.acknowledged.load(Ordering::Acquire))
        };
        let before: Vec<_> = acknowledged().collect();
        eventually(Duration::from_mins(1), "everybody's messages are stored", async || {
            let least = acknowledged().zip(&before).map(|(now, before)| now - before).min();
            if least >= Some(more) {
                Ok(())
            } else {
                Err(format!("the slowest has {least:?} more"))
            }
        })
        .await?;
        Ok(())
    }

    /// Ends them, and fails unless each message is stored once that was acknowledged, and no other more than once.
    /// Answers the errors of those that were not acknowledged.
    pub async fn finish(self) -> Result<Vec<String>> {
        self.stop.store(true, Ordering::Release);
        let mut errors = Vec::new();
        for (writer, writing) in self.all {
            let written = writing.await??;
            let stored = writer.stored().await?;
            for (number, error) in &written {
                let copies = stored.get(number).copied().unwrap_or(0);
                let is_right = if error.is_none() { copies == 1 } else { copies <= 1 };
                assert!(is_right, "message {number} ({error:?}) is stored {copies} times");
            }
            assert!(stored.keys().all(|number| written.contains_key(number)));
            errors.extend(written.into_values().flatten());
        }
        Ok(errors)
    }
}

impl Writer {
    async fn write(self: Arc<Self>, stop: Arc<AtomicBool>) -> Result<Written> {
        let mut written = Written::new();
        while !stop.load(Ordering::Acquire) {
            let number = written.len();
            let message = json!({"session_id": self.session, "content": number.to_string()});
            let error = match call_with(&self.http, &self.url, "add_message", message).await {
                Ok(answer) if answer["success"] == true => None,
                Ok(answer) => Some(answer.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if error.is_none() {
                self.acknowledged.fetch_add(1, Ordering::AcqRel);
            } else {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            written.insert(number, error);
        }
        Ok(written)
    }

    /// How often each message is stored.
    async fn stored(&self) -> Result<BTreeMap<usize, usize>> {
        let mut stored = BTreeMap::new();
        for page in 0.. {
            let page = json!({"session_id": self.session, "offset": page * PAGE, "limit": PAGE});
            // The load balancer may meet a pod that has just gone; to read may be tried again.
            let found = eventually(Duration::from_secs(20), "a page of messages is read", async || {
                let read = call(&self.url, "get_messages", page.clone()).await;
                read.map_err(|error| error.to_string())
            })
            .await?;
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
