//! A replica that ends must not fail a single request.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::client::{Client, last_event};
use crate::support::server::{TestServer, file_settings};
use crate::support::until;

async fn start(drain: Duration) -> (TestServer, tempfile::TempDir) {
    let (mut settings, folder) = file_settings();
    settings.operation.drain = drain;
    (TestServer::start(settings).await, folder)
}

/// Calls finish, late requests on open connections are answered, streams end in good order, and then it is over.
#[tokio::test(flavor = "multi_thread")]
async fn everything_in_flight_is_answered() {
    let (server, _folder) = start(Duration::from_secs(20)).await;
    let session = server.client.legacy_session().await;
    let stream = session.get().send().await.unwrap();
    let listening = server
        .client
        .modern("subscriptions/listen", json!({"notifications": {}}))
        .send()
        .await
        .unwrap();
    let call = server.client.work(4000);
    let old_era = session.tool("simulate_work", &json!({"io_ms": 4000}));
    let old_era = tokio::spawn(async move { old_era.send().await.unwrap().text().await.unwrap() });
    server.until_metric("mcp_in_flight_requests", 2.0).await;

    let started = Instant::now();
    server.server.drain();
    assert_eq!(
        (server.probe("readyz").await, server.probe("healthz").await),
        (503, 200)
    );
    let late = server.client.tool("simulate_work", &json!({})).send().await.unwrap();
    assert_eq!(
        (late.status().as_u16(), late.headers()["connection"].to_str().unwrap()),
        (200, "close")
    );

    let farewell = last_event(&listening.text().await.unwrap());
    assert_eq!(
        farewell["result"]["resultType"], "complete",
        "a subscription ends in good order: {farewell}"
    );
    stream.text().await.expect("a stream ends without an error");
    assert!(
        !call.is_finished() && !old_era.is_finished(),
        "streams end before calls do: they do not hold up the drain"
    );
    assert_eq!(call.await.unwrap().status(), 200);
    assert_eq!(
        last_event(&old_era.await.unwrap())["result"]["structuredContent"]["success"],
        true
    );
    server.server.finished().await;
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "it ends when nothing is left, not when the time is over"
    );
}

/// A call that never ends must not keep the process: Kubernetes would kill it, with everything else in it.
#[tokio::test(flavor = "multi_thread")]
async fn the_drain_has_a_limit() {
    let (server, _folder) = start(Duration::from_secs(2)).await;
    let call = server.client.work(60_000);
    server.until_metric("mcp_in_flight_requests", 1.0).await;
    let started = Instant::now();
    server.server.drain();
    server.server.finished().await;
    assert!(
        (2..6).contains(&started.elapsed().as_secs()),
        "took {:?}",
        started.elapsed()
    );
    call.abort();
}

/// Clients with open connections send without pause while one replica ends. They do what a proxy does: repeat only
/// what could not even be sent. No request may fail.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_a_replica_ends() {
    let (ending, _folder_a) = start(Duration::from_secs(10)).await;
    let (staying, _folder_b) = start(Duration::from_secs(10)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU32::new(0));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            let replicas = [&ending, &staying].map(|server| Client::new(format!("http://{}/mcp", server.server.mcp)));
            tokio::spawn(send_without_pause(replicas, stop, served))
        })
        .collect();
    until("requests flow", async || {
        (served.load(Ordering::Relaxed) > 200).then_some(())
    })
    .await;
    ending.server.drain();
    ending.server.finished().await;
    let before = served.load(Ordering::Relaxed);
    until("the other replica serves all", async || {
        (served.load(Ordering::Relaxed) > before + 100).then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no request fails");
    }
}

/// A proxy with the replicas as its upstreams: the first until it announces its end.
async fn send_without_pause(replicas: [Client; 2], stop: Arc<AtomicBool>, served: Arc<AtomicU32>) {
    let mut current = 0;
    while !stop.load(Ordering::Relaxed) {
        match replicas[current]
            .tool("simulate_work", &json!({"io_ms": 2}))
            .send()
            .await
        {
            Ok(response) => {
                let closing = response.headers().contains_key("connection");
                assert_eq!(response.status(), 200);
                response.bytes().await.expect("the answer is complete");
                served.fetch_add(1, Ordering::Relaxed);
                current = if closing { 1 } else { current };
            }
            Err(error) => {
                assert!(error.is_connect() && current == 0, "a request was lost: {error:?}");
                current = 1;
            }
        }
    }
}

/// What Kubernetes sees: SIGTERM, the last answer, exit code 0. And what a container engine sees: `healthcheck`.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_the_process_with_success() {
    let folder = tempfile::tempdir().unwrap();
    let ports: Vec<u16> = (0..3)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .collect::<Vec<_>>()
        .iter()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect();
    let address = |index: usize| format!("127.0.0.1:{}", ports[index]);
    let mut process = Command::new(env!("CARGO_BIN_EXE_mcp-server"))
        .args(["serve", "--log-format", "json"])
        .current_dir(folder.path())
        .envs([
            ("MCP_LISTEN", address(0)),
            ("MCP_METRICS_LISTEN", address(1)),
            ("MCP_ADMIN_LISTEN", address(2)),
        ])
        .envs([("MCP_FIXTURES", "load"), ("MCP_DRAIN_SECONDS", "10")])
        .env_remove("PGHOST")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let healthcheck = || {
        let check = Command::new(env!("CARGO_BIN_EXE_mcp-server"))
            .args(["healthcheck", "--metrics-listen", &address(1)])
            .stderr(Stdio::null())
            .status();
        check.unwrap().success()
    };
    until("the server is healthy", async || healthcheck().then_some(())).await;
    let call = Client::new(format!("http://{}/mcp", address(0))).work(1000);
    tokio::time::sleep(Duration::from_millis(300)).await;
    kill(Pid::from_raw(process.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    until("it says that it is not ready", async || (!healthcheck()).then_some(())).await;
    assert_eq!(call.await.unwrap().status(), 200, "the call in flight is answered");
    let status = until("the process ends", async || process.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
    assert!(
        folder.path().join("mcp.db").is_file(),
        "without settings the data is a file in the working folder"
    );
}
