//! Where this process's time and memory go, measured for a few seconds when the operator asks.
//!
//! It is put together from what the kernel and the runtime count anyway, so it costs nothing while nobody asks, and
//! hardly anything while somebody does. It tells which kind of thread is busy, which waits for a core, and how evenly
//! the runtime's workers are loaded; it does not look into functions.

pub mod http;
mod memory;
mod threads;

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::runtime::{Handle, RuntimeMetrics};
use tokio::time::sleep;

pub use self::memory::Memory;
pub use self::threads::ThreadGroup;
use crate::cache::Cache;

/// Shortest profile, in seconds.
pub const SECONDS_MIN: u64 = 1;
/// Longest profile, in seconds.
pub const SECONDS_MAX: u64 = 60;
/// Length of a profile when nobody says otherwise, in seconds.
pub const SECONDS_DEFAULT: u64 = 5;

/// What a profile shows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Cores in use, on average: CPU time divided by time. Threads that ended meanwhile are not in it.
    pub cores: f64,
    /// Threads by name, the busiest first.
    pub threads: Vec<ThreadGroup>,
    /// The async runtime.
    pub runtime: Runtime,
    /// Memory at the end.
    pub memory: Memory,
}

/// What the async runtime did.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Runtime {
    /// Part of the time that each worker was busy with tasks, from 0 to 1. One that stays at 1 is blocked by a task.
    pub busy: Vec<f64>,
    /// How often workers went to sleep, per second.
    pub parks_per_second: f64,
    /// Tasks alive at the end.
    pub tasks: usize,
    /// Tasks that waited for a worker at the end, those in workers' own queues left out.
    pub queued: usize,
}

/// Measures for `length`.
///
/// # Errors
/// [`std::io::Error`] when the kernel does not show this process's threads.
pub async fn take(length: Duration, cache: &Cache) -> std::io::Result<Profile> {
    let metrics = Handle::current().metrics();
    let (began, threads, workers) = (Instant::now(), threads::read()?, Workers::read(&metrics));
    sleep(length).await;
    let threads = threads::between(&threads, &threads::read()?);
    let (seconds, workers) = (began.elapsed().as_secs_f64(), Workers::read(&metrics).since(&workers));
    Ok(Profile {
        seconds,
        cores: threads.iter().map(ThreadGroup::cpu_seconds).sum::<f64>() / seconds,
        threads,
        runtime: Runtime {
            busy: workers.busy.iter().map(|busy| (busy / seconds).min(1.0)).collect(),
            parks_per_second: workers.parks / seconds,
            tasks: metrics.num_alive_tasks(),
            queued: metrics.global_queue_depth(),
        },
        memory: Memory::read(cache),
    })
}

/// What the runtime's workers have done so far.
#[derive(Debug)]
struct Workers {
    /// Seconds that each was busy.
    busy: Vec<f64>,
    /// How often they went to sleep.
    parks: f64,
}

impl Workers {
    fn read(metrics: &RuntimeMetrics) -> Self {
        let workers = 0..metrics.num_workers();
        let parks = workers.clone().map(|worker| metrics.worker_park_count(worker));
        let busy = workers.map(|worker| metrics.worker_total_busy_duration(worker).as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        Self {
            busy: busy.collect(),
            parks: parks.sum::<u64>() as f64,
        }
    }

    fn since(&self, before: &Self) -> Self {
        let busy = self.busy.iter().zip(&before.busy).map(|(now, then)| now - then);
        Self {
            busy: busy.collect(),
            parks: self.parks - before.parks,
        }
    }
}
