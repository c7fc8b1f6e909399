//! The command line. Every flag is also an environment variable: `--pool-max` is `MCP_POOL_MAX`.

mod capacity;
mod data;
mod network;
mod operation;

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand};

use crate::database::InvalidTarget;
use crate::logging::LogFormat;
use crate::server::Settings;
use crate::tuning::TuningError;
use crate::tuning::control::InvalidAuthority;

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

/// Flags of `serve`, a group for each subject.
#[derive(Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    network: network::Flags,
    #[command(flatten)]
    data: data::Flags,
    #[command(flatten)]
    capacity: capacity::Flags,
    #[command(flatten)]
    operation: operation::Flags,
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
    /// Who may change them.
    #[error(transparent)]
    Authority(#[from] InvalidAuthority),
}

impl Serve {
    /// Form of the logs.
    #[must_use]
    pub const fn log_format(&self) -> LogFormat {
        self.operation.log_format
    }

    /// What the server needs; `variable` looks up an environment variable (for `PGHOST` and its companions).
    ///
    /// # Errors
    /// [`InvalidSettings`] names what cannot be used.
    pub fn settings(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Settings, InvalidSettings> {
        Ok(Settings {
            network: self.network.settings(),
            data: self.data.settings(variable)?,
            tuning: self.capacity.tuning()?,
            capacity: self.capacity.capacity()?,
            operation: self.operation.settings(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::HostPolicy;
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
        let network = settings.network;
        assert!(network.listen.ip().is_loopback() && network.metrics_listen.ip().is_loopback());
        assert_eq!((network.hosts, network.path.as_str()), (HostPolicy::Loopback, "/mcp"));
        assert!(!settings.operation.load_fixtures);
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
            assert_eq!(settings(flags).unwrap().network.hosts, expected, "{name}");
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
            (&["--pool-max", "1001"], "1 to 1000"),
            (
                &["--tuning-key-file", "/does/not/exist", "--pod-uid", "u"],
                "/does/not/exist",
            ),
            (
                &["--tuning-key-file", "/dev/null", "--pod-uid", "u"],
                "at least 16 bytes",
            ),
            (&["--tuning-key-file", "/dev/null"], "--pod-uid"),
            (&["--database-pooler", "session"], "none, transaction"),
        ] {
            let error = settings(flags).unwrap_err();
            assert!(error.contains(expected), "{flags:?}: {error}");
        }
    }
}
