//! A throw-away Postgres on a loopback port.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use tokio_postgres::{Client, NoTls};

use super::{program, until};

/// `max_connections` of the throw-away server.
pub const MAX_CONNECTIONS: u32 = 90;

/// Runs Postgres and obeys `stop` and `start`, a line each. When its standard input ends, because the test process is
/// gone, however that happened, it stops Postgres and removes the data.
const SUPERVISOR: &str = r#"
trap '' INT TERM HUP
folder=$(mktemp -d) && cd "$folder" || exit 1
"$1/initdb" --no-sync --auth=trust --username=mcp --pgdata=data >initdb.log 2>&1 || { cat initdb.log >&2; exit 1; }
start() {
    "$1/postgres" -D data -p "$2" -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off \
        -c max_connections="$3" >postgres.log 2>&1 &
    postgres=$!
    until "$1/pg_isready" -q -h 127.0.0.1 -p "$2"; do
        kill -0 "$postgres" || { cat postgres.log >&2; exit 1; }
        sleep 0.05
    done
}
stop() { kill -INT "$postgres"; wait "$postgres"; }
start "$@"
echo ready
while read -r command; do
    case $command in start) start "$@" ;; stop) stop ;; esac
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
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = unprivileged("sh");
        command
            .args(["-c", SUPERVISOR, "supervisor"])
            .arg(bin)
            .arg(port.to_string())
            .arg(MAX_CONNECTIONS.to_string());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh runs");
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "Postgres could not be set up; see its message above");
        Self {
            supervisor: Mutex::new(Supervisor { child, answers }),
            port,
            databases: AtomicU32::new(0),
        }
    }

    /// Stops the server; connections are closed at once.
    pub fn stop(&self) {
        self.order("stop");
    }

    /// Starts it again with the same data.
    pub fn start_again(&self) {
        self.order("start");
    }

    fn order(&self, command: &str) {
        let mut supervisor = self.supervisor.lock().unwrap();
        writeln!(supervisor.child.stdin.as_mut().unwrap(), "{command}").unwrap();
        let mut line = String::new();
        supervisor.answers.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), command);
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

/// A connection of the test's own, as soon as the server accepts one.
pub async fn connect(url: &str) -> Client {
    let (client, connection) = until("Postgres accepts connections", async || {
        tokio_postgres::connect(url, NoTls).await.ok()
    })
    .await;
    tokio::spawn(connection);
    client
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
            std::thread::sleep(Duration::from_millis(10));
        }
        supervisor.child.kill().unwrap();
    }
}
