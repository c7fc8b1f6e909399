//! News of what has changed, for whoever follows it at any replica.
//!
//! A toolset tells [`Changes`] what it changed. Who follows something has a [`Listener`], at this replica or another:
//! with Postgres the `relay` carries news between replicas; a SQLite file has one replica. News says *that*
//! something changed, never what: whoever hears it reads again. So news may be merged, and where some may have been
//! lost (a broken connection), everybody is told that everything may have changed.

mod relay;
mod topic;

pub use relay::{Relay, STALE_MAX};
pub use topic::Topic;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::lock;

/// Most topics that wait to be sent to other replicas, one entry each; beyond, one "everything" replaces them.
const OUTGOING_MAX: usize = 10_000;

/// The news of one replica. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Changes(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    followers: Mutex<BTreeMap<Topic, HashMap<u64, Arc<Pending>>>>,
    next_follower: AtomicU64,
    /// Topics to tell other replicas of; `None` when there are none to tell.
    outgoing: Option<Pending>,
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
        Self(Arc::new(Inner {
            outgoing: Some(Pending::default()),
            ..Inner::default()
        }))
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
        if let Some(outgoing) = &self.0.outgoing {
            let waiting = lock(&outgoing.topics).len();
            let topic = if waiting < OUTGOING_MAX {
                topic.clone()
            } else {
                Topic::Everything
            };
            outgoing.add(topic);
        }
        self.deliver(topic);
    }

    /// Tells followers here.
    fn deliver(&self, topic: &Topic) {
        let followers = lock(&self.0.followers);
        if *topic == Topic::Everything {
            for (topic, pending) in followers
                .iter()
                .flat_map(|(topic, all)| all.values().map(move |one| (topic, one)))
            {
                pending.add(topic.clone());
            }
        } else {
            let beneath = followers.range(topic.beneath()).chain(followers.get_key_value(topic));
            for (topic, all) in beneath {
                for pending in all.values() {
                    pending.add(topic.clone());
                }
            }
        }
    }

    /// Follows `topics` until the listener is dropped.
    #[must_use]
    pub fn follow(&self, topics: impl IntoIterator<Item = Topic>) -> Listener {
        let mut listener = Listener {
            changes: self.clone(),
            id: self.0.next_follower.fetch_add(1, Ordering::Relaxed),
            pending: Arc::default(),
            topics: BTreeSet::new(),
        };
        listener.follow_instead(topics.into_iter().collect());
        listener
    }

    /// How many topics are followed here.
    #[must_use]
    pub fn followed(&self) -> usize {
        lock(&self.0.followers).len()
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

    /// News that waits for [`Self::next`], taken without waiting for more.
    #[must_use]
    pub fn waiting(&self) -> BTreeSet<Topic> {
        self.pending.take_now()
    }

    /// Follows `topics` from now on. News of those it goes on with is not lost; news of the others is not told.
    pub fn follow_instead(&mut self, topics: BTreeSet<Topic>) {
        let mut followers = lock(&self.changes.0.followers);
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

    use super::*;

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
        for number in 0..2 * OUTGOING_MAX {
            changes.resource_updated(number.to_string());
        }
        let waiting = changes.0.outgoing.as_ref().unwrap().take().await;
        assert_eq!(waiting.len(), OUTGOING_MAX + 1);
        assert!(waiting.contains(&Topic::Everything));
    }
}
