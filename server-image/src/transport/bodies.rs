//! How much memory the bodies of requests may take before anyone knows what they ask for.
//!
//! One body is bounded by the endpoint; this bounds all of them together, by what has arrived and not by what is
//! announced, so that announcing much costs others nothing. Bodies of up to [`SMALL`] bytes do not count: the number of
//! connections bounds them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::response::Response;
use http::header::{CONTENT_LENGTH, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use serde_json::Value;

use crate::auth::refusal::refused;
use crate::metrics::at_scrape;

/// Memory for the bodies of all requests, in bytes.
pub(super) const BUDGET: usize = 64 * 1024 * 1024;
/// A body of this announced length, in bytes, fits into a connection's first reads.
const SMALL: u64 = 8 * 1024;
/// Bodies come and go within a second.
const RETRY_SECONDS: u32 = 1;

/// The memory of one server process.
#[derive(Debug, Default)]
pub(super) struct Budget {
    used: AtomicUsize,
    refused: Counter,
}

impl Budget {
    pub(super) fn new(registry: &mut Registry) -> Arc<Self> {
        let budget = Arc::<Self>::default();
        let read = Arc::clone(&budget);
        at_scrape::gauge(
            registry,
            "mcp_request_body_bytes",
            "Memory of request bodies above 8 KiB",
            move || u32::try_from(read.used.load(Ordering::Relaxed)).ok().map(f64::from),
        );
        registry.register(
            "mcp_request_bodies_refused",
            "Requests refused because all bodies together take too much memory",
            budget.refused.clone(),
        );
        budget
    }

    /// The body of a request, counted if it may be large; the share must be kept until the request is answered.
    pub(super) fn count(self: &Arc<Self>, headers: &HeaderMap, body: Incoming) -> (Body, Option<Arc<Share>>) {
        let announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if body.is_end_stream() || announced.is_some_and(|length| length <= SMALL) {
            return (Body::new(body), None);
        }
        let share = Arc::new(Share {
            budget: Arc::clone(self),
            held: AtomicUsize::new(0),
            exceeded: AtomicBool::new(false),
        });
        let counted = Counted {
            body,
            share: Arc::clone(&share),
        };
        (Body::new(counted), Some(share))
    }
}

/// What one request has of the budget; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    held: AtomicUsize,
    exceeded: AtomicBool,
}

impl Share {
    fn take(&self, bytes: usize) -> Result<(), OutOfMemory> {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        if self.budget.used.fetch_add(bytes, Ordering::Relaxed) + bytes <= BUDGET {
            return Ok(());
        }
        if !self.exceeded.swap(true, Ordering::Relaxed) {
            self.budget.refused.inc();
        }
        Err(OutOfMemory)
    }

    /// The answer, or, if the body did not fit, the one that says so.
    pub(super) fn judge(&self, response: Response) -> Response {
        if !self.exceeded.load(Ordering::Relaxed) {
            return response;
        }
        let message = OutOfMemory.to_string();
        let mut response = refused(
            StatusCode::SERVICE_UNAVAILABLE,
            "bodies_too_large",
            &message,
            &Value::Null,
        );
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
        response
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(*self.held.get_mut(), Ordering::Relaxed);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the requests that are arriving take too much memory together; try again in {RETRY_SECONDS} s")]
struct OutOfMemory;

struct Counted {
    body: Incoming,
    share: Arc<Share>,
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        Pin::new(&mut self.body).poll_frame(context).map(|frame| {
            Some(match frame? {
                Ok(frame) => match self.share.take(frame.data_ref().map_or(0, Bytes::len)) {
                    Ok(()) => Ok(frame),
                    Err(error) => Err(error.into()),
                },
                Err(error) => Err(error.into()),
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
