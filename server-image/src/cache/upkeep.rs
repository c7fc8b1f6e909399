//! What goes on beside reading: warming up, telling other replicas what is read, and tidying.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::follower::Known;
use super::key::Cached;
use super::read::life;
use super::{Cache, format, shared};
use crate::database::DatabaseError;
use crate::lock;

/// How often popular keys are told and the journal is tidied up.
const UPKEEP: Duration = Duration::from_secs(30);
/// How often replicas tell each other what they have read.
const EXCHANGE: Duration = Duration::from_secs(1);
/// Popular keys that a replica tells of each time.
const POPULAR: usize = 200;
/// Values that are asked for at once to warm up: so many of the largest arrive before Redis is thought to be away.
const WARMED_AT_ONCE: usize = 8;

/// Puts a value that was found in the second tier into the first.
pub(super) type Revive = fn(&Cache, &str, &shared::Found, &Known);

impl Cache {
    /// Announces that values of this type may be found in the second tier, so that [`Self::warm_up`] can use them.
    pub fn expect<Kind: Cached>(&self) {
        lock(&self.0.kinds).insert(Kind::KIND, revive::<Kind>);
    }

    /// Fills the first tier with what other replicas read most, from the second tier. Returns how many values.
    pub async fn warm_up(&self) -> usize {
        let inner = &*self.0;
        let (Some(shared), Ok(known)) = (&inner.shared, inner.follower.up_to(Instant::now()).await) else {
            return 0;
        };
        let before = inner.local.entries();
        let keys = shared.popular(&known.origin, known.now()).await;
        for some in keys.chunks(WARMED_AT_ONCE) {
            let found = shared.get_many(&known.origin, some).await;
            for (key, found) in some.iter().zip(found) {
                let kind = key.split(':').next().unwrap_or_default();
                let revive = lock(&inner.kinds).get(kind).copied();
                if let (Some(revive), Some(found)) = (revive, found) {
                    revive(self, key, &found, &known);
                }
            }
        }
        inner.local.entries().saturating_sub(before)
    }

    /// Warms up, then keeps the journal short and other replicas informed of what is popular. Runs until dropped.
    pub async fn upkeep(self) {
        let inner = &*self.0;
        while inner.follower.up_to(Instant::now()).await.is_err() {
            sleep(Duration::from_secs(1)).await;
        }
        let warm = self.warm_up().await;
        tracing::debug!(values = warm, "the cache is warm");
        loop {
            sleep(UPKEEP).await;
            if let Err(error) = self.tidy_journal().await {
                tracing::debug!(%error, "cannot tidy up the journal of changes");
            }
            self.tell_popular().await;
        }
    }

    /// Deletes from the journal what is older than anything that is kept. Safe to call at many replicas at once.
    ///
    /// # Errors
    /// [`DatabaseError`] when the database does not answer; nothing is lost by it.
    pub async fn tidy_journal(&self) -> Result<(), DatabaseError> {
        self.0.follower.forget().await
    }

    /// Tells other replicas what is read most here.
    pub async fn tell_popular(&self) {
        let inner = &*self.0;
        if let Some(shared) = &inner.shared
            && let Ok(known) = inner.follower.up_to(Instant::now()).await
        {
            shared
                .add_popular(&known.origin, known.now(), &inner.local.popular(POPULAR))
                .await;
        }
    }

    /// Watches whether Redis answers, so that it is known even while nobody reads. Runs until dropped.
    pub async fn watch_shared(self) {
        let Some(shared) = &self.0.shared else { return };
        loop {
            shared.ping().await;
            sleep(Duration::from_secs(2)).await;
        }
    }

    /// Keeps telling other replicas what was read from the tier they share, which no replica can size alone. Runs until
    /// dropped.
    pub async fn exchange_reads(self) {
        let Some(shared) = &self.0.shared else { return };
        loop {
            sleep(EXCHANGE).await;
            shared.exchange_reads().await;
        }
    }
}

fn revive<Kind: Cached>(cache: &Cache, key: &str, found: &shared::Found, known: &Known) {
    let Some(((tags, value), position)) = format::decode::<(Vec<String>, Kind)>(&found.bytes) else {
        return;
    };
    let follower = &cache.0.follower;
    let noted = follower.note(&tags);
    if !follower.has_written(&tags)
        && follower.is_good(key, &tags, position, known)
        && let Some(life) = life(&value, known)
    {
        cache.keep(&key.into(), &Arc::new(value), life.min(found.life), noted);
    }
}
