//! A throw-away Postgres on a loopback port.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use super::{SOON, program, until};

/// `max_connections` of the throw-away server.
pub const MAX_CONNECTIONS: u32 = 90;

/// Runs Postgres and obeys `stop` and `start` with a port, a line each, which it repeats, or says `failed`. When its
/// standard input ends, because the test process is gone, however that happened, it stops Postgres and removes the data.
/// That Postgres is ready is in a file of its own: at the port somebody else may answer.
const SUPERVISOR: &str = r#"
trap '' INT TERM HUP
folder=$(mktemp -d) && cd "$folder" || exit 1
"$1/initdb" --no-sync --auth=trust --username=mcp --pgdata=data >initdb.log 2>&1 || { cat initdb.log >&2; exit 1; }
start() {
    "$1/postgres" -D data -p "$3" -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off \
        -c max_connections="$2" >postgres.log 2>&1 &
    postgres=$!
    until grep -qs '^ready' data/postmaster.pid; do
        kill -0 "$postgres" || { cat postgres.log >&2; return 1; }
        sleep 0.05
    done
}
stop() { kill -INT "$postgres"; wait "$postgres"; }
echo ready
while read -r command port; do
    case $command in start) start "$@" "$port" || command=failed ;; stop) stop ;; esac
    echo "$command"
done
stop
cd / && rm -rf "$folder"
"#;

/// The server that tests share, each with a database of its own.
pub static SHARED: LazyLock<Postgres> = LazyLock::new(Postgres::start);

/// A running Postgres server.
pub struct Postgres {
    supervisor: Mutex<Supervisor>,
    port: u16,
    databases: AtomicU32,
}

struct Supervisor {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Postgres {
    /// Starts one.
    pub fn start() -> Self {
        let bin = bin();
        let mut command = unprivileged("sh");
        command
            .args(["-c", SUPERVISOR, "supervisor"])
            .arg(bin)
            .arg(MAX_CONNECTIONS.to_string());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh runs");
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut supervisor = Supervisor { child, answers };
        assert_eq!(
            supervisor.answer(),
            "ready",
            "Postgres could not be set up; see its message above"
        );
        // Somebody else may have taken a port that was free a moment ago; then another one is.
        let started = (0..10).find_map(|_| {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            supervisor.has_started(port).then_some(port)
        });
        Self {
            port: started.expect("Postgres starts; see its message above"),
            supervisor: Mutex::new(supervisor),
            databases: AtomicU32::new(0),
        }
    }

    /// Stops the server; connections are closed at once.
    pub fn stop(&self) {
        assert_eq!(self.supervisor.lock().unwrap().order("stop"), "stop");
    }

    /// Starts it again with the same data.
    pub fn start_again(&self) {
        let mut supervisor = self.supervisor.lock().unwrap();
        // Whoever has taken its port meanwhile may give it back.
        let deadline = Instant::now() + SOON;
        while !supervisor.has_started(self.port) {
            assert!(Instant::now() < deadline, "Postgres does not start again");
            sleep(Duration::from_millis(100));
        }
    }

    /// URL of a database that exists from the start.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://mcp@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes an empty database and returns its URL.
    pub async fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.connect("postgres")
            .await
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .unwrap();
        self.url(&name)
    }

    async fn connect(&self, database: &str) -> Client {
        connect(&self.url(database)).await
    }
}

impl Supervisor {
    /// Starts Postgres; says whether it is ready.
    fn has_started(&mut self, port: u16) -> bool {
        self.order(&format!("start {port}")) == "start"
    }

    fn order(&mut self, command: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{command}").unwrap();
        self.answer()
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

/// A connection of the test's own, as soon as the server accepts one.
pub async fn connect(url: &str) -> Client {
    let (client, connection) = until("Postgres accepts connections", async || {
        tokio_postgres::connect(url, NoTls).await.ok()
    })
    .await;
    tokio::spawn(connection);
    client
}

/// Waits until every transaction of the whole server that is older than the last change of what is cached has ended.
/// Until then nobody can tell that a value was read after that change, so what is in Redis is not believed; and other
/// tests have transactions on the same server.
pub async fn settled(url: &str) {
    let client = connect(url).await;
    let sql = "SELECT coalesce(max(position) < pg_snapshot_xmin(pg_current_snapshot())::text::bigint, true)
               FROM cache_journal";
    until("older transactions have ended", async || {
        client
            .query_one(sql, &[])
            .await
            .unwrap()
            .get::<_, bool>(0)
            .then_some(())
    })
    .await;
}

fn bin() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"));
    let path = program("initdb", "postgresql", versions);
    path.parent().unwrap().to_owned()
}

/// Postgres refuses to run as root.
fn unprivileged(program: &str) -> Command {
    if nix::unistd::Uid::effective().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", program]);
        command
    } else {
        Command::new(program)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let supervisor = self.supervisor.get_mut().unwrap();
        drop(supervisor.child.stdin.take());
        for _ in 0..500 {
            if supervisor.child.try_wait().unwrap().is_some() {
                return;
            }
            sleep(Duration::from_millis(10));
        }
        supervisor.child.kill().unwrap();
    }
}
