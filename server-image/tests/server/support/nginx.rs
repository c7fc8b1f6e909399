//! A plain nginx process in front of servers, with the configuration that the operator renders.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::{program, until};

/// Bodies of all objects that the operator makes for a server, as its own tests record them.
const RENDERED: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../operator/src/controller/snapshots/mcpscale__controller__plan__tests__default.snap"
);

/// A running nginx; stops when dropped.
pub struct Nginx {
    process: Child,
    /// Where it listens.
    pub address: SocketAddr,
    folder: TempDir,
}

impl Nginx {
    /// Starts nginx with `upstreams` in the place of the server's pods.
    pub async fn start(upstreams: &[SocketAddr]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [address, status] = [free_address(), free_address()];
        let run = folder.path().to_str().unwrap();
        fs::write(folder.path().join("resolver.conf"), "").unwrap();
        let path = folder.path().join("nginx.conf");
        fs::write(&path, local(&rendered(), run, address, status, upstreams)).unwrap();
        let nginx = program("nginx", "nginx", ["/usr/sbin".into(), "/usr/bin".into()]);
        let process = Command::new(nginx)
            .arg("-c")
            .arg(&path)
            .args(["-e", "stderr"])
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let nginx = Self {
            process,
            address,
            folder,
        };
        until("nginx answers through the upstream", async || {
            let ready = reqwest::get(format!("http://{status}/readyz")).await.ok()?;
            ready.status().is_success().then_some(())
        })
        .await;
        nginx
    }

    /// How many requests each upstream has got, by its address.
    pub fn requests_of(&self, upstream: SocketAddr) -> usize {
        let log = fs::read_to_string(self.folder.path().join("access.log")).unwrap();
        log.lines()
            .filter(|line| line.contains(&format!("\"up\":\"{upstream}\"")))
            .count()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its workers on SIGTERM, and leaves them alone when it is killed.
        let master = nix::unistd::Pid::from_raw(self.process.id().try_into().unwrap());
        nix::sys::signal::kill(master, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.process.wait().unwrap();
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// `nginx.conf` as the operator renders it.
fn rendered() -> String {
    let snapshot = fs::read_to_string(Path::new(RENDERED)).unwrap();
    let (_, bodies) = snapshot.split_once("\n---\n").expect("a snapshot of insta");
    let bodies: Vec<Value> = serde_json::from_str(bodies).unwrap();
    let text = bodies.iter().find_map(|body| body["data"]["nginx.conf"].as_str());
    text.expect("the operator renders nginx.conf").to_owned()
}

/// The same for this machine: its own addresses instead of DNS, and without what Debian 12's nginx does not know and
/// sessions in the database do not need.
fn local(rendered: &str, run: &str, address: SocketAddr, status: SocketAddr, upstreams: &[SocketAddr]) -> String {
    let servers: Vec<String> = upstreams
        .iter()
        .map(|upstream| format!("        server {upstream} max_fails=3 fail_timeout=5s;"))
        .collect();
    let lines = rendered.lines().filter_map(|line| {
        let line = line
            .replace("/run/nginx", run)
            .replace("/dev/stdout", &format!("{run}/access.log"));
        match line.trim().split(' ').next().unwrap_or_default() {
            "max_headers" => None,
            "server" if line.contains(" resolve ") => Some(servers.join("\n")),
            "listen" if line.contains("default_server") => Some(format!("listen {address};")),
            "listen" => Some(format!("listen {status};")),
            _ => Some(line),
        }
    });
    let user = if nix::unistd::Uid::effective().is_root() {
        "user root;\n"
    } else {
        ""
    };
    user.to_owned() + &lines.collect::<Vec<_>>().join("\n") + "\n"
}
