//! Who calls. The one place where identities are resolved: what is proven beats what is claimed.
//!
//! 1. A token (`auth_token`, or `Authorization: Bearer sct_…`) makes the caller the agent that the token was made for.
//! 2. Else, a caller whose credential was verified in front of the tools (a [`Principal`]) is the agent of its own
//!    name.
//! 3. Else, on a server without API keys, the caller is whom it says it is (`agent_id`). On a server with API keys
//!    nobody gets in without a token.
//!
//! The type that a token names opens messages to agents of that type. Whoever has the server's API key is trusted to
//! say its type; a [`Principal`] has only the types that its scopes name, as `agent-type:claude`.
//!
//! A token made for somebody who had proven nothing proves no more than a claim: it is worth nothing where claims are.
//! One that was made for a holder of a key ends with the key. A [`Principal`] can show tokens of its own agents only, and
//! may do with them no more than its scopes allow now.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use serde_json::json;

use super::api_keys::ApiKeys;
use super::audit::{AuditTrail, Refusal};
use super::checks::{self, explain};
use super::model::{Agent, TokenClaims};
use super::permission::{self, Permission, Permissions};
use super::tokens::{TokenError, Tokens, looks_like_token};
use crate::auth::Principal;
use crate::limits::Failures;
use crate::tools::{CallContext, ToolError};

/// Identity of callers that name no agent. They are all the same agent: what one of them writes as private, each of
/// them can read.
pub const ANONYMOUS: &str = "anonymous";

/// What somebody is told who has been wrong too often.
pub(super) const TOO_MANY: &str = "AUTH_RATE_LIMIT_EXCEEDED";
/// How a scope begins that proves the type which follows.
const TYPE_SCOPE: &str = "agent-type:";

/// What a call says about its caller.
#[derive(Default)]
pub struct Claim {
    /// Argument `agent_id`.
    pub agent_id: Option<String>,
    /// Argument `auth_token`.
    pub auth_token: Option<String>,
}

/// The agent on whose behalf a tool runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    agent: Agent,
    permissions: Permissions,
    has_quota: bool,
}

impl Caller {
    /// The agent that the argument `agent_id` names, or [`ANONYMOUS`]. It may read and write.
    ///
    /// # Errors
    /// [`ToolError`] for an id that is empty, longer than 100 characters, or has control characters.
    pub fn claimed(agent_id: Option<String>) -> Result<Self, ToolError> {
        let agent_id = agent_id.unwrap_or_else(|| ANONYMOUS.to_owned());
        checks::agent_id(&agent_id)?;
        Ok(Self {
            has_quota: agent_id != ANONYMOUS,
            agent: Agent::named(agent_id),
            permissions: [Permission::Read, Permission::Write].into(),
        })
    }

    fn of_token(claims: &TokenClaims, principal: Option<&Principal>) -> Self {
        let scope = format!("{TYPE_SCOPE}{}", claims.agent_type);
        let is_type_proven = principal.is_none_or(|principal| principal.scopes.contains(&scope));
        let mut permissions = claims.permissions.clone();
        if let Some(principal) = principal {
            let held = Permission::of_scopes(&principal.scopes);
            permissions.retain(|permission| held.contains(permission));
        }
        Self {
            agent: Agent {
                id: claims.agent_id.clone(),
                agent_type: is_type_proven.then(|| claims.agent_type.clone()),
                is_admin: permissions.contains(&Permission::Admin),
            },
            permissions,
            has_quota: true,
        }
    }

    fn of_principal(principal: &Principal) -> Self {
        let permissions = Permission::of_scopes(&principal.scopes);
        Self {
            agent: Agent {
                is_admin: permissions.contains(&Permission::Admin),
                ..Agent::named(own_name(principal))
            },
            permissions,
            has_quota: true,
        }
    }

    /// The agent's id.
    #[must_use]
    pub fn agent_id(&self) -> &str {
        &self.agent.id
    }

    /// The agent as the storage knows it.
    #[must_use]
    pub const fn agent(&self) -> &Agent {
        &self.agent
    }

    /// What the agent may do.
    #[must_use]
    pub const fn permissions(&self) -> &Permissions {
        &self.permissions
    }

    /// Whether limits per agent apply. Callers without a name share one identity, so a limit on it would let one
    /// client lock out all others.
    #[must_use]
    pub const fn has_quota(&self) -> bool {
        self.has_quota
    }

    /// Refuses callers without a permission.
    ///
    /// # Errors
    /// [`ToolError`] that names what is missing.
    pub fn require(&self, needed: Permission) -> Result<(), ToolError> {
        if self.permissions.contains(&needed) {
            return Ok(());
        }
        Err(ToolError::permission_denied(
            format!(
                "this needs the permission {}; {} has: {}",
                needed.as_str(),
                self.agent.id,
                permission::list(&self.permissions)
            ),
            "Call authenticate_agent with an agent_type that has the permission, and request it",
        )
        .with_context(json!({"required": needed.as_str(), "permissions": self.permissions}))
        .with_related(&["authenticate_agent"]))
    }
}

/// Finds out who calls.
pub struct Callers {
    keys: ApiKeys,
    tokens: Tokens,
    audit: AuditTrail,
}

impl Callers {
    /// Callers who prove themselves with `tokens`, which holders of `keys` can get.
    #[must_use]
    pub const fn new(keys: ApiKeys, tokens: Tokens, audit: AuditTrail) -> Self {
        Self { keys, tokens, audit }
    }

    /// Who calls, if it may do what `needed` says. A refusal is audited as one of `action`.
    ///
    /// # Errors
    /// [`ToolError`] when nothing proves who calls, where proof is needed, or the permission is missing.
    pub async fn resolve(
        &self,
        claim: Claim,
        needed: Permission,
        action: &'static str,
        context: &CallContext,
    ) -> Result<Caller, ToolError> {
        let claimed = claim.agent_id.clone().filter(|id| checks::agent_id(id).is_ok());
        let result = self.identify(claim, context).await;
        if let Ok(caller) = &result {
            context.called_by(caller.agent_id());
        }
        let name = result.as_ref().ok().map(|caller| caller.agent_id().to_owned());
        let is_known = name.is_some();
        let result = result.and_then(|caller| caller.require(needed).map(|()| caller));
        if let Err(error) = &result
            && !error.is_server_failure()
        {
            self.audit.refused(Refusal {
                agent_id: name,
                claimed: claimed.filter(|_| !is_known && error.code() != TOO_MANY),
                action,
                code: error.code(),
            });
        }
        result
    }

    async fn identify(&self, claim: Claim, context: &CallContext) -> Result<Caller, ToolError> {
        if let Some(token) = token(claim.auth_token, context) {
            let claims = self.claims(&token, context).await;
            let claims = claims.map_err(|error| unproven(error, context))?;
            return Ok(Caller::of_token(&claims, principal(context)));
        }
        if let Some(principal) = principal(context) {
            return Ok(Caller::of_principal(principal));
        }
        if self.keys.is_open() {
            Caller::claimed(claim.agent_id)
        } else {
            Err(ToolError::permission_denied(
                "this server wants to know who calls, and the call has no token",
                "Call authenticate_agent with the API key, then pass its token as auth_token, or as the header \
                 Authorization: Bearer sct_…",
            )
            .with_related(&["authenticate_agent"]))
        }
    }

    /// What a token stands for, if it proves that for this caller.
    ///
    /// # Errors
    /// [`TokenError`] when it proves nothing.
    pub(super) async fn claims(&self, token: &str, context: &CallContext) -> Result<Arc<TokenClaims>, TokenError> {
        let claims = self.tokens.check(token).await?;
        let is_proven = if self.keys.is_open() {
            claims.is_proven || self.claims_count(context)
        } else {
            claims.key_id.as_deref().is_some_and(|key_id| self.keys.know(key_id))
        };
        let is_own = principal(context).is_none_or(|principal| is_agent_of(principal, &claims.agent_id));
        if is_proven && is_own {
            Ok(claims)
        } else {
            Err(TokenError::Unknown)
        }
    }

    /// Whether callers are who they say they are.
    pub(super) fn claims_count(&self, context: &CallContext) -> bool {
        self.keys.is_open() && principal(context).is_none()
    }

    /// The keys that `authenticate_agent` accepts.
    #[must_use]
    pub const fn keys(&self) -> &ApiKeys {
        &self.keys
    }

    /// The tokens of the server.
    #[must_use]
    pub const fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Where refusals are noted.
    #[must_use]
    pub const fn audit(&self) -> &AuditTrail {
        &self.audit
    }
}

/// The caller whose credential was verified in front of the tools.
pub(super) fn principal(context: &CallContext) -> Option<&Principal> {
    context.http()?.extensions.get::<Arc<Principal>>().map(AsRef::as_ref)
}

/// The agent that a principal is without saying more. What follows a slash in an agent's id is a name that its principal
/// gave, so a slash in the principal's own name must not look the same: `ci` may name `ci/deploy`, and is not the
/// principal `ci/deploy`.
pub(super) fn own_name(principal: &Principal) -> String {
    principal.subject.replace('%', "%25").replace('/', "%2F")
}

/// Whether `agent_id` is one of a principal's agents: its own name, or that, a slash, and anything.
pub(super) fn is_agent_of(principal: &Principal, agent_id: &str) -> bool {
    let rest = agent_id.strip_prefix(&own_name(principal));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The token of a call: the argument, else the header. What is in the header is only taken if it looks like one of
/// this server's: others have been judged before the tool runs.
fn token(argument: Option<String>, context: &CallContext) -> Option<String> {
    argument.or_else(|| {
        let header = context.http()?.headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = header.split_once(' ')?;
        let token = token.trim_start();
        (scheme.eq_ignore_ascii_case("bearer") && looks_like_token(token)).then(|| token.to_owned())
    })
}

fn unproven(error: TokenError, context: &CallContext) -> ToolError {
    let error = match error {
        TokenError::Malformed => ToolError::refused(
            "INVALID_TOKEN_FORMAT",
            "the token must be sct_ and a UUID in small letters, as authenticate_agent returns it",
            "Pass the token exactly as it was returned",
        ),
        TokenError::Unknown => ToolError::refused(
            "TOKEN_AUTHENTICATION_FAILED",
            "the token is not valid: it has expired, was refreshed, or was never issued by this server",
            "Call authenticate_agent for a new token",
        ),
        TokenError::Storage(error) => return explain(error),
    };
    disproven(error.with_related(&["authenticate_agent", "refresh_token"]), context)
}

/// What somebody is told whose key or token is wrong: `error`, or, after too many of them, to wait.
pub(super) fn disproven(error: ToolError, context: &CallContext) -> ToolError {
    let Some(http) = context.http() else { return error };
    let failures = http.extensions.get::<Arc<Failures>>();
    let counted = failures.map(|failures| failures.count(&http.extensions, &http.headers));
    match counted {
        Some(Err(limited)) => ToolError::refused(
            TOO_MANY,
            limited.to_string(),
            "Call authenticate_agent with the right API key for a new token; what is valid is accepted at any time",
        )
        .with_context(json!({"retry_after_seconds": limited.seconds()})),
        _ => error,
    }
}
