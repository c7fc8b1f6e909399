//! Sessions of clients up to protocol revision 2025-11-25.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use mcp_load::{CancellationToken, Counts, Era, Mix, Phase, Plan, run};
use serde_json::json;

use crate::fake::{Received, serve};

fn plan(url: &str, era: Era) -> Plan {
    let phases = [Phase::constant(100.0, Duration::from_secs(1))];
    let plan = Plan::new(url, Mix::tool("echo", json!({})), phases);
    Plan {
        era,
        sessions: 5,
        max_lag: Duration::from_secs(1),
        ..plan
    }
}

/// A legacy server that forgets all its sessions after 40 calls, as one does that restarts without a store.
#[derive(Default)]
struct LegacyServer {
    sessions: Mutex<HashSet<String>>,
    opened: Mutex<u64>,
}

impl LegacyServer {
    fn answer(&self, call: &Received) -> Response {
        let session = call.header("mcp-session-id").to_owned();
        let mut sessions = self.sessions.lock().unwrap();
        if call.http_method == Method::DELETE {
            let status = if sessions.remove(&session) {
                StatusCode::OK
            } else {
                StatusCode::NOT_FOUND
            };
            return status.into_response();
        }
        if call.method() == "initialize" {
            let mut opened = self.opened.lock().unwrap();
            *opened += 1;
            let name = format!("session-{opened}");
            sessions.insert(name.clone());
            let mut response = call.result(&json!({"protocolVersion": "2025-11-25", "capabilities": {}}));
            response.headers_mut().insert("mcp-session-id", name.parse().unwrap());
            return response;
        }
        if call.number == 40 {
            sessions.clear();
        }
        if !sessions.contains(&session) || call.header("mcp-protocol-version") != "2025-11-25" {
            return (StatusCode::NOT_FOUND, "no such session").into_response();
        }
        if call.method() == "tools/call" {
            call.done()
        } else {
            StatusCode::ACCEPTED.into_response()
        }
    }
}

#[tokio::test]
async fn a_lost_legacy_session_is_opened_anew_and_counted() {
    let legacy = Arc::new(LegacyServer::default());
    let server = serve({
        let legacy = Arc::clone(&legacy);
        move |call: Received| std::future::ready(legacy.answer(&call))
    })
    .await;
    let plan = plan(&server.url, Era::Legacy);
    let report = run(plan, None, CancellationToken::new()).await.unwrap();
    assert_eq!(
        report.total,
        Counts {
            offered: 100,
            completed: 100,
            ..Counts::default()
        },
        "{:?}",
        report.failures
    );
    let sessions = report.sessions.unwrap();
    assert_eq!(
        (sessions.opened, sessions.lost),
        (10, 5),
        "five lost at once, five opened in their place"
    );
    assert_eq!(*legacy.opened.lock().unwrap(), 10);
    assert!(legacy.sessions.lock().unwrap().is_empty(), "the run ends its sessions");
}

#[tokio::test]
async fn a_mixed_run_speaks_either_era_half_of_the_time() {
    let legacy = LegacyServer::default();
    let modern_calls = Arc::new(Mutex::new(0));
    let server = serve({
        let modern_calls = Arc::clone(&modern_calls);
        move |call: Received| {
            let is_modern = call.header("mcp-protocol-version") == "2026-07-28";
            *modern_calls.lock().unwrap() += u64::from(is_modern);
            std::future::ready(if is_modern { call.done() } else { legacy.answer(&call) })
        }
    })
    .await;
    let plan = plan(&server.url, Era::Mixed);
    let report = run(plan, None, CancellationToken::new()).await.unwrap();
    assert_eq!(report.failed(), 0, "{:?}", report.failures);
    assert_eq!(*modern_calls.lock().unwrap(), 50);
}
