//! The audit log: who did what, when, and how it ended. Never what was said, and never a secret.
//!
//! - What changes something is noted in the same transaction as the change: no acknowledged change is without its line,
//!   and no line tells of a change that was not made.
//! - Refusals change nothing. They are noted together, within [`WRITTEN_WITHIN`], equal ones in one line with their
//!   number, so that an attacker who is refused a thousand times a second costs one line. A killed process takes those
//!   of the last moment with it, and what is more than [`WAITING_MAX`] goes to the server's log only.
//! - Reading is not noted: it would make a write of every read. Metrics count it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::sleep;

use super::storage::Storage;

/// Refusals reach the database within this time.
pub const WRITTEN_WITHIN: Duration = Duration::from_secs(1);
/// Most refusals that wait to be written.
pub const WAITING_MAX: usize = 4_096;

/// A call that was refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// The agent that called, if it is known which.
    pub agent_id: Option<String>,
    /// The agent that somebody wanted to be who could not prove it.
    pub claimed: Option<String>,
    /// The tool or resource.
    pub action: &'static str,
    /// Code of the error.
    pub code: &'static str,
}

/// Takes note of refusals. Cheap to clone; never waits.
#[derive(Debug, Clone)]
pub struct AuditTrail(Sender<Refusal>);

/// What [`AuditTrail`] has taken note of.
pub struct Refusals(Receiver<Refusal>);

/// A trail and its end.
#[must_use]
pub fn trail() -> (AuditTrail, Refusals) {
    let (sender, receiver) = channel(WAITING_MAX);
    (AuditTrail(sender), Refusals(receiver))
}

impl AuditTrail {
    /// Notes a refusal.
    pub fn refused(&self, refusal: Refusal) {
        if let Err(error) = self.0.try_send(refusal) {
            let Refusal {
                agent_id,
                claimed,
                action,
                code,
            } = error.into_inner();
            tracing::warn!(agent_id, claimed, action, code, "a refusal is missing in the audit log");
        }
    }
}

impl Refusals {
    /// Writes refusals to `storage` until there can be no more.
    pub async fn write(mut self, storage: &dyn Storage) {
        let mut arrived = Vec::new();
        while self.0.recv_many(&mut arrived, WAITING_MAX).await > 0 {
            // More may come in the meantime, for the same insertion.
            sleep(WRITTEN_WITHIN / 2).await;
            while arrived.len() < 2 * WAITING_MAX
                && let Ok(refusal) = self.0.try_recv()
            {
                arrived.push(refusal);
            }
            let mut counted = BTreeMap::new();
            for refusal in arrived.drain(..) {
                *counted.entry(refusal).or_insert(0) += 1;
            }
            let lines = counted.len();
            if let Err(error) = storage.audit_refusals(counted).await {
                tracing::warn!(%error, lines, "refusals are missing in the audit log");
            }
        }
    }
}
