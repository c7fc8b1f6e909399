//! Who may call: `--auth none|api-key|jwt`.
//!
//! The middleware stands in front of everything that is served at the MCP address. It verifies the credential of a
//! request, takes it out of the request, so that nothing behind can log it or pass it on, and leaves a [`Principal`] in
//! the request's extensions instead. Probes and metrics have ports of their own and are never asked for credentials.
//!
//! - [`credential`]: which header counts, and what is refused before anything is verified.
//! - [`api_keys`]: keys from a mounted file of hashes.
//! - [`jwt`]: tokens of an identity provider; [`keys`] are its keys and their rotation, [`issuer`] fetches them,
//!   [`verdicts`] remembers which tokens were verified.
//! - [`scopes`]: which scopes a tool needs. [`refusal`]: the answers 400, 401, 403 and 503, as RFC 6750 and RFC 9728
//!   want them. [`metadata`]: where clients learn which identity provider to ask.

pub mod api_keys;
pub mod credential;
pub mod issuer;
pub mod jwt;
pub mod keys;
pub mod metadata;
pub mod metrics;
mod middleware;
pub mod refusal;
pub mod scopes;
pub mod settings;
pub mod verdicts;

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use http::Extensions;
use tokio::time::sleep;

pub use middleware::Auth;
pub use refusal::Refusal;
pub use scopes::ScopeRules;
pub use settings::{InvalidAuth, Method, Settings};

/// Longest name of a caller, in bytes. Names are keys of tables and of rate limits.
pub const SUBJECT_MAX: usize = 256;

/// How long a stream may last whose caller was authenticated. Then its client asks again, with a credential that is still
/// good.
const STREAM_MAX: Duration = Duration::from_mins(15);

/// Resolves when a stream must end whose request has these extensions: never if nobody was authenticated.
pub fn until_asked_again(request: &Extensions) -> impl Future<Output = ()> + Send + use<> {
    let is_authenticated = request.get::<Arc<Principal>>().is_some();
    async move {
        if is_authenticated {
            sleep(STREAM_MAX).await;
        } else {
            pending::<()>().await;
        }
    }
}

/// A caller whose credential was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Who it is: the claim `sub` of a token, or the name of an API key. 1 to 256 bytes, no control characters.
    pub subject: String,
    /// What it may do: scopes and roles of a token, or the scopes of an API key.
    pub scopes: BTreeSet<String>,
}

impl Principal {
    /// A caller; `None` for a name that is empty, too long, or has control characters.
    #[must_use]
    pub fn new(subject: &str, scopes: BTreeSet<String>) -> Option<Self> {
        let fits = (1..=SUBJECT_MAX).contains(&subject.len()) && !subject.chars().any(char::is_control);
        fits.then(|| Self {
            subject: subject.to_owned(),
            scopes,
        })
    }

    /// Bytes that this caller takes in memory, roughly.
    #[must_use]
    pub fn weight(&self) -> usize {
        /// A string's own header and its place in the set.
        const OF_A_SCOPE: usize = 40;
        let scopes: usize = self.scopes.iter().map(|scope| scope.len() + OF_A_SCOPE).sum();
        size_of::<Self>() + self.subject.len() + scopes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, timeout};

    /// A caller whose key was taken away would hear of everything for as long as its connection holds.
    #[tokio::test(start_paused = true)]
    async fn streams_of_those_who_are_authenticated_end() {
        let nobody = Extensions::new();
        let mut somebody = Extensions::new();
        somebody.insert(Arc::new(Principal::new("ann", BTreeSet::new()).unwrap()));
        let begun = Instant::now();
        until_asked_again(&somebody).await;
        assert_eq!(begun.elapsed().as_secs(), 15 * 60);
        let day = Duration::from_hours(24);
        assert!(timeout(day, until_asked_again(&nobody)).await.is_err());
    }
}
