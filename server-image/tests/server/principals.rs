//! Callers of `--auth` and the agents that they may be.

use mcp_server::auth::Method;
use mcp_server::auth::api_keys::{NewKey, generate};
use mcp_server::server::Settings;
use mcp_server::tools::shared_context::ApiKeys;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::server::{TestServer, file_settings};

const SERVER_KEY: &str = "a key of more than thirty-two characters";
const OTHER_KEY: &str = "another key of more than thirty-two characters";

fn key(name: &str, scopes: &[&str]) -> NewKey {
    let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    generate(name, &scopes).unwrap()
}

fn settings_for(folder: &TempDir, mut settings: Settings, keys: &[&NewKey]) -> Settings {
    let file = folder.path().join("keys");
    let lines: Vec<&str> = keys.iter().map(|key| key.line.as_str()).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    settings.auth.method = Method::ApiKey { file };
    settings
}

async fn call(server: &TestServer, key: &NewKey, tool: &str, arguments: Value) -> Value {
    let request = server.client.tool(tool, &arguments).header("x-api-key", &key.key);
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    answer["result"]["structuredContent"].clone()
}

fn who(agent_id: &str, agent_type: &str, permissions: &[&str]) -> Value {
    json!({"agent_id": agent_id, "agent_type": agent_type, "requested_permissions": permissions})
}

/// `ci` and `ci/deploy` are two callers: what the one keeps, the other must not be able to read by naming itself well.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_becomes_a_caller_whose_name_begins_with_its_own() {
    let (settings, folder) = file_settings();
    let (ci, deploy, odd) = (key("ci", &[]), key("ci/deploy", &[]), key("ci%2Fdeploy", &[]));
    let server = TestServer::start(settings_for(&folder, settings, &[&ci, &deploy, &odd])).await;
    let entry = json!({"key": "k", "value": "SECRET"});
    assert_eq!(call(&server, &deploy, "set_memory", entry).await["success"], true);
    for (name, thief, agent_id) in [
        ("by a slash", &ci, "ci/deploy"),
        ("as it is kept", &ci, "ci%2Fdeploy"),
        ("by its own name", &odd, "ci%2Fdeploy"),
        ("by its own name, as it is kept", &odd, "ci%252Fdeploy"),
    ] {
        let token = call(&server, thief, "authenticate_agent", who(agent_id, "claude", &["read"])).await;
        let read = json!({"key": "k", "auth_token": token["token"]});
        let text = call(&server, thief, "get_memory", read).await.to_string();
        assert!(!text.contains("SECRET"), "{name}: {token} {text}");
    }
    let own = call(&server, &deploy, "get_memory", json!({"key": "k"})).await;
    assert_eq!(own["value"], "SECRET", "{own}");
}

/// Rights that were taken away must be gone: a token of before must not keep them, and nobody may use another's.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_allows_no_more_than_its_caller_may_now() {
    let (settings, folder) = file_settings();
    let (eve, bob) = (key("eve", &["read", "write", "admin"]), key("bob", &["read", "write"]));
    let before = TestServer::start(settings_for(&folder, settings.clone(), &[&eve, &bob])).await;
    let token = call(
        &before,
        &eve,
        "authenticate_agent",
        who("eve", "admin", &["read", "admin"]),
    )
    .await["token"]
        .clone();
    let metrics = json!({"auth_token": token});
    assert_eq!(
        call(&before, &eve, "get_performance_metrics", metrics.clone()).await["success"],
        true
    );
    let stolen = call(&before, &bob, "get_performance_metrics", metrics.clone()).await;
    assert_eq!(stolen["code"], "TOKEN_AUTHENTICATION_FAILED", "{stolen}");
    drop(before);

    // The same key with fewer scopes.
    let mut less = key("eve", &["read"]);
    let hash = eve.line.split(' ').nth(1).unwrap();
    less.line = format!("eve {hash} read");
    less.key.clone_from(&eve.key);
    let after = TestServer::start(settings_for(&folder, settings, &[&less, &bob])).await;
    let denied = call(&after, &less, "get_performance_metrics", metrics).await;
    assert_eq!(denied["code"], "PERMISSION_DENIED", "{denied}");
    let renewed = call(&after, &less, "refresh_token", json!({"current_token": token})).await;
    let metrics = json!({"auth_token": renewed["token"]});
    let denied = call(&after, &less, "get_performance_metrics", metrics).await;
    assert_eq!(denied["code"], "PERMISSION_DENIED", "{denied}");
}

/// The server's key says that a program may have tokens. It must not make a caller that is known another, or more.
#[tokio::test(flavor = "multi_thread")]
async fn the_servers_key_lifts_no_limit_of_a_caller() {
    let (mut settings, folder) = file_settings();
    settings.shared_context.api_keys = ApiKeys::read(Some(SERVER_KEY), None).unwrap();
    let eve = key("eve", &["read"]);
    let server = TestServer::start(settings_for(&folder, settings, &[&eve])).await;
    for (name, agent_id, expected) in [
        ("her own name", "eve", json!(["read"])),
        ("another's", "bob", json!(null)),
    ] {
        let mut arguments = who(agent_id, "admin", &["read", "write", "admin"]);
        arguments["api_key"] = json!(SERVER_KEY);
        let request = server
            .client
            .tool("authenticate_agent", &arguments)
            .bearer_auth(&eve.key);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(
            answer["result"]["structuredContent"]["permissions"], expected,
            "{name}: {answer}"
        );
    }
}

/// A key that has leaked is replaced, and whoever had it must be out: not only without new tokens.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_end_with_the_key_that_they_were_got_by() {
    let (mut settings, _folder) = file_settings();
    let start = async |keys: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        std::fs::write(&file, keys.join("\n")).unwrap();
        settings.shared_context.api_keys = ApiKeys::read(None, Some(&file)).unwrap();
        TestServer::start(settings.clone()).await
    };
    let mut start = start;
    let both = start(&[SERVER_KEY, OTHER_KEY]).await;
    let token = async |key: &str| {
        let mut arguments = who("ann", "claude", &["read"]);
        arguments["api_key"] = json!(key);
        both.client.call("authenticate_agent", arguments).await["token"].clone()
    };
    let (leaked, good) = (token(SERVER_KEY).await, token(OTHER_KEY).await);
    let replaced = start(&[OTHER_KEY]).await;
    let list = async |token: &Value| replaced.client.call("list_memory", json!({"auth_token": token})).await;
    assert_eq!(list(&leaked).await["code"], "TOKEN_AUTHENTICATION_FAILED");
    assert_eq!(list(&good).await["success"], true);
    let renewed = async |token: &Value| {
        replaced
            .client
            .call("refresh_token", json!({"current_token": token}))
            .await
    };
    assert_eq!(renewed(&leaked).await["code"], "TOKEN_REFRESH_FAILED");
    let renewed = renewed(&good).await;
    assert_eq!(list(&renewed["token"]).await["success"], true, "{renewed}");
}
