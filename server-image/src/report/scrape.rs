//! What a server's `/metrics` said at one moment.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// All samples of one answer of `/metrics`.
#[derive(Debug, Clone, PartialEq)]
pub struct Scrape {
    samples: Vec<Sample>,
    /// When it was taken, in seconds since 1970.
    taken: f64,
}

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    series: Arc<Series>,
    value: f64,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Series {
    name: String,
    labels: Vec<(String, String)>,
}

/// A line that is not in the format of `OpenMetrics` or Prometheus.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not a metric: {text:?}")]
pub struct NotAMetric {
    line: usize,
    text: String,
}

/// A histogram, summed over all series that were asked for: counts are cumulative.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// Upper bounds in seconds with the count of what was not above them, in rising order; the last bound is infinite.
    pub buckets: Vec<(f64, f64)>,
    /// Sum of all values.
    pub sum: f64,
    /// Number of all values.
    pub count: f64,
}

impl Scrape {
    /// Reads the text of `/metrics`, in either of its two formats, as if it were taken now.
    ///
    /// # Errors
    /// [`NotAMetric`] names the first line that is in neither.
    pub fn parse(text: &str) -> Result<Self, NotAMetric> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::parse_at(text, now.as_secs_f64())
    }

    /// Like [`Self::parse`], taken at `taken` seconds since 1970.
    ///
    /// # Errors
    /// [`NotAMetric`] names the first line that is in neither format.
    pub fn parse_at(text: &str, taken: f64) -> Result<Self, NotAMetric> {
        let lines = text.lines().enumerate();
        let samples = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let samples = samples.map(|(index, line)| {
            sample(line).ok_or_else(|| NotAMetric {
                line: index + 1,
                text: line.chars().take(80).collect(),
            })
        });
        Ok(Self {
            samples: samples.collect::<Result<_, _>>()?,
            taken,
        })
    }

    /// The same, with the names of series that `before` has, too, kept once for both: they take most of the memory.
    #[must_use]
    pub fn sharing_names(mut self, before: Option<&Self>) -> Self {
        let known: HashSet<&Arc<Series>> = before.iter().flat_map(|before| before.series()).collect();
        for sample in &mut self.samples {
            if let Some(same) = known.get(&sample.series) {
                sample.series = Arc::clone(same);
            }
        }
        self.samples.shrink_to_fit();
        self
    }

    fn series(&self) -> impl Iterator<Item = &Arc<Series>> {
        self.samples.iter().map(|sample| &sample.series)
    }

    /// When it was taken, in seconds since 1970.
    #[must_use]
    pub const fn taken(&self) -> f64 {
        self.taken
    }

    /// Sum of the series of `name` that have `labels`; `None` if there is none, because missing is not zero.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.matching(name, labels)
            .map(|sample| sample.value)
            .reduce(|a, b| a + b)
    }

    /// Values of the label `label` of the series of `name`, each once, in alphabetical order.
    #[must_use]
    pub fn label_values(&self, name: &str, label: &str) -> Vec<&str> {
        let mut values: Vec<&str> = self
            .matching(name, &[])
            .filter_map(|sample| sample.label(label))
            .collect();
        values.sort_unstable();
        values.dedup();
        values
    }

    /// The histogram `name` over all series that have `labels`; `None` if there is none.
    #[must_use]
    pub fn histogram(&self, name: &str, labels: &[(&str, &str)]) -> Option<Histogram> {
        let mut histogram = Histogram {
            sum: self.sum(&format!("{name}_sum"), labels)?,
            count: self.sum(&format!("{name}_count"), labels)?,
            buckets: Vec::new(),
        };
        for sample in self.matching(&format!("{name}_bucket"), labels) {
            let bound: f64 = sample.label("le")?.parse().ok()?;
            match histogram
                .buckets
                .iter_mut()
                .find(|(known, _)| known.total_cmp(&bound).is_eq())
            {
                Some((_, count)) => *count += sample.value,
                None => histogram.buckets.push((bound, sample.value)),
            }
        }
        histogram.buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        Some(histogram)
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| {
            sample.series.name == name && labels.iter().all(|(label, value)| sample.label(label) == Some(value))
        })
    }
}

impl Sample {
    fn label(&self, name: &str) -> Option<&str> {
        let found = self.series.labels.iter().find(|(label, _)| label == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl Histogram {
    /// What happened since `before`, which is an earlier state of the same histogram.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let earlier = |bound: f64| {
            let same = before.buckets.iter().find(|(known, _)| known.total_cmp(&bound).is_eq());
            same.map_or(0.0, |(_, count)| *count)
        };
        let buckets = self.buckets.iter();
        Self {
            buckets: buckets
                .map(|(bound, count)| (*bound, count - earlier(*bound)))
                .collect(),
            sum: self.sum - before.sum,
            count: self.count - before.count,
        }
    }

    /// Mean value; `None` without any.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0.0).then(|| self.sum / self.count)
    }

    /// The value that a share `quantile` (0 to 1) of all does not exceed, within the width of a bucket. `None` when
    /// there are fewer than 20 ÷ (1 − quantile) values: what lies beyond the quantile would be chance.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        if self.count * (1.0 - quantile) < 20.0 - 1e-9 {
            return None;
        }
        let rank = quantile * self.count;
        let (mut lower, mut below) = (0.0, 0.0);
        for (bound, count) in &self.buckets {
            if *count >= rank {
                // Nothing is known above the last finite bound.
                let upper = if bound.is_finite() { *bound } else { lower };
                let inside = count - below;
                let share = if inside > 0.0 { (rank - below) / inside } else { 1.0 };
                return Some(lower + (upper - lower) * share);
            }
            (lower, below) = (*bound, *count);
        }
        None
    }
}

/// `name{label="value",…} number [timestamp] [# exemplar]`
fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    let name = name.to_owned();
    Some(Sample {
        series: Arc::new(Series { name, labels }),
        value,
    })
}

/// The labels before the closing brace, and what follows it. A value may itself hold braces, commas and quotes.
fn labels(mut text: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let (value, rest) = quoted(rest)?;
        labels.push((name.to_owned(), value));
        text = rest;
    }
}

fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[index + 1..])),
            '\\' => value.push(match characters.next()? {
                (_, 'n') => '\n',
                (_, other) => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "sums of small whole numbers are exact")]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE a counter\na_total{tool=\"x\",path=\"{a,\\\"b\\\"}\"} 2 # {trace_id=\"7\"} 0.1 1.0\na_total{tool=\"y\"} 3.5\n\
                        b 1e3 1700000000\nh_bucket{le=\"0.1\"} 50\nh_bucket{le=\"0.2\"} 90\nh_bucket{le=\"+Inf\"} 100\nh_sum 12\nh_count 100\n# EOF\n";

    /// A figure read wrongly would send its reader after the wrong cause.
    #[test]
    fn both_formats_are_read() {
        let scrape = Scrape::parse(TEXT).unwrap();
        assert_eq!(scrape.sum("a_total", &[]), Some(5.5));
        assert_eq!(scrape.sum("a_total", &[("path", "{a,\"b\"}")]), Some(2.0));
        assert_eq!(scrape.sum("b", &[]), Some(1000.0));
        assert_eq!(scrape.sum("c", &[]), None);
        assert_eq!(scrape.label_values("a_total", "tool"), ["x", "y"]);
        assert_eq!(
            Scrape::parse("a 1\n<html>").unwrap_err().to_string(),
            "line 2 is not a metric: \"<html>\""
        );
    }

    /// A server keeps several looks at its metrics, each with thousands of series, as long as it runs.
    #[test]
    fn names_are_kept_once() {
        let before = Scrape::parse(TEXT).unwrap();
        let after = Scrape::parse(&format!("{TEXT}new 1\n")).unwrap();
        let shared = after.clone().sharing_names(Some(&before));
        assert_eq!(shared, after, "it says the same");
        let own = shared
            .series()
            .filter(|one| before.series().all(|other| !Arc::ptr_eq(one, other)));
        assert_eq!(own.map(|series| series.name.as_str()).collect::<Vec<_>>(), ["new"]);
    }

    /// A quantile of a handful of calls is chance, and must not be shown as a figure.
    #[test]
    fn quantiles_need_enough_values() {
        let histogram = Scrape::parse(TEXT).unwrap().histogram("h", &[]).unwrap();
        assert_eq!(histogram.mean(), Some(0.12));
        assert_eq!(histogram.quantile(0.5), Some(0.1));
        assert!((histogram.quantile(0.7).unwrap() - 0.15).abs() < 1e-9);
        assert_eq!(histogram.quantile(0.95), None, "5 values beyond it are too few");
        let double = Histogram {
            buckets: histogram
                .buckets
                .iter()
                .map(|(bound, count)| (*bound, count * 10.0))
                .collect(),
            sum: 120.0,
            count: 1000.0,
        };
        assert_eq!(
            double.quantile(0.95),
            Some(0.2),
            "the last finite bound is all that is known"
        );
        assert_eq!(double.since(&histogram).count, 900.0);
        assert_eq!(double.since(&histogram).buckets[0], (0.1, 450.0));
    }
}
