//! The real binary as a process of its own, with its log.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::cgroup::MemoryGroup;
use super::client::Client;
use super::metrics::Scrape;
use super::until;

const SERVER: &str = env!("CARGO_BIN_EXE_mcp-server");

/// A running `mcp-server serve` that logs JSON.
pub struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    /// Where `/metrics` is, with `http://`.
    pub metrics: String,
    /// Where `/tuning` is, with `http://`.
    pub admin: String,
    /// An MCP client of it.
    pub client: Client,
    _folder: TempDir,
}

impl Process {
    /// Starts it on free ports in a folder of its own and waits until it is ready.
    pub async fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let process = Self::start_unready(arguments, variables).await;
        process.until_ready().await;
        process
    }

    /// Starts it in a control group and waits until it is ready.
    pub async fn start_in(group: &MemoryGroup, arguments: &[&str]) -> Self {
        // The shell joins the group and becomes the server, so that all of its memory counts there.
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", r#"echo $$ > "$0" && exec "$@""#])
            .arg(group.processes())
            .arg(SERVER);
        let process = Self::launch(command, arguments, &[]).await;
        process.until_ready().await;
        process
    }

    async fn until_ready(&self) {
        until("the server is ready", async || {
            let answer = reqwest::get(format!("{}/readyz", self.metrics)).await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// Starts it and waits until it listens.
    pub async fn start_unready(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::launch(Command::new(SERVER), arguments, variables).await
    }

    async fn launch(mut command: Command, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = command
            .args(["serve", "--log-format", "json", "--fixtures", "load"])
            .args([
                "--listen",
                "127.0.0.1:0",
                "--metrics-listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
            ])
            .args(arguments)
            .env_clear()
            .envs(variables.iter().copied())
            .current_dir(folder.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (log, read) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&lines));
        std::thread::spawn(move || {
            log.lines()
                .map_while(Result::ok)
                .for_each(|line| read.lock().unwrap().push(line));
        });
        let listening = until("the server listens", async || {
            let lines = lines.lock().unwrap();
            lines
                .iter()
                .map(|line| parse(line))
                .find(|line| line["message"] == "listening")
        })
        .await;
        let address = |name: &str| format!("http://{}", listening[name].as_str().unwrap());
        Self {
            child,
            lines,
            metrics: address("metrics"),
            admin: address("admin"),
            client: Client::new(format!("{}/mcp", address("mcp"))),
            _folder: folder,
        }
    }

    /// Memory that it has now, in bytes.
    pub fn memory(&self) -> usize {
        self.status("VmRSS")
    }

    /// The most memory that it ever had, in bytes.
    pub fn peak_memory(&self) -> usize {
        self.status("VmHWM")
    }

    fn status(&self, field: &str) -> usize {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        let kibibytes: usize = line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().unwrap();
        kibibytes * 1024
    }

    /// Waits until an unlabelled metric has a value.
    pub async fn until_metric(&self, name: &str, value: f64) {
        let what = format!("{name} is {value}");
        until(&what, async || {
            (Scrape::of_url(&self.metrics).await.sum(name, &[]) == Some(value)).then_some(())
        })
        .await;
    }

    /// All that it has logged so far, as it stands.
    pub fn log(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// The lines of its log.
    pub fn lines(&self) -> Vec<Value> {
        self.lines.lock().unwrap().iter().map(|line| parse(line)).collect()
    }

    /// Waits for a line of its log.
    pub async fn until_logged(&self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        until(what, async || self.lines().into_iter().find(|line| matches(line))).await
    }

    /// Ends it in the middle of what it does, as the kernel or a node's end would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends it in order and waits for its end.
    pub async fn terminate(&mut self) {
        let id = i32::try_from(self.child.id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGTERM).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|_| Value::String(line.to_owned()))
}
