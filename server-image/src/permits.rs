//! A semaphore whose size changes while it is in use.
//!
//! Shrinking takes free permits at once and the others as they are given back, so whoever holds one keeps it; growing
//! first cancels what is still to be taken. Waiting callers are served in the order in which they came.

use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;

use crate::lock;

/// A number of permits that can be resized. Cheap to clone; clones share the permits.
#[derive(Debug, Clone)]
pub struct Permits(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    semaphore: Semaphore,
    size: Mutex<Size>,
}

#[derive(Debug)]
struct Size {
    limit: usize,
    /// Permits above the limit that are still held; each vanishes when it is given back.
    surplus: usize,
    held: usize,
}

impl Permits {
    /// `limit` permits, at least one.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let limit = limit.max(1);
        Self(Arc::new(Shared {
            semaphore: Semaphore::new(limit),
            size: Mutex::new(Size {
                limit,
                surplus: 0,
                held: 0,
            }),
        }))
    }

    /// Takes a permit, waiting for one if need be. Dropping the returned future gives the place in the queue back.
    pub async fn acquire(&self) -> Permit {
        if let Ok(permit) = self.0.semaphore.acquire().await {
            permit.forget();
        }
        // The semaphore is never closed, so this point is reached with a permit only.
        self.taken()
    }

    /// Takes a permit if one is free.
    #[must_use]
    pub fn try_acquire(&self) -> Option<Permit> {
        self.0.semaphore.try_acquire().ok()?.forget();
        Some(self.taken())
    }

    fn taken(&self) -> Permit {
        lock(&self.0.size).held += 1;
        Permit(Arc::clone(&self.0))
    }

    /// Sets the number of permits, at least one.
    pub fn resize(&self, limit: usize) {
        let limit = limit.max(1);
        let mut size = lock(&self.0.size);
        if limit >= size.limit {
            let more = limit - size.limit;
            let kept = more.min(size.surplus);
            size.surplus -= kept;
            self.0.semaphore.add_permits(more - kept);
        } else {
            let fewer = size.limit - limit;
            size.surplus += fewer - self.0.semaphore.forget_permits(fewer);
        }
        size.limit = limit;
    }

    /// How many permits there are.
    #[must_use]
    pub fn limit(&self) -> usize {
        lock(&self.0.size).limit
    }

    /// How many are held; more than [`Self::limit`] for a while after shrinking.
    #[must_use]
    pub fn held(&self) -> usize {
        lock(&self.0.size).held
    }
}

/// A permit; dropping it gives it back.
#[derive(Debug)]
pub struct Permit(Arc<Shared>);

impl Drop for Permit {
    fn drop(&mut self) {
        let mut size = lock(&self.0.size);
        size.held -= 1;
        if size.surplus > 0 {
            size.surplus -= 1;
        } else {
            self.0.semaphore.add_permits(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Take,
        GiveBack,
        Resize(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Take),
            2 => Just(Step::GiveBack),
            1 => (1usize..12).prop_map(Step::Resize),
        ];
        proptest::collection::vec(step, 1..200)
    }

    proptest! {
        /// One connection above the budget fails another replica: whatever the order of resizing and use, a new permit
        /// is given exactly when fewer than the limit are held.
        #[test]
        fn never_more_than_the_limit_and_never_fewer(steps in steps()) {
            let permits = Permits::new(4);
            let mut held = Vec::new();
            for step in steps {
                match step {
                    Step::Take => {
                        let fits = held.len() < permits.limit();
                        let permit = permits.try_acquire();
                        prop_assert_eq!(permit.is_some(), fits, "{} of {} held", held.len(), permits.limit());
                        held.extend(permit);
                    }
                    Step::GiveBack => drop(held.pop()),
                    Step::Resize(limit) => {
                        permits.resize(limit);
                        prop_assert_eq!(permits.limit(), limit);
                    }
                }
                prop_assert_eq!(permits.held(), held.len());
            }
        }
    }

    /// A caller that waits must get the place that growing makes, and one that gives up must leave no trace.
    #[tokio::test]
    async fn waiting_callers_get_new_permits_in_order() {
        let permits = Permits::new(1);
        let first = permits.acquire().await;
        let mut second = Box::pin(permits.acquire());
        let mut third = Box::pin(permits.acquire());
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        permits.resize(2);
        assert!(third.as_mut().now_or_never().is_none(), "the second came first");
        let second = second.await;
        drop(third);
        permits.resize(1);
        drop(first);
        assert!(permits.try_acquire().is_none(), "the surplus permit is gone");
        drop(second);
        assert!(permits.try_acquire().is_some());
    }
}
