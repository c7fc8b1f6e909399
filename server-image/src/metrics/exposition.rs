//! `/metrics`: all metrics as text, in the format that the reader asks for.

use std::fmt::Write;

use http::HeaderMap;
use http::header::ACCEPT;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// Content type of `OpenMetrics`, the only one of the two formats that has exemplars.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Content type of the older format of Prometheus.
pub const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics as `OpenMetrics`.
///
/// # Errors
/// [`std::fmt::Error`] when a metric cannot be written.
pub fn openmetrics(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(text)
}

/// All metrics and their content type: `OpenMetrics`, unless `headers` ask for text and do not know it.
///
/// # Errors
/// [`std::fmt::Error`] when a metric cannot be written.
pub fn negotiated(registry: &Registry, headers: &HeaderMap) -> Result<(&'static str, String), std::fmt::Error> {
    let text = openmetrics(registry)?;
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let accepted: Vec<&str> = accepted.flat_map(|value| value.split(',')).map(media_type).collect();
    if accepted.contains(&"text/plain") && !accepted.contains(&"application/openmetrics-text") {
        Ok((PLAIN, plain(&text)?))
    } else {
        Ok((OPENMETRICS, text))
    }
}

fn media_type(accepted: &str) -> &str {
    accepted.split(';').next().unwrap_or_default().trim()
}

/// The same metrics in the older format: counters are named with their suffix, and there are neither units, exemplars
/// nor an end mark.
fn plain(openmetrics: &str) -> Result<String, std::fmt::Error> {
    let lines: Vec<&str> = openmetrics.lines().collect();
    let is_counter = |name: &str| lines.contains(&format!("# TYPE {name} counter").as_str());
    let mut text = String::with_capacity(openmetrics.len());
    for line in &lines {
        match line.strip_prefix("# ") {
            None => writeln!(text, "{}", line.split(" # {").next().unwrap_or(line))?,
            Some(about) => {
                let mut words = about.splitn(3, ' ');
                if let (Some(what @ ("HELP" | "TYPE")), Some(name), Some(rest)) =
                    (words.next(), words.next(), words.next())
                {
                    let suffix = if is_counter(name) { "_total" } else { "" };
                    writeln!(text, "# {what} {name}{suffix} {rest}")?;
                }
            }
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::exemplar::HistogramWithExemplars;

    fn registry() -> Registry {
        let mut registry = Registry::default();
        let counter: Counter = Counter::default();
        counter.inc();
        registry.register("seen", "How many", counter);
        let times = HistogramWithExemplars::new([1.0].into_iter());
        times.observe(0.5, Some([("trace_id", "abc")]), None);
        registry.register("times", "How long", times);
        registry
    }

    fn read(accept: Option<&str>) -> (&'static str, String) {
        let mut headers = HeaderMap::new();
        if let Some(accept) = accept {
            headers.insert(ACCEPT, accept.parse().unwrap());
        }
        negotiated(&registry(), &headers).unwrap()
    }

    /// An old reader that met an exemplar would drop the whole scrape.
    #[test]
    fn the_reader_chooses_the_format() {
        for (name, accept, expected) in [
            ("nothing said", None, OPENMETRICS),
            ("anything", Some("*/*"), OPENMETRICS),
            (
                "Prometheus",
                Some("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1"),
                OPENMETRICS,
            ),
            ("an old reader", Some("text/plain;version=0.0.4;q=1,*/*;q=0.1"), PLAIN),
        ] {
            assert_eq!(read(accept).0, expected, "{name}");
        }
        assert_eq!(
            read(Some("text/plain")).1,
            "# HELP seen_total How many.\n# TYPE seen_total counter\nseen_total 1\n# HELP times How long.\n# TYPE times \
             histogram\ntimes_sum 0.5\ntimes_count 1\ntimes_bucket{le=\"1.0\"} 1\ntimes_bucket{le=\"+Inf\"} 1\n"
        );
        assert!(read(None).1.contains("# {trace_id=\"abc\"} 0.5"));
    }
}
