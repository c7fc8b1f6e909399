//! The budget of database connections: never exceeded, and clear words when it is used up.

use std::time::{Duration, Instant};

use futures::future::join_all;
use mcp_server::database::{Database, DatabaseTarget, Migration, PoolSettings, Pooler, PostgresDatabase};
use mcp_server::migrate;
use mcp_server::tuning::Tuning;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::time::timeout;

use crate::support::postgres::{SHARED, connect};
use crate::support::server::{TestServer, settings};
use crate::support::until;

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

/// A statement that hangs must not hang its caller, nor those who find no connection meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_connection_has_a_limit() {
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
    until("one connection listens for news", async || {
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
    until("the two others wait for the lock", async || {
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

/// The database at `url` with a pool of one, which `registry` observes.
async fn pool_of_one(url: &str, pooler: Pooler, registry: &mut Registry) -> PostgresDatabase {
    let target: DatabaseTarget = url.parse().unwrap();
    let database = Database::open_pooled(&target, PoolSettings { max: 1, pooler }, registry).unwrap();
    database.migrate(&[]).await.unwrap();
    let Database::Postgres(database) = database else {
        panic!("{url} is no Postgres");
    };
    database
}

/// A client that hangs up leaves a statement that is still at work: whoever got its connection next would wait for it,
/// and be told that the database does not answer. But a connection is not lost for each client that hangs up.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_statement_whose_caller_gave_up() {
    let url = SHARED.database().await;
    let observer = connect(&url).await;
    for pooler in [Pooler::None, Pooler::Transaction] {
        let database = pool_of_one(&url, pooler, &mut Registry::default()).await;
        let process = async || -> i32 {
            let connection = database.connection().await.unwrap();
            let row = connection.query_one("SELECT pg_backend_pid()", &[]).await.unwrap();
            row.get(0)
        };
        let give_up = async |statement: &str| {
            let connection = database.connection().await.unwrap();
            // Otherwise it may be given up before it has been sent.
            connection.query("SELECT 1", &[]).await.unwrap();
            let _ = timeout(Duration::from_millis(20), connection.query(statement, &[])).await;
        };
        // It has 200 ms to end, and that may be too little when the machine stands still.
        let mut kept = false;
        for _ in 0..5 {
            let first = process().await;
            give_up("SELECT pg_sleep(0.03)").await;
            kept = process().await == first;
            if kept {
                break;
            }
        }
        assert!(kept, "{pooler:?}: its statement has ended soon");
        let first = process().await;
        let begun = Instant::now();
        give_up("SELECT pg_sleep(4)").await;
        assert_ne!(process().await, first, "{pooler:?}");
        let at_work = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' \
                       AND query LIKE 'SELECT pg_sleep%'";
        until("nothing is at work that nobody waits for", async || {
            observer.query(at_work, &[]).await.unwrap().is_empty().then_some(())
        })
        .await;
        let took = begun.elapsed();
        assert!(
            took < Duration::from_millis(3900),
            "{pooler:?}: it ended by itself, after {took:?}"
        );
    }
}

/// The operator enlarges pools by these waits: those that were given up are the longest. And whoever reads the log must
/// see why there was no connection.
#[tokio::test(flavor = "multi_thread")]
async fn waits_that_are_given_up_are_counted() {
    let mut registry = Registry::default();
    let database = pool_of_one(&SHARED.database().await, Pooler::None, &mut registry).await;
    let waits = || -> u32 {
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let mut lines = text.lines();
        let count = lines.find_map(|line| line.strip_prefix("db_client_connection_wait_time_seconds_count "));
        count.unwrap().parse().unwrap()
    };
    let _used = database.connection().await.unwrap();
    let before = waits();
    assert!(timeout(Duration::from_millis(50), database.connection()).await.is_err());
    assert_eq!(waits(), before + 1, "given up");
    let reason = database.connection().await.unwrap_err().to_string();
    assert_eq!(waits(), before + 2, "in vain");
    assert!(
        reason.contains("all 1 of this server's pool are in use") && reason.contains("--pool-max"),
        "{reason}"
    );
}

/// After a failover a name leads to the old primary for a while, which only reads by then. A server that kept such
/// connections would refuse every write until somebody restarts it, and call itself ready meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn writes_work_again_by_themselves_when_the_database_is_not_read_only_any_more() {
    let url = SHARED.database().await;
    let name = url.rsplit('/').next().unwrap();
    let operator = connect(&url).await;
    let server = TestServer::start(settings(&url)).await;
    let write = || server.client.call("set_memory", json!({"key": "k", "value": 1}));
    assert_eq!(write().await["success"], true);
    operator
        .batch_execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"))
        .await
        .unwrap();
    // That is for new connections; the others end as those of the old primary do.
    let cut = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
               WHERE datname = current_database() AND application_name = 'mcp-server'";
    operator.batch_execute(cut).await.unwrap();
    assert_eq!(write().await["code"], "SYSTEM_UNAVAILABLE");
    until("not ready while nothing can be written", async || {
        (server.probe("readyz").await == 503).then_some(())
    })
    .await;
    operator
        .batch_execute(&format!("ALTER DATABASE {name} RESET default_transaction_read_only"))
        .await
        .unwrap();
    until("ready again", async || {
        (server.probe("readyz").await == 200).then_some(())
    })
    .await;
    assert_eq!(write().await["success"], true);
}

/// Makes each connection that has written an entry of the memory read-only, for as long as it is open.
const WRITING_ONCE: &str = "
CREATE FUNCTION only_read_from_now_on() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('default_transaction_read_only', 'on', false);
    RETURN NULL;
END $$;
CREATE TRIGGER writing_once AFTER INSERT ON agent_memory EXECUTE FUNCTION only_read_from_now_on();
";

/// A connection may become read-only while it is open. It must not fail a caller whom another one can serve, nor come
/// back to fail the next.
#[tokio::test(flavor = "multi_thread")]
async fn callers_do_not_notice_a_connection_that_became_read_only() {
    let url = SHARED.database().await;
    let database = Database::open(&url.parse().unwrap(), 1, &mut Registry::default()).unwrap();
    database.migrate(&migrate::steps()).await.unwrap();
    connect(&url).await.batch_execute(WRITING_ONCE).await.unwrap();
    let mut settings = settings(&url);
    settings.tuning.pool_max = 1;
    let server = TestServer::start(settings).await;
    for value in 0..4 {
        let answer = server
            .client
            .call("set_memory", json!({"key": "k", "value": value}))
            .await;
        assert_eq!(answer["success"], true, "write {value}: {answer}");
    }
}

/// Steps of the schema are tried again until they succeed, which they never do on a connection that is read-only.
#[tokio::test(flavor = "multi_thread")]
async fn steps_of_the_schema_get_rid_of_a_connection_that_became_read_only() {
    let steps = [Migration {
        name: "index",
        postgres: "CREATE INDEX CONCURRENTLY IF NOT EXISTS by_n ON numbers (n)",
        sqlite: "",
    }];
    let url = SHARED.database().await;
    connect(&url)
        .await
        .batch_execute("CREATE TABLE numbers (n bigint)")
        .await
        .unwrap();
    let postgres = pool_of_one(&url, Pooler::None, &mut Registry::default()).await;
    let database = Database::Postgres(postgres.clone());
    let only_read = async || {
        let connection = postgres.connection().await.unwrap();
        let switch = "SELECT set_config('default_transaction_read_only', 'on', false)";
        connection.query(switch, &[]).await.unwrap();
    };
    only_read().await;
    database.migrate_tables(&steps).await.unwrap_err();
    database.migrate_tables(&steps).await.unwrap();
    only_read().await;
    database.build_indexes(&steps).await.unwrap_err();
    database.build_indexes(&steps).await.unwrap();
}
