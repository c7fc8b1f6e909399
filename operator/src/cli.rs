//! The command line. Every option can be given as an environment variable too.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use mcpscale_crds::GatewayDuration;

/// Runs MCP servers and keeps them at their declared performance.
#[derive(Debug, Parser)]
#[command(name = "mcpscale", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator.
    Run(Box<RunArguments>),
    /// Print the CustomResourceDefinition as YAML.
    Crd,
    /// Print every object that an McpServer would become, as YAML. Needs no cluster.
    Render(RenderArguments),
    /// Ask URLs, and fail unless each answers with success within 10 s.
    Probe(ProbeArguments),
}

/// Options of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArguments {
    /// Facts of the installation.
    #[command(flatten)]
    pub installation: InstallationArguments,

    /// URL of Prometheus, such as `http://prometheus:9090`. Without it nothing is scaled.
    #[arg(long, env = "MCPSCALE_PROMETHEUS_URL")]
    pub prometheus_url: Option<String>,

    /// Namespaces to watch, separated by commas; all without it.
    #[arg(long, env = "MCPSCALE_WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,

    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, env = "MCPSCALE_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// Form of the log lines.
    #[arg(long, env = "MCPSCALE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Least severe level that is logged: error, warn, info, debug or trace, also by module.
    #[arg(long, env = "MCPSCALE_LOG_LEVEL", default_value = "info")]
    pub log_level: String,

    /// Namespace of the Lease by which replicas of the operator elect a leader; without it the pod's own.
    #[arg(long, env = "MCPSCALE_LEASE_NAMESPACE")]
    pub lease_namespace: Option<String>,

    /// Name of that Lease.
    #[arg(long, env = "MCPSCALE_LEASE_NAME", default_value = "mcpscale")]
    pub lease_name: String,

    /// Name of this pod: the holder of the Lease, and who Events are reported by.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,

    /// Namespace of this pod.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub pod_namespace: String,

    /// Time between two decisions of the scaler.
    #[arg(long, env = "MCPSCALE_TICK", default_value = "5s", value_parser = duration)]
    pub tick: Duration,

    /// How many McpServers are reconciled at the same time.
    #[arg(long, env = "MCPSCALE_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,

    /// Longest time that one reconcile may take.
    #[arg(long, env = "MCPSCALE_RECONCILE_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub reconcile_timeout: Duration,
}

/// Facts of the installation and the images of servers that name none.
#[derive(Clone, Debug, Args)]
pub struct InstallationArguments {
    /// Image of MCP servers.
    #[arg(long, env = "MCPSCALE_SERVER_IMAGE", default_value = concat!("mcpscale/mcp-server:", env!("CARGO_PKG_VERSION")))]
    pub server_image: String,

    /// Image of nginx, 1.30 or later.
    #[arg(long, env = "MCPSCALE_NGINX_IMAGE", default_value = "nginx:1.30")]
    pub nginx_image: String,

    /// Image of Valkey.
    #[arg(long, env = "MCPSCALE_REDIS_IMAGE", default_value = "valkey/valkey:9")]
    pub redis_image: String,

    /// Image of Postgres 18.
    #[arg(long, env = "MCPSCALE_POSTGRES_IMAGE", default_value = "postgres:18")]
    pub postgres_image: String,

    /// DNS domain of the cluster.
    #[arg(long, env = "MCPSCALE_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,

    /// Time between two scrapes of Prometheus: samples older than three of them count for nothing.
    #[arg(long, env = "MCPSCALE_SCRAPE_INTERVAL", default_value = "5s", value_parser = duration)]
    pub scrape_interval: Duration,
}

/// Options of `render`.
#[derive(Clone, Debug, Args)]
pub struct RenderArguments {
    /// File with the McpServer; `-` reads standard input.
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Facts of the installation.
    #[command(flatten)]
    pub installation: InstallationArguments,
}

/// Options of `probe`.
#[derive(Clone, Debug, Args)]
pub struct ProbeArguments {
    /// What to ask, one after the other.
    #[arg(required = true, value_name = "URL")]
    pub urls: Vec<String>,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = GatewayDuration(text.to_owned())
        .parse()
        .map_err(|error| error.to_string())?;
    if parsed.is_zero() {
        Err("must be longer than 0s".into())
    } else {
        Ok(parsed)
    }
}
