//! Which sessions are in memory, how they are used, and which of them have to leave it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rmcp::transport::streamable_http_server::session::SessionId;

use super::store::Owner;

/// A session that was used within this time stays: a request that has just found it in memory must find it there when
/// it gets to it.
const SETTLED: Duration = Duration::from_secs(1);

/// How long, and how many, sessions stay in memory. Those that leave it stay in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stay {
    /// A session leaves after this long without use.
    pub idle: Duration,
    /// Beyond this number, those without use for longest leave. One in use stays all the same.
    pub max: usize,
}

impl Stay {
    fn settled(self) -> Duration {
        SETTLED.min(self.idle)
    }
}

/// The sessions in memory.
#[derive(Debug, Default)]
pub(super) struct Uses(HashMap<SessionId, Use>);

/// How a session is used.
#[derive(Debug)]
struct Use {
    running: usize,
    last: Instant,
    /// Whose session it is, if that is known already; see [`super::store::SessionRecords::owner`].
    owner: Option<Owner>,
}

impl Use {
    fn new(owner: Option<Owner>) -> Self {
        Self {
            running: 0,
            last: Instant::now(),
            owner,
        }
    }

    fn is_unused_for(&self, time: Duration, now: Instant) -> bool {
        self.running == 0 && now.saturating_duration_since(self.last) >= time
    }
}

impl Uses {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &SessionId> {
        self.0.keys()
    }

    /// A session was opened here.
    pub(super) fn opened(&mut self, id: &SessionId, owner: Owner) {
        self.0.insert(SessionId::clone(id), Use::new(Some(owner)));
    }

    /// A session came back from the database.
    pub(super) fn restored(&mut self, id: &SessionId) {
        self.0.entry(SessionId::clone(id)).or_insert_with(|| Use::new(None));
    }

    pub(super) fn removed(&mut self, id: &SessionId) {
        self.0.remove(id);
    }

    /// Somebody has asked for the session.
    pub(super) fn touched(&mut self, id: &str) {
        if let Some(used) = self.0.get_mut(id) {
            used.last = Instant::now();
        }
    }

    pub(super) fn call_began(&mut self, id: &SessionId) {
        let used = self.0.entry(SessionId::clone(id)).or_insert_with(|| Use::new(None));
        used.last = Instant::now();
        used.running += 1;
    }

    pub(super) fn call_ended(&mut self, id: &str) {
        self.touched(id);
        if let Some(used) = self.0.get_mut(id) {
            used.running = used.running.saturating_sub(1);
        }
    }

    pub(super) fn owner(&self, id: &str) -> Option<Owner> {
        self.0.get(id).and_then(|used| used.owner.clone())
    }

    pub(super) fn set_owner(&mut self, id: &str, owner: Owner) {
        if let Some(used) = self.0.get_mut(id) {
            used.owner = Some(owner);
        }
    }

    /// Whether nobody has used the session for a moment, so that it may leave at `now`.
    pub(super) fn may_leave(&self, id: &str, stay: Stay, now: Instant) -> bool {
        self.0
            .get(id)
            .is_none_or(|used| used.is_unused_for(stay.settled(), now))
    }

    /// The sessions that must leave memory at `now`.
    pub(super) fn to_let_go(&self, stay: Stay, now: Instant) -> Vec<SessionId> {
        let settled = self
            .0
            .iter()
            .filter(|(_, used)| used.is_unused_for(stay.settled(), now));
        let mut settled: Vec<_> = settled.map(|(id, used)| (used.last, id)).collect();
        settled.sort_unstable_by_key(|(last, _)| *last);
        let idle = settled.partition_point(|(last, _)| now.saturating_duration_since(*last) >= stay.idle);
        let count = idle.max(self.len().saturating_sub(stay.max));
        settled
            .into_iter()
            .take(count)
            .map(|(_, id)| SessionId::clone(id))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    /// Sessions by their number of seconds without use at `now`, those whose number is in `running` with a call.
    fn uses(seconds: &[u64], running: &[u64], now: Instant) -> Uses {
        let sessions = seconds.iter().map(|unused| {
            let used = Use {
                running: usize::from(running.contains(unused)),
                last: now.checked_sub(Duration::from_secs(*unused)).unwrap(),
                owner: None,
            };
            (SessionId::from(unused.to_string()), used)
        });
        Uses(sessions.collect())
    }

    /// Each session takes 100 KiB: unbounded, clients that never come back fill the memory of all. One with a call
    /// that leaves takes the call's answer with it.
    #[test]
    fn the_longest_unused_leave_first() {
        let now = Instant::now() + MINUTE * 10;
        let all = [0, 5, 10, 70, 90];
        for (name, running, idle, max, expected) in [
            ("all fit", &[][..], 100, 5, &[][..]),
            ("idle", &[], 60, 5, &["90", "70"]),
            ("one too many", &[], 100, 4, &["90"]),
            ("idle and too many", &[], 80, 3, &["90", "70"]),
            ("more idle than too many", &[], 60, 4, &["90", "70"]),
            ("a call runs", &[90], 60, 3, &["70", "10"]),
            ("used just now", &[], 100, 0, &["90", "70", "10", "5"]),
        ] {
            let stay = Stay {
                idle: Duration::from_secs(idle),
                max,
            };
            let left = uses(&all, running, now).to_let_go(stay, now);
            let left: Vec<&str> = left.iter().map(AsRef::as_ref).collect();
            assert_eq!(left, expected, "{name}");
        }
    }

    #[test]
    fn a_session_stays_while_it_is_asked_for() {
        let id = SessionId::from("a");
        let mut uses = Uses::default();
        uses.restored(&id);
        let soon = Instant::now() + SETTLED / 2;
        let stay = Stay { idle: MINUTE, max: 0 };
        assert!(uses.to_let_go(stay, soon).is_empty() && !uses.may_leave("a", stay, soon));
        uses.call_began(&id);
        assert!(uses.to_let_go(stay, soon + MINUTE).is_empty());
        uses.call_ended("a");
        assert_eq!(uses.to_let_go(stay, soon + MINUTE), [id]);
    }
}
