//! The network namespace of the cluster.

use std::{fs::File, net::Ipv4Addr, os::unix::fs::MetadataExt, path::Path, process::Command, thread};

use nix::sched::{CloneFlags, setns};

use crate::{HarnessError, command::run};

/// The name of the namespace.
pub(crate) const NAME: &str = "mcpscale";
/// The address of the node in it.
pub(crate) const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The link that has the address. A bridge without members stands in for a network card: kernels without the link type
/// `dummy` have it too.
const LINK: &str = "node0";

/// Whether the namespace is there.
pub(crate) fn exists() -> bool {
    path().exists()
}

/// Makes the namespace. Its default route leads nowhere: kubelet wants one, and nothing is to leave.
pub(crate) fn create() -> Result<(), HarnessError> {
    run(Command::new("ip").args(["netns", "add", NAME]))?;
    let address = format!("{NODE_ADDRESS}/24");
    let steps: [&[&str]; 5] = [
        &["link", "set", "lo", "up"],
        &["link", "add", LINK, "type", "bridge"],
        &["address", "add", &address, "dev", LINK],
        &["link", "set", LINK, "up"],
        &["route", "add", "default", "dev", LINK],
    ];
    for step in steps {
        run(Command::new("ip").args(["-n", NAME]).args(step))?;
    }
    Ok(())
}

/// Removes the network namespace `name` if it is there.
pub(crate) fn delete(name: &str) -> Result<(), HarnessError> {
    if Path::new("/run/netns").join(name).exists() {
        run(Command::new("ip").args(["netns", "delete", name]))?;
    }
    Ok(())
}

/// Runs `work` to its end inside the namespace and returns what it returns.
///
/// A namespace belongs to a thread and is inherited by the threads that it makes. So a thread of its own enters it and
/// only then makes the runtime; the caller's thread stays where it is.
///
/// # Errors
/// When the namespace cannot be entered or the runtime cannot be made.
pub(crate) fn inside<T: Send, F: Future<Output = T>>(work: impl FnOnce() -> F + Send) -> Result<T, HarnessError> {
    let name = thread::current().name().unwrap_or("cluster").to_owned();
    thread::scope(|scope| {
        let entered = thread::Builder::new().name(name).spawn_scoped(scope, || {
            enter()?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .map_err(HarnessError::io("start a runtime in", path()))?;
            Ok(runtime.block_on(work()))
        });
        match entered.map_err(HarnessError::io("start a thread in", path()))?.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Whether the calling thread is inside, where the outside cannot be reached.
pub(crate) fn is_inside() -> bool {
    let id = |path: &Path| path.metadata().map(|file| (file.dev(), file.ino())).ok();
    id(path()).is_some_and(|network| id(Path::new("/proc/thread-self/ns/net")) == Some(network))
}

fn enter() -> Result<(), HarnessError> {
    let namespace = File::open(path()).map_err(HarnessError::io("open", path()))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| HarnessError::io("enter", path())(error.into()))
}

fn path() -> &'static Path {
    Path::new("/run/netns/mcpscale")
}
