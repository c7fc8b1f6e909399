//! How many requests are served at once: a fixed number of slots, a bounded queue before them, and a refusal beyond.
//!
//! Refusing early keeps the answers of admitted requests fast and costs the caller one retry; an unbounded queue would
//! make every answer late. The figures kept here are the scaler's main input, so their meaning is exact:
//! `offered = admitted + shed`, service time is the time a slot is held, and busy seconds include unfinished calls.
//!
//! Slots and queue can be resized at any time: more slots admit waiting requests at once, fewer let the ones in use
//! finish. When latency proves overload, [`adaptive`] sheds before the slots are full.

pub mod adaptive;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use self::adaptive::{Adaptive, AdaptiveSettings};
use crate::lock;
use crate::metrics::{at_scrape, duration_histogram};
use crate::permits::{Permit, Permits};

/// How long a refused caller is asked to wait before it tries again, in seconds (`Retry-After`).
pub const RETRY_AFTER_SECONDS: u32 = 1;

/// The request was refused; no work has been done for it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Overloaded {
    /// All slots are busy and the queue is full.
    #[error(
        "the server is at its limit of {concurrency} concurrent requests and {queue_max} waiting ones; try again in \
         {RETRY_AFTER_SECONDS} s"
    )]
    Full {
        /// Slots.
        concurrency: usize,
        /// Places in the queue.
        queue_max: usize,
    },
    /// Requests take much longer than usual, so fewer than usual are served at once.
    #[error(
        "requests take much longer than usual: the server takes no more than {limit} at once until they are fast \
         again; try again in {RETRY_AFTER_SECONDS} s"
    )]
    Slow {
        /// The adaptive limit.
        limit: usize,
    },
}

/// The slots of one server process.
#[derive(Debug)]
pub struct Admission {
    slots: Permits,
    queue_max: AtomicUsize,
    queued: AtomicUsize,
    adaptive: Mutex<Adaptive>,
    occupancy: Mutex<Occupancy>,
    offered: Counter,
    shed: Counter,
    queue_seconds: Histogram,
}

impl Admission {
    /// Opens `concurrency` slots (at least one) with room for `queue_max` waiting requests, and registers the metrics.
    #[must_use]
    pub fn new(concurrency: usize, queue_max: usize, adaptive: AdaptiveSettings, registry: &mut Registry) -> Arc<Self> {
        let now = Instant::now();
        let admission = Arc::new(Self {
            slots: Permits::new(concurrency),
            queue_max: AtomicUsize::new(queue_max),
            queued: AtomicUsize::new(0),
            adaptive: Mutex::new(Adaptive::new(adaptive, concurrency.max(1), now)),
            occupancy: Mutex::new(Occupancy::new(now)),
            offered: Counter::default(),
            shed: Counter::default(),
            queue_seconds: duration_histogram(),
        });
        admission.register(registry);
        admission
    }

    fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register(
            "mcp_requests_offered",
            "JSON-RPC requests that arrived: admitted and shed",
            self.offered.clone(),
        );
        registry.register(
            "mcp_requests_shed",
            "Requests refused, or given up by the client while waiting",
            self.shed.clone(),
        );
        registry.register(
            "mcp_queue_seconds",
            "Wait for a slot, admitted requests only",
            self.queue_seconds.clone(),
        );
        let read = Arc::clone(self);
        at_scrape::counter(
            registry,
            "mcp_slot_busy_seconds",
            "Slot-seconds used so far, unfinished requests included",
            move || Some(read.busy_seconds()),
        );
        let read = Arc::clone(self);
        at_scrape::gauge(
            registry,
            "mcp_in_flight_requests",
            "Requests that hold a slot",
            move || Some(count(read.in_flight())),
        );
        let read = Arc::clone(self);
        at_scrape::gauge(
            registry,
            "mcp_queued_requests",
            "Requests that wait for a slot",
            move || Some(count(read.queued())),
        );
        let read = Arc::clone(self);
        at_scrape::gauge(registry, "mcp_concurrency_limit", "Slots of this server", move || {
            Some(count(read.concurrency()))
        });
        let read = Arc::clone(self);
        at_scrape::gauge(
            registry,
            "mcp_adaptive_concurrency_limit",
            "Requests served at once before more are shed; below the slots only when latency proves overload",
            move || Some(count(lock(&read.adaptive).limit())),
        );
    }

    /// Takes a slot for a request of `kind` (its tool or method), waiting in the queue if need be.
    ///
    /// Dropping the returned future gives the place in the queue back and counts the request as shed.
    ///
    /// # Errors
    /// [`Overloaded`] when every slot is busy and the queue is full, or latency proves overload; no work has been done
    /// then.
    pub async fn admit(self: &Arc<Self>, kind: &'static str) -> Result<Slot, Overloaded> {
        self.offered.inc();
        let arrived = Instant::now();
        self.check_latency()?;
        let permit = if let Some(permit) = self.slots.try_acquire() {
            permit
        } else {
            let place = QueuePlace::take(self).ok_or_else(|| self.refuse(self.full()))?;
            let permit = self.slots.acquire().await;
            place.admitted();
            permit
        };
        self.queue_seconds.observe(arrived.elapsed().as_secs_f64());
        Ok(Slot::open(self, kind, permit))
    }

    fn check_latency(&self) -> Result<(), Overloaded> {
        let limit = {
            let adaptive = lock(&self.adaptive);
            if !adaptive.is_active() {
                return Ok(());
            }
            adaptive.limit()
        };
        if self.in_flight() < limit {
            return Ok(());
        }
        Err(self.refuse(Overloaded::Slow { limit }))
    }

    fn refuse(&self, why: Overloaded) -> Overloaded {
        self.shed.inc();
        why
    }

    fn full(&self) -> Overloaded {
        Overloaded::Full {
            concurrency: self.concurrency(),
            queue_max: self.queue_max(),
        }
    }

    /// Sets slots (at least one) and places in the queue. Requests that hold a slot or a place keep it.
    pub fn resize(&self, concurrency: usize, queue_max: usize) {
        let concurrency = concurrency.max(1);
        self.queue_max.store(queue_max, Ordering::Relaxed);
        if concurrency != self.concurrency() {
            lock(&self.adaptive).declare(concurrency);
            self.slots.resize(concurrency);
        }
    }

    /// Slots of this server.
    #[must_use]
    pub fn concurrency(&self) -> usize {
        self.slots.limit()
    }

    /// Most requests that may wait for a slot.
    #[must_use]
    pub fn queue_max(&self) -> usize {
        self.queue_max.load(Ordering::Relaxed)
    }

    /// Requests that hold a slot now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        lock(&self.occupancy).busy
    }

    /// Requests that wait for a slot now.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Slot-seconds used since the start, those of unfinished requests included.
    #[must_use]
    pub fn busy_seconds(&self) -> f64 {
        lock(&self.occupancy).total(Instant::now())
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
const fn count(value: usize) -> f64 {
    value as f64
}

/// A waiting request's place in the queue.
struct QueuePlace<'a> {
    admission: &'a Admission,
    admitted: bool,
}

impl<'a> QueuePlace<'a> {
    fn take(admission: &'a Admission) -> Option<Self> {
        admission
            .queued
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |queued| {
                (queued < admission.queue_max()).then_some(queued + 1)
            })
            .ok()
            .map(|_| Self {
                admission,
                admitted: false,
            })
    }

    fn admitted(mut self) {
        self.admitted = true;
    }
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        self.admission.queued.fetch_sub(1, Ordering::Relaxed);
        // A client that gave up while waiting was demand that found no capacity: it counts as shed, so that
        // offered = admitted + shed holds at rest.
        if !self.admitted {
            self.admission.shed.inc();
        }
    }
}

/// One request's right to be served; dropping it frees the slot.
#[derive(Debug)]
pub struct Slot {
    admission: Arc<Admission>,
    kind: &'static str,
    taken: Instant,
    _permit: Permit,
}

impl Slot {
    fn open(admission: &Arc<Admission>, kind: &'static str, permit: Permit) -> Self {
        let taken = Instant::now();
        lock(&admission.occupancy).enter(taken);
        Self {
            admission: Arc::clone(admission),
            kind,
            taken,
            _permit: permit,
        }
    }

    /// Time since the slot was taken.
    #[must_use]
    pub fn held(&self) -> Duration {
        self.taken.elapsed()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let now = Instant::now();
        let busy = {
            let mut occupancy = lock(&self.admission.occupancy);
            occupancy.leave(now);
            occupancy.busy + 1
        };
        let service = now.saturating_duration_since(self.taken);
        lock(&self.admission.adaptive).finished(self.kind, service, busy, now);
    }
}

/// The integral of busy slots over time.
#[derive(Debug)]
struct Occupancy {
    busy: usize,
    seconds: f64,
    since: Instant,
}

impl Occupancy {
    const fn new(now: Instant) -> Self {
        Self {
            busy: 0,
            seconds: 0.0,
            since: now,
        }
    }

    fn total(&self, now: Instant) -> f64 {
        self.seconds + count(self.busy) * now.saturating_duration_since(self.since).as_secs_f64()
    }

    fn enter(&mut self, now: Instant) {
        self.settle(now);
        self.busy += 1;
    }

    fn leave(&mut self, now: Instant) {
        self.settle(now);
        self.busy = self.busy.saturating_sub(1);
    }

    fn settle(&mut self, now: Instant) {
        self.seconds = self.total(now);
        self.since = self.since.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn admission(concurrency: usize, queue_max: usize) -> Arc<Admission> {
        Admission::new(
            concurrency,
            queue_max,
            AdaptiveSettings::default(),
            &mut Registry::default(),
        )
    }

    /// A request beyond slots and queue must be told at once; one inside must never be refused.
    #[tokio::test]
    async fn refuses_exactly_what_exceeds_slots_and_queue() {
        for (name, concurrency, queue_max) in [("no queue", 1, 0), ("one place", 1, 1), ("several", 3, 5)] {
            let admission = admission(concurrency, queue_max);
            let mut slots = Vec::new();
            for _ in 0..concurrency {
                slots.push(admission.admit("tool").await.expect("a free slot"));
            }
            let waiting: Vec<_> = (0..queue_max)
                .map(|_| {
                    let admission = Arc::clone(&admission);
                    tokio::spawn(async move { admission.admit("tool").await.map(drop) })
                })
                .collect();
            while admission.queued() < queue_max {
                tokio::task::yield_now().await;
            }
            assert_eq!(admission.admit("tool").await.err(), Some(admission.full()), "{name}");
            drop(slots);
            for waiter in waiting {
                waiter.await.expect("no panic").expect("a waiting request is served");
            }
            assert_eq!(admission.offered.get(), (concurrency + queue_max + 1) as u64, "{name}");
            assert_eq!(admission.shed.get(), 1, "{name}");
            assert_eq!(
                (admission.in_flight(), admission.queued()),
                (0, 0),
                "{name}: everything is given back"
            );
        }
    }

    /// A client that hangs up while waiting must not keep a place in the queue.
    #[tokio::test]
    async fn a_client_that_gives_up_frees_its_place_and_counts_as_shed() {
        let admission = admission(1, 1);
        let slot = admission.admit("tool").await.expect("a free slot");
        let mut waiting = Box::pin(admission.admit("tool"));
        assert!(futures::poll!(&mut waiting).is_pending());
        assert_eq!(admission.queued(), 1);
        drop(waiting);
        assert_eq!(
            (admission.queued(), admission.shed.get(), admission.offered.get()),
            (0, 1, 2)
        );
        drop(slot);
        admission.admit("tool").await.expect("the slot is free again");
    }

    /// The operator resizes a live server: whoever waits must profit at once, and nobody who is served may be cut.
    #[tokio::test]
    async fn resizing_moves_waiting_requests_on_and_cuts_nobody() {
        let admission = admission(1, 2);
        let first = admission.admit("tool").await.expect("a free slot");
        let mut second = Box::pin(admission.admit("tool"));
        assert!(futures::poll!(&mut second).is_pending());
        admission.resize(3, 0);
        let second = second.await.expect("a new slot");
        let third = admission.admit("tool").await.expect("another new slot");
        assert_eq!(
            admission.admit("tool").await.err(),
            Some(admission.full()),
            "no queue any more"
        );
        admission.resize(1, 0);
        assert_eq!((admission.in_flight(), admission.concurrency()), (3, 1));
        drop((first, second));
        assert!(
            admission.admit("tool").await.is_err(),
            "the third still holds the only slot"
        );
        drop(third);
        admission.admit("tool").await.expect("the slot is free");
    }

    /// What the adaptive limit refuses must be refused without work, and counted as shed.
    #[tokio::test]
    async fn overload_is_shed_and_counted() {
        let admission = admission(4, 100);
        let mut slots = Vec::new();
        for _ in 0..2 {
            slots.push(admission.admit("tool").await.expect("a free slot"));
        }
        let began = Instant::now();
        let run = |from: u64, to: u64, service: Duration, busy: usize| {
            for at in (from..to).step_by(10) {
                let now = began + Duration::from_millis(at);
                lock(&admission.adaptive).finished("tool", service, busy, now);
            }
        };
        run(0, 10_000, Duration::from_millis(10), 1);
        run(10_000, 13_000, Duration::from_mins(1), 4);
        assert_eq!(admission.admit("tool").await.err(), Some(Overloaded::Slow { limit: 2 }));
        assert_eq!((admission.offered.get(), admission.shed.get()), (3, 1));
        assert_eq!(admission.concurrency(), 4, "the declared concurrency stays");
        slots.pop();
        admission.admit("tool").await.expect("below the limit");
    }

    proptest! {
        /// The scaler divides busy seconds by time: they must equal the sum of what each request held, at any moment.
        #[test]
        fn busy_seconds_equal_the_time_held(spans in proptest::collection::vec((0u64..1000, 1u64..1000), 1..20), at in 0u64..2500) {
            let origin = Instant::now();
            let mut events: Vec<(u64, bool)> = spans.iter().flat_map(|(start, length)| [(*start, true), (start + length, false)]).collect();
            events.sort_unstable();
            let mut occupancy = Occupancy::new(origin);
            for (time, enters) in events.into_iter().filter(|(time, _)| *time <= at) {
                let now = origin + Duration::from_millis(time);
                if enters { occupancy.enter(now) } else { occupancy.leave(now) }
            }
            let held: u64 = spans.iter().map(|(start, length)| at.saturating_sub(*start).min(*length)).sum();
            let total = occupancy.total(origin + Duration::from_millis(at));
            prop_assert!((total - Duration::from_millis(held).as_secs_f64()).abs() < 1e-6);
        }
    }
}
