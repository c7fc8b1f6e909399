//! The budget of database connections: never exceeded, and clear words when it is used up.

use std::time::{Duration, Instant};

use futures::future::join_all;
use mcp_server::tuning::Tuning;
use serde_json::json;

use crate::support::postgres::{SHARED, connect};
use crate::support::server::{TestServer, settings};

/// The operator adds the pools of all replicas up to the database's `max_connections`: one connection too many fails
/// another replica.
#[tokio::test(flavor = "multi_thread")]
async fn the_pool_never_exceeds_its_maximum() {
    let url = SHARED.database().await;
    let mut settings = settings(&url);
    settings.tuning = Tuning {
        pool_max: 2,
        concurrency: 40,
        queue_max: 400,
    };
    let server = TestServer::start(settings).await;
    let session = server.client.call("create_session", json!({"purpose": "load"})).await["session_id"].clone();
    let observer = connect(&url).await;
    let load = join_all((0..200).map(|index| {
        let (client, session) = (server.client.clone(), session.clone());
        tokio::spawn(async move {
            let message = json!({"session_id": session, "content": format!("message {index}")});
            client.call("add_message", message).await["success"] == true
        })
    }));
    tokio::pin!(load);
    let count =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'mcp-server'";
    let mut most = 0;
    let results = loop {
        tokio::select! {
            results = &mut load => break results,
            row = observer.query_one(count, &[]) => most = most.max(row.unwrap().get::<_, i64>(0)),
        }
    };
    assert!(
        results.into_iter().all(|succeeded| succeeded.unwrap()),
        "every call succeeds"
    );
    assert_eq!(most, 2, "most connections seen at the database");
    let page = server
        .client
        .call("get_messages", json!({"session_id": session, "limit": 1}))
        .await;
    assert_eq!(page["total_count"], 200);
}

/// A statement that hangs must not hang its caller, and a caller that finds no connection must be told why.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_connection_has_a_limit_and_a_reason() {
    let url = SHARED.database().await;
    let mut settings = settings(&url);
    settings.tuning = Tuning {
        pool_max: 3,
        concurrency: 10,
        queue_max: 10,
    };
    let server = TestServer::start(settings).await;
    let session = server.client.call("create_session", json!({"purpose": "p"})).await["session_id"].clone();
    let observer = connect(&url).await;
    // It keeps one connection of the pool, whenever it gets to it.
    let listening = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    crate::support::until("one connection listens for news", async || {
        (observer.query_one(listening, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    let blocker = connect(&url).await;
    blocker
        .batch_execute("BEGIN; LOCK TABLE sessions IN EXCLUSIVE MODE")
        .await
        .unwrap();

    let add = || {
        let (client, message) = (server.client.clone(), json!({"session_id": session, "content": "m"}));
        tokio::spawn(async move {
            (
                Instant::now(),
                client.call("add_message", message).await,
                Instant::now(),
            )
        })
    };
    let stuck = [add(), add()];
    // Within the blocker's transaction the statistics stand still.
    let both = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    crate::support::until("the two others wait for the lock", async || {
        (observer.query_one(both, &[]).await.unwrap().get::<_, i64>(0) == 2).then_some(())
    })
    .await;
    let (asked, refused, answered) = add().await.unwrap();
    assert!(
        answered - asked < Duration::from_secs(4),
        "a caller waits {:?}",
        answered - asked
    );
    assert_eq!(
        (&refused["code"], &refused["severity"]),
        (&json!("SYSTEM_UNAVAILABLE"), &json!("critical"))
    );
    let reason = refused["error"].as_str().unwrap();
    assert!(
        reason.contains("all 3 of this server's pool are in use") && reason.contains("--pool-max"),
        "{reason}"
    );
    for call in stuck {
        let (asked, result, answered) = call.await.unwrap();
        assert_eq!(result["code"], "SYSTEM_UNAVAILABLE");
        assert!(
            answered - asked < Duration::from_secs(8),
            "a stuck statement takes {:?}",
            answered - asked
        );
    }
    let errors = server
        .scrape()
        .await
        .value("mcp_requests_total", &[("tool", "add_message"), ("status", "error")]);
    assert_eq!(errors, 3.0, "the server is to blame for all three");
    blocker.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(add().await.unwrap().1["success"], true, "afterwards all is well");
}
