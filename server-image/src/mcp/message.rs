//! A first look at a JSON-RPC message: just enough to know whether it needs a slot and how to count it.
//!
//! rmcp parses the message again and judges it; nothing here accepts or refuses anything.

use serde::Deserialize;
use serde::de::IgnoredAny;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::guard::Wanted;
use crate::tools::ToolRegistry;

/// JSON-RPC methods of MCP requests; metrics know no others.
const METHODS: &[&str] = &[
    "completion/complete",
    INITIALIZE,
    "logging/setLevel",
    "prompts/get",
    "prompts/list",
    "resources/list",
    "resources/read",
    SUBSCRIBE,
    "resources/templates/list",
    "resources/unsubscribe",
    "server/discover",
    TOOLS_CALL,
    "tools/list",
];
/// Those that only clients up to 2025-11-25 send.
const OF_SESSIONS: &[&str] = &[INITIALIZE, PING, "logging/setLevel", SUBSCRIBE, "resources/unsubscribe"];
pub(super) const TOOLS_CALL: &str = "tools/call";
pub(super) const INITIALIZE: &str = "initialize";
const SUBSCRIBE: &str = "resources/subscribe";
const LISTEN: &str = "subscriptions/listen";
const PING: &str = "ping";
/// Stands for whatever is not on a list.
const OTHER: &str = "other";
/// Stands for tools that do not exist.
pub(super) const UNKNOWN_TOOL: &str = "unknown";

/// Revisions of the protocol; metrics know no others.
const PROTOCOL_VERSIONS: &[&str] = &["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"];
/// Those that have sessions.
pub(super) const SESSION_VERSIONS: &[&str] = &["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
/// What a client without the header speaks, by the protocol's own rule.
const PROTOCOL_VERSION_DEFAULT: &str = "2025-03-26";

/// Whether MCP has a request of this method, for clients with sessions or for those without.
pub(super) fn is_known(method: &str, has_sessions: bool) -> bool {
    if OF_SESSIONS.contains(&method) {
        return has_sessions;
    }
    METHODS.contains(&method) || method == LISTEN
}

/// The methods by which a request is known to those who decide whether it may, besides that of tools.
pub(crate) fn methods() -> impl Iterator<Item = &'static str> {
    let methods = METHODS.iter().copied().chain([LISTEN]);
    methods.filter(|method| *method != TOOLS_CALL)
}

/// Whether there is this revision of the protocol.
pub(super) fn is_revision(version: &str) -> bool {
    PROTOCOL_VERSIONS.contains(&version)
}

/// What a POST carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A request that does work, and needs a slot for it.
    Request {
        /// Its method.
        method: &'static str,
        /// Its tool, empty unless it calls one.
        tool: &'static str,
    },
    /// A stream that stays open and does nothing by itself.
    Listen,
    /// A notification, a response, or a ping: no work, no slot.
    Light,
}

impl Kind {
    /// Whether it opens a session.
    pub(super) fn is_initialize(self) -> bool {
        matches!(self, Self::Request { method, .. } if method == INITIALIZE)
    }

    /// Whether the server keeps something for its client when it is answered.
    pub(super) fn stays(self) -> bool {
        let subscribes = matches!(self, Self::Request { method, .. } if method == SUBSCRIBE);
        self == Self::Listen || self.is_initialize() || subscribes
    }
}

#[derive(Deserialize)]
struct Envelope {
    method: Option<String>,
    id: Option<IgnoredAny>,
    #[serde(default)]
    params: Option<Params>,
}

#[derive(Deserialize)]
struct Params {
    name: Option<String>,
}

/// Looks at the body of a POST. What cannot be read counts as a request, so that nothing gets around admission.
pub(super) fn kind(body: &[u8], tools: &ToolRegistry) -> Kind {
    let Ok(envelope) = serde_json::from_slice::<Envelope>(body) else {
        return Kind::Request {
            method: OTHER,
            tool: "",
        };
    };
    match (envelope.method.as_deref(), envelope.id) {
        (Some(PING), _) | (_, None) | (None, Some(_)) => Kind::Light,
        (Some(LISTEN), Some(_)) => Kind::Listen,
        (Some(TOOLS_CALL), Some(_)) => {
            let name = envelope.params.and_then(|params| params.name);
            let tool = name.and_then(|name| tools.known_name(&name)).unwrap_or(UNKNOWN_TOOL);
            Kind::Request {
                method: TOOLS_CALL,
                tool,
            }
        }
        (Some(method), Some(_)) => Kind::Request {
            method: known(METHODS, method),
            tool: "",
        },
    }
}

/// Whether everyone who reads a message that was looked at as `kind` sees the same method and the same tool in it.
pub(super) fn is_clear(kind: Kind, body: &[u8]) -> bool {
    let is_other = matches!(kind, Kind::Request { method: OTHER, .. });
    !is_other || serde_json::from_slice::<Envelope>(body).is_ok()
}

/// What a message that was looked at asks for, for those who decide whether it may.
pub(super) fn wanted(kind: Kind, body: &[u8]) -> Wanted<'static> {
    #[derive(Deserialize)]
    struct Identified<'a> {
        #[serde(default)]
        id: Value,
        #[serde(default, borrow)]
        params: Option<&'a RawValue>,
    }
    let (method, tool) = match kind {
        Kind::Request { method, tool } => (method, tool),
        Kind::Listen => (LISTEN, ""),
        Kind::Light => ("", ""),
    };
    let (id, params) = match serde_json::from_slice::<Identified<'_>>(body) {
        Ok(message) => (message.id, message.params),
        Err(_) => (Value::Null, None),
    };
    Wanted {
        method,
        tool,
        subject: params.and_then(|params| subject(method, params)).unwrap_or_default(),
        id,
    }
}

/// The resource or the prompt that `params` name.
fn subject(method: &str, params: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        name: Option<Value>,
        uri: Option<Value>,
    }
    let named = |params: &RawValue| serde_json::from_str::<Named>(params.get()).ok();
    let subject = match method {
        "resources/read" => named(params)?.uri?,
        "prompts/get" => named(params)?.name?,
        _ => return None,
    };
    subject.as_str().map(str::to_owned)
}

/// The protocol version a client names in its header.
pub(super) fn protocol_version(header: Option<&str>) -> &'static str {
    header.map_or(PROTOCOL_VERSION_DEFAULT, |version| known(PROTOCOL_VERSIONS, version))
}

fn known(list: &[&'static str], value: &str) -> &'static str {
    list.iter().find(|known| **known == value).unwrap_or(&OTHER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::fixtures;
    use proptest::prelude::*;

    fn look(body: &str) -> Kind {
        let mut tools = ToolRegistry::default();
        fixtures::register(&mut tools).unwrap();
        kind(body.as_bytes(), &tools)
    }

    const fn request(method: &'static str, tool: &'static str) -> Kind {
        Kind::Request { method, tool }
    }

    /// Work that took no slot would overload the server; a stream that took one would block it for hours.
    #[test]
    fn only_work_needs_a_slot() {
        for (name, body, expected) in [
            (
                "tool call",
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"simulate_work","arguments":{}}}"#,
                request("tools/call", "simulate_work"),
            ),
            (
                "string id",
                r#"{"id":"a","method":"tools/list"}"#,
                request("tools/list", ""),
            ),
            (
                "unknown tool",
                r#"{"id":1,"method":"tools/call","params":{"name":"x"}}"#,
                request("tools/call", "unknown"),
            ),
            (
                "call without name",
                r#"{"id":1,"method":"tools/call"}"#,
                request("tools/call", "unknown"),
            ),
            ("unknown method", r#"{"id":1,"method":"x/y"}"#, request("other", "")),
            ("notification", r#"{"method":"notifications/initialized"}"#, Kind::Light),
            ("response", r#"{"id":1,"result":{}}"#, Kind::Light),
            ("ping", r#"{"id":1,"method":"ping"}"#, Kind::Light),
            (
                "stream",
                r#"{"id":1,"method":"subscriptions/listen","params":{}}"#,
                Kind::Listen,
            ),
            ("not JSON", "{", request("other", "")),
            ("a list", r#"[{"id":1,"method":"ping"}]"#, request("other", "")),
            (
                "two methods",
                r#"{"id":1,"method":"ping","method":"tools/call"}"#,
                request("other", ""),
            ),
            (
                "odd name",
                r#"{"id":1,"method":"tools/call","params":{"name":7}}"#,
                request("other", ""),
            ),
        ] {
            assert_eq!(look(body), expected, "{name}");
        }
    }

    #[test]
    fn versions_come_from_a_list() {
        for (header, expected) in [
            (None, "2025-03-26"),
            (Some("2026-07-28"), "2026-07-28"),
            (Some("x"), "other"),
        ] {
            assert_eq!(protocol_version(header), expected);
        }
    }

    proptest! {
        /// Whatever a client sends, the server must not crash on it.
        #[test]
        fn any_bytes_are_looked_at_safely(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            kind(&body, &ToolRegistry::default());
        }
    }
}
