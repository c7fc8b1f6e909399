//! Sessions of clients up to 2025-11-25, at any replica.
//!
//! What a session is lies in the database (`store`): what the client said in `initialize`, what it subscribed to. A
//! replica takes a session into memory when a request for it arrives (`manager`), and lets it go when nobody uses it,
//! or when there are too many (`uses`).
//! The messages for a client flow on streams: the answer to each POST (`replay`), and news on the stream that the
//! client opens with GET (`news`). A stream that breaks goes on where it was, at any replica. Where one replica needs
//! another (the client sent something meant for a call that runs there, or asks there for the rest of a stream), it
//! writes it a letter (`exchange`). One that ends leaves its streams in the database, where no letter is needed, and so
//! does one with more lost answers than it has room for.

mod exchange;
mod ids;
mod log;
mod manager;
mod news;
mod postage;
mod replay;
mod schema;
mod store;
mod uses;

pub use log::ClientLog;
pub use manager::SharedSessions;
pub use schema::MIGRATIONS;
pub use store::{SUBSCRIPTIONS_MAX, SessionRecords};
pub use uses::Stay;

pub(crate) use log::severity;
pub(super) use manager::{session_topic, takes_empty_events};
