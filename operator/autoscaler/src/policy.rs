//! What was declared: bounds, performance targets, behaviour.

use crate::Behavior;
use serde::{Deserialize, Serialize};

/// The declared side of a decision, already validated by the caller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// `autoscaling.minReplicas`, at least 1.
    pub min_replicas: u32,
    /// `autoscaling.maxReplicas`, at least `min_replicas`; a smaller value counts as `min_replicas`.
    pub max_replicas: u32,
    /// Calls one pod serves at once (`server.concurrency`), at least 1. Not the adaptive limit of a pod: that one only
    /// sheds.
    pub concurrency: u32,
    /// How evenly calls reach the pods.
    pub balancing: Balancing,
    /// CPU limit of one server pod in cores; `None` when the pod has none, and then CPU does not bound the replicas.
    pub cpu_limit_cores: Option<f64>,
    /// Seconds between two scrapes of a pod. A gap of more than three counts as an outage of the metrics.
    pub scrape_interval_seconds: f64,
    /// `performanceTargets`.
    pub targets: Targets,
    /// `autoscaling.behavior`.
    pub behavior: Behavior,
}

impl Default for Policy {
    /// One replica, no target, the scrape interval of the chart.
    fn default() -> Self {
        Self {
            min_replicas: 1,
            max_replicas: 1,
            concurrency: 1,
            balancing: Balancing::LeastConnections,
            cpu_limit_cores: None,
            scrape_interval_seconds: 5.0,
            targets: Targets::default(),
            behavior: Behavior::default(),
        }
    }
}

/// How evenly calls are spread over the pods, which decides how full they may be on average.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Balancing {
    /// One load balancer that sends each call to the pod with the fewest: close to one common queue.
    LeastConnections,
    /// Several load balancers that do not know of each other, or none: calls meet by chance.
    Random,
}

impl Balancing {
    /// The balancing that a number of load balancer replicas gives; zero stands for `loadBalancer.mode: None`.
    #[must_use]
    pub fn of_load_balancers(replicas: u32) -> Self {
        if replicas == 1 {
            Self::LeastConnections
        } else {
            Self::Random
        }
    }

    /// The greatest mean share of busy slots that is planned for. The tail of the queueing model is optimistic near
    /// 0.9, so this is a cap on the model as well.
    #[must_use]
    pub fn max_utilization(self) -> f64 {
        match self {
            Self::LeastConnections => 0.85,
            Self::Random => 0.70,
        }
    }
}

/// `performanceTargets`; everything is optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Targets {
    /// Bounds on latency quantiles.
    pub latency: Vec<LatencyTarget>,
    /// Requests per second that must be servable at any time: a floor of capacity.
    pub requests_per_second: Option<f64>,
    /// Greatest share of calls that may fail, 0 to 1.
    pub error_rate: Option<f64>,
}

/// One declared latency bound: `quantile` of the calls take at most `bound_seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyTarget {
    /// Which quantile.
    pub quantile: Quantile,
    /// Its bound in seconds, above zero.
    pub bound_seconds: f64,
}

/// The quantiles a latency target can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Quantile {
    /// Half of the calls.
    P50,
    /// 95 of 100 calls.
    P95,
    /// 99 of 100 calls.
    P99,
}

impl Quantile {
    /// The quantile as a share of the calls.
    #[must_use]
    pub fn share(self) -> f64 {
        match self {
            Self::P50 => 0.50,
            Self::P95 => 0.95,
            Self::P99 => 0.99,
        }
    }

    /// Its name as in `performanceTargets.latency`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P95 => "p95",
            Self::P99 => "p99",
        }
    }
}
