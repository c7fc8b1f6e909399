//! The official judges and clients, in JavaScript and Python.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::LazyLock;

use tokio::process::Command;

/// Folder of the scripts.
const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/clients");

/// Folder with a Node and the packages.
static NODE: LazyLock<PathBuf> = LazyLock::new(|| prepared("node.sh"));
/// A Python that has the packages.
static PYTHON: LazyLock<PathBuf> = LazyLock::new(|| prepared("venv.sh"));

fn prepared(script: &str) -> PathBuf {
    let output = std::process::Command::new(Path::new(CLIENTS).join(script))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{script} failed; see its message above");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// The file of a package.
pub fn package(path: &str) -> PathBuf {
    NODE.join("node_modules").join(path)
}

/// A script of a package, in Node.
pub fn package_script(path: &str) -> Command {
    node(&package(path))
}

/// A script of this project, in Node with the packages.
pub fn own_script(name: &str) -> Command {
    // Node looks for packages beside the script.
    let copy = NODE.join(name);
    std::fs::copy(Path::new(CLIENTS).join(name), &copy).unwrap();
    node(&copy)
}

fn node(script: &Path) -> Command {
    let mut command = Command::new(NODE.join("bin/node"));
    command.arg(script);
    plain(command)
}

/// A script of this project, in Python with the packages.
pub fn python_script(name: &str) -> Command {
    let mut command = Command::new(&*PYTHON);
    command.arg(Path::new(CLIENTS).join(name));
    plain(command)
}

fn plain(mut command: Command) -> Command {
    // The server is on this machine; a proxy of the surroundings cannot reach it.
    for (name, _) in std::env::vars().filter(|(name, _)| name.to_lowercase().ends_with("_proxy")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Everything that a process wrote, for messages.
pub fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
