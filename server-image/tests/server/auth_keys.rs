//! `--auth api-key`: keys from a mounted file.

use mcp_server::auth::api_keys::{NewKey, generate};
use mcp_server::auth::{Method, ScopeRules, Settings};
use reqwest::RequestBuilder;
use reqwest::header::HeaderName;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::process::Process;
use crate::support::server::{TestServer, file_settings};
use crate::support::until;

async fn start(lines: &[&NewKey], tools: &[&'static str]) -> (TestServer, TempDir) {
    let (mut settings, folder) = file_settings();
    write(&folder, lines);
    settings.auth = Settings {
        method: Method::ApiKey {
            file: folder.path().join("keys"),
        },
        public_url: None,
        rules: ScopeRules::new([], tools.iter().copied()).unwrap(),
    };
    (TestServer::start(settings).await, folder)
}

fn write(folder: &TempDir, keys: &[&NewKey]) {
    let lines: Vec<&str> = keys.iter().map(|key| key.line.as_str()).collect();
    std::fs::write(folder.path().join("keys"), lines.join("\n")).unwrap();
}

fn key(name: &str, scopes: &[&str]) -> NewKey {
    let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    generate(name, &scopes).unwrap()
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

/// A key works in either header, only whole, and for what it is meant for.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_what_it_is_for() {
    let (reader, writer) = (key("reader", &[]), key("writer", &["write"]));
    let (server, _folder) = start(&[&reader, &writer], &["set_memory=write"]).await;
    let read = || server.client.tool("list_memory", &json!({}));
    let write = || server.client.tool("set_memory", &json!({"key": "k", "value": 1}));
    let cut = &reader.key[..reader.key.len() - 1];
    for (name, request, expected) in [
        ("X-API-Key", read().header("X-API-Key", &reader.key), 200),
        ("bearer", read().bearer_auth(&reader.key), 200),
        (
            "beside an agent's token",
            read().header("x-api-key", &reader.key).bearer_auth("sct_1"),
            200,
        ),
        ("for writing", write().header("x-api-key", &writer.key), 200),
        ("not for writing", write().header("x-api-key", &reader.key), 403),
        ("none", read(), 401),
        ("cut", read().header("x-api-key", cut), 401),
        (
            "its hash",
            read().header("x-api-key", reader.line.split(' ').nth(1).unwrap()),
            401,
        ),
        (
            "twice",
            read().header("x-api-key", &reader.key).header("X-Api-Key", &writer.key),
            400,
        ),
        (
            "a wrong one hides no right one",
            read().header("x-api-key", cut).bearer_auth(&reader.key),
            401,
        ),
    ] {
        assert_eq!(status(request).await, expected, "{name}");
    }
    let url = format!("http://{}/mcp?api_key={}", server.server.mcp, reader.key);
    assert_eq!(
        status(reqwest::Client::new().post(url).header("x-api-key", &reader.key)).await,
        400,
        "in the URL"
    );
    let refused = read().send().await.unwrap();
    assert_eq!(refused.headers()["www-authenticate"], r#"Bearer realm="mcp""#);
    let scrape = server.scrape().await;
    for (result, count) in [
        ("valid", 5.0),
        ("missing", 2.0),
        ("invalid", 3.0),
        ("malformed", 2.0),
        ("insufficient_scope", 1.0),
    ] {
        assert_eq!(
            scrape.value("mcp_auth_requests_total", &[("result", result)]),
            count,
            "{result}"
        );
    }
    let verified = scrape.value("mcp_auth_request_duration_seconds_count", &[]);
    assert_eq!(verified, 5.0 + 3.0, "what there was to verify is timed");
}

/// What a tool shows only to some must not be had by others as a resource, as a prompt or as news.
#[tokio::test(flavor = "multi_thread")]
async fn no_way_leads_around_the_tools() {
    let (stranger, reader) = (key("stranger", &[]), key("reader", &["ctx:read"]));
    let (server, _folder) = start(&[&stranger, &reader], &["*=ctx:read"]).await;
    let created = server.client.tool("create_session", &json!({"purpose": "p"}));
    let created = created.header("x-api-key", &reader.key).send().await.unwrap();
    let created: Value = created.json().await.unwrap();
    let id = created["result"]["structuredContent"]["session_id"].as_str().unwrap();
    let uri = format!("session://{id}/messages/1000");
    for (method, params) in [
        (
            "tools/call",
            json!({"name": "get_messages", "arguments": {"session_id": id}}),
        ),
        ("resources/read", json!({"uri": uri})),
        (
            "prompts/get",
            json!({"name": "debug-session", "arguments": {"session_id": id}}),
        ),
        (
            "subscriptions/listen",
            json!({"notifications": {"resourceSubscriptions": [uri]}}),
        ),
    ] {
        let answer = async |key: &NewKey| {
            let request = server.client.modern(method, params.clone());
            status(request.header("x-api-key", &key.key)).await
        };
        assert_eq!((answer(&stranger).await, answer(&reader).await), (403, 200), "{method}");
    }
    for (key, expected) in [(&stranger, 403), (&reader, 200)] {
        let header = (HeaderName::from_static("x-api-key"), key.key.parse().unwrap());
        let client = server.client.with_headers([header].into_iter().collect());
        let session = client.legacy_session().await;
        let follow = session.request("resources/subscribe", &json!({"uri": uri}));
        assert_eq!(status(follow).await, expected, "resources/subscribe");
    }
}

/// Who guards a tool and forgets that a resource shows the same must learn it from the server, before others do.
#[tokio::test(flavor = "multi_thread")]
async fn rules_that_leave_a_way_around_are_told() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, &[&key("reader", &[])]);
    let file = folder.path().join("keys");
    let file = file.to_str().unwrap();
    for (rules, expected) in [
        (
            "get_messages=read,resources/read=read",
            &["resources/subscribe,prompts/get,subscriptions/listen"][..],
        ),
        ("get_messages=read,*=read", &[]),
    ] {
        let flags = ["--auth", "api-key", "--api-keys-file", file, "--tool-scopes", rules];
        let process = Process::start_unready(&flags, &[]).await;
        let lines = process.lines();
        let warnings = lines.iter().filter(|line| line["level"] == "WARN");
        let told: Vec<&str> = warnings.filter_map(|line| line["methods"].as_str()).collect();
        assert_eq!(told, expected, "{rules}");
    }
}

/// A leaked key must be gone without a restart.
#[tokio::test(flavor = "multi_thread")]
async fn the_file_is_read_again() {
    let (first, second) = (key("first", &[]), key("second", &[]));
    let (server, folder) = start(&[&first], &[]).await;
    let with = |key: &NewKey| {
        server
            .client
            .tool("list_memory", &json!({}))
            .header("x-api-key", &key.key)
    };
    assert_eq!((status(with(&first)).await, status(with(&second)).await), (200, 401));
    write(&folder, &[&first, &second]);
    until("the new key works", async || {
        (status(with(&second)).await == 200).then_some(())
    })
    .await;
    assert_eq!(status(with(&first)).await, 200);
    write(&folder, &[&second]);
    until("the old key is gone", async || {
        (status(with(&first)).await == 401).then_some(())
    })
    .await;
    assert_eq!(status(with(&second)).await, 200);
}

/// A server that cannot read its keys must not start, least of all open to everybody.
#[tokio::test(flavor = "multi_thread")]
async fn no_keys_no_server() {
    let (mut settings, _folder) = file_settings();
    settings.auth.method = Method::ApiKey {
        file: "/does/not/exist".into(),
    };
    let error = mcp_server::server::Server::start(settings)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("--api-keys-file") && error.contains("/does/not/exist"),
        "{error}"
    );
}

/// A name that is misspelled in a rule leaves open what it was meant to close, and nobody notices.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_about_nothing_is_refused() {
    for (rule, is_known) in [
        ("set_memry=write", false),
        ("resource/read=read", false),
        ("ping=read", false),
        ("tools/call=read", false),
        ("set_memory=write", true),
        ("resources/read=read", true),
        ("subscriptions/listen=read", true),
        ("*=read", true),
    ] {
        let (mut settings, _folder) = file_settings();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, key("ann", &[]).line).unwrap();
        settings.auth.method = Method::ApiKey {
            file: file.path().into(),
        };
        settings.auth.rules = ScopeRules::new([], [rule]).unwrap();
        let checked = mcp_server::server::Server::check(&settings).map_err(|error| error.to_string());
        let (name, _) = rule.split_once('=').unwrap();
        match checked {
            Ok(()) => assert!(is_known, "{rule} is about nothing"),
            Err(error) => assert!(
                !is_known && error.contains(name) && error.contains("set_memory"),
                "{rule}: {error}"
            ),
        }
    }
}

/// Who learns the id of another's session, from a log or a proxy, must not get into it: its streams carry answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_of_whoever_opened_it() {
    let (ann, bob) = (key("ann", &[]), key("bob", &[]));
    let (server, _folder) = start(&[&ann, &bob], &[]).await;
    let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}});
    let opened = server.client.post().header("x-api-key", &ann.key).json(&initialize);
    let opened = opened.send().await.unwrap();
    assert_eq!(opened.status(), 200);
    let id = opened.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    let session = server.client.session(id);
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    assert_eq!(
        status(session.post().header("x-api-key", &ann.key).json(&initialized)).await,
        202
    );
    let requests = || {
        [
            ("a call", session.tool("list_memory", &json!({}))),
            ("a stream", session.get()),
            ("a notification", session.post().json(&initialized)),
        ]
    };
    for (name, request) in requests() {
        assert_eq!(
            status(request.header("x-api-key", &bob.key)).await,
            404,
            "{name} of another"
        );
    }
    // The header of a revision without sessions must not open them.
    let modern = server.client.post().header("mcp-protocol-version", "2026-07-28");
    let mut initialize = initialize;
    initialize["params"]["protocolVersion"] = json!("2026-07-28");
    let modern = modern.header("x-api-key", &bob.key).json(&initialize);
    let opened = modern.header("mcp-session-id", &session.id).send().await.unwrap();
    let other = opened.headers().get("mcp-session-id").expect("a session of its own");
    let other = other.to_str().unwrap().to_owned();
    assert_ne!(other, session.id, "the session of another");
    let other = server.client.session(other);
    let call = other.post().header("x-api-key", &bob.key).json(&initialized);
    assert_eq!(status(call).await, 202, "it is whose who opened it");
    for (name, request) in requests() {
        assert!(
            status(request.header("x-api-key", &ann.key)).await < 300,
            "{name} of its own"
        );
    }
}
