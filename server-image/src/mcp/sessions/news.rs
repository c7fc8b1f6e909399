//! The stream that a client up to 2025-11-25 opens with GET: news of what it follows, or the rest of an answer.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::future::ready;
use futures::stream::{BoxStream, empty, iter, unfold};
use futures::{Stream, StreamExt};
use http::HeaderValue;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Sender, channel};
use tokio::time::timeout;

use super::ids::Place;
use super::manager::{SharedSessions, session_topic};
use super::replay::{RETRY, after};
use crate::changes::Topic;
use crate::database::DatabaseError;

/// How often an idle stream shows that it is still there, so that no proxy cuts it.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// How often a session is looked at whose client listens, without news of it: who listens uses it.
const LOOK: Duration = Duration::from_hours(1);

/// Something to send on a stream.
struct Line {
    id: Option<String>,
    data: String,
}

impl SharedSessions {
    /// The stream of a session that exists: from the event `last` on, or of news; it ends when `end` resolves. If it
    /// `begins_empty`, the first event only says after what time to come back.
    pub(in crate::mcp) fn stream(
        self: &Arc<Self>,
        session: &str,
        last: Option<&str>,
        begins_empty: bool,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> Response {
        let lines = match last.map(str::parse::<Place>) {
            None => self.news(session),
            Some(Ok(place)) => self.rest(session, place),
            // An error would make clients try again for ever; an empty stream tells them that there is nothing.
            Some(Err(_)) => empty().boxed(),
        };
        let first = begins_empty.then(|| Event::default().retry(RETRY));
        let events = lines.map(|line| {
            let event = Event::default().data(line.data);
            line.id.map_or(event.clone(), |id| event.id(id))
        });
        let events = iter(first).chain(events).map(Ok::<_, Infallible>).take_until(end);
        let keep_alive = KeepAlive::new().interval(SIGN_OF_LIFE);
        let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
        let headers = response.headers_mut();
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }

    /// What comes after `place`: from this replica's memory, from what it has left in the database, or from the replica
    /// where the call runs.
    fn rest(self: &Arc<Self>, session: &str, place: Place) -> BoxStream<'static, Line> {
        let stream = place.stream.clone();
        let line = move |number, data| {
            let id = Place {
                stream: stream.clone(),
                number,
            };
            Line {
                id: Some(id.to_string()),
                data,
            }
        };
        let is_own = place.stream.replica == self.replica;
        if is_own && let Some(replay) = self.carrier.replays.find(place.stream.number, session) {
            return after(replay, place.number)
                .filter_map(move |(number, message)| {
                    ready(serde_json::to_string(&*message).ok().map(|data| (number, data)))
                })
                .map(move |(number, data)| line(number, data))
                .boxed();
        }
        let Some(exchange) = self.carrier.exchange.clone() else {
            return empty().boxed();
        };
        let session = session.to_owned();
        let events = if is_own {
            exchange.left(session, place.stream, place.number).boxed()
        } else {
            exchange.after(session, place.stream, place.number).boxed()
        };
        events.map(move |(number, data)| line(number, data)).boxed()
    }

    fn news(self: &Arc<Self>, session: &str) -> BoxStream<'static, Line> {
        let (sender, receiver) = channel(16);
        let this = Arc::clone(self);
        let session = session.to_owned();
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                told = this.tell(&session, &sender) => if let Err(error) = told {
                    tracing::debug!(%error, "a stream of news ends");
                },
            }
        });
        received(receiver).boxed()
    }

    /// Sends news of the session until it ends.
    async fn tell(&self, session: &str, sender: &Sender<Line>) -> Result<(), DatabaseError> {
        let own = session_topic(session);
        let always = BTreeSet::from([Topic::Tools, Topic::Prompts, Topic::Resources, own.clone()]);
        // Heard from before the first look at the subscriptions on, so that no change of them is missed.
        let mut listener = self.changes.follow(always.clone());
        let mut subscribed = BTreeSet::new();
        let mut topics = BTreeSet::from([own.clone()]);
        loop {
            if topics.contains(&own) {
                let uris = self.records.subscriptions(session).await?;
                if self.records.used(session).await?.is_none() {
                    return Ok(());
                }
                let now: BTreeSet<Topic> = uris.into_iter().map(Topic::Resource).collect();
                listener.follow_instead(always.union(&now).cloned().collect());
                topics.retain(|topic| always.contains(topic) || now.contains(topic));
                // What changed before it was followed, the client has to hear of too.
                topics.extend(now.difference(&subscribed).cloned());
                subscribed = now;
            }
            for topic in &topics {
                send(sender, topic).await;
            }
            let news = timeout(LOOK, listener.next()).await;
            // Without news it is time to look at the session itself.
            topics = news.unwrap_or_else(|_| BTreeSet::from([own.clone()]));
        }
    }
}

async fn send(sender: &Sender<Line>, topic: &Topic) {
    if let Some(message) = notification(topic) {
        let data = message.to_string();
        // Without a receiver the whole task ends.
        let _ = sender.send(Line { id: None, data }).await;
    }
}

fn notification(topic: &Topic) -> Option<Value> {
    let (method, params) = match topic {
        Topic::Tools => ("notifications/tools/list_changed", None),
        Topic::Prompts => ("notifications/prompts/list_changed", None),
        Topic::Resources => ("notifications/resources/list_changed", None),
        Topic::Resource(uri) => ("notifications/resources/updated", Some(json!({"uri": uri}))),
        Topic::Stream(_) | Topic::Mail(_) | Topic::Everything => return None,
    };
    let mut message = json!({"jsonrpc": "2.0", "method": method});
    if let Some(params) = params {
        message["params"] = params;
    }
    Some(message)
}

fn received<T: Send>(receiver: tokio::sync::mpsc::Receiver<T>) -> impl Stream<Item = T> + Send {
    unfold(receiver, |mut receiver| async move {
        let item = receiver.recv().await?;
        Some((item, receiver))
    })
}
