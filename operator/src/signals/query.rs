//! The two queries of a tick, in `PromQL`.
//!
//! Both select by `mcpserver`, the label the scrape configuration copies from the pod, so that other programs that
//! export `process_*` do not enter.

/// Counters of a pod, without labels of their own: exactly one series per pod.
pub(super) mod metric {
    pub const OFFERED: &str = "mcp_requests_offered_total";
    pub const SHED: &str = "mcp_requests_shed_total";
    pub const BUSY_SECONDS: &str = "mcp_slot_busy_seconds_total";
    pub const CPU_SECONDS: &str = "process_cpu_seconds_total";
    pub const START_TIME: &str = "process_start_time_seconds";
}

/// The label that tells the parts of the distribution query apart, and its values.
pub(super) mod signal {
    pub const LABEL: &str = "signal";
    pub const SERVICE: &str = "service";
    pub const LATENCY: &str = "latency";
    pub const LATENCY_LONG: &str = "latency_long";
    pub const OUTCOME: &str = "outcome";
}

/// Spans in seconds that follow from the scrape interval.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spans {
    /// Between two scrapes.
    pub scrape: f64,
    /// The window of demand: at least four scrapes, so that one lost scrape does not matter.
    pub window: f64,
    /// What makes an increase fast: two scrapes.
    pub recent: f64,
    /// Age above which a sample is stale.
    pub stale: f64,
}

impl Spans {
    pub fn of_scrape_interval(scrape: f64) -> Self {
        Self {
            scrape,
            window: (4.0 * scrape).max(30.0),
            recent: 2.0 * scrape,
            stale: 3.0 * scrape,
        }
    }

    /// How far back raw samples are read: the window, from a sample that may be as old as the stale limit, and one more
    /// sample to start from.
    fn raw_range(self) -> f64 {
        self.window + self.stale + self.scrape
    }
}

/// Raw samples of the counters. Read raw, because only raw samples tell their age, their gaps and their duplicates.
pub(super) fn counters(spans: Spans) -> String {
    use metric::{BUSY_SECONDS, CPU_SECONDS, OFFERED, SHED, START_TIME};
    let range = milliseconds(spans.raw_range());
    format!(r#"{{__name__=~"{OFFERED}|{SHED}|{BUSY_SECONDS}|{CPU_SECONDS}|{START_TIME}",mcpserver!=""}}[{range}]"#)
}

/// Histograms and outcomes, added up per pod by Prometheus, since they have many series per pod.
pub(super) fn distributions(spans: Spans) -> String {
    let short = milliseconds((4.0 * spans.scrape).max(60.0));
    let long = milliseconds((8.0 * spans.scrape).max(300.0));
    [
        part(signal::SERVICE, "le", "mcp_service_seconds_bucket", &short),
        part(
            signal::LATENCY,
            "le",
            "mcp_server_operation_duration_seconds_bucket",
            &short,
        ),
        part(
            signal::LATENCY_LONG,
            "le",
            "mcp_server_operation_duration_seconds_bucket",
            &long,
        ),
        part(signal::OUTCOME, "status", "mcp_requests_total", &short),
    ]
    .join(" or ")
}

fn part(name: &str, by: &str, metric: &str, range: &str) -> String {
    let label = signal::LABEL;
    format!(
        r#"label_replace(sum by (namespace,pod,{by}) (increase({metric}{{mcpserver!=""}}[{range}])),"{label}","{name}","","")"#
    )
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.0}ms", seconds * 1000.0)
}
