//! News of what has changed, for whoever follows it at any replica.
//!
//! A toolset tells [`Changes`] what it changed. Who follows something has a [`Listener`], at this replica or another:
//! with Postgres the `relay` carries news between replicas; a SQLite file has one replica. News says *that*
//! something changed, never what: whoever hears it reads again. So news may be merged, and where some may have been
//! lost (a broken connection), everybody is told that everything may have changed.
//!
//! Whoever hears of a resource reads it at once, at any replica, and hears no more until it changes again. A replica
//! may answer with what it has kept ([`crate::cache`]) for a while after the change; so news of resources is told when
//! that time is over ([`Changes::with_delay`]), also to who began to follow in between.

mod relay;
mod topic;

pub use relay::{Relay, STALE_MAX};
pub use topic::Topic;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::lock;

/// Most topics that wait to be sent to other replicas, or to be told here, one entry each; beyond, one "everything"
/// replaces them.
const WAITING_MAX: usize = 10_000;
/// Shortest pause between two times that news is told which has waited, in which more becomes due.
const GATHER: Duration = Duration::from_millis(5);

/// The news of one replica. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    inner: Arc<Inner>,
    /// How much later than of all else followers hear of resources.
    delay: Duration,
}

#[derive(Debug, Default)]
struct Inner {
    followers: Mutex<BTreeMap<Topic, HashMap<u64, Arc<Pending>>>>,
    next_follower: AtomicU64,
    /// Topics to tell other replicas of; `None` when there are none to tell.
    outgoing: Option<Pending>,
    late: Mutex<Late>,
}

/// News of resources whose time has not come.
#[derive(Debug, Default)]
struct Late {
    /// When each is due after its first change, and after its last one.
    topics: BTreeMap<Topic, (Instant, Instant)>,
    /// Whether a task waits for the next one that is due.
    is_awaited: bool,
}

impl Late {
    /// When the next one is due.
    fn next(&self) -> Option<Instant> {
        self.topics.values().map(|(first, _)| *first).min()
    }

    /// Takes what is due at `now`; what has changed again meanwhile stays, to be told once more.
    fn take(&mut self, now: Instant) -> Vec<Topic> {
        let mut due = Vec::new();
        self.topics.retain(|topic, (first, last)| {
            if *first > now {
                return true;
            }
            due.push(topic.clone());
            *first = *last;
            *last > now
        });
        due
    }
}

/// Topics with news, each once, and the wake-up of who waits for them.
#[derive(Debug, Default)]
struct Pending {
    topics: Mutex<BTreeSet<Topic>>,
    wake: Notify,
}

impl Pending {
    fn add(&self, topic: Topic) {
        lock(&self.topics).insert(topic);
        self.wake.notify_one();
    }

    /// Takes the news that is there.
    fn take_now(&self) -> BTreeSet<Topic> {
        std::mem::take(&mut *lock(&self.topics))
    }

    /// Waits for news and takes it.
    async fn take(&self) -> BTreeSet<Topic> {
        loop {
            let taken = self.take_now();
            if !taken.is_empty() {
                return taken;
            }
            self.wake.notified().await;
        }
    }
}

impl Changes {
    /// News for a replica that has no other beside it.
    #[must_use]
    pub fn alone() -> Self {
        Self::default()
    }

    /// News that is kept for a [`Relay`] to carry to other replicas.
    #[must_use]
    pub fn shared() -> Self {
        Self {
            inner: Arc::new(Inner {
                outgoing: Some(Pending::default()),
                ..Inner::default()
            }),
            delay: Duration::ZERO,
        }
    }

    /// The same, but followers here hear of a resource only `delay` after its change: the time for which a replica may
    /// go on answering with what was before. Then news needs a running async runtime.
    #[must_use]
    pub const fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// The resource `uri` reads differently now, and all whose URI goes on after it with a slash. Call it after the
    /// change is committed.
    pub fn resource_updated(&self, uri: impl Into<String>) {
        self.publish(&Topic::Resource(uri.into()));
    }

    /// There are other tools now.
    pub fn tools_list_changed(&self) {
        self.publish(&Topic::Tools);
    }

    /// There are other prompts now.
    pub fn prompts_list_changed(&self) {
        self.publish(&Topic::Prompts);
    }

    /// There are other resources with a fixed URI now.
    pub fn resources_list_changed(&self) {
        self.publish(&Topic::Resources);
    }

    /// Tells followers here and at other replicas.
    pub fn publish(&self, topic: &Topic) {
        if let Some(outgoing) = &self.inner.outgoing {
            let waiting = lock(&outgoing.topics).len();
            outgoing.add(bounded(topic, waiting));
        }
        self.deliver(topic);
    }

    /// Tells followers here: of resources when it is time, of all else at once.
    fn deliver(&self, topic: &Topic) {
        if self.delay.is_zero() {
            self.tell(topic, |_| true);
            return;
        }
        if !is_resource(topic) {
            self.tell(topic, |followed| !is_resource(followed));
        }
        if is_resource(topic) || *topic == Topic::Everything {
            self.tell_later(topic);
        }
    }

    /// Tells followers here of those topics that `is_meant`.
    fn tell(&self, topic: &Topic, is_meant: impl Fn(&Topic) -> bool) {
        let tell = |(topic, all): (&Topic, &HashMap<u64, Arc<Pending>>)| {
            if is_meant(topic) {
                for pending in all.values() {
                    pending.add(topic.clone());
                }
            }
        };
        let followers = lock(&self.inner.followers);
        if *topic == Topic::Everything {
            followers.iter().for_each(tell);
        } else {
            let beneath = followers.range(topic.beneath());
            beneath.chain(followers.get_key_value(topic)).for_each(tell);
        }
    }

    /// Tells followers here of resources after the delay.
    fn tell_later(&self, topic: &Topic) {
        let mut late = lock(&self.inner.late);
        let topic = bounded(topic, late.topics.len());
        let due = Instant::now() + self.delay;
        let (_, last) = late.topics.entry(topic).or_insert((due, due));
        *last = due;
        if !std::mem::replace(&mut late.is_awaited, true) {
            tokio::spawn(self.clone().tell_late());
        }
    }

    /// Tells what is late when it is due, until there is nothing more.
    async fn tell_late(self) {
        loop {
            let next = {
                let mut late = lock(&self.inner.late);
                let next = late.next();
                late.is_awaited = next.is_some();
                next
            };
            let Some(next) = next else { return };
            sleep_until(next.max(Instant::now() + GATHER)).await;
            self.tell_due(Instant::now());
        }
    }

    /// Tells what is late and due at `now`.
    fn tell_due(&self, now: Instant) {
        // Until all is told, or who takes the last news at the same time would miss it.
        let mut late = lock(&self.inner.late);
        for topic in late.take(now) {
            self.tell(&topic, is_resource);
        }
    }

    /// Follows `topics` until the listener is dropped.
    #[must_use]
    pub fn follow(&self, topics: impl IntoIterator<Item = Topic>) -> Listener {
        let mut listener = Listener {
            changes: self.clone(),
            id: self.inner.next_follower.fetch_add(1, Ordering::Relaxed),
            pending: Arc::default(),
            topics: BTreeSet::new(),
        };
        listener.follow_instead(topics.into_iter().collect());
        listener
    }

    /// How many topics are followed here.
    #[must_use]
    pub fn followed(&self) -> usize {
        lock(&self.inner.followers).len()
    }
}

fn is_resource(topic: &Topic) -> bool {
    matches!(topic, Topic::Resource(_))
}

/// The topic, or what stands for all when so many wait already.
fn bounded(topic: &Topic, waiting: usize) -> Topic {
    if waiting < WAITING_MAX {
        topic.clone()
    } else {
        Topic::Everything
    }
}

/// Someone who follows topics.
#[derive(Debug)]
pub struct Listener {
    changes: Changes,
    id: u64,
    pending: Arc<Pending>,
    topics: BTreeSet<Topic>,
}

impl Listener {
    /// Waits for news: topics of those followed that have changed since the last call. Safe to drop while it waits.
    pub async fn next(&self) -> BTreeSet<Topic> {
        self.pending.take().await
    }

    /// News that waits for [`Self::next`], taken without waiting for more, or for its time to come: for who will not
    /// ask again.
    #[must_use]
    pub fn waiting(&self) -> BTreeSet<Topic> {
        // Nothing is due later than what comes now.
        self.changes.tell_due(Instant::now() + self.changes.delay);
        self.pending.take_now()
    }

    /// Follows `topics` from now on. News of those it goes on with is not lost; news of the others is not told.
    pub fn follow_instead(&mut self, topics: BTreeSet<Topic>) {
        let mut followers = lock(&self.changes.inner.followers);
        for topic in self.topics.difference(&topics) {
            if let Some(all) = followers.get_mut(topic) {
                all.remove(&self.id);
                if all.is_empty() {
                    followers.remove(topic);
                }
            }
        }
        for topic in topics.difference(&self.topics) {
            followers
                .entry(topic.clone())
                .or_default()
                .insert(self.id, Arc::clone(&self.pending));
        }
        drop(followers);
        lock(&self.pending.topics).retain(|topic| topics.contains(topic));
        self.topics = topics;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.follow_instead(BTreeSet::new());
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::time::sleep;

    use super::*;

    const DELAY: Duration = Duration::from_millis(200);

    /// What there is news of now. Waiting for news that got lost would never end.
    fn news(listener: &Listener) -> BTreeSet<Topic> {
        listener.next().now_or_never().unwrap_or_default()
    }

    fn resource(uri: &str) -> Topic {
        Topic::Resource(uri.to_owned())
    }

    /// A follower must hear of what it follows and of nothing else: an unasked-for URI could give away a secret.
    #[test]
    fn followers_hear_of_what_they_follow() {
        let changes = Changes::alone();
        let listener = changes.follow([resource("a"), Topic::Tools]);
        changes.resource_updated("b");
        changes.prompts_list_changed();
        changes.resource_updated("a");
        changes.resource_updated("a");
        assert_eq!(
            news(&listener),
            BTreeSet::from([resource("a")]),
            "once, however often it changed"
        );
        changes.tools_list_changed();
        changes.deliver(&Topic::Everything);
        assert_eq!(news(&listener), BTreeSet::from([Topic::Tools, resource("a")]));
    }

    /// A client that subscribes to one more resource must not lose the news of another that has just changed.
    #[test]
    fn news_outlives_a_change_of_what_is_followed() {
        let changes = Changes::alone();
        let mut listener = changes.follow([resource("kept"), resource("left")]);
        changes.deliver(&Topic::Everything);
        listener.follow_instead(BTreeSet::from([resource("kept"), resource("new")]));
        assert_eq!(news(&listener), BTreeSet::from([resource("kept")]));
        changes.deliver(&Topic::Everything);
        assert_eq!(news(&listener), BTreeSet::from([resource("kept"), resource("new")]));
        drop(listener);
        assert_eq!(changes.followed(), 0);
    }

    /// Who follows the last messages of a session has never named the session itself, and must hear of it all the same.
    #[test]
    fn news_of_a_resource_is_news_of_what_is_beneath_it() {
        let changes = Changes::alone();
        let beneath = [resource("s://1/messages/5"), resource("s://1/x")];
        let others = [
            resource("s://10/messages/5"),
            resource("s://1-"),
            resource("s://10"),
            resource("s://0/x"),
        ];
        let listener = changes.follow(beneath.clone().into_iter().chain(others));
        changes.resource_updated("s://1");
        assert_eq!(news(&listener), BTreeSet::from(beneath));
    }

    /// An agent whose id looks like a path beneath another's memory must not hear when that one remembers something.
    #[test]
    fn nothing_is_beneath_an_agents_memory() {
        let changes = Changes::alone();
        let (own, other) = (resource("agent://a/memory"), resource("agent://a/memory/x/memory"));
        let listener = changes.follow([own.clone(), other]);
        changes.resource_updated("agent://a/memory");
        assert_eq!(news(&listener), BTreeSet::from([own]));
    }

    /// Whoever hears of a resource reads it at once. If that shows what was before, no news makes up for it.
    #[tokio::test(start_paused = true)]
    async fn news_of_a_resource_comes_when_all_replicas_show_it() {
        let changes = Changes::alone().with_delay(DELAY);
        let (again, once) = (resource("again"), resource("once"));
        let listener = changes.follow([again.clone(), Topic::Tools]);
        let start = Instant::now();
        changes.resource_updated("again");
        changes.resource_updated("once");
        changes.tools_list_changed();
        assert_eq!(news(&listener), BTreeSet::from([Topic::Tools]), "what nobody keeps");
        sleep(DELAY / 2).await;
        changes.resource_updated("again");
        // It reads at once, and must not have come too late for that.
        let new = changes.follow([once.clone()]);
        assert_eq!(listener.next().await, BTreeSet::from([again.clone()]));
        assert_eq!(new.next().await, BTreeSet::from([once.clone()]));
        let heard = start.elapsed();
        assert!((DELAY..DELAY + 2 * GATHER).contains(&heard), "{heard:?}");
        // What was read then may be older than the second change.
        assert_eq!(listener.next().await, BTreeSet::from([again.clone()]));
        let heard = start.elapsed();
        assert!(
            (DELAY * 3 / 2..DELAY * 3 / 2 + 2 * GATHER).contains(&heard),
            "{heard:?}"
        );
        changes.deliver(&Topic::Everything);
        assert_eq!(news(&listener), BTreeSet::from([Topic::Tools]));
        assert_eq!(listener.next().await, BTreeSet::from([again]));
        assert_eq!(new.next().await, BTreeSet::from([once]));
        sleep(10 * DELAY).await;
        assert!(
            news(&listener).is_empty() && news(&new).is_empty(),
            "nothing is told twice"
        );
        assert!(!lock(&changes.inner.late).is_awaited);
    }

    /// A resource that changes all the time must not keep its followers waiting for ever.
    #[tokio::test(start_paused = true)]
    async fn a_resource_that_goes_on_changing_is_told_of() {
        let changes = Changes::alone().with_delay(DELAY);
        let listener = changes.follow([resource("busy")]);
        let mut heard = 0;
        for _ in 0..100 {
            changes.resource_updated("busy");
            sleep(DELAY / 10).await;
            heard += news(&listener).len();
        }
        assert!((8..=12).contains(&heard), "about once in each delay, but {heard} times");
        sleep(2 * DELAY).await;
        assert_eq!(news(&listener), BTreeSet::from([resource("busy")]), "the last change");
    }

    /// Who is told to listen elsewhere hears of nothing more here: what was not due yet would be lost.
    #[tokio::test(start_paused = true)]
    async fn the_last_news_does_not_wait_for_its_time() {
        let changes = Changes::alone().with_delay(DELAY);
        let (ending, staying) = (changes.follow([resource("a")]), changes.follow([resource("a")]));
        changes.resource_updated("a");
        assert_eq!(ending.waiting(), BTreeSet::from([resource("a")]));
        assert_eq!(news(&staying), BTreeSet::from([resource("a")]));
        sleep(2 * DELAY).await;
        assert!(ending.waiting().is_empty() && news(&staying).is_empty());
        changes.resource_updated("a");
        assert_eq!(staying.next().await, BTreeSet::from([resource("a")]), "news goes on");
    }

    /// Followers that go away must leave nothing behind, or the memory fills up.
    #[test]
    fn nothing_is_left_of_a_follower_that_has_gone() {
        let changes = Changes::alone();
        let first = changes.follow([resource("a")]);
        let second = changes.follow([resource("a"), resource("b")]);
        assert_eq!(changes.followed(), 2);
        drop(second);
        assert_eq!(changes.followed(), 1);
        drop(first);
        assert_eq!(changes.followed(), 0);
    }

    /// While the database is away, what waits to be sent must not grow without bound.
    #[tokio::test]
    async fn what_waits_to_be_sent_is_bounded() {
        let changes = Changes::shared();
        for number in 0..2 * WAITING_MAX {
            changes.resource_updated(number.to_string());
        }
        let waiting = changes.inner.outgoing.as_ref().unwrap().take().await;
        assert_eq!(waiting.len(), WAITING_MAX + 1);
        assert!(waiting.contains(&Topic::Everything));
    }

    /// Nor may what is not due yet, while many resources change.
    #[tokio::test(start_paused = true)]
    async fn what_is_not_due_is_bounded_and_not_lost() {
        let changes = Changes::alone().with_delay(DELAY);
        let last = (2 * WAITING_MAX).to_string();
        let listener = changes.follow([resource(&last)]);
        for number in 0..=2 * WAITING_MAX {
            changes.resource_updated(number.to_string());
        }
        assert_eq!(lock(&changes.inner.late).topics.len(), WAITING_MAX + 1);
        assert_eq!(listener.next().await, BTreeSet::from([resource(&last)]));
    }
}
