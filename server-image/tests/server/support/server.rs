//! Servers in the test's own process.

use std::net::SocketAddr;
use std::time::Duration;

use mcp_server::admission::adaptive::AdaptiveSettings;
use mcp_server::cache::CacheSettings;
use mcp_server::database::Pooler;
use mcp_server::mcp::sessions::Stay;
use mcp_server::mcp::{HostPolicy, Names, OriginPolicy};
use mcp_server::server::{Capacity, Data, Fixtures, Network, Operation, Server, Settings};
use mcp_server::telemetry::TelemetrySettings;
use mcp_server::tools::shared_context::SharedContextSettings;
use mcp_server::tuning::Tuning;
use serde_json::json;
use tempfile::TempDir;

use super::client::Client;
use super::metrics::Scrape;
use super::redis::PATIENCE;
use super::until;

/// A server and how to reach it.
pub struct TestServer {
    /// The server.
    pub server: Server,
    /// An MCP client of it.
    pub client: Client,
}

/// Settings on free ports, with the tools for load tests.
pub fn settings(database_url: &str) -> Settings {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Settings {
        network: Network {
            listen: any,
            metrics_listen: any,
            admin_listen: any,
            profile: false,
            path: "/mcp".to_owned(),
            names: Names {
                hosts: HostPolicy::Loopback,
                origins: OriginPolicy::Loopback,
            },
            request_state_key: None,
            rest_shim: false,
        },
        transport: mcp_server::transport::Settings::default(),
        auth: mcp_server::auth::Settings::default(),
        // Tests send many wrong keys, all from one address.
        limits: mcp_server::limits::Settings {
            failures: "1000000/s".parse().unwrap(),
            ..mcp_server::limits::Settings::default()
        },
        data: Data {
            database: database_url.parse().unwrap(),
            pooler: Pooler::None,
            redis_url: None,
            sessions: Stay {
                idle: Duration::from_mins(5),
                max: 10_000,
            },
        },
        tuning: Tuning {
            pool_max: 4,
            concurrency: 16,
            queue_max: 32,
        },
        shared_context: SharedContextSettings::default(),
        // What sheds on a slow machine would fail tests of other things.
        capacity: Capacity {
            adaptive: AdaptiveSettings {
                enabled: false,
                ..AdaptiveSettings::default()
            },
            ..Capacity::default()
        },
        // Each read is checked, so that tests need not wait for what another replica has written.
        cache: CacheSettings {
            staleness: Duration::ZERO,
            redis_answer: PATIENCE,
            ..CacheSettings::default()
        },
        operation: Operation {
            fixtures: Fixtures::Load,
            drain: Duration::from_secs(10),
        },
        telemetry: TelemetrySettings::default(),
    }
}

/// The same with an empty SQLite file, which goes with the folder.
pub fn file_settings() -> (Settings, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("test.db").display());
    (settings(&url), folder)
}

impl TestServer {
    /// Starts a server and waits until it is ready.
    pub async fn start(settings: Settings) -> Self {
        let server = Self::start_unready(settings).await;
        until("the server is ready", async || {
            (server.probe("readyz").await == 200).then_some(())
        })
        .await;
        server
    }

    /// Starts a server.
    pub async fn start_unready(settings: Settings) -> Self {
        let server = Server::start(settings).await.unwrap();
        let client = Client::new(format!("http://{}/mcp", server.mcp));
        Self { server, client }
    }

    /// Status of a path at the metrics port.
    pub async fn probe(&self, path: &str) -> u16 {
        reqwest::get(format!("http://{}/{path}", self.server.metrics))
            .await
            .unwrap()
            .status()
            .as_u16()
    }

    /// All metrics now.
    pub async fn scrape(&self) -> Scrape {
        Scrape::of(self.server.metrics).await
    }

    /// Waits until `count` calls wait at the SQLite file, which somebody has locked for writers. They are admitted; and
    /// readers, whom nobody holds up, come there behind them and go.
    pub async fn until_at_file(&self, count: f64) {
        self.until_metric("mcp_in_flight_requests", count).await;
        for _ in 0..10 {
            self.client.call("get_memory", json!({"key": "of nobody"})).await;
        }
    }

    /// Waits until an unlabelled metric has a value.
    pub async fn until_metric(&self, name: &str, value: f64) {
        let what = format!("{name} is {value}");
        until(&what, async || {
            (self.scrape().await.sum(name, &[]) == Some(value)).then_some(())
        })
        .await;
    }
}
