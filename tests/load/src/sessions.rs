//! Legacy sessions, shared by all requests of a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use http::HeaderMap;
use tokio::sync::Mutex;

use crate::outcome::Refusal;
use crate::protocol;
use crate::transport::Transport;

/// The sessions and how often they were opened and lost.
#[derive(Debug)]
pub(crate) struct Sessions {
    slots: Vec<Mutex<Session>>,
    next: AtomicUsize,
    opened: AtomicU64,
    lost: AtomicU64,
}

#[derive(Debug)]
struct Session {
    headers: Arc<HeaderMap>,
    /// Counts the sessions that this slot has held: tells whether another request has replaced a lost one already.
    generation: u64,
}

/// The right to send one request in a session.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    slot: usize,
    generation: u64,
    pub(crate) headers: Arc<HeaderMap>,
}

impl Sessions {
    /// Opens `count` sessions, one after the other.
    pub(crate) async fn open(transport: &Transport, count: usize, next_id: &AtomicU64) -> Result<Self, Refusal> {
        let mut slots = Vec::with_capacity(count);
        for _ in 0..count {
            let headers = open_session(transport, next_id).await?;
            slots.push(Mutex::new(Session { headers, generation: 0 }));
        }
        let opened = AtomicU64::new(u64::try_from(count).unwrap_or(u64::MAX));
        Ok(Self {
            slots,
            next: AtomicUsize::new(0),
            opened,
            lost: AtomicU64::new(0),
        })
    }

    /// The next session in turn. Waits while that one is being replaced.
    pub(crate) async fn take_turn(&self) -> Ticket {
        let slot = self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        let session = self.slots[slot].lock().await;
        Ticket {
            slot,
            generation: session.generation,
            headers: Arc::clone(&session.headers),
        }
    }

    /// Replaces the session of a ticket that the server did not know any more. However many requests find the same
    /// session lost, one opens the new one and the others wait for it.
    pub(crate) async fn replace(
        &self,
        lost: &Ticket,
        transport: &Transport,
        ids: &AtomicU64,
    ) -> Result<Ticket, Refusal> {
        let mut session = self.slots[lost.slot].lock().await;
        if session.generation == lost.generation {
            self.lost.fetch_add(1, Ordering::Relaxed);
            session.headers = open_session(transport, ids).await?;
            session.generation += 1;
            self.opened.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Ticket {
            slot: lost.slot,
            generation: session.generation,
            headers: Arc::clone(&session.headers),
        })
    }

    /// Tells the server that the sessions are over. What it does not hear it will expire on its own.
    pub(crate) async fn close(&self, transport: &Transport) {
        for slot in &self.slots {
            let headers = Arc::clone(&slot.lock().await.headers);
            if headers.contains_key(protocol::SESSION_ID) && transport.end_session((*headers).clone()).await.is_err() {
                return;
            }
        }
    }

    /// How many sessions were opened, the first ones included.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// How many times the server did not know a session.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

async fn open_session(transport: &Transport, ids: &AtomicU64) -> Result<Arc<HeaderMap>, Refusal> {
    let id = ids.fetch_add(1, Ordering::Relaxed);
    let (headers, body) = protocol::initialize(id);
    let answer = transport.request(headers, body, id).await.answer?;
    let headers = protocol::session_headers(answer.session, &answer.message);
    transport.notify(headers.clone(), protocol::initialized()).await?;
    Ok(Arc::new(headers))
}
