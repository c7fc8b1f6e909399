//! Limits of this replica alone.

use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use quick_cache::sync::Cache;

use super::caller::Caller;
use super::{Class, Rate};

/// Callers that are remembered, about 10 MiB. Beyond that the ones seen least are forgotten, and begin anew.
pub(super) const CALLERS_MAX: usize = 50_000;

/// A caller's own limiters, one for each rate of a class.
type Limiters = Arc<[DefaultDirectRateLimiter]>;

/// The state of all callers.
pub(super) struct Local {
    clock: DefaultClock,
    callers: Cache<(Class, Caller), Limiters>,
}

impl Local {
    /// Remembers at most `callers_max` callers.
    pub(super) fn new(callers_max: usize) -> Self {
        Self {
            clock: DefaultClock::default(),
            callers: Cache::new(callers_max),
        }
    }

    /// Counts a request, or says how long it must wait.
    pub(super) fn check(&self, class: Class, caller: Caller, rates: &[Rate]) -> Result<(), Duration> {
        let fresh = || Ok::<_, std::convert::Infallible>(self.limiters(rates));
        let Ok(limiters) = self.callers.get_or_insert_with(&(class, caller), fresh);
        limiters
            .iter()
            .try_for_each(|limiter| limiter.check().map_err(|early| early.wait_time_from(self.clock.now())))
    }

    fn limiters(&self, rates: &[Rate]) -> Limiters {
        let quota = |rate: &Rate| Quota::with_period(rate.interval()).map(|quota| quota.allow_burst(rate.requests));
        let quotas = rates.iter().filter_map(quota);
        quotas
            .map(|quota| RateLimiter::direct_with_clock(quota, self.clock.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every rate of a class counts, for each caller by itself.
    #[test]
    fn rates_hold_per_caller() {
        let local = Local::new(CALLERS_MAX);
        let rates: Vec<Rate> = ["5/min", "3/h"].iter().map(|rate| rate.parse().unwrap()).collect();
        let (first, second) = (Caller::Name([1; 16]), Caller::Name([2; 16]));
        let allowed = |caller| {
            (0..10)
                .filter(|_| local.check(Class::Search, caller, &rates).is_ok())
                .count()
        };
        assert_eq!((allowed(first), allowed(second), allowed(first)), (3, 3, 0));
        assert_eq!(
            (0..10)
                .filter(|_| local.check(Class::Memory, first, &rates[..1]).is_ok())
                .count(),
            5
        );
        let third = Caller::Name([3; 16]);
        let waits: Vec<_> = (0..4).map(|_| local.check(Class::Search, third, &rates)).collect();
        let wait = waits[3].unwrap_err();
        assert!(
            wait > Duration::from_secs(1100) && wait <= Duration::from_mins(20),
            "{wait:?}"
        );
    }

    /// Addresses are cheap to have: their number must not be our memory.
    #[test]
    fn callers_are_bounded() {
        let local = Local::new(CALLERS_MAX);
        let rates = ["1/min".parse().unwrap()];
        for number in 0..2 * u128::try_from(CALLERS_MAX).unwrap() {
            assert!(
                local
                    .check(Class::All, Caller::Name(number.to_le_bytes()), &rates)
                    .is_ok()
            );
        }
        assert!(local.callers.len() <= CALLERS_MAX);
    }
}
