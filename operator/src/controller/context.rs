//! What every reconcile shares: the client, the caches, and what is remembered between reconciles.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kube::{Client, runtime::events::Recorder};

use super::{apply::Written, caches::Caches, scaling::Outlook, validate::Installation};
use crate::metrics::Metrics;

/// A server by namespace and name.
pub type ServerKey = (String, String);

/// Shared by all reconciles of one watch scope.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// What is watched.
    pub caches: Caches,
    /// Defaults and facts of the installation.
    pub installation: Installation,
    /// Events. One for the process: it is what counts repeats of the same Event.
    pub recorder: Recorder,
    /// Metrics of the operator.
    pub metrics: Arc<Metrics>,
    /// Whether a metrics source is configured.
    pub has_metrics_source: bool,
    /// Longest time one reconcile may take.
    pub reconcile_timeout: Duration,
    /// What the scaler last said, by server.
    pub outlooks: Shared<HashMap<ServerKey, Outlook>>,
    /// What was last written, by server.
    pub written: Shared<HashMap<ServerKey, Written>>,
    /// Failures in a row, by server.
    pub failures: Shared<HashMap<ServerKey, u32>>,
}

/// A value behind a lock that is held for a look or a change, never across an await.
#[derive(Debug, Default)]
pub struct Shared<T>(Arc<Mutex<T>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Shared<T> {
    /// Locks the value. A panic elsewhere while it was locked leaves it as it was then: every change here is a single
    /// insertion or removal.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Context {
    /// Notes a failure and answers how long to wait before the next try.
    #[must_use]
    pub fn back_off(&self, server: &ServerKey) -> Duration {
        let mut failures = self.failures.lock();
        let count = failures.entry(server.clone()).or_insert(0);
        let pause = pause_after(*count);
        *count = count.saturating_add(1);
        self.metrics
            .objects_in_backoff
            .set(i64::try_from(failures.len()).unwrap_or(i64::MAX));
        pause
    }

    /// Forgets the failures of a server that was reconciled.
    pub fn reset_backoff(&self, server: &ServerKey) {
        let mut failures = self.failures.lock();
        if failures.remove(server).is_some() {
            self.metrics
                .objects_in_backoff
                .set(i64::try_from(failures.len()).unwrap_or(i64::MAX));
        }
    }

    /// Forgets what was done for a server that is gone.
    pub fn forget(&self, server: &ServerKey) {
        self.written.lock().remove(server);
        self.reset_backoff(server);
    }
}

/// Pause before the next try of what has failed `failures` times before: 1 s, doubled each time, at most 5 minutes.
fn pause_after(failures: u32) -> Duration {
    let doubled = Duration::from_secs(1).saturating_mul(2_u32.saturating_pow(failures));
    doubled.min(Duration::from_mins(5))
}

/// Whether a moment is longer ago than a span.
#[must_use]
pub fn older_than(moment: Instant, span: Duration) -> bool {
    moment.elapsed() > span
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the API server loses without it: an operator that asks for the impossible without pause, or gives up for
    /// hours on what lasts a minute.
    #[test]
    fn pauses_grow_up_to_five_minutes() {
        let seconds = [0, 1, 2, 8, 9, 31, 32, u32::MAX].map(|failures| pause_after(failures).as_secs());
        assert_eq!(seconds, [1, 2, 4, 256, 300, 300, 300, 300]);
    }
}
