//! What is told of requests besides metrics.

use std::time::Duration;

use clap::Args;

use crate::logging::LogFormat;
use crate::telemetry::{InvalidEndpoint, OtlpSettings, TelemetrySettings};

#[derive(Debug, Args)]
#[command(next_help_heading = "Logs and traces")]
#[group(skip)]
pub(super) struct LogFlags {
    /// Form of the logs, which go to standard error.
    #[arg(long = "log-format", env = "MCP_LOG_FORMAT", default_value = "text")]
    pub(super) format: LogFormat,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Logs and traces")]
#[group(skip)]
pub(super) struct Flags {
    #[command(flatten)]
    logs: LogFlags,
    /// Milliseconds from which on a call is logged as slow; 0 logs none.
    #[arg(long, env = "MCP_SLOW_CALL_MS", default_value_t = 500, value_name = "MILLISECONDS")]
    slow_call_ms: u64,
    /// URL of a collector that takes OpenTelemetry traces over HTTP, such as `http://collector:4318` [default: no
    /// traces]. Headers for it are taken from `OTEL_EXPORTER_OTLP_HEADERS`.
    #[arg(long, env = "MCP_OTLP_ENDPOINT", hide_env_values = true, value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// Percent of requests that are traced when their caller does not say.
    #[arg(long, env = "MCP_OTLP_SAMPLE_PERCENT", default_value = "100", value_name = "PERCENT", value_parser = percent)]
    otlp_sample_percent: f64,
}

impl Flags {
    pub(super) const fn log_format(&self) -> LogFormat {
        self.logs.format
    }

    pub(super) fn settings(&self) -> Result<TelemetrySettings, InvalidEndpoint> {
        let endpoint = self.otlp_endpoint.as_deref().map(str::parse).transpose()?;
        let sampled = self.otlp_sample_percent / 100.0;
        Ok(TelemetrySettings {
            slow_call: (self.slow_call_ms > 0).then(|| Duration::from_millis(self.slow_call_ms)),
            otlp: endpoint.map(|endpoint| OtlpSettings { endpoint, sampled }),
        })
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| "must be a number from 0 to 100".to_owned())
}
