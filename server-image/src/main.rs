//! The `mcp-server` binary: reads the command line and runs what it asks for.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use mcp_server::auth::api_keys;
use mcp_server::cli::{ApiKey, Cli, Command, Serve};
use mcp_server::server::Server;
use mcp_server::{healthcheck, logging};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(serve) => run(&serve),
        Command::ApiKey(flags) => make_api_key(&flags).map_err(Into::into),
        Command::Healthcheck(flags) => healthcheck::check(flags.metrics_listen).map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mcp-server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn make_api_key(flags: &ApiKey) -> Result<(), api_keys::CannotGenerate> {
    let made = api_keys::generate(&flags.name, &flags.scopes)?;
    println!("Key, shown only now:       {}", made.key);
    println!("Line for --api-keys-file:  {}", made.line);
    Ok(())
}

#[tokio::main]
async fn run(serve: &Serve) -> Result<(), Box<dyn Error>> {
    logging::start(serve.log_format());
    let settings = serve.settings(|name| std::env::var(name).ok())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let server = Server::start(settings).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    server.drain();
    server.finished().await;
    Ok(())
}
