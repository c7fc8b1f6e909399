//! The way to a collector: OTLP over HTTP.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Bytes;
use http::uri::Authority;
use http::{Request, Response, Uri};
use opentelemetry_http::{HttpClient, HttpError};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Longest wait for the collector's answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Where collectors take traces, by the standard.
const TRACES_PATH: &str = "/v1/traces";

/// The URL that traces are sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpEndpoint(Uri);

/// A URL that cannot be used. It is not repeated: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "--otlp-endpoint (MCP_OTLP_ENDPOINT) must be the http:// or https:// URL of a collector, such as \
     http://collector:4318, without user and password: credentials belong into OTEL_EXPORTER_OTLP_HEADERS"
)]
pub struct InvalidEndpoint;

impl FromStr for OtlpEndpoint {
    type Err = InvalidEndpoint;

    /// A URL without a path gets the standard one, `/v1/traces`.
    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let uri: Uri = text.parse().map_err(|_| InvalidEndpoint)?;
        let host = uri.authority().map(Authority::as_str).unwrap_or_default();
        // The HTTP client would log a password as part of the host's name.
        if !matches!(uri.scheme_str(), Some("http" | "https")) || host.is_empty() || host.contains('@') {
            return Err(InvalidEndpoint);
        }
        if uri.path() != "/" {
            return Ok(Self(uri));
        }
        let with_path = format!("{}{TRACES_PATH}", text.trim_end_matches('/'));
        Ok(Self(with_path.parse().map_err(|_| InvalidEndpoint)?))
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Sends what the exporter's own thread gives it on the server's runtime, and tells when the collector stops or begins
/// to answer.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    runtime: Handle,
    endpoint: OtlpEndpoint,
    failing: AtomicBool,
}

impl Client {
    /// Needs a running runtime.
    pub(super) fn new(endpoint: OtlpEndpoint) -> Result<Self, reqwest::Error> {
        Ok(Self {
            http: reqwest::Client::builder().timeout(ANSWER).build()?,
            runtime: Handle::current(),
            endpoint,
            failing: AtomicBool::new(false),
        })
    }

    fn tell(&self, result: &Result<Response<Bytes>, HttpError>) {
        let problem = match result {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answers {}", response.status())),
            Err(error) => Some(error.to_string()),
        };
        if self.failing.swap(problem.is_some(), Ordering::Relaxed) == problem.is_some() {
            return;
        }
        let collector = &self.endpoint;
        if let Some(problem) = problem {
            tracing::warn!(%collector, %problem, "traces are lost: the collector does not take them");
        } else {
            tracing::info!(%collector, "the collector takes traces again");
        }
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (sender, answer) = oneshot::channel();
        let http = self.http.clone();
        self.runtime.spawn(async move {
            // Nobody waits any more when the server ends.
            let _ = sender.send(send(&http, request).await);
        });
        let result = answer.await.unwrap_or_else(|_| Err("the server ends".into()));
        self.tell(&result);
        result
    }
}

async fn send(http: &reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let request = reqwest::Request::try_from(request)?;
    // The log names the collector already.
    let answer = http.execute(request).await.map_err(reqwest::Error::without_url)?;
    let status = answer.status();
    let body = answer.bytes().await.map_err(reqwest::Error::without_url)?;
    let mut response = Response::new(body);
    *response.status_mut() = status;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Traces that go to the wrong path are lost without a word.
    #[test]
    fn the_standard_path_is_added() {
        for (given, sent_to) in [
            ("http://c:4318", "http://c:4318/v1/traces"),
            ("http://c:4318/", "http://c:4318/v1/traces"),
            ("https://c/otlp/v1/traces", "https://c/otlp/v1/traces"),
        ] {
            assert_eq!(given.parse::<OtlpEndpoint>().unwrap().to_string(), sent_to);
        }
        for wrong in [
            "collector:4318",
            "grpc://c:4317",
            "",
            "http://",
            "/v1/traces",
            "http://u:hidden@c:4318",
        ] {
            assert_eq!(wrong.parse::<OtlpEndpoint>(), Err(InvalidEndpoint), "{wrong}");
        }
    }
}
