//! Reading: from the first tier, from the second, or from where the value is at home.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::flights::{self, Flight};
use super::follower::{Known, Noted};
use super::format;
use super::key::{Cached, Key};
use super::local::Entry;
use super::metrics::{Miss, Tier};
use super::shared::Shared;
use super::{Cache, LOCAL_LIFE, SHARED_LIFE};

/// Reads of a key that wait for another one of it, at most this often; then each asks for itself.
const WAITS_MAX: usize = 2;

impl Cache {
    /// The value of `key`: from a tier, or from `load`, which may be asked again by others if it fails.
    ///
    /// # Errors
    /// Those of `load`; the cache itself never fails.
    pub async fn get<Kind: Cached, Error, Loading>(
        &self,
        key: &Key,
        load: impl FnOnce() -> Loading + Send,
    ) -> Result<Option<Arc<Kind>>, Error>
    where
        Loading: Future<Output = Result<Option<Kind>, Error>> + Send,
    {
        let arrived = Instant::now();
        let inner = &*self.0;
        let Ok(known) = inner.follower.up_to(arrived).await else {
            inner.metrics.miss(Tier::l1, Miss::Unavailable);
            return Ok(load().await?.map(Arc::new));
        };
        let mut waits = 0;
        let (miss, leader) = loop {
            let miss = match self.find_local(key) {
                Ok(value) => return Ok(Some(value)),
                Err(miss) => miss,
            };
            match inner.flights.join(&key.text) {
                Flight::Own(leader) => break (miss, Some(leader)),
                Flight::Others(_) if waits == WAITS_MAX => break (miss, None),
                Flight::Others(waiting) => flights::landed(waiting).await,
            }
            waits += 1;
        };
        inner.metrics.miss(Tier::l1, miss);
        let value = self.fetch(key, miss, known, load).await;
        drop(leader);
        value
    }

    fn find_local<Kind: Cached>(&self, key: &Key) -> Result<Arc<Kind>, Miss> {
        let inner = &*self.0;
        let Some(entry) = inner.local.get(&key.text) else {
            return Err(inner.metrics.absent(&key.text));
        };
        let miss = if entry.deadline <= Instant::now() {
            Miss::Expired
        } else if !inner.follower.is_unchanged(&key.text, &entry.noted) {
            Miss::Changed
        } else if let Ok(value) = Arc::clone(&entry.value).downcast() {
            inner.metrics.hit(Tier::l1);
            let read = inner.follower.local_read(&key.text, &entry.noted);
            inner.metrics.read(&key.text, entry.bytes, read);
            return Ok(value);
        } else {
            // Two kinds with one name: not possible, but no reason to fail.
            Miss::New
        };
        inner.local.remove(&key.text, &entry);
        Err(miss)
    }

    /// Gets what the first tier does not have.
    async fn fetch<Kind: Cached, Error, Loading>(
        &self,
        key: &Key,
        miss: Miss,
        known: Known,
        load: impl FnOnce() -> Loading + Send,
    ) -> Result<Option<Arc<Kind>>, Error>
    where
        Loading: Future<Output = Result<Option<Kind>, Error>> + Send,
    {
        let inner = &*self.0;
        // Before anything is read: what becomes known from here on makes the value worthless.
        let mut noted = inner.follower.note(&key.tags);
        let mut known = Some(known);
        let mut shared_miss = Miss::Unavailable;
        if let Some(shared) = &inner.shared {
            // What others have stored can only be judged when the place of this replica's own writes is known.
            known = None;
            if let Ok((since, then)) = inner.follower.up_to_own_writes(&key.tags).await {
                match self.find_shared::<Kind>(shared, key, &then, &since).await {
                    Ok(value) => {
                        self.note_missed(key, &*value, miss, &then);
                        return Ok(Some(value));
                    }
                    Err(miss) => shared_miss = miss,
                }
                (known, noted) = (Some(since), then);
            }
        }
        let began = Instant::now();
        let Some(value) = load().await? else { return Ok(None) };
        inner.metrics.load_seconds.observe(began.elapsed().as_secs_f64());
        let value = Arc::new(value);
        self.note_missed(key, &*value, miss, &noted);
        if let Some(known) = known
            && let Some(life) = life(&*value, &known)
            && inner.follower.is_unchanged(&key.text, &noted)
        {
            if let Some(shared) = &inner.shared {
                let (tags, value) = (key.tags.clone(), Arc::clone(&value));
                let bytes = move || format::encode(&(tags, &*value), known.position);
                let read = shared_miss.read(inner.follower.shared_read(&key.text, &key.tags, &known));
                shared.put(&known.origin, &key.text, life.min(SHARED_LIFE), read, bytes);
            }
            self.keep(&key.text, &value, life, noted);
        }
        Ok(Some(value))
    }

    async fn find_shared<Kind: Cached>(
        &self,
        shared: &Shared,
        key: &Key,
        noted: &Noted,
        known: &Known,
    ) -> Result<Arc<Kind>, Miss> {
        let inner = &*self.0;
        let missed = |miss| {
            inner.metrics.miss(Tier::l2, miss);
            Err(miss)
        };
        let found = shared.get(&known.origin, &key.text).await;
        let stored = found
            .as_ref()
            .map(|found| format::decode::<(Vec<String>, Kind)>(&found.bytes));
        let (Some(found), Some(Some(((_, value), position)))) = (&found, stored) else {
            return missed(if shared.answers() { Miss::New } else { Miss::Unavailable });
        };
        if !inner.follower.is_good(&key.text, &key.tags, position, known) {
            return missed(Miss::Changed);
        }
        let Some(life) = life(&value, known) else {
            return missed(Miss::Expired);
        };
        inner.metrics.hit(Tier::l2);
        let read = inner.follower.shared_read(&key.text, &key.tags, known);
        shared.note_hit(&known.origin, &key.text, found.bytes.len(), read);
        let value = Arc::new(value);
        self.keep(&key.text, &value, life.min(found.life), noted.clone());
        Ok(value)
    }

    /// Notes, for the reuse distances, a read of what the first tier did not have.
    fn note_missed<Kind: Cached>(&self, key: &Key, value: &Kind, miss: Miss, noted: &Noted) {
        let inner = &*self.0;
        let bytes = Entry::bytes_of::<Kind>(&key.text, value.heap_bytes());
        let read = miss.read(inner.follower.local_read(&key.text, noted));
        inner.metrics.read(&key.text, bytes, read);
    }

    /// Puts a value into the first tier.
    pub(super) fn keep<Kind: Cached>(&self, key: &Arc<str>, value: &Arc<Kind>, life: Duration, noted: Noted) {
        let inner = &*self.0;
        if inner.wanted_bytes.load(Ordering::Relaxed) == 0 {
            return;
        }
        let deadline = Instant::now() + life.min(LOCAL_LIFE);
        let entry = Entry::new(key, Arc::clone(value), value.heap_bytes(), deadline, noted);
        inner.local.insert(key, entry);
        inner.metrics.remember(key);
    }
}

/// How long a value may be kept; `None` if it has ended.
pub(super) fn life<Kind: Cached>(value: &Kind, known: &Known) -> Option<Duration> {
    let Some(end) = value.expires_at() else {
        return Some(SHARED_LIFE);
    };
    let left = Duration::try_from(end.duration_since(known.now())).ok()?;
    (!left.is_zero()).then_some(left.min(SHARED_LIFE))
}
