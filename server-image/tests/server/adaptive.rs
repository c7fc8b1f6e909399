//! Shedding before the slots are full, when latency proves overload.

use std::time::{Duration, Instant};

use futures::future::join_all;
use mcp_server::admission::adaptive::{AdaptiveSettings, WINDOW};
use mcp_server::tuning::Tuning;
use reqwest::Response;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::server::{TestServer, file_settings};
use crate::support::until;

const SLOTS: usize = 20;
/// Some of them always wait for a slot, so that the server is full; the queue has room for all.
const CALLERS: usize = 30;
/// What one caller asks for; all together it takes more than four windows.
const CALLS: usize = 10;
/// What a call takes at first, in milliseconds.
const USUAL: u64 = 5;
/// What it takes later.
const SLOW: u64 = 400;

/// A server that knows what its calls usually take.
async fn start(enabled: bool) -> (TestServer, TempDir) {
    let (mut settings, folder) = file_settings();
    settings.tuning = Tuning {
        pool_max: 1,
        concurrency: SLOTS,
        queue_max: CALLERS,
    };
    settings.capacity.adaptive = AdaptiveSettings {
        enabled,
        latency: Duration::from_millis(50),
    };
    let server = TestServer::start(settings).await;
    let began = Instant::now();
    while began.elapsed() < 3 * WINDOW {
        assert_eq!(server.client.work(USUAL).await.unwrap().status(), 200);
    }
    (server, folder)
}

/// One caller: asks again and again until it is refused; returns the refusal.
async fn ask(client: &Client) -> Option<Response> {
    for _ in 0..CALLS {
        let answer = client.work(SLOW).await.unwrap();
        if answer.status() != 200 {
            return Some(answer);
        }
    }
    None
}

/// Many callers whose calls take much longer than usual; returns the refusals.
async fn overload(client: &Client) -> Vec<Response> {
    let answers = join_all((0..CALLERS).map(|_| ask(client))).await;
    answers.into_iter().flatten().collect()
}

/// A server whose database is slow makes every caller wait for all the others: some must be told at once to come back
/// later, so that the rest is served, and whoever watches must see how many.
#[tokio::test(flavor = "multi_thread")]
async fn what_takes_much_longer_than_usual_is_shed_early() {
    let (server, _folder) = start(true).await;
    let limited = until("the limit is below the slots", async || {
        let scrape = server.scrape().await;
        let slots = scrape.value("mcp_concurrency_limit", &[]);
        (scrape.value("mcp_adaptive_concurrency_limit", &[]) < slots).then_some(slots)
    });
    let (refusals, slots) = tokio::join!(overload(&server.client), limited);
    assert_eq!(slots, 20.0, "the slots stay as they were set");
    let count = u32::try_from(refusals.len()).unwrap();
    assert!(count > 0, "nobody was refused");
    for refusal in refusals {
        let status = refusal.status().as_u16();
        let retry_after = refusal.headers()["retry-after"].to_str().unwrap().to_owned();
        assert_eq!((status, retry_after.as_str()), (503, "1"));
        let answer: Value = refusal.json().await.unwrap();
        let error = &answer["error"];
        assert_eq!(error["data"]["reason"], "overloaded", "{answer}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("much longer than usual"), "{message}");
    }
    let scrape = server.scrape().await;
    let shed = [("tool", "simulate_work"), ("status", "shed")];
    assert_eq!(
        (
            scrape.value("mcp_requests_shed_total", &[]),
            scrape.value("mcp_requests_total", &shed)
        ),
        (f64::from(count), f64::from(count)),
        "each refusal is counted, and once"
    );
}

/// Whoever has switched the limit off relies on every call that finds room being served, however long it takes.
#[tokio::test(flavor = "multi_thread")]
async fn switched_off_the_same_load_is_served() {
    let (server, _folder) = start(false).await;
    let refusals = overload(&server.client).await;
    let statuses: Vec<_> = refusals.iter().map(Response::status).collect();
    assert!(statuses.is_empty(), "{statuses:?}");
    let scrape = server.scrape().await;
    assert_eq!(scrape.value("mcp_requests_shed_total", &[]), 0.0);
    assert_eq!(
        scrape.value("mcp_adaptive_concurrency_limit", &[]),
        scrape.value("mcp_concurrency_limit", &[])
    );
}
