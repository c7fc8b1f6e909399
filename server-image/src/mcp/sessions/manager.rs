//! Sessions in memory, and their messages on the way in and out.
//!
//! rmcp's own session manager does the work of one session. This one stands before it, so that any replica can take
//! part: answers become streams that can be read again, requests of the server to a client get ids that name the call
//! they belong to, and what a client sends for a call of another replica is passed on there. rmcp 3.9.0 has an event
//! store for the first; with it, however, every message of every call is a write to the database, and requests of
//! 2026-07-28 no longer end when their client disconnects.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use http::HeaderMap;
use http::request::Parts;
use rmcp::model::{
    CancelledNotification, CancelledNotificationParam, ClientJsonRpcMessage, ClientNotification, GetExtensions,
    ProtocolVersion, RequestId, ServerJsonRpcMessage, ServerNotification,
};
use rmcp::transport::WorkerTransport;
use rmcp::transport::streamable_http_server::session::local::{
    LocalSessionManager, LocalSessionManagerError, LocalSessionWorker,
};
use rmcp::transport::streamable_http_server::session::{RestoreOutcome, ServerSseMessage, SessionId, SessionManager};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::sleep;

use super::exchange::{ALL, Exchange, Letter, STREAM_MAX};
use super::ids::{Place, new_replica};
use super::log::ClientLog;
use super::replay::{Replay, Replays, whole};
use super::store::{Owner, SessionRecords};
use super::uses::{Stay, Uses};
use crate::changes::{Changes, Topic};
use crate::database::{Database, DatabaseError};
use crate::lock;
use crate::mcp::headers;

/// Longest id of a call, in bytes, by which other replicas are told of its cancellation.
const ID_MAX: usize = 256;
/// Logs of one call that wait to be sent.
const LOGS_WAITING: usize = 16;
/// Shortest and longest time between two looks at which sessions must leave memory.
const LOOK_SHORTEST: Duration = Duration::from_millis(50);
const LOOK_LONGEST: Duration = Duration::from_secs(1);
/// How often, and after which pause, it is tried to copy a part of a stream.
const COPY_TRIES: u32 = 5;
const COPY_PAUSE: Duration = Duration::from_millis(500);
/// How often a replica that ends looks for answers to copy.
const HAND_OVER_LOOK: Duration = Duration::from_millis(50);
/// How often the database is tidied.
const TIDY: Duration = Duration::from_mins(1);

/// The sessions that this replica has in memory, and all others that it can take in.
pub struct SharedSessions {
    pub(super) local: LocalSessionManager,
    pub(super) records: SessionRecords,
    pub(super) changes: Changes,
    pub(super) replica: String,
    pub(super) carrier: Carrier,
    stay: Stay,
}

/// What carries the messages of calls. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Carrier {
    pub(super) replays: Arc<Replays>,
    pub(super) exchange: Option<Arc<Exchange>>,
    uses: Arc<Mutex<Uses>>,
}

impl SharedSessions {
    /// Sessions of `database`, in memory as `stay` says.
    #[must_use]
    pub fn new(database: &Database, changes: Changes, stay: Stay) -> Arc<Self> {
        let mut local = LocalSessionManager::default();
        // Idle sessions are let go here: rmcp would also end one whose only call takes that long.
        local.session_config.keep_alive = None;
        // The beginning of a stream comes from the replay.
        local.session_config.sse_retry = None;
        let replica = new_replica();
        let exchange = match database {
            Database::Postgres(database) => {
                let exchange = Exchange::new(replica.clone(), database.clone(), changes.clone());
                Some(Arc::new(exchange))
            }
            Database::Sqlite(_) => None,
        };
        Arc::new(Self {
            local,
            records: SessionRecords::new(database.clone()),
            changes,
            replica,
            carrier: Carrier {
                replays: Arc::new(Replays::new(exchange.is_some())),
                exchange,
                uses: Arc::default(),
            },
            stay,
        })
    }

    /// The records behind the sessions.
    #[must_use]
    pub const fn records(&self) -> &SessionRecords {
        &self.records
    }

    /// How many sessions are in memory.
    #[must_use]
    pub fn in_memory(&self) -> usize {
        lock(&self.carrier.uses).len()
    }

    /// Whether the session is in memory. If so, it stays for now.
    pub(in crate::mcp) async fn is_here(&self, id: &str) -> bool {
        lock(&self.carrier.uses).touched(id);
        self.local.has_session(&id.into()).await.unwrap_or(false)
    }

    /// Whether a request of `caller` may name the session: only of whoever opened it. An unknown session is nobody's,
    /// and told so elsewhere.
    pub(in crate::mcp) async fn is_of(&self, id: &str, caller: Option<&str>) -> Result<bool, DatabaseError> {
        let known = lock(&self.carrier.uses).owner(id);
        let owner = match known {
            Some(owner) => owner,
            None => match self.records.owner(id).await? {
                Some(owner) => owner,
                None => return Ok(true),
            },
        };
        let is_of_caller = owner.is(caller);
        lock(&self.carrier.uses).set_owner(id, owner);
        Ok(is_of_caller)
    }

    /// Notes that `caller` has just opened the session.
    pub(in crate::mcp) async fn opened_by(&self, id: &str, caller: &str) -> Result<(), DatabaseError> {
        self.records.set_owner(id, caller).await?;
        lock(&self.carrier.uses).set_owner(id, Owner::Caller(caller.to_owned()));
        Ok(())
    }

    /// The client has ended a session: no replica may go on with it.
    ///
    /// # Errors
    /// [`DatabaseError`] when the session may still be in the database: rmcp deletes it, and says nothing if it cannot.
    pub(in crate::mcp) async fn ended(&self, id: &str) -> Result<(), DatabaseError> {
        self.records.remove(id).await?;
        // Streams of news look whether their session is still there.
        self.changes.publish(&session_topic(id));
        let letter = Letter::Ended { session: id.to_owned() };
        self.write(ALL, &letter).await;
        Ok(())
    }

    /// Does what has to be done beside requests, until dropped.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(
            self.let_go(),
            self.keep_tidy(),
            self.read_letters(),
            self.leave_lost_answers()
        );
    }

    /// Copies the answers that are kept, one after the other, until no call runs any more. A replica that ends does
    /// so: nobody can ask it for the answer of a client whose connection broke just before.
    pub(crate) async fn hand_over(&self) {
        let Some(exchange) = &self.carrier.exchange else { return };
        let mut failures = 0;
        while failures < COPY_TRIES {
            // Looked at first: what ends after that needs another round.
            let is_last = !self.carrier.replays.are_running();
            match self.carrier.copy_ended(exchange).await {
                Ok(()) if is_last => return,
                Ok(()) => sleep(HAND_OVER_LOOK).await,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, "cannot leave an answer for other replicas; trying again");
                    sleep(COPY_PAUSE).await;
                }
            }
        }
    }

    /// Takes answers to the database whose connections broke, when there are more than memory has room for.
    async fn leave_lost_answers(&self) {
        let Some(exchange) = &self.carrier.exchange else { return };
        let replays = &self.carrier.replays;
        loop {
            let Some(lost) = replays.to_leave() else {
                replays.crowded().await;
                continue;
            };
            lost.want_copy();
            match copy_once(&lost, exchange).await {
                Ok(()) => replays.make_room(),
                Err(error) => {
                    tracing::warn!(%error, "cannot leave a lost answer in the database; trying again");
                    sleep(COPY_PAUSE).await;
                }
            }
        }
    }

    /// Lets go of sessions that must leave memory.
    async fn let_go(&self) {
        let pause = (self.stay.idle / 4).clamp(LOOK_SHORTEST, LOOK_LONGEST);
        loop {
            sleep(pause).await;
            self.carrier.replays.tidy();
            let leaving = lock(&self.carrier.uses).to_let_go(self.stay, Instant::now());
            for id in leaving {
                // Others were closed meanwhile, and somebody may have come for this one.
                let may_leave = lock(&self.carrier.uses).may_leave(&id, self.stay, Instant::now());
                if may_leave && let Err(error) = self.close_session(&id).await {
                    tracing::debug!(%error, "cannot close an idle session");
                }
            }
        }
    }

    async fn keep_tidy(&self) {
        loop {
            sleep(TIDY).await;
            if let Err(error) = self.tidy().await {
                tracing::debug!(%error, "cannot tidy sessions; trying again");
            }
        }
    }

    /// Removes from the database what nobody needs any more: sessions, letters, copies of streams.
    ///
    /// # Errors
    /// [`DatabaseError`] when the database does not answer.
    pub async fn tidy(&self) -> Result<(), DatabaseError> {
        let in_use = lock(&self.carrier.uses)
            .ids()
            .map(|id| id.as_ref().to_owned())
            .collect();
        self.records.tidy(in_use).await?;
        match &self.carrier.exchange {
            Some(exchange) => exchange.tidy().await,
            None => Ok(()),
        }
    }

    async fn read_letters(&self) {
        let Some(exchange) = &self.carrier.exchange else { return };
        let news = self
            .changes
            .follow([Topic::Mail(self.replica.clone()), Topic::Mail(ALL.to_owned())]);
        loop {
            match exchange.letters().await {
                Ok(letters) => {
                    for letter in letters {
                        self.obey(letter, exchange).await;
                    }
                    news.next().await;
                }
                Err(DatabaseError::NotReady) => sleep(Duration::from_millis(200)).await,
                Err(error) => {
                    tracing::debug!(%error, "cannot read letters of other replicas; trying again");
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn obey(&self, letter: Letter, exchange: &Exchange) {
        match letter {
            Letter::Deliver { session, message } => {
                if let Err(error) = self.local.accept_message(&session.into(), *message).await {
                    tracing::debug!(%error, "a letter for a session that is not here");
                }
            }
            Letter::Copy { session, stream } => {
                if let Some(replay) = self.carrier.replays.find(stream, &session) {
                    replay.want_copy();
                    copy(&replay, exchange).await;
                }
            }
            Letter::Ended { session } => {
                if let Err(error) = self.close_session(&session.into()).await {
                    tracing::debug!(%error, "cannot close a session that has ended");
                }
            }
        }
    }

    async fn deliver(&self, replica: &str, session: &SessionId, message: ClientJsonRpcMessage) {
        if let Some(exchange) = &self.carrier.exchange
            && let Err(error) = exchange.deliver(replica, session, message).await
        {
            tracing::warn!(%error, "cannot hand a message on to another replica");
        }
    }

    async fn write(&self, replica: &str, letter: &Letter) {
        if let Some(exchange) = &self.carrier.exchange
            && let Err(error) = exchange.write(replica, letter).await
        {
            tracing::warn!(%error, "cannot write to another replica");
        }
    }
}

impl Carrier {
    /// Takes in the messages of a call until it ends, whether or not its client is still there.
    async fn carry(
        self,
        replay: Arc<Replay>,
        messages: impl Stream<Item = ServerSseMessage> + Send,
        mut logs: Receiver<ServerJsonRpcMessage>,
    ) {
        let mut messages = pin!(messages);
        // rmcp never ends the first of two calls to which a client gives the same id.
        let mut too_long = pin!(sleep(STREAM_MAX));
        loop {
            let message = tokio::select! {
                biased;
                () = &mut too_long => break,
                Some(log) = logs.recv() => Some(Arc::new(log)),
                event = messages.next() => match event {
                    None => break,
                    Some(event) => event.message,
                },
            };
            if let Some(message) = message {
                replay.push(with_places(message, &replay));
                self.copy_on(&replay).await;
            }
        }
        self.replays.ended(&replay);
        self.copy_on(&replay).await;
        lock(&self.uses).call_ended(&replay.session);
    }

    async fn copy_on(&self, replay: &Replay) {
        if let Some(exchange) = &self.exchange {
            copy(replay, exchange).await;
        }
    }

    /// Copies the streams that have ended and are not in the database yet.
    async fn copy_ended(&self, exchange: &Exchange) -> Result<(), DatabaseError> {
        for replay in self.replays.not_copied() {
            replay.want_copy();
            copy_once(&replay, exchange).await?;
        }
        Ok(())
    }
}

/// Copies what another replica waits for; tries again if it fails, since there may be no further message.
async fn copy(replay: &Replay, exchange: &Exchange) {
    for _ in 0..COPY_TRIES {
        match copy_once(replay, exchange).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "cannot copy a stream for another replica; trying again"),
        }
        sleep(COPY_PAUSE).await;
    }
}

/// Copies what somebody who reads the copy lacks.
async fn copy_once(replay: &Replay, exchange: &Exchange) -> Result<(), DatabaseError> {
    let _turn = replay.copying.lock().await;
    let Some(part) = replay.to_copy() else { return Ok(()) };
    let (count, with_end) = (part.from + part.messages.len(), part.has_ended);
    exchange.copy(&replay.id, &replay.session, part).await?;
    replay.copied(count, with_end);
    Ok(())
}

/// News of a session itself: its subscriptions, its end.
pub(in crate::mcp) fn session_topic(id: &str) -> Topic {
    Topic::Stream(format!("session:{id}"))
}

/// Gives requests of the server ids that name the call they belong to: the answer may arrive at any replica, and two
/// replicas may ask the same client at the same time.
fn with_places(message: Arc<ServerJsonRpcMessage>, replay: &Replay) -> Arc<ServerJsonRpcMessage> {
    let is_concerned = match message.as_ref() {
        ServerJsonRpcMessage::Request(_) => true,
        ServerJsonRpcMessage::Notification(notification) => {
            matches!(notification.notification, ServerNotification::CancelledNotification(_))
        }
        _ => false,
    };
    if !is_concerned {
        return message;
    }
    let mut message = message.as_ref().clone();
    match &mut message {
        ServerJsonRpcMessage::Request(request) => request.id = placed(&request.id, replay),
        ServerJsonRpcMessage::Notification(notification) => {
            if let ServerNotification::CancelledNotification(cancelled) = &mut notification.notification {
                cancelled.params.request_id = cancelled.params.request_id.as_ref().map(|id| placed(id, replay));
            }
        }
        _ => {}
    }
    Arc::new(message)
}

fn placed(id: &RequestId, replay: &Replay) -> RequestId {
    match id {
        RequestId::Number(number) => {
            let place = Place {
                stream: replay.id.clone(),
                number: u64::try_from(*number).unwrap_or_default(),
            };
            RequestId::String(place.to_string().into())
        }
        RequestId::String(_) => id.clone(),
    }
}

/// The place that an answer of a client names, and the answer with the id that the call there knows.
fn addressed(message: &mut ClientJsonRpcMessage) -> Option<Place> {
    let id = match message {
        ClientJsonRpcMessage::Response(response) => &mut response.id,
        ClientJsonRpcMessage::Error(error) => error.id.as_mut()?,
        _ => return None,
    };
    let RequestId::String(text) = id else { return None };
    let place: Place = text.parse().ok()?;
    *id = RequestId::Number(i64::try_from(place.number).ok()?);
    Some(place)
}

impl SessionManager for SharedSessions {
    type Error = LocalSessionManagerError;
    type Transport = WorkerTransport<LocalSessionWorker>;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        let (id, transport) = self.local.create_session().await?;
        // Nobody else knows the id before the answer, and before that it is known who asked.
        lock(&self.carrier.uses).opened(&id, Owner::Anonymous);
        Ok((id, transport))
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        self.local.initialize_session(id, message).await
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        self.local.has_session(id).await
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        lock(&self.carrier.uses).removed(id);
        self.local.close_session(id).await
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        mut message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        let (log, logs) = channel(LOGS_WAITING);
        let mut begins_empty = false;
        if let ClientJsonRpcMessage::Request(request) = &mut message
            && let Some(parts) = request.request.extensions_mut().get_mut::<Parts>()
        {
            begins_empty = takes_empty_events(&parts.headers);
            parts.extensions.insert(ClientLog {
                session: SessionId::clone(id),
                records: self.records.clone(),
                stream: log,
            });
        }
        let messages = self.local.create_stream(id, message).await?;
        lock(&self.carrier.uses).call_began(id);
        let replay = self.carrier.replays.open(&self.replica, id);
        tokio::spawn(self.carrier.clone().carry(Arc::clone(&replay), messages, logs));
        Ok(whole(replay, begins_empty))
    }

    async fn accept_message(&self, id: &SessionId, mut message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        if let Some(place) = addressed(&mut message)
            && place.stream.replica != self.replica
        {
            self.deliver(&place.stream.replica, id, message).await;
            return Ok(());
        }
        if let Some(message) = cancellation(&message) {
            // Which replica runs the call is not known.
            self.deliver(ALL, id, message).await;
        }
        self.local.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.local.create_standalone_stream(id).await
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.local.resume(id, last_event_id).await
    }

    async fn restore_session(&self, id: SessionId) -> Result<RestoreOutcome<Self::Transport>, Self::Error> {
        lock(&self.carrier.uses).restored(&id);
        self.local.restore_session(id).await
    }
}

/// Whether the client knows events without data, which the protocol has since 2025-11-25: older ones read each event as
/// JSON, and fail at one that has none.
pub(in crate::mcp) fn takes_empty_events(request: &HeaderMap) -> bool {
    headers::text(request, headers::PROTOCOL_VERSION)
        .is_some_and(|version| version >= ProtocolVersion::V_2025_11_25.as_str())
}

/// What other replicas must know of a cancellation: which call it is of, and not why, which may be long. A call whose id
/// is longer than [`ID_MAX`] is cancelled only where the message arrives.
fn cancellation(message: &ClientJsonRpcMessage) -> Option<ClientJsonRpcMessage> {
    let ClientJsonRpcMessage::Notification(notification) = message else {
        return None;
    };
    let ClientNotification::CancelledNotification(cancelled) = &notification.notification else {
        return None;
    };
    let id = cancelled.params.request_id.clone()?;
    if matches!(&id, RequestId::String(id) if id.len() > ID_MAX) {
        return None;
    }
    let params = CancelledNotificationParam::new(Some(id), None);
    let cancelled = ClientNotification::CancelledNotification(CancelledNotification::new(params));
    Some(ClientJsonRpcMessage::notification(cancelled))
}
