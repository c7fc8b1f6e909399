//! `subscriptions/listen`: a client of 2026-07-28 follows lists and resources on one long answer.

use std::collections::{BTreeSet, HashMap};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};

use rmcp::model::{ResourceUpdatedNotificationParam, SubscriptionFilter};
use rmcp::service::SubscriptionContext;
use rmcp::{ErrorData, Peer, RoleServer};
use tokio::task::AbortHandle;

use super::handler::no_such_resource;
use crate::changes::{Changes, Listener, Topic};
use crate::lock;
use crate::tools::{CallContext, Catalog, ToolError};

/// Most resources that one subscription follows; the acknowledgement tells which.
pub(super) const RESOURCES_MAX: usize = 1_000;

/// What of `requested` a subscription may hold.
pub(super) fn bounded(requested: &SubscriptionFilter) -> SubscriptionFilter {
    let mut bounded = requested.clone();
    if let Some(uris) = &mut bounded.resource_subscriptions {
        uris.truncate(RESOURCES_MAX);
    }
    bounded
}

/// Refuses a subscription to a resource that does not exist or that the caller may not read: news of it would give
/// away that someone works with it.
pub(super) async fn check(catalog: &Catalog, context: &SubscriptionContext) -> Result<(), ErrorData> {
    let caller = CallContext::new(context.request_context().clone());
    for uri in context.accepted().resource_subscriptions.iter().flatten() {
        may_follow(catalog, uri, &caller).await?;
    }
    Ok(())
}

/// Whether the caller may follow `uri`.
pub(super) async fn may_follow(catalog: &Catalog, uri: &str, caller: &CallContext) -> Result<(), ErrorData> {
    let asking = catalog
        .resources
        .may_follow(uri, caller)
        .ok_or_else(|| no_such_resource(uri))?;
    asking.await.map_err(ToolError::into_protocol)
}

/// Begins to follow what a subscription holds. The client has been told already that it does, so this comes before
/// everything else, or what changes in the meantime is missed.
pub(super) fn follow(changes: &Changes, context: &SubscriptionContext) -> Listener {
    changes.follow(topics(context.accepted()))
}

/// Passes news on to the client until it has gone, or until `ending` and all news that waits then is told: the answer
/// that follows tells the client that the server ends in good order, so that it listens elsewhere.
pub(super) async fn serve(listener: Listener, context: &SubscriptionContext, ending: impl Future<Output = ()>) {
    let mut ending = pin!(ending);
    let mut is_last = false;
    while !is_last {
        let news;
        (news, is_last) = next_news(&listener, ending.as_mut()).await;
        for topic in news {
            let sink = context.sink();
            let sent = match topic {
                Topic::Tools => sink.notify_tool_list_changed().await,
                Topic::Prompts => sink.notify_prompt_list_changed().await,
                Topic::Resources => sink.notify_resource_list_changed().await,
                Topic::Resource(uri) => sink.notify_resource_updated(uri).await,
                Topic::Stream(_) | Topic::Mail(_) | Topic::Everything => continue,
            };
            if let Err(error) = sent {
                tracing::debug!(%error, "a subscriber has gone");
                return;
            }
        }
    }
}

/// Waits for news; tells whether it is the last.
async fn next_news(listener: &Listener, ending: Pin<&mut impl Future<Output = ()>>) -> (BTreeSet<Topic>, bool) {
    tokio::select! {
        biased;
        () = ending => (listener.waiting(), true),
        news = listener.next() => (news, false),
    }
}

/// What a client up to 2025-11-25 follows on stdio; ends with the client. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Follows(Arc<Mutex<HashMap<String, AbortOnDrop>>>);

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Follows {
    /// Tells `client` from now on when `uri` changes.
    pub(super) fn begin(&self, changes: &Changes, uri: String, client: Peer<RoleServer>) {
        let mut follows = lock(&self.0);
        // A new listener in the place of one that has news would lose it.
        if follows.contains_key(&uri) {
            return;
        }
        let listener = changes.follow([Topic::Resource(uri.clone())]);
        let followed = uri.clone();
        let telling = tokio::spawn(async move {
            loop {
                listener.next().await;
                let updated = ResourceUpdatedNotificationParam::new(uri.clone());
                if client.notify_resource_updated(updated).await.is_err() {
                    return;
                }
            }
        });
        follows.insert(followed, AbortOnDrop(telling.abort_handle()));
    }

    /// Tells nothing of `uri` any more.
    pub(super) fn end(&self, uri: &str) {
        lock(&self.0).remove(uri);
    }
}

/// The topics that a filter names.
fn topics(filter: &SubscriptionFilter) -> BTreeSet<Topic> {
    let lists = [
        (filter.tools_list_changed, Topic::Tools),
        (filter.prompts_list_changed, Topic::Prompts),
        (filter.resources_list_changed, Topic::Resources),
    ];
    let lists = lists
        .into_iter()
        .filter_map(|(wanted, topic)| (wanted == Some(true)).then_some(topic));
    let uris = filter.resource_subscriptions.iter().flatten();
    lists.chain(uris.cloned().map(Topic::Resource)).collect()
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures::FutureExt;

    use super::*;

    /// A client that is told to listen elsewhere reads nothing again there: what it was not told is lost on it.
    #[test]
    fn what_waits_when_the_server_ends_is_told() {
        let changes = Changes::alone();
        let listener = changes.follow([Topic::Tools, Topic::Prompts]);
        let serving = || next_news(&listener, pin!(pending())).now_or_never();
        let ending = || next_news(&listener, pin!(ready(()))).now_or_never();
        assert_eq!(serving(), None);
        changes.publish(&Topic::Tools);
        assert_eq!(serving(), Some((BTreeSet::from([Topic::Tools]), false)));
        changes.publish(&Topic::Prompts);
        assert_eq!(ending(), Some((BTreeSet::from([Topic::Prompts]), true)));
        assert_eq!(ending(), Some((BTreeSet::new(), true)));
    }
}
