//! Knowing what has changed: each replica follows the journal, but looks only when somebody reads.
//!
//! A reader asks to know all changes that were committed until a certain moment. If the last look began after it, that
//! is known; else one look is made for all who wait. While reads go on, a look is begun ahead of time in the
//! background, so that hardly anybody waits.
//!
//! What is known is kept by hash in a fixed number of stripes, not by tag: two tags in one stripe cost a needless miss
//! now and then, and no memory.

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use xxhash_rust::xxh3::xxh3_64;

use super::journal::{Change, Journal, Look, Position};
use super::reuse::Read;
use crate::lock;

/// A power of two; at 24 bytes each this is 384 KiB.
const STRIPES: u64 = 16_384;
/// A tag that stands for all entries whose key begins with what follows.
pub(crate) const PREFIX_TAG: &str = "prefix:";
/// Most prefixes that are remembered one by one; beyond, everything counts as changed.
const PREFIXES_MAX: usize = 64;
/// How long no look is made after one that taught nothing that lasts.
const FRUITLESS_PAUSE: Duration = Duration::from_secs(1);

/// What is known of the tags that share a hash.
#[derive(Debug, Default)]
struct Stripe {
    /// Grows with every change that is known here.
    generation: AtomicU64,
    /// Place of the last change seen in the journal.
    changed: AtomicI64,
    /// When this replica itself last changed something, in microseconds since the follower began.
    written: AtomicU64,
}

/// What was known of an entry's tags before its value was read. The value is good until more is known.
#[derive(Debug, Clone)]
pub(super) struct Noted {
    everything: u64,
    prefixes: u64,
    stripes: Box<[(u64, u64)]>,
}

/// What the last look showed.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// Names the database since its start.
    pub(super) origin: Arc<str>,
    /// All changes before this place are known.
    pub(super) position: Position,
    /// What was read before this place cannot be judged.
    horizon: Position,
    /// The database's clock, and when it was read.
    clock: (Timestamp, Instant),
    /// When the look began.
    began: Instant,
}

impl Known {
    /// The time at the database now.
    pub(super) fn now(&self) -> Timestamp {
        let (clock, read) = self.clock;
        SignedDuration::try_from(read.elapsed()).map_or(clock, |passed| clock.saturating_add(passed).unwrap_or(clock))
    }
}

/// The journal could not be read: nobody knows what has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unknown;

#[derive(Debug, Default)]
struct Looks {
    known: Option<Known>,
    /// Beginning of the last look that failed.
    failed: Option<Instant>,
    /// Until then no look is made. A transaction that goes on holds the place back, and more has changed since that
    /// place than one look reads: each would read as much, and find that whatever was kept since the last one cannot be
    /// judged.
    fruitless_until: Option<Instant>,
    /// Changes that the next look will show again.
    seen: HashSet<Change>,
}

impl Looks {
    fn is_fruitless(&self, at: Instant) -> bool {
        self.fruitless_until.is_some_and(|until| at < until)
    }
}

/// Changes that name no tag.
#[derive(Debug, Default)]
struct Sweeps {
    everything: u64,
    prefixes: u64,
    list: Vec<(String, u64, Position)>,
}

/// The follower of one replica.
#[derive(Debug)]
pub(super) struct Follower {
    journal: Journal,
    staleness: Duration,
    stripes: Box<[Stripe]>,
    sweeps: Mutex<Sweeps>,
    looks: Mutex<Looks>,
    looking: tokio::sync::Mutex<()>,
    start: Instant,
}

fn stripe_of(tag: &str) -> u64 {
    xxh3_64(tag.as_bytes()) % STRIPES
}

impl Follower {
    pub(super) fn new(journal: Journal, staleness: Duration) -> Arc<Self> {
        Arc::new(Self {
            journal,
            staleness,
            stripes: (0..STRIPES).map(|_| Stripe::default()).collect(),
            sweeps: Mutex::default(),
            looks: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
            start: Instant::now(),
        })
    }

    fn stripe(&self, index: u64) -> &Stripe {
        // The remainder of a division by the length is always a valid index.
        &self.stripes[usize::try_from(index % STRIPES).unwrap_or_default()]
    }

    /// Makes sure that all changes are known that were committed a staleness before `arrived`.
    ///
    /// # Errors
    /// [`Unknown`] when the journal cannot be read.
    pub(super) async fn up_to(self: &Arc<Self>, arrived: Instant) -> Result<Known, Unknown> {
        let oldest = arrived.checked_sub(self.staleness).unwrap_or(self.start);
        let known = self.since(oldest, arrived).await?;
        if !self.staleness.is_zero() && known.began.elapsed() > self.staleness / 2 {
            self.look_ahead();
        }
        Ok(known)
    }

    /// Makes sure that all changes are known that have been committed until now.
    ///
    /// # Errors
    /// [`Unknown`] when the journal cannot be read.
    pub(super) async fn up_to_now(&self) -> Result<Known, Unknown> {
        let now = Instant::now();
        self.since(now, now).await
    }

    /// Makes sure that what this replica itself has written under `tags` is known by its place in the journal, and
    /// notes what is known then.
    ///
    /// # Errors
    /// [`Unknown`] when the journal cannot be read, or this replica goes on writing meanwhile.
    pub(super) async fn up_to_own_writes(&self, tags: &[String]) -> Result<(Known, Noted), Unknown> {
        let written = self.last_written(tags);
        let moment = self.start + Duration::from_micros(written);
        let known = self.since(moment, Instant::now()).await?;
        let noted = self.note(tags);
        // A write in between has no place in the journal yet, but would count as known in the note.
        if self.last_written(tags) == written {
            Ok((known, noted))
        } else {
            Err(Unknown)
        }
    }

    fn last_written(&self, tags: &[String]) -> u64 {
        let written = tags
            .iter()
            .map(|tag| self.stripe(stripe_of(tag)).written.load(Ordering::Acquire));
        written.max().unwrap_or_default()
    }

    /// Makes sure, for a reader that asks at `asked`, that all changes are known that were committed before `moment`.
    async fn since(&self, moment: Instant, asked: Instant) -> Result<Known, Unknown> {
        if let Some(known) = self.known_since(moment, asked) {
            return known;
        }
        let _turn = self.looking.lock().await;
        // Another one may have looked while this one waited for its turn.
        if let Some(known) = self.known_since(moment, asked) {
            return known;
        }
        self.look().await
    }

    /// What is known without another look; [`Unknown`] if none would help. Somebody else's failure is shared only by
    /// who waited for it.
    fn known_since(&self, moment: Instant, asked: Instant) -> Option<Result<Known, Unknown>> {
        let looks = lock(&self.looks);
        if let Some(known) = looks.known.as_ref().filter(|known| known.began >= moment) {
            return Some(Ok(known.clone()));
        }
        let fails = looks.failed.is_some_and(|failed| failed >= asked) || looks.is_fruitless(asked);
        fails.then_some(Err(Unknown))
    }

    fn look_ahead(self: &Arc<Self>) {
        if lock(&self.looks).is_fruitless(Instant::now()) {
            return;
        }
        let this = Arc::clone(self);
        if this.looking.try_lock().is_ok() {
            tokio::spawn(async move {
                if let Ok(_turn) = this.looking.try_lock() {
                    // Who needs to know will find out that it failed.
                    let _ = this.look().await;
                }
            });
        }
    }

    async fn look(&self) -> Result<Known, Unknown> {
        let began = Instant::now();
        let from = lock(&self.looks).known.as_ref().map(|known| known.position);
        match self.journal.look(from.unwrap_or_default()).await {
            Ok(look) => Ok(self.learn(look, began)),
            Err(error) => {
                tracing::debug!(%error, "cannot read the journal of changes; reading past the cache");
                lock(&self.looks).failed = Some(began);
                Err(Unknown)
            }
        }
    }

    fn learn(&self, look: Look, began: Instant) -> Known {
        let mut looks = lock(&self.looks);
        let before = looks.known.take();
        let gap = before.as_ref().is_some_and(|before| {
            *before.origin != *look.origin || look.position < before.position || before.position < look.forgotten
        });
        let everything = gap || look.complete_from.is_some();
        let horizon = match (&before, look.complete_from) {
            (_, Some(complete_from)) => complete_from.max(look.forgotten),
            (Some(before), _) if !everything => before.horizon,
            _ => look.forgotten,
        };
        let is_held_back = before.as_ref().is_some_and(|before| before.position == look.position);
        let is_fruitless = is_held_back && look.complete_from.is_some();
        looks.fruitless_until = is_fruitless.then(|| began + FRUITLESS_PAUSE);
        if everything {
            self.everything_changed();
        }
        let changes = look.changes;
        for change in &changes {
            if everything || !looks.seen.contains(change) {
                self.changed_at(&change.tag, change.position);
            }
        }
        looks.seen = changes
            .into_iter()
            .filter(|change| change.position >= look.position)
            .collect();
        let known = Known {
            origin: match before {
                Some(before) if *before.origin == *look.origin => before.origin,
                _ => look.origin.into(),
            },
            position: look.position,
            horizon,
            clock: (look.clock, began),
            began,
        };
        looks.known = Some(known.clone());
        known
    }

    fn changed_at(&self, tag: &str, position: Position) {
        if let Some(prefix) = tag.strip_prefix(PREFIX_TAG) {
            self.prefix_changed(prefix, position);
            return;
        }
        let stripe = self.stripe(stripe_of(tag));
        stripe.changed.fetch_max(position, Ordering::AcqRel);
        stripe.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn prefix_changed(&self, prefix: &str, position: Position) {
        let mut sweeps = lock(&self.sweeps);
        sweeps.prefixes += 1;
        let number = sweeps.prefixes;
        sweeps.list.push((prefix.to_owned(), number, position));
        if sweeps.list.len() > PREFIXES_MAX {
            // Changes do not become known in the order of their places.
            let last = sweeps.list.iter().map(|(.., position)| *position).max();
            sweeps.list.clear();
            sweeps.everything += 1;
            // For the shared tier: whatever was read before the last of them is not good any more.
            sweeps.list.push((String::new(), number, last.unwrap_or(position)));
        }
    }

    /// Forgets what is known; whatever was read before is not good any more at this replica.
    fn everything_changed(&self) {
        lock(&self.sweeps).everything += 1;
    }

    /// This replica has changed, or has tried to change, what `tags` name.
    pub(super) fn written(&self, tags: &[String]) {
        let now = u64::try_from(self.start.elapsed().as_micros())
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        for tag in tags {
            let stripe = self.stripe(stripe_of(tag));
            stripe.written.fetch_max(now, Ordering::AcqRel);
            stripe.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Whether this replica has ever written what shares a stripe with one of `tags`.
    pub(super) fn has_written(&self, tags: &[String]) -> bool {
        tags.iter()
            .any(|tag| self.stripe(stripe_of(tag)).written.load(Ordering::Acquire) > 0)
    }

    /// Notes for all replicas that what a tag (or, as `prefix:…`, keys) name has changed.
    pub(super) async fn announce(&self, tags: Vec<String>) -> Result<(), crate::database::DatabaseError> {
        self.journal.note(tags).await
    }

    /// Deletes old changes from the journal.
    pub(super) async fn forget(&self) -> Result<(), crate::database::DatabaseError> {
        self.journal.forget().await
    }

    /// To be called before a value is read.
    pub(super) fn note(&self, tags: &[String]) -> Noted {
        let (everything, prefixes) = {
            let sweeps = lock(&self.sweeps);
            (sweeps.everything, sweeps.prefixes)
        };
        let stripes = tags.iter().map(|tag| {
            let index = stripe_of(tag);
            (index, self.stripe(index).generation.load(Ordering::Acquire))
        });
        Noted {
            everything,
            prefixes,
            stripes: stripes.collect(),
        }
    }

    /// Whether nothing has become known since `noted` that concerns an entry.
    pub(super) fn is_unchanged(&self, key: &str, noted: &Noted) -> bool {
        let unchanged = noted
            .stripes
            .iter()
            .all(|(index, generation)| self.stripe(*index).generation.load(Ordering::Acquire) == *generation);
        if !unchanged {
            return false;
        }
        let sweeps = lock(&self.sweeps);
        sweeps.everything == noted.everything
            && (sweeps.prefixes == noted.prefixes
                || !sweeps
                    .list
                    .iter()
                    .any(|(prefix, number, _)| *number > noted.prefixes && key.starts_with(prefix.as_str())))
    }

    /// Whether a value that was read at `position`, perhaps by another replica, is good: all changes to it since then
    /// would be known, and there is none.
    pub(super) fn is_good(&self, key: &str, tags: &[String], position: Position, known: &Known) -> bool {
        position >= self.good_from(key, tags, known)
    }

    /// First place of the values that are good.
    fn good_from(&self, key: &str, tags: &[String], known: &Known) -> Position {
        let tags = tags
            .iter()
            .map(|tag| self.stripe(stripe_of(tag)).changed.load(Ordering::Acquire));
        let sweeps = lock(&self.sweeps);
        let prefixes = sweeps
            .list
            .iter()
            .filter(|(prefix, ..)| key.starts_with(prefix.as_str()))
            .map(|(.., changed)| *changed);
        tags.chain(prefixes)
            .map(|changed| changed.saturating_add(1))
            .fold(known.horizon, Position::max)
    }

    /// A read of the shared tier, for its reuse distances, by places that mean the same at all replicas. When this one
    /// starts anew, what was read before cannot be judged and counts as changed: the tier itself does not serve it.
    pub(super) fn shared_read(&self, key: &str, tags: &[String], known: &Known) -> Read {
        Read {
            position: known.position,
            good_from: self.good_from(key, tags, known),
        }
    }

    /// A read of the first tier, for its reuse distances, of a value that was read when `noted` was known. Its place is
    /// the number of changes known then that concern it, so that any more of them make it another one, as they do for
    /// [`Self::is_unchanged`]. That everything is forgotten is one of them: the tier itself serves nothing from before.
    pub(super) fn local_read(&self, key: &str, noted: &Noted) -> Read {
        let generations: u64 = noted.stripes.iter().map(|(_, generation)| *generation).sum();
        let prefixes = lock(&self.sweeps)
            .list
            .iter()
            .filter(|(prefix, number, _)| *number <= noted.prefixes && key.starts_with(prefix.as_str()))
            .map(|(_, number, _)| *number)
            .max();
        let changes = generations + noted.everything + prefixes.unwrap_or_default();
        let position = Position::try_from(changes).unwrap_or(Position::MAX);
        Read {
            position,
            good_from: position,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{Database, DatabaseTarget};
    use prometheus_client::registry::Registry;

    fn follower(folder: &tempfile::TempDir) -> Arc<Follower> {
        let target: DatabaseTarget = format!("sqlite:{}", folder.path().join("test.db").display())
            .parse()
            .unwrap();
        let database = Database::open(&target, 1, &mut Registry::default()).unwrap();
        Follower::new(Journal::new(database), Duration::ZERO)
    }

    /// Memory is bought for values that left too early: one that has changed since then must be told from one that has
    /// not, and what concerns only others must not matter.
    #[tokio::test]
    async fn reads_tell_what_has_changed_for_their_entry() {
        let folder = tempfile::tempdir().unwrap();
        let follower = follower(&folder);
        let tags = ["tag".to_owned()];
        let mut known = Known {
            origin: "origin".into(),
            position: 200,
            horizon: 0,
            clock: (Timestamp::UNIX_EPOCH, Instant::now()),
            began: Instant::now(),
        };
        let reads = |known: &Known| {
            let local = follower.local_read("page:1", &follower.note(&tags));
            (local, follower.shared_read("page:1", &tags, known))
        };
        let start = reads(&known);
        assert_eq!(start.0.position, start.0.good_from, "the first tier keeps no places");
        follower.changed_at("another tag", 100);
        follower.changed_at("prefix:session:", 100);
        assert_eq!(reads(&known), start, "what concerns others");
        let mut last = start;
        for (name, tag) in [
            ("a tag", "tag"),
            ("a prefix", "prefix:page:"),
            ("the same again", "prefix:page:"),
        ] {
            known.position += 10;
            follower.changed_at(tag, known.position - 1);
            let now = reads(&known);
            assert!(last.0.position < now.0.good_from, "{name}: the first tier");
            assert!(last.1.position < now.1.good_from, "{name}: the shared tier");
            assert!(now.1.position >= now.1.good_from, "{name}: what is read now is good");
            last = now;
        }
        follower.written(&tags);
        assert!(
            last.0.position < reads(&known).0.good_from,
            "what this replica has written"
        );
        last = reads(&known);
        follower.everything_changed();
        known.horizon = known.position + 1;
        let now = reads(&known);
        assert!(last.0.position < now.0.good_from && last.1.position < now.1.good_from);
    }

    /// A backup or a long report anywhere in the database holds the place back for hours. On a busy server each look
    /// would read twenty thousand changes then, many times a second, and forget all that is kept.
    #[tokio::test]
    async fn looks_that_teach_nothing_are_rare() {
        let folder = tempfile::tempdir().unwrap();
        let follower = follower(&folder);
        let began = Instant::now();
        let (soon, later) = (began + FRUITLESS_PAUSE / 2, began + FRUITLESS_PAUSE);
        for (name, position, is_too_much, is_fruitless) in [
            ("at the start", 10, true, false),
            ("the place is held back", 10, true, true),
            ("and still is", 10, true, true),
            ("it has moved", 20, true, false),
            ("held back, but few changes", 20, false, false),
        ] {
            let look = Look {
                origin: "origin".to_owned(),
                position,
                forgotten: 0,
                clock: Timestamp::UNIX_EPOCH,
                changes: Vec::new(),
                complete_from: is_too_much.then_some(500),
            };
            follower.learn(look, began);
            let shown = follower.known_since(began, began);
            assert!(matches!(shown, Some(Ok(_))), "{name}: what it shows is of use");
            let next = follower.known_since(soon, soon);
            assert_eq!(matches!(next, Some(Err(Unknown))), is_fruitless, "{name}");
            assert!(
                follower.known_since(later, later).is_none(),
                "{name}: a look is made again"
            );
        }
    }

    /// Transactions end in another order than that of their numbers. When too many prefixes are known to keep each, a
    /// value in Redis that one of them names must not become good again because a smaller number came last.
    #[tokio::test]
    async fn prefixes_that_are_forgotten_stay_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let follower = follower(&folder);
        let known = Known {
            origin: "origin".into(),
            position: 200,
            horizon: 0,
            clock: (Timestamp::UNIX_EPOCH, Instant::now()),
            began: Instant::now(),
        };
        follower.changed_at("prefix:page:", 100);
        for number in 0..PREFIXES_MAX {
            let before = follower.note(&[]);
            assert!(!follower.is_good("page:1", &[], 75, &known), "{number} more prefixes");
            assert!(follower.is_good("page:1", &[], 101, &known), "{number} more prefixes");
            follower.changed_at(&format!("prefix:other{number}:"), 50);
            assert!(!follower.is_unchanged(&format!("other{number}:1"), &before), "{number}");
        }
        assert!(
            follower.sweeps.lock().unwrap().list.len() < PREFIXES_MAX,
            "there were too many"
        );
        assert!(
            !follower.is_good("page:1", &[], 75, &known),
            "after there were too many"
        );
    }
}
