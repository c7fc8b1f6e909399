//! The body of an answer, with what must happen when it ends.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Bytes;
use http::StatusCode;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, sleep_until};

use super::record::Record;
use crate::drain::OpenRequest;

/// A body that tells the record when it is complete, keeps the request open for the drain until then, and may be cut
/// short.
pub(super) struct Answer {
    inner: BoxBody<Bytes, Infallible>,
    record: Option<(Arc<Record>, StatusCode)>,
    open: Option<OpenRequest>,
    cut: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Answer {
    /// The answer to a message that holds no slot.
    pub(super) fn of_message(inner: BoxBody<Bytes, Infallible>, open: OpenRequest) -> Self {
        Self::new(inner, None, Some(open), None)
    }

    /// The answer to a request that holds a slot. An event stream is cut at `deadline`: without that, one whose answer
    /// never comes, as when a client uses the same id for two requests at once, would hold its slot for ever.
    pub(super) fn of_request(
        inner: BoxBody<Bytes, Infallible>,
        record: Arc<Record>,
        status: StatusCode,
        open: OpenRequest,
        deadline: Instant,
    ) -> Self {
        let is_stream = inner.size_hint().exact().is_none();
        let cut = is_stream.then(|| Box::pin(sleep_until(deadline)) as Pin<Box<_>>);
        Self::new(inner, Some((record, status)), Some(open), cut)
    }

    fn new(
        inner: BoxBody<Bytes, Infallible>,
        record: Option<(Arc<Record>, StatusCode)>,
        open: Option<OpenRequest>,
        cut: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    ) -> Self {
        let mut answer = Self {
            inner,
            record,
            open,
            cut,
        };
        // An empty body is never asked for frames.
        if answer.inner.is_end_stream() {
            answer.finish();
        }
        answer
    }

    fn finish(&mut self) {
        if let Some((record, status)) = self.record.take() {
            record.complete(status);
        }
        self.open = None;
    }

    fn is_cut(&mut self, context: &mut Context<'_>) -> bool {
        let cut = self
            .cut
            .as_mut()
            .is_some_and(|cut| cut.as_mut().poll(context).is_ready());
        if cut && let Some((record, _)) = self.record.take() {
            record.timed_out();
        }
        cut
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        match &polled {
            Poll::Ready(None) => self.finish(),
            Poll::Ready(Some(_)) if self.inner.is_end_stream() => self.finish(),
            Poll::Pending if self.is_cut(context) => return Poll::Ready(None),
            Poll::Ready(Some(_)) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
