//! Who may call.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::auth::issuer::Source;
use crate::auth::jwt::Rules;
use crate::auth::{InvalidAuth, Method, ScopeRules, Settings};

#[derive(Debug, Args)]
#[command(next_help_heading = "Authentication")]
#[group(skip)]
pub(super) struct Flags {
    /// Credential that every request needs.
    #[arg(long, env = "MCP_AUTH", default_value = "none")]
    auth: Kind,
    /// File with a line NAME SHA256 [SCOPE …] for each API key; `mcp-server api-key NAME` makes both. It is read again
    /// when it changes.
    #[arg(long, env = "MCP_API_KEYS_FILE")]
    api_keys_file: Option<PathBuf>,
    /// Identity provider, exactly as its tokens name it in `iss`. Its keys are found through its discovery document.
    #[arg(long, env = "MCP_OIDC_ISSUER")]
    oidc_issuer: Option<String>,
    /// Where the identity provider's keys are, if it has no discovery document.
    #[arg(long, env = "MCP_JWKS_URL")]
    jwks_url: Option<String>,
    /// Names of this server in the `aud` of tokens, comma-separated; a token for none of them is refused [default:
    /// --public-url].
    #[arg(long, env = "MCP_AUDIENCE", value_delimiter = ',')]
    audience: Vec<String>,
    /// Certificates (PEM) to trust besides the system's when asking the identity provider.
    #[arg(long, env = "MCP_OIDC_CA_FILE")]
    oidc_ca_file: Option<PathBuf>,
    /// Ask the identity provider even without TLS: only in a network where nobody can change its answers.
    #[arg(long, env = "MCP_OIDC_ALLOW_HTTP")]
    oidc_allow_http: bool,
    /// How many seconds the clocks of this server and of the identity provider may be apart.
    #[arg(long, env = "MCP_JWT_LEEWAY_SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(..=300))]
    jwt_leeway_seconds: u64,
    /// Claims whose values are a token's scopes, comma-separated.
    #[arg(
        long,
        env = "MCP_JWT_SCOPE_CLAIMS",
        value_delimiter = ',',
        default_value = "scope,scp,roles"
    )]
    jwt_scope_claims: Vec<String>,
    /// The MCP endpoint's address as clients know it [default: what each request names as its host].
    #[arg(long, env = "MCP_PUBLIC_URL")]
    public_url: Option<String>,
    /// Scopes that every request needs, comma-separated.
    #[arg(long, env = "MCP_REQUIRED_SCOPES", value_delimiter = ',')]
    required_scopes: Vec<String>,
    /// Scopes that a tool needs besides, comma-separated: TOOL=SCOPE+SCOPE. TOOL may be a JSON-RPC method such as
    /// resources/read, or * for each tool without a rule of its own. What tools show can also be had by resources/read,
    /// resources/subscribe, prompts/get and subscriptions/listen: * is for each of those without a rule of its own too,
    /// and rules for single tools do not guard them.
    #[arg(long, env = "MCP_TOOL_SCOPES", value_delimiter = ',')]
    tool_scopes: Vec<String>,
}

/// Kinds of credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// None: whoever reaches the server may call it.
    None,
    /// A key of --api-keys-file, as X-API-Key or as a bearer token.
    ApiKey,
    /// A token of --oidc-issuer.
    Jwt,
}

impl Flags {
    pub(super) fn settings(&self) -> Result<Settings, InvalidAuth> {
        self.refuse_unused()?;
        let words = |list: &'_ [String]| list.iter().filter(|word| !word.is_empty()).cloned().collect::<Vec<_>>();
        let (required, tools) = (words(&self.required_scopes), words(&self.tool_scopes));
        Ok(Settings {
            method: match self.auth {
                Kind::None => Method::None,
                Kind::ApiKey => Method::ApiKey {
                    file: self.api_keys_file.clone().ok_or(InvalidAuth::Missing {
                        method: "api-key",
                        flag: "--api-keys-file",
                        why: "the file with the hashes of the keys",
                    })?,
                },
                Kind::Jwt => self.jwt()?,
            },
            public_url: self.public_url.clone(),
            rules: ScopeRules::new(required.iter().map(String::as_str), tools.iter().map(String::as_str))?,
        })
    }

    fn jwt(&self) -> Result<Method, InvalidAuth> {
        let missing = |flag, why| InvalidAuth::Missing {
            method: "jwt",
            flag,
            why,
        };
        let issuer = self
            .oidc_issuer
            .clone()
            .ok_or_else(|| missing("--oidc-issuer", "tokens of any other issuer are refused"))?;
        let audience = if self.audience.is_empty() {
            self.public_url.clone().into_iter().collect()
        } else {
            self.audience.clone()
        };
        if audience.is_empty() {
            return Err(missing(
                "--audience or --public-url",
                "a token that was made for another service must not open this one",
            ));
        }
        let extra_roots = match &self.oidc_ca_file {
            None => Vec::new(),
            Some(path) => std::fs::read(path).map_err(|cause| InvalidAuth::Roots {
                path: path.clone(),
                cause,
            })?,
        };
        Ok(Method::Jwt {
            source: Source {
                issuer: issuer.clone(),
                jwks_url: self.jwks_url.clone(),
                extra_roots,
                allow_http: self.oidc_allow_http,
            },
            rules: Rules {
                issuer,
                audience,
                leeway: Duration::from_secs(self.jwt_leeway_seconds),
                scope_claims: self.jwt_scope_claims.clone(),
            },
        })
    }

    /// A flag that does nothing looks like protection.
    fn refuse_unused(&self) -> Result<(), InvalidAuth> {
        let jwt = self.auth == Kind::Jwt;
        let set = [
            (
                "--api-keys-file",
                self.api_keys_file.is_some(),
                "api-key",
                self.auth == Kind::ApiKey,
            ),
            ("--oidc-issuer", self.oidc_issuer.is_some(), "jwt", jwt),
            ("--jwks-url", self.jwks_url.is_some(), "jwt", jwt),
            ("--audience", !self.audience.is_empty(), "jwt", jwt),
            ("--public-url", self.public_url.is_some(), "jwt", jwt),
            ("--oidc-ca-file", self.oidc_ca_file.is_some(), "jwt", jwt),
            (
                "--required-scopes",
                !self.required_scopes.is_empty(),
                "api-key or jwt",
                self.auth != Kind::None,
            ),
            (
                "--tool-scopes",
                !self.tool_scopes.is_empty(),
                "api-key or jwt",
                self.auth != Kind::None,
            ),
        ];
        match set.into_iter().find(|(_, set, _, used)| *set && !used) {
            Some((flag, _, method, _)) => Err(InvalidAuth::Unused { flag, method }),
            None => Ok(()),
        }
    }
}
