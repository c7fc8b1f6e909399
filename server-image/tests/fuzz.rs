//! Whatever arrives, the server answers: inputs at random and near-valid ones through the whole endpoint, in process.
//!
//! `make test` runs a few seconds of it. `MCP_FUZZ_INPUTS=1000000 MCP_FUZZ_SEED=7 cargo test --test fuzz` runs more; a
//! failure names its seed and input.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "fuzz/inputs.rs"]
mod inputs;
#[path = "server/support/mod.rs"]
#[expect(dead_code, reason = "shared with the other tests, which use all of it")]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures::StreamExt;
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::BodyExt;
use mcp_server::auth::api_keys::generate;
use mcp_server::auth::{Method, ScopeRules};
use mcp_server::server::Settings;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;
use tower::ServiceExt;

use inputs::{Input, Random};
use support::server::{TestServer, file_settings};

/// Inputs unless `MCP_FUZZ_INPUTS` says otherwise.
const INPUTS: usize = 6000;
/// After so many inputs a client with a valid call must be served, with every slot free.
const BATCH: usize = 500;
/// Sessions of clients up to 2025-11-25 that the inputs of a batch are in, if they are not ended by one.
const SESSIONS: usize = 8;
/// Inputs at once.
const AT_ONCE: usize = 32;
/// Longest time for the beginning of an answer.
const ANSWER: Duration = Duration::from_secs(20);
/// All that a client can be told.
const STATUSES: &[u16] = &[
    200, 202, 204, 400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 429, 503,
];

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// A server that any input can crash, block or fill is at the mercy of everybody who reaches it.
#[tokio::test(flavor = "multi_thread")]
async fn every_input_is_answered() {
    let (settings, _folder) = all_on();
    fuzz(settings, None).await;
}

/// The same where each caller has a key and may not do everything: what a request asks for is read twice there.
#[tokio::test(flavor = "multi_thread")]
async fn every_input_is_answered_where_rights_are_checked() {
    let (mut settings, folder) = all_on();
    let key = generate("fuzz", &["write".to_owned()]).unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, &key.line).unwrap();
    settings.auth.method = Method::ApiKey { file };
    settings.auth.rules = ScopeRules::new([], ["set_memory=write", "search_context=read", "ping=read"]).unwrap();
    fuzz(settings, Some(key.key)).await;
}

fn all_on() -> (Settings, TempDir) {
    let (mut settings, folder) = file_settings();
    // Sessions that inputs open must leave memory before there are hundreds of thousands.
    settings.data.sessions.idle = Duration::from_secs(1);
    settings.network.rest_shim = true;
    (settings, folder)
}

async fn fuzz(settings: Settings, key: Option<String>) {
    let panics = count_panics();
    let mut server = TestServer::start(settings).await;
    if let Some(key) = &key {
        let header = (HeaderName::from_static("x-api-key"), key.parse().unwrap());
        server.client = server.client.with_headers([header].into_iter().collect());
    }
    let router = server.server.router();
    let (inputs, seed) = (setting("MCP_FUZZ_INPUTS", INPUTS), setting("MCP_FUZZ_SEED", 1));
    let mut random = Random::new(u64::try_from(seed).unwrap());
    let (mut answered, mut statuses) = (0, BTreeMap::<u16, usize>::new());
    while answered < inputs {
        let mut sessions = Vec::new();
        for _ in 0..SESSIONS {
            sessions.push(server.client.legacy_session().await.id);
        }
        let mut batch: Vec<Input> = (0..BATCH).map(|_| Input::new(&mut random, &sessions)).collect();
        if let Some(key) = &key {
            for input in &mut batch {
                input.authorize(key);
            }
        }
        let answers = futures::stream::iter(batch).map(|input| answer(router.clone(), input));
        for status in answers.buffer_unordered(AT_ONCE).collect::<Vec<u16>>().await {
            *statuses.entry(status).or_default() += 1;
        }
        answered += BATCH;
        assert_eq!(
            panics.load(Ordering::SeqCst),
            0,
            "seed {seed}, within the batch before input {answered}"
        );
        is_well(&server).await;
    }
    println!("{answered} inputs answered: {statuses:?}");
    let reached_tools = statuses.get(&200).copied().unwrap_or_default();
    assert!(
        reached_tools * 10 > answered,
        "inputs that are all refused at the door test nothing: {statuses:?}"
    );
    assert!(
        key.is_none() || (statuses.contains_key(&401) && statuses.contains_key(&403)),
        "{statuses:?}"
    );
}

/// Counts panics of any task, also of those whose panic somebody catches.
fn count_panics() -> Arc<AtomicUsize> {
    let panics = Arc::<AtomicUsize>::default();
    let (counted, print) = (Arc::clone(&panics), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        counted.fetch_add(1, Ordering::SeqCst);
        print(panic);
    }));
    panics
}

/// Sends an input, and judges the answer by what holds for every answer.
async fn answer(router: Router, input: Input) -> u16 {
    let (shown, is_malformed, is_rest) = (input.shown(), input.is_malformed(), input.is_rest());
    let input_is_typed = input.is_typed();
    // The answer to a HEAD has no body, whatever its headers say.
    let is_head = input.is_head();
    let request: Request<Body> = input.into();
    let Ok(response) = timeout(ANSWER, router.oneshot(request)).await else {
        panic!("no answer within {ANSWER:?} to {shown}");
    };
    let response = response.unwrap_or_else(|never| match never {});
    let status = response.status().as_u16();
    if !STATUSES.contains(&status) {
        let body = whole(response, &shown).await;
        panic!("{status} {:?} to {shown}", String::from_utf8_lossy(&body));
    }
    // Unless it is too long, comes when there is no slot, or asks for what its caller may not do or the shim has not.
    assert!(
        !is_malformed || [400, 403, 413, 503].contains(&status) || (is_rest && status == 404),
        "{status} to {shown}"
    );
    assert!(status != 415 || !input_is_typed, "{status} to {shown}");
    let packed = response.headers().contains_key("content-encoding");
    let kind = response
        .headers()
        .get("content-type")
        .map(|value| value.to_str().unwrap().to_owned());
    match kind.as_deref() {
        // A client that opens a stream and goes away.
        Some("text/event-stream") => drop(timeout(Duration::from_millis(1), response.into_body().frame()).await),
        Some(json) if json.starts_with("application/json") && !packed && !is_head => {
            let body = whole(response, &shown).await;
            let parsed: Result<Value, _> = serde_json::from_slice(&body);
            let parsed = parsed.unwrap_or_else(|error| panic!("{error} in the answer {status} to {shown}"));
            if is_rest {
                assert!(parsed.is_object(), "{parsed} to {shown}");
                return status;
            }
            assert!(parsed["jsonrpc"] == "2.0", "{parsed} to {shown}");
            if status == 400 && is_malformed {
                assert!(
                    parsed["error"]["code"] == -32700 && parsed["id"].is_null(),
                    "{parsed} to {shown}"
                );
            }
        }
        _ => drop(whole(response, &shown).await),
    }
    status
}

async fn whole(response: Response<Body>, shown: &str) -> axum::body::Bytes {
    let body = timeout(ANSWER, response.into_body().collect()).await;
    body.unwrap_or_else(|_| panic!("the answer to {shown} does not end"))
        .expect("a body without errors")
        .to_bytes()
}

/// A valid call is served, and no slot is held.
async fn is_well(server: &TestServer) {
    server.until_metric("mcp_in_flight_requests", 0.0).await;
    server.until_metric("mcp_queued_requests", 0.0).await;
    let response = server.client.tool("simulate_work", &json!({})).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let answer: Value = response.json().await.unwrap();
    assert!(answer["result"]["isError"] != true, "{answer}");
}
