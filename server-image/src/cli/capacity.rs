//! How much is done at once.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::admission::adaptive::AdaptiveSettings;
use crate::server::Capacity;
use crate::tuning::control::{Authority, InvalidAuthority};
use crate::tuning::{Explicit, Tuning, TuningError, TuningFile};

#[derive(Debug, Args)]
#[command(next_help_heading = "Capacity")]
#[group(skip)]
pub(super) struct Flags {
    /// JSON file with start values: {"pool":{"max":N},"cache":{"l1Bytes":B},"concurrency":K}.
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
    /// File with the key that signs PUT /tuning and POST /cache/invalidate; without it nothing can be changed while the
    /// server runs.
    #[arg(long, env = "MCP_TUNING_KEY_FILE")]
    tuning_key_file: Option<PathBuf>,
    /// UID of the pod this server runs in (metadata.uid); a signed change names the pod it is for.
    #[arg(long, env = "MCP_POD_UID")]
    pod_uid: Option<String>,
    /// Shed before the slots are full when latency proves overload.
    #[arg(long, env = "MCP_ADAPTIVE_CONCURRENCY", default_value_t = true, action = clap::ArgAction::Set)]
    adaptive_concurrency: bool,
    /// Mean service time, in milliseconds, below which nothing is shed for being slow.
    #[arg(long, env = "MCP_ADAPTIVE_LATENCY_MS", default_value_t = 250, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    adaptive_latency_ms: u64,
}

impl Flags {
    /// The mounted tuning file, if there is one.
    pub(super) fn file(&self) -> Result<TuningFile, TuningError> {
        let file = self.tuning_file.as_deref().map(TuningFile::read).transpose()?;
        Ok(file.unwrap_or_default())
    }

    pub(super) fn tuning(&self) -> Result<Tuning, TuningError> {
        let explicit = Explicit {
            pool_max: self.pool_max,
            concurrency: self.concurrency,
            queue_max: self.queue_max,
        };
        Tuning::resolve(explicit, &self.file()?)
    }

    pub(super) fn capacity(&self) -> Result<Capacity, InvalidAuthority> {
        let authority = Authority {
            key_file: self.tuning_key_file.clone(),
            pod_uid: self.pod_uid.clone(),
        };
        authority.check()?;
        Ok(Capacity {
            authority,
            queue_set: self.queue_max.is_some(),
            adaptive: AdaptiveSettings {
                enabled: self.adaptive_concurrency,
                latency: Duration::from_millis(self.adaptive_latency_ms),
            },
        })
    }
}
