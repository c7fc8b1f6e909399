//! The performance report: what limits a server, what is wrong, and what to do, from its own metrics.
//!
//! `mcp-server report --url` reads a running server's `/metrics` twice; [`Performance`] does the same from within.
//! Both end in [`diagnosis::diagnose`], a pure function of [`figures::Figures`].

pub mod diagnosis;
pub mod figures;
pub mod finding;
mod performance;
mod rules;
pub mod scrape;
mod text;
pub mod thresholds;

use std::time::Duration;

use serde::Serialize;
use tokio::time::sleep;

use self::diagnosis::{Diagnosis, diagnose};
use self::figures::Figures;
use self::scrape::{NotAMetric, Scrape};
pub use performance::Performance;

/// Longest wait for `/metrics`.
const ANSWER: Duration = Duration::from_secs(10);

/// What a server did over a stretch of time, and what that means.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What limits the server, and what is wrong.
    #[serde(flatten)]
    pub diagnosis: Diagnosis,
    /// The figures it rests on.
    pub figures: Figures,
}

/// A report that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Nothing answers, or something else than metrics.
    #[error(
        "cannot read {url}: {cause}; --url must be the /metrics of a running server, such as http://127.0.0.1:9090/metrics"
    )]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// Why.
        cause: String,
    },
    /// The answer is not in the format of metrics.
    #[error("{url} is not a server's /metrics: {cause}")]
    NotMetrics {
        /// What was read.
        url: String,
        /// What it says.
        cause: NotAMetric,
    },
    /// The answer has metrics, but not those of this server.
    #[error("{0} has none of this server's metrics (mcp_requests_total): is it another program's?")]
    OtherProgram(String),
}

impl Report {
    /// What happened from `before` to `after`; since the server's start without `before`.
    #[must_use]
    pub fn between(before: Option<&Scrape>, after: &Scrape) -> Self {
        let figures = Figures::between(before, after);
        Self {
            diagnosis: diagnose(&figures),
            figures,
        }
    }
}

/// The report on the server whose metrics are at `url`, over the next `seconds`; 0 for all since its start.
///
/// # Errors
/// [`ReportError`] when the metrics cannot be read.
pub async fn of_server(url: &str, seconds: u64) -> Result<Report, ReportError> {
    if seconds == 0 {
        return Ok(Report::between(None, &read(url).await?));
    }
    let before = read(url).await?;
    sleep(Duration::from_secs(seconds)).await;
    Ok(Report::between(Some(&before), &read(url).await?))
}

async fn read(url: &str) -> Result<Scrape, ReportError> {
    let unreachable = |cause: &reqwest::Error| ReportError::Unreachable {
        url: url.to_owned(),
        cause: root(cause),
    };
    let client = reqwest::Client::builder().timeout(ANSWER).build();
    let request = client.map_err(|error| unreachable(&error))?.get(url);
    let answer = request.send().await.and_then(reqwest::Response::error_for_status);
    let text = answer.map_err(|error| unreachable(&error))?.text().await;
    let scrape =
        Scrape::parse(&text.map_err(|error| unreachable(&error))?).map_err(|cause| ReportError::NotMetrics {
            url: url.to_owned(),
            cause,
        })?;
    if scrape.sum("mcp_requests_total", &[]).is_none() {
        return Err(ReportError::OtherProgram(url.to_owned()));
    }
    Ok(scrape)
}

/// The client's own message only says that it failed; why is in its last source.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
