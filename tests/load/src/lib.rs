//! Open-loop load tester for MCP servers.
//!
//! Requests are due at times fixed beforehand and are sent then, whether or not earlier ones were answered, and
//! latency counts from when a request was *due*. A stall of the server therefore shows in full, as users would feel
//! it. (A closed loop, which waits for answers, sends less while the server stalls and so hides the stall: this is
//! known as coordinated omission.)
//!
//! It speaks both protocol eras, reads JSON and event-stream answers, and takes nothing for success but a result:
//! JSON-RPC errors and `isError` inside HTTP 200 are failures; overload (503 with `Retry-After`, 429) is counted
//! apart, as shed. What it did itself is in the report, too: how late it sent, and what it could not send.
//!
//! ```no_run
//! # async fn example() -> Result<(), mcp_load::RunError> {
//! use std::time::Duration;
//! use mcp_load::{CancellationToken, Mix, Phase, Plan};
//!
//! let phases = [Phase::constant(50.0, Duration::from_secs(10)), Phase::ramp(50.0, 250.0, Duration::from_secs(30))];
//! let plan = Plan::new("http://127.0.0.1:8080/mcp", Mix::simulate_work(20, 0), phases);
//! let report = mcp_load::run(plan, None, CancellationToken::new()).await?;
//! assert!(report.is_valid() && report.failed() == 0);
//! # Ok(())
//! # }
//! ```

mod caller;
mod collector;
mod error;
mod latency;
mod mix;
mod outcome;
mod pacer;
mod phase;
mod plan;
mod protocol;
mod random;
mod report;
mod run;
mod schedule;
mod sessions;
mod sse;
mod table;
mod target;
mod transport;

pub use collector::{Counts, FailureRecord, SecondRecord, ToolRecord};
pub use error::{PlanError, RunError};
pub use latency::{Latencies, LatencySummary};
pub use mix::{Call, Mix};
pub use outcome::FailureKind;
pub use phase::{Phase, parse_duration};
pub use plan::{Era, MAX_ARRIVALS, MAX_DURATION, Plan};
pub use report::{Report, SessionCounts, Window};
pub use run::{Progress, run};
pub use schedule::Arrivals;
pub use table::table;
pub use tokio_util::sync::CancellationToken;
