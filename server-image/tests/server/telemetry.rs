//! What operators see of a request: its id, its lines in the log, and never a secret.

use serde_json::{Value, json};

use crate::support::postgres::SHARED;
use crate::support::process::Process;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The id of a line's request.
fn id(line: &Value) -> &str {
    line["span"]["id"].as_str().unwrap_or_default()
}

/// Somebody with a failed call's id must find its lines, and no others.
#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_a_request_carries_its_id() {
    let server = Process::start(
        &["--slow-call-ms", "100"],
        &[("RUST_LOG", "info,mcp_server=debug,rmcp=error")],
    )
    .await;
    let client = &server.client;
    let call = |milliseconds: u64| client.tool("simulate_work", &json!({"io_ms": milliseconds}));

    let given = call(0).header("x-request-id", "from-proxy-7").send().await.unwrap();
    assert_eq!(given.headers()["x-request-id"], "from-proxy-7");
    let traced = call(0).header("traceparent", TRACEPARENT).send().await.unwrap();
    assert_eq!(traced.headers()["x-request-id"], "0af7651916cd43dd8448eb211c80319c");
    let forged = call(0)
        .header("x-request-id", "a b\" level=ERROR")
        .send()
        .await
        .unwrap();
    let made = forged.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert!(
        !made.contains(' '),
        "an id that could forge a line is not taken: {made}"
    );
    let refused = client
        .post()
        .header("x-request-id", "bad-body")
        .body("{")
        .send()
        .await
        .unwrap();
    assert_eq!(
        refused.headers()["x-request-id"],
        "bad-body",
        "also when the request is refused"
    );

    for wanted in ["from-proxy-7", made.as_str()] {
        let line = server
            .until_logged("the request's line", |line| {
                line["message"] == "answered" && id(line) == wanted
            })
            .await;
        assert_eq!(
            (&line["tool"], &line["outcome"]),
            (&json!("simulate_work"), &json!("ok"))
        );
    }
}

/// A call that took long must be told with what it waited for, and nothing of what it was about.
#[tokio::test(flavor = "multi_thread")]
async fn slow_calls_are_told() {
    let server = Process::start(&["--slow-call-ms", "150", "--concurrency", "1"], &[]).await;
    let work = |id: &str, milliseconds: u64| {
        let request = server.client.tool("simulate_work", &json!({"io_ms": milliseconds}));
        request.header("x-request-id", id).send()
    };
    let (first, second) = tokio::join!(work("slow-1", 200), work("slow-2", 200));
    assert!(first.unwrap().status().is_success() && second.unwrap().status().is_success());
    work("fast", 1).await.unwrap();
    let slow = async |wanted: &str| {
        server
            .until_logged(wanted, |line| line["message"] == "slow call" && id(line) == wanted)
            .await
    };
    let lines = [slow("slow-1").await, slow("slow-2").await];
    for line in &lines {
        assert_eq!(
            (&line["level"], &line["tool"], &line["outcome"]),
            (&json!("WARN"), &json!("simulate_work"), &json!("ok"))
        );
        assert!(line["duration_ms"].as_f64().unwrap() >= 200.0, "{line}");
        assert!(
            line.get("io_ms").is_none() && !line.to_string().contains("arguments"),
            "{line}"
        );
    }
    let mut queues = lines.each_ref().map(|line| line["queue_ms"].as_f64().unwrap());
    queues.sort_by(f64::total_cmp);
    assert!(
        queues[0] < 100.0 && queues[1] > 150.0,
        "one of the two waited for the only slot: {queues:?}"
    );
    assert!(
        !server.lines().iter().any(|line| id(line) == "fast"),
        "a fast call is not told"
    );
}

/// A log, a dashboard or an error message must never hand out a password.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_ever_written() {
    const DATABASE: &str = "secret-of-the-database";
    const REDIS: &str = "secret-of-redis";
    const BEARER: &str = "sct_00000000-secret-bearer-token";
    const KEY: &str = "secret-api-key";
    const ARGUMENT: &str = "secret-in-an-argument";
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = SHARED.database().await.replacen("mcp@", &format!("mcp:{DATABASE}@"), 1);
    let absent = format!("postgres://mcp:{DATABASE}@{closed}/d");
    let redis = format!("redis://:{REDIS}@{closed}");
    let collector = format!("http://{closed}");
    for (database, is_there) in [(&url, true), (&absent, false)] {
        let flags = [
            "--database-url",
            database,
            "--redis-url",
            &redis,
            "--otlp-endpoint",
            &collector,
        ];
        let variables = [
            ("RUST_LOG", "trace"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=secret-header"),
        ];
        let mut server = Process::start_unready(&flags, &variables).await;
        if is_there {
            crate::support::until("the database answers", async || {
                reqwest::get(format!("{}/readyz", server.metrics))
                    .await
                    .ok()?
                    .status()
                    .is_success()
                    .then_some(())
            })
            .await;
        }
        let mut said = String::new();
        let calls = [
            (
                "set_memory",
                json!({"key": "k", "value": ARGUMENT, "auth_token": BEARER}),
            ),
            ("get_session", json!({"session_id": "session_0000000000000000"})),
            ("create_session", json!({"purpose": [ARGUMENT]})),
            ("no such tool", json!({"a": ARGUMENT})),
        ];
        for (tool, arguments) in calls {
            let request = server
                .client
                .tool(tool, &arguments)
                .bearer_auth(BEARER)
                .header("x-api-key", KEY);
            // An answer may repeat what its own caller sent; a log may not.
            let answer = request.send().await.unwrap().text().await.unwrap();
            said += &answer.replace(ARGUMENT, "");
        }
        let mut token = String::new();
        if is_there {
            // What succeeds reaches the database, as a parameter of a statement.
            let agent = json!({"agent_id": "ann", "agent_type": "claude"});
            token = server.client.call("authenticate_agent", agent).await["token"].to_string();
            token = token.trim_matches('"').to_owned();
            assert!(token.starts_with("sct_"), "{token}");
            let ann = server.client.with_token(&token);
            let stored = ann.call("set_memory", json!({"key": "k", "value": ARGUMENT})).await;
            assert_eq!(stored["success"], true, "{stored}");
        }
        for path in ["metrics", "health", "health/detailed", "readyz"] {
            said += &reqwest::get(format!("{}/{path}", server.metrics))
                .await
                .unwrap()
                .text()
                .await
                .unwrap();
        }
        said += &reqwest::get(format!("{}/tuning", server.admin))
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        server.terminate().await;
        said += &server.log();
        assert!(said.contains("mcp_requests_total") && said.contains("listening"));
        let secrets = [DATABASE, REDIS, BEARER, KEY, ARGUMENT, "secret-header", &token];
        for secret in secrets.into_iter().filter(|secret| !secret.is_empty()) {
            let place = said.lines().find(|line| line.contains(secret));
            assert_eq!(place, None, "{secret} was written");
        }
    }
}

/// Settings with a password in them are refused without showing it.
#[test]
fn refusals_show_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    for (flag, value) in [
        ("--database-url", "postgres://u:hidden@h:notaport/d"),
        ("--database-url", "mysql://u:hidden@h"),
        ("--redis-url", "redis://:hidden@h:notaport"),
        ("--redis-url", "http://:hidden@h"),
        ("--otlp-endpoint", "http://u:hidden@h"),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_mcp-server"))
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--metrics-listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
            ])
            .env_clear()
            .env(
                format!("MCP_{}", flag.trim_start_matches("--").replace('-', "_").to_uppercase()),
                value,
            )
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert_eq!(output.status.code(), Some(2), "{flag} {value} is refused");
        assert!(
            said.contains(flag) && !said.contains("hidden"),
            "{flag} {value}: {said}"
        );
    }
}

/// The one command of the quick start: no argument, no database, no configuration.
#[tokio::test(flavor = "multi_thread")]
async fn without_arguments_it_serves() {
    let folder = tempfile::tempdir().unwrap();
    let free = || {
        std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string()
    };
    let (mcp, metrics, admin) = (free(), free(), free());
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_mcp-server"))
        .env_clear()
        .envs([
            ("MCP_LISTEN", &mcp),
            ("MCP_METRICS_LISTEN", &metrics),
            ("MCP_ADMIN_LISTEN", &admin),
        ])
        .current_dir(folder.path())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let healthcheck = || {
        std::process::Command::new(env!("CARGO_BIN_EXE_mcp-server"))
            .args(["healthcheck", "--metrics-listen", &metrics])
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap()
    };
    crate::support::until("the server is ready", async || healthcheck().success().then_some(())).await;
    let client = crate::support::client::Client::new(format!("http://{mcp}/mcp"));
    assert_eq!(
        client.call("set_memory", json!({"key": "k", "value": 1})).await["success"],
        true
    );
    assert!(folder.path().join("mcp.db").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!healthcheck().success(), "nobody answers any more");
}
