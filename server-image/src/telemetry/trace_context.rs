//! The caller's place in a trace, as W3C Trace Context says it: `traceparent` in the HTTP header, or in the request's
//! `_meta`, which survives proxies that speak MCP.

use http::HeaderMap;
use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Name of the header, and of the key of `_meta`.
const TRACEPARENT: &str = "traceparent";

/// A caller's place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; never 0.
    pub trace_id: u128,
    /// The caller's span; never 0.
    pub span_id: u64,
    /// Whether the caller records its part.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads `version-trace_id-parent_id-flags`; `None` when it is not valid, as the standard demands.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let (version, trace_id) = (hex(parts.next()?, 2)?, hex(parts.next()?, 32)?);
        let (span_id, flags) = (hex(parts.next()?, 16)?, hex(parts.next()?, 2)?);
        // Later versions may add parts; the first one may not.
        let valid = version != 0xff && (version != 0 || parts.next().is_none()) && trace_id != 0 && span_id != 0;
        valid.then_some(Self {
            trace_id,
            span_id: u64::try_from(span_id).ok()?,
            sampled: flags & 1 == 1,
        })
    }

    /// The context in a JSON string.
    #[must_use]
    pub fn of_json(value: &RawValue) -> Option<Self> {
        Self::parse(&serde_json::from_str::<String>(value.get()).ok()?)
    }

    /// The context in the HTTP header.
    #[must_use]
    pub fn of_headers(headers: &HeaderMap) -> Option<Self> {
        Self::parse(headers.get(TRACEPARENT)?.to_str().ok()?)
    }
}

/// `length` lower-case hexadecimal digits.
fn hex(text: &str, length: usize) -> Option<u128> {
    let digits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let valid = text.len() == length && text.bytes().all(digits);
    valid.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    params: Option<Params<'a>>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow, rename = "_meta")]
    meta: Option<Meta<'a>>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow)]
    traceparent: Option<&'a RawValue>,
}

/// The context in `params._meta` of a JSON-RPC request. Looks closer only when the word is there at all.
#[must_use]
pub fn carried_in(body: &[u8]) -> Option<TraceContext> {
    memmem::find(body, TRACEPARENT.as_bytes())?;
    let message: Message<'_> = serde_json::from_slice(body).ok()?;
    TraceContext::of_json(message.params?.meta?.traceparent?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// A context that is taken wrongly would put a request into somebody else's trace.
    #[test]
    fn only_valid_contexts_are_taken() {
        let sampled = TraceContext {
            trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span_id: 0xb7ad_6b71_6920_3331,
            sampled: true,
        };
        let not_sampled = TraceContext {
            sampled: false,
            ..sampled
        };
        for (name, text, expected) in [
            ("valid", VALID, Some(sampled)),
            (
                "not sampled",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
                Some(not_sampled),
            ),
            (
                "later version",
                "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
                Some(sampled),
            ),
            (
                "more in the first version",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
                None,
            ),
            (
                "forbidden version",
                "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                None,
            ),
            (
                "no trace",
                "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                None,
            ),
            (
                "no span",
                "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
                None,
            ),
            (
                "upper case",
                "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
                None,
            ),
            ("short", "00-0af7-b7ad6b7169203331-01", None),
            ("signs", "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("empty", "", None),
        ] {
            assert_eq!(TraceContext::parse(text), expected, "{name}");
        }
    }

    /// A client behind a gateway has only `_meta`; whatever else it sends must not stop its request.
    #[test]
    fn contexts_are_found_in_meta() {
        let valid =
            format!(r#"{{"method":"tools/call","params":{{"name":"x","_meta":{{"a":1,"traceparent":"{VALID}"}}}}}}"#);
        assert_eq!(carried_in(valid.as_bytes()), TraceContext::parse(VALID));
        for body in [
            r#"{"params":{"_meta":{"traceparent":7}}}"#,
            r#"{"params":{"_meta":{"traceparent":null}}}"#,
            r#"{"params":{"_meta":"traceparent"}}"#,
            r#"{"params":["traceparent"]}"#,
            r#"{"params":{"arguments":{"_meta":{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}}}"#,
            "traceparent",
            "{}",
        ] {
            assert_eq!(carried_in(body.as_bytes()), None, "{body}");
        }
    }
}
