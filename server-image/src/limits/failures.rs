//! Failed authentications of one address: beyond a burst, whoever tries keys and tokens is told to wait.
//!
//! What is valid passes all the same, from the same address too: behind a proxy that is not trusted all clients have
//! one address, and nobody may lock out the others. So this bounds what tries cost and makes them visible; that none of
//! them succeeds is up to keys and tokens that are random and long. What honest clients send, a request without a
//! credential or an issuer's token that was valid once, does not count. A token of an agent does: once it has ended, it
//! is not kept, so nobody can tell it from an invented one.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use http::{Extensions, HeaderMap, StatusCode};
use ipnet::IpNet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use serde_json::Value;

use super::local::Local;
use super::{Class, Rate, Settings, caller, whole_seconds};
use crate::auth::refusal::refused_for;

/// Addresses whose failures are remembered, about 2 MiB.
const ADDRESSES_MAX: usize = 10_000;

/// The failures that one server process has seen.
pub struct Failures {
    rate: Rate,
    trusted_proxies: Vec<IpNet>,
    local: Local,
    limited: Counter,
}

/// An address has failed too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many failed authentications from this address; try again in {} s", self.seconds())]
pub struct TooManyFailures(Duration);

impl Failures {
    /// No failures yet.
    #[must_use]
    pub fn new(settings: &Settings, registry: &mut Registry) -> Arc<Self> {
        let limited = Counter::default();
        registry.register(
            "mcp_auth_failures_limited",
            "Failed authentications that were answered with 429, because their address has too many",
            limited.clone(),
        );
        Arc::new(Self {
            rate: settings.failures,
            trusted_proxies: settings.trusted_proxies.clone(),
            local: Local::new(ADDRESSES_MAX),
            limited,
        })
    }

    /// Counts a failed authentication of a request.
    ///
    /// # Errors
    /// [`TooManyFailures`] when its address has had as many as it may.
    pub fn count(&self, extensions: &Extensions, headers: &HeaderMap) -> Result<(), TooManyFailures> {
        let address = caller::by_address(extensions, headers, &self.trusted_proxies);
        let counted = self.local.check(Class::Auth, address, &[self.rate]);
        counted.map_err(|wait| {
            self.limited.inc();
            TooManyFailures(wait)
        })
    }
}

impl TooManyFailures {
    /// When the next failure would be told as such, in seconds.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        whole_seconds(self.0)
    }

    /// The answer, 429.
    #[must_use]
    pub fn answer(&self) -> Response {
        refused_for(
            self.seconds(),
            StatusCode::TOO_MANY_REQUESTS,
            "auth_rate_limited",
            &self.to_string(),
            &Value::Null,
        )
    }
}
