//! Several reads of one key at the same time ask once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::lock;

/// Reads that are on their way.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Arc<str>, watch::Receiver<()>>>);

/// What a read of a key finds.
pub(super) enum Flight<'a> {
    /// Nobody is on the way: this one goes; others wait until it is dropped.
    Own(Leader<'a>),
    /// Somebody is on the way: wait, then look again.
    Others(watch::Receiver<()>),
}

/// The one read that is on its way for a key.
pub(super) struct Leader<'a> {
    flights: &'a Flights,
    key: Arc<str>,
    _landed: watch::Sender<()>,
}

impl Flights {
    pub(super) fn join(&self, key: &Arc<str>) -> Flight<'_> {
        let mut flights = lock(&self.0);
        if let Some(flight) = flights.get(key) {
            return Flight::Others(flight.clone());
        }
        let (landed, waiting) = watch::channel(());
        flights.insert(Arc::clone(key), waiting);
        Flight::Own(Leader {
            flights: self,
            key: Arc::clone(key),
            _landed: landed,
        })
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        // Dropping the sender afterwards wakes everybody, however this ended.
        lock(&self.flights.0).remove(&self.key);
    }
}

/// Waits until the one on its way has ended, with or without a value.
pub(super) async fn landed(mut waiting: watch::Receiver<()>) {
    while waiting.changed().await.is_ok() {}
}
