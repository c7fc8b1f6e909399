//! Asks the identity provider for its keys.

use std::time::Duration;

use http::{StatusCode, Uri};
use jsonwebtoken::jwk::Jwk;
use reqwest::{Certificate, Client, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Longest time to reach the identity provider.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest time for one of its documents. There are at most three, so a fetch ends within 12 s.
const DOCUMENT: Duration = Duration::from_secs(4);
/// Largest document, in bytes.
const DOCUMENT_MAX: usize = 1024 * 1024;
/// Most keys; providers have two or three.
const KEYS_MAX: usize = 100;

/// Which identity provider, and how it is reached.
#[derive(Debug, Clone)]
pub struct Source {
    /// The issuer, exactly as its tokens name it.
    pub issuer: String,
    /// Where its keys are; `None` to ask its discovery document.
    pub jwks_url: Option<String>,
    /// Certificates to trust besides the system's, as PEM.
    pub extra_roots: Vec<u8>,
    /// Whether it may be asked without TLS. Anyone on the way could then let anyone in.
    pub allow_http: bool,
}

/// An identity provider that cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSource {
    /// An address cannot be used.
    #[error("{flag}: `{url}` {problem}")]
    Url {
        /// The flag that sets it, or the field of the document that names it.
        flag: &'static str,
        /// The address.
        url: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The certificates cannot be read.
    #[error("--oidc-ca-file: {0}")]
    Roots(String),
}

/// Why the keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No answer.
    #[error("{url}: {cause}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why there is no answer.
        cause: String,
    },
    /// An answer other than 200.
    #[error("{url} answers {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The answer.
        status: StatusCode,
    },
    /// Not what it should be.
    #[error("{url}: {problem}")]
    Content {
        /// What was asked for.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// Its address of keys cannot be used.
    #[error(transparent)]
    Source(#[from] InvalidSource),
}

/// The way to an identity provider.
#[derive(Debug)]
pub struct Issuer {
    source: Source,
    http: Client,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

impl Issuer {
    /// Checks the addresses; asks for nothing yet.
    ///
    /// # Errors
    /// [`InvalidSource`] names the flag.
    pub fn new(source: Source) -> Result<Self, InvalidSource> {
        check_url("--oidc-issuer", &source.issuer, source.allow_http)?;
        if let Some(url) = &source.jwks_url {
            check_url("--jwks-url", url, source.allow_http)?;
        }
        let roots = Certificate::from_pem_bundle(&source.extra_roots)
            .map_err(|error| InvalidSource::Roots(error.to_string()))?;
        let http = Client::builder()
            .connect_timeout(CONNECT)
            .timeout(DOCUMENT)
            // The address was checked; where it sends us to was not.
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_merge(roots)
            .user_agent(concat!("mcp-server/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| InvalidSource::Roots(chain(&error)))?;
        Ok(Self { source, http })
    }

    /// The issuer, exactly as its tokens name it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.source.issuer
    }

    /// All its keys, those that this server cannot use left out.
    ///
    /// # Errors
    /// [`FetchError`] says which document is missing or wrong.
    pub async fn keys(&self) -> Result<Vec<Jwk>, FetchError> {
        let url = match &self.source.jwks_url {
            Some(url) => url.clone(),
            None => self.discover().await?,
        };
        let set: KeySet = self.get(&url).await?;
        if set.keys.len() > KEYS_MAX {
            let problem = format!(
                "{} keys are more than the {KEYS_MAX} that are plausible",
                set.keys.len()
            );
            return Err(FetchError::Content { url, problem });
        }
        // One key of a kind from the future must not make the others useless.
        let keys: Vec<Jwk> = set
            .keys
            .into_iter()
            .filter_map(|key| serde_json::from_value(key).ok())
            .collect();
        if keys.is_empty() {
            let problem = "there is no key in it".to_owned();
            return Err(FetchError::Content { url, problem });
        }
        Ok(keys)
    }

    async fn discover(&self) -> Result<String, FetchError> {
        let issuer = self.source.issuer.trim_end_matches('/');
        let url = format!("{issuer}/.well-known/openid-configuration");
        let found: Discovery = match self.get(&url).await {
            Err(FetchError::Status { status, .. }) if status == StatusCode::NOT_FOUND => {
                self.get(&authorization_server_metadata(issuer)).await?
            }
            other => other?,
        };
        // A provider of many tenants must not answer with another tenant's keys.
        if found.issuer != self.source.issuer {
            let problem = format!(
                "its issuer is `{}`, but --oidc-issuer is `{}`; they must be equal to the letter",
                found.issuer, self.source.issuer
            );
            return Err(FetchError::Content { url, problem });
        }
        check_url(
            "jwks_uri of the discovery document",
            &found.jwks_uri,
            self.source.allow_http,
        )?;
        Ok(found.jwks_uri)
    }

    async fn get<T: DeserializeOwned>(&self, url: &str) -> Result<T, FetchError> {
        let unreachable = |error: reqwest::Error| FetchError::Unreachable {
            url: url.to_owned(),
            cause: chain(&error.without_url()),
        };
        let content = |problem: String| FetchError::Content {
            url: url.to_owned(),
            problem,
        };
        let mut response = self.http.get(url).send().await.map_err(unreachable)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status {
                url: url.to_owned(),
                status: response.status(),
            });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            body.extend_from_slice(&chunk);
            if body.len() > DOCUMENT_MAX {
                return Err(content("the document is larger than 1 MiB".to_owned()));
            }
        }
        serde_json::from_slice(&body).map_err(|error| content(error.to_string()))
    }
}

/// RFC 8414 puts the well-known part before the path: `https://a/b` has `https://a/.well-known/…/b`.
fn authorization_server_metadata(issuer: &str) -> String {
    const WELL_KNOWN: &str = "/.well-known/oauth-authorization-server";
    let start = issuer.find("://").map_or(0, |at| at + 3);
    let path = issuer[start..].find('/').map_or(issuer.len(), |at| start + at);
    format!("{}{WELL_KNOWN}{}", &issuer[..path], &issuer[path..])
}

/// An address that keys may come from: https, or http on this machine.
pub(super) fn check_url(flag: &'static str, url: &str, allow_http: bool) -> Result<(), InvalidSource> {
    let invalid = |problem| InvalidSource::Url {
        flag,
        url: url.to_owned(),
        problem,
    };
    let parsed: Uri = url.parse().map_err(|_| invalid("is not a URL"))?;
    let host = parsed
        .host()
        .ok_or_else(|| invalid("must be a whole URL, such as https://login.example.com"))?;
    if parsed.query().is_some() || url.contains(['#', '@']) || Url::parse(url).is_err() {
        return Err(invalid("must not have a user, a query or a fragment"));
    }
    let local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    match parsed.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if local || allow_http => Ok(()),
        _ => Err(invalid(
            "must begin with https://, because whoever changes the keys on the way can let anyone in",
        )),
    }
}

/// An error with its causes: the outer one alone says only that the request failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_comes_before_the_path() {
        for (issuer, expected) in [
            ("https://a", "https://a/.well-known/oauth-authorization-server"),
            (
                "https://a:1/b/c",
                "https://a:1/.well-known/oauth-authorization-server/b/c",
            ),
        ] {
            assert_eq!(authorization_server_metadata(issuer), expected);
        }
    }

    /// Keys that come over plain http can be replaced on the way.
    #[test]
    fn keys_come_over_tls() {
        for (url, allow_http, fine) in [
            ("https://login.example.com/tenant", false, true),
            ("http://127.0.0.1:8080", false, true),
            ("http://localhost", false, true),
            ("http://keycloak.auth.svc:8080/realms/a", true, true),
            ("http://keycloak.auth.svc:8080/realms/a", false, false),
            ("http://localhost.evil.example", false, false),
            ("http://localhost@evil.example", false, false),
            ("ftp://a", true, false),
            ("login.example.com", false, false),
            ("/realms", false, false),
            ("https://a?b", false, false),
        ] {
            assert_eq!(check_url("--oidc-issuer", url, allow_http).is_ok(), fine, "{url}");
        }
    }
}
