//! The answer to one POST, as a stream that can be read again from any place: its client may lose the connection.
//!
//! The messages stay in memory for a while after the end. They go to the database only when another replica asks for
//! them, or when this one ends, so a call whose client stays costs nothing there.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::ready;
use futures::stream::{once, unfold};
use futures::{Stream, StreamExt};
use rmcp::model::ServerJsonRpcMessage;
use rmcp::transport::streamable_http_server::session::ServerSseMessage;
use tokio::sync::Notify;

use super::ids::{Place, StreamId};
use crate::lock;

/// When a client should come back after it lost the connection.
pub(super) const RETRY: Duration = Duration::from_secs(3);
/// How long the end of a stream can be read again.
pub(super) const KEEP: Duration = Duration::from_mins(1);
/// Most streams that have ended and are kept, and most memory that they may take, in bytes; more make the oldest go.
const ENDED_MAX: usize = 256;
const ENDED_BYTES: usize = 16 * 1024 * 1024;
/// What a message takes in memory for each byte of its JSON, about; an answer has its content as text and as values.
const BYTES_PER_BYTE: usize = 4;

/// One stream.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) id: StreamId,
    pub(super) session: String,
    state: Mutex<State>,
    news: Notify,
    /// Held while messages are copied, so that they arrive in their order.
    pub(super) copying: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    messages: Vec<Arc<ServerJsonRpcMessage>>,
    /// What the messages take, in bytes.
    bytes: usize,
    ended: Option<Instant>,
    /// How many messages are in the database; `None` while nobody else wants them.
    copied: Option<usize>,
    /// Whether the end is there, too.
    end_copied: bool,
}

/// Messages to copy to the database, the first at `from`.
#[derive(Debug)]
pub(super) struct Copying {
    pub(super) from: usize,
    pub(super) messages: Vec<Arc<ServerJsonRpcMessage>>,
    pub(super) has_ended: bool,
}

impl Replay {
    /// Adds a message.
    pub(super) fn push(&self, message: Arc<ServerJsonRpcMessage>) {
        let bytes = size_of::<ServerJsonRpcMessage>() + BYTES_PER_BYTE * json_length(&message);
        {
            let mut state = lock(&self.state);
            state.messages.push(message);
            state.bytes += bytes;
        }
        self.news.notify_waiters();
    }

    /// There will be no more messages.
    pub(super) fn end(&self) {
        lock(&self.state).ended = Some(Instant::now());
        self.news.notify_waiters();
    }

    fn bytes(&self) -> usize {
        lock(&self.state).bytes
    }

    /// From now on somebody reads the copy.
    pub(super) fn want_copy(&self) {
        let mut state = lock(&self.state);
        state.copied = state.copied.or(Some(0));
    }

    /// What somebody who reads the copy lacks; `None` if nobody does, or if it is all there.
    pub(super) fn to_copy(&self) -> Option<Copying> {
        let state = lock(&self.state);
        let from = state.copied.filter(|_| !state.end_copied)?;
        Some(Copying {
            from,
            messages: state.messages.get(from..).unwrap_or_default().to_vec(),
            has_ended: state.ended.is_some(),
        })
    }

    /// The first `count` messages are in the database, and the end if `with_end`.
    pub(super) fn copied(&self, count: usize, with_end: bool) {
        let mut state = lock(&self.state);
        state.copied = Some(count);
        state.end_copied = with_end;
    }

    /// Waits for the message at `index`; `None` after the last.
    async fn message(&self, index: usize) -> Option<Arc<ServerJsonRpcMessage>> {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            {
                let state = lock(&self.state);
                if let Some(message) = state.messages.get(index) {
                    return Some(Arc::clone(message));
                }
                if state.ended.is_some() {
                    return None;
                }
            }
            news.await;
        }
    }

    /// The id from which a client can go on after the message `number`.
    fn place(&self, number: u64) -> String {
        let place = Place {
            stream: self.id.clone(),
            number,
        };
        place.to_string()
    }
}

fn json_length(message: &ServerJsonRpcMessage) -> usize {
    /// Counts what is written.
    struct Length(usize);

    impl io::Write for Length {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut length = Length(0);
    // What cannot be written is not sent either.
    let _ = serde_json::to_writer(&mut length, message);
    length.0
}

/// The whole stream, with a first event that holds no message but an id.
pub(super) fn whole(replay: Arc<Replay>) -> impl Stream<Item = ServerSseMessage> + Send + Sync + 'static {
    let first = ServerSseMessage::priming(replay.place(0), RETRY);
    let places = Arc::clone(&replay);
    let rest = after(replay, 0).map(move |(number, message)| {
        let mut event = ServerSseMessage::default();
        event.event_id = Some(places.place(number));
        event.message = Some(message);
        event
    });
    once(ready(first)).chain(rest)
}

/// The messages after `number`, each with its number.
pub(super) fn after(
    replay: Arc<Replay>,
    number: u64,
) -> impl Stream<Item = (u64, Arc<ServerJsonRpcMessage>)> + Send + Sync + 'static {
    unfold((replay, number), |(replay, number)| async move {
        let message = replay.message(usize::try_from(number).ok()?).await?;
        Some(((number + 1, message), (replay, number + 1)))
    })
}

/// The streams of this replica: those that run, and those that ended lately.
#[derive(Debug, Default)]
pub(super) struct Replays(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    next: u64,
    streams: HashMap<u64, Arc<Replay>>,
    ended: VecDeque<u64>,
    /// What the ended streams take, in bytes.
    ended_bytes: usize,
}

impl Replays {
    /// A new stream.
    pub(super) fn open(&self, replica: &str, session: &str) -> Arc<Replay> {
        let mut kept = lock(&self.0);
        kept.next += 1;
        let number = kept.next;
        let replay = Arc::new(Replay {
            id: StreamId {
                replica: replica.to_owned(),
                number,
            },
            session: session.to_owned(),
            copying: tokio::sync::Mutex::default(),
            state: Mutex::default(),
            news: Notify::new(),
        });
        kept.streams.insert(number, Arc::clone(&replay));
        replay
    }

    /// The stream with this number, if it is one of `session`.
    pub(super) fn find(&self, number: u64, session: &str) -> Option<Arc<Replay>> {
        let kept = lock(&self.0);
        kept.streams
            .get(&number)
            .filter(|replay| replay.session == session)
            .cloned()
    }

    /// Notes that a stream has ended, and lets go of the oldest when there are too many.
    pub(super) fn ended(&self, replay: &Replay) {
        replay.end();
        let mut kept = lock(&self.0);
        kept.ended.push_back(replay.id.number);
        kept.ended_bytes += replay.bytes();
        while kept.ended.len() > ENDED_MAX || (kept.ended_bytes > ENDED_BYTES && !kept.ended.is_empty()) {
            kept.drop_oldest();
        }
    }

    /// Whether a call still runs.
    pub(super) fn are_running(&self) -> bool {
        let kept = lock(&self.0);
        kept.streams.len() > kept.ended.len()
    }

    /// The streams that have ended and are not in the database yet, the oldest first.
    pub(super) fn not_copied(&self) -> Vec<Arc<Replay>> {
        let kept = lock(&self.0);
        let ended = kept.ended.iter().filter_map(|number| kept.streams.get(number));
        ended
            .filter(|replay| !lock(&replay.state).end_copied)
            .cloned()
            .collect()
    }

    /// Lets go of streams that ended more than [`KEEP`] ago.
    pub(super) fn tidy(&self) {
        let mut kept = lock(&self.0);
        while let Some(oldest) = kept.ended.front() {
            let is_fresh = kept
                .streams
                .get(oldest)
                .is_some_and(|replay| lock(&replay.state).ended.is_none_or(|ended| ended.elapsed() < KEEP));
            if is_fresh {
                return;
            }
            kept.drop_oldest();
        }
    }
}

impl Kept {
    fn drop_oldest(&mut self) {
        let oldest = self.ended.pop_front();
        if let Some(replay) = oldest.and_then(|number| self.streams.remove(&number)) {
            self.ended_bytes = self.ended_bytes.saturating_sub(replay.bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rmcp::model::{EmptyResult, RequestId, ServerResult};

    fn message(id: i64) -> Arc<ServerJsonRpcMessage> {
        let result = ServerResult::EmptyResult(EmptyResult {});
        Arc::new(ServerJsonRpcMessage::response(result, RequestId::Number(id)))
    }

    fn ids(events: &[ServerSseMessage]) -> Vec<&str> {
        events.iter().filter_map(|event| event.event_id.as_deref()).collect()
    }

    /// A client that lost its connection must get exactly what it has not got, also what comes later.
    #[tokio::test]
    async fn a_stream_goes_on_from_any_place() {
        let replays = Replays::default();
        let replay = replays.open("r", "session");
        let reading = tokio::spawn(whole(Arc::clone(&replay)).collect::<Vec<_>>());
        replay.push(message(1));
        replay.push(message(2));
        let from_one = tokio::spawn(after(Arc::clone(&replay), 1).collect::<Vec<_>>());
        tokio::task::yield_now().await;
        replay.push(message(3));
        replays.ended(&replay);
        assert_eq!(ids(&reading.await.unwrap()), ["r.1.0", "r.1.1", "r.1.2", "r.1.3"]);
        let numbers: Vec<u64> = from_one.await.unwrap().iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [2, 3]);
        assert!(after(replay, 3).collect::<Vec<_>>().await.is_empty());
    }

    /// The id of an event is not secret: it must open the stream for its own session only.
    #[test]
    fn a_stream_belongs_to_its_session() {
        let replays = Replays::default();
        let replay = replays.open("r", "mine");
        assert!(replays.find(replay.id.number, "mine").is_some());
        assert!(replays.find(replay.id.number, "another").is_none());
    }

    /// Every message must be copied, in its order, and none before another replica asks.
    #[test]
    fn copies_are_made_on_demand() {
        let replay = Replays::default().open("r", "session");
        replay.push(message(1));
        assert!(replay.to_copy().is_none());
        replay.want_copy();
        let first = replay.to_copy().unwrap();
        assert_eq!((first.from, first.messages.len(), first.has_ended), (0, 1, false));
        let again = replay.to_copy().unwrap();
        assert_eq!((again.from, again.messages.len()), (0, 1), "it could not be copied");
        replay.copied(1, false);
        replay.push(message(2));
        replay.end();
        let second = replay.to_copy().unwrap();
        assert_eq!((second.from, second.messages.len(), second.has_ended), (1, 1, true));
        replay.copied(2, true);
        assert!(replay.to_copy().is_none(), "nothing is copied twice");
    }

    /// A replica that ends must leave behind every answer, and must not end before the calls that still run.
    #[test]
    fn what_is_not_copied_yet_is_known() {
        let numbers = |replays: &Replays| -> Vec<u64> {
            let left = replays.not_copied();
            left.iter().map(|replay| replay.id.number).collect()
        };
        let replays = Replays::default();
        let streams = [(); 3].map(|()| replays.open("r", "session"));
        assert_eq!((numbers(&replays), replays.are_running()), (vec![], true));
        replays.ended(&streams[1]);
        replays.ended(&streams[0]);
        assert_eq!((numbers(&replays), replays.are_running()), (vec![2, 1], true));
        streams[1].copied(0, true);
        replays.ended(&streams[2]);
        assert_eq!((numbers(&replays), replays.are_running()), (vec![1, 3], false));
    }

    /// Answers that nobody asks for again must not fill the memory.
    #[test]
    fn few_streams_are_kept_after_their_end() {
        let replays = Replays::default();
        let running = replays.open("r", "session");
        for _ in 0..3 * ENDED_MAX {
            replays.ended(&replays.open("r", "session"));
        }
        assert_eq!(lock(&replays.0).streams.len(), ENDED_MAX + 1);
        assert!(replays.find(running.id.number, "session").is_some());
    }

    /// A few hundred pages of a thousand messages each are a gigabyte.
    #[test]
    fn long_answers_are_kept_in_bounded_memory() {
        const LENGTH: usize = 1024 * 1024;
        let replays = Replays::default();
        let streams: Vec<_> = (0..2 * ENDED_BYTES / LENGTH)
            .map(|number| {
                let replay = replays.open("r", "session");
                let result = ServerResult::EmptyResult(EmptyResult {});
                let id = RequestId::String(format!("{}{number}", "x".repeat(LENGTH)).into());
                replay.push(Arc::new(ServerJsonRpcMessage::response(result, id)));
                replays.ended(&replay);
                replay.id.number
            })
            .collect();
        let kept = streams
            .iter()
            .filter(|number| replays.find(**number, "session").is_some());
        let kept: Vec<_> = kept.collect();
        assert!(
            !kept.is_empty() && kept.len() * LENGTH * BYTES_PER_BYTE <= ENDED_BYTES,
            "{} streams",
            kept.len()
        );
        assert_eq!(kept.last(), streams.iter().collect::<Vec<_>>().last(), "the newest");
    }
}
