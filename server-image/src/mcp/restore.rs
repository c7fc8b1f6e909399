//! One at a time: requests for the same session that this replica does not have in memory.
//!
//! rmcp restores a session from the store when the first request for it arrives, and lets requests that arrive during
//! the restoration wait. One that looked for the session before and asks to restore it just after that is answered
//! with 500, because the session is there by then. Taking turns from the look on closes this gap.

use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::sync::{Mutex, MutexGuard};

use super::sessions::SharedSessions;

/// Sessions share this many turns; it also bounds how many look-ups of sessions the database sees at once.
const TURNS: usize = 64;

/// The turns.
#[derive(Debug)]
pub(super) struct Restoring {
    turns: [Mutex<()>; TURNS],
}

impl Restoring {
    pub(super) fn new() -> Self {
        Self {
            turns: std::array::from_fn(|_| Mutex::new(())),
        }
    }

    /// Waits for the turn of a request that names the session `id`; `None` if the session is in memory already.
    pub(super) async fn turn(&self, sessions: &SharedSessions, id: &str) -> Option<MutexGuard<'_, ()>> {
        if sessions.is_here(id).await {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % TURNS as u64).unwrap_or_default();
        let turn = self.turns[index].lock().await;
        // Whoever had the turn before may have restored it.
        (!sessions.is_here(id).await).then_some(turn)
    }
}
