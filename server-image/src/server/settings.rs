//! What a server needs to know to start, by subject.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::admission::adaptive::AdaptiveSettings;
use crate::cache::CacheSettings;
use crate::database::{DatabaseTarget, Pooler};
use crate::mcp::sessions::Stay;
use crate::mcp::{HostPolicy, Names, OriginPolicy};
use crate::telemetry::TelemetrySettings;
use crate::tools::shared_context::SharedContextSettings;
use crate::tuning::Tuning;
use crate::tuning::control::Authority;
use crate::{auth, limits, transport};

/// Everything a server needs to know to start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens.
    pub network: Network,
    /// How connections are served.
    pub transport: transport::Settings,
    /// Who may call it.
    pub auth: auth::Settings,
    /// How often one caller may ask.
    pub limits: limits::Settings,
    /// Where its data is.
    pub data: Data,
    /// How much is done at once.
    pub tuning: Tuning,
    /// How the shared context behaves.
    pub shared_context: SharedContextSettings,
    /// What else decides about capacity.
    pub capacity: Capacity,
    /// What is kept near.
    pub cache: CacheSettings,
    /// How the process runs.
    pub operation: Operation,
    /// What is told of requests besides metrics.
    pub telemetry: TelemetrySettings,
}

/// Where a server listens.
#[derive(Debug, Clone)]
pub struct Network {
    /// Address of the MCP endpoint.
    pub listen: SocketAddr,
    /// Address of `/metrics`, `/healthz`, `/readyz`.
    pub metrics_listen: SocketAddr,
    /// Address of `/tuning`, `/cache/invalidate` and `/profile`.
    pub admin_listen: SocketAddr,
    /// Whether the admin address serves `/profile`.
    pub profile: bool,
    /// Path of the MCP endpoint.
    pub path: String,
    /// Which `Host` and `Origin` requests may name.
    pub names: Names,
    /// Seals the states of calls in several rounds; without it, replicas agree on a key in the database.
    pub request_state_key: Option<Secret>,
    /// Whether tools may be called without MCP.
    pub rest_shim: bool,
}

impl Network {
    /// For a server that does not listen.
    #[must_use]
    pub const fn none() -> Self {
        let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Self {
            listen: nowhere,
            metrics_listen: nowhere,
            admin_listen: nowhere,
            profile: false,
            path: String::new(),
            names: Names {
                hosts: HostPolicy::Loopback,
                origins: OriginPolicy::Loopback,
            },
            request_state_key: None,
            rest_shim: false,
        }
    }
}

/// Where a server's data is.
#[derive(Debug, Clone)]
pub struct Data {
    /// The database.
    pub database: DatabaseTarget,
    /// What stands between the server and Postgres.
    pub pooler: Pooler,
    /// Redis, if there is one.
    pub redis_url: Option<String>,
    /// How long, and how many, sessions of clients up to 2025-11-25 stay in memory.
    pub sessions: Stay,
}

/// What decides about capacity besides the figures.
#[derive(Debug, Clone, Default)]
pub struct Capacity {
    /// Who may change the figures.
    pub authority: Authority,
    /// Whether the queue was set, so that it does not follow the concurrency.
    pub queue_set: bool,
    /// When to shed before the slots are full.
    pub adaptive: AdaptiveSettings,
}

/// How a server's process runs.
#[derive(Debug, Clone)]
pub struct Operation {
    /// What to offer besides the toolsets.
    pub fixtures: Fixtures,
    /// Longest time from the start of the drain to the end of the process.
    pub drain: Duration,
}

/// What to offer for measuring and judging the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fixtures {
    /// Nothing.
    None,
    /// Tools for load tests.
    Load,
    /// What the official conformance suite asks for.
    Conformance,
}

/// Bytes that must not be shown.
#[derive(Clone)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("…")
    }
}
