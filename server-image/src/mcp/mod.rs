//! The protocol: MCP over streamable HTTP, both eras at one path.
//!
//! rmcp speaks the protocol. In front of it, `endpoint` decides what needs a slot and when an answer is complete;
//! behind it, `handler` runs the tools, and `sessions` keeps what sessions of clients up to 2025-11-25 need in the
//! database, so that any replica can go on with them.

mod answer;
pub mod endpoint;
mod handler;
mod message;
mod record;
mod restore;
pub mod sessions;
mod subscriptions;

pub use endpoint::{Endpoint, HostPolicy, Options};
pub use handler::McpHandler;
