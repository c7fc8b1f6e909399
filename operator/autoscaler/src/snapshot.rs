//! What was measured at one tick: every value with its age, its coverage and a state.

use serde::{Deserialize, Serialize};

/// Everything [`crate::decide`] may know about one `McpServer` at one tick.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When the snapshot was taken, in seconds since any fixed origin (the operator uses the Unix epoch). Never goes
    /// back.
    pub time: f64,
    /// `spec.replicas` of the server Deployment as it stands, pods that are starting included.
    pub replicas: u32,
    /// Live pods that are ready now. This is what the coverage of a signal is compared with.
    pub ready: u32,
    /// A rollout of the server Deployment is under way, or its pods crash: nothing is lowered meanwhile.
    pub rollout: bool,
    /// The measured values.
    pub signals: Signals,
}

/// The measured values of one server, all of the same instant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signals {
    /// Demand and work, from raw counters.
    pub demand: Signal<Demand>,
    /// Time a call held its slot, without queueing, over about the last minute.
    pub service: Signal<Histogram>,
    /// Time from arrival to answer, queueing included, over about the last minute.
    pub latency: Signal<Histogram>,
    /// The same over about the last five minutes, for targets whose last minute has too few calls.
    pub latency_long: Signal<Histogram>,
    /// How calls ended, over about the last minute.
    pub outcomes: Signal<Outcomes>,
}

impl Signals {
    /// What is known when the metrics source did not answer: nothing. `ready` is the number of live ready pods.
    #[must_use]
    pub fn missing(ready: u32) -> Self {
        Self {
            demand: Signal::missing(ready),
            service: Signal::missing(ready),
            latency: Signal::missing(ready),
            latency_long: Signal::missing(ready),
            outcomes: Signal::missing(ready),
        }
    }
}

/// How far a value can be trusted. Only [`SignalState::Fresh`] may lower anything; missing is never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignalState {
    /// Measured within the last three scrapes by at least half of the ready pods.
    Fresh,
    /// The newest sample is older than three scrapes.
    Stale,
    /// No sample, or fewer than half of the ready pods reported.
    Missing,
    /// NaN, infinite, negative or contradictory samples.
    Invalid,
}

impl SignalState {
    /// The stable name used in status, Events and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "Fresh",
            Self::Stale => "Stale",
            Self::Missing => "Missing",
            Self::Invalid => "Invalid",
        }
    }
}

/// One measured value with what it takes to judge it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signal<T> {
    /// Whether the value can be trusted.
    pub state: SignalState,
    /// Seconds since the oldest of the pods' newest samples; `None` when there is no sample or the source gives no
    /// time.
    pub age_seconds: Option<f64>,
    /// Live ready pods whose samples are in the value.
    pub reporting: u32,
    /// Live ready pods there are.
    pub ready: u32,
    /// The value; `Some` exactly when the state is [`SignalState::Fresh`].
    pub value: Option<T>,
}

impl<T> Signal<T> {
    /// A value every ready pod contributed to.
    #[must_use]
    pub fn fresh(value: T, age_seconds: f64, ready: u32) -> Self {
        Self {
            state: SignalState::Fresh,
            age_seconds: Some(age_seconds),
            reporting: ready,
            ready,
            value: Some(value),
        }
    }

    /// No value, for lack of samples.
    #[must_use]
    pub fn missing(ready: u32) -> Self {
        Self::without_value(SignalState::Missing, None, ready)
    }

    /// No value, for the reason that `state` names.
    #[must_use]
    pub fn without_value(state: SignalState, age_seconds: Option<f64>, ready: u32) -> Self {
        Self {
            state,
            age_seconds,
            reporting: 0,
            ready,
            value: None,
        }
    }

    /// The value if it may be used at all.
    #[must_use]
    pub fn usable(&self) -> Option<&T> {
        match self.state {
            SignalState::Fresh => self.value.as_ref(),
            SignalState::Stale | SignalState::Missing | SignalState::Invalid => None,
        }
    }

    /// Ready pods that did not report.
    #[must_use]
    pub fn silent(&self) -> u32 {
        self.ready.saturating_sub(self.reporting)
    }

    /// Whether the value is fresh and holds every ready pod.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.usable().is_some() && self.silent() == 0
    }
}

/// Demand over two spans that end at the newest sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Demand {
    /// Over the full window (30 s or four scrapes, whichever is longer).
    pub window: Work,
    /// Over the last two scrapes: what makes an increase fast.
    pub recent: Work,
    /// Samples cover the whole window. False for a while after an outage of the metrics source.
    pub window_covered: bool,
}

/// Work of all reporting pods together, as means over a span.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Length of the span in seconds, above zero.
    pub seconds: f64,
    /// Requests that arrived, per second: admitted and shed ones.
    pub offered_per_second: f64,
    /// Requests that got a slot or a place in the queue, per second.
    pub admitted_per_second: f64,
    /// Mean number of busy slots, unfinished calls included.
    pub busy_slots: f64,
    /// CPU cores used; `None` unless every reporting pod exports it.
    pub cpu_cores: Option<f64>,
}

/// A histogram of durations: calls per bucket (not cumulative).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Buckets in ascending order of their upper bound.
    pub buckets: Vec<Bucket>,
    /// Calls above the last bound.
    pub overflow: f64,
}

/// One bucket of a [`Histogram`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// Upper bound in seconds, inclusive.
    pub upper_seconds: f64,
    /// Calls in it; not an integer, since rates are extrapolated.
    pub count: f64,
}

/// How calls ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcomes {
    /// Calls answered without an error of the server's making.
    pub ok: f64,
    /// 5xx answers, timeouts and JSON-RPC internal errors.
    pub error: f64,
    /// Calls turned away because the queue was full.
    pub shed: f64,
}
