//! Reading metrics as Prometheus would.

use std::collections::BTreeMap;
use std::net::SocketAddr;

/// All samples of one scrape.
pub struct Scrape {
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

impl Scrape {
    /// Scrapes a server's metrics port.
    pub async fn of(address: SocketAddr) -> Self {
        Self::of_url(&format!("http://{address}")).await
    }

    /// Scrapes the metrics port at a URL.
    pub async fn of_url(url: &str) -> Self {
        let response = reqwest::get(format!("{url}/metrics")).await.unwrap();
        assert!(
            response.headers()["content-type"]
                .to_str()
                .unwrap()
                .starts_with("application/openmetrics-text")
        );
        let text = response.text().await.unwrap();
        assert!(text.ends_with("# EOF\n"), "the text is complete");
        Self {
            samples: text.lines().filter(|line| !line.starts_with('#')).map(sample).collect(),
        }
    }

    /// Sum of all series of `name` that have `labels`; `None` if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let matches = |found: &BTreeMap<String, String>| {
            labels
                .iter()
                .all(|(key, value)| found.get(*key).is_some_and(|text| text == value))
        };
        let values: Vec<f64> = self
            .samples
            .iter()
            .filter(|(found, have, _)| found == name && matches(have))
            .map(|(_, _, value)| *value)
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Like [`Self::sum`], for a series that must exist.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.sum(name, labels)
            .unwrap_or_else(|| panic!("there is no {name} with {labels:?}"))
    }

    /// Bounds and cumulative counts of the buckets of a histogram, in order.
    pub fn buckets(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(f64, f64)> {
        let matches = |found: &BTreeMap<String, String>| {
            labels
                .iter()
                .all(|(key, value)| found.get(*key).is_some_and(|text| text == value))
        };
        self.samples
            .iter()
            .filter(|(found, have, _)| found == name && matches(have))
            .map(|(_, have, count)| (have["le"].replace("+Inf", "inf").parse().unwrap(), *count))
            .collect()
    }

    /// Names of the labels of the first series of `name`.
    pub fn label_names(&self, name: &str) -> Vec<&str> {
        let found = self.samples.iter().find(|(found, _, _)| found == name);
        found
            .map(|(_, labels, _)| labels.keys().map(String::as_str).collect())
            .unwrap_or_default()
    }
}

fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.trim_end_matches('}').split(',').filter(|pair| !pair.is_empty());
    let labels = labels.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap();
        (key.to_owned(), value.trim_matches('"').to_owned())
    });
    (name.to_owned(), labels.collect(), value.parse().unwrap())
}
