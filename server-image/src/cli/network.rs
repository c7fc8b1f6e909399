//! Where the server listens, and under which names.

use std::net::SocketAddr;

use clap::Args;

use crate::mcp::HostPolicy;
use crate::server::Network;

#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
#[group(skip)]
pub(super) struct Flags {
    /// Address of the MCP endpoint.
    #[arg(long, env = "MCP_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, env = "MCP_METRICS_LISTEN", default_value = "127.0.0.1:9090")]
    metrics_listen: SocketAddr,
    /// Address of /tuning.
    #[arg(long, env = "MCP_ADMIN_LISTEN", default_value = "127.0.0.1:9091")]
    admin_listen: SocketAddr,
    /// Path of the MCP endpoint.
    #[arg(long, env = "MCP_PATH", default_value = "/mcp", value_parser = path)]
    path: String,
    /// Names that requests may give as Host, comma-separated [default: this machine's if --listen is a loopback
    /// address, else any].
    #[arg(long, env = "MCP_ALLOWED_HOSTS", value_delimiter = ',')]
    allowed_hosts: Vec<String>,
}

impl Flags {
    pub(super) fn settings(&self) -> Network {
        Network {
            listen: self.listen,
            metrics_listen: self.metrics_listen,
            admin_listen: self.admin_listen,
            path: self.path.clone(),
            hosts: self.hosts(),
        }
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
