//! How long a connection may be silent, by what it is doing.
//!
//! hyper's own limit for headers also closes connections that merely wait for their next request, which breaks the
//! proxies that keep them; so silence is judged here, where the two can be told apart:
//! - the first request must have begun, and each that has begun must have its headers complete, within [`HEADERS`];
//! - between two requests a connection may be silent for [`IDLE`], longer than proxies and clients keep theirs;
//! - while a request is served there is no limit here: bodies, calls and streams have limits of their own;
//! - a client that does not take what is sent to it is given up after [`WRITE`].
//!
//! hyper may not read at all between two requests, if it did while it served the first one. So what is silent for
//! [`QUIET`] between two requests is taken from it: [`Patient::next_request`] reads.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Longest time for the headers of a request (the data plane's `client_header_timeout`).
pub(super) const HEADERS: Duration = Duration::from_secs(15);
/// Longest silence between two requests. Proxies keep connections for 60 s, clients for 90 s at most.
pub(super) const IDLE: Duration = Duration::from_mins(5);
/// Silence between two requests after which a connection is taken from hyper: longer than clients that are at work
/// take.
pub(super) const QUIET: Duration = Duration::from_secs(1);
/// Longest time without a byte of progress while there is something to send (the data plane's `send_timeout`).
pub(super) const WRITE: Duration = Duration::from_mins(1);

/// What a connection is doing, told by those who serve its requests.
#[derive(Debug, Default)]
pub(super) struct Activity {
    requests: AtomicU64,
    busy: AtomicBool,
    /// Whether bytes have come since the last request ended.
    arriving: AtomicBool,
    /// Whether there is something to send that the client does not take.
    sending: AtomicBool,
}

impl Activity {
    /// The headers of a request are complete; it is being served until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.busy.store(true, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// After which request the connection is silent, if it waits for another one.
    pub(super) fn waiting(&self) -> Option<u64> {
        let is_at_work = [&self.busy, &self.arriving, &self.sending]
            .iter()
            .any(|flag| flag.load(Ordering::Relaxed));
        let requests = self.requests.load(Ordering::Relaxed);
        (requests > 0 && !is_at_work).then_some(requests)
    }
}

/// A request that is being served. HTTP/1.1 serves one at a time.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.arriving.store(false, Ordering::Relaxed);
        self.0.busy.store(false, Ordering::Relaxed);
    }
}

/// A connection with limits on its silence.
pub(super) struct Patient<S> {
    stream: S,
    activity: Arc<Activity>,
    /// What is read before anything else from the stream.
    early: Bytes,
    /// Requests when the phase began.
    requests: u64,
    phase: Phase,
    reading: Alarm,
    writing: Alarm,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// A request is being served.
    Busy,
    /// Silent since then.
    Idle(Instant),
    /// Headers have been arriving since then.
    Headers(Instant),
}

impl<S: AsyncRead + Unpin> Patient<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self {
            stream,
            activity,
            early: Bytes::new(),
            requests: 0,
            // A new connection has something to say.
            phase: Phase::Headers(Instant::now()),
            reading: Alarm::default(),
            writing: Alarm::default(),
        }
    }

    /// Waits for the first bytes of the next request, which are read again then; `false` if the client has closed the
    /// connection. `early` was read of the request before.
    pub(super) async fn next_request(&mut self, early: Bytes) -> io::Result<bool> {
        self.early = early;
        if self.early.is_empty() {
            let mut first = [0];
            if self.read(&mut first).await? == 0 {
                return Ok(false);
            }
            self.early = Bytes::copy_from_slice(&first);
        }
        Ok(true)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.early.is_empty() {
            let length = this.early.len().min(buffer.remaining());
            buffer.put_slice(&this.early.split_to(length));
            this.arrived();
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(context, buffer) {
            this.arrived();
            return Poll::Ready(read);
        }
        let (deadline, why) = match this.look() {
            Phase::Busy => return Poll::Pending,
            Phase::Idle(since) => (since + IDLE, "no request for a long time"),
            Phase::Headers(since) => (since + HEADERS, "the headers of a request did not arrive in time"),
        };
        ready!(this.reading.poll(deadline, context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }
}

impl<S> Patient<S> {
    /// The phase now that there is nothing to read.
    fn look(&mut self) -> Phase {
        let requests = self.activity.requests.load(Ordering::Relaxed);
        let began = std::mem::replace(&mut self.requests, requests) != requests;
        if self.activity.busy.load(Ordering::Relaxed) {
            self.phase = Phase::Busy;
        } else if began || self.phase == Phase::Busy {
            self.phase = Phase::Idle(Instant::now());
        }
        self.phase
    }

    /// Something was read.
    fn arrived(&mut self) {
        if let Phase::Idle(_) = self.look() {
            self.phase = Phase::Headers(Instant::now());
        }
        self.activity.arriving.store(true, Ordering::Relaxed);
    }
}

impl<S: AsyncWrite + Unpin> Patient<S> {
    /// Judges the result of a write: progress stops the alarm, waiting starts it.
    fn written<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.writing.started = None;
            self.activity.sending.store(false, Ordering::Relaxed);
            return written;
        }
        self.activity.sending.store(true, Ordering::Relaxed);
        let started = *self.writing.started.get_or_insert_with(Instant::now);
        ready!(self.writing.poll(started + WRITE, context));
        let why = "the client does not take its answer";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.written(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.stream).poll_shutdown(context);
        self.written(closed, context)
    }
}

/// A timer that is rarely set anew: deadlines move with every request, the timer only when it rings too early or
/// would ring too late.
#[derive(Default)]
pub(super) struct Alarm {
    timer: Option<Pin<Box<Sleep>>>,
    started: Option<Instant>,
}

impl Alarm {
    /// Ready when `deadline` is over.
    pub(super) fn poll(&mut self, deadline: Instant, context: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(context).is_ready() {
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::{sleep, timeout};

    fn pair() -> (Patient<DuplexStream>, DuplexStream, Arc<Activity>) {
        let (near, far) = duplex(64);
        let activity = Arc::<Activity>::default();
        (Patient::new(near, Arc::clone(&activity)), far, activity)
    }

    /// How long until a connection is given up, if it is at all.
    async fn patience(connection: &mut Patient<DuplexStream>) -> Option<Duration> {
        let started = Instant::now();
        let read = timeout(Duration::from_hours(1), connection.read_u8()).await.ok()?;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
        Some(started.elapsed())
    }

    /// A second each way, for timers that ring on whole milliseconds.
    fn is_about(found: Option<Duration>, expected: Duration) -> bool {
        found.is_some_and(|found| found.abs_diff(expected) < Duration::from_secs(1))
    }

    /// Thousands of connections that send nothing, or a byte now and then, must not be held for ever; one that a proxy
    /// keeps for its next request must.
    #[tokio::test(start_paused = true)]
    async fn silence_is_judged_by_what_the_connection_does() {
        let (mut fresh, _far, _) = pair();
        assert!(is_about(patience(&mut fresh).await, HEADERS), "nothing was ever sent");

        let (mut slow, mut far, _) = pair();
        tokio::spawn(async move {
            while far.write_u8(b'G').await.is_ok() {
                sleep(Duration::from_secs(4)).await;
            }
        });
        let started = Instant::now();
        while slow.read_u8().await.is_ok() {}
        assert!(is_about(Some(started.elapsed()), HEADERS), "a byte every four seconds");

        let (mut kept, mut far, activity) = pair();
        far.write_all(b"one").await.unwrap();
        kept.read_exact(&mut [0; 3]).await.unwrap();
        let busy = activity.begin();
        assert_eq!(patience(&mut kept).await, None, "a request is being served");
        drop(busy);
        assert!(
            timeout(Duration::from_secs(299), kept.read_u8()).await.is_err(),
            "between two requests"
        );
        far.write_u8(b'G').await.unwrap();
        kept.read_u8().await.unwrap();
        assert!(
            is_about(patience(&mut kept).await, HEADERS),
            "the second request does not go on"
        );

        let (mut idle, mut far, activity) = pair();
        far.write_all(b"one").await.unwrap();
        idle.read_exact(&mut [0; 3]).await.unwrap();
        drop(activity.begin());
        assert!(is_about(patience(&mut idle).await, IDLE), "no second request");
    }

    /// Only then is a connection taken from hyper: at any other time bytes would be lost.
    #[tokio::test(start_paused = true)]
    async fn a_connection_waits_only_between_two_requests() {
        let (mut connection, mut far, activity) = pair();
        assert!(activity.waiting().is_none(), "before the first request");
        far.write_all(b"one").await.unwrap();
        connection.read_exact(&mut [0; 3]).await.unwrap();
        assert!(activity.waiting().is_none(), "within the headers");
        let busy = activity.begin();
        assert!(activity.waiting().is_none(), "while a request is served");
        let mut sending = pin!(connection.write_all(&[0; 65]));
        assert!(timeout(Duration::from_secs(1), sending.as_mut()).await.is_err());
        drop(busy);
        assert!(activity.waiting().is_none(), "while its answer is sent");
        let mut answer = [0; 65];
        let (sent, read) = tokio::join!(sending, far.read_exact(&mut answer));
        sent.unwrap();
        read.unwrap();
        assert_eq!(activity.waiting(), Some(1), "between two requests");

        far.write_all(b"two").await.unwrap();
        assert!(connection.next_request(Bytes::new()).await.unwrap());
        assert!(activity.waiting().is_none(), "the next request has begun");
        let mut two = [0; 3];
        connection.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"two", "no byte is lost");
        assert!(connection.next_request(Bytes::from_static(b"early")).await.unwrap());
        let mut early = [0; 5];
        connection.read_exact(&mut early).await.unwrap();
        assert_eq!(&early, b"early");
        drop(activity.begin());
        drop(far);
        assert!(!connection.next_request(Bytes::new()).await.unwrap(), "closed");
    }

    /// A client that asks for much and reads nothing holds memory for its answers.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_given_up() {
        let (mut connection, _far, activity) = pair();
        let _busy = activity.begin();
        let started = Instant::now();
        let error = connection.write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(is_about(Some(started.elapsed()), WRITE));

        let (mut connection, mut far, activity) = pair();
        let _busy = activity.begin();
        tokio::spawn(async move {
            while far.read_u8().await.is_ok() {
                sleep(Duration::from_secs(20)).await;
            }
        });
        connection
            .write_all(&[0; 100])
            .await
            .expect("a slow reader makes progress");
    }
}
