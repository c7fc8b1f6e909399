//! The protocol: MCP over streamable HTTP, both eras at one path.
//!
//! rmcp speaks the protocol, except for plain calls of tools, which `direct` answers as rmcp would. In front of it,
//! `endpoint` decides who is answered ([`hosts`]), what needs a slot, and when an answer is complete; behind it,
//! `handler` runs what the catalog offers. [`sessions`] of clients up to 2025-11-25 live at any replica, and so do
//! calls in several rounds ([`request_state`]) of clients of 2026-07-28.

mod accept;
mod answer;
mod body;
mod called;
mod direct;
pub mod endpoint;
mod handler;
mod headers;
pub mod hosts;
mod message;
mod record;
pub mod request_state;
mod rest;
mod restore;
pub mod sessions;
mod subscriptions;
mod unreadable;

pub use endpoint::{Endpoint, Options};
pub use handler::McpHandler;
pub(crate) use headers::SESSION_ID;
pub use hosts::{HostPolicy, Names, OriginPolicy};
pub(crate) use message::methods;
pub use request_state::RequestStates;
pub use sessions::ClientLog;

use crate::database::Migration;

/// The protocol's own tables, in order.
#[must_use]
pub fn migrations() -> Vec<Migration> {
    [sessions::MIGRATIONS, request_state::MIGRATIONS].concat()
}
