//! What one tick sensed in the whole cluster, and the pure step from there to one server.

use super::counters::{PodCounters, PodDemand, PodRates};
use super::distributions::{CumulativeHistogram, PodDistributions, histogram};
use super::query::Spans;
use mcpscale_autoscaler::{Demand, Histogram, Outcomes, Signal, SignalState, Signals, Work};
use prometheus_http_query::response::{InstantVector, RangeVector};
use std::collections::{BTreeMap, HashMap};

/// A ready pod as the watch shows it. Series of other pods do not count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LivePod<'a> {
    /// `metadata.name`.
    pub name: &'a str,
    /// `status.startTime` as Unix time in seconds: samples from before belong to an earlier pod of the same name.
    pub started_at: f64,
}

/// Everything one tick sensed, grouped by namespace and pod.
#[derive(Clone, Debug)]
pub struct ClusterSignals {
    now: f64,
    spans: Spans,
    pods: HashMap<String, HashMap<String, PodSeries>>,
}

#[derive(Clone, Debug, Default)]
struct PodSeries {
    counters: PodCounters,
    distributions: PodDistributions,
}

impl ClusterSignals {
    /// Groups the answers of both queries. Series without a namespace or a pod belong to nobody.
    pub(super) fn new(now: f64, spans: Spans, counters: Vec<RangeVector>, distributions: Vec<InstantVector>) -> Self {
        let mut cluster = Self {
            now,
            spans,
            pods: HashMap::new(),
        };
        for series in counters {
            let name = series.metric().get("__name__").cloned().unwrap_or_default();
            if let Some(pod) = cluster.pod_mut(series.metric()) {
                pod.counters.add(&name, series);
            }
        }
        for series in distributions {
            if let Some(pod) = cluster.pod_mut(series.metric()) {
                pod.distributions.add(series);
            }
        }
        cluster
    }

    fn pod_mut(&mut self, labels: &HashMap<String, String>) -> Option<&mut PodSeries> {
        let (namespace, pod) = (labels.get("namespace")?, labels.get("pod")?);
        Some(
            self.pods
                .entry(namespace.clone())
                .or_default()
                .entry(pod.clone())
                .or_default(),
        )
    }

    /// The signals of the server in `namespace` whose live, ready pods are `pods`.
    #[must_use]
    pub fn for_server(&self, namespace: &str, pods: &[LivePod<'_>]) -> Signals {
        let known = self.pods.get(namespace);
        let readings: Vec<PodReading<'_>> = pods
            .iter()
            .map(|live| {
                let series = known.and_then(|pods| pods.get(live.name));
                let demand = series.map_or(PodDemand::Missing, |pod| {
                    pod.counters.demand(self.now, self.spans, live.started_at)
                });
                PodReading {
                    demand,
                    distributions: series.map(|pod| &pod.distributions),
                }
            })
            .collect();
        Signals {
            demand: demand(&readings),
            service: distribution(&readings, |pod| &pod.service),
            latency: distribution(&readings, |pod| &pod.latency),
            latency_long: distribution(&readings, |pod| &pod.latency_long),
            outcomes: outcomes(&readings),
        }
    }
}

/// What is known of one live pod.
struct PodReading<'a> {
    demand: PodDemand,
    distributions: Option<&'a PodDistributions>,
}

/// What one pod contributes to one signal.
enum Part<T> {
    Value(T),
    Stale(f64),
    Missing,
    Invalid,
}

/// Adds the pods' parts up. Pods that are stale, missing or invalid do not report; with fewer than half reporting there
/// is no value, and the state names the worst of what is wrong.
fn combine<T, S>(parts: Vec<Part<T>>, add_up: impl FnOnce(Vec<T>) -> (S, Option<f64>)) -> Signal<S> {
    let ready = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    let (mut values, mut oldest, mut invalid) = (Vec::new(), None, false);
    for part in parts {
        match part {
            Part::Value(value) => values.push(value),
            Part::Stale(age) => oldest = Some(oldest.map_or(age, |known: f64| known.max(age))),
            Part::Missing => {}
            Part::Invalid => invalid = true,
        }
    }
    let reporting = u32::try_from(values.len()).unwrap_or(u32::MAX);
    if reporting > 0 && 2 * values.len() >= ready as usize {
        let (value, age_seconds) = add_up(values);
        return Signal {
            state: SignalState::Fresh,
            age_seconds,
            reporting,
            ready,
            value: Some(value),
        };
    }
    let state = match (invalid, oldest) {
        (true, _) => SignalState::Invalid,
        (false, Some(_)) => SignalState::Stale,
        (false, None) => SignalState::Missing,
    };
    Signal {
        reporting,
        ..Signal::without_value(state, oldest, ready)
    }
}

fn demand(readings: &[PodReading<'_>]) -> Signal<Demand> {
    let parts = readings.iter().map(|pod| match pod.demand {
        PodDemand::Fresh(rates) => Part::Value(rates),
        PodDemand::Stale { age } => Part::Stale(age),
        PodDemand::Missing => Part::Missing,
        PodDemand::Invalid => Part::Invalid,
    });
    combine(parts.collect(), |rates: Vec<PodRates>| {
        let age = rates.iter().map(|pod| pod.age).fold(0.0, f64::max);
        let demand = Demand {
            window: sum(rates.iter().map(|pod| pod.window)),
            recent: sum(rates.iter().map(|pod| pod.recent)),
            window_covered: rates.iter().all(|pod| pod.window_covered),
        };
        (demand, Some(age))
    })
}

/// The work of several pods together, over the shortest of their spans.
fn sum(work: impl Iterator<Item = Work>) -> Work {
    let nothing = Work {
        seconds: f64::INFINITY,
        offered_per_second: 0.0,
        admitted_per_second: 0.0,
        busy_slots: 0.0,
        cpu_cores: Some(0.0),
    };
    work.fold(nothing, |sum, pod| Work {
        seconds: sum.seconds.min(pod.seconds),
        offered_per_second: sum.offered_per_second + pod.offered_per_second,
        admitted_per_second: sum.admitted_per_second + pod.admitted_per_second,
        busy_slots: sum.busy_slots + pod.busy_slots,
        cpu_cores: sum.cpu_cores.zip(pod.cpu_cores).map(|(sum, pod)| sum + pod),
    })
}

fn distribution(
    readings: &[PodReading<'_>],
    pick: impl Fn(&PodDistributions) -> &CumulativeHistogram,
) -> Signal<Histogram> {
    let parts = readings.iter().map(|pod| match pod.distributions.map(&pick) {
        Some(counts) if !counts.valid() => Part::Invalid,
        Some(counts) if !counts.is_empty() => pod.part(Some(counts)),
        _ => pod.part(None),
    });
    combine(parts.collect(), |pods: Vec<Option<&CumulativeHistogram>>| {
        let mut counts = BTreeMap::new();
        for pod in pods.into_iter().flatten() {
            pod.add_to(&mut counts);
        }
        (histogram(counts), None)
    })
}

fn outcomes(readings: &[PodReading<'_>]) -> Signal<Outcomes> {
    let parts = readings
        .iter()
        .map(|pod| match pod.distributions.map(PodDistributions::outcomes) {
            Some((_, false)) => Part::Invalid,
            Some((Some(outcomes), true)) => pod.part(Some(outcomes)),
            _ => pod.part(None),
        });
    combine(parts.collect(), |pods: Vec<Option<Outcomes>>| {
        let total = pods
            .into_iter()
            .flatten()
            .fold(Outcomes::default(), |sum, pod| Outcomes {
                ok: sum.ok + pod.ok,
                error: sum.error + pod.error,
                shed: sum.shed + pod.shed,
            });
        (total, None)
    })
}

impl PodReading<'_> {
    /// A labelled metric has no series before its first call: absent next to fresh counters that stand still is a true
    /// zero, absent next to admitted calls is missing. Whatever comes with stale counters is stale.
    fn part<T>(&self, value: Option<T>) -> Part<Option<T>> {
        match (self.demand, value) {
            (PodDemand::Fresh(_), Some(value)) => Part::Value(Some(value)),
            (PodDemand::Fresh(rates), None) if rates.window.admitted_per_second > 0.0 => Part::Missing,
            (PodDemand::Fresh(_), None) => Part::Value(None),
            (PodDemand::Stale { age }, _) => Part::Stale(age),
            (PodDemand::Missing, _) => Part::Missing,
            (PodDemand::Invalid, _) => Part::Invalid,
        }
    }
}
