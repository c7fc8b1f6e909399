//! Ids of requests.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;
use uuid::Uuid;

/// Longest id that is taken from a caller.
const LONGEST: usize = 128;

/// The start of every id made here: it tells replicas and restarts apart.
static PROCESS: LazyLock<String> = LazyLock::new(|| {
    let mut random = Uuid::new_v4().simple().to_string();
    random.truncate(12);
    random
});
static NEXT: AtomicU64 = AtomicU64::new(1);

/// An id that no other request has.
pub(super) fn make() -> HeaderValue {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let id = [PROCESS.as_str(), "-", &hex::encode(number.to_be_bytes())].concat();
    HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("none"))
}

/// The caller's own id, if it can be repeated in logs and headers without harm: 1 to 128 letters, digits and `-_.:/+=`.
pub(super) fn sane(given: &HeaderValue) -> Option<&HeaderValue> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
    let bytes = given.as_bytes();
    ((1..=LONGEST).contains(&bytes.len()) && bytes.iter().all(plain)).then_some(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An id that could hold anything would let a caller forge lines of the log.
    #[test]
    fn only_plain_ids_are_taken() {
        let long = "a".repeat(128);
        let longer = "a".repeat(129);
        for (given, expected) in [
            ("7f3a-9_x.y:z/+=", true),
            (long.as_str(), true),
            (longer.as_str(), false),
            ("", false),
            ("a b", false),
            ("a\tb", false),
            ("a\"}", false),
            ("a\u{1b}[2J", false),
        ] {
            let Ok(value) = HeaderValue::from_str(given) else {
                continue;
            };
            assert_eq!(sane(&value).is_some(), expected, "{given:?}");
        }
    }

    #[test]
    fn no_two_ids_are_the_same() {
        assert_ne!(make(), make());
        assert!(sane(&make()).is_some());
    }
}
