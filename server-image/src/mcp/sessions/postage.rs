//! How much clients may send to calls at other replicas.
//!
//! Such messages need no slot, and lie in the database for minutes if they are to nobody: whoever invents calls must not
//! fill it, nor take the room of others.

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};

/// Most KiB of all messages that one replica hands on in a second, over time, and at once. With the time that letters are
/// kept this is some 250 MB of them.
const ALL_PER_SECOND: NonZeroU32 = kibibytes(1024);
const ALL_AT_ONCE: NonZeroU32 = kibibytes(8 * 1024);
/// The same of one session; one of the largest messages has room, whatever its characters take in JSON.
const SESSION_PER_SECOND: NonZeroU32 = kibibytes(128);
const SESSION_AT_ONCE: NonZeroU32 = kibibytes(2 * 1024);
/// What a message costs besides its length, in KiB: a row is work, however short.
const ROW: usize = 8;

const fn kibibytes(number: u32) -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(number - 1)
}

/// What may be sent now.
#[derive(Debug)]
pub(super) struct Postage {
    all: DefaultDirectRateLimiter,
    sessions: DefaultKeyedRateLimiter<String>,
    told: DefaultDirectRateLimiter,
}

impl Postage {
    pub(super) fn new() -> Self {
        let quota = |per_second, at_once| Quota::per_second(per_second).allow_burst(at_once);
        Self {
            all: RateLimiter::direct(quota(ALL_PER_SECOND, ALL_AT_ONCE)),
            sessions: RateLimiter::keyed(quota(SESSION_PER_SECOND, SESSION_AT_ONCE)),
            told: RateLimiter::direct(Quota::per_minute(NonZeroU32::MIN)),
        }
    }

    /// Whether a message of so many bytes may be sent for `session`; if so, it counts.
    pub(super) fn is_paid(&self, session: &str, bytes: usize) -> bool {
        let cost = u32::try_from(bytes / 1024 + ROW).ok().and_then(NonZeroU32::new);
        let is_paid = cost.is_some_and(|cost| {
            matches!(self.sessions.check_key_n(&session.to_owned(), cost), Ok(Ok(())))
                && matches!(self.all.check_n(cost), Ok(Ok(())))
        });
        if !is_paid && self.told.check().is_ok() {
            tracing::warn!(
                session,
                bytes,
                "a client's message to a call at another replica is lost, and perhaps more of them: clients send too many"
            );
        }
        is_paid
    }

    /// Forgets sessions that have sent nothing for a while.
    pub(super) fn tidy(&self) {
        self.sessions.retain_recent();
        self.sessions.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `count` messages are sent.
    fn paid(postage: &Postage, session: &str, bytes: usize, count: usize) -> usize {
        (0..count).filter(|_| postage.is_paid(session, bytes)).count()
    }

    /// One client that sends as much as it can must leave room for the answers of others.
    #[test]
    fn one_session_takes_no_room_of_others() {
        let postage = Postage::new();
        assert!(paid(&postage, "greedy", 1_000_000, 10) <= 3, "long ones");
        assert!(paid(&postage, "busy", 10, 1000) < 300, "short ones");
        assert_eq!(paid(&postage, "ann", 10, 20), 20);
        assert_eq!(paid(&postage, "bob", 1_100_000, 1), 1, "the largest");
    }

    /// Sessions cost nothing either: whoever opens many must not fill the database.
    #[test]
    fn all_together_are_bounded() {
        let postage = Postage::new();
        let sent = (0..100).filter(|session| postage.is_paid(&session.to_string(), 1_000_000));
        assert!(sent.count() < 12);
    }
}
