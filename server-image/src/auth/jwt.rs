//! Tokens of an identity provider.
//!
//! A token passes when it is signed by one of the provider's keys with an algorithm of the list, names this issuer and
//! this audience, has a subject, and is in its time, give or take the leeway. What a token says about how to verify it
//! (`jku`, `jwk`, `x5u`, `x5c`) is never followed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::keys::{KeySet, Keys, NoKey};
use super::verdicts::{TokenHash, Verdict, Verdicts};
use super::{Principal, Refusal};

/// Algorithms of tokens: all that need no shared secret.
pub const ALGORITHMS: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// Keys that are tried on a token that names none.
const TRIES_MAX: usize = 8;
/// Types of tokens that give access; `logout+jwt` and others are signed by the same keys.
const TYPES: &[&str] = &["jwt", "at+jwt", "application/jwt", "application/at+jwt"];

const NOT_A_JWT: &str = "the token is not a JWT";
const UNKNOWN_KEY: &str = "the token is signed by a key that the identity provider does not have";
const WRONG_SIGNATURE: &str = "the signature of the token is wrong";

/// Which tokens pass.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The issuer, exactly as tokens name it.
    pub issuer: String,
    /// Names of this server; a token must be for one of them. At least one.
    pub audience: Vec<String>,
    /// How far clocks may be apart: 0 to 300 s.
    pub leeway: Duration,
    /// Claims whose values become scopes: texts with spaces between, or lists of texts.
    pub scope_claims: Vec<String>,
}

#[derive(Deserialize)]
struct Claims {
    /// A text, never a list: a list would be a token of several issuers.
    #[serde(rename = "iss")]
    _issuer: String,
    sub: String,
    /// Seconds since 1970; some providers write fractions.
    exp: f64,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// The check of tokens.
pub struct Tokens {
    keys: Arc<Keys>,
    rules: Rules,
    validation: Validation,
    verdicts: Verdicts,
}

impl Tokens {
    /// Tokens that pass `rules` and are signed by one of `keys`.
    #[must_use]
    pub fn new(keys: Arc<Keys>, rules: Rules) -> Self {
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_issuer(&[&rules.issuer]);
        validation.set_audience(&rules.audience);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = rules.leeway.as_secs();
        Self {
            keys,
            rules,
            validation,
            verdicts: Verdicts::default(),
        }
    }

    /// The provider's keys.
    #[must_use]
    pub const fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] and [`Refusal::Forged`] say what is wrong with it; [`Refusal::Unavailable`] when the
    /// provider would have to be asked and cannot be.
    pub async fn verify(&self, token: &str) -> Result<Arc<Principal>, Refusal> {
        let hash = TokenHash::of(token);
        if let Some(verdict) = self.remembered(&hash) {
            return verdict.map_err(refusal);
        }
        let header = decode_header(token).map_err(|_| Refusal::Forged(NOT_A_JWT))?;
        check_header(&header).map_err(Refusal::Invalid)?;
        let keys = self
            .keys
            .with(header.kid.as_deref())
            .await
            .map_err(|missing| match missing {
                NoKey::Unknown => Refusal::Invalid(UNKNOWN_KEY),
                NoKey::Unavailable => Refusal::Unavailable("the identity provider does not answer"),
            })?;
        match self.check(token, &header, &keys) {
            Ok((principal, left)) => {
                self.verdicts
                    .put(hash, &Ok(Arc::clone(&principal)), left, Instant::now(), keys.generation);
                Ok(principal)
            }
            Err(wrong) => {
                // One that is early becomes valid by itself; whatever else is wrong stays wrong.
                if wrong.stays {
                    self.verdicts
                        .put(hash, &Err(wrong.why), Duration::ZERO, Instant::now(), keys.generation);
                }
                Err(refusal(wrong.why))
            }
        }
    }

    fn remembered(&self, hash: &TokenHash) -> Option<Verdict> {
        let generation = self.keys.current().as_ref()?.generation;
        self.verdicts.get(hash, Instant::now(), generation)
    }

    /// The caller, and how much longer the token lives.
    fn check(&self, token: &str, header: &Header, keys: &KeySet) -> Result<(Arc<Principal>, Duration), Wrong> {
        let mut validation = self.validation.clone();
        validation.algorithms = vec![header.alg];
        let mut wrong = Wrong::for_good("none of the identity provider's keys is for the token's algorithm");
        for key in keys.candidates(header.kid.as_deref(), header.alg).take(TRIES_MAX) {
            match decode::<Claims>(token, &key.decoding, &validation) {
                Ok(token) => return self.caller(&token.claims),
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {
                    wrong = Wrong::for_good(WRONG_SIGNATURE);
                }
                Err(error) => return Err(Wrong::from(&error)),
            }
        }
        Err(wrong)
    }

    fn caller(&self, claims: &Claims) -> Result<(Arc<Principal>, Duration), Wrong> {
        let scopes = self
            .rules
            .scope_claims
            .iter()
            .filter_map(|name| claims.others.get(name));
        let scopes: BTreeSet<String> = scopes.flat_map(words).map(str::to_owned).collect();
        let principal = Principal::new(&claims.sub, scopes).ok_or_else(|| {
            Wrong::for_good("the token's subject is empty, longer than 256 bytes, or has control characters")
        })?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = Duration::try_from_secs_f64(claims.exp - now.as_secs_f64()).unwrap_or_default();
        Ok((Arc::new(principal), left))
    }
}

/// What the provider signed was valid once, or somewhere; what it did not sign, never.
fn refusal(why: &'static str) -> Refusal {
    if [NOT_A_JWT, WRONG_SIGNATURE].contains(&why) {
        Refusal::Forged(why)
    } else {
        Refusal::Invalid(why)
    }
}

fn check_header(header: &Header) -> Result<(), &'static str> {
    if !ALGORITHMS.contains(&header.alg) {
        return Err("the token's algorithm is not one that this server takes");
    }
    if header.crit.is_some() {
        return Err("the token has critical extensions, and this server knows none");
    }
    let known = |found: &String| TYPES.iter().any(|known| found.eq_ignore_ascii_case(known));
    if !header.typ.as_ref().is_none_or(known) {
        return Err("the token is of a type that gives no access");
    }
    Ok(())
}

fn words(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => text.split_ascii_whitespace().collect(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// What is wrong with a token.
struct Wrong {
    why: &'static str,
    /// Whether it will still be wrong in a minute.
    stays: bool,
}

impl Wrong {
    const fn for_good(why: &'static str) -> Self {
        Self { why, stays: true }
    }
}

impl From<&Error> for Wrong {
    fn from(error: &Error) -> Self {
        Self::for_good(match error.kind() {
            ErrorKind::ImmatureSignature => {
                return Self {
                    why: "the token is not valid yet",
                    stays: false,
                };
            }
            ErrorKind::ExpiredSignature => "the token has expired",
            ErrorKind::InvalidAudience => "the token is for another audience",
            ErrorKind::InvalidIssuer => "the token is by another issuer",
            ErrorKind::MissingRequiredClaim(_) => "the token lacks one of the claims exp, iss, aud and sub",
            ErrorKind::InvalidSignature => WRONG_SIGNATURE,
            ErrorKind::Json(_) => "the claims of the token are not what they should be",
            _ => NOT_A_JWT,
        })
    }
}
