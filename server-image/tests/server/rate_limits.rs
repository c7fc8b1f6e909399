//! Rate limits as callers meet them: each has its own, they hold across replicas, and Redis may be away.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mcp_server::auth::api_keys::generate;
use mcp_server::auth::{Method, Settings as AuthSettings};
use mcp_server::limits::{Rates, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::redis::Redis;
use crate::support::server::{TestServer, file_settings};
use crate::support::until;

struct Setting<'a> {
    rules: &'a [&'a str],
    redis: Option<&'a str>,
    trusted_proxies: &'a [&'a str],
}

async fn start(setting: Setting<'_>, auth: AuthSettings) -> (TestServer, TempDir) {
    let (mut settings, folder) = file_settings();
    settings.data.redis_url = setting.redis.map(str::to_owned);
    settings.auth = auth;
    settings.limits = Settings {
        rates: Rates::new(setting.rules.iter().copied()).unwrap(),
        global: setting.redis.is_some(),
        trusted_proxies: setting
            .trusted_proxies
            .iter()
            .map(|network| network.parse().unwrap())
            .collect(),
        ..settings.limits
    };
    (TestServer::start(settings).await, folder)
}

/// Statuses of `count` calls of a tool, one after the other.
async fn statuses(client: &Client, tool: &str, count: usize) -> BTreeMap<u16, usize> {
    let mut statuses = BTreeMap::new();
    for _ in 0..count {
        let response = client.tool(tool, &json!({})).send().await.unwrap();
        *statuses.entry(response.status().as_u16()).or_default() += 1;
    }
    statuses
}

/// A class that is used up says when to come back, in the words of HTTP and of JSON-RPC; all others go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_class_has_its_limit() {
    let setting = Setting {
        rules: &["memory=3/min", "all=1000/min"],
        redis: None,
        trusted_proxies: &[],
    };
    let (server, _folder) = start(setting, AuthSettings::default()).await;
    assert_eq!(
        statuses(&server.client, "list_memory", 5).await,
        [(200, 3), (429, 2)].into()
    );
    assert_eq!(statuses(&server.client, "simulate_work", 5).await, [(200, 5)].into());
    let refused = server.client.tool("list_memory", &json!({})).send().await.unwrap();
    let seconds: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=20).contains(&seconds), "{seconds}");
    let body: Value = refused.json().await.unwrap();
    assert_eq!(
        (&body["jsonrpc"], &body["id"], &body["error"]["code"]),
        (&json!("2.0"), &json!(1), &json!(-32000))
    );
    assert_eq!(body["error"]["data"]["reason"], "rate_limited");
    let scrape = server.scrape().await;
    let limited = |class| scrape.value("mcp_rate_limited_requests_total", &[("class", class)]);
    assert_eq!((limited("memory"), limited("all")), (3.0, 0.0));
    assert_eq!(
        scrape.value("mcp_requests_offered_total", &[]),
        8.0,
        "what is refused here is not the scaler's business"
    );
}

/// Whoever may read no more messages by a tool must not go on by other ways to the same rows.
#[tokio::test(flavor = "multi_thread")]
async fn no_way_leads_around_the_limit_of_a_class() {
    let setting = Setting {
        rules: &["messages=1/h", "memory=1/h"],
        redis: None,
        trusted_proxies: &[],
    };
    let (server, _folder) = start(setting, AuthSettings::default()).await;
    let client = &server.client;
    assert_eq!(statuses(client, "get_messages", 1).await, BTreeMap::from([(200, 1)]));
    assert_eq!(statuses(client, "list_memory", 1).await, BTreeMap::from([(200, 1)]));
    let session = "session_0123456789abcdef";
    let read = |uri: &str| ("resources/read", json!({"uri": uri}));
    for ((method, params), is_limited) in [
        (
            (
                "tools/call",
                json!({"name": "get_session", "arguments": {"session_id": session}}),
            ),
            true,
        ),
        (read(&format!("session://{session}")), true),
        (read(&format!("session://{session}/messages/9")), true),
        (read("agent://ann/memory"), true),
        (
            (
                "prompts/get",
                json!({"name": "debug-session", "arguments": {"session_id": session}}),
            ),
            true,
        ),
        (read("server://info/x"), false),
        (
            ("tools/call", json!({"name": "get_usage_guidance", "arguments": {}})),
            false,
        ),
    ] {
        let status = client.modern(method, params.clone()).send().await.unwrap().status();
        assert_eq!(status == 429, is_limited, "{method} {params}: {status}");
    }
    let older = client.legacy_session().await;
    let read = older.request("resources/read", &json!({"uri": "agent://ann/memory", "name": "x"}));
    assert_eq!(read.send().await.unwrap().status(), 429);
}

/// Streams and ends of sessions ask the database, and an end is told to every replica: whoever invents sessions must meet
/// the limits before that. And nothing may count twice.
#[tokio::test(flavor = "multi_thread")]
async fn every_method_has_limits() {
    let setting = Setting {
        rules: &["all=6/h"],
        redis: None,
        trusted_proxies: &[],
    };
    let (server, _folder) = start(setting, AuthSettings::default()).await;
    // Two requests open it.
    let session = server.client.legacy_session().await;
    let ping = session.request("ping", &json!({})).send().await.unwrap();
    assert_eq!(ping.status(), 200);
    let invented = server.client.session("invented".to_owned());
    let ask = async |method: &str| match method {
        "GET" => invented.get().send().await.unwrap(),
        "DELETE" => invented.delete().await,
        _ => invented.request("ping", &json!({})).send().await.unwrap(),
    };
    let methods = ["GET", "DELETE", "POST"];
    for method in methods {
        assert_ne!(ask(method).await.status(), 429, "{method}");
    }
    for method in methods {
        let refused = ask(method).await;
        assert_eq!(refused.status(), 429, "{method}");
        let seconds: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=600).contains(&seconds), "{method}: {seconds}");
        let body: Value = refused.json().await.unwrap();
        assert_eq!(body["error"]["data"]["reason"], "rate_limited", "{method}");
    }
    let scrape = server.scrape().await;
    assert_eq!(
        scrape.value("mcp_rate_limited_requests_total", &[("class", "all")]),
        3.0
    );
}

/// One caller's greed must not be another's problem: callers are told apart by key, or by the address that a trusted
/// proxy reports, which nobody else can invent.
#[tokio::test(flavor = "multi_thread")]
async fn callers_have_limits_of_their_own() {
    let (greedy, modest) = (generate("greedy", &[]).unwrap(), generate("modest", &[]).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, format!("{}\n{}", greedy.line, modest.line)).unwrap();
    let auth = AuthSettings {
        method: Method::ApiKey { file },
        ..AuthSettings::default()
    };
    let setting = |trusted_proxies| Setting {
        rules: &["all=4/min"],
        redis: None,
        trusted_proxies,
    };
    let (server, _folder) = start(setting(&[]), auth).await;
    let with = |key: &str| server.client.with_token(key);
    assert_eq!(
        statuses(&with(&greedy.key), "simulate_work", 6).await,
        [(200, 4), (429, 2)].into()
    );
    assert_eq!(
        statuses(&with(&modest.key), "simulate_work", 4).await,
        [(200, 4)].into()
    );

    let from = |server: &TestServer, address: &str| {
        let forwarded = ("x-forwarded-for".parse().unwrap(), address.parse().unwrap());
        server.client.with_headers([forwarded].into_iter().collect())
    };
    let (behind, _folder) = start(setting(&["127.0.0.0/8"]), AuthSettings::default()).await;
    assert_eq!(
        statuses(&from(&behind, "1.2.3.4"), "simulate_work", 5).await,
        [(200, 4), (429, 1)].into()
    );
    assert_eq!(
        statuses(&from(&behind, "9.9.9.9, 1.2.3.4"), "simulate_work", 1).await,
        [(429, 1)].into()
    );
    assert_eq!(
        statuses(&from(&behind, "1.2.3.5"), "simulate_work", 4).await,
        [(200, 4)].into()
    );
    let (direct, _folder) = start(setting(&[]), AuthSettings::default()).await;
    assert_eq!(
        statuses(&from(&direct, "1.2.3.4"), "simulate_work", 4).await,
        [(200, 4)].into()
    );
    assert_eq!(
        statuses(&from(&direct, "5.6.7.8"), "simulate_work", 1).await,
        [(429, 1)].into(),
        "invented"
    );
}

/// Replicas share a limit to the last request, however their requests interleave; and when Redis goes away, callers are
/// served as if each replica were alone, without waiting.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_limits_while_redis_answers() {
    let redis = Redis::start();
    let setting = || Setting {
        rules: &["memory=20/h+100/h", "messages=1000/min"],
        redis: Some(&redis.url),
        trusted_proxies: &["127.0.0.0/8"],
    };
    let (a, b) = (
        start(setting(), AuthSettings::default()),
        start(setting(), AuthSettings::default()),
    );
    let ((a, _folder_a), (b, _folder_b)) = tokio::join!(a, b);
    tokio::join!(reaches_redis(&a), reaches_redis(&b));
    let mut round = 0;
    // On a busy machine Redis may answer too late for some; then the replicas rightly allow more.
    until("a round in which Redis answers in time", async || {
        round += 1;
        let caller = format!("1.2.3.{round}");
        let before = fallbacks(&a).await + fallbacks(&b).await;
        let calls = (0..30).map(|number| {
            let client = if number % 2 == 0 { &a.client } else { &b.client };
            let request = client
                .tool("list_memory", &json!({}))
                .header("x-forwarded-for", &caller);
            async move { request.send().await.unwrap().status() }
        });
        let answers = futures::future::join_all(calls).await;
        let served = answers.iter().filter(|status| **status == 200).count();
        let in_time = fallbacks(&a).await + fallbacks(&b).await == before;
        assert!(!in_time || served == 20, "{answers:?}");
        in_time.then_some(())
    })
    .await;

    drop(redis);
    let started = Instant::now();
    assert_eq!(
        statuses(&b.client, "list_memory", 3).await,
        [(200, 3)].into(),
        "each replica alone"
    );
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "nobody waits for Redis: {:?}",
        started.elapsed()
    );
    assert!(fallbacks(&b).await > 0.0);
    assert_eq!(
        statuses(&b.client, "list_memory", 20).await.get(&429),
        Some(&3),
        "and each still has its limit"
    );
}

async fn fallbacks(server: &TestServer) -> f64 {
    server.scrape().await.value("mcp_rate_limit_fallbacks_total", &[])
}

/// The first question opens the connection, which may take longer than a request waits.
async fn reaches_redis(server: &TestServer) {
    until("Redis answers", async || {
        let before = fallbacks(server).await;
        statuses(&server.client, "get_messages", 1).await;
        (fallbacks(server).await == before).then_some(())
    })
    .await;
}
