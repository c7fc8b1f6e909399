//! Which tokens were verified, and with what result, so that a token in use costs one hash instead of one signature.
//!
//! A verdict is kept under the SHA-256 of its token; tokens themselves are never kept. It ends with the token, at most
//! [`VALID_MAX`] after the check, and when the identity provider's keys change. Refused tokens have a table of their
//! own, so that no number of them pushes out one that is in use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use quick_cache::sync::Cache;
use quick_cache::{UnitWeighter, Weighter};

use super::Principal;

/// Longest a verified token is believed without another look.
pub const VALID_MAX: Duration = Duration::from_mins(5);
/// How long a refused token is refused without another look (the registry gateway's 60 s).
pub const INVALID: Duration = Duration::from_mins(1);
/// Memory for verified tokens, in bytes: about 50,000 callers.
const VALID_BYTES: u64 = 16 * 1024 * 1024;
/// Tables are laid out for this many verified tokens.
const VALID_EXPECTED: usize = 10_000;
/// Refused tokens that are remembered; about 1 MiB.
const INVALID_ENTRIES: usize = 10_000;

type Hash = [u8; SHA256_OUTPUT_LEN];

/// A token's name in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash(Hash);

impl TokenHash {
    /// The hash of `token`.
    #[must_use]
    pub fn of(token: &str) -> Self {
        let mut hash = [0; SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(hash)
    }
}

/// What is known of a token: whose it is, or why it is refused.
pub type Verdict = Result<Arc<Principal>, &'static str>;

#[derive(Clone)]
struct Kept<T> {
    what: T,
    until: Instant,
    generation: u64,
}

impl<T> Kept<T> {
    fn if_fresh(self, now: Instant, generation: u64) -> Option<T> {
        (now < self.until && generation == self.generation).then_some(self.what)
    }
}

#[derive(Clone)]
struct Bytes;

impl Weighter<TokenHash, Kept<Arc<Principal>>> for Bytes {
    fn weight(&self, _: &TokenHash, kept: &Kept<Arc<Principal>>) -> u64 {
        /// The table's own share of an entry, measured on the generous side.
        const OF_THE_TABLE: usize = 64;
        let bytes = OF_THE_TABLE + size_of::<TokenHash>() + size_of::<Kept<Arc<Principal>>>() + kept.what.weight();
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// The verdicts of one server process.
pub struct Verdicts {
    valid: Cache<TokenHash, Kept<Arc<Principal>>, Bytes>,
    invalid: Cache<TokenHash, Kept<&'static str>, UnitWeighter>,
}

impl Default for Verdicts {
    fn default() -> Self {
        Self {
            valid: Cache::with_weighter(VALID_EXPECTED, VALID_BYTES, Bytes),
            invalid: Cache::new(INVALID_ENTRIES),
        }
    }
}

impl Verdicts {
    /// What is known of a token at `now`, with the keys of `generation`.
    #[must_use]
    pub fn get(&self, token: &TokenHash, now: Instant, generation: u64) -> Option<Verdict> {
        if let Some(principal) = self.valid.get(token).and_then(|kept| kept.if_fresh(now, generation)) {
            return Some(Ok(principal));
        }
        let refused = self.invalid.get(token).and_then(|kept| kept.if_fresh(now, generation));
        refused.map(Err)
    }

    /// Remembers a verdict; `left` is the rest of a valid token's life.
    pub fn put(&self, token: TokenHash, verdict: &Verdict, left: Duration, now: Instant, generation: u64) {
        match verdict {
            Ok(principal) => {
                let what = Arc::clone(principal);
                let until = now + left.min(VALID_MAX);
                self.valid.insert(
                    token,
                    Kept {
                        what,
                        until,
                        generation,
                    },
                );
            }
            Err(reason) => {
                let until = now + INVALID;
                self.invalid.insert(
                    token,
                    Kept {
                        what: *reason,
                        until,
                        generation,
                    },
                );
            }
        }
    }

    /// Memory that verified tokens take, in bytes.
    #[must_use]
    pub fn valid_bytes(&self) -> u64 {
        self.valid.weight()
    }

    /// Verified and refused tokens that are remembered.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.valid.len(), self.invalid.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn principal(subject: &str) -> Arc<Principal> {
        Arc::new(Principal::new(subject, BTreeSet::new()).unwrap())
    }

    /// A verdict that outlives its token, its keys or five minutes lets in who should be out.
    #[test]
    fn verdicts_end() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let (valid, invalid): (Verdict, Verdict) = (Ok(principal("a")), Err("bad"));
        for (name, verdict, left, life) in [
            ("short token", &valid, 10 * second, 10),
            ("long token", &valid, 3600 * second, 300),
            ("refused token", &invalid, Duration::ZERO, 60),
        ] {
            let verdicts = Verdicts::default();
            let hash = TokenHash::of(name);
            verdicts.put(hash, verdict, left, start, 7);
            let at = |seconds: u32| verdicts.get(&hash, start + second * seconds, 7);
            assert_eq!((at(life - 1).as_ref(), at(life)), (Some(verdict), None), "{name}");
            assert_eq!(verdicts.get(&hash, start, 8), None, "{name}: the keys changed");
            assert_eq!(verdicts.get(&TokenHash::of("other"), start, 7), None, "{name}");
        }
    }

    /// Tokens are the callers' choice: no number of them may fill the memory, and bad ones push nobody out.
    #[test]
    fn memory_is_bounded() {
        let (verdicts, now) = (Verdicts::default(), Instant::now());
        let used = TokenHash::of("in use");
        verdicts.put(used, &Ok(principal("in use")), VALID_MAX, now, 1);
        for number in 0..3 * INVALID_ENTRIES {
            verdicts.put(TokenHash::of(&number.to_string()), &Err("bad"), Duration::ZERO, now, 1);
        }
        assert!(verdicts.get(&used, now, 1).is_some());
        assert!(verdicts.counts().1 <= INVALID_ENTRIES);
        let scopes = (0..100).map(|number| format!("{number:0200}")).collect();
        let large = Arc::new(Principal::new("large", scopes).unwrap());
        for number in 0..3000 {
            verdicts.put(
                TokenHash::of(&number.to_string()),
                &Ok(Arc::clone(&large)),
                VALID_MAX,
                now,
                1,
            );
        }
        assert!(
            verdicts.valid_bytes() <= VALID_BYTES && verdicts.counts().0 < 1000,
            "{:?}",
            verdicts.counts()
        );
    }
}
