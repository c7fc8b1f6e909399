//! How the process runs: its logs, its end, its fixtures.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::logging::LogFormat;
use crate::server::Operation;

#[derive(Debug, Args)]
#[command(next_help_heading = "Operation")]
#[group(skip)]
pub(super) struct Flags {
    /// Seconds that SIGTERM leaves for requests to finish.
    #[arg(long, env = "MCP_DRAIN_SECONDS", default_value_t = 30)]
    drain_seconds: u64,
    /// Form of the logs.
    #[arg(long, env = "MCP_LOG_FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
    /// Extra tools; load adds `simulate_work`.
    #[arg(long, env = "MCP_FIXTURES", default_value = "none")]
    fixtures: Fixtures,
}

/// Extra tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fixtures {
    /// None.
    None,
    /// For load tests.
    Load,
}

impl Flags {
    pub(super) fn settings(&self) -> Operation {
        Operation {
            load_fixtures: self.fixtures == Fixtures::Load,
            drain: Duration::from_secs(self.drain_seconds),
        }
    }
}
