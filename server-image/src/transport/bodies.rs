//! How much memory the bodies of requests may take before anyone knows what they ask for.
//!
//! One body is bounded by the endpoint; this bounds all of them together, by what has arrived and not by what is
//! announced, so that announcing much costs others nothing. Bodies of up to [`SMALL`] bytes do not count: the number of
//! connections bounds them.
//!
//! What a subscription asks for is kept as long as its stream is open, which may be for ever: it moves to a budget of
//! its own, so that open streams never leave calls without room.
//!
//! What counts is not a body's length, but what its message takes when it is parsed: an array of two million zeros is
//! 4 MB long and takes 400.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use http::header::CONTENT_LENGTH;
use http::{Extensions, HeaderMap};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use memchr::memchr2;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use crate::memory;
use crate::metrics::at_scrape;

/// Most memory for the bodies of all requests, in bytes.
const BUDGET: usize = 64 * 1024 * 1024;
/// Bodies of open streams get this part of it, besides.
const PART_KEPT: usize = 4;
/// Where the container has a limit, they get no more than this part of it.
const PART_OF_LIMIT: u64 = 4;
/// A body of this announced length, in bytes, fits into a connection's first reads.
const SMALL: u64 = 8 * 1024;
/// What a subscription may take without being counted: a few dozen resources, on as many connections as there may be.
const KEPT_FREE: usize = 16 * 1024;
/// The header in which clients of subscriptions name their method.
const METHOD: &str = "mcp-method";
const LISTEN: &str = "subscriptions/listen";
/// What a value in an array or a map takes when it is parsed, in bytes: the value, room for more of them, and a key.
const VALUE: usize = 256;
/// What a map takes beside its values, in bytes.
const MAP: usize = 1024;
/// After how many seconds there is room again: bodies come and go within a second.
pub(crate) const RETRY_SECONDS: u32 = 1;

/// The memory of one server process.
#[derive(Debug)]
pub(super) struct Budget {
    most: usize,
    used: AtomicUsize,
    /// Of open streams.
    kept: AtomicUsize,
    refused: Counter,
}

impl Budget {
    pub(super) fn new(registry: &mut Registry) -> Arc<Self> {
        let budget = Arc::new(Self {
            most: most(memory::limit()),
            used: AtomicUsize::new(0),
            kept: AtomicUsize::new(0),
            refused: Counter::default(),
        });
        let read = Arc::clone(&budget);
        at_scrape::gauge(
            registry,
            "mcp_request_body_bytes",
            "Memory of request bodies above 8 KiB, and of what is parsed from them",
            move || u32::try_from(read.used.load(Ordering::Relaxed)).ok().map(f64::from),
        );
        let read = Arc::clone(&budget);
        at_scrape::gauge(
            registry,
            "mcp_subscription_body_bytes",
            "Memory of what open subscriptions asked for, of those that take more than 16 KiB",
            move || u32::try_from(read.kept.load(Ordering::Relaxed)).ok().map(f64::from),
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
        // What is kept is weighed, however short it is: others come and go.
        let is_kept = headers.get(METHOD).is_some_and(|method| method == LISTEN);
        if body.is_end_stream() || !is_kept && announced.is_some_and(|length| length <= SMALL) {
            return (Body::new(body), None);
        }
        let share = Arc::new(Share {
            budget: Arc::clone(self),
            held: AtomicUsize::new(0),
            is_kept: AtomicBool::new(false),
        });
        let counted = Counted {
            body,
            scale: Scale::default(),
            share: Arc::clone(&share),
        };
        (Body::new(counted), Some(share))
    }
}

/// Memory for the bodies of all requests in a container with this limit.
fn most(limit: Option<u64>) -> usize {
    let part = limit.and_then(|limit| usize::try_from(limit / PART_OF_LIMIT).ok());
    part.map_or(BUDGET, |part| part.min(BUDGET))
}

/// What one request has of the budget; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    held: AtomicUsize,
    /// Whether it is of an open stream.
    is_kept: AtomicBool,
}

impl Share {
    fn take(&self, bytes: usize) -> Result<(), OutOfMemory> {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        if self.budget.used.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.budget.most {
            return Ok(());
        }
        self.budget.refused.inc();
        if self.held.load(Ordering::Relaxed) > self.budget.most {
            return Err(OutOfMemory::TooManyValues);
        }
        Err(OutOfMemory::TooManyBodies)
    }

    /// Moves it, when all of the body has arrived, to what open streams keep; whether there is room.
    fn keep(&self) -> bool {
        let held = self.held.load(Ordering::Relaxed);
        if self.is_kept.swap(true, Ordering::Relaxed) {
            return true;
        }
        self.budget.used.fetch_sub(held, Ordering::Relaxed);
        if held <= KEPT_FREE {
            self.held.store(0, Ordering::Relaxed);
            return true;
        }
        let has_room = self.budget.kept.fetch_add(held, Ordering::Relaxed) + held <= self.budget.most / PART_KEPT;
        if !has_room {
            self.budget.refused.inc();
        }
        has_room
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let counter = if *self.is_kept.get_mut() {
            &self.budget.kept
        } else {
            &self.budget.used
        };
        counter.fetch_sub(*self.held.get_mut(), Ordering::Relaxed);
    }
}

/// How a request knows its share; what keeps the request for longer than its answer takes must not keep the share.
#[derive(Debug, Clone)]
pub(super) struct BodyShare(pub(super) Weak<Share>);

/// Notes that the body of this request is kept for as long as a stream is open; whether there is room for it.
pub(crate) fn keep_body(request: &Extensions) -> bool {
    let share = request.get::<BodyShare>().and_then(|share| share.0.upgrade());
    share.is_none_or(|share| share.keep())
}

/// What a message of JSON takes in memory, in bytes: at least its length.
pub(crate) fn weight(body: &[u8]) -> usize {
    Scale::default().weigh(body)
}

/// A body that is not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OutOfMemory {
    /// It alone is more than the budget.
    #[error("the values in the request take too much memory; send fewer of them at once")]
    TooManyValues,
    /// There is no room now.
    #[error("the requests that are arriving take too much memory together; try again in {RETRY_SECONDS} s")]
    TooManyBodies,
}

/// Weighs a message of JSON as it arrives, part by part.
#[derive(Debug, Default)]
struct Scale {
    in_text: bool,
    is_escaped: bool,
}

impl Scale {
    /// What `part` will take in memory, in bytes: at least its length.
    fn weigh(&mut self, part: &[u8]) -> usize {
        let mut weight = part.len();
        let mut rest = part;
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            if std::mem::take(&mut self.is_escaped) {
                continue;
            }
            match byte {
                b'"' => self.in_text = !self.in_text,
                b'\\' => self.is_escaped = self.in_text,
                b',' if !self.in_text => weight += VALUE,
                b'{' if !self.in_text => weight += MAP,
                _ => {}
            }
            if self.in_text && !self.is_escaped {
                // Texts are long, and nothing in them counts.
                rest = &rest[memchr2(b'"', b'\\', rest).unwrap_or(rest.len())..];
            }
        }
        weight
    }
}

struct Counted {
    body: Incoming,
    scale: Scale,
    share: Arc<Share>,
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let this = &mut *self;
        Pin::new(&mut this.body).poll_frame(context).map(|frame| {
            Some(match frame? {
                Ok(frame) => {
                    let weight = frame.data_ref().map_or(0, |part| this.scale.weigh(part));
                    this.share.take(weight).map(|()| frame).map_err(Into::into)
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn share(budget: &Arc<Budget>, bytes: usize) -> Share {
        let share = Share {
            budget: Arc::clone(budget),
            held: AtomicUsize::new(0),
            is_kept: AtomicBool::new(false),
        };
        share.take(bytes).unwrap();
        share
    }

    /// Streams stay open for as long as their clients like: calls need room meanwhile, and get it back afterwards.
    #[test]
    fn open_streams_leave_the_room_of_calls_alone() {
        let budget = Budget::new(&mut Registry::default());
        let figures = || (budget.used.load(Ordering::Relaxed), budget.kept.load(Ordering::Relaxed));
        let part = budget.most / PART_KEPT;
        let first = share(&budget, part);
        assert!(first.keep() && first.keep());
        assert_eq!(figures(), (0, part));
        let second = share(&budget, KEPT_FREE + 1);
        assert!(!second.keep(), "there is room for no more");
        let small = share(&budget, KEPT_FREE);
        assert!(small.keep(), "a small one is not counted");
        let call = share(&budget, 3 * part);
        drop((first, second, small));
        assert_eq!(figures(), (3 * part, 0));
        drop(call);
        assert_eq!(figures(), (0, 0));
    }

    /// Bodies that may take more than the container has end the process, with the calls of everybody.
    #[test]
    fn the_budget_is_a_part_of_the_containers_memory() {
        const MIB: u64 = 1024 * 1024;
        for (limit, expected) in [
            (None, 64),
            (Some(1024), 64),
            (Some(256), 64),
            (Some(96), 24),
            (Some(0), 0),
        ] {
            let budget = most(limit.map(|limit| limit * MIB)) as u64;
            assert_eq!(budget, expected * MIB, "{limit:?}");
        }
    }

    /// What is not weighed can take a hundred times its length of memory; texts, which cannot, must not be refused.
    #[test]
    fn values_weigh_what_they_take_and_texts_their_length() {
        for (text, values, maps) in [
            ("[]", 0, 0),
            ("[0,0,0]", 2, 0),
            (r#"[{"a":0},{}]"#, 1, 2),
            (r#"{"text":"{a,b},{c,d}"}"#, 0, 1),
            (r#"{"text":"a \"quoted, {word}\"","b":1}"#, 1, 1),
            (r#"{"text":"lines\n,\n,","b":1}"#, 1, 1),
            (r#"{"text":"it ends with \\","b":1}"#, 1, 1),
            (r"[\,0]", 1, 0),
        ] {
            assert_eq!(
                weight(text.as_bytes()),
                text.len() + values * VALUE + maps * MAP,
                "{text}"
            );
        }
    }

    /// Parts are as long as the network makes them.
    #[test]
    fn parts_weigh_as_much_as_the_whole() {
        let text = r#"{"a":"x,\"y\\","b":[1,{"c":"{"},"\\"],"d":0}"#;
        for length in 1..text.len() {
            let mut scale = Scale::default();
            let parts: usize = text.as_bytes().chunks(length).map(|part| scale.weigh(part)).sum();
            assert_eq!(parts, weight(text.as_bytes()), "parts of {length} bytes");
        }
    }
}
