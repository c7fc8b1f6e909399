//! The HTTP headers of MCP. Their names as constants: looking up one that must be read from a text first takes three
//! times as long.

use http::{HeaderMap, HeaderName};

/// Revision of the protocol that a request is of.
pub(super) const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// Method of the message in the body, from 2026-07-28 on.
pub(super) const METHOD: HeaderName = HeaderName::from_static("mcp-method");
/// Tool, prompt or resource that the message names, from 2026-07-28 on.
pub(super) const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// Session of a client up to 2025-11-25.
pub(crate) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// Last event that a client has of a stream it had lost.
pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// A header's value, if it is there and a text.
pub(super) fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The value of a header that is there once.
pub(super) fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok();
    if values.next().is_some() { None } else { value }
}
