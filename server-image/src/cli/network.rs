//! Where the server listens, and under which names.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::mcp::hosts::{Origin, Place};
use crate::mcp::{HostPolicy, Names, OriginPolicy};
use crate::server::{Network, Secret};

#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
#[group(skip)]
pub(super) struct Flags {
    /// Address of the MCP endpoint.
    #[arg(long, env = "MCP_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Address of /metrics, /healthz, /readyz, /health and /health/detailed.
    #[arg(long, env = "MCP_METRICS_LISTEN", default_value = "127.0.0.1:9090")]
    metrics_listen: SocketAddr,
    /// Address of /tuning and /cache/invalidate, for the operator alone.
    #[arg(long, env = "MCP_ADMIN_LISTEN", default_value = "127.0.0.1:9091")]
    admin_listen: SocketAddr,
    /// Serve GET /profile?seconds=N at the admin address too: where CPU time and memory go.
    #[arg(long, env = "MCP_PROFILE")]
    profile: bool,
    /// Path of the MCP endpoint.
    #[arg(long, env = "MCP_PATH", default_value = "/mcp", value_parser = path)]
    path: String,
    /// Names that requests may give as Host, comma-separated [default: this machine's if --listen is a loopback
    /// address, else any].
    #[arg(long, env = "MCP_ALLOWED_HOSTS", value_delimiter = ',', value_parser = Place::parse)]
    allowed_hosts: Vec<Place>,
    /// Origins of web pages that may use the server, such as `https://app.example.com` or `http://localhost:*`,
    /// comma-separated; * for any [default: this machine's if --listen is a loopback address, else none].
    #[arg(long, env = "MCP_ALLOWED_ORIGINS", value_delimiter = ',', value_parser = allowed_origin)]
    allowed_origins: Vec<AllowedOrigin>,
    /// Key that seals the state of calls in several rounds, at least 32 bytes; the same for all replicas [default:
    /// replicas agree on one in the database].
    #[arg(
        long,
        env = "MCP_REQUEST_STATE_KEY",
        hide_env_values = true,
        conflicts_with = "request_state_key_file"
    )]
    request_state_key: Option<String>,
    /// File with that key.
    #[arg(long, env = "MCP_REQUEST_STATE_KEY_FILE")]
    request_state_key_file: Option<PathBuf>,
    /// Serve POST PATH/tool/NAME too, for programs that speak no MCP: the body is the tool's arguments as JSON, the
    /// answer its result.
    #[arg(long, env = "MCP_REST_SHIM")]
    rest_shim: bool,
}

/// One entry of --allowed-origins.
#[derive(Debug, Clone)]
enum AllowedOrigin {
    Any,
    One(Origin),
}

fn allowed_origin(text: &str) -> Result<AllowedOrigin, String> {
    if text == "*" {
        return Ok(AllowedOrigin::Any);
    }
    Origin::parse(text).map(AllowedOrigin::One)
}

/// The file of --request-state-key-file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path} (--request-state-key-file): {cause}", path = .path.display())]
pub struct UnreadableKey {
    path: PathBuf,
    cause: std::io::Error,
}

impl Flags {
    pub(super) fn settings(&self) -> Result<Network, UnreadableKey> {
        Ok(Network {
            listen: self.listen,
            metrics_listen: self.metrics_listen,
            admin_listen: self.admin_listen,
            profile: self.profile,
            path: self.path.clone(),
            names: Names {
                hosts: self.hosts(),
                origins: self.origins(),
            },
            request_state_key: self.key()?,
            rest_shim: self.rest_shim,
        })
    }

    fn key(&self) -> Result<Option<Secret>, UnreadableKey> {
        let Some(path) = &self.request_state_key_file else {
            return Ok(self.request_state_key.clone().map(|key| Secret(key.into_bytes())));
        };
        let key = std::fs::read(path).map_err(|cause| UnreadableKey {
            path: path.clone(),
            cause,
        })?;
        // Editors end files with a line break.
        Ok(Some(Secret(key.trim_ascii_end().to_vec())))
    }

    fn origins(&self) -> OriginPolicy {
        let listed = self.allowed_origins.iter().filter_map(|allowed| match allowed {
            AllowedOrigin::Any => None,
            AllowedOrigin::One(origin) => Some(origin.clone()),
        });
        let listed: Vec<Origin> = listed.collect();
        if listed.len() < self.allowed_origins.len() {
            OriginPolicy::Any
        } else if listed.is_empty() && self.listen.ip().is_loopback() {
            OriginPolicy::Loopback
        } else {
            OriginPolicy::Only(listed)
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
