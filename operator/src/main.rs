//! The operator's binary: wiring only.

use std::process::ExitCode;

use clap::Parser;
use mcpscale::{cli::Cli, commands::execute};

#[tokio::main]
async fn main() -> ExitCode {
    match execute(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("mcpscale: {message}");
            ExitCode::FAILURE
        }
    }
}
