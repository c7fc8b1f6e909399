//! Where the data is.

use std::time::Duration;

use clap::Args;

use super::database::{self, DefaultFile};
use crate::database::InvalidTarget;
use crate::mcp::sessions::Stay;
use crate::server::Data;

#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
#[group(skip)]
pub(super) struct Flags {
    #[command(flatten)]
    database: database::Flags,
    /// redis://… for the cache that replicas share; the server works without it.
    #[arg(long, env = "MCP_REDIS_URL", hide_env_values = true)]
    redis_url: Option<String>,
    /// Seconds after which an unused session of a client up to 2025-11-25 leaves memory, where it takes 100 KiB; it
    /// stays in the database, and comes back with one query.
    #[arg(long, env = "MCP_SESSION_IDLE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..))]
    session_idle_seconds: u64,
    /// Most sessions of clients up to 2025-11-25 in memory; beyond it those unused for longest leave it, within a
    /// second or two. One with a call that runs stays all the same.
    #[arg(long, env = "MCP_SESSIONS_MAX", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    sessions_max: u32,
}

impl Flags {
    pub(super) fn settings(
        &self,
        default: DefaultFile,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Data, InvalidTarget> {
        Ok(Data {
            database: self.database.target(default, variable)?,
            pooler: self.database.database_pooler,
            redis_url: self.redis_url.clone(),
            sessions: Stay {
                idle: Duration::from_secs(self.session_idle_seconds),
                max: usize::try_from(self.sessions_max).unwrap_or(usize::MAX),
            },
        })
    }
}
