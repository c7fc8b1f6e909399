//! What is set about authentication.

use std::path::PathBuf;

use super::api_keys::InvalidKeys;
use super::issuer::{InvalidSource, Source};
use super::jwt::Rules;
use super::scopes::{InvalidRule, ScopeRules};

/// How callers are authenticated, and what they need.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The kind of credential.
    pub method: Method,
    /// The MCP endpoint's address as clients know it.
    pub public_url: Option<String>,
    /// Which scopes requests need.
    pub rules: ScopeRules,
}

/// The kind of credential.
#[derive(Debug, Clone, Default)]
pub enum Method {
    /// None: whoever reaches the server may call it.
    #[default]
    None,
    /// Keys from a file.
    ApiKey {
        /// The file.
        file: PathBuf,
    },
    /// Tokens of an identity provider.
    Jwt {
        /// The provider.
        source: Source,
        /// Which of its tokens pass.
        rules: Rules,
    },
}

/// Settings of authentication that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAuth {
    /// A flag is missing.
    #[error("--auth {method} needs {flag}: {why}")]
    Missing {
        /// Value of `--auth`.
        method: &'static str,
        /// The flag.
        flag: &'static str,
        /// What it is for.
        why: &'static str,
    },
    /// A flag would do nothing. Whoever sets it believes that the server is protected.
    #[error("{flag} has no effect without --auth {method}")]
    Unused {
        /// The flag.
        flag: &'static str,
        /// Values of `--auth` that it belongs to.
        method: &'static str,
    },
    /// The certificates cannot be read.
    #[error("cannot read {path} (--oidc-ca-file): {cause}", path = .path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A rule about scopes.
    #[error("--required-scopes or --tool-scopes: {0}")]
    Rule(#[from] InvalidRule),
    /// The file of keys.
    #[error(transparent)]
    Keys(#[from] InvalidKeys),
    /// The identity provider.
    #[error(transparent)]
    Source(#[from] InvalidSource),
}
