//! The load tester binary.

mod arguments;
mod output;

use std::process::ExitCode;

use clap::Parser;
use mcp_load::{CancellationToken, Progress, Report, run, table};
use tokio::sync::watch;

use crate::arguments::{Arguments, Command, RunArguments};

/// The run could not start, or its results could not be written.
const COULD_NOT_RUN: u8 = 1;
/// The run is valid, and some requests failed.
const REQUESTS_FAILED: u8 = 3;
/// The load tester could not keep to the plan.
const RUN_INVALID: u8 = 4;

#[tokio::main]
async fn main() -> ExitCode {
    let Command::Run(arguments) = Arguments::parse().command;
    match load(*arguments).await {
        Ok(report) if !report.is_valid() => ExitCode::from(RUN_INVALID),
        Ok(report) if report.failed() > 0 => ExitCode::from(REQUESTS_FAILED),
        Ok(_) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("mcp-load: {message}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

async fn load(arguments: RunArguments) -> Result<Report, String> {
    arguments.check_outputs()?;
    let plan = arguments.plan().map_err(|error| error.to_string())?;
    let cancel = CancellationToken::new();
    stop_on_signal(cancel.clone())?;
    let (sender, receiver) = watch::channel(Progress::default());
    let follower = output::follow(receiver, arguments.live);
    let outcome = run(plan, Some(sender), cancel).await;
    // The sender is gone by now, which ends the follower; a panic in it would lose only the display.
    let _ = follower.await;
    let report = outcome.map_err(|error| error.to_string())?;

    if arguments.data_on_stdout() {
        eprint!("{}", table(&report));
    } else {
        print!("{}", table(&report));
    }
    if let Some(file) = &arguments.json {
        output::write_json(&report, file)?;
    }
    Ok(report)
}

/// Ctrl-C and SIGTERM end the run early, with a report of what was seen so far.
fn stop_on_signal(cancel: CancellationToken) -> Result<(), String> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::spawn(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        cancel.cancel();
    });
    Ok(())
}
