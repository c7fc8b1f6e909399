//! Answers to requests that may not pass.

use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::header::{CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::scopes::Scopes;

/// JSON-RPC code of refusals: the first of those that JSON-RPC leaves to servers. `data.reason` tells them apart.
pub const RPC_CODE: i32 = -32000;
/// After this many seconds a caller may ask again when the identity provider could not be reached.
const RETRY_SECONDS: u32 = 5;

/// Why a request may not pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It carries no credential.
    #[error("this server asks for a credential: send it as `Authorization: Bearer <token>`")]
    Missing,
    /// Its credential can be read in more than one way, or in none.
    #[error("{0}")]
    Malformed(&'static str),
    /// Its credential is not valid.
    #[error("{0}")]
    Invalid(&'static str),
    /// Its credential was never valid: somebody may be trying.
    #[error("{0}")]
    Forged(&'static str),
    /// The caller is known, and may not do this.
    #[error("this needs the scopes: {needed}")]
    InsufficientScope {
        /// All that is needed.
        needed: Scopes,
    },
    /// The credential could not be checked.
    #[error("the credential cannot be checked now: {0}")]
    Unavailable(&'static str),
}

impl Refusal {
    /// Value of the label `result`, and of `data.reason`.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed(_) => "malformed",
            Self::Invalid(_) | Self::Forged(_) => "invalid",
            Self::InsufficientScope { .. } => "insufficient_scope",
            Self::Unavailable(_) => "unavailable",
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Missing | Self::Invalid(_) | Self::Forged(_) => StatusCode::UNAUTHORIZED,
            Self::InsufficientScope { .. } => StatusCode::FORBIDDEN,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The code of RFC 6750 section 3.1. A request without any credential gets none: it may not have known.
    const fn oauth_error(&self) -> Option<&'static str> {
        match self {
            Self::Malformed(_) => Some("invalid_request"),
            Self::Invalid(_) | Self::Forged(_) => Some("invalid_token"),
            Self::InsufficientScope { .. } => Some("insufficient_scope"),
            Self::Missing | Self::Unavailable(_) => None,
        }
    }

    /// The answer. `metadata` is where the client learns whom to ask for a token, `scopes` what to ask for; `id` is the
    /// JSON-RPC request's, null where it is not known.
    #[must_use]
    pub fn answer(&self, metadata: Option<&str>, scopes: &Scopes, id: &Value) -> Response {
        let mut response = refused(self.status(), self.reason(), &self.to_string(), id);
        let headers = response.headers_mut();
        if matches!(self, Self::Unavailable(_)) {
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
        } else if let Ok(challenge) = HeaderValue::from_str(&self.challenge(metadata, scopes)) {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }

    fn challenge(&self, metadata: Option<&str>, scopes: &Scopes) -> String {
        let scopes = match self {
            Self::InsufficientScope { needed } => needed,
            _ => scopes,
        };
        let scopes = (!scopes.is_empty()).then(|| scopes.to_string());
        let description = self.oauth_error().map(|_| self.to_string());
        let parameters = [
            ("error", self.oauth_error()),
            ("error_description", description.as_deref()),
            ("scope", scopes.as_deref()),
            ("resource_metadata", metadata),
        ];
        let parameters: Vec<String> = parameters
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name}=\"{}\"", quotable(value?))))
            .collect();
        if parameters.is_empty() {
            return "Bearer realm=\"mcp\"".to_owned();
        }
        format!("Bearer {}", parameters.join(", "))
    }
}

/// What a refusal says, in the extensions of its answer: for whoever words it for clients of another kind.
#[derive(Debug, Clone)]
pub struct Refused(pub String);

/// An answer that refuses a JSON-RPC request.
#[must_use]
pub fn refused(status: StatusCode, reason: &str, message: &str, id: &Value) -> Response {
    refused_with(RPC_CODE, status, reason, message, id)
}

/// The same, with a JSON-RPC code that says more.
#[must_use]
pub fn refused_with(code: i32, status: StatusCode, reason: &str, message: &str, id: &Value) -> Response {
    let error = json!({"code": code, "message": message, "data": {"reason": reason}});
    let body = Json(json!({"jsonrpc": "2.0", "id": id, "error": error}));
    let said = Extension(Refused(message.to_owned()));
    (status, [(CACHE_CONTROL, "no-store")], said, body).into_response()
}

/// The same, with the number of seconds after which the request may pass.
#[must_use]
pub fn refused_for(seconds: u64, status: StatusCode, reason: &str, message: &str, id: &Value) -> Response {
    let mut response = refused(status, reason, message, id);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// What RFC 6750 allows between the quotes of a parameter.
fn quotable(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '"' | '`' => '\'',
            '\\' => '/',
            ' '..='~' => character,
            _ => '?',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client decides by these headers whether to log in, to ask for more rights, or to try again.
    #[test]
    fn each_refusal_says_what_to_do_next() {
        let (none, some) = (Scopes::default(), "mcp:read mcp:write".parse::<Scopes>().unwrap());
        let metadata = Some("https://a/.well-known/oauth-protected-resource/mcp");
        let needed = || "admin".parse().unwrap();
        for (name, refusal, metadata, scopes, status, challenge) in [
            (
                "no credential",
                Refusal::Missing,
                metadata,
                &some,
                401,
                Some(
                    r#"Bearer scope="mcp:read mcp:write", resource_metadata="https://a/.well-known/oauth-protected-resource/mcp""#,
                ),
            ),
            (
                "no credential, API keys",
                Refusal::Missing,
                None,
                &none,
                401,
                Some(r#"Bearer realm="mcp""#),
            ),
            (
                "expired",
                Refusal::Invalid("the \"token\" has expired"),
                None,
                &none,
                401,
                Some(r#"Bearer error="invalid_token", error_description="the 'token' has expired""#),
            ),
            (
                "not enough rights",
                Refusal::InsufficientScope { needed: needed() },
                None,
                &some,
                403,
                Some(
                    r#"Bearer error="insufficient_scope", error_description="this needs the scopes: admin", scope="admin""#,
                ),
            ),
            (
                "identity provider away",
                Refusal::Unavailable("x"),
                metadata,
                &none,
                503,
                None,
            ),
        ] {
            let response = refusal.answer(metadata, scopes, &Value::Null);
            assert_eq!(response.status(), status, "{name}");
            let found = response
                .headers()
                .get(WWW_AUTHENTICATE)
                .map(|value| value.to_str().unwrap());
            assert_eq!(found, challenge, "{name}");
            assert_eq!(response.headers().contains_key(RETRY_AFTER), status == 503, "{name}");
        }
    }
}
