//! The connection to Prometheus: two queries a tick within a time limit of their own.

use super::cluster::ClusterSignals;
use super::query::{self, Spans};
use prometheus_http_query::response::{Data, InstantVector, RangeVector};
use prometheus_http_query::{Client, Error as QueryError};
use std::time::Duration;
use thiserror::Error;

/// How long Prometheus may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimits {
    /// To accept the connection.
    pub connect: Duration,
    /// For one query as a whole, its answer included.
    pub total: Duration,
}

impl Default for TimeLimits {
    /// Both queries run at once, so a tick of five seconds holds them with time left to decide.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            total: Duration::from_secs(3),
        }
    }
}

/// Why nothing could be sensed in a tick.
#[derive(Debug, Error)]
pub enum SignalError {
    /// The configured address is no HTTP URL.
    #[error("{url:?} is no usable Prometheus URL ({detail}); set --prometheus-url to one like http://prometheus:9090")]
    InvalidUrl {
        /// The configured text.
        url: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The HTTP client could not be set up.
    #[error("the HTTP client for Prometheus could not be set up: {0:?}; does the system have CA certificates?")]
    Client(#[source] reqwest::Error),
    /// No connection, or it broke.
    #[error(
        "Prometheus at {url} cannot be reached ({detail}); check that it runs and that the operator may connect to it"
    )]
    Unreachable {
        /// The configured address.
        url: String,
        /// The innermost cause.
        detail: String,
    },
    /// No answer within the time limit.
    #[error("Prometheus at {url} did not answer within {} s; check its load", limit.as_secs_f64())]
    TimedOut {
        /// The configured address.
        url: String,
        /// The limit that was exceeded.
        limit: Duration,
    },
    /// Prometheus, or a proxy before it, answered with an error.
    #[error("Prometheus at {url} refused the query: {detail}")]
    Refused {
        /// The configured address.
        url: String,
        /// What it said.
        detail: String,
    },
    /// The answer is not one of the Prometheus API.
    #[error("{url} did not answer like Prometheus ({detail}); check that the URL points at its API")]
    InvalidAnswer {
        /// The configured address.
        url: String,
        /// What is wrong with the answer.
        detail: String,
    },
}

impl SignalError {
    /// The stable name used for conditions, Events and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidUrl { .. } => "PrometheusUrlInvalid",
            Self::Client(_) => "PrometheusClientFailed",
            Self::Unreachable { .. } => "PrometheusUnreachable",
            Self::TimedOut { .. } => "PrometheusTimedOut",
            Self::Refused { .. } => "PrometheusRefused",
            Self::InvalidAnswer { .. } => "PrometheusAnswerInvalid",
        }
    }
}

/// Prometheus as the source of all signals. Cheap to clone.
#[derive(Clone)]
pub struct PrometheusSource {
    client: Client,
    url: String,
    spans: Spans,
    limits: TimeLimits,
}

impl PrometheusSource {
    /// Prepares queries to the Prometheus at `url` that scrapes every `scrape_interval`. Connects to nothing yet.
    ///
    /// # Errors
    /// [`SignalError::InvalidUrl`] when `url` is no HTTP URL, [`SignalError::Client`] when TLS cannot be set up.
    pub fn new(url: &str, scrape_interval: Duration, limits: TimeLimits) -> Result<Self, SignalError> {
        // Environment proxies are for traffic that leaves the cluster; a redirect leads to a login page, not to
        // metrics.
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(limits.connect)
            .timeout(limits.total)
            .build()
            .map_err(SignalError::Client)?;
        let invalid = |detail: String| SignalError::InvalidUrl {
            url: url.to_owned(),
            detail,
        };
        let client = Client::from(http, url).map_err(|error| invalid(innermost(&error).to_string()))?;
        if !matches!(client.base_url().scheme(), "http" | "https") {
            return Err(invalid("it starts with neither http:// nor https://".to_owned()));
        }
        let spans = Spans::of_scrape_interval(scrape_interval.as_secs_f64());
        Ok(Self {
            client,
            url: url.to_owned(),
            spans,
            limits,
        })
    }

    /// Reads the signals of every `McpServer` as of `now`, the Unix time in seconds. Always exactly two queries.
    ///
    /// # Errors
    /// Any failure of either query: half of the signals would be worse than none, since their absence would look real.
    pub async fn sense(&self, now: f64) -> Result<ClusterSignals, SignalError> {
        let (counters, distributions) = futures::try_join!(self.counters(now), self.distributions(now))?;
        Ok(ClusterSignals::new(now, self.spans, counters, distributions))
    }

    async fn counters(&self, now: f64) -> Result<Vec<RangeVector>, SignalError> {
        match self.query(&query::counters(self.spans), now).await? {
            Data::Matrix(series) => Ok(series),
            Data::Vector(_) | Data::Scalar(_) => Err(self.unexpected("a matrix")),
        }
    }

    async fn distributions(&self, now: f64) -> Result<Vec<InstantVector>, SignalError> {
        match self.query(&query::distributions(self.spans), now).await? {
            Data::Vector(series) => Ok(series),
            Data::Matrix(_) | Data::Scalar(_) => Err(self.unexpected("a vector")),
        }
    }

    /// Sends one instant query. The time is ours, so that ages are exact and both queries see the same instant.
    async fn query(&self, promql: &str, now: f64) -> Result<Data, SignalError> {
        let server_limit = i64::try_from(self.limits.total.as_millis()).unwrap_or(i64::MAX);
        let query = self
            .client
            .query(promql)
            .query("time", format!("{now:.3}"))
            .timeout(server_limit);
        let answer = query.post().await.map_err(|error| self.explain(error))?;
        Ok(answer.into_inner().0)
    }

    fn unexpected(&self, wanted: &str) -> SignalError {
        SignalError::InvalidAnswer {
            url: self.url.clone(),
            detail: format!("the result is not {wanted}"),
        }
    }

    /// Sorts the errors of the client library into those a person treats differently.
    fn explain(&self, error: QueryError) -> SignalError {
        let url = self.url.clone();
        let client_error = match error {
            QueryError::Client(client_error) => client_error,
            other => {
                return SignalError::Refused {
                    url,
                    detail: other.to_string(),
                };
            }
        };
        let Some(cause) = client_error.inner() else {
            return SignalError::InvalidAnswer {
                url,
                detail: client_error.to_string(),
            };
        };
        if cause.is_timeout() {
            return SignalError::TimedOut {
                url,
                limit: self.limits.total,
            };
        }
        if let Some(status) = cause.status() {
            return SignalError::Refused {
                url,
                detail: format!("HTTP {status}"),
            };
        }
        let detail = innermost(cause).to_string();
        if cause.is_decode() {
            return SignalError::InvalidAnswer { url, detail };
        }
        SignalError::Unreachable { url, detail }
    }
}

/// The last cause of a chain: "connection refused" says more than "error sending request".
pub(crate) fn innermost<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    std::iter::successors(Some(error), |error| error.source())
        .last()
        .unwrap_or(error)
}
