//! One HTTP request, from the first byte to the answer's header.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::Request;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Response};
use pin_project_lite::pin_project;
use tower::{Layer, Service};
use tracing::instrument::Instrumented;
use tracing::{Instrument, Span, error_span};

use super::request_id;
use super::trace_context::TraceContext;
use crate::metrics::agents::ActiveAgents;

/// The header that carries a request's id, both ways.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is known of a request besides what it asks for.
#[derive(Debug)]
pub struct Followed {
    id: HeaderValue,
    context: Option<TraceContext>,
    span: Span,
    agents: ActiveAgents,
}

impl Followed {
    /// The id is the caller's `X-Request-Id` if it is plain, else the trace of its `traceparent`, else a new one.
    #[must_use]
    pub fn new(headers: &HeaderMap, agents: ActiveAgents) -> Self {
        let context = TraceContext::of_headers(headers);
        let given = headers.get(REQUEST_ID).and_then(request_id::sane).cloned();
        let traced = || HeaderValue::from_str(&format!("{:032x}", context?.trace_id)).ok();
        let id = given.or_else(traced).unwrap_or_else(request_id::make);
        // Spans below the log's level are left out of its lines, and no line may be without its request's id.
        let span = error_span!("request", id = %id.to_str().unwrap_or_default());
        Self {
            id,
            context,
            span,
            agents,
        }
    }

    /// Of the request whose extensions these are; a new one if nothing has followed it so far.
    #[must_use]
    pub fn of(extensions: &Extensions, headers: &HeaderMap) -> Arc<Self> {
        let known = extensions.get::<Arc<Self>>().cloned();
        known.unwrap_or_else(|| Arc::new(Self::new(headers, ActiveAgents::default())))
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }

    /// The caller's place in a trace, as the HTTP header says it.
    #[must_use]
    pub const fn context(&self) -> Option<TraceContext> {
        self.context
    }

    /// Notes the agent that the request came from, once that is known.
    pub fn called_by(&self, agent_id: &str) {
        self.agents.called(agent_id);
    }

    /// The span of its lines in the log. Work that another task does for it belongs there too.
    #[must_use]
    pub const fn span(&self) -> &Span {
        &self.span
    }
}

/// Gives each request its id, puts it in every line of the log about it, and in the answer.
#[derive(Debug, Clone)]
pub struct FollowLayer(pub ActiveAgents);

/// What [`FollowLayer`] makes of a service.
#[derive(Debug, Clone)]
pub struct Follow<S> {
    inner: S,
    agents: ActiveAgents,
}

impl<S> Layer<S> for FollowLayer {
    type Service = Follow<S>;

    fn layer(&self, inner: S) -> Follow<S> {
        Follow {
            inner,
            agents: self.0.clone(),
        }
    }
}

impl<S, Body> Service<Request> for Follow<S>
where
    S: Service<Request, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Following<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Following<S::Future> {
        let followed = Arc::new(Followed::new(request.headers(), self.agents.clone()));
        request.extensions_mut().insert(Arc::clone(&followed));
        let answering = followed.span.in_scope(|| self.inner.call(request));
        Following {
            answering: answering.instrument(followed.span.clone()),
            followed,
        }
    }
}

pin_project! {
    /// An answer that will carry its request's id.
    #[derive(Debug)]
    pub struct Following<F> {
        #[pin]
        answering: Instrumented<F>,
        followed: Arc<Followed>,
    }
}

impl<F, Body, Error> Future for Following<F>
where
    F: Future<Output = Result<Response<Body>, Error>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.answering.poll(context).map_ok(|mut response| {
            response.headers_mut().insert(REQUEST_ID, this.followed.id.clone());
            response
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(headers: &[(&'static str, &'static str)]) -> String {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        Followed::new(&headers.collect(), ActiveAgents::default())
            .id()
            .to_owned()
    }

    /// Whoever looks for a request looks for the id that the caller, or the proxy before it, wrote down.
    #[test]
    fn the_callers_id_comes_first() {
        let traceparent = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(id(&[("x-request-id", "abc"), traceparent]), "abc");
        assert_eq!(id(&[traceparent]), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(
            id(&[("x-request-id", "a b"), traceparent]),
            "0af7651916cd43dd8448eb211c80319c"
        );
        let made = id(&[("x-request-id", "a b"), ("traceparent", "x")]);
        assert!(made.len() > 12 && !made.contains(' '), "{made}");
    }
}
