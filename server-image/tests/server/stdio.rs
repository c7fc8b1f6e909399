//! The server as a program of a desktop client.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

struct Desktop {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    folder: tempfile::TempDir,
}

impl Desktop {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_mcp-server"))
            .args(["stdio", "--fixtures", "conformance"])
            .args(flags)
            // Desktop applications start their programs anywhere.
            .current_dir("/proc")
            .env("XDG_DATA_HOME", folder.path())
            .env_remove("PGHOST")
            .env("RUST_LOG", "debug")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            input: child.stdin.take(),
            child,
            output,
            folder,
        }
    }

    async fn send(&mut self, message: Value) {
        let input = self.input.as_mut().unwrap();
        input.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    /// The next message; every line must be one, since a log line in between would break the client.
    async fn message(&mut self) -> Value {
        let line = timeout(Duration::from_secs(20), self.output.next_line()).await;
        let line = line
            .expect("a message comes soon")
            .unwrap()
            .expect("a message before the end");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"))
    }

    async fn request(&mut self, method: &str, params: Value) -> Value {
        self.send(json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
            .await;
        self.message().await
    }

    /// Closes the input, as a client does when it ends; the server must end too.
    async fn close(mut self) {
        drop(self.input.take());
        let status = timeout(Duration::from_secs(20), self.child.wait()).await;
        assert!(status.expect("the server ends with its client").unwrap().success());
    }
}

/// Desktop applications of either era get the same tools, and their data lies in a file without any setting.
#[tokio::test(flavor = "multi_thread")]
async fn a_desktop_client_is_served_in_either_era() {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    for era in ["2025-11-25", "2026-07-28"] {
        let mut desktop = Desktop::start();
        let mut base = json!({});
        if era == "2025-11-25" {
            let client =
                json!({"protocolVersion": era, "capabilities": {}, "clientInfo": {"name": "d", "version": "1"}});
            let begun = desktop.request("initialize", client).await;
            assert_eq!(begun["result"]["protocolVersion"], era, "{begun}");
            desktop
                .send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
                .await;
        } else {
            base = json!({"_meta": meta});
            let discovered = desktop.request("server/discover", base.clone()).await;
            assert!(
                discovered["result"]["capabilities"]["tools"].is_object(),
                "{discovered}"
            );
        }
        let with = |more: Value| {
            let mut params = base.clone();
            for (key, value) in more.as_object().unwrap() {
                params[key] = value.clone();
            }
            params
        };
        let call = with(json!({"name": "create_session", "arguments": {"purpose": "desk"}}));
        let created = desktop.request("tools/call", call).await;
        assert_eq!(
            created["result"]["structuredContent"]["success"], true,
            "{era}: {created}"
        );
        if era == "2025-11-25" {
            let uri = "test://watched-resource";
            let subscribed = desktop.request("resources/subscribe", json!({"uri": uri})).await;
            assert_eq!(subscribed["result"], json!({}));
            desktop
                .send(json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call",
                    "params": {"name": "test_trigger_resource_change", "arguments": {}}}))
                .await;
            let told = [desktop.message().await, desktop.message().await];
            assert!(told.iter().any(|message| message["params"]["uri"] == uri), "{told:?}");
        }
        assert!(desktop.folder.path().join("mcpscale/mcp.db").exists(), "{era}");
        desktop.close().await;
    }
}

/// A client that takes back its first question, or tells of something too early, has done nothing wrong: its server must
/// not end.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_before_the_first_request_is_passed_over() {
    let mut desktop = Desktop::start();
    let early = [
        ("notifications/cancelled", json!({"requestId": 0})),
        ("notifications/roots/list_changed", json!({})),
    ];
    for (method, params) in early {
        desktop
            .send(json!({"jsonrpc": "2.0", "method": method, "params": params}))
            .await;
    }
    let client =
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "d", "version": "1"}});
    let begun = desktop.request("initialize", client).await;
    assert_eq!(begun["result"]["protocolVersion"], "2025-11-25", "{begun}");
    desktop.close().await;
}

/// Who runs the server on a desktop has no /metrics to look at: the report is all there is.
#[tokio::test(flavor = "multi_thread")]
async fn a_desktop_client_gets_the_performance_report() {
    let key = "a key of more than thirty-two characters";
    let mut desktop = Desktop::start_with(&["--api-key", key]);
    let client =
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "d", "version": "1"}});
    desktop.request("initialize", client).await;
    desktop
        .send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
        .await;
    let mut call = async |tool: &str, arguments: Value| {
        let called = desktop
            .request("tools/call", json!({"name": tool, "arguments": arguments}))
            .await;
        called["result"]["structuredContent"].clone()
    };
    let who = json!({"agent_id": "ann", "agent_type": "admin", "requested_permissions": ["admin"], "api_key": key});
    let token = call("authenticate_agent", who).await["token"].clone();
    call("list_memory", json!({"auth_token": token})).await;
    let report = call("get_performance_metrics", json!({"auth_token": token})).await;
    let figures = &report["performance"]["figures"];
    assert_eq!(
        (&report["success"], &figures["requests"]["count"]),
        (&json!(true), &json!(2.0)),
        "{report}"
    );
    assert!(figures["memory"]["resident"].as_f64().unwrap() > 1e6, "{report}");
}

/// A client that only looks whether the program exists must not get an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_is_no_error() {
    Desktop::start().close().await;
}
