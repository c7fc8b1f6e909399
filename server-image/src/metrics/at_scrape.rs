//! Metrics whose value is computed when Prometheus asks, instead of being kept up to date all the time.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// One value per label value; a label value whose figure is unknown is left out, because missing is never zero.
type Samples = Vec<(&'static str, f64)>;

struct AtScrape {
    name: &'static str,
    help: &'static str,
    read: Reading,
}

enum Reading {
    Counter(Box<dyn Fn() -> Option<f64> + Send + Sync>),
    Gauge(Box<dyn Fn() -> Option<f64> + Send + Sync>),
    Gauges {
        label: &'static str,
        read: Box<dyn Fn() -> Samples + Send + Sync>,
    },
}

/// Registers a counter (its name without `_total`) that is read at each scrape; `None` leaves it out.
pub fn counter(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    read: impl Fn() -> Option<f64> + Send + Sync + 'static,
) {
    register(registry, name, help, Reading::Counter(Box::new(read)));
}

/// Registers a gauge that is read at each scrape; `None` leaves it out.
pub fn gauge(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    read: impl Fn() -> Option<f64> + Send + Sync + 'static,
) {
    register(registry, name, help, Reading::Gauge(Box::new(read)));
}

/// Registers a gauge with one label that is read at each scrape.
pub fn gauges(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    label: &'static str,
    read: impl Fn() -> Samples + Send + Sync + 'static,
) {
    register(
        registry,
        name,
        help,
        Reading::Gauges {
            label,
            read: Box::new(read),
        },
    );
}

fn register(registry: &mut Registry, name: &'static str, help: &'static str, read: Reading) {
    registry.register_collector(Box::new(AtScrape { name, help, read }));
}

impl Collector for AtScrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        match &self.read {
            Reading::Counter(read) => {
                read().map_or(Ok(()), |value| self.write(&mut encoder, &ConstCounter::new(value)))
            }
            Reading::Gauge(read) => read().map_or(Ok(()), |value| self.write(&mut encoder, &ConstGauge::new(value))),
            Reading::Gauges { label, read } => {
                let samples = read();
                let Some(metric_type) = samples.first().map(|(_, value)| ConstGauge::new(*value).metric_type()) else {
                    return Ok(());
                };
                let mut family = encoder.encode_descriptor(self.name, self.help, None, metric_type)?;
                for (label_value, value) in samples {
                    let labels = [(*label, label_value)];
                    ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
                }
                Ok(())
            }
        }
    }
}

impl AtScrape {
    fn write(&self, encoder: &mut DescriptorEncoder, metric: &impl EncodeMetric) -> Result<(), fmt::Error> {
        metric.encode(encoder.encode_descriptor(self.name, self.help, None, metric.metric_type())?)
    }
}

impl fmt::Debug for AtScrape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AtScrape")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A figure that is not known must be absent: a zero would be believed by the scaler.
    #[test]
    fn unknown_figures_are_absent() {
        let mut registry = Registry::default();
        counter(&mut registry, "seen", "Seen", || Some(2.5));
        counter(&mut registry, "unseen", "Unseen", || None);
        gauge(&mut registry, "level", "Level", || Some(7.0));
        gauges(&mut registry, "connections", "Connections", "state", || {
            vec![("idle", 1.0), ("used", 2.0)]
        });
        gauges(&mut registry, "nothing", "Nothing", "state", Vec::new);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "seen_total 2.5",
            "level 7.0",
            "connections{state=\"idle\"} 1.0",
            "connections{state=\"used\"} 2.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("unseen") && !text.contains("nothing"), "{text}");
    }
}
