//! Connections of the MCP address: how they are accepted, encrypted, bounded in time and number, and closed.
//!
//! HTTP/1.1 only. Clients that speak HTTP/2 reach the server through a proxy that does; its limits are other ones.

mod activity;
mod bodies;
mod compression;
mod connections;
mod pages;
pub mod settings;
mod tls;

pub(crate) use bodies::{OutOfMemory, RETRY_SECONDS, keep_body, weight};
pub(crate) use compression::compression;
pub use connections::{Connections, Peer};
pub(crate) use pages::PagesLayer;
pub use settings::{Settings, TlsFiles};
pub use tls::{InvalidTls, Tls};
