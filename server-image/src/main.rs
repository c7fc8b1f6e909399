//! The `mcp-server` binary: reads the command line and runs what it asks for.

use std::error::Error;
use std::process::ExitCode;

use mcp_server::auth::api_keys;
use mcp_server::cli::{ApiKey, Cli, Command, Migrate, Refused, Report, Serve, Stdio};
use mcp_server::server::Server;
use mcp_server::stdio::StdioError;
use mcp_server::{healthcheck, logging, migrate, report, stdio};
use tokio::signal::unix::{SignalKind, signal};

/// Chosen by measurement: docs/adr/0007. How it behaves is set where it is built, in .cargo/config.toml.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A setting was refused.
const REFUSED: u8 = 2;
/// `migrate --dry-run` found steps to take.
const PENDING: u8 = 3;

type Outcome = Result<ExitCode, Box<dyn Error>>;

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Refused::Flags(error)) => error.exit(),
        Err(error @ Refused::File(_)) => return refused(&error),
    };
    let outcome = match cli.command {
        Command::Serve(serve) => run_serve(&serve),
        Command::Stdio(stdio) => run_stdio(&stdio),
        Command::Migrate(flags) => run_migrate(&flags),
        Command::Report(flags) => run_report(&flags),
        Command::ApiKey(flags) => make_api_key(&flags).map(|()| ExitCode::SUCCESS).map_err(Into::into),
        Command::Healthcheck(flags) => healthcheck::check(flags.metrics_listen)
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("mcp-server: {error}");
        ExitCode::FAILURE
    })
}

fn refused(error: &dyn Error) -> ExitCode {
    eprintln!("mcp-server: {error}");
    ExitCode::from(REFUSED)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn make_api_key(flags: &ApiKey) -> Result<(), api_keys::CannotGenerate> {
    let made = api_keys::generate(&flags.name, &flags.scopes)?;
    println!("Key, shown only now:       {}", made.key);
    println!("Line for --api-keys-file:  {}", made.line);
    Ok(())
}

#[tokio::main]
async fn run_serve(serve: &Serve) -> Outcome {
    let settings = match serve.settings(variable) {
        Ok(settings) => settings,
        Err(error) => return Ok(refused(&error)),
    };
    if serve.check {
        print!("{}", serve.sources);
        let checked = Server::check(&settings);
        return Ok(checked.map_or_else(|error| refused(&error), |()| ExitCode::SUCCESS));
    }
    logging::start(serve.log_format());
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let server = match Server::start(settings).await {
        Ok(server) => server,
        Err(error) if error.is_of_settings() => return Ok(refused(&error)),
        Err(error) => return Err(error.into()),
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    server.drain();
    server.finished().await;
    Ok(ExitCode::SUCCESS)
}

#[tokio::main]
async fn run_migrate(flags: &Migrate) -> Outcome {
    let target = match flags.target(variable) {
        Ok(target) => target,
        Err(error) => return Ok(refused(&error)),
    };
    if flags.dry_run {
        let pending = migrate::pending(&target, flags.pooler(), flags.wait()).await?;
        print!("{pending}");
        return Ok(if pending.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(PENDING)
        });
    }
    print!("{}", migrate::run(&target, flags.pooler(), flags.wait()).await?);
    Ok(ExitCode::SUCCESS)
}

#[tokio::main]
async fn run_report(flags: &Report) -> Outcome {
    let report = report::of_server(&flags.url, flags.interval_seconds).await?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(ExitCode::SUCCESS)
}

#[tokio::main]
async fn run_stdio(flags: &Stdio) -> Outcome {
    logging::start(flags.log_format());
    let settings = match flags.settings(variable) {
        Ok(settings) => settings,
        Err(error) => return Ok(refused(&error)),
    };
    match stdio::serve(&settings).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(StdioError::Start(error)) if error.is_of_settings() => Ok(refused(&error)),
        Err(error) => Err(error.into()),
    }
}
