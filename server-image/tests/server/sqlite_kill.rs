//! A SQLite file and a process that is killed: what was acknowledged is there afterwards.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use crate::support::client::Client;
use crate::support::server::{TestServer, settings};
use crate::support::until;

/// Several writes share a commit: a kill between an answer and the commit would lose what a caller was told is stored.
#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_when_the_process_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("test.db").display());
    let ports: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<String> = ports
        .iter()
        .map(|port| port.local_addr().unwrap().to_string())
        .collect();
    drop(ports);
    let [listen, metrics, admin] = <[String; 3]>::try_from(addresses).unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_mcp-server"))
        .args(["serve", "--database-url", &url, "--listen", &listen])
        .args(["--metrics-listen", &metrics, "--admin-listen", &admin])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the process is ready", async || {
        let answer = reqwest::get(format!("http://{metrics}/readyz")).await.ok()?;
        (answer.status() == 200).then_some(())
    })
    .await;
    // Of each writer the number of its last acknowledged write.
    let acknowledged: Vec<Arc<AtomicU64>> = (0..16).map(|_| Arc::default()).collect();
    let writers: Vec<_> = acknowledged
        .iter()
        .enumerate()
        .map(|(writer, last)| {
            let (client, last) = (Client::new(format!("http://{listen}/mcp")), Arc::clone(last));
            tokio::spawn(async move {
                for number in 1.. {
                    let entry = json!({"agent_id": format!("a{writer}"), "key": "k", "value": number});
                    let Ok(answer) = client.tool("set_memory", &entry).send().await else {
                        return;
                    };
                    if !answer.text().await.is_ok_and(|text| text.contains("\"success\":true")) {
                        return;
                    }
                    last.store(number, Ordering::Release);
                }
            })
        })
        .collect();
    until("everybody has written", async || {
        acknowledged
            .iter()
            .all(|last| last.load(Ordering::Acquire) > 20)
            .then_some(())
    })
    .await;
    process.kill().unwrap();
    process.wait().unwrap();
    for writer in writers {
        writer.await.unwrap();
    }
    let server = TestServer::start(settings(&url)).await;
    for (writer, last) in acknowledged.iter().enumerate() {
        let found = server
            .client
            .call("get_memory", json!({"agent_id": format!("a{writer}"), "key": "k"}))
            .await;
        let (stored, last) = (found["value"].as_u64().unwrap(), last.load(Ordering::Acquire));
        assert!(
            stored == last || stored == last + 1,
            "writer {writer}: {stored} stored, {last} acknowledged"
        );
    }
}
