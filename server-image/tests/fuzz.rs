//! Whatever arrives, the server answers, and fails at nothing: inputs at random and near-valid ones through the whole
//! endpoint, in process, in front of either kind of database.
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
use tokio::time::timeout;
use tower::ServiceExt;

use inputs::{Input, Random};
use support::postgres::SHARED;
use support::server::{TestServer, file_settings, settings};

/// Inputs of a test, over both databases, unless `MCP_FUZZ_INPUTS` says otherwise.
const INPUTS: usize = 6000;
/// After so many inputs a client with a valid call must be served, with every slot free; the next go to the other
/// database.
const BATCH: usize = 500;
/// Sessions of clients up to 2025-11-25 that the inputs of a batch are in, if they are not ended by one.
const SESSIONS: usize = 8;
/// Inputs at once.
const AT_ONCE: usize = 32;
/// Longest time for the beginning of an answer.
const ANSWER: Duration = Duration::from_secs(20);
/// Longest time that a client reads an event stream: one of news has no end.
const READS: Duration = Duration::from_millis(100);
/// The same of a client that leaves early.
const LEAVES: Duration = Duration::from_millis(1);
/// Labels `error_type` of requests that failed by the server's own fault.
const FAULTS: &[&str] = &["server_failure", "-32603", "500", "timeout"];
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
    fuzz(|_| {}, None).await;
}

/// The same where each caller has a key and may not do everything: what a request asks for is read twice there.
#[tokio::test(flavor = "multi_thread")]
async fn every_input_is_answered_where_rights_are_checked() {
    let key = generate("fuzz", &["write".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, &key.line).unwrap();
    let with_rights = |settings: &mut Settings| {
        settings.auth.method = Method::ApiKey { file: file.clone() };
        settings.auth.rules =
            ScopeRules::new([], ["set_memory=write", "search_context=read", "tools/list=read"]).unwrap();
    };
    fuzz(with_rights, Some(&key.key)).await;
}

async fn fuzz(prepare: impl Fn(&mut Settings), key: Option<&str>) {
    let panics = count_panics();
    let (file, _folder) = file_settings();
    let shared = settings(&SHARED.database().await);
    let mut targets = Vec::new();
    for (database, mut settings) in [("SQLite", file), ("Postgres", shared)] {
        all_on(&mut settings);
        prepare(&mut settings);
        targets.push(Target::start(database, settings, key).await);
    }
    let (inputs, seed) = (setting("MCP_FUZZ_INPUTS", INPUTS), setting("MCP_FUZZ_SEED", 1));
    let mut random = Random::new(u64::try_from(seed).unwrap());
    for batch in 0..inputs.div_ceil(BATCH) {
        let target = &mut targets[batch % 2];
        target.answer(&mut random, key).await;
        assert_eq!(
            panics.load(Ordering::SeqCst),
            0,
            "{}: seed {seed}, within the batch before input {}",
            target.database,
            (batch + 1) * BATCH
        );
        target.is_well().await;
    }
    for target in targets.iter().filter(|target| !target.statuses.is_empty()) {
        target.has_not_failed().await;
        target.was_tested(key.is_some());
    }
}

fn all_on(settings: &mut Settings) {
    // Sessions that inputs open must leave memory before there are hundreds of thousands.
    settings.data.sessions.idle = Duration::from_secs(1);
    settings.network.rest_shim = true;
    // Whoever waits too long for a connection is told that the server failed, which must not depend on the machine.
    settings.tuning.pool_max = AT_ONCE + 4;
}

/// A server in front of one kind of database, and how it has answered.
struct Target {
    database: &'static str,
    server: TestServer,
    statuses: BTreeMap<u16, usize>,
}

impl Target {
    async fn start(database: &'static str, settings: Settings, key: Option<&str>) -> Self {
        let mut server = TestServer::start(settings).await;
        if let Some(key) = key {
            let header = (HeaderName::from_static("x-api-key"), key.parse().unwrap());
            server.client = server.client.with_headers([header].into_iter().collect());
        }
        Self {
            database,
            server,
            statuses: BTreeMap::new(),
        }
    }

    /// Sends the next batch of inputs, and judges each answer.
    async fn answer(&mut self, random: &mut Random, key: Option<&str>) {
        let mut sessions = Vec::new();
        for _ in 0..SESSIONS {
            sessions.push(self.server.client.legacy_session().await.id);
        }
        let mut batch = Input::batch(random, &sessions, BATCH);
        if let Some(key) = key {
            for input in &mut batch {
                input.authorize(key);
            }
        }
        let (router, database) = (self.server.server.router(), self.database);
        let answers = futures::stream::iter(batch).map(|input| answer(router.clone(), database, input));
        for status in answers.buffer_unordered(AT_ONCE).collect::<Vec<u16>>().await {
            *self.statuses.entry(status).or_default() += 1;
        }
    }

    /// A valid call is served, and no slot is held.
    async fn is_well(&self) {
        self.is_at_rest().await;
        let call = self.server.client.tool("simulate_work", &json!({}));
        let response = call.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{}", self.database);
        let answer: Value = response.json().await.unwrap();
        assert!(answer["result"]["isError"] != true, "{}: {answer}", self.database);
    }

    async fn is_at_rest(&self) {
        self.server.until_metric("mcp_in_flight_requests", 0.0).await;
        self.server.until_metric("mcp_queued_requests", 0.0).await;
    }

    /// Nothing that arrived made the server fail, by its own account: whoever runs it is woken by that.
    async fn has_not_failed(&self) {
        let database = self.database;
        self.is_at_rest().await;
        assert_eq!(self.server.probe("readyz").await, 200, "{database}: ready");
        let scrape = self.server.scrape().await;
        let ended = |error_type: &str| {
            let labels = [("error_type", error_type)];
            let ended = scrape.sum("mcp_server_operation_duration_seconds_count", &labels);
            ended.unwrap_or_default()
        };
        let failed = scrape.value("mcp_requests_total", &[("status", "error")]);
        // Clients may leave, and may end a session that another request of theirs is in.
        let by_clients = ended("cancelled") + ended("503");
        let faults: Vec<(&str, f64)> = FAULTS.iter().map(|fault| (*fault, ended(fault))).collect();
        assert!(
            failed - by_clients < 0.5 && faults.iter().all(|(_, count)| *count < 0.5),
            "{database}: {failed} requests failed, {by_clients} of them by their clients: {faults:?}"
        );
    }

    /// Inputs that are all refused at the door test nothing.
    fn was_tested(&self, needs_key: bool) {
        let (database, statuses) = (self.database, &self.statuses);
        let answered: usize = statuses.values().sum();
        println!("{database}: {answered} inputs answered: {statuses:?}");
        let reached_tools = statuses.get(&200).copied().unwrap_or_default();
        assert!(reached_tools * 10 > answered, "{database}: {statuses:?}");
        assert!(
            !needs_key || (statuses.contains_key(&401) && statuses.contains_key(&403)),
            "{database}: {statuses:?}"
        );
    }
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
async fn answer(router: Router, database: &str, input: Input) -> u16 {
    let shown = format!("{database}: {}", input.shown());
    let (is_malformed, is_rest) = (input.is_malformed(), input.is_rest());
    let patience = if input.leaves() { LEAVES } else { READS };
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
        Some("text/event-stream") => judge_events(&read_for(patience, response).await, &shown),
        Some(json) if json.starts_with("application/json") && !packed && !is_head => {
            let body = whole(response, &shown).await;
            let parsed: Result<Value, _> = serde_json::from_slice(&body);
            let parsed = parsed.unwrap_or_else(|error| panic!("{error} in the answer {status} to {shown}"));
            assert!(!is_fault(&parsed), "{status} {parsed} to {shown}");
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
        _ => {
            let body = whole(response, &shown).await;
            let text = String::from_utf8_lossy(&body);
            // The client may end a session that the request is in. Who finds no room gets JSON.
            assert!(
                status != 503 || packed || text.contains("cannot be restored"),
                "{status} {text} to {shown}"
            );
        }
    }
    status
}

/// Whether an answer says that the server itself failed. One that had no room says when to come back.
fn is_fault(answer: &Value) -> bool {
    let is_critical =
        |envelope: &Value| envelope["severity"] == "critical" && envelope["context"]["retry_after_seconds"].is_null();
    answer["error"]["code"] == -32603 || is_critical(answer) || is_critical(&answer["result"]["structuredContent"])
}

/// Reads an event stream until it ends, or its client goes away.
async fn read_for(patience: Duration, response: Response<Body>) -> Vec<u8> {
    let (mut body, mut read) = (response.into_body(), Vec::<u8>::new());
    let reading = async {
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.expect("a body without errors").into_data() {
                read.extend_from_slice(&data);
            }
        }
    };
    // Both are an end.
    let _ = timeout(patience, reading).await;
    read
}

fn judge_events(read: &[u8], shown: &str) {
    let text = String::from_utf8_lossy(read);
    // What comes after the last line feed is only the beginning of a line.
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    for data in complete.lines().filter_map(|line| line.strip_prefix("data:")) {
        if data.trim().is_empty() {
            continue;
        }
        let message: Result<Value, _> = serde_json::from_str(data);
        let message = message.unwrap_or_else(|error| panic!("{error} in {data:?}, an event for {shown}"));
        assert!(
            message["jsonrpc"] == "2.0" && !is_fault(&message),
            "{message}, an event for {shown}"
        );
    }
}

async fn whole(response: Response<Body>, shown: &str) -> axum::body::Bytes {
    let body = timeout(ANSWER, response.into_body().collect()).await;
    body.unwrap_or_else(|_| panic!("the answer to {shown} does not end"))
        .expect("a body without errors")
        .to_bytes()
}
