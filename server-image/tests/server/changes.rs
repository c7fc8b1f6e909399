//! News between replicas, through a real Postgres.

use std::time::Duration;

use mcp_server::changes::{Changes, Listener, Relay, STALE_MAX, Topic};
use mcp_server::database::{Database, PostgresDatabase};
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::events::Events;
use crate::support::postgres::{self, SHARED};
use crate::support::server::{TestServer, settings};
use crate::support::until;

struct Replica {
    changes: Changes,
    database: PostgresDatabase,
    relay: JoinHandle<()>,
}

async fn opened(url: &str, pool_max: usize) -> PostgresDatabase {
    let database = Database::open(&url.parse().unwrap(), pool_max, &mut Registry::default()).unwrap();
    database.migrate(&[]).await.unwrap();
    match database {
        Database::Postgres(database) => database,
        Database::Sqlite(_) => panic!("the URL names Postgres"),
    }
}

async fn replica(url: &str, pool_max: usize) -> Replica {
    let database = opened(url, pool_max).await;
    let changes = Changes::shared();
    let relay = tokio::spawn(Relay::new(changes.clone(), database.clone()).run());
    Replica {
        changes,
        database,
        relay,
    }
}

fn resource(uri: &str) -> Topic {
    Topic::Resource(uri.to_owned())
}

/// News until `topic` is among it.
async fn heard(listener: &Listener, topic: &Topic, limit: Duration) {
    timeout(limit, async { while !listener.next().await.contains(topic) {} })
        .await
        .unwrap_or_else(|_| panic!("no news of {topic:?}"));
}

/// Makes sure that `to` hears of what `from` says, which takes a moment after the start.
async fn until_connected(from: &Replica, to: &Replica) {
    let listener = to.changes.follow([resource("connected?")]);
    until("news flows", async || {
        from.changes.resource_updated("connected?");
        timeout(Duration::from_millis(100), listener.next()).await.ok()
    })
    .await;
}

/// A client that listens at one replica must hear of what is changed at another, whatever the URI looks like.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_at_one_replica_is_heard_at_another() {
    let url = SHARED.database().await;
    let (a, b) = (replica(&url, 2).await, replica(&url, 2).await);
    until_connected(&a, &b).await;
    let odd = "session://ü\n\\n'\"/messages";
    let listener = b.changes.follow([resource(odd), resource("other"), Topic::Tools]);
    a.changes.resource_updated(odd);
    heard(&listener, &resource(odd), Duration::from_secs(2)).await;
    a.changes.tools_list_changed();
    heard(&listener, &Topic::Tools, Duration::from_secs(2)).await;
    for number in 0..2_000 {
        a.changes.resource_updated(format!("session://{number}"));
    }
    a.changes.resource_updated("other");
    heard(&listener, &resource("other"), Duration::from_secs(5)).await;
    a.relay.abort();
    b.relay.abort();
}

/// What happens while the connection is broken is missed; followers must be told to read again.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_gap_followers_are_told_to_read_again() {
    let url = SHARED.database().await;
    let (a, b) = (replica(&url, 2).await, replica(&url, 2).await);
    until_connected(&a, &b).await;
    let listener = b.changes.follow([resource("followed")]);
    let killer = postgres::connect(&url).await;
    killer
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
            &[],
        )
        .await
        .unwrap();
    heard(&listener, &resource("followed"), Duration::from_secs(10)).await;
    until_connected(&a, &b).await;
    a.relay.abort();
    b.relay.abort();
}

/// The database's budget of connections is a promise: listening must take its connection out of the pool, and leave a
/// pool of one alone. Such a replica tells its followers within the stated time.
#[tokio::test(flavor = "multi_thread")]
async fn listening_stays_within_the_pool() {
    let url = SHARED.database().await;
    let (small, large) = (replica(&url, 1).await, replica(&url, 2).await);
    until_connected(&small, &large).await;
    let listener = small.changes.follow([resource("followed")]);
    let watcher = postgres::connect(&url).await;
    let connections = async || -> i64 {
        watcher
            .query_one(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
                &[],
            )
            .await
            .unwrap()
            .get(0)
    };
    assert!(connections().await <= 3);
    small
        .database
        .connection()
        .await
        .expect("the only connection is free for work");
    large.changes.resource_updated("followed");
    heard(&listener, &resource("followed"), STALE_MAX + Duration::from_secs(2)).await;
    assert!(connections().await <= 3);
    small.relay.abort();
    large.relay.abort();
}

/// A pool that is shrunk to one must be free for work at once, even if listening waits for something else just then:
/// else every call that needs the database fails until it is done with that.
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_shrunk_to_one_is_free_for_work() {
    let url = SHARED.database().await;
    let database = opened(&url, 2).await;
    let watcher = postgres::connect(&url).await;
    // The relay tries whether it hears itself, and finds no connection to send on.
    let held = database.connection().await.unwrap();
    let relay = tokio::spawn(Relay::new(Changes::shared(), database.clone()).run());
    let listening = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    until("the other connection listens", async || {
        let found = watcher.query(listening, &[]).await.unwrap();
        (!found.is_empty()).then_some(())
    })
    .await;
    database.resize(1);
    drop(held);
    timeout(Duration::from_millis(1_500), database.connection())
        .await
        .expect("the relay does not keep the only connection")
        .unwrap();
    relay.abort();
}

/// Whoever hears that a resource has changed reads it at once, and hears no more of it: a replica that still answers
/// with what it has kept would leave the client with that.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_after_the_news_reads_what_is_new() {
    let mut settings = settings(&SHARED.database().await);
    settings.cache.staleness = Duration::from_millis(200);
    let (a, b) = tokio::join!(TestServer::start(settings.clone()), TestServer::start(settings));
    let session = a.client.call("create_session", json!({"purpose": "p"})).await["session_id"].clone();
    let shown_at_b = async || {
        let view = b.client.call("get_session", json!({"session_id": session})).await;
        view["message_count"].as_i64().unwrap()
    };
    let uri = format!("session://{}", session.as_str().unwrap());
    let wanted = json!({"notifications": {"resourceSubscriptions": [uri]}});
    let mut listening = Events::of(b.client.modern("subscriptions/listen", wanted).send().await.unwrap());
    assert_eq!(
        listening.message().await["method"],
        "notifications/subscriptions/acknowledged"
    );
    for written in 1..=5 {
        // It knows this from now on, and goes on saying so for a while.
        assert_eq!(shown_at_b().await, written - 1);
        let message = json!({"session_id": session, "content": "m"});
        assert_eq!(a.client.call("add_message", message).await["success"], true);
        let mut shown = written - 1;
        while shown < written {
            // At the start the relay may tell once more that everything may have changed. But after the last news,
            // which nothing follows, the new state must be there.
            assert_eq!(listening.message().await["method"], "notifications/resources/updated");
            shown = shown_at_b().await;
        }
    }
}
