//! Rate limits: how often one caller may ask.
//!
//! - A caller is its verified name, or else its address; see [`caller`].
//! - A class of requests has one or more rates, all of which must allow a request; see [`classes`]. Nothing is limited
//!   unless it is set.
//! - Each rate is a GCRA: a whole period's requests may come at once, then they come back evenly. A request that is
//!   refused costs nothing in the rate that refused it, nor in longer ones.
//! - Limits hold for each replica, or, with `--rate-limit-scope global`, for all of them together, through Redis. Every
//!   replica keeps count for itself as well: it alone decides while Redis does not answer, at the full rate, so that
//!   then all replicas together allow at most their number times as much. Each such decision is counted in
//!   `mcp_rate_limit_fallbacks_total`.
//! - Failed authentications are always limited, by address: see [`failures`].

pub mod caller;
pub mod classes;
pub mod failures;
mod global;
mod local;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use http::StatusCode;
use http::request::Parts;
use ipnet::IpNet;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde_json::Value;

pub use classes::{Class, InvalidRates, Rate, Rates};
pub use failures::{Failures, TooManyFailures};
pub use global::InvalidRedis;

use crate::auth::refusal::refused_for;
use crate::guard::Wanted;
use global::Global;
use local::{CALLERS_MAX, Local};

/// Failed authentications of one address unless set otherwise.
pub const FAILURES: Rate = Rate {
    requests: NonZeroU32::MIN.saturating_add(19),
    period: Duration::from_mins(1),
};

/// What is set about rate limits.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Rates of each class.
    pub rates: Rates,
    /// Whether replicas share their limits through Redis.
    pub global: bool,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How often authentication may fail from one address before it is told to wait.
    pub failures: Rate,
}

impl Default for Settings {
    /// Nothing is limited but failed authentications.
    fn default() -> Self {
        Self {
            rates: Rates::default(),
            global: false,
            trusted_proxies: Vec::new(),
            failures: FAILURES,
        }
    }
}

/// The limits of one server process.
pub struct RateLimits {
    rates: Rates,
    trusted_proxies: Vec<IpNet>,
    local: Local,
    global: Option<Global>,
    limited: Family<ClassLabel, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ClassLabel {
    class: &'static str,
}

/// A request came too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooEarly {
    /// The class whose rate it exceeds.
    pub class: Class,
    /// When the same request would be allowed.
    pub wait: Duration,
}

impl RateLimits {
    /// What `settings` ask for; `None` when nothing is limited.
    ///
    /// # Errors
    /// [`InvalidRedis`] when limits are to be global and there is no usable Redis.
    pub fn open(
        settings: &Settings,
        redis_url: Option<&str>,
        registry: &mut Registry,
    ) -> Result<Option<Arc<Self>>, InvalidRedis> {
        if settings.rates.is_empty() {
            return Ok(None);
        }
        let global = settings.global.then(|| Global::open(redis_url, registry)).transpose()?;
        let limited = Family::<ClassLabel, Counter>::default();
        for class in settings.rates.classes() {
            drop(limited.get_or_create(&ClassLabel { class: class.name() }));
        }
        registry.register(
            "mcp_rate_limited_requests",
            "Requests refused because their caller asks too often",
            limited.clone(),
        );
        Ok(Some(Arc::new(Self {
            rates: settings.rates.clone(),
            trusted_proxies: settings.trusted_proxies.clone(),
            local: Local::new(CALLERS_MAX),
            global,
            limited,
        })))
    }

    /// Counts a request.
    ///
    /// # Errors
    /// [`TooEarly`] when its caller must wait.
    pub async fn check(&self, request: &Parts, wanted: &Wanted<'_>) -> Result<(), TooEarly> {
        let caller = caller::of(request, &self.trusted_proxies);
        for class in Class::of(wanted) {
            let rates = self.rates.of(class);
            if rates.is_empty() {
                continue;
            }
            let mut wait = self.local.check(class, caller, rates);
            if let (Ok(()), Some(global)) = (wait, &self.global) {
                wait = Box::pin(global.check(class, caller, rates)).await;
            }
            if let Err(wait) = wait {
                self.limited.get_or_create(&ClassLabel { class: class.name() }).inc();
                return Err(TooEarly { class, wait });
            }
        }
        Ok(())
    }
}

impl TooEarly {
    /// The answer, 429; `id` is the JSON-RPC request's.
    #[must_use]
    pub fn answer(&self, id: &Value) -> Response {
        let seconds = whole_seconds(self.wait);
        let message = format!(
            "too many requests of the class `{}` by this caller; try again in {seconds} s",
            self.class.name()
        );
        refused_for(seconds, StatusCode::TOO_MANY_REQUESTS, "rate_limited", &message, id)
    }
}

/// Whoever comes back after so many seconds is not early again.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_to_come_back_too_early() {
        for (millis, seconds) in [(1, 1), (1000, 1), (1001, 2), (59_999, 60)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
        }
    }
}
