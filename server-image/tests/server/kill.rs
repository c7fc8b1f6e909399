//! A process that is killed under load: what it acknowledged is there afterwards, once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::postgres::SHARED;
use crate::support::process::Process;
use crate::support::server::{TestServer, settings};
use crate::support::until;

/// One that writes to a session and to its memory, in turn, until an answer fails to come.
struct Writer {
    agent: String,
    session: Value,
    /// The number of its last acknowledged message and value.
    messages: AtomicU64,
    values: AtomicU64,
}

impl Writer {
    async fn begin(client: &Client, number: usize) -> Arc<Self> {
        let session = client.call("create_session", json!({"purpose": "kill"})).await["session_id"].clone();
        Arc::new(Self {
            agent: format!("agent{number}"),
            session,
            messages: AtomicU64::new(0),
            values: AtomicU64::new(0),
        })
    }

    async fn write(self: Arc<Self>, client: Client) {
        for number in 1.. {
            let content = json!({"session_id": self.session, "content": number.to_string()});
            if !acknowledged(&client, "add_message", content).await {
                return;
            }
            self.messages.store(number, Ordering::Release);
            let entry = json!({"agent_id": self.agent, "key": "k", "value": number});
            if !acknowledged(&client, "set_memory", entry).await {
                return;
            }
            self.values.store(number, Ordering::Release);
        }
    }

    /// What is stored is what was acknowledged, and at most the one write that nobody had an answer to.
    async fn check(&self, client: &Client) {
        let (messages, values) = (
            self.messages.load(Ordering::Acquire),
            self.values.load(Ordering::Acquire),
        );
        let page = json!({"session_id": self.session, "offset": messages - 1, "limit": 10});
        let found = client.call("get_messages", page).await;
        let contents: Vec<_> = found["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["content"].clone())
            .collect();
        let expected = [messages, messages + 1].map(|number| json!(number.to_string()));
        assert!(
            contents == expected[..1] || contents == expected,
            "{}: {contents:?} after {messages} acknowledged messages",
            self.agent
        );
        let found = client
            .call("get_memory", json!({"agent_id": self.agent, "key": "k"}))
            .await;
        let stored = found["value"].as_u64().unwrap();
        assert!(
            stored == values || stored == values + 1,
            "{}: {stored} stored, {values} acknowledged",
            self.agent
        );
    }
}

async fn acknowledged(client: &Client, tool: &str, arguments: Value) -> bool {
    let Ok(answer) = client.tool(tool, &arguments).send().await else {
        return false;
    };
    answer.text().await.is_ok_and(|text| text.contains("\"success\":true"))
}

/// Several writes share a commit in SQLite, and a pod can go at any moment: a kill between an answer and the commit
/// would lose what a caller was told is stored, and a write that is tried again would be there twice.
#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_or_doubled_when_the_process_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    for url in [
        format!("sqlite:{}", folder.path().join("test.db").display()),
        SHARED.database().await,
    ] {
        let mut process = Process::start(&["--database-url", &url], &[]).await;
        let writers: Vec<_> =
            futures::future::join_all((0..16).map(|number| Writer::begin(&process.client, number))).await;
        let writing: Vec<_> = writers
            .iter()
            .map(|writer| tokio::spawn(Arc::clone(writer).write(process.client.clone())))
            .collect();
        until("everybody has written", async || {
            let all = writers.iter().all(|writer| writer.values.load(Ordering::Acquire) > 10);
            all.then_some(())
        })
        .await;
        process.kill();
        for writing in writing {
            writing.await.unwrap();
        }
        let server = TestServer::start(settings(&url)).await;
        for writer in writers {
            writer.check(&server.client).await;
        }
    }
}
