//! The decision core of mcpscale.
//!
//! [`decide`] turns what was measured ([`Snapshot`]), what is remembered ([`State`]) and what was declared ([`Policy`])
//! into a replica count and one sentence that explains it. It knows no Kubernetes, does no I/O and reads no clock: time
//! enters as [`Snapshot::time`]. The same call therefore runs in the operator, in a simulation and in a replay.
//!
//! [`evaluate_targets`] says which declared performance targets are met, and [`Reporter`] when a new observed value is
//! worth writing into a status.
//!
//! Units are in the names: `seconds`, `per_second`, `cores`. Shares and ratios are fractions of one.
//!
//! ```
//! use mcpscale_autoscaler::{Policy, Signals, Snapshot, State, decide};
//!
//! let policy = Policy { min_replicas: 2, max_replicas: 20, concurrency: 8, ..Policy::default() };
//! // Prometheus does not answer: nothing is lowered, whatever the load was.
//! let snapshot = Snapshot { time: 0.0, replicas: 5, ready: 5, rollout: false, signals: Signals::missing(5) };
//! let (decision, _state) = decide(&snapshot, &State::default(), &policy);
//! assert_eq!(decision.to, 5);
//! assert_eq!(decision.reason.as_str(), "MetricsMissing");
//! ```

mod behavior;
mod changes;
mod decide;
mod decision;
mod erlang;
mod explain;
mod histogram;
mod load;
mod model;
mod numbers;
mod policy;
mod report;
mod sizing;
mod snapshot;
mod state;
mod targets;
mod veto;
mod window;

pub use behavior::{Behavior, PolicyKind, ScalingPolicy, ScalingRules, SelectPolicy};
pub use decide::decide;
pub use decision::{Binding, Decision, Limit, Reason};
pub use policy::{Balancing, LatencyTarget, Policy, Quantile, Targets};
pub use report::Reporter;
pub use snapshot::{Bucket, Demand, Histogram, Outcomes, Signal, SignalState, Signals, Snapshot, Work};
pub use state::State;
pub use targets::{TargetReport, TargetState, evaluate_targets};
