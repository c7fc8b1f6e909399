//! `make demo`: mcpscale installed with Helm on a one-node cluster, one `McpServer`, and a load that rises and falls.
//!
//! It ends with an error when replicas did not follow the load or requests failed, so it is a test, too. The cluster is
//! gone in the end, however it ends; with `KEEP=1` it stays. One that ran before stays as it was.

mod load;
mod narrator;
mod server;
mod story;
mod summary;
mod table;

use std::{env, error::Error, process::ExitCode, thread};

use mcp_load::CancellationToken;
use mcpscale_tests::{node::NodeCluster, run_in_cluster};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    narrator::Narrator,
    story::{Installed, tell},
};

/// Any error will do: it is printed.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The exit status of a program that Ctrl-C ended, by the convention of shells.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let stop = CancellationToken::new();
    let ended = stop_on_signal(stop.clone()).and_then(|()| run(&stop));
    if let Err(error) = &ended {
        eprintln!("\nmake demo: {error}");
    }
    match ended {
        _ if stop.is_cancelled() => ExitCode::from(INTERRUPTED),
        Err(_) => ExitCode::FAILURE,
        Ok(()) => ExitCode::SUCCESS,
    }
}

/// Starts the cluster, tells the story in it, and leaves the machine as it was.
fn run(stop: &CancellationToken) -> Result<()> {
    let narrator = Narrator::new();
    let node = NodeCluster::of_this_machine()?;
    let ran_before = node.is_up();
    let keep = env::var("KEEP").is_ok_and(|keep| keep == "1");

    narrator.step(
        "Start a one-node Kubernetes with the images on it",
        &["make cluster-up"],
    );
    let told = in_cluster(&narrator, stop, ran_before && !keep);
    if keep {
        tell_how_to_use(&node, &narrator);
        return told;
    }
    if ran_before {
        narrator.step("The cluster ran before, so it goes on, without what the demo made", &[]);
        return told;
    }
    narrator.step("Stop the cluster and remove all it left", &["make cluster-down"]);
    let stopped = node.down();
    told.and(stopped.map_err(Into::into))
}

/// Says what one can do with a cluster that is kept.
fn tell_how_to_use(node: &NodeCluster, narrator: &Narrator) {
    let kubectl = node.kubectl_script();
    let look = format!("{} get mcpservers,pods --all-namespaces", kubectl.display());
    let why = format!(
        "{} describe mcpserver {} --namespace NAMESPACE",
        kubectl.display(),
        server::NAME
    );
    let load = "nsenter --net=/run/netns/mcpscale mcp-load run …";
    narrator.step(
        "The cluster stays: look at it, load it, and stop it when you are done",
        &[&look, &why, load, "make cluster-down"],
    );
}

/// Tells the story on a thread of its own, whose name is the test's: failures and panics are reported under it.
fn in_cluster(narrator: &Narrator, stop: &CancellationToken, tidy_up: bool) -> Result<()> {
    let work = || {
        run_in_cluster(async |cluster| {
            let before = Installed::look(&cluster).await?;
            let told = tokio::select! {
                biased;
                () = stop.cancelled() => Ok(()),
                told = tell(&cluster, narrator) => told,
            };
            // Ctrl-C ends helm and kubectl, too: their error is no failure then, and nothing to collect.
            let told = if stop.is_cancelled() { Ok(()) } else { told };
            let restored = if tidy_up {
                before.restore(&cluster).await
            } else {
                Ok(())
            };
            told.and(restored)
        })
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("demo".to_owned())
            .spawn_scoped(scope, work)?;
        thread
            .join()
            .unwrap_or_else(|_| Err("it broke off; why is above".into()))
    })
}

/// Lets Ctrl-C, a closed terminal and SIGTERM end the demo in order.
fn stop_on_signal(stop: CancellationToken) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listen = || -> Result<_> {
        let _context = runtime.enter();
        let on = |kind| signal(kind);
        Ok((
            on(SignalKind::interrupt())?,
            on(SignalKind::terminate())?,
            on(SignalKind::hangup())?,
        ))
    };
    let (mut interrupt, mut terminate, mut hangup) = listen()?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, _ = hangup.recv() => {} }
            eprintln!("\nstopping: what was started is being removed, which takes some seconds");
            stop.cancel();
            // Stays, so that a second Ctrl-C cannot cut the removal short.
            std::future::pending::<()>().await;
        });
    })?;
    Ok(())
}
