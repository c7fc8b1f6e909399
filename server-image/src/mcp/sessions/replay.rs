//! The answer to one POST, as a stream that can be read again from any place: its client may lose the connection.
//!
//! The messages stay in memory for a while after the end. They go to the database only when another replica asks for
//! them, when this one ends, or when there is no room for an answer whose connection broke, so a call whose client
//! stays costs nothing there.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::stream::{iter, unfold};
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
/// Most streams that have ended and are kept, and most memory that they may take, in bytes; beyond that those go first
/// that are needed least, see [`Need`].
const ENDED_MAX: usize = 256;
const ENDED_BYTES: usize = 16 * 1024 * 1024;
/// How many times as much there may be while lost answers are on their way to the database.
const LEAVING: usize = 2;
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
    /// How many read the stream now.
    readers: usize,
    /// Whether one of them came to the end: the last message was handed to a connection.
    delivered: bool,
}

/// What is lost when a stream that has ended is no longer kept in memory; the first of these goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// The database has it, or a connection took it to the end. It may yet get lost with that connection's buffer, so
    /// it is kept while there is room.
    Spare,
    /// It is being read, and goes on being read without being kept.
    Read,
    /// Its connection broke before the end. Without it the client repeats the call, and what that writes.
    Lost,
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

    fn need(&self) -> Need {
        let state = lock(&self.state);
        if state.delivered || state.end_copied {
            Need::Spare
        } else if state.readers > 0 {
            Need::Read
        } else {
            Need::Lost
        }
    }

    /// Whether it ended more than [`KEEP`] ago.
    fn is_old(&self) -> bool {
        lock(&self.state).ended.is_some_and(|ended| ended.elapsed() >= KEEP)
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
                let mut state = lock(&self.state);
                if let Some(message) = state.messages.get(index) {
                    return Some(Arc::clone(message));
                }
                if state.ended.is_some() {
                    // A connection asks for more only when it has taken what there was.
                    state.delivered = true;
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

/// The whole stream; if it `begins_empty`, with a first event that holds no message but an id, so that a client can come
/// back whose connection breaks before the first message.
pub(super) fn whole(
    replay: Arc<Replay>,
    begins_empty: bool,
) -> impl Stream<Item = ServerSseMessage> + Send + Sync + 'static {
    let first = begins_empty.then(|| ServerSseMessage::priming(replay.place(0), RETRY));
    let places = Arc::clone(&replay);
    let rest = after(replay, 0).map(move |(number, message)| {
        let mut event = ServerSseMessage::default();
        event.event_id = Some(places.place(number));
        event.message = Some(message);
        event
    });
    iter(first).chain(rest)
}

/// The messages after `number`, each with its number.
pub(super) fn after(
    replay: Arc<Replay>,
    number: u64,
) -> impl Stream<Item = (u64, Arc<ServerJsonRpcMessage>)> + Send + Sync + 'static {
    unfold((Reader::new(replay), number), |(reader, number)| async move {
        let message = reader.0.message(usize::try_from(number).ok()?).await?;
        Some(((number + 1, message), (reader, number + 1)))
    })
}

/// Somebody who reads a stream; gone when the connection is.
struct Reader(Arc<Replay>);

impl Reader {
    fn new(replay: Arc<Replay>) -> Self {
        lock(&replay.state).readers += 1;
        Self(replay)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        lock(&self.0.state).readers -= 1;
    }
}

/// The streams of this replica: those that run, and those that ended lately.
#[derive(Debug, Default)]
pub(super) struct Replays {
    kept: Mutex<Kept>,
    /// Whether lost answers can go to the database.
    can_leave: bool,
    /// Wakes who brings them there.
    crowded: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    next: u64,
    streams: HashMap<u64, Arc<Replay>>,
    /// Those that have ended, the oldest first.
    ended: VecDeque<Arc<Replay>>,
    /// What the ended streams take, in bytes.
    ended_bytes: usize,
}

impl Replays {
    /// No streams yet; `can_leave` if somebody brings those of [`Self::to_leave`] to a database.
    pub(super) fn new(can_leave: bool) -> Self {
        Self {
            can_leave,
            ..Self::default()
        }
    }

    /// A new stream.
    pub(super) fn open(&self, replica: &str, session: &str) -> Arc<Replay> {
        let mut kept = lock(&self.kept);
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
        let kept = lock(&self.kept);
        kept.streams
            .get(&number)
            .filter(|replay| replay.session == session)
            .cloned()
    }

    /// Notes that a stream has ended, and lets go of what is needed least when there are too many.
    pub(super) fn ended(&self, replay: &Arc<Replay>) {
        replay.end();
        let bytes = replay.bytes();
        let mut kept = lock(&self.kept);
        if bytes > ENDED_BYTES {
            // There is no room for it, however many others go.
            kept.streams.remove(&replay.id.number);
            return;
        }
        kept.ended_bytes += bytes;
        kept.ended.push_back(Arc::clone(replay));
        kept.make_room(self.can_leave);
        if kept.is_beyond(1) {
            self.crowded.notify_one();
        }
    }

    /// Waits until there is more than there is room for; then [`Self::to_leave`] may know of something.
    pub(super) async fn crowded(&self) {
        self.crowded.notified().await;
    }

    /// The oldest lost answer, if there is more than there is room for.
    pub(super) fn to_leave(&self) -> Option<Arc<Replay>> {
        let kept = lock(&self.kept);
        if !kept.is_beyond(1) {
            return None;
        }
        let oldest = kept.oldest(Need::Lost)?;
        kept.ended.get(oldest).cloned()
    }

    /// Lets go of what is in the database by now, as far as room is needed.
    pub(super) fn make_room(&self) {
        lock(&self.kept).make_room(self.can_leave);
    }

    /// Whether a call still runs.
    pub(super) fn are_running(&self) -> bool {
        let kept = lock(&self.kept);
        kept.streams.len() > kept.ended.len()
    }

    /// The streams that have ended and are not in the database yet, the oldest first.
    pub(super) fn not_copied(&self) -> Vec<Arc<Replay>> {
        let kept = lock(&self.kept);
        let left = kept.ended.iter().filter(|replay| !lock(&replay.state).end_copied);
        left.cloned().collect()
    }

    /// Lets go of streams that ended more than [`KEEP`] ago.
    pub(super) fn tidy(&self) {
        let mut kept = lock(&self.kept);
        while kept.ended.front().is_some_and(|oldest| oldest.is_old()) {
            kept.let_go(0);
        }
    }
}

impl Kept {
    /// Whether there is more than `times` of what there is room for.
    fn is_beyond(&self, times: usize) -> bool {
        let is_beyond = self.ended.len() > times * ENDED_MAX || self.ended_bytes > times * ENDED_BYTES;
        is_beyond && !self.ended.is_empty()
    }

    fn make_room(&mut self, can_leave: bool) {
        let most = if can_leave { LEAVING } else { 1 };
        while self.is_beyond(1) {
            let least = match self.oldest(Need::Spare) {
                Some(least) => least,
                // The rest is only here. Lost answers are taken to the database one after the other.
                None if !self.is_beyond(most) => return,
                None => self.oldest(Need::Read).unwrap_or(0),
            };
            self.let_go(least);
        }
    }

    /// Index of the oldest ended stream that is in such need.
    fn oldest(&self, need: Need) -> Option<usize> {
        self.ended.iter().position(|replay| replay.need() == need)
    }

    fn let_go(&mut self, index: usize) {
        if let Some(replay) = self.ended.remove(index) {
            self.streams.remove(&replay.id.number);
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
        let reading = tokio::spawn(whole(Arc::clone(&replay), true).collect::<Vec<_>>());
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
        assert_eq!(lock(&replays.kept).streams.len(), ENDED_MAX + 1);
        assert!(replays.find(running.id.number, "session").is_some());
    }

    /// A stream that has ended without anybody reading it.
    fn lost(replays: &Replays) -> Arc<Replay> {
        let replay = replays.open("r", "session");
        replay.push(message(1));
        replays.ended(&replay);
        replay
    }

    /// One that was read to its end.
    async fn delivered(replays: &Replays) -> Arc<Replay> {
        let replay = replays.open("r", "session");
        let reader = after(Arc::clone(&replay), 0);
        replay.push(message(1));
        replays.ended(&replay);
        assert_eq!(reader.collect::<Vec<_>>().await.len(), 1);
        replay
    }

    fn are_kept<const COUNT: usize>(replays: &Replays, streams: [&Arc<Replay>; COUNT]) -> [bool; COUNT] {
        streams.map(|replay| replays.find(replay.id.number, "session").is_some())
    }

    /// Who did not get an answer repeats the call, and what it writes. Answers that others got must not push it out.
    #[tokio::test]
    async fn what_is_needed_least_goes_first() {
        let replays = Replays::default();
        let unread = lost(&replays);
        let cut = replays.open("r", "session");
        {
            let mut reader = std::pin::pin!(after(Arc::clone(&cut), 0));
            cut.push(message(1));
            cut.push(message(2));
            assert!(reader.next().await.is_some());
            replays.ended(&cut);
            assert_eq!(cut.need(), Need::Read);
        }
        let reading = replays.open("r", "session");
        let reader = after(Arc::clone(&reading), 0);
        replays.ended(&reading);
        let first = delivered(&replays).await;
        let mut last = Arc::clone(&first);
        for _ in 0..2 * ENDED_MAX {
            last = delivered(&replays).await;
        }
        let kept = are_kept(&replays, [&unread, &cut, &reading, &first, &last]);
        assert_eq!(kept, [true, true, true, false, true], "what was delivered goes");
        for _ in 0..ENDED_MAX - 2 {
            lost(&replays);
        }
        let kept = are_kept(&replays, [&unread, &cut, &reading, &last]);
        assert_eq!(kept, [true, true, false, false], "then what is being read");
        lost(&replays);
        let kept = are_kept(&replays, [&unread, &cut]);
        assert_eq!(kept, [false, true], "then the oldest that was lost");
        drop(reader);
    }

    /// With a database behind it, no lost answer goes before it is there; but if the database is slow, the memory of
    /// all must not fill up.
    #[test]
    fn lost_answers_wait_for_the_database() {
        let replays = Replays::new(true);
        let first = lost(&replays);
        for _ in 1..ENDED_MAX {
            lost(&replays);
        }
        assert!(replays.to_leave().is_none(), "there is room");
        let newest = lost(&replays);
        let leaving = replays.to_leave().unwrap();
        assert_eq!(leaving.id, first.id);
        replays.make_room();
        assert_eq!(are_kept(&replays, [&first, &newest]), [true, true]);
        leaving.copied(1, true);
        replays.make_room();
        assert_eq!(are_kept(&replays, [&first, &newest]), [false, true]);
        assert!(replays.to_leave().is_none(), "there is room again");
        for _ in 0..2 * LEAVING * ENDED_MAX {
            lost(&replays);
        }
        assert_eq!(lock(&replays.kept).ended.len(), LEAVING * ENDED_MAX);
        assert_eq!(are_kept(&replays, [&newest]), [false]);
    }

    /// One page of a thousand long messages must not cost others their answers.
    #[test]
    fn an_answer_without_room_pushes_out_no_others() {
        let replays = Replays::default();
        let other = lost(&replays);
        let giant = replays.open("r", "session");
        let id = RequestId::String("x".repeat(ENDED_BYTES / BYTES_PER_BYTE).into());
        let result = ServerResult::EmptyResult(EmptyResult {});
        giant.push(Arc::new(ServerJsonRpcMessage::response(result, id)));
        replays.ended(&giant);
        assert_eq!(are_kept(&replays, [&other, &giant]), [true, false]);
        assert!(!replays.are_running());
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
