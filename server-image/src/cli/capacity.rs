//! How much is done at once.

use std::path::PathBuf;

use clap::Args;

use crate::tuning::{Explicit, Tuning, TuningError, TuningFile};

#[derive(Debug, Args)]
#[command(next_help_heading = "Capacity")]
#[group(skip)]
pub(super) struct Flags {
    /// JSON file with start values: {"pool":{"max":N},"concurrency":K}.
    #[arg(long, env = "MCP_TUNING_FILE")]
    tuning_file: Option<PathBuf>,
    /// Most database connections [default: from the tuning file, else 10].
    #[arg(long, env = "MCP_POOL_MAX")]
    pool_max: Option<usize>,
    /// Requests served at once [default: from the tuning file, else 32].
    #[arg(long, env = "MCP_CONCURRENCY")]
    concurrency: Option<usize>,
    /// Requests that may wait; more get 503 [default: twice the concurrency].
    #[arg(long, env = "MCP_QUEUE_MAX")]
    queue_max: Option<usize>,
}

impl Flags {
    pub(super) fn tuning(&self) -> Result<Tuning, TuningError> {
        let file = self
            .tuning_file
            .as_deref()
            .map(TuningFile::read)
            .transpose()?
            .unwrap_or_default();
        let explicit = Explicit {
            pool_max: self.pool_max,
            concurrency: self.concurrency,
            queue_max: self.queue_max,
        };
        Tuning::resolve(explicit, &file)
    }
}
