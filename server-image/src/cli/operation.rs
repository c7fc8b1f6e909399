//! How the process runs: its end, its fixtures.

use std::time::Duration;

use clap::Args;

use crate::server::{Fixtures, Operation};

#[derive(Debug, Args)]
#[command(next_help_heading = "Operation")]
#[group(skip)]
pub(super) struct Flags {
    /// Seconds that SIGTERM leaves for requests to finish.
    #[arg(long, env = "MCP_DRAIN_SECONDS", default_value_t = 30)]
    drain_seconds: u64,
    /// For measuring and judging: load adds `echo` and `simulate_work`, conformance what the official suite asks for.
    #[arg(long, env = "MCP_FIXTURES", default_value = "none")]
    fixtures: Fixtures,
}

impl Flags {
    pub(super) fn settings(&self) -> Operation {
        Operation {
            fixtures: self.fixtures,
            drain: Duration::from_secs(self.drain_seconds),
        }
    }
}
