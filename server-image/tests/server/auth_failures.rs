//! Whoever tries keys and tokens is told to wait, and nobody else is.

use mcp_server::auth::api_keys::generate;
use mcp_server::auth::{Method, ScopeRules, Settings as AuthSettings};
use mcp_server::server::Settings;
use mcp_server::tools::shared_context::ApiKeys;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::server::{TestServer, file_settings};

const KEY: &str = "a key of more than thirty-two characters";
const BURST: usize = 3;

/// A server that believes the address 127.0.0.1 about who its clients are.
async fn start(change: impl FnOnce(&mut Settings, &TempDir)) -> (TestServer, TempDir) {
    let (mut settings, folder) = file_settings();
    settings.limits.failures = format!("{BURST}/h").parse().unwrap();
    change(&mut settings, &folder);
    (TestServer::start(settings).await, folder)
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

fn wait(response: &Response) -> u64 {
    response.headers()["retry-after"].to_str().unwrap().parse().unwrap()
}

/// A thousand guesses a second must not be worth trying, nor cost those who have a key, at the same address, anything.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_are_limited_and_right_ones_pass() {
    let key = generate("ann", &[]).unwrap();
    let (server, _folder) = start(|settings, folder| {
        let file = folder.path().join("keys");
        std::fs::write(&file, &key.line).unwrap();
        settings.auth = AuthSettings {
            method: Method::ApiKey { file },
            public_url: None,
            rules: ScopeRules::default(),
        };
        settings.limits.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let list = || server.client.tool("list_memory", &json!({}));
    for _ in 0..BURST {
        assert_eq!(status(list().header("x-api-key", "wrong")).await, 401);
    }
    let limited = list().header("x-api-key", "wrong").send().await.unwrap();
    assert_eq!(limited.status(), 429);
    assert!((1..=3600).contains(&wait(&limited)));
    let answer: Value = limited.json().await.unwrap();
    assert_eq!(answer["error"]["data"]["reason"], "auth_rate_limited", "{answer}");

    assert_eq!(status(list().header("x-api-key", &key.key)).await, 200, "the right key");
    assert_eq!(status(list()).await, 401, "who has no key yet is told how to get one");
    let elsewhere = list().header("x-api-key", "wrong").header("x-forwarded-for", "1.2.3.4");
    assert_eq!(status(elsewhere).await, 401, "another address behind the proxy");
    let scrape = server.scrape().await;
    assert_eq!(scrape.value("mcp_auth_failures_limited_total", &[]), 1.0);
}

/// An address that anybody can invent is no address: guesses must not be free for who sends the header.
#[tokio::test(flavor = "multi_thread")]
async fn invented_addresses_do_not_help() {
    let (server, _folder) = start(|settings, _| {
        settings.shared_context.api_keys = ApiKeys::read(Some(KEY), None).unwrap();
        settings.network.rest_shim = true;
    })
    .await;
    let who = |key: &str| json!({"agent_id": "ann", "agent_type": "claude", "api_key": key});
    let mut codes = Vec::new();
    for number in 0..=BURST {
        let request = server.client.tool("authenticate_agent", &who("wrong"));
        let request = request.header("x-forwarded-for", format!("1.2.3.{number}"));
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        codes.push(answer["result"]["structuredContent"]["code"].clone());
    }
    assert_eq!(codes[..BURST], vec![json!("INVALID_API_KEY"); BURST]);
    assert_eq!(codes[BURST], "AUTH_RATE_LIMIT_EXCEEDED");

    let unknown = json!({"key": "k", "auth_token": "sct_00000000-0000-4000-8000-000000000000"});
    let refused = server.client.call("get_memory", unknown.clone()).await;
    assert_eq!(refused["code"], "AUTH_RATE_LIMIT_EXCEEDED", "{refused}");
    let url = format!("http://{}/mcp/tool/get_memory", server.server.mcp);
    let refused = reqwest::Client::new().post(url).json(&unknown).send().await.unwrap();
    assert_eq!(refused.status(), 429);
    assert!((1..=3600).contains(&wait(&refused)));

    let issued = server.client.call("authenticate_agent", who(KEY)).await;
    let set = json!({"key": "k", "value": 1, "auth_token": issued["token"]});
    assert_eq!(server.client.call("set_memory", set).await["success"], true, "{issued}");
    let missing = server.client.call("get_memory", json!({"key": "k"})).await;
    assert_eq!(missing["code"], "PERMISSION_DENIED", "no token is no wrong token");
}
