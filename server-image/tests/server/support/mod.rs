//! What the tests share.

pub mod cgroup;
pub mod client;
pub mod databases;
pub mod events;
pub mod issuer;
pub mod metrics;
pub mod nginx;
pub mod node;
pub mod operator;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod server;

use std::time::{Duration, Instant};

/// Longest wait for anything that should happen "soon".
const SOON: Duration = Duration::from_secs(20);

/// Waits until `condition` gives a value; fails, naming `what`, when it takes too long.
pub async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(started.elapsed() < SOON, "waited {SOON:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A program of the Debian package `package`, looked for in `folders`; fails with one clear line if it is missing.
pub fn program(name: &str, package: &str, folders: impl IntoIterator<Item = std::path::PathBuf>) -> std::path::PathBuf {
    folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{name} is missing: install it with `apt-get install -y {package}`"))
}
