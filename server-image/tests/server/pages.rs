//! Pages in browsers, which ask first whether they may use the server.

use mcp_server::auth::api_keys::generate;
use mcp_server::auth::{Method, ScopeRules, Settings};
use reqwest::header::HeaderMap;
use reqwest::{Method as HttpMethod, RequestBuilder};
use serde_json::json;
use tempfile::TempDir;

use crate::support::server::{TestServer, file_settings};

const LOCAL: &str = "http://localhost:6274";
const FOREIGN: &str = "https://evil.example";

/// A server on loopback that takes requests with the key only.
async fn start() -> (TestServer, String, TempDir) {
    let (mut settings, folder) = file_settings();
    let key = generate("page", &[]).unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, &key.line).unwrap();
    settings.auth = Settings {
        method: Method::ApiKey { file },
        public_url: None,
        rules: ScopeRules::new([], []).unwrap(),
    };
    settings.network.rest_shim = true;
    (TestServer::start(settings).await, key.key, folder)
}

fn preflight(url: &str, origin: &str) -> RequestBuilder {
    reqwest::Client::new()
        .request(HttpMethod::OPTIONS, url)
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "content-type,mcp-method,mcp-name,mcp-protocol-version,x-api-key",
        )
}

fn said<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

/// Lost otherwise: `--allowed-origins` names a page, and its browser still lets it read nothing.
#[tokio::test(flavor = "multi_thread")]
async fn browsers_learn_what_a_page_may_do() {
    let (server, _, _folder) = start().await;
    let tool = format!("{}/tool/create_session", server.client.url());
    for url in [server.client.url(), &tool] {
        // A browser asks without a credential.
        let allowed = preflight(url, LOCAL).send().await.unwrap();
        assert!(allowed.status().is_success(), "{url}: {}", allowed.status());
        let headers = allowed.headers();
        assert_eq!(said(headers, "access-control-allow-origin"), Some(LOCAL), "{url}");
        let methods = said(headers, "access-control-allow-methods").unwrap();
        assert!(methods.contains("POST") && methods.contains("DELETE"), "{methods}");
        let names = said(headers, "access-control-allow-headers").unwrap();
        assert!(
            names.contains("mcp-protocol-version") && names.contains("x-api-key"),
            "{names}"
        );
        assert!(headers.contains_key("x-request-id"), "{url}");

        let foreign = preflight(url, FOREIGN).send().await.unwrap();
        assert_eq!(said(foreign.headers(), "access-control-allow-origin"), None, "{url}");
    }
}

/// A page that cannot read a refusal cannot tell its user to log in; one that cannot read the session's id has none.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_allowed_origins_read_answers() {
    let (server, key, _folder) = start().await;
    let call = || server.client.tool("list_memory", &json!({}));
    for (name, request, status, readable) in [
        (
            "served",
            call().header("x-api-key", &key).header("origin", LOCAL),
            200,
            Some(LOCAL),
        ),
        ("without its key", call().header("origin", LOCAL), 401, Some(LOCAL)),
        (
            "foreign",
            call().header("x-api-key", &key).header("origin", FOREIGN),
            403,
            None,
        ),
        ("no page", call().header("x-api-key", &key), 200, None),
    ] {
        let answer = request.send().await.unwrap();
        let headers = answer.headers();
        assert_eq!(answer.status(), status, "{name}");
        assert_eq!(said(headers, "access-control-allow-origin"), readable, "{name}");
        if readable.is_some() {
            let exposed = said(headers, "access-control-expose-headers").unwrap();
            for header in ["mcp-session-id", "www-authenticate", "retry-after", "x-request-id"] {
                assert!(exposed.contains(header), "{name}: {header} in {exposed}");
            }
            let varies: Vec<&str> = headers.get_all("vary").iter().map(|v| v.to_str().unwrap()).collect();
            assert!(varies.concat().contains("origin"), "a cache mixes pages up: {varies:?}");
        }
    }
}
