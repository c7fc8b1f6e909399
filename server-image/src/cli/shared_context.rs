//! Who may use the shared context, and how long things are kept there.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::tools::shared_context::limits::Quotas;
use crate::tools::shared_context::{ApiKeys, InvalidApiKeys, RetentionSettings, SharedContextSettings};

#[derive(Args)]
#[command(next_help_heading = "Shared context")]
#[group(skip)]
pub(super) struct Flags {
    /// Key with which `authenticate_agent` gives tokens to agents; calls without a token are refused then. Without a
    /// key, agents are who they say they are. Better given as the environment variable: others on the machine can see
    /// flags. It is no key of --auth api-key.
    #[arg(long, env = "MCP_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// File with such keys, one on each line; several allow to change them one after the other.
    #[arg(long, env = "MCP_AGENT_KEYS_FILE")]
    agent_keys_file: Option<PathBuf>,
    /// Seconds an agent's token lives, at most 30 days.
    #[arg(long, env = "MCP_TOKEN_LIFETIME_SECONDS", default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(60..=2_592_000))]
    token_lifetime_seconds: u64,
    /// Days without a change after which a session is closed: it can be read, but takes no more messages.
    #[arg(long, env = "MCP_INACTIVE_SESSION_RETENTION_DAYS", default_value_t = 7, value_parser = days())]
    inactive_session_retention_days: u64,
    /// Days without a change after which a closed session is deleted, with its messages and its memory.
    #[arg(long, env = "MCP_SESSION_RETENTION_DAYS", default_value_t = 30, value_parser = days())]
    session_retention_days: u64,
    /// Days that lines of the audit log are kept.
    #[arg(long, env = "MCP_AUDIT_LOG_RETENTION_DAYS", default_value_t = 30, value_parser = days())]
    audit_log_retention_days: u64,
    /// Seconds between two rounds in which what has ended is removed.
    #[arg(long, env = "MCP_CLEANUP_INTERVAL", default_value_t = 3_600, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    cleanup_interval: u64,
    /// Sessions an agent may have in use at once; callers without a name have no limits of their own.
    #[arg(long, env = "MCP_MAX_SESSIONS_PER_AGENT", default_value_t = 50, value_parser = most())]
    max_sessions_per_agent: u32,
    /// Seconds after which an unused session no longer counts among them.
    #[arg(long, env = "MCP_SESSION_TIMEOUT", default_value_t = 3_600, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    session_timeout: u64,
    /// Messages of a session.
    #[arg(long, env = "MCP_MAX_MESSAGES_PER_SESSION", default_value_t = 10_000, value_parser = most())]
    max_messages_per_session: u32,
    /// Live memory entries of an agent.
    #[arg(long, env = "MCP_MAX_MEMORY_ENTRIES_PER_AGENT", default_value_t = 1_000, value_parser = most())]
    max_memory_entries_per_agent: u32,
    /// Size of all live memory entries of an agent, in MiB.
    #[arg(long, env = "MCP_MAX_MEMORY_SIZE_MB", default_value_t = 100, value_parser = most())]
    max_memory_size_mb: u32,
    /// Size of the metadata of one session, message or memory entry, in KiB.
    #[arg(long, env = "MCP_MAX_METADATA_SIZE_KB", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1024))]
    max_metadata_size_kb: u16,
}

/// What a database's 32-bit counter of messages can count to.
fn most() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1_000_000_000)
}

fn days() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=3_650)
}

const fn days_long(days: u64) -> Duration {
    Duration::from_hours(24 * days)
}

impl Flags {
    pub(super) fn settings(&self) -> Result<SharedContextSettings, InvalidApiKeys> {
        Ok(SharedContextSettings {
            api_keys: ApiKeys::read(self.api_key.as_deref(), self.agent_keys_file.as_deref())?,
            token_lifetime: Duration::from_secs(self.token_lifetime_seconds),
            retention: RetentionSettings {
                interval: Duration::from_secs(self.cleanup_interval),
                inactive_session: days_long(self.inactive_session_retention_days),
                closed_session: days_long(self.session_retention_days),
                audit_log: days_long(self.audit_log_retention_days),
            },
            quotas: Quotas {
                messages_per_session: i32::try_from(self.max_messages_per_session).unwrap_or(i32::MAX),
                sessions_per_agent: self.max_sessions_per_agent.into(),
                session_timeout: Duration::from_secs(self.session_timeout),
                memory_entries_per_agent: self.max_memory_entries_per_agent.into(),
                memory_bytes_per_agent: i64::from(self.max_memory_size_mb) * 1024 * 1024,
                metadata_bytes: usize::from(self.max_metadata_size_kb) * 1024,
            },
        })
    }
}

impl std::fmt::Debug for Flags {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key must not reach a log through a careless `{:?}`.
        formatter
            .debug_struct("Flags")
            .field("api_key", &self.api_key.is_some())
            .field("agent_keys_file", &self.agent_keys_file)
            .finish_non_exhaustive()
    }
}
