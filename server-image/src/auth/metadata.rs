//! Where clients learn whom to ask for a token: the protected resource metadata of RFC 9728.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, HOST};
use http::uri::Authority;
use http::{HeaderMap, Uri};
use serde_json::json;

use super::issuer::InvalidSource;

/// RFC 9728 section 3.
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
/// It changes only when the server starts with other settings.
const CACHED: &str = "public, max-age=300";

/// What clients are told.
#[derive(Debug)]
pub struct Metadata {
    /// The server's address as clients know it, without the path of the endpoint; `None` to take it from each request.
    origin: Option<String>,
    /// Path of the MCP endpoint.
    path: String,
    tls: bool,
    issuer: String,
    scopes: Vec<String>,
}

impl Metadata {
    /// The metadata of the endpoint at `path`, whose address for clients is `public_url`; without that, it is what each
    /// request says, https if the server itself speaks TLS (`tls`).
    ///
    /// # Errors
    /// [`InvalidSource`] for an address that is not the endpoint's.
    pub fn new(
        public_url: Option<&str>,
        path: &str,
        tls: bool,
        issuer: &str,
        scopes: Vec<String>,
    ) -> Result<Self, InvalidSource> {
        Ok(Self {
            origin: public_url.map(|url| origin(url, path)).transpose()?,
            path: path.to_owned(),
            tls,
            issuer: issuer.to_owned(),
            scopes,
        })
    }

    /// Address of the metadata, for the challenge of a 401.
    #[must_use]
    pub fn url(&self, headers: &HeaderMap) -> Option<String> {
        Some(format!("{}{WELL_KNOWN}{}", self.origin(headers)?, self.path))
    }

    /// The metadata at both addresses where clients look, without authentication.
    pub fn router(self: Arc<Self>) -> Router {
        let with_path = format!("{WELL_KNOWN}{}", self.path);
        let document = get(move |headers: HeaderMap| async move { self.document(&headers) });
        Router::new()
            .route(WELL_KNOWN, document.clone())
            .route(&with_path, document)
    }

    fn document(&self, headers: &HeaderMap) -> Response {
        let Some(origin) = self.origin(headers) else {
            return (
                http::StatusCode::BAD_REQUEST,
                "the Host header is missing or not a host",
            )
                .into_response();
        };
        let body = json!({
            "resource": format!("{origin}{}", self.path),
            "authorization_servers": [self.issuer],
            "scopes_supported": self.scopes,
            "bearer_methods_supported": ["header"],
            "resource_name": "mcpscale MCP server",
        });
        // Clients in a browser are of another origin; what is here is public.
        (
            [(CACHE_CONTROL, CACHED), (ACCESS_CONTROL_ALLOW_ORIGIN, "*")],
            Json(body),
        )
            .into_response()
    }

    fn origin(&self, headers: &HeaderMap) -> Option<String> {
        if let Some(origin) = &self.origin {
            return Some(origin.clone());
        }
        let text = |name| {
            headers
                .get(name)
                .and_then(|value: &http::HeaderValue| value.to_str().ok())
        };
        let host: Authority = text(HOST.as_str())?.parse().ok()?;
        // Whoever invents these headers misleads only itself: the answer is for this request alone.
        let proxied = text("x-forwarded-proto").is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        let scheme = if self.tls || proxied { "https" } else { "http" };
        (!host.as_str().contains('@')).then(|| format!("{scheme}://{host}"))
    }
}

fn origin(url: &str, path: &str) -> Result<String, InvalidSource> {
    let invalid = |problem| InvalidSource::Url {
        flag: "--public-url",
        url: url.to_owned(),
        problem,
    };
    let parsed: Uri = url.parse().map_err(|_| invalid("is not a URL"))?;
    let (Some(scheme @ ("https" | "http")), Some(authority)) = (parsed.scheme_str(), parsed.authority()) else {
        return Err(invalid("must be a whole URL, such as https://context.example.com/mcp"));
    };
    if parsed.path() != path || parsed.query().is_some() || authority.as_str().contains('@') || url.contains('#') {
        return Err(invalid(
            "must end with the path of the endpoint (--path), and nothing after it",
        ));
    }
    Ok(format!("{scheme}://{authority}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(public_url: Option<&str>, tls: bool) -> Result<Metadata, InvalidSource> {
        Metadata::new(public_url, "/mcp", tls, "https://issuer", Vec::new())
    }

    /// A client that is sent to a wrong address cannot log in.
    #[test]
    fn the_address_is_the_clients() {
        for (name, public_url, tls, headers, expected) in [
            (
                "set",
                Some("https://a.example/mcp"),
                false,
                &[("host", "pod:8080")][..],
                Some("https://a.example"),
            ),
            (
                "by the request",
                None,
                false,
                &[("host", "a:8080")],
                Some("http://a:8080"),
            ),
            ("own TLS", None, true, &[("host", "a")], Some("https://a")),
            (
                "TLS of a proxy",
                None,
                false,
                &[("host", "a"), ("x-forwarded-proto", "https")],
                Some("https://a"),
            ),
            ("no host", None, false, &[], None),
            ("odd host", None, false, &[("host", "a/b\"c")], None),
        ] {
            let headers = headers
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            let url = metadata(public_url, tls).unwrap().url(&headers.collect());
            let expected = expected.map(|origin| format!("{origin}/.well-known/oauth-protected-resource/mcp"));
            assert_eq!(url, expected, "{name}");
        }
        for url in [
            "a.example/mcp",
            "https://a.example",
            "https://a/mcp?x",
            "ftp://a/mcp",
            "https://u@a/mcp",
        ] {
            let message = metadata(Some(url), false).unwrap_err().to_string();
            assert!(message.contains("--public-url") && message.contains(url), "{message}");
        }
    }
}
