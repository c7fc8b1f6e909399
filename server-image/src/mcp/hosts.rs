//! Which `Host` and which `Origin` a request may name.
//!
//! A page of the Internet can make a browser send requests to a server that only this machine, or only this network,
//! can reach. It cannot change these two headers.

use axum::response::Response;
use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use serde_json::Value;

use crate::auth::refusal::refused;

/// The names of this machine.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Which `Host` a request may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPolicy {
    /// Any: the server is reached through a Service, under names it cannot know.
    Any,
    /// The names of this machine: the server listens on loopback.
    Loopback,
    /// These names, with or without a port.
    Only(Vec<Place>),
}

/// Which `Origin` a request may name, if it names one; only browsers do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPolicy {
    /// Any: whoever can reach the server may use it from a browser.
    Any,
    /// Pages that come from this machine.
    Loopback,
    /// Pages that come from these places; an empty list allows none.
    Only(Vec<Origin>),
}

/// A name, with a port if it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    name: String,
    port: Option<u16>,
}

/// Where a page comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    place: Place,
    /// Whether any port is meant; else `place.port`, or the usual one of the scheme.
    is_any_port: bool,
}

impl Place {
    /// Reads `name`, `name:port`, or an IPv6 address in brackets.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let authority: Authority = text
            .parse()
            .map_err(|_| format!("{text:?} is not a host name such as mcp.example.com or mcp.example.com:8080"))?;
        if text.contains('@') {
            return Err(format!("{text:?} must not name a user"));
        }
        Ok(Self::of(&authority))
    }

    fn of(authority: &Authority) -> Self {
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        Self {
            name: name.trim_end_matches('.').to_ascii_lowercase(),
            port: authority.port_u16(),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        self.name == other.name && (self.port.is_none() || self.port == other.port)
    }
}

impl Origin {
    /// Reads `scheme://name`, `scheme://name:port`, or `scheme://name:*` for any port.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an origin such as https://app.example.com or http://localhost:*");
        let (base, is_any_port) = text.strip_suffix(":*").map_or((text, false), |base| (base, true));
        let (scheme, authority) = base.split_once("://").ok_or_else(wrong)?;
        let place = Place::parse(authority).map_err(|_| wrong())?;
        let is_plain = !scheme.is_empty()
            && scheme
                .chars()
                .all(|character| character.is_ascii_alphanumeric() || "+-.".contains(character));
        if !is_plain || (is_any_port && place.port.is_some()) {
            return Err(wrong());
        }
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            place,
            is_any_port,
        })
    }

    fn covers(&self, other: &Self) -> bool {
        let is_port = self.is_any_port || self.port() == other.port();
        self.scheme == other.scheme && self.place.name == other.place.name && is_port
    }

    fn port(&self) -> Option<u16> {
        self.place.port.or(match self.scheme.as_str() {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        })
    }
}

/// What requests may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Which `Host`.
    pub hosts: HostPolicy,
    /// Which `Origin`.
    pub origins: OriginPolicy,
}

impl Names {
    /// Whether a request with these headers may be served; else the answer to it.
    ///
    /// # Errors
    /// The answer: 400 for a missing or malformed `Host`, 403 for a name that is not allowed.
    pub fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Box<Response>> {
        // HTTP/2 has no Host header but the same in the URI.
        let host = match headers.get(HOST) {
            Some(value) => value.to_str().ok().and_then(|text| Place::parse(text).ok()),
            None => uri.authority().map(Place::of),
        };
        let Some(host) = host else {
            return Err(Box::new(refuse(
                StatusCode::BAD_REQUEST,
                "host_malformed",
                "the Host header is missing or malformed",
            )));
        };
        if !self.hosts.allows(&host) {
            tracing::warn!(host = %host.name, "refused a request: its Host is not in --allowed-hosts");
            return Err(Box::new(refuse(
                StatusCode::FORBIDDEN,
                "host_not_allowed",
                "this server does not answer under the name in the Host header; see --allowed-hosts",
            )));
        }
        let Some(origin) = headers.get(ORIGIN) else {
            return Ok(());
        };
        if self.origins.allows(origin) {
            return Ok(());
        }
        tracing::warn!(?origin, "refused a request: its Origin is not in --allowed-origins");
        Err(Box::new(refuse(
            StatusCode::FORBIDDEN,
            "origin_not_allowed",
            "this server does not answer to pages of the Origin in the header; see --allowed-origins",
        )))
    }
}

impl HostPolicy {
    fn allows(&self, host: &Place) -> bool {
        match self {
            Self::Any => true,
            Self::Loopback => LOOPBACK.contains(&host.name.as_str()),
            Self::Only(places) => places.iter().any(|place| place.covers(host)),
        }
    }
}

impl OriginPolicy {
    /// Whether pages that say that they come from `origin` may use the server.
    #[must_use]
    pub fn allows(&self, origin: &HeaderValue) -> bool {
        let origin = origin.to_str().ok().and_then(|text| Origin::parse(text).ok());
        match (self, origin) {
            (Self::Any, _) => true,
            (_, None) => false,
            (Self::Loopback, Some(origin)) => {
                LOOPBACK.contains(&origin.place.name.as_str()) && origin.scheme.starts_with("http")
            }
            (Self::Only(origins), Some(origin)) => origins.iter().any(|allowed| allowed.covers(&origin)),
        }
    }
}

fn refuse(status: StatusCode, reason: &str, message: &str) -> Response {
    refused(status, reason, message, &Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(names: &Names, host: Option<&str>, origin: Option<&str>) -> u16 {
        let mut headers = HeaderMap::new();
        for (name, value) in [(HOST, host), (ORIGIN, origin)] {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::from_str(value).unwrap());
            }
        }
        let checked = names.check(&Uri::from_static("/mcp"), &headers);
        checked.map_or_else(|refused| refused.status().as_u16(), |()| 200)
    }

    /// One mistake here lets any page that a user visits use the user's server.
    #[expect(clippy::too_many_lines, reason = "a table")]
    #[test]
    fn pages_of_elsewhere_are_refused() {
        let loopback = Names {
            hosts: HostPolicy::Loopback,
            origins: OriginPolicy::Loopback,
        };
        let service = Names {
            hosts: HostPolicy::Any,
            origins: OriginPolicy::Only(Vec::new()),
        };
        let named = Names {
            hosts: HostPolicy::Only(vec![
                Place::parse("mcp.example.com").unwrap(),
                Place::parse("b:8080").unwrap(),
            ]),
            origins: OriginPolicy::Only(
                ["https://app.example.com", "http://dev:*"]
                    .map(|text| Origin::parse(text).unwrap())
                    .to_vec(),
            ),
        };
        for (name, names, host, origin, expected) in [
            ("a local client", &loopback, Some("localhost:8080"), None, 200),
            ("IPv6", &loopback, Some("[::1]:8080"), None, 200),
            ("capitals and a last dot", &loopback, Some("LocalHost."), None, 200),
            ("a rebound name", &loopback, Some("evil.example:8080"), None, 403),
            (
                "a name that begins like ours",
                &loopback,
                Some("localhost.evil.example"),
                None,
                403,
            ),
            ("no host", &loopback, None, None, 400),
            ("an odd host", &loopback, Some("a b"), None, 400),
            (
                "a user in the host",
                &loopback,
                Some("localhost@evil.example"),
                None,
                400,
            ),
            (
                "a local page",
                &loopback,
                Some("localhost"),
                Some("http://127.0.0.1:3000"),
                200,
            ),
            (
                "a foreign page",
                &loopback,
                Some("localhost"),
                Some("https://evil.example"),
                403,
            ),
            ("a page without origin", &loopback, Some("localhost"), Some("null"), 403),
            (
                "a name that ends like ours",
                &loopback,
                Some("localhost"),
                Some("http://evil.localhost"),
                403,
            ),
            ("behind a Service", &service, Some("context.agents.svc"), None, 200),
            (
                "a page, behind a Service",
                &service,
                Some("context.agents.svc"),
                Some("https://evil.example"),
                403,
            ),
            (
                "a local page, behind a Service",
                &service,
                Some("x"),
                Some("http://localhost"),
                403,
            ),
            ("our name", &named, Some("mcp.example.com:8443"), None, 200),
            ("our other name, its port", &named, Some("b:8080"), None, 200),
            ("our other name, another port", &named, Some("b:80"), None, 403),
            ("our page", &named, Some("b:8080"), Some("https://app.example.com"), 200),
            (
                "our page, usual port",
                &named,
                Some("b:8080"),
                Some("https://app.example.com:443"),
                200,
            ),
            (
                "our page, another port",
                &named,
                Some("b:8080"),
                Some("https://app.example.com:444"),
                403,
            ),
            (
                "our page, without encryption",
                &named,
                Some("b:8080"),
                Some("http://app.example.com"),
                403,
            ),
            ("any port", &named, Some("b:8080"), Some("http://dev:1234"), 200),
        ] {
            assert_eq!(status(names, host, origin), expected, "{name}");
        }
    }

    #[test]
    fn mistakes_in_lists_are_named() {
        for text in [
            "",
            "app.example.com",
            "https://",
            "https://a b",
            "https://a:1:*",
            "://a",
            "https://a/path",
        ] {
            assert!(Origin::parse(text).is_err(), "{text:?}");
        }
        for text in ["", "a b", "http://a", "user@a"] {
            assert!(Place::parse(text).is_err(), "{text:?}");
        }
    }
}
