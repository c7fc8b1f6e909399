//! What is kept near.

use std::time::Duration;

use clap::Args;

use crate::cache::{CacheSettings, DEFAULT_LOCAL_BYTES, LOCAL_BYTES_MAX};
use crate::tuning::{TuningError, TuningFile};

#[derive(Debug, Args)]
#[command(next_help_heading = "Cache")]
#[group(skip)]
pub(super) struct Flags {
    /// Bytes of values kept in this process, 0 for none [default: from the tuning file, else 16 MiB].
    #[arg(long, env = "MCP_CACHE_L1_BYTES")]
    cache_l1_bytes: Option<u64>,
    /// Milliseconds that a cached value may be older than what another replica has written; 0 checks at each read.
    #[arg(long, env = "MCP_CACHE_STALENESS_MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(..=60_000))]
    cache_staleness_ms: u64,
}

impl Flags {
    pub(super) fn settings(&self, file: &TuningFile) -> Result<CacheSettings, TuningError> {
        let local_bytes = self
            .cache_l1_bytes
            .or(file.cache.l1_bytes)
            .unwrap_or(DEFAULT_LOCAL_BYTES);
        if local_bytes > LOCAL_BYTES_MAX {
            return Err(TuningError::TooManyBytes {
                name: "cache bytes (--cache-l1-bytes)",
                most: LOCAL_BYTES_MAX,
                value: local_bytes,
            });
        }
        Ok(CacheSettings {
            local_bytes,
            staleness: Duration::from_millis(self.cache_staleness_ms),
            ..CacheSettings::default()
        })
    }
}
