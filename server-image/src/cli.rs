//! The command line. Every flag is also an environment variable: `--pool-max` is `MCP_POOL_MAX`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::database::{DatabaseTarget, InvalidTarget};
use crate::logging::LogFormat;
use crate::mcp::HostPolicy;
use crate::server::Settings;
use crate::tuning::{Explicit, Tuning, TuningError, TuningFile};

/// An MCP server for context that agents share.
#[derive(Debug, Parser)]
#[command(name = "mcp-server", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve MCP over streamable HTTP.
    Serve(Box<Serve>),
    /// Ask a running server whether it is ready; exit code 0 if it is.
    Healthcheck(Healthcheck),
}

/// Flags of `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Address of the MCP endpoint.
    #[arg(long, env = "MCP_LISTEN", default_value = "127.0.0.1:8080", help_heading = "Network")]
    listen: SocketAddr,
    /// Address of /metrics, /healthz and /readyz.
    #[arg(
        long,
        env = "MCP_METRICS_LISTEN",
        default_value = "127.0.0.1:9090",
        help_heading = "Network"
    )]
    metrics_listen: SocketAddr,
    /// Address of /tuning.
    #[arg(
        long,
        env = "MCP_ADMIN_LISTEN",
        default_value = "127.0.0.1:9091",
        help_heading = "Network"
    )]
    admin_listen: SocketAddr,
    /// Path of the MCP endpoint.
    #[arg(long, env = "MCP_PATH", default_value = "/mcp", value_parser = path, help_heading = "Network")]
    path: String,
    /// Names that requests may give as Host, comma-separated [default: this machine's if --listen is a loopback
    /// address, else any].
    #[arg(long, env = "MCP_ALLOWED_HOSTS", value_delimiter = ',', help_heading = "Network")]
    allowed_hosts: Vec<String>,
    /// sqlite:PATH or postgres://… [default: Postgres from PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE if
    /// PGHOST is set, else sqlite:./mcp.db].
    #[arg(long, env = "MCP_DATABASE_URL", hide_env_values = true, help_heading = "Data")]
    database_url: Option<String>,
    /// redis://… for a cache of what never changes; the server works without it.
    #[arg(long, env = "MCP_REDIS_URL", hide_env_values = true, help_heading = "Data")]
    redis_url: Option<String>,
    /// Seconds after which an unused session of a client up to 2025-11-25 leaves memory; it stays in the database.
    #[arg(long, env = "MCP_SESSION_IDLE_SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..), help_heading = "Data")]
    session_idle_seconds: u64,
    /// JSON file with start values: {"pool":{"max":N},"concurrency":K}.
    #[arg(long, env = "MCP_TUNING_FILE", help_heading = "Capacity")]
    tuning_file: Option<PathBuf>,
    /// Most database connections [default: from the tuning file, else 10].
    #[arg(long, env = "MCP_POOL_MAX", help_heading = "Capacity")]
    pool_max: Option<usize>,
    /// Requests served at once [default: from the tuning file, else 32].
    #[arg(long, env = "MCP_CONCURRENCY", help_heading = "Capacity")]
    concurrency: Option<usize>,
    /// Requests that may wait; more get 503 [default: twice the concurrency].
    #[arg(long, env = "MCP_QUEUE_MAX", help_heading = "Capacity")]
    queue_max: Option<usize>,
    /// Seconds that SIGTERM leaves for requests to finish.
    #[arg(long, env = "MCP_DRAIN_SECONDS", default_value_t = 30, help_heading = "Operation")]
    drain_seconds: u64,
    /// Form of the logs.
    #[arg(long, env = "MCP_LOG_FORMAT", default_value = "text", help_heading = "Operation")]
    log_format: LogFormat,
    /// Extra tools; load adds `simulate_work`.
    #[arg(long, env = "MCP_FIXTURES", default_value = "none", help_heading = "Operation")]
    fixtures: Fixtures,
}

/// Extra tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fixtures {
    /// None.
    None,
    /// For load tests.
    Load,
}

/// Flags of `healthcheck`.
#[derive(Debug, Args)]
pub struct Healthcheck {
    /// The running server's --metrics-listen.
    #[arg(long, env = "MCP_METRICS_LISTEN", default_value = "127.0.0.1:9090")]
    pub metrics_listen: SocketAddr,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSettings {
    /// The database.
    #[error(transparent)]
    Database(#[from] InvalidTarget),
    /// The figures.
    #[error(transparent)]
    Tuning(#[from] TuningError),
}

impl Serve {
    /// Form of the logs.
    #[must_use]
    pub const fn log_format(&self) -> LogFormat {
        self.log_format
    }

    /// What the server needs; `variable` looks up an environment variable (for `PGHOST` and its companions).
    ///
    /// # Errors
    /// [`InvalidSettings`] names what cannot be used.
    pub fn settings(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Settings, InvalidSettings> {
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
        Ok(Settings {
            listen: self.listen,
            metrics_listen: self.metrics_listen,
            admin_listen: self.admin_listen,
            path: self.path.clone(),
            database: DatabaseTarget::resolve(self.database_url.as_deref(), variable)?,
            redis_url: self.redis_url.clone(),
            load_fixtures: self.fixtures == Fixtures::Load,
            tuning: Tuning::resolve(explicit, &file)?,
            drain: Duration::from_secs(self.drain_seconds),
            session_idle: Duration::from_secs(self.session_idle_seconds),
            hosts: self.hosts(),
        })
    }

    fn hosts(&self) -> HostPolicy {
        if !self.allowed_hosts.is_empty() {
            HostPolicy::Only(self.allowed_hosts.clone())
        } else if self.listen.ip().is_loopback() {
            HostPolicy::Loopback
        } else {
            HostPolicy::Any
        }
    }
}

fn path(text: &str) -> Result<String, String> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "/-_.".contains(character);
    if text.len() > 1 && text.starts_with('/') && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("must start with / and hold only letters, digits, - _ . and /, such as /mcp".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn settings(flags: &[&str]) -> Result<Settings, String> {
        let cli =
            Cli::try_parse_from(["mcp-server", "serve"].iter().chain(flags)).map_err(|error| error.to_string())?;
        let Command::Serve(serve) = cli.command else {
            panic!("serve was asked for")
        };
        serve.settings(|_| None).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Without arguments: this machine only, one file, one command that works.
    #[test]
    fn defaults_are_safe() {
        let settings = settings(&[]).unwrap();
        assert!(settings.listen.ip().is_loopback() && settings.metrics_listen.ip().is_loopback());
        assert_eq!((settings.hosts, settings.path.as_str()), (HostPolicy::Loopback, "/mcp"));
        assert!(!settings.load_fixtures);
    }

    /// A pod behind a Service is called by names it cannot know; on loopback, foreign names are an attack.
    #[test]
    fn hosts_follow_the_address() {
        for (name, flags, expected) in [
            ("loopback", &["--listen", "127.0.0.1:1"][..], HostPolicy::Loopback),
            ("loopback, IPv6", &["--listen", "[::1]:1"], HostPolicy::Loopback),
            ("all", &["--listen", "0.0.0.0:1"], HostPolicy::Any),
            (
                "set",
                &["--listen", "0.0.0.0:1", "--allowed-hosts", "a,b:8"],
                HostPolicy::Only(vec!["a".into(), "b:8".into()]),
            ),
        ] {
            assert_eq!(settings(flags).unwrap().hosts, expected, "{name}");
        }
    }

    /// A mistake must be named at the start, with what is allowed.
    #[test]
    fn mistakes_are_named() {
        for (flags, expected) in [
            (&["--pool-max", "0"][..], "--pool-max"),
            (&["--concurrency=-1"], "--concurrency"),
            (&["--listen", "here"], "--listen"),
            (&["--fixtures", "all"], "none, load"),
            (&["--path", "mcp"], "must start with /"),
            (&["--database-url", "file.db"], "sqlite: or postgres://"),
            (&["--tuning-file", "/does/not/exist.json"], "/does/not/exist.json"),
            (&["--session-idle-seconds", "0"], "--session-idle-seconds"),
        ] {
            let error = settings(flags).unwrap_err();
            assert!(error.contains(expected), "{flags:?}: {error}");
        }
    }
}
