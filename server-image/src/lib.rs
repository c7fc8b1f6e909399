//! The MCP server that mcpscale runs by default.
//!
//! One process answers MCP over streamable HTTP in both protocol eras: 2026-07-28, which is stateless, and the
//! revisions up to 2025-11-25, which hold sessions. All state is in the database, so any replica serves any client.
//!
//! Where things live:
//! - [`cli`], [`tuning`], [`logging`]: what a person or the operator sets.
//! - [`stdio`]: the same for one client that starts it as a program of its own.
//! - [`server`], [`drain`], [`readiness`], [`probes`]: the process: its listeners, how it starts and how it ends.
//! - [`mcp`]: the protocol; [`admission`]: how much of it is served at once.
//! - [`changes`]: news of what has changed, between replicas.
//! - [`transport`]: connections; [`auth`]: who may call; [`limits`]: how often; [`guard`]: what a caller may ask for.
//! - [`metrics`]: what is measured; [`telemetry`]: logs and traces of requests; [`health`]: how the server is;
//!   [`report`]: what limits it.
//! - [`database`]: connections and schema; [`tools`]: the toolsets. A toolset is one folder: its tools, its storage,
//!   its tests.

pub mod admission;
pub mod auth;
pub mod cache;
pub mod cgroup;
pub mod changes;
pub mod cli;
pub mod database;
pub mod drain;
pub mod guard;
pub mod health;
pub mod healthcheck;
pub mod limits;
pub mod logging;
pub mod mcp;
pub mod memory;
pub mod metrics;
pub mod migrate;
pub mod permits;
pub mod probes;
pub mod profile;
pub mod readiness;
pub mod report;
pub mod server;
pub mod stdio;
pub mod telemetry;
pub mod tools;
pub mod transport;
pub mod tuning;
mod watch;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`; a panic of another holder does not matter, because every critical section here leaves plain
/// counters that are valid at each step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
