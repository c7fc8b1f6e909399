//! Who may use the shared context, and how long things are kept there.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::tools::shared_context::{ApiKeys, InvalidApiKeys, SharedContextSettings};

#[derive(Args)]
#[command(next_help_heading = "Shared context")]
#[group(skip)]
pub(super) struct Flags {
    /// Key with which `authenticate_agent` gives tokens to agents; calls without a token are refused then. Without a
    /// key, agents are who they say they are. Better given as the environment variable: others on the machine can see
    /// flags.
    #[arg(long, env = "MCP_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// File with such keys, one on each line; several allow to change them one after the other.
    #[arg(long, env = "MCP_API_KEY_FILE")]
    api_key_file: Option<PathBuf>,
    /// Seconds an agent's token lives, at most 30 days.
    #[arg(long, env = "MCP_TOKEN_LIFETIME_SECONDS", default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(60..=2_592_000))]
    token_lifetime_seconds: u64,
}

impl Flags {
    pub(super) fn settings(&self) -> Result<SharedContextSettings, InvalidApiKeys> {
        Ok(SharedContextSettings {
            api_keys: ApiKeys::read(self.api_key.as_deref(), self.api_key_file.as_deref())?,
            token_lifetime: Duration::from_secs(self.token_lifetime_seconds),
        })
    }
}

impl std::fmt::Debug for Flags {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key must not reach a log through a careless `{:?}`.
        formatter
            .debug_struct("Flags")
            .field("api_key", &self.api_key.is_some())
            .field("api_key_file", &self.api_key_file)
            .field("token_lifetime_seconds", &self.token_lifetime_seconds)
            .finish()
    }
}
