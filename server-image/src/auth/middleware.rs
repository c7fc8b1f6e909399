//! The part in front of everything: credential in, principal out.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use http::HeaderMap;
use http::request::Parts;
use prometheus_client::registry::Registry;
use serde_json::Value;

use super::api_keys::ApiKeys;
use super::issuer::Issuer;
use super::jwt::Tokens;
use super::keys::Keys;
use super::metadata::Metadata;
use super::metrics::AuthMetrics;
use super::{InvalidAuth, Method, Principal, Refusal, ScopeRules, Settings, credential};
use crate::limits::Failures;
use crate::watch;

/// The authentication of one server process.
pub struct Auth {
    verifier: Verifier,
    rules: ScopeRules,
    metadata: Option<Arc<Metadata>>,
    metrics: AuthMetrics,
    failures: Arc<Failures>,
}

enum Verifier {
    ApiKey(ApiKeys),
    Jwt(Box<Tokens>),
}

impl Auth {
    /// What `settings` ask for; `None` when nobody is authenticated. `path` is that of the MCP endpoint, `tls` whether
    /// the server speaks TLS itself; whoever tries credentials is counted among `failures`.
    ///
    /// # Errors
    /// [`InvalidAuth`] names the flag that cannot be used.
    pub fn open(
        settings: &Settings,
        path: &str,
        tls: bool,
        failures: Arc<Failures>,
        registry: &mut Registry,
    ) -> Result<Option<Arc<Self>>, InvalidAuth> {
        let (metrics, rules) = (AuthMetrics::new(registry), settings.rules.clone());
        let (verifier, metadata) = match &settings.method {
            Method::None => return Ok(None),
            Method::ApiKey { file } => (Verifier::ApiKey(ApiKeys::open(file)?), None),
            Method::Jwt { source, rules: tokens } => {
                let scopes = rules.all().into_iter().map(str::to_owned).collect();
                let metadata = Metadata::new(settings.public_url.as_deref(), path, tls, &source.issuer, scopes)?;
                let keys = Arc::new(Keys::new(Issuer::new(source.clone())?, metrics.clone()));
                (
                    Verifier::Jwt(Box::new(Tokens::new(keys, tokens.clone()))),
                    Some(Arc::new(metadata)),
                )
            }
        };
        let ways_around = rules.ways_around();
        if !ways_around.is_empty() {
            tracing::warn!(
                methods = ways_around.join(","),
                "--tool-scopes has rules for tools and none for these methods, which show or follow what tools show: \
                 what a rule guards as a tool can be read as a resource or a prompt without its scopes; add *=SCOPE, \
                 or METHOD=SCOPE for each of them"
            );
        }
        Ok(Some(Arc::new(Self {
            verifier,
            rules,
            metadata,
            metrics,
            failures,
        })))
    }

    /// Puts authentication in front of `router`.
    pub fn protect(self: &Arc<Self>, router: Router) -> Router {
        router.layer(from_fn_with_state(Arc::clone(self), authenticate))
    }

    /// The metadata, which is for everybody.
    pub fn metadata_router(&self) -> Router {
        let metadata = self.metadata.as_ref();
        metadata.map_or_else(Router::new, |metadata| Arc::clone(metadata).router())
    }

    /// Keeps keys fresh. Runs until it is dropped.
    pub async fn maintain(self: Arc<Self>) {
        match &self.verifier {
            Verifier::ApiKey(keys) => {
                watch::files(&[keys.path().to_owned()], || {
                    if let Err(error) = keys.reload() {
                        tracing::error!(%error, "the API keys stay as they were");
                    }
                })
                .await;
            }
            Verifier::Jwt(tokens) => tokens.keys().maintain().await,
        }
    }

    /// Whether there is anything to verify credentials with; true for ever once it is.
    #[must_use]
    pub fn can_verify(&self) -> bool {
        match &self.verifier {
            Verifier::ApiKey(_) => true,
            Verifier::Jwt(tokens) => tokens.keys().current().is_some(),
        }
    }

    /// Whether scopes differ between tools.
    #[must_use]
    pub fn knows_tools(&self) -> bool {
        self.rules.know_tools()
    }

    /// Lets an authenticated request do one thing: see [`ScopeRules::allow`].
    ///
    /// # Errors
    /// [`Refusal::InsufficientScope`], or [`Refusal::Missing`] for a request that was not authenticated.
    pub fn allow(&self, request: &Parts, method: &str, tool: &str) -> Result<(), Refusal> {
        let principal = request.extensions.get::<Arc<Principal>>().ok_or(Refusal::Missing)?;
        self.rules.allow(principal, method, tool)
    }

    /// The answer to a request that may not pass, counted. `id` is the JSON-RPC request's.
    #[must_use]
    pub fn refuse(&self, headers: &HeaderMap, refusal: &Refusal, id: &Value) -> Response {
        self.metrics.refused(refusal.reason());
        self.answer(headers, refusal, id)
    }

    fn answer(&self, headers: &HeaderMap, refusal: &Refusal, id: &Value) -> Response {
        let metadata = self.metadata.as_ref().and_then(|metadata| metadata.url(headers));
        refusal.answer(metadata.as_deref(), self.rules.of_every_request(), id)
    }

    async fn verify(&self, request: &mut Request) -> Result<Arc<Principal>, Refusal> {
        let uri = request.uri().clone();
        let credential = match self.verifier {
            Verifier::ApiKey(_) => credential::take_api_key(request.headers_mut(), &uri)?,
            Verifier::Jwt(_) => credential::take_bearer(request.headers_mut(), &uri)?,
        };
        let credential = credential.ok_or(Refusal::Missing)?;
        let principal = match &self.verifier {
            Verifier::ApiKey(keys) => keys.verify(credential.as_bytes())?,
            Verifier::Jwt(tokens) => tokens.verify(credential.to_str().unwrap_or_default()).await?,
        };
        self.rules.admit(&principal)?;
        Ok(principal)
    }
}

async fn authenticate(State(auth): State<Arc<Auth>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    match auth.verify(&mut request).await {
        Ok(principal) => {
            auth.metrics.verified("valid", started.elapsed());
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(refusal) => {
            match refusal {
                // There was nothing to verify, and no time counts as fast.
                Refusal::Missing | Refusal::Malformed(_) => auth.metrics.refused(refusal.reason()),
                _ => auth.metrics.verified(refusal.reason(), started.elapsed()),
            }
            tracing::debug!(reason = refusal.reason(), %refusal, "a request was refused");
            if matches!(refusal, Refusal::Forged(_))
                && let Err(limited) = auth.failures.count(request.extensions(), request.headers())
            {
                return limited.answer();
            }
            auth.answer(request.headers(), &refusal, &Value::Null)
        }
    }
}
