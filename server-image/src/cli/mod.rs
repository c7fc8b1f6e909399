//! The command line. Every flag is also an environment variable, and a key of the configuration file: `--pool-max` is
//! `MCP_POOL_MAX` and `pool-max:`.

mod auth;
mod cache;
mod capacity;
mod common;
mod data;
mod database;
mod file;
mod limits;
mod network;
mod operation;
mod shared_context;
mod sources;
mod telemetry;
mod transport;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::database::DefaultFile;
use self::file::ConfigFile;
pub use self::file::InvalidFile;
use crate::auth::InvalidAuth;
use crate::database::{DatabaseTarget, InvalidTarget, Pooler};
use crate::limits::InvalidRates;
use crate::logging::LogFormat;
use crate::server::Settings;
use crate::telemetry::InvalidEndpoint;
use crate::tools::shared_context::InvalidApiKeys;
use crate::tuning::TuningError;
use crate::tuning::control::InvalidAuthority;

/// An MCP server for context that agents share. Without a command it serves on loopback, with a SQLite file in the
/// working folder.
#[derive(Debug, Parser)]
#[command(name = "mcp-server", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 a setting was refused; migrate --dry-run: 3 steps are pending.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve MCP over streamable HTTP.
    Serve(Box<Serve>),
    /// Bring the database's schema up to date and end. Safe to repeat, and to run from many places at once.
    Migrate(Migrate),
    /// Say what limits a running server, and the figures that prove it.
    Report(Report),
    /// Serve one client on standard input and output, as desktop applications want it; logs go to standard error.
    ///
    /// It takes the settings of `serve` that do not concern a network, from the same file and environment. Those for
    /// many clients at once (concurrency, queue, adaptive limit, signed tuning, sessions, drain) change nothing for one.
    Stdio(Box<Stdio>),
    /// Ask a running server whether it is ready; exit code 0 if it is.
    Healthcheck(Healthcheck),
    /// Make an API key for --auth api-key: prints the key, and the line for --api-keys-file.
    ApiKey(ApiKey),
}

/// Flags of `serve`, a group for each subject.
#[derive(Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    file: FileFlag,
    /// Say what every setting is and where it comes from, and end without serving.
    #[arg(long)]
    pub check: bool,
    #[command(flatten)]
    network: network::Flags,
    #[command(flatten)]
    transport: transport::Flags,
    #[command(flatten)]
    auth: auth::Flags,
    #[command(flatten)]
    limits: limits::Flags,
    #[command(flatten)]
    common: common::Flags,
    #[command(flatten)]
    telemetry: telemetry::Flags,
    /// What `--check` prints: a line for each setting.
    #[arg(skip)]
    pub sources: String,
}

/// The configuration file.
#[derive(Debug, Args)]
#[group(skip)]
struct FileFlag {
    /// YAML file of settings, a flag's name and its value a line, such as `pool-max: 20`. Flags and environment win.
    #[arg(long, env = "MCP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Flags of `migrate`.
#[derive(Debug, Args)]
pub struct Migrate {
    #[command(flatten)]
    file: FileFlag,
    /// Only list the pending steps; exit code 3 if there are any.
    #[arg(long, visible_alias = "list")]
    pub dry_run: bool,
    /// Seconds to keep trying while the database does not answer.
    #[arg(long, env = "MCP_WAIT_SECONDS", default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    wait_seconds: u64,
    #[command(flatten)]
    database: database::Flags,
}

impl Migrate {
    /// Which database; `variable` looks up an environment variable.
    ///
    /// # Errors
    /// [`InvalidTarget`] names what cannot be used.
    pub fn target(&self, variable: impl Fn(&str) -> Option<String>) -> Result<DatabaseTarget, InvalidTarget> {
        self.database.target(DefaultFile::Here, variable)
    }

    /// What stands between this program and Postgres.
    #[must_use]
    pub const fn pooler(&self) -> Pooler {
        self.database.database_pooler
    }

    /// Longest wait for the database to answer.
    #[must_use]
    pub const fn wait(&self) -> Duration {
        Duration::from_secs(self.wait_seconds)
    }
}

/// Flags of `report`.
#[derive(Debug, Args)]
pub struct Report {
    #[command(flatten)]
    file: FileFlag,
    /// The running server's /metrics.
    #[arg(long, env = "MCP_REPORT_URL", default_value = "http://127.0.0.1:9090/metrics")]
    pub url: String,
    /// Seconds between the two looks that are compared; 0 takes one look, at everything since the server's start.
    #[arg(
        long,
        env = "MCP_REPORT_INTERVAL_SECONDS",
        default_value_t = 10,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(..=3600)
    )]
    pub interval_seconds: u64,
    /// Write JSON instead of text.
    #[arg(long, env = "MCP_REPORT_JSON")]
    pub json: bool,
}

/// Flags of `stdio`.
#[derive(Debug, Args)]
pub struct Stdio {
    #[command(flatten)]
    file: FileFlag,
    #[command(flatten)]
    common: common::Flags,
    #[command(flatten)]
    logs: telemetry::LogFlags,
}

/// Flags of `healthcheck`.
#[derive(Debug, Args)]
pub struct Healthcheck {
    #[command(flatten)]
    file: FileFlag,
    /// The running server's --metrics-listen.
    #[arg(long, env = "MCP_METRICS_LISTEN", default_value = "127.0.0.1:9090")]
    pub metrics_listen: SocketAddr,
}

/// A command line that cannot be followed, or that asked for help.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// A flag or an environment variable, or a request for help.
    #[error(transparent)]
    Flags(#[from] clap::Error),
    /// The configuration file.
    #[error(transparent)]
    File(#[from] InvalidFile),
}

impl Cli {
    /// Reads `arguments` (the program's name first), the environment, and the file that one of them names. No argument
    /// at all means `serve`.
    ///
    /// # Errors
    /// [`Refused`] names the flag, variable or key, and says what is allowed.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Refused> {
        let mut arguments: Vec<OsString> = arguments.into_iter().collect();
        if arguments.len() == 1 {
            arguments.push("serve".into());
        }
        let mut command = Self::command();
        let file = file::named(&command, &arguments)
            .map(|path| ConfigFile::read(&path))
            .transpose()?;
        if let Some(file) = &file {
            command = file.apply(command)?;
        }
        let matches = command.try_get_matches_from_mut(arguments)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        if let (Command::Serve(serve), Some((name, matches))) = (&mut cli.command, matches.subcommand())
            && let Some(subcommand) = command.find_subcommand(name)
        {
            serve.sources = sources::describe(subcommand, matches, file.as_ref());
        }
        Ok(cli)
    }
}

/// Flags of `api-key`.
#[derive(Debug, Args)]
pub struct ApiKey {
    /// Whose key it is: one word, which logs and data show.
    pub name: String,
    /// What the key may do.
    pub scopes: Vec<String>,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSettings {
    /// One of the two files of TLS.
    #[error("--tls-cert and --tls-key must be set together: a certificate and its private key")]
    HalfTls,
    /// Rate limits.
    #[error("--rate-limits: {0}")]
    Rates(#[from] InvalidRates),
    /// Authentication.
    #[error(transparent)]
    Auth(#[from] InvalidAuth),
    /// The database.
    #[error(transparent)]
    Database(#[from] InvalidTarget),
    /// The key for states.
    #[error(transparent)]
    Key(#[from] network::UnreadableKey),
    /// The figures.
    #[error(transparent)]
    Tuning(#[from] TuningError),
    /// The keys with which agents get tokens.
    #[error(transparent)]
    ApiKeys(#[from] InvalidApiKeys),
    /// Who may change them.
    #[error(transparent)]
    Authority(#[from] InvalidAuthority),
    /// The collector of traces.
    #[error(transparent)]
    Traces(#[from] InvalidEndpoint),
}

impl Serve {
    /// Form of the logs.
    #[must_use]
    pub const fn log_format(&self) -> LogFormat {
        self.telemetry.log_format()
    }

    /// What the server needs; `variable` looks up an environment variable (for `PGHOST` and its companions).
    ///
    /// # Errors
    /// [`InvalidSettings`] names what cannot be used.
    pub fn settings(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Settings, InvalidSettings> {
        Ok(Settings {
            network: self.network.settings()?,
            transport: self.transport.settings()?,
            auth: self.auth.settings()?,
            limits: self.limits.settings()?,
            telemetry: self.telemetry.settings()?,
            ..self.common.settings(DefaultFile::Here, variable)?
        })
    }
}

impl Stdio {
    /// Form of the logs.
    #[must_use]
    pub const fn log_format(&self) -> LogFormat {
        self.logs.format
    }

    /// What the server needs; `variable` looks up an environment variable (for `PGHOST` and its companions).
    ///
    /// # Errors
    /// [`InvalidSettings`] names what cannot be used.
    pub fn settings(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Settings, InvalidSettings> {
        self.common.settings(DefaultFile::OfUser, variable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::hosts::Place;
    use crate::mcp::{HostPolicy, OriginPolicy};
    use crate::server::Fixtures;
    use crate::tools::shared_context::limits::Quotas;
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

    /// In a container settings are environment variables: a flag that has none cannot be set there.
    #[test]
    fn every_flag_is_an_environment_variable() {
        // They order something for one run.
        const ORDERS: [&str; 4] = ["check", "dry-run", "help", "version"];
        let mut command = Cli::command();
        command.build();
        for subcommand in command.get_subcommands() {
            for flag in subcommand.get_arguments() {
                let Some(name) = flag.get_long().filter(|name| !ORDERS.contains(name)) else {
                    continue;
                };
                let variable = flag.get_env().map(|variable| variable.to_string_lossy());
                assert!(
                    variable.as_ref().is_some_and(|variable| variable.starts_with("MCP_")),
                    "{} --{name}: {variable:?}",
                    subcommand.get_name()
                );
            }
        }
    }

    /// Without arguments: this machine only, one file, one command that works.
    #[test]
    fn defaults_are_safe() {
        let settings = settings(&[]).unwrap();
        let network = settings.network;
        for (name, address) in [
            ("listen", network.listen),
            ("metrics-listen", network.metrics_listen),
            ("admin-listen", network.admin_listen),
        ] {
            assert!(address.ip().is_loopback(), "{name}: {address}");
        }
        assert_eq!(settings.data.database, DatabaseTarget::Sqlite("./mcp.db".into()));
        assert_eq!(
            (network.names.hosts, network.path.as_str()),
            (HostPolicy::Loopback, "/mcp")
        );
        assert_eq!(network.names.origins, OriginPolicy::Loopback);
        assert_eq!(settings.operation.fixtures, Fixtures::None);
        assert_eq!(settings.limits.failures, crate::limits::FAILURES);
        assert_eq!(settings.shared_context.quotas, Quotas::default(), "the documented ones");
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
                HostPolicy::Only(["a", "b:8"].map(|name| Place::parse(name).unwrap()).to_vec()),
            ),
        ] {
            assert_eq!(settings(flags).unwrap().network.names.hosts, expected, "{name}");
        }
    }

    /// Behind a Service, a page of the Internet must not be let in because nobody thought of it.
    #[test]
    fn origins_follow_the_address() {
        let listed = |texts: &[&str]| {
            let origins = texts.iter().map(|text| crate::mcp::hosts::Origin::parse(text).unwrap());
            OriginPolicy::Only(origins.collect())
        };
        let all = ["--listen", "0.0.0.0:1", "--allowed-origins"];
        for (name, flags, expected) in [
            ("loopback", &["--listen", "127.0.0.1:1"][..], OriginPolicy::Loopback),
            ("all", &all[..2], listed(&[])),
            (
                "set",
                &[all[0], all[1], all[2], "https://a,http://b:*"],
                listed(&["https://a", "http://b:*"]),
            ),
            ("any", &[all[0], all[1], all[2], "*"], OriginPolicy::Any),
        ] {
            assert_eq!(settings(flags).unwrap().network.names.origins, expected, "{name}");
        }
    }

    /// The operator mounts start values: a replica that ignored one would start with another size than its siblings have.
    #[test]
    fn start_values_come_from_the_tuning_file_unless_a_flag_says_otherwise() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            r#"{"pool":{"max":3},"cache":{"l1Bytes":1048576},"concurrency":7}"#,
        )
        .unwrap();
        let mounted = ["--tuning-file", file.path().to_str().unwrap()];
        for (name, flags, expected) in [
            ("the file's", &[][..], (3, 1024 * 1024, 7)),
            (
                "flags'",
                &["--pool-max", "4", "--cache-l1-bytes", "0", "--concurrency", "8"],
                (4, 0, 8),
            ),
        ] {
            let settings = settings(&[&mounted, flags].concat()).unwrap();
            let found = (
                settings.tuning.pool_max,
                settings.cache.local_bytes,
                settings.tuning.concurrency,
            );
            assert_eq!(found, expected, "{name}");
        }
    }

    /// A mistake must be named at the start, with what is allowed.
    #[test]
    fn mistakes_are_named() {
        for (flags, expected) in [
            (&["--pool-max", "0"][..], "--pool-max"),
            (&["--concurrency=-1"], "--concurrency"),
            (&["--listen", "here"], "--listen"),
            (&["--fixtures", "all"], "none, load, conformance"),
            (&["--allowed-origins", "app.example.com"], "is not an origin such as"),
            (&["--allowed-hosts", "http://a"], "is not a host name such as"),
            (
                &["--request-state-key-file", "/does/not/exist"],
                "--request-state-key-file",
            ),
            (&["--path", "mcp"], "must start with /"),
            (&["--database-url", "file.db"], "sqlite: or postgres://"),
            (&["--tuning-file", "/does/not/exist.json"], "/does/not/exist.json"),
            (&["--session-idle-seconds", "0"], "--session-idle-seconds"),
            (&["--sessions-max", "0"], "--sessions-max"),
            (&["--api-key", " "], "--api-key (MCP_API_KEY) holds no key"),
            (&["--agent-keys-file", "/does/not/exist"], "/does/not/exist"),
            (&["--token-lifetime-seconds", "0"], "--token-lifetime-seconds"),
            (&["--tls-cert", "c"], "--tls-cert and --tls-key must be set together"),
            (&["--max-connections", "0"], "--max-connections"),
            (&["--compression", "yes"], "on, off"),
            (&["--rate-limits", "search=many"], "--rate-limits"),
            (&["--rate-limit-scope", "pod"], "replica, global"),
            (&["--trusted-proxies", "proxy"], "--trusted-proxies"),
            (&["--failed-auth-rate", "0/s"], "--failed-auth-rate"),
            (&["--auth", "basic"], "none, api-key, jwt"),
            (&["--auth", "api-key"], "--api-keys-file"),
            (&["--auth", "jwt"], "--oidc-issuer"),
            (&["--auth", "jwt", "--oidc-issuer", "https://a"], "--audience"),
            (
                &["--oidc-issuer", "https://a"],
                "--oidc-issuer has no effect without --auth jwt",
            ),
            (
                &["--public-url", "https://a"],
                "--public-url has no effect without --auth jwt",
            ),
            (&["--tool-scopes", "a=b"], "--tool-scopes has no effect"),
            (
                &["--auth", "api-key", "--api-keys-file", "f", "--tool-scopes", "a"],
                "TOOL=SCOPE",
            ),
            (&["--jwt-leeway-seconds", "301"], "--jwt-leeway-seconds"),
            (&["--pool-max", "1001"], "1 to 1000"),
            (&["--cache-l1-bytes", "99999999999999"], "--cache-l1-bytes"),
            (&["--cache-staleness-ms", "60001"], "--cache-staleness-ms"),
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
            (&["--session-retention-days", "0"], "--session-retention-days"),
            (&["--cleanup-interval", "0"], "--cleanup-interval"),
            (&["--max-memory-size-mb", "0"], "--max-memory-size-mb"),
            (&["--max-metadata-size-kb", "0"], "--max-metadata-size-kb"),
            (
                &["--max-messages-per-session", "3000000000"],
                "--max-messages-per-session",
            ),
        ] {
            let error = settings(flags).unwrap_err();
            assert!(error.contains(expected), "{flags:?}: {error}");
        }
    }
}
