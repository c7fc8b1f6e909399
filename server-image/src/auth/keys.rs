//! The identity provider's keys, and how they change.
//!
//! - Keys are fetched at the start, again every hour, and at once when a token names a key that is not known, so that a
//!   rotation is noticed with the first token that needs it.
//! - Requests never start more than one fetch at a time, nor one within [`PAUSE`] of the last, whatever tokens they
//!   bring. A key that was not there after a fetch is taken as unknown for [`UNKNOWN`].
//! - When the provider cannot be reached, the keys stay as they were, however old.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jsonwebtoken::jwk::{Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use quick_cache::sync::Cache;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::issuer::{FetchError, Issuer};
use super::metrics::AuthMetrics;

/// Time between two fetches without a reason (the registry gateway's JWKS cache of 1 h).
const HOURLY: Duration = Duration::from_hours(1);
/// Time between two fetches for tokens that name an unknown key.
pub const PAUSE: Duration = Duration::from_secs(10);
/// A key that the provider does not have is not asked for again for this long.
pub const UNKNOWN: Duration = Duration::from_mins(1);
/// Unknown keys that are remembered.
const UNKNOWN_MAX: usize = 1000;
/// Longest name of a key, in bytes.
const KEY_ID_MAX: usize = 256;
/// First and longest pause between two attempts to get the first keys.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// One key.
pub struct Key {
    /// What verifies.
    pub decoding: DecodingKey,
    algorithm: Option<Algorithm>,
}

impl Key {
    fn of(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        let signs = common
            .public_key_use
            .as_ref()
            .is_none_or(|usage| *usage == PublicKeyUse::Signature)
            && common
                .key_operations
                .as_ref()
                .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        let algorithm = match common.key_algorithm {
            None => None,
            Some(algorithm) => Some(Algorithm::try_from(algorithm).ok()?),
        };
        let decoding = DecodingKey::from_jwk(jwk).ok().filter(|_| signs)?;
        // A shared secret in a public document is no secret.
        (decoding.family() != jsonwebtoken::AlgorithmFamily::Hmac).then_some(Self { decoding, algorithm })
    }

    /// Whether a signature of `algorithm` can be by this key.
    #[must_use]
    pub fn is_for(&self, algorithm: Algorithm) -> bool {
        self.decoding.family() == algorithm.family() && self.algorithm.is_none_or(|only| only == algorithm)
    }
}

/// The keys of one fetch.
#[derive(Default)]
pub struct KeySet {
    by_id: HashMap<String, Vec<Key>>,
    nameless: Vec<Key>,
    /// Changes whenever the keys do.
    pub generation: u64,
    source: Vec<Jwk>,
}

impl KeySet {
    fn new(source: Vec<Jwk>, generation: u64) -> Self {
        let mut set = Self {
            generation,
            ..Self::default()
        };
        for (jwk, key) in source.iter().filter_map(|jwk| Some((jwk, Key::of(jwk)?))) {
            match &jwk.common.key_id {
                Some(id) => set.by_id.entry(id.clone()).or_default().push(key),
                None => set.nameless.push(key),
            }
        }
        set.source = source;
        set
    }

    /// Keys that a token can be signed with: those of its key id, or, if it names none, all.
    pub fn candidates<'a>(&'a self, id: Option<&str>, algorithm: Algorithm) -> impl Iterator<Item = &'a Key> {
        let named = id.map(|id| self.by_id.get(id).into_iter().flatten());
        let all = id
            .is_none()
            .then(|| self.by_id.values().flatten().chain(&self.nameless));
        let keys = named.into_iter().flatten().chain(all.into_iter().flatten());
        keys.filter(move |key| key.is_for(algorithm))
    }

    fn knows(&self, id: Option<&str>) -> bool {
        id.is_none_or(|id| self.by_id.contains_key(id))
    }

    fn is_empty(&self) -> bool {
        self.by_id.is_empty() && self.nameless.is_empty()
    }
}

/// Why there is no key for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoKey {
    /// The provider has no such key.
    Unknown,
    /// The provider could not be asked.
    Unavailable,
}

/// The keys in force.
pub struct Keys {
    issuer: Issuer,
    current: ArcSwapOption<KeySet>,
    unknown: Cache<String, Instant>,
    /// Whoever holds it fetches; the others wait for the result.
    fetching: Arc<Mutex<LastFetch>>,
    metrics: AuthMetrics,
}

#[derive(Default)]
struct LastFetch {
    started: Option<Instant>,
    succeeded: bool,
}

impl Keys {
    /// No keys yet.
    #[must_use]
    pub fn new(issuer: Issuer, metrics: AuthMetrics) -> Self {
        Self {
            issuer,
            current: ArcSwapOption::empty(),
            unknown: Cache::new(UNKNOWN_MAX),
            fetching: Arc::default(),
            metrics,
        }
    }

    /// The keys at this moment, if there are any.
    pub fn current(&self) -> arc_swap::Guard<Option<Arc<KeySet>>> {
        self.current.load()
    }

    /// Keys among which is `id`; fetches them if need be.
    ///
    /// # Errors
    /// [`NoKey`] when there is no such key, or nobody can say.
    pub async fn with(self: &Arc<Self>, id: Option<&str>) -> Result<Arc<KeySet>, NoKey> {
        if let Some(keys) = self.known(id) {
            return Ok(keys);
        }
        let asked = Instant::now();
        if id.is_some_and(|id| id.len() > KEY_ID_MAX || self.is_known_to_be_unknown(id)) {
            return Err(NoKey::Unknown);
        }
        let mut last = Arc::clone(&self.fetching).lock_owned().await;
        if let Some(keys) = self.known(id) {
            return Ok(keys);
        }
        if last.started.is_none_or(|started| started.elapsed() >= PAUSE) {
            let keys = Arc::clone(self);
            // A task of its own: a client that goes away must not waste the one fetch there is in a while.
            let fetch = tokio::spawn(async move {
                keys.fetch(&mut last).await;
                last
            });
            last = fetch.await.map_err(|_| NoKey::Unavailable)?;
        }
        if let Some(keys) = self.known(id) {
            return Ok(keys);
        }
        if !last.succeeded {
            return Err(NoKey::Unavailable);
        }
        let is_news = last.started.is_some_and(|started| started >= asked);
        if let Some(id) = id.filter(|_| is_news) {
            self.unknown.insert(id.to_owned(), Instant::now());
        }
        Err(NoKey::Unknown)
    }

    fn known(&self, id: Option<&str>) -> Option<Arc<KeySet>> {
        self.current.load_full().filter(|keys| keys.knows(id))
    }

    fn is_known_to_be_unknown(&self, id: &str) -> bool {
        self.unknown.get(id).is_some_and(|since| since.elapsed() < UNKNOWN)
    }

    async fn fetch(&self, last: &mut LastFetch) {
        last.started = Some(Instant::now());
        let fetched = self.issuer.keys().await;
        last.succeeded = match fetched {
            Ok(keys) => self.replace(keys),
            Err(error) => {
                self.keep(&error);
                false
            }
        };
        self.metrics.fetched(last.succeeded);
    }

    /// Whether there is a usable key among `keys`.
    fn replace(&self, keys: Vec<Jwk>) -> bool {
        let current = self.current.load();
        if current.as_ref().is_some_and(|current| current.source == keys) {
            return true;
        }
        let generation = current.as_ref().map_or(1, |current| current.generation + 1);
        let set = KeySet::new(keys, generation);
        if set.is_empty() {
            tracing::error!(
                issuer = self.issuer.name(),
                "none of the identity provider's keys can verify signatures; the keys stay as they were"
            );
            return false;
        }
        tracing::info!(
            issuer = self.issuer.name(),
            keys = set.source.len(),
            "the identity provider's keys changed"
        );
        self.current.store(Some(Arc::new(set)));
        true
    }

    fn keep(&self, error: &FetchError) {
        let have = self.current.load().is_some();
        tracing::warn!(
            %error,
            issuer = self.issuer.name(),
            "the identity provider's keys could not be fetched; {}",
            if have { "going on with those there are" } else { "no token can be verified until they are" }
        );
    }

    /// Keeps the keys fresh. Runs until it is dropped.
    pub async fn maintain(&self) {
        let mut pause = RETRY_FIRST;
        loop {
            let succeeded = {
                let mut last = self.fetching.lock().await;
                self.fetch(&mut last).await;
                last.succeeded
            };
            if succeeded {
                pause = RETRY_FIRST;
                sleep(HOURLY).await;
            } else {
                sleep(pause).await;
                pause = (pause * 2).min(RETRY_LONGEST);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(keys: Vec<Value>) -> KeySet {
        KeySet::new(
            keys.into_iter()
                .map(|key| serde_json::from_value(key).unwrap())
                .collect(),
            1,
        )
    }

    /// A public document with an RSA key for encryption, a shared secret, and a signing key: only the last may let
    /// anyone in. Who can choose the algorithm must not be able to choose the kind of key.
    #[test]
    fn only_public_signing_keys_count() {
        let rsa = |extra: Value| {
            let mut key = json!({"kty": "RSA", "n": "sXch", "e": "AQAB"});
            key.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            key
        };
        let keys = set(vec![
            rsa(json!({"kid": "signs", "use": "sig", "alg": "RS256"})),
            rsa(json!({"kid": "any"})),
            rsa(json!({"kid": "encrypts", "use": "enc"})),
            rsa(json!({"kid": "signs-only", "key_ops": ["sign"]})),
            rsa(json!({"kid": "oaep", "alg": "RSA-OAEP"})),
            json!({"kty": "oct", "kid": "secret", "k": "c2VjcmV0"}),
            json!({"kty": "EC", "crv": "P-256", "kid": "curve", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}),
        ]);
        for (id, algorithm, count) in [
            (Some("signs"), Algorithm::RS256, 1),
            (Some("signs"), Algorithm::RS512, 0),
            (Some("signs"), Algorithm::HS256, 0),
            (Some("any"), Algorithm::PS384, 1),
            (Some("encrypts"), Algorithm::RS256, 0),
            (Some("signs-only"), Algorithm::RS256, 0),
            (Some("oaep"), Algorithm::RS256, 0),
            (Some("secret"), Algorithm::HS256, 0),
            (Some("curve"), Algorithm::ES256, 1),
            (Some("curve"), Algorithm::RS256, 0),
            (Some("gone"), Algorithm::RS256, 0),
            (None, Algorithm::RS256, 2),
            (None, Algorithm::ES256, 1),
        ] {
            assert_eq!(keys.candidates(id, algorithm).count(), count, "{id:?} {algorithm:?}");
        }
    }
}
