//! What has ended goes: expired memory and tokens, sessions that nobody uses, old audit lines.
//!
//! Every replica does this; at any moment one of them gets to work, and what it does is split into short transactions,
//! so that nobody waits for it.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::sleep;

use super::storage::{Storage, StorageError};

/// Rows per transaction. Small enough that a write that must wait for it hardly notices.
pub const BATCH: i64 = 500;
/// Pause between two transactions, which leaves the database to those who are served.
const PAUSE: Duration = Duration::from_millis(50);
/// The first round comes this long after the start, or after the interval if that is shorter: a server that is
/// restarted more often than the interval must clean up too.
const FIRST: Duration = Duration::from_mins(1);

/// For how long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Time between two rounds.
    pub interval: Duration,
    /// Sessions without a change for this long are closed: they can be read, but take no more messages. Memory of the
    /// session that is set is a change, too.
    pub inactive_session: Duration,
    /// Closed sessions without a change for this long are deleted, with their messages and the memory of theirs.
    pub closed_session: Duration,
    /// Lines of the audit log older than this are deleted.
    pub audit_log: Duration,
}

impl Default for RetentionSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_hours(1),
            inactive_session: Duration::from_hours(7 * 24),
            closed_session: Duration::from_hours(30 * 24),
            audit_log: Duration::from_hours(30 * 24),
        }
    }
}

/// One of these times for a sentence; people set them in days.
pub(super) fn in_days(time: Duration) -> String {
    match time.as_secs() / (24 * 3600) {
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

/// One kind of thing that is cleaned up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleaning {
    /// Deletes memory entries whose time is over.
    ExpiredMemory,
    /// Deletes tokens whose time is over.
    ExpiredTokens,
    /// Closes sessions unused for this long.
    InactiveSessions(Duration),
    /// Deletes closed sessions unused for this long, with their messages and the memory of theirs.
    ClosedSessions(Duration),
    /// Deletes lines of the audit log older than this.
    AuditLog(Duration),
}

impl Cleaning {
    /// Whether a round ends with it.
    pub(super) const fn is_last(self) -> bool {
        matches!(self, Self::AuditLog(_))
    }
}

/// Where a step through the sessions ended: the next one goes on behind it, so that a round passes each session once,
/// however many there are that stay. By default before the first one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// When the session was created.
    pub created_at: Timestamp,
    /// Its id, which tells apart those of the same moment.
    pub id: String,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleaned {
    /// How many rows were changed.
    pub rows: u64,
    /// Where the next step begins; `None` when the chore is done.
    pub next: Option<Place>,
}

impl RetentionSettings {
    /// Cleans up again and again. Runs until it is dropped.
    pub(super) async fn run(self, storage: &dyn Storage) {
        sleep(FIRST.min(self.interval)).await;
        loop {
            for chore in self.chores() {
                match finish(storage, chore).await {
                    Ok(0) => {}
                    Ok(rows) => tracing::info!(?chore, rows, "cleaned up"),
                    Err(error) => tracing::warn!(?chore, %error, "cleaning up failed; the next round tries again"),
                }
            }
            sleep(self.interval).await;
        }
    }

    /// In the order of a round; the last one is [`Cleaning::is_last`].
    pub(super) const fn chores(self) -> [Cleaning; 5] {
        [
            Cleaning::ExpiredMemory,
            Cleaning::ExpiredTokens,
            Cleaning::InactiveSessions(self.inactive_session),
            Cleaning::ClosedSessions(self.closed_session),
            Cleaning::AuditLog(self.audit_log),
        ]
    }
}

/// Does all of a chore; returns how many rows it was.
async fn finish(storage: &dyn Storage, chore: Cleaning) -> Result<u64, StorageError> {
    let (mut rows, mut place) = (0, Place::default());
    loop {
        let cleaned = storage.clean(chore, &place, BATCH).await?;
        rows += cleaned.rows;
        let Some(next) = cleaned.next else { return Ok(rows) };
        place = next;
        sleep(PAUSE).await;
    }
}
