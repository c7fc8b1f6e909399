//! How a replica ends without failing a request.
//!
//! A proxy keeps connections open and may send one more request on any of them at the very moment the server decides
//! to end; a request met by a closed connection cannot be repeated, because nobody knows whether it was executed. So,
//! from the start of the drain: readiness is off, every answer says `Connection: close`, long streams end, and
//! connections are still accepted until nothing has arrived for a while. Only then are idle connections closed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::lock;

/// Without a request for this long, nobody is about to send one.
const QUIET: Duration = Duration::from_secs(1);
/// How often quietness is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// The drain of one server process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Drain {
    begun: CancellationToken,
    open: Arc<AtomicUsize>,
    last_arrival: Arc<Mutex<Instant>>,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            begun: CancellationToken::new(),
            open: Arc::default(),
            last_arrival: Arc::new(Mutex::new(Instant::now())),
        }
    }
}

impl Drain {
    /// Starts the drain; there is no way back.
    pub fn begin(&self) {
        self.begun.cancel();
    }

    /// Whether the drain has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Waits for the start of the drain.
    pub fn begun(&self) -> WaitForCancellationFutureOwned {
        self.begun.clone().cancelled_owned()
    }

    /// Notes that a request arrived, without holding the drain up for it.
    pub fn arrival(&self) {
        *lock(&self.last_arrival) = Instant::now();
    }

    /// Notes that a request arrived; it counts as open until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> OpenRequest {
        self.arrival();
        self.open.fetch_add(1, Ordering::AcqRel);
        OpenRequest(Arc::clone(&self.open))
    }

    /// Waits until the drain has begun, no request is open, and none has arrived for a second.
    pub async fn quiet(&self) {
        self.begun.cancelled().await;
        while self.open.load(Ordering::Acquire) > 0 || lock(&self.last_arrival).elapsed() < QUIET {
            sleep(LOOK).await;
        }
    }
}

/// A request that is not answered yet.
#[derive(Debug)]
pub struct OpenRequest(Arc<AtomicUsize>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
