//! Which database: all that `migrate` needs to know, and the first of what `serve` needs.

use clap::Args;

use crate::database::{DatabaseTarget, InvalidTarget, Pooler};

#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
#[group(skip)]
pub(super) struct Flags {
    /// sqlite:PATH or postgres://… [default: Postgres from PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE if
    /// PGHOST is set, else sqlite:./mcp.db].
    #[arg(long, env = "MCP_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,
    /// What stands between the server and Postgres; transaction: a pooler in transaction mode.
    #[arg(long, env = "MCP_DATABASE_POOLER", default_value = "none")]
    pub(super) database_pooler: Pooler,
}

impl Flags {
    pub(super) fn target(&self, variable: impl Fn(&str) -> Option<String>) -> Result<DatabaseTarget, InvalidTarget> {
        DatabaseTarget::resolve(self.database_url.as_deref(), variable)
    }
}
