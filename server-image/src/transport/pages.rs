//! What browsers ask for before a page of another origin may use a server, and read its answers (the Fetch standard's CORS
//! protocol). Whether the page may is the matter of `--allowed-origins`; a request of any other page is refused later on.

use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::Request;
use futures::future::Either;
use http::header::{ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Method, Response};
use tower::{Layer, Service};
use tower_http::cors::{AllowHeaders, AllowOrigin, Cors, CorsLayer};

use crate::mcp::{OriginPolicy, SESSION_ID};
use crate::telemetry::REQUEST_ID;

/// How long a browser may remember what it was told; none remembers longer than two hours.
const REMEMBERED: Duration = Duration::from_hours(2);

/// Tells browsers what pages of allowed origins may do.
#[derive(Debug, Clone)]
pub(crate) struct PagesLayer(CorsLayer);

impl PagesLayer {
    pub(crate) fn new(origins: OriginPolicy) -> Self {
        let allowed = AllowOrigin::predicate(move |origin, _| origins.allows(origin));
        // Credentials are headers that the page itself sets, never cookies, so any header may come.
        let cors = CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::POST, Method::DELETE])
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers([SESSION_ID, REQUEST_ID, RETRY_AFTER, WWW_AUTHENTICATE])
            .max_age(REMEMBERED);
        Self(cors)
    }
}

impl<S: Clone> Layer<S> for PagesLayer {
    type Service = Pages<S>;

    fn layer(&self, inner: S) -> Pages<S> {
        Pages {
            others: inner.clone(),
            pages: self.0.layer(inner),
        }
    }
}

/// What [`PagesLayer`] makes of a service.
#[derive(Debug, Clone)]
pub(crate) struct Pages<S> {
    /// For all that is not sent by a page, which must not pay for what pages need.
    others: S,
    pages: Cors<S>,
}

impl<S, B> Service<Request> for Pages<S>
where
    S: Service<Request, Response = Response<B>>,
    B: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, <Cors<S> as Service<Request>>::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // Either may be called next.
        match (self.others.poll_ready(context)?, self.pages.poll_ready(context)?) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if request.headers().contains_key(ORIGIN) {
            Either::Right(self.pages.call(request))
        } else {
            Either::Left(self.others.call(request))
        }
    }
}
