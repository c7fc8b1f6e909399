//! `subscriptions/listen`: a client of 2026-07-28 follows lists and resources on one long answer.

use std::collections::BTreeSet;

use rmcp::ErrorData;
use rmcp::model::SubscriptionFilter;
use rmcp::service::SubscriptionContext;

use super::handler::no_such_resource;
use crate::changes::{Changes, Topic};
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

/// Passes news on to the client until it has gone.
pub(super) async fn serve(changes: &Changes, context: &SubscriptionContext) {
    let listener = changes.follow(topics(context.accepted()));
    loop {
        for topic in listener.next().await {
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
