//! Overload: what is served, what waits, what is refused.

use std::time::Duration;

use mcp_server::tuning::Tuning;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::support::server::{TestServer, file_settings, settings};
use crate::support::until;

async fn start(concurrency: usize, queue_max: usize) -> (TestServer, tempfile::TempDir) {
    let (mut settings, folder) = file_settings();
    settings.tuning = Tuning {
        pool_max: 1,
        concurrency,
        queue_max,
    };
    (TestServer::start(settings).await, folder)
}

/// Exactly the requests beyond slots and queue are refused, with a time to come back; the others are all served.
#[tokio::test(flavor = "multi_thread")]
async fn refuses_beyond_slots_and_queue() {
    let (server, _folder) = start(2, 3).await;
    let client = &server.client;
    let running: Vec<_> = (0..2).map(|_| client.work(700)).collect();
    server.until_metric("mcp_in_flight_requests", 2.0).await;
    let waiting: Vec<_> = (0..3).map(|_| client.work(1)).collect();
    server.until_metric("mcp_queued_requests", 3.0).await;

    for refused in [client.work(1), client.work(1)] {
        let response = refused.await.unwrap();
        assert_eq!(
            (
                response.status().as_u16(),
                response.headers()["retry-after"].to_str().unwrap()
            ),
            (503, "1")
        );
        let refusal: Value = response.json().await.unwrap();
        assert_eq!(
            (
                &refusal["id"],
                &refusal["error"]["code"],
                &refusal["error"]["data"]["reason"]
            ),
            (&json!(1), &json!(-32000), &json!("overloaded")),
            "{refusal}"
        );
    }
    for response in running.into_iter().chain(waiting) {
        assert_eq!(response.await.unwrap().status(), 200);
    }
    let scrape = server.scrape().await;
    assert_eq!(
        (
            scrape.value("mcp_requests_offered_total", &[]),
            scrape.value("mcp_requests_shed_total", &[])
        ),
        (7.0, 2.0)
    );
    assert_eq!(
        scrape.value("mcp_requests_total", &[("tool", "simulate_work"), ("status", "shed")]),
        2.0
    );
    assert_eq!(scrape.value("mcp_queue_seconds_count", &[]), 5.0);
    server.until_metric("mcp_in_flight_requests", 0.0).await;
    assert_eq!(client.work(1).await.unwrap().status(), 200, "slots are free again");
}

/// Streams stay open for hours and notifications do no work: an overloaded server must still take both.
#[tokio::test(flavor = "multi_thread")]
async fn light_messages_and_streams_need_no_slot() {
    let (server, _folder) = start(1, 0).await;
    let session = server.client.legacy_session().await;
    let call = server.client.work(1500);
    server.until_metric("mcp_in_flight_requests", 1.0).await;
    let refused = session.request("tools/list", &json!({})).send().await.unwrap();
    assert_eq!(refused.status(), 503, "the server is full");
    let refusal: Value = refused.json().await.unwrap();
    assert_eq!(refusal["error"]["data"]["reason"], "overloaded", "{refusal}");
    assert!(
        refusal["id"].is_u64(),
        "its client knows which request it was: {refusal}"
    );

    let offered = server.scrape().await.value("mcp_requests_offered_total", &[]);
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"});
    let listen = server
        .client
        .modern("subscriptions/listen", json!({"notifications": {}}));
    for (name, request, status) in [
        ("ping", session.request("ping", &json!({})), 200),
        ("notification", session.post().json(&notification), 202),
        ("stream", session.get(), 200),
        ("subscription", listen, 200),
    ] {
        assert_eq!(request.send().await.unwrap().status(), status, "{name}");
    }
    assert_eq!(session.delete().await.status(), 202);
    assert_eq!(
        server.scrape().await.value("mcp_requests_offered_total", &[]),
        offered,
        "none of them is counted"
    );
    assert_eq!(call.await.unwrap().status(), 200);
}

/// A client of 2026-07-28 that hangs up cancels its call: the slot must be free at once, not after a minute.
#[tokio::test(flavor = "multi_thread")]
async fn hanging_up_frees_the_slot() {
    let (server, _folder) = start(1, 1).await;
    let call = server.client.work(60_000);
    server.until_metric("mcp_in_flight_requests", 1.0).await;
    let waiting = server.client.work(60_000);
    server.until_metric("mcp_queued_requests", 1.0).await;
    waiting.abort();
    server.until_metric("mcp_queued_requests", 0.0).await;
    call.abort();
    server.until_metric("mcp_in_flight_requests", 0.0).await;
    let scrape = server.scrape().await;
    let cancelled = [("error_type", "cancelled"), ("gen_ai_tool_name", "simulate_work")];
    assert_eq!(
        scrape.value("mcp_server_operation_duration_seconds_count", &cancelled),
        1.0
    );
    let shed = scrape.value("mcp_requests_shed_total", &[]);
    assert_eq!((scrape.value("mcp_requests_offered_total", &[]), shed), (2.0, 1.0));
    // What the operator judges must know of the one that waited, too: each request counts, and once.
    let ended = |status| scrape.value("mcp_requests_total", &[("tool", "simulate_work"), ("status", status)]);
    assert_eq!((ended("shed"), ended("error"), ended("ok")), (shed, 1.0, 0.0));
    let waited = [("error_type", "shed"), ("gen_ai_tool_name", "simulate_work")];
    assert_eq!(
        scrape.value("mcp_server_operation_duration_seconds_count", &waited),
        shed
    );
    let of_the_tool = [("tool", "simulate_work")];
    assert_eq!(
        scrape.value("mcp_service_seconds_count", &of_the_tool),
        1.0,
        "only one had a slot"
    );
}

/// Up to 2025-11-25 a lost connection is no cancellation: the call goes on, so its slot must stay taken until it ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_outlives_its_connection_keeps_its_slot() {
    let (server, _folder) = start(1, 0).await;
    let session = server.client.legacy_session().await;
    let request = session
        .tool("simulate_work", &json!({"io_ms": 1200}))
        .timeout(Duration::from_millis(400));
    let started = std::time::Instant::now();
    assert!(request.send().await.unwrap().text().await.unwrap_err().is_timeout());
    assert_eq!(server.scrape().await.value("mcp_in_flight_requests", &[]), 1.0);
    server.until_metric("mcp_in_flight_requests", 0.0).await;
    assert!(started.elapsed() >= Duration::from_millis(1200));
    let busy = server.scrape().await.value("mcp_slot_busy_seconds_total", &[]);
    assert!((1.2..3.0).contains(&busy), "{busy}");
}

/// Their way to cancel is a notification: it must end the call and free the slot.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_frees_its_slot() {
    let (server, _folder) = start(1, 0).await;
    let session = server.client.legacy_session().await;
    let call = json!({"jsonrpc": "2.0", "id": "mine", "method": "tools/call",
        "params": {"name": "simulate_work", "arguments": {"io_ms": 60_000}}});
    let call = session.post().json(&call);
    let call = tokio::spawn(async move { call.send().await.unwrap().text().await });
    server.until_metric("mcp_in_flight_requests", 1.0).await;
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "mine"}});
    assert_eq!(session.post().json(&cancel).send().await.unwrap().status(), 202);
    server.until_metric("mcp_in_flight_requests", 0.0).await;
    call.await.unwrap().expect("the stream ends in good order");
}

/// `GET /tuning` must tell the operator what is in force.
#[tokio::test(flavor = "multi_thread")]
async fn tuning_shows_what_is_in_force() {
    let url = crate::support::postgres::SHARED.database().await;
    let mut settings = settings(&url);
    settings.tuning = Tuning {
        pool_max: 3,
        concurrency: 5,
        queue_max: 7,
    };
    let server = TestServer::start(settings).await;
    let tuning = until("one connection to listen and one for work are open", async || {
        let tuning: Value = reqwest::get(format!("http://{}/tuning", server.server.admin))
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        (tuning["pool"]["open"].as_i64() >= Some(2)).then_some(tuning)
    })
    .await;
    // A check of the database may have opened the third.
    let open = tuning["pool"]["open"].as_i64().unwrap();
    assert!((2..=3).contains(&open), "{open} connections are open");
    assert_eq!(
        tuning,
        json!({
            "pool": {"max": 3, "open": open},
            "cache": {"l1Bytes": 16 * 1024 * 1024, "l1UsedBytes": 0},
            "concurrency": 5,
            "queueMax": 7,
        })
    );
}

/// Lost otherwise: a client of JSON-RPC gets a text that it cannot read, and one that waits in the queue waits for ever.
#[tokio::test]
async fn no_call_takes_longer_than_two_minutes() {
    let (mut settings, _folder) = file_settings();
    settings.network.rest_shim = true;
    settings.tuning.concurrency = 1;
    let server = TestServer::start(settings).await;
    let work = |tool: RequestBuilder| tokio::spawn(async move { tool.send().await.unwrap() });
    // Two of them fit into two minutes, one after the other.
    let minute = json!({"io_ms": 55_000});
    let over_mcp = || work(server.client.tool("simulate_work", &minute));
    let done = [over_mcp(), over_mcp()];
    server.until_metric("mcp_queued_requests", 1.0).await;
    let rest = format!("{}/tool/simulate_work", server.client.url());
    let too_late = [over_mcp(), work(reqwest::Client::new().post(rest).json(&minute))];
    server.until_metric("mcp_queued_requests", 3.0).await;
    // From here on time passes as soon as nobody has anything to do.
    tokio::time::pause();
    for call in done {
        assert_eq!(call.await.unwrap().status(), 200);
    }
    let [mcp, rest] = too_late.map(async |call| {
        let answer = call.await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    });
    let (status, refusal) = mcp.await;
    assert_eq!(
        (
            status,
            &refusal["id"],
            &refusal["error"]["code"],
            &refusal["error"]["data"]["reason"]
        ),
        (504, &json!(1), &json!(-32000), &json!("timed_out")),
        "{refusal}"
    );
    let (status, envelope) = rest.await;
    assert_eq!(
        (status, &envelope["code"]),
        (504, &json!("REQUEST_TIMEOUT")),
        "{envelope}"
    );
}
