//! The database comes up late, goes away, and comes back.

use serde_json::json;

use crate::support::postgres::Postgres;
use crate::support::server::{TestServer, settings};
use crate::support::until;

/// A server whose database is away must stay up, say so, and go on by itself as soon as it is back.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_survives_its_database() {
    let postgres = Postgres::start();
    postgres.stop();
    let server = TestServer::start_unready(settings(&postgres.url("postgres"))).await;
    assert_eq!(
        (server.probe("readyz").await, server.probe("healthz").await),
        (503, 200),
        "before the database"
    );
    let early = server.client.call("set_memory", json!({"key": "k", "value": 1})).await;
    assert_eq!(early["code"], "POOL_NOT_INITIALIZED");

    postgres.start_again();
    until("ready when the database is up", async || {
        (server.probe("readyz").await == 200).then_some(())
    })
    .await;
    assert_eq!(
        server.client.call("set_memory", json!({"key": "k", "value": 1})).await["success"],
        true
    );

    postgres.stop();
    let outage = server.client.call("get_memory", json!({"key": "k"})).await;
    assert_eq!(
        (&outage["code"], server.probe("readyz").await),
        (&json!("SYSTEM_UNAVAILABLE"), 200),
        "one failure is no outage"
    );
    until("not ready when the database is gone", async || {
        (server.probe("readyz").await == 503).then_some(())
    })
    .await;
    assert_eq!(server.probe("healthz").await, 200, "a restart would not help");

    postgres.start_again();
    until("ready again", async || {
        (server.probe("readyz").await == 200).then_some(())
    })
    .await;
    assert_eq!(server.client.call("get_memory", json!({"key": "k"})).await["value"], 1);
}
