//! Which part of a request is its credential, decided before anything is verified.
//!
//! Whatever could be read in two ways is refused: two `Authorization` headers, of which a proxy in front may have
//! checked the other one; a token in the URL, where it would be in everybody's logs.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::Refusal;

/// Longest credential, in bytes. Tokens of identity providers with many groups reach 8 KiB.
pub const CREDENTIAL_MAX: usize = 16 * 1024;
/// Names of query parameters that carry credentials elsewhere (RFC 6750 section 2.3 and custom).
const IN_THE_QUERY: &[&str] = &[
    "access_token",
    "api_key",
    "apikey",
    "api-key",
    "x-api-key",
    "token",
    "auth_token",
];
/// Header of an API key.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Takes the token out of `Authorization: Bearer`; `None` if there is no such header.
///
/// # Errors
/// [`Refusal::Malformed`] for whatever is ambiguous, and a scheme other than `Bearer`.
pub fn take_bearer(headers: &mut HeaderMap, uri: &Uri) -> Result<Option<HeaderValue>, Refusal> {
    refuse_query(uri)?;
    let Some(value) = take_only(headers, &AUTHORIZATION, "there is more than one Authorization header")? else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refusal::Malformed("the Authorization header must be `Bearer <token>`"));
    }
    let token = token.trim_start_matches(' ');
    if token.is_empty() || !token.bytes().all(is_token_byte) {
        return Err(Refusal::Malformed(
            "the token after Bearer is empty or has characters that no token has",
        ));
    }
    HeaderValue::from_str(token)
        .map(Some)
        .map_err(|_| Refusal::Malformed("the Authorization header has characters that no token has"))
}

/// Takes an API key out of `X-API-Key`, or, if there is none, out of `Authorization: Bearer`. With `X-API-Key` the
/// other header is left alone: it then is the token of an agent, which the toolset knows.
///
/// # Errors
/// [`Refusal::Malformed`] as for [`take_bearer`].
pub fn take_api_key(headers: &mut HeaderMap, uri: &Uri) -> Result<Option<HeaderValue>, Refusal> {
    refuse_query(uri)?;
    match take_only(headers, &API_KEY, "there is more than one X-API-Key header")? {
        Some(key) => Ok(Some(key)),
        None => take_bearer(headers, uri),
    }
}

fn take_only(headers: &mut HeaderMap, name: &HeaderName, twice: &'static str) -> Result<Option<HeaderValue>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let (first, second) = (values.next(), values.next());
    if second.is_some() {
        return Err(Refusal::Malformed(twice));
    }
    if first.is_some_and(|value| value.len() > CREDENTIAL_MAX) {
        return Err(Refusal::Malformed("the credential is longer than 16 KiB"));
    }
    Ok(headers.remove(name))
}

fn refuse_query(uri: &Uri) -> Result<(), Refusal> {
    let mut names = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .map(|pair| pair.split('=').next().unwrap_or(pair));
    if names.any(|name| IN_THE_QUERY.iter().any(|known| name.eq_ignore_ascii_case(known))) {
        return Err(Refusal::Malformed(
            "a credential must not be in the URL, where logs keep it: send it as a header, and replace this one",
        ));
    }
    Ok(())
}

/// What RFC 6750 calls a `b68token`.
const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    type Case<'a> = (
        &'a str,
        &'a [(&'static str, &'a str)],
        &'a str,
        Result<Option<&'a str>, ()>,
    );

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    /// A request that two readers understand differently is how a check gets bypassed.
    #[test]
    fn one_clear_credential_or_none() {
        let long = format!("Bearer {}", "a".repeat(CREDENTIAL_MAX));
        let cases: &[Case] = &[
            ("none", &[], "/mcp", Ok(None)),
            (
                "bearer",
                &[("authorization", "Bearer a.b-c_d")],
                "/mcp",
                Ok(Some("a.b-c_d")),
            ),
            (
                "case of the scheme",
                &[("authorization", "bEARER x")],
                "/mcp",
                Ok(Some("x")),
            ),
            (
                "spaces between",
                &[("authorization", "Bearer   x")],
                "/mcp",
                Ok(Some("x")),
            ),
            (
                "harmless query",
                &[("authorization", "Bearer x")],
                "/mcp?a=token",
                Ok(Some("x")),
            ),
            (
                "twice",
                &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
                "/mcp",
                Err(()),
            ),
            ("two tokens", &[("authorization", "Bearer a b")], "/mcp", Err(())),
            (
                "joined by a proxy",
                &[("authorization", "Bearer a, Bearer b")],
                "/mcp",
                Err(()),
            ),
            ("other scheme", &[("authorization", "Basic dTpw")], "/mcp", Err(())),
            ("no token", &[("authorization", "Bearer")], "/mcp", Err(())),
            ("empty token", &[("authorization", "Bearer ")], "/mcp", Err(())),
            ("too long", &[("authorization", &long)], "/mcp", Err(())),
            ("in the URL", &[], "/mcp?access_token=x", Err(())),
            ("in the URL, other case", &[], "/mcp?x=1&API_KEY=x", Err(())),
            (
                "in both",
                &[("authorization", "Bearer a")],
                "/mcp?access_token=a",
                Err(()),
            ),
        ];
        for (name, pairs, uri, expected) in cases {
            let mut headers = headers(pairs);
            let found = take_bearer(&mut headers, &uri.parse().unwrap());
            let found = found.map(|value| value.map(|value| value.to_str().unwrap().to_owned()));
            assert_eq!(
                found.map_err(drop),
                expected.map(|token| token.map(str::to_owned)),
                "{name}"
            );
        }
    }

    /// An agent's own token travels beside the key of the program that runs it.
    #[test]
    fn a_key_leaves_the_agents_token_alone() {
        let uri = Uri::from_static("/mcp");
        let mut both = headers(&[("x-api-key", "key"), ("authorization", "Bearer sct_1")]);
        assert_eq!(take_api_key(&mut both, &uri).unwrap().unwrap(), "key");
        assert_eq!(both["authorization"], "Bearer sct_1");
        assert!(!both.contains_key("x-api-key"), "nothing behind can see the key");
        let mut bearer = headers(&[("authorization", "Bearer key")]);
        assert_eq!(take_api_key(&mut bearer, &uri).unwrap().unwrap(), "key");
        assert!(bearer.is_empty());
        assert!(take_api_key(&mut headers(&[("x-api-key", "a"), ("x-api-key", "a")]), &uri).is_err());
    }
}
