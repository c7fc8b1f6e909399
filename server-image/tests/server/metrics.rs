//! Every metric that the scaler reads, checked against a run whose true values are known.

use std::time::{Duration, Instant};

use mcp_server::tuning::Tuning;
use serde_json::json;

use crate::support::postgres::{MAX_CONNECTIONS, Postgres, SHARED, connect};
use crate::support::redis::Redis;
use crate::support::server::{TestServer, file_settings, settings};
use crate::support::until;

/// Slack for a busy machine: what a call of this suite may take beyond its simulated work, in seconds.
const SLACK: f64 = 1.0;

/// The names and labels that dashboards, alerts and the scaler use: none may go missing, not even before traffic.
#[tokio::test(flavor = "multi_thread")]
async fn every_documented_metric_is_there() {
    let url = SHARED.database().await;
    let server = TestServer::start(settings(&url)).await;
    server.client.call("set_memory", json!({"key": "k", "value": 1})).await;
    let scrape = server.scrape().await;
    let operation = [
        "error_type",
        "gen_ai_tool_name",
        "mcp_method_name",
        "mcp_protocol_version",
        "network_transport",
    ];
    for (name, labels) in [
        ("mcp_requests_offered_total", &[][..]),
        ("mcp_requests_shed_total", &[]),
        ("mcp_queue_seconds_count", &[]),
        ("mcp_service_seconds_count", &["tool"]),
        ("mcp_slot_busy_seconds_total", &[]),
        ("mcp_in_flight_requests", &[]),
        ("mcp_queued_requests", &[]),
        ("mcp_concurrency_limit", &[]),
        ("mcp_requests_total", &["status", "tool"]),
        ("mcp_request_duration_seconds_count", &["tool"]),
        ("mcp_server_operation_duration_seconds_count", &operation),
        ("mcp_active_sessions", &[]),
        ("mcp_active_agents", &[]),
        ("mcp_db_pool_size", &[]),
        ("mcp_cpu_limit_cores", &[]),
        (
            "mcp_server_session_duration_seconds_count",
            &["mcp_protocol_version", "network_transport"],
        ),
        ("db_client_connection_count", &["state"]),
        ("db_client_connection_max", &[]),
        ("db_client_connection_wait_time_seconds_count", &[]),
        ("mcp_database_backends", &[]),
        ("mcp_database_max_connections", &[]),
        ("process_cpu_seconds_total", &[]),
        ("process_resident_memory_bytes", &[]),
        ("process_start_time_seconds", &[]),
    ] {
        assert!(scrape.sum(name, &[]).is_some(), "{name} is missing");
        assert_eq!(scrape.label_names(name), labels, "labels of {name}");
    }
    // Series of a tool exist before its first call: `rate` cannot see the first increment of a new series.
    assert_eq!(
        scrape.value("mcp_requests_total", &[("tool", "add_message"), ("status", "error")]),
        0.0
    );
    assert_eq!(
        scrape.value("mcp_service_seconds_count", &[("tool", "add_message")]),
        0.0
    );
}

/// The scaler sizes the Deployment from these figures: they must be the work that was really done.
#[tokio::test(flavor = "multi_thread")]
async fn figures_are_the_work_that_was_done() {
    let url = SHARED.database().await;
    let mut settings = settings(&url);
    settings.tuning = Tuning {
        pool_max: 3,
        concurrency: 2,
        queue_max: 10,
    };
    let server = TestServer::start(settings).await;

    // 6 calls of 200 ms through 2 slots: the later ones wait 200 ms and 400 ms.
    for call in (0..6).map(|_| server.client.work(200)).collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().status(), 200);
    }
    server.until_metric("mcp_in_flight_requests", 0.0).await;
    let scrape = server.scrape().await;
    let tool = [("tool", "simulate_work")];
    for (name, labels, least) in [
        ("mcp_service_seconds_sum", &tool[..], 1.2),
        ("mcp_slot_busy_seconds_total", &[], 1.2),
        ("mcp_queue_seconds_sum", &[], 2.0 * 0.2 + 2.0 * 0.4),
        ("mcp_request_duration_seconds_sum", &tool, 1.2 + 1.2),
        (
            "mcp_server_operation_duration_seconds_sum",
            &[("gen_ai_tool_name", "simulate_work")],
            1.2 + 1.2,
        ),
    ] {
        let value = scrape.value(name, labels);
        // The six do not arrive at quite the same moment; what comes later waits less.
        assert!(
            (least * 0.9..least + SLACK).contains(&value),
            "{name} is {value}, truth is {least}"
        );
    }
    let (busy, service) = (
        scrape.value("mcp_slot_busy_seconds_total", &[]),
        scrape.value("mcp_service_seconds_sum", &[]),
    );
    assert!(
        (busy - service).abs() < 0.01,
        "finished calls: busy {busy} is service {service}"
    );
    for (name, labels, truth) in [
        ("mcp_requests_offered_total", &[][..], 6.0),
        ("mcp_requests_shed_total", &[], 0.0),
        ("mcp_queue_seconds_count", &[], 6.0),
        ("mcp_service_seconds_count", &tool, 6.0),
        ("mcp_request_duration_seconds_count", &tool, 6.0),
        (
            "mcp_requests_total",
            &[("tool", "simulate_work"), ("status", "ok")],
            6.0,
        ),
        ("mcp_requests_total", &[("status", "error")], 0.0),
        ("mcp_concurrency_limit", &[], 2.0),
        ("mcp_active_sessions", &[], 0.0),
        ("db_client_connection_max", &[], 3.0),
        ("mcp_database_max_connections", &[], f64::from(MAX_CONNECTIONS)),
    ] {
        assert_eq!(scrape.value(name, labels), truth, "{name} {labels:?}");
    }
    let labels = [
        ("mcp_method_name", "tools/call"),
        ("gen_ai_tool_name", "simulate_work"),
        ("error_type", ""),
        ("network_transport", "tcp"),
        ("mcp_protocol_version", "2026-07-28"),
    ];
    assert_eq!(
        scrape.value("mcp_server_operation_duration_seconds_count", &labels),
        6.0
    );
    let open = scrape.value("db_client_connection_count", &[]);
    assert!((1.0..=3.0).contains(&open), "{open} connections are open");
    assert!(scrape.value("mcp_database_backends", &[]) >= 1.0);
    assert!(scrape.value("db_client_connection_wait_time_seconds_count", &[]) >= 1.0);
}

/// A held lock or a slow disk would look like a lack of slots if only Postgres had these times.
#[tokio::test(flavor = "multi_thread")]
async fn threads_of_a_file_are_timed_as_they_were_used() {
    let (settings, folder) = file_settings();
    let server = TestServer::start(settings).await;
    let blocker = rusqlite::Connection::open(folder.path().join("test.db")).unwrap();
    blocker.busy_timeout(Duration::from_secs(5)).unwrap();
    let started = Instant::now();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let calls = ["a", "b", "c"].map(|key| {
        let call = server.client.tool("set_memory", &json!({"key": key, "value": 1}));
        tokio::spawn(call.send())
    });
    server.until_at_file(3.0).await;
    // Theirs is counted at the end of their waits.
    let before = server.scrape().await;
    let during = Instant::now();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let held = during.elapsed().as_secs_f64();
    blocker.execute_batch("COMMIT").unwrap();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    let (after, elapsed) = (server.scrape().await, started.elapsed().as_secs_f64());
    for (name, least, most) in [
        // One of them has the writer's thread, which waits for the file; the two others wait for the thread.
        ("db_client_connection_use_time_seconds_sum", held * 0.9, 4.0 * elapsed),
        (
            "db_client_connection_wait_time_seconds_sum",
            2.0 * held * 0.9,
            4.0 * elapsed,
        ),
    ] {
        let value = after.value(name, &[]) - before.value(name, &[]);
        assert!(
            (least..=most).contains(&value),
            "{name}: {value}, not {least} to {most}"
        );
    }
    assert_eq!(after.sum("db_client_connection_max", &[]), None, "a file has no pool");
}

/// A Redis that answers too late is what costs most: its time must not be missing because there was no answer.
#[tokio::test(flavor = "multi_thread")]
async fn redis_is_timed_also_when_it_does_not_answer() {
    let redis = Redis::start();
    let mut settings = settings(&SHARED.database().await);
    settings.data.redis_url = Some(redis.url.clone());
    let server = TestServer::start(settings).await;
    let figures = async || {
        let scrape = server.scrape().await;
        ["mcp_cache_redis_seconds_count", "mcp_cache_redis_errors_total"].map(|name| scrape.value(name, &[]))
    };
    until("Redis was asked", async || (figures().await[0] > 0.0).then_some(())).await;
    redis.stop();
    let [asked, errors] = figures().await;
    until("Redis was asked in vain", async || {
        let now = figures().await;
        (now[1] > errors && now[0] > asked).then_some(())
    })
    .await;
}

/// The operator sizes pools by these times: one that is too short takes connections away that are needed.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_timed_as_they_were_used() {
    let url = SHARED.database().await;
    let mut settings = settings(&url);
    settings.tuning.pool_max = 1;
    let server = TestServer::start(settings).await;
    let session = server.client.call("create_session", json!({"purpose": "p"})).await["session_id"].clone();
    let (blocker, observer) = (connect(&url).await, connect(&url).await);
    blocker
        .batch_execute("BEGIN; SELECT FROM sessions FOR UPDATE")
        .await
        .unwrap();
    let (started, before) = (Instant::now(), server.scrape().await);
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let (client, message) = (server.client.clone(), json!({"session_id": session, "content": "m"}));
            tokio::spawn(async move { client.call("add_message", message).await })
        })
        .collect();
    server.until_metric("mcp_in_flight_requests", 3.0).await;
    let waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("one has the connection and waits for the row", async || {
        let waiting = observer.query(waiting, &[]).await.unwrap();
        (!waiting.is_empty()).then_some(())
    })
    .await;
    let locked = Instant::now();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let during = server.scrape().await;
    let held = locked.elapsed().as_secs_f64();
    blocker.batch_execute("ROLLBACK").await.unwrap();
    for call in calls {
        assert_eq!(call.await.unwrap()["success"], true);
    }
    let (after, elapsed) = (server.scrape().await, started.elapsed().as_secs_f64());

    for (state, truth) in [("used", 1.0), ("idle", 0.0)] {
        let count = during.value("db_client_connection_count", &[("state", state)]);
        assert_eq!(count, truth, "connections that are {state}");
    }
    for (name, least, most) in [
        // There is one connection, so it cannot be used for longer than time has passed.
        ("db_client_connection_use_time_seconds_sum", held, elapsed),
        // Two calls wait for it, and the server's own check of the database may be a third that does.
        (
            "db_client_connection_wait_time_seconds_sum",
            2.0 * held * 0.9,
            3.0 * elapsed,
        ),
    ] {
        let value = after.value(name, &[]) - before.value(name, &[]);
        assert!(
            (least..=most).contains(&value),
            "{name}: {value}, not {least} to {most}"
        );
    }
}

/// The connection that listens for news is kept for days. When it ends, a use of days would make a pool that has
/// nothing to do look overloaded for as long as anybody looks back.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_kept_for_listening_is_not_timed() {
    let url = SHARED.database().await;
    let mut settings = settings(&url);
    settings.tuning.pool_max = 2;
    let server = TestServer::start(settings).await;
    let observer = connect(&url).await;
    let listener = async || -> Option<i32> {
        let listening = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        let found = observer.query(listening, &[]).await.unwrap();
        found.first().map(|row| row.get(0))
    };
    let first = until("a connection listens", async || listener().await).await;
    let in_use = async || {
        server
            .scrape()
            .await
            .value("db_client_connection_use_time_seconds_sum", &[])
    };
    let (since, before) = (Instant::now(), in_use().await);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let kept = since.elapsed().as_secs_f64();
    observer
        .execute("SELECT pg_terminate_backend($1)", &[&first])
        .await
        .unwrap();
    until("another connection listens", async || {
        listener().await.filter(|pid| *pid != first)
    })
    .await;
    let used = in_use().await - before;
    assert!(used < kept / 2.0, "{used} s of use, of which {kept} s were listening");
}

/// The operator must not give out more connections than the database has left, whoever uses the others.
#[tokio::test(flavor = "multi_thread")]
async fn connections_at_the_database_are_all_that_there_are() {
    // One of its own: in the shared one, other tests come and go.
    let postgres = Postgres::start();
    let url = postgres.url("postgres");
    let server = TestServer::start(settings(&url)).await;
    let mut others = Vec::new();
    for _ in 0..2 {
        others.push(connect(&url).await);
        until("the metric says what the database says", async || {
            let count = "SELECT count(*)::float8 FROM pg_stat_activity WHERE backend_type = 'client backend'";
            let truth: f64 = others[0].query_one(count, &[]).await.unwrap().get(0);
            let value = server.scrape().await.value("mcp_database_backends", &[]);
            (value == truth).then_some(())
        })
        .await;
    }
}

/// A scaler that saw only finished calls would take a server full of long calls for an idle one.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_calls_count_as_busy() {
    let (settings, _folder) = file_settings();
    let server = TestServer::start(settings).await;
    let calls: Vec<_> = (0..3).map(|_| server.client.work(30_000)).collect();
    server.until_metric("mcp_in_flight_requests", 3.0).await;
    // The figure, and between which two times it was read.
    let read = async || {
        let asked = Instant::now();
        let busy = server.scrape().await.value("mcp_slot_busy_seconds_total", &[]);
        (asked, busy, Instant::now())
    };
    let before = read().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = read().await;
    let least = 3.0 * (after.0 - before.2).as_secs_f64();
    let most = 3.0 * (after.2 - before.0).as_secs_f64();
    let busy = after.1 - before.1;
    // Sums of times are not exact to the last digit.
    assert!(
        (least - 1e-3..most + 1e-3).contains(&busy),
        "3 calls were busy for {busy} s, not {least} to {most}"
    );
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}

/// `errorRate` is a promise about the server: a caller's mistake must not break it, and no mistake may invent labels.
#[tokio::test(flavor = "multi_thread")]
async fn mistakes_of_callers_are_no_errors_of_the_server() {
    let (settings, _folder) = file_settings();
    let server = TestServer::start(settings).await;
    let client = &server.client;
    client.call("create_session", json!({})).await;
    for request in [
        client.tool("no such tool", &json!({})),
        client.modern("no/such/method", json!({})),
    ] {
        request.send().await.unwrap();
    }
    client.post().body("{").send().await.unwrap();
    let scrape = server.scrape().await;
    for (tool, error_type, method) in [
        ("create_session", "tool_error", "tools/call"),
        ("unknown", "-32602", "tools/call"),
        ("", "-32601", "other"),
        ("", "400", "other"),
    ] {
        let labels = [
            ("gen_ai_tool_name", tool),
            ("error_type", error_type),
            ("mcp_method_name", method),
        ];
        assert_eq!(
            scrape.sum("mcp_server_operation_duration_seconds_count", &labels),
            Some(1.0),
            "{labels:?}"
        );
    }
    assert_eq!(scrape.value("mcp_requests_total", &[("status", "error")]), 0.0);
    assert_eq!(scrape.value("mcp_requests_total", &[("status", "ok")]), 4.0);
}

/// Who plans capacity by users must count users: agents and sessions that are there now, not all that ever were.
#[tokio::test(flavor = "multi_thread")]
async fn agents_and_sessions_are_those_of_now() {
    let url = SHARED.database().await;
    let server = TestServer::start(settings(&url)).await;
    for agent in ["a", "b", "a"] {
        let arguments = json!({"key": "k", "value": 1, "agent_id": agent});
        assert_eq!(server.client.call("set_memory", arguments).await["success"], true);
    }
    let version = [("mcp_protocol_version", "2025-11-25")];
    let session = server.client.legacy_session().await;
    server.until_metric("mcp_active_sessions", 1.0).await;
    let scrape = server.scrape().await;
    assert_eq!(scrape.value("mcp_active_agents", &[]), 2.0);
    assert_eq!(scrape.value("mcp_server_session_duration_seconds_count", &version), 0.0);
    assert!((1.0..=4.0).contains(&scrape.value("mcp_db_pool_size", &[])));
    tokio::time::sleep(Duration::from_millis(300)).await;
    session.delete().await;
    server.until_metric("mcp_active_sessions", 0.0).await;
    until("the session's end is counted", async || {
        let count = server
            .scrape()
            .await
            .value("mcp_server_session_duration_seconds_count", &version);
        (count == 1.0).then_some(())
    })
    .await;
    let lasted = server
        .scrape()
        .await
        .value("mcp_server_session_duration_seconds_sum", &version);
    assert!((0.3..0.3 + 10.0).contains(&lasted), "it lasted {lasted} s");
}

/// A Prometheus without `OpenMetrics` must be able to read the same figures.
#[tokio::test(flavor = "multi_thread")]
async fn old_readers_get_the_old_format() {
    let (settings, _folder) = file_settings();
    let server = TestServer::start(settings).await;
    let url = format!("http://{}/metrics", server.server.metrics);
    let answer = reqwest::Client::new()
        .get(url)
        .header("accept", "text/plain;version=0.0.4")
        .send()
        .await
        .unwrap();
    assert_eq!(
        answer.headers()["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let text = answer.text().await.unwrap();
    assert!(
        text.contains("# TYPE mcp_requests_offered_total counter") && !text.contains("# EOF"),
        "{text}"
    );
}

/// The report tells a busy disk by commits: one that is not counted, or counted twice, points elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn commits_of_a_file_are_those_of_the_writes() {
    let (settings, _folder) = file_settings();
    let server = TestServer::start(settings).await;
    let before = server.scrape().await;
    for number in 0..20 {
        let entry = json!({"key": number.to_string(), "value": 1});
        assert_eq!(server.client.call("set_memory", entry).await["success"], true);
        let entry = json!({"key": number.to_string()});
        assert_eq!(server.client.call("get_memory", entry).await["success"], true);
    }
    // A commit is counted just after it is answered.
    let (name, before) = (
        "mcp_sqlite_commits_total",
        before.value("mcp_sqlite_commits_total", &[]),
    );
    server.until_metric(name, before + 20.0).await;
}
