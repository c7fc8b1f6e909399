//! Behind `PgBouncer` in transaction mode, each transaction may run on another connection of the database.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::future::join_all;
use mcp_server::database::{Database, DatabaseTarget, PoolSettings, Pooler};
use prometheus_client::registry::Registry;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;

use crate::support::postgres::{SHARED, connect};
use crate::support::server::{TestServer, settings};
use crate::support::{program, until};

struct PgBouncer {
    child: Child,
    url: String,
    _folder: TempDir,
}

impl PgBouncer {
    /// Two connections to the database for all clients, as Debian's package comes: nothing is ignored.
    async fn start(database_url: &str) -> Self {
        let binary = program("pgbouncer", "pgbouncer", ["/usr/sbin", "/usr/bin"].map(PathBuf::from));
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (address, name) = database_url
            .trim_start_matches("postgres://mcp@127.0.0.1:")
            .split_once('/')
            .unwrap();
        let users = folder.path().join("users.txt");
        std::fs::write(&users, "\"mcp\" \"\"\n").unwrap();
        let settings = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n{name} = host=127.0.0.1 port={address} dbname={name}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\n\
             default_pool_size = 2\nmax_client_conn = 100\n",
            users.display()
        );
        std::fs::write(&settings, text).unwrap();
        let mut command = Command::new(binary);
        if nix::unistd::Uid::effective().is_root() {
            // It refuses to run as root.
            let mut owned = Command::new("chown");
            assert!(
                owned
                    .args(["-R", "postgres"])
                    .arg(folder.path())
                    .status()
                    .unwrap()
                    .success()
            );
            command.args(["-u", "postgres"]);
        }
        let child = command.arg(&settings).stderr(Stdio::null()).spawn().unwrap();
        let url = format!("postgres://mcp@127.0.0.1:{port}/{name}");
        until("PgBouncer accepts connections", async || {
            tokio_postgres::connect(&url, tokio_postgres::NoTls)
                .await
                .ok()
                .map(drop)
        })
        .await;
        Self {
            child,
            url,
            _folder: folder,
        }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A required pooler is how hundreds of pods share one database: everything must work through it, with many more
/// clients than connections, from two replicas whose statements would clash if they had names.
#[tokio::test(flavor = "multi_thread")]
async fn everything_works_in_transaction_mode() {
    let url = SHARED.database().await;
    let bouncer = PgBouncer::start(&url).await;
    let start = async || {
        let mut settings = settings(&bouncer.url);
        settings.data.pooler = Pooler::Transaction;
        settings.tuning.pool_max = 8;
        settings.tuning.queue_max = 200;
        TestServer::start(settings).await
    };
    let (a, b) = tokio::join!(start(), start());
    let session = a.client.call("create_session", json!({"purpose": "p"})).await["session_id"].clone();
    let calls = join_all((0..200).map(|index| {
        let client = if index % 2 == 0 {
            a.client.clone()
        } else {
            b.client.clone()
        };
        let session = session.clone();
        tokio::spawn(async move {
            let content = json!({"session_id": session, "content": format!("message {index}")});
            let key = format!("key {index}");
            let memory = json!({"agent_id": "agent", "key": key, "value": index});
            assert_eq!(client.call("add_message", content).await["success"], true);
            assert_eq!(client.call("set_memory", memory).await["success"], true);
            let found = client
                .call("get_memory", json!({"agent_id": "agent", "key": key}))
                .await;
            assert_eq!(found["value"], index);
            client.call("get_session", json!({"session_id": session})).await["success"] == true
        })
    }));
    assert!(calls.await.into_iter().all(Result::unwrap), "every call succeeds");
    let page = b
        .client
        .call("get_messages", json!({"session_id": session, "limit": 1}))
        .await;
    assert_eq!(page["total_count"], 200);
}

/// Whose database is behind a pooler has a Job that migrates through it, indexes that are built online included.
#[tokio::test(flavor = "multi_thread")]
async fn migrate_works_in_transaction_mode() {
    let url = SHARED.database().await;
    let bouncer = PgBouncer::start(&url).await;
    let migrate = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-server"));
        command
            .args(["migrate", "--database-url", &bouncer.url, "--wait-seconds", "1"])
            .args(flags);
        command.output().unwrap()
    };
    let refused = migrate(&[]);
    assert_eq!(
        refused.status.code(),
        Some(1),
        "PgBouncer takes no options: {refused:?}"
    );
    let through = ["--database-pooler", "transaction"];
    assert_eq!(migrate(&[&through[..], &["--dry-run"]].concat()).status.code(), Some(3));
    let done = migrate(&through);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(migrate(&[&through[..], &["--dry-run"]].concat()).status.code(), Some(0));
    let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
    let left: i64 = connect(&url).await.query_one(invalid, &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
}

/// The limit of a statement cannot be set through the pooler: the server must cancel what takes too long itself, or
/// two stuck statements would hold both connections for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_statement_is_cancelled_through_the_pooler() {
    let url = SHARED.database().await;
    let bouncer = PgBouncer::start(&url).await;
    let mut settings = settings(&bouncer.url);
    settings.data.pooler = Pooler::Transaction;
    let server = TestServer::start(settings).await;
    let session = server.client.call("create_session", json!({"purpose": "p"})).await["session_id"].clone();
    let blocker = connect(&url).await;
    blocker
        .batch_execute("BEGIN; LOCK TABLE sessions IN EXCLUSIVE MODE")
        .await
        .unwrap();
    let started = Instant::now();
    let stuck = server
        .client
        .call("add_message", json!({"session_id": session, "content": "m"}))
        .await;
    assert_eq!(stuck["code"], "SYSTEM_UNAVAILABLE");
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    let observer = connect(&url).await;
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("the statement has ended at the database", async || {
        (observer.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    blocker.batch_execute("ROLLBACK").await.unwrap();
    let message = json!({"session_id": session, "content": "m"});
    assert_eq!(server.client.call("add_message", message).await["success"], true);
}

/// A way to the database at `url` on which requests to cancel take a second and a half, as they may through a pooler
/// that has much to do; the URL of its entry.
async fn slow_to_cancel(url: &str) -> String {
    let address = url.trim_start_matches("postgres://mcp@");
    let (address, name) = address.split_once('/').unwrap();
    let address = address.to_owned();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let entry = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let address = address.clone();
            tokio::spawn(async move {
                let mut start = [0; 8];
                client.read_exact(&mut start).await.unwrap();
                if start[4..] == 80_877_102_u32.to_be_bytes() {
                    tokio::time::sleep(Duration::from_millis(1500)).await;
                }
                let mut database = TcpStream::connect(address).await.unwrap();
                database.write_all(&start).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut database).await;
            });
        }
    });
    format!("postgres://mcp@{entry}/{name}")
}

/// A request to cancel names a connection, not a statement: one that comes after its statement has ended must not end
/// the statement of whoever uses the connection next.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_comes_late_hits_nobody_else() {
    let target: DatabaseTarget = slow_to_cancel(&SHARED.database().await).await.parse().unwrap();
    let pool = PoolSettings {
        max: 1,
        pooler: Pooler::Transaction,
    };
    let database = Database::open_pooled(&target, pool, &mut Registry::default()).unwrap();
    database.migrate(&[]).await.unwrap();
    let Database::Postgres(database) = database else {
        panic!("{target} is no Postgres");
    };
    // The limit is 5 seconds, and another one passes before it is given up: so late it must not be on any machine.
    let slow = database.connection().await.unwrap();
    slow.query("SELECT pg_sleep(5.2)", &[]).await.unwrap();
    drop(slow);
    let next = database.connection().await.unwrap();
    next.query("SELECT pg_sleep(2)", &[]).await.unwrap();
}
