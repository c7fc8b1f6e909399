//! Proof that a request to the admin port comes from the operator, for this pod, now, and once.
//!
//! A pod's address may belong to another pod a second later, and what travels the network may be recorded. So each
//! request that changes something carries two headers:
//!
//! | header | value |
//! |---|---|
//! | `mcpscale-time` | milliseconds since 1970-01-01T00:00:00Z, decimal |
//! | `mcpscale-signature` | `v1=` and the lower-case hexadecimal HMAC-SHA-256 of the canonical text |
//!
//! The canonical text is these lines, each ended by a line feed, the last one too:
//!
//! ```text
//! mcpscale-tuning-v1, or mcpscale-invalidation-v1 for POST /cache/invalidate
//! PUT, or POST
//! <pod UID, as in metadata.uid>
//! <value of mcpscale-time>
//! <lower-case hexadecimal SHA-256 of the body>
//! ```
//!
//! So what was signed for one purpose is worth nothing for another. The key is the content of the key file without
//! white space around it, as bytes; it is not decoded. The pod's UID is `MCP_POD_UID`. The time may differ from the
//! pod's clock by at most [`CLOCK_SKEW`], and must be later than that of the last request that was accepted for the
//! same purpose, so that a recorded request cannot undo a later one.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

/// Header with the time of a request.
pub const TIME_HEADER: &str = "mcpscale-time";
/// Header with the signature of a request.
pub const SIGNATURE_HEADER: &str = "mcpscale-signature";
/// How far the clocks of operator and pod may differ.
pub const CLOCK_SKEW: Duration = Duration::from_secs(30);
/// Fewest bytes of a key: half of what HMAC-SHA-256 can use.
pub const KEY_MIN: usize = 16;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `PUT /tuning`.
    Tuning,
    /// `POST /cache/invalidate`.
    Invalidation,
}

impl Purpose {
    /// The first lines of the canonical text.
    const fn begin(self) -> &'static str {
        match self {
            Self::Tuning => "mcpscale-tuning-v1\nPUT",
            Self::Invalidation => "mcpscale-invalidation-v1\nPOST",
        }
    }
}

const SCHEME: &str = "v1=";

/// Why a request is not believed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// A header is missing or not in the form it must have.
    #[error("the header {0} is missing or malformed: see the server's documentation of signed requests")]
    Header(&'static str),
    /// The request is too old, or from the future.
    #[error(
        "the request's time is {0} ms away from this server's clock; at most {allowed} ms are allowed",
        allowed = CLOCK_SKEW.as_millis()
    )]
    Time(u64),
    /// The signature is not the one of this request for this pod with this key.
    #[error("the signature does not match: the key, the pod UID, the time or the body is another one")]
    Signature,
    /// A later request has been accepted already.
    #[error("a request of the same or a later time has been accepted already")]
    Repeated,
}

/// The signature of a request, as the header carries it.
///
/// # Errors
/// [`Refused::Signature`] for a key that HMAC cannot use, which no key is.
pub fn sign(purpose: Purpose, key: &[u8], pod_uid: &str, time: &str, body: &[u8]) -> Result<String, Refused> {
    let digest = mac(purpose, key, pod_uid, time, body)?.finalize().into_bytes();
    Ok(format!("{SCHEME}{}", hex::encode(digest)))
}

/// Checks the signature of a request that arrives at `now`; the time it was signed, in milliseconds since 1970, must
/// be after `last`. Returns that time.
///
/// # Errors
/// [`Refused`] says what is wrong.
pub fn verify(
    purpose: Purpose,
    headers: &HeaderMap,
    key: &[u8],
    pod_uid: &str,
    body: &[u8],
    now: Timestamp,
    last: Option<i64>,
) -> Result<i64, Refused> {
    let time = header(headers, TIME_HEADER)?;
    let signature = header(headers, SIGNATURE_HEADER)?;
    let given = signature
        .strip_prefix(SCHEME)
        .and_then(|digits| hex::decode(digits).ok())
        .ok_or(Refused::Header(SIGNATURE_HEADER))?;
    let signed: i64 = time.parse().map_err(|_| Refused::Header(TIME_HEADER))?;
    // Compares in constant time; and first, so that nobody learns anything else without the key.
    mac(purpose, key, pod_uid, time, body)?
        .verify_slice(&given)
        .map_err(|_| Refused::Signature)?;
    let away = now.as_millisecond().abs_diff(signed);
    if u128::from(away) > CLOCK_SKEW.as_millis() {
        return Err(Refused::Time(away));
    }
    if last.is_some_and(|last| signed <= last) {
        return Err(Refused::Repeated);
    }
    Ok(signed)
}

fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, Refused> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .ok_or(Refused::Header(name))
}

/// HMAC takes keys of any length; were one ever too long or too short, nothing would match.
fn mac(purpose: Purpose, key: &[u8], pod_uid: &str, time: &str, body: &[u8]) -> Result<Hmac<Sha256>, Refused> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| Refused::Signature)?;
    let body = hex::encode(Sha256::digest(body));
    let begin = purpose.begin();
    mac.update(format!("{begin}\n{pod_uid}\n{time}\n{body}\n").as_bytes());
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
    const UID: &str = "6f2b1d0e-0000-4000-8000-000000000001";
    const NOW: i64 = 1_795_000_000_000;

    fn request(time: &str, signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(TIME_HEADER, time.parse().unwrap());
        headers.insert(SIGNATURE_HEADER, signature.parse().unwrap());
        headers
    }

    fn check(headers: &HeaderMap, body: &[u8], last: Option<i64>) -> Result<i64, Refused> {
        let now = Timestamp::from_millisecond(NOW).unwrap();
        verify(Purpose::Tuning, headers, KEY, UID, body, now, last)
    }

    /// Whoever can raise a pool can take the database down: only the operator, for this pod, now, and once.
    #[test]
    fn only_a_fresh_request_of_the_operator_for_this_pod_is_believed() {
        let body = br#"{"pool":{"max":20}}"#;
        let time = NOW.to_string();
        let good = sign(Purpose::Tuning, KEY, UID, &time, body).unwrap();
        assert_eq!(check(&request(&time, &good), body, None), Ok(NOW));
        assert_eq!(check(&request(&time, &good), body, Some(NOW - 1)), Ok(NOW));
        let old = (NOW - 30_001).to_string();
        let future = (NOW + 30_001).to_string();
        for (name, headers, body, last, expected) in [
            (
                "other body",
                request(&time, &good),
                &b"{}"[..],
                None,
                Refused::Signature,
            ),
            (
                "other key",
                request(
                    &time,
                    &sign(Purpose::Tuning, b"fedcba9876543210", UID, &time, body).unwrap(),
                ),
                body,
                None,
                Refused::Signature,
            ),
            (
                "other pod",
                request(&time, &sign(Purpose::Tuning, KEY, "another", &time, body).unwrap()),
                body,
                None,
                Refused::Signature,
            ),
            (
                "signed for another purpose",
                request(&time, &sign(Purpose::Invalidation, KEY, UID, &time, body).unwrap()),
                body,
                None,
                Refused::Signature,
            ),
            (
                "time changed on the way",
                request(&(NOW + 1).to_string(), &good),
                body,
                None,
                Refused::Signature,
            ),
            (
                "old",
                request(&old, &sign(Purpose::Tuning, KEY, UID, &old, body).unwrap()),
                body,
                None,
                Refused::Time(30_001),
            ),
            (
                "from the future",
                request(&future, &sign(Purpose::Tuning, KEY, UID, &future, body).unwrap()),
                body,
                None,
                Refused::Time(30_001),
            ),
            ("again", request(&time, &good), body, Some(NOW), Refused::Repeated),
            (
                "no scheme",
                request(&time, good.trim_start_matches("v1=")),
                body,
                None,
                Refused::Header(SIGNATURE_HEADER),
            ),
            (
                "not hexadecimal",
                request(&time, "v1=zz"),
                body,
                None,
                Refused::Header(SIGNATURE_HEADER),
            ),
            (
                "cut off",
                request(&time, &good[..good.len() - 2]),
                body,
                None,
                Refused::Signature,
            ),
            ("no headers", HeaderMap::new(), body, None, Refused::Header(TIME_HEADER)),
        ] {
            assert_eq!(check(&headers, body, last), Err(expected), "{name}");
        }
    }

    /// The operator signs with code of its own: this fixed value is what both must compute.
    #[test]
    fn the_canonical_text_is_as_documented() {
        let text = format!(
            "mcpscale-tuning-v1\nPUT\n{UID}\n{NOW}\n{}\n",
            "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        );
        let mut mac = Hmac::<Sha256>::new_from_slice(KEY).unwrap();
        mac.update(text.as_bytes());
        let expected = format!("v1={}", hex::encode(mac.finalize().into_bytes()));
        assert_eq!(sign(Purpose::Tuning, KEY, UID, &NOW.to_string(), b"{}"), Ok(expected));
    }
}
