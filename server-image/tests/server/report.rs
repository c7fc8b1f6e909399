//! `mcp-server report`, against servers whose bottleneck is known.

use std::process::Command;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::support::postgres::{SHARED, connect};
use crate::support::process::Process;
use crate::support::server::{TestServer, file_settings, settings};

/// A server with a process of its own, whose share of the CPU is not that of the tests beside it.
async fn start(database_url: &str, concurrency: &str, pool_max: &str) -> Process {
    let flags = ["--database-url", database_url, "--queue-max", "100"];
    let tuning = ["--concurrency", concurrency, "--pool-max", pool_max];
    let no_shedding = ["--adaptive-concurrency", "false"];
    Process::start(&[&flags[..], &tuning, &no_shedding].concat(), &[]).await
}

/// URL of what the metrics of `process` say now, but that its container was made to wait for its CPU limit: what all
/// tests use counts there.
async fn metrics(process: &Process) -> String {
    let answer = reqwest::get(format!("{}/metrics", process.metrics)).await.unwrap();
    let kind = answer.headers()[CONTENT_TYPE].clone();
    let text = answer.text().await.unwrap();
    let lines = text.lines().filter(|line| !line.contains("mcp_cpu_throttled_seconds"));
    let text: String = lines.flat_map(|line| [line, "\n"]).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/metrics", listener.local_addr().unwrap());
    let router = Router::new().route("/metrics", get(async || ([(CONTENT_TYPE, kind)], text)));
    tokio::spawn(async { axum::serve(listener, router).await });
    url
}

/// Since the server's start.
fn report(url: &str, flags: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_mcp-server"))
        .args(["report", "--interval-seconds", "0", "--url", url])
        .args(flags)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json_report(url: &str) -> Value {
    serde_json::from_str(&report(url, &["--json"])).unwrap()
}

/// An empty SQLite file, which goes with the folder.
fn file() -> (String, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (format!("sqlite:{}", folder.path().join("test.db").display()), folder)
}

/// Calls that wait for each other must be told as such, with the figures that prove it.
#[tokio::test(flavor = "multi_thread")]
async fn short_slots_are_named() {
    let (url, _folder) = file();
    let server = start(&url, "2", "4").await;
    for call in (0..30).map(|_| server.client.work(50)).collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().status(), 200);
    }
    server.until_metric("mcp_in_flight_requests", 0.0).await;
    let metrics = metrics(&server).await;
    let report_json = json_report(&metrics);
    assert_eq!(report_json["bottleneck"], "queueing", "{report_json:#}");
    assert_eq!(report_json["figures"]["requests"]["count"], 30.0);
    assert_eq!(report_json["figures"]["tools"][0]["tool"], "simulate_work");
    let evidence = &report_json["findings"][0]["evidence"];
    assert!(
        evidence["value"].as_f64() >= evidence["threshold"].as_f64(),
        "{evidence}"
    );
    let text = report(&metrics, &[]);
    for part in [
        "30 requests in",
        "The bottleneck is the slots:",
        "because  ",
        "do       ",
        "simulate_work",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

/// A server that waits for its database must not be given more CPU.
#[tokio::test(flavor = "multi_thread")]
async fn a_short_pool_is_told_from_short_slots() {
    let url = SHARED.database().await;
    let server = start(&url, "16", "1").await;
    let session = server.client.call("create_session", json!({"purpose": "p"})).await["session_id"].clone();
    // Somebody else holds the session's row for a while: each writer keeps the only connection and waits.
    let blocker = connect(&url).await;
    blocker
        .batch_execute("BEGIN; SELECT * FROM sessions FOR UPDATE")
        .await
        .unwrap();
    let calls: Vec<_> = (0..24)
        .map(|number| {
            let arguments = json!({"session_id": session, "content": format!("message {number}")});
            tokio::spawn(server.client.tool("add_message", &arguments).send())
        })
        .collect();
    server.until_metric("mcp_in_flight_requests", 16.0).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    blocker.batch_execute("COMMIT").await.unwrap();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let report = json_report(&metrics(&server).await);
    let bottleneck = report["bottleneck"].as_str().unwrap_or_default().to_owned();
    assert!(["pool", "database"].contains(&bottleneck.as_str()), "{report:#}");
    assert!(
        report["findings"].to_string().contains("waiting for a connection"),
        "{report:#}"
    );
}

/// Somebody holds the SQLite file's lock, as a slow disk would hold up its writer: more slots, connections or replicas
/// are no remedy, and none may be advised.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_file_is_told_from_short_slots() {
    let (url, folder) = file();
    let server = start(&url, "16", "1").await;
    let blocker = rusqlite::Connection::open(folder.path().join("test.db")).unwrap();
    blocker.busy_timeout(Duration::from_secs(5)).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let calls: Vec<_> = (0..24)
        .map(|number| {
            let arguments = json!({"key": format!("k{number}"), "value": number});
            tokio::spawn(server.client.tool("set_memory", &arguments).send())
        })
        .collect();
    server.until_metric("mcp_in_flight_requests", 16.0).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    blocker.execute_batch("COMMIT").unwrap();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    let metrics = metrics(&server).await;
    let report_json = json_report(&metrics);
    assert_eq!(report_json["bottleneck"], "database", "{report_json:#}");
    let findings = report_json["findings"].as_array().unwrap();
    let file = findings
        .iter()
        .find(|finding| finding["problem"].to_string().contains("the SQLite file"));
    let file = file.unwrap_or_else(|| panic!("waiting for the file has a finding: {report_json:#}"));
    assert!(file["recommendation"].to_string().contains("faster disk"), "{file:#}");
    for finding in findings {
        let advice = finding["recommendation"].to_string();
        assert!(!advice.contains("replicas") && !advice.contains("pool"), "{advice}");
    }
    let text = report(&metrics, &[]);
    assert!(text.contains("wait for the SQLite file"), "{text}");
}

/// What the cache did is told as it happened, and one that is too small is named: its size is the operator's to set.
#[tokio::test(flavor = "multi_thread")]
async fn hits_are_told_and_a_small_cache_is_named() {
    let mut settings = settings(&SHARED.database().await);
    // Room for a quarter of what is read.
    settings.cache.local_bytes = 100_000;
    settings.cache.staleness = Duration::from_secs(30);
    let server = TestServer::start(settings).await;
    let metrics = format!("http://{}/metrics", server.server.metrics);
    let get = async |key: u32| {
        let entry = json!({"agent_id": "x", "key": format!("k{key}")});
        assert_eq!(server.client.call("get_memory", entry).await["success"], true);
    };
    for key in 0..60 {
        let entry = json!({"agent_id": "x", "key": format!("k{key}"), "value": "v".repeat(5_000)});
        assert_eq!(server.client.call("set_memory", entry).await["success"], true);
    }
    // A new one, and three hits.
    for _ in 0..4 {
        get(0).await;
    }
    let report = json_report(&metrics);
    assert_eq!(
        report["figures"]["cache"],
        json!({"lookups": 4.0, "hit_ratio": 0.75, "evicted_ratio": 0.0, "tiers": [["l1", 0.75]]})
    );
    for _ in 0..3 {
        for key in 0..60 {
            get(key).await;
        }
    }
    let report = json_report(&metrics);
    assert_eq!(report["figures"]["cache"]["lookups"], 184.0);
    let findings = report["findings"].as_array().unwrap();
    let small = findings.iter().find(|finding| finding["area"] == "cache");
    let advice = small.map(|finding| finding["recommendation"].to_string());
    assert!(
        advice.is_some_and(|advice| advice.contains("l1Bytes")),
        "a cache of a quarter of what is read has a finding: {report:#}"
    );
}

/// Someone who mistypes the URL must learn what was expected there.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_url_is_explained() {
    let (settings, _folder) = file_settings();
    let server = TestServer::start(settings).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for (url, expected) in [
        (
            format!("http://{closed}/metrics"),
            "must be the /metrics of a running server",
        ),
        (format!("http://{}/nowhere", server.server.metrics), "404"),
        (
            format!("http://{}/health", server.server.metrics),
            "is not a server's /metrics",
        ),
        (
            format!("http://{}/healthz", server.server.metrics),
            "is not a server's /metrics",
        ),
        ("nowhere".to_owned(), "cannot read nowhere"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_mcp-server"))
            .args(["report", "--interval-seconds", "0", "--url", &url])
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{url}");
        assert!(message.contains(expected), "{url}: {message}");
    }
}
