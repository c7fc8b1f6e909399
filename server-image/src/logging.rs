//! Logs, to standard error.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing::{Level, Metadata};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, filter, fmt};

/// Form of the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What is logged unless `RUST_LOG` says otherwise.
const DEFAULT_FILTER: &str = "info";

/// Starts logging; a second start changes nothing.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let filtered = Registry::default().with(filter).with(filter::filter_fn(may_be_told));
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second start finds the first one in place.
    let _ = match format {
        LogFormat::Text => filtered.with(lines).try_init(),
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_span_list(false);
            filtered.with(lines).try_init()
        }
    };
}

/// Whose lines may hold what callers store and the tokens they show: the protocol library writes whole messages into
/// them, the database library the parameters of statements. With the least severe level that holds none.
const TALKATIVE: [(&str, Level); 2] = [("rmcp", Level::ERROR), ("tokio_postgres", Level::WARN)];

/// Whether a line may be written at all, whatever `RUST_LOG` says.
fn may_be_told(line: &Metadata<'_>) -> bool {
    let talkative = TALKATIVE.iter().find(|(library, _)| line.target().starts_with(library));
    talkative.is_none_or(|(_, least)| line.level() <= least)
}
