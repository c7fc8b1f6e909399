//! The run itself: arrivals on schedule, requests that never hold each other up, and a report at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::caller::{Arrival, Caller};
use crate::collector::{Collector, Counts, Ended};
use crate::error::RunError;
use crate::latency::LatencySummary;
use crate::pacer::keep_pace;
use crate::phase::rate_at;
use crate::plan::Plan;
use crate::random::Random;
use crate::report::{Report, RunFacts};
use crate::schedule::Schedule;
use crate::target;

/// How often progress is published.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// How a run is doing, published every second and once more at the end.
///
/// `last_second` and `latency` are about what *happened* since the last one (answers that came, requests that were
/// due), unlike the report's time series, which is about the requests that were *due* in a second.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Progress {
    /// Seconds since the first phase started.
    pub elapsed_seconds: f64,
    /// How long the phases last together, in seconds.
    pub planned_seconds: f64,
    /// Requests per second that the plan prescribes now; 0 once the phases are over.
    pub target_rate: f64,
    /// Requests that were sent and are not answered.
    pub in_flight: usize,
    /// What happened since the last progress.
    pub last_second: Counts,
    /// Latency, from when it was due, of the requests completed since the last progress.
    pub latency: Option<LatencySummary>,
    /// The run so far.
    pub total: Counts,
    /// True in the last progress of a run.
    pub finished: bool,
}

/// Runs a plan. Returns once every request that was sent has ended, at the latest one [`Plan::timeout`] after the
/// phases are over (a lost legacy session, which is opened anew, can take up to three more).
///
/// Cancelling `cancel` stops sending; requests under way are waited for, and the report says that it is partial.
/// Dropping the future stops sending, too.
///
/// # Errors
/// [`RunError`] when the run cannot start. What goes wrong later is in the report: [`Report::failed`],
/// [`Report::invalid`].
pub async fn run(
    plan: Plan,
    progress: Option<watch::Sender<Progress>>,
    cancel: CancellationToken,
) -> Result<Report, RunError> {
    plan.validate()?;
    let uri = target::resolve(&plan.url, plan.allow_any_host).await?;
    let caller = tokio::select! {
        prepared = Caller::prepare(&plan, uri) => prepared?,
        () = cancel.cancelled() => return Err(RunError::Cancelled),
    };
    let load = Arc::new(Load::new(&plan, caller));
    let stop = cancel.child_token();
    let _stop_when_dropped = stop.clone().drop_guard();
    let tracker = TaskTracker::new();

    let pacer = tokio::task::spawn_blocking({
        let (plan, load, tracker) = (plan.clone(), Arc::clone(&load), tracker.clone());
        move || send_on_schedule(&plan, &load, &tracker, &stop)
    });
    let all_ended = async {
        let ended = pacer.await.map_err(|error| RunError::Pacer(error.to_string()));
        tracker.close();
        tracker.wait().await;
        ended
    };
    publish_until(all_ended, &plan, &load, progress.as_ref()).await?;

    let facts = RunFacts {
        ran_for: load.start.elapsed(),
        started_at: load.started_at,
        cancelled: cancel.is_cancelled(),
        sessions: load.caller.sessions(),
    };
    load.caller.close().await;
    Ok(Report::new(&plan, facts, load.collector.finish()))
}

/// What the requests of a run share.
#[derive(Debug)]
struct Load {
    caller: Caller,
    collector: Collector,
    in_flight: AtomicUsize,
    start: Instant,
    started_at: jiff::Timestamp,
}

impl Load {
    fn new(plan: &Plan, caller: Caller) -> Self {
        let collector = Collector::new(plan.mix.calls().iter().map(|(call, _)| call.tool_name()));
        let in_flight = AtomicUsize::new(0);
        Self {
            caller,
            collector,
            in_flight,
            start: Instant::now(),
            started_at: jiff::Timestamp::now(),
        }
    }

    async fn send(&self, arrival: Arrival, due: Duration) {
        let sent = self.start.elapsed();
        let exchange = self.caller.call(arrival).await;
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.collector.ended(Ended {
            call: arrival.call,
            due,
            sent,
            finished: exchange.finished.saturating_duration_since(self.start),
            status: exchange.status,
            result: exchange.answer.map(drop),
        });
    }

    fn progress(&self, plan: &Plan, finished: bool) -> Progress {
        let elapsed = self.start.elapsed();
        let (recent, total) = self.collector.take_recent();
        Progress {
            elapsed_seconds: elapsed.as_secs_f64(),
            planned_seconds: plan.duration().as_secs_f64(),
            target_rate: rate_at(&plan.phases, elapsed).unwrap_or(0.0),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            last_second: recent.counts,
            latency: Some(recent.latency.summary()),
            total,
            finished,
        }
    }
}

/// Starts every request when it is due, unless too many are unanswered: then it is counted as unsent.
fn send_on_schedule(plan: &Plan, load: &Arc<Load>, tracker: &TaskTracker, stop: &CancellationToken) {
    let runtime = tokio::runtime::Handle::current();
    // Not the seed itself: Poisson gaps are drawn from that, and choices must not follow the gaps.
    let mut random = Random::new(!plan.seed);
    let mut number = 0;
    let schedule = Schedule::new(&plan.phases, plan.arrivals, plan.seed);
    keep_pace(schedule, plan.duration(), load.start, stop, |due| {
        let arrival = Arrival {
            number,
            call: plan.mix.draw(&mut random),
            choice: random.next_u64(),
        };
        number += 1;
        load.collector.offered(arrival.call, due);
        if load.in_flight.load(Ordering::Relaxed) >= plan.max_in_flight {
            load.collector.unsent(arrival.call, due);
            return;
        }
        load.in_flight.fetch_add(1, Ordering::Relaxed);
        let load = Arc::clone(load);
        tracker.spawn_on(async move { load.send(arrival, due).await }, &runtime);
    });
}

/// Publishes progress while `work` goes on, and once more when it is done.
async fn publish_until<T>(
    work: impl Future<Output = T>,
    plan: &Plan,
    load: &Load,
    progress: Option<&watch::Sender<Progress>>,
) -> T {
    let Some(progress) = progress else { return work.await };
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                progress.send_replace(load.progress(plan, true));
                return done;
            }
            _ = ticks.tick() => {
                progress.send_replace(load.progress(plan, false));
            }
        }
    }
}
