//! Tokens that prove which agent calls: `sct_` and a random UUID, opaque to everybody.
//!
//! The database holds a token's SHA-256 and beside it what the token stands for. What was found there is remembered
//! for [`REMEMBERED`]: a token that is refreshed, which ends the old one, may be accepted for that long at other
//! replicas; at the replica that refreshed it, and after its expiry anywhere, it is refused at once.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::model::{NewToken, TokenClaims, TokenHash};
use super::storage::{Storage, StorageError};
use crate::lock;

/// How long a token is accepted without another look at the database, which bounds how long one that was ended at
/// another replica goes on working.
pub const REMEMBERED: Duration = Duration::from_secs(30);
/// Most tokens remembered; about 300 bytes each.
const REMEMBERED_MAX: usize = 10_000;
/// What each token begins with.
const PREFIX: &str = "sct_";
/// Length of a UUID in text.
const UUID_LENGTH: usize = 36;

/// The tokens of a server. Cheap to clone.
#[derive(Clone)]
pub struct Tokens {
    storage: Arc<dyn Storage>,
    remembered: Arc<Cache<TokenHash, Remembered>>,
    /// Counts refreshes: what was read before one must not be remembered after it.
    refreshes: Arc<Mutex<u64>>,
    /// Life of a new token.
    lifetime: Duration,
}

#[derive(Clone)]
struct Remembered {
    claims: Arc<TokenClaims>,
    until: Instant,
}

/// A token that was just made.
#[derive(Clone)]
pub struct IssuedToken {
    /// The token itself: for the caller, and for nobody else.
    pub token: String,
    /// What it stands for.
    pub claims: TokenClaims,
}

/// Why a token proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It does not look like a token.
    #[error("not a token")]
    Malformed,
    /// There is none like it: never issued, refreshed, or expired.
    #[error("unknown token")]
    Unknown,
    /// It could not be checked.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Tokens {
    /// Tokens kept in `storage`, each for `lifetime`.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, lifetime: Duration) -> Self {
        Self {
            storage,
            remembered: Arc::new(Cache::new(REMEMBERED_MAX)),
            refreshes: Arc::default(),
            lifetime,
        }
    }

    /// Makes a token.
    ///
    /// # Errors
    /// [`StorageError::Database`].
    pub async fn issue(&self, token: NewToken) -> Result<IssuedToken, StorageError> {
        let (text, hash) = new_token();
        let claims = self.storage.issue_token(hash, token, self.lifetime).await?;
        Ok(IssuedToken { token: text, claims })
    }

    /// What a token stands for.
    ///
    /// # Errors
    /// [`TokenError`] when it proves nothing.
    pub async fn check(&self, token: &str) -> Result<Arc<TokenClaims>, TokenError> {
        let hash = hash(token).ok_or(TokenError::Malformed)?;
        if let Some(remembered) = self.remembered.get(&hash)
            && Instant::now() < remembered.until
        {
            return Ok(remembered.claims);
        }
        let refreshes = *lock(&self.refreshes);
        let Some(claims) = self.storage.token_claims(hash).await? else {
            self.remembered.remove(&hash);
            return Err(TokenError::Unknown);
        };
        let claims = Arc::new(claims);
        let latest = lock(&self.refreshes);
        if *latest == refreshes {
            self.remember(hash, &claims);
        }
        drop(latest);
        Ok(claims)
    }

    /// Ends a token and makes another that stands for the same.
    ///
    /// # Errors
    /// [`TokenError`] when the old one proves nothing, as when somebody else has just refreshed it.
    pub async fn refresh(&self, token: &str) -> Result<IssuedToken, TokenError> {
        let old = hash(token).ok_or(TokenError::Malformed)?;
        let (text, new) = new_token();
        let claims = self.storage.replace_token(old, new, self.lifetime).await?;
        let mut refreshes = lock(&self.refreshes);
        *refreshes += 1;
        self.remembered.remove(&old);
        drop(refreshes);
        let claims = claims.ok_or(TokenError::Unknown)?;
        Ok(IssuedToken { token: text, claims })
    }

    fn remember(&self, hash: TokenHash, claims: &Arc<TokenClaims>) {
        let left = claims.expires_at.duration_since(Timestamp::now());
        let left = Duration::try_from(left).unwrap_or_default();
        let remembered = Remembered {
            claims: Arc::clone(claims),
            until: Instant::now() + REMEMBERED.min(left),
        };
        self.remembered.insert(hash, remembered);
    }
}

/// Whether `text` is meant to be one of these tokens.
pub(super) fn looks_like_token(text: &str) -> bool {
    text.starts_with(PREFIX)
}

fn new_token() -> (String, TokenHash) {
    let token = format!("{PREFIX}{}", Uuid::new_v4());
    let hash = sha256(&token);
    (token, hash)
}

/// The hash of what has the form of a token.
fn hash(token: &str) -> Option<TokenHash> {
    let uuid = token.strip_prefix(PREFIX)?;
    let plain = |byte: u8| byte == b'-' || byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (uuid.len() == UUID_LENGTH && uuid.bytes().all(plain)).then(|| sha256(token))
}

fn sha256(token: &str) -> TokenHash {
    TokenHash(Sha256::digest(token.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is no token must not cost a look at the database.
    #[test]
    fn only_what_looks_like_a_token_is_looked_up() {
        let (token, its_hash) = new_token();
        assert_eq!(hash(&token), Some(its_hash));
        for (name, text) in [
            ("empty", String::new()),
            ("prefix alone", "sct_".to_owned()),
            ("upper case", token.to_uppercase()),
            ("too long", format!("{token}0")),
            ("another prefix", token.replace("sct_", "abc_")),
            ("a letter beyond f", format!("{}g", &token[..token.len() - 1])),
        ] {
            assert_eq!(hash(&text), None, "{name}");
        }
    }

    /// Two tokens that are alike would be one agent's proof for another.
    #[test]
    fn tokens_differ() {
        let (a, b) = (new_token(), new_token());
        assert!(a.0 != b.0 && a.1 != b.1);
    }
}
