//! Tools with which agents prove who they are.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::SharedContext;
use crate::auth::Principal;
use crate::tools::shared_context::audit::Refusal;
use crate::tools::shared_context::caller::{TOO_MANY, disproven, is_agent_of, own_name, principal};
use crate::tools::shared_context::checks::{self, explain};
use crate::tools::shared_context::limits;
use crate::tools::shared_context::model::NewToken;
use crate::tools::shared_context::permission::{self, Permission, Permissions};
use crate::tools::shared_context::tokens::{IssuedToken, TokenError};
use crate::tools::{CallContext, Effect, InvalidTool, ToolError, ToolRegistry, ToolResult};

/// Header with the API key.
const API_KEY_HEADER: &str = "x-api-key";

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AuthenticateAgent {
    /// Name of the agent.
    #[schemars(length(min = 1, max = 100))]
    agent_id: String,
    /// Type of the agent, which decides what it may have: admin and system everything, test also debug, generic only
    /// read, all others (claude, gemini, …) read and write.
    #[schemars(length(min = 1, max = 50))]
    agent_type: String,
    /// What the agent shall be allowed to do; what its type may not have is left out.
    #[serde(default = "read_and_write")]
    requested_permissions: Vec<Permission>,
    /// The API key, for clients that cannot send the header X-API-Key.
    api_key: Option<String>,
    /// Taken for clients that pass it with every tool; it proves nothing here.
    #[serde(rename = "auth_token")]
    _auth_token: Option<String>,
}

fn read_and_write() -> Vec<Permission> {
    vec![Permission::Read, Permission::Write]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RefreshToken {
    /// The token to replace.
    #[schemars(regex(pattern = r"^sct_[a-f0-9-]{36}$"))]
    current_token: String,
    /// Taken for clients that pass it with every tool; `current_token` alone counts.
    #[serde(rename = "auth_token")]
    _auth_token: Option<String>,
}

impl SharedContext {
    pub(super) fn register_agents(self: &Arc<Self>, registry: &mut ToolRegistry) -> Result<(), InvalidTool> {
        registry.add(
            "authenticate_agent",
            Effect::Adds,
            "Returns a token (sct_…) that proves who you are: pass it as auth_token, or as Authorization: Bearer. Needs \
             the server's API key in the header X-API-Key. A server without API keys gives tokens to everybody, but \
             none with admin or debug.",
            self.method(Self::authenticate_agent),
        )?;
        registry.add(
            "refresh_token",
            Effect::Adds,
            "Replaces your token by a new one with a full lifetime. The old one ends; other replicas may accept it for \
             30 more seconds.",
            self.method(Self::refresh_token),
        )
    }

    async fn authenticate_agent(self: Arc<Self>, arguments: AuthenticateAgent, context: CallContext) -> ToolResult {
        checks::agent_id(&arguments.agent_id)?;
        checks::name("agent_type", &arguments.agent_type, limits::AGENT_TYPE_MAX)?;
        let key_id = self.key_id(&arguments, &context);
        let granted = key_id.and_then(|key_id| Ok((grant(&arguments, key_id.is_some(), &context)?, key_id)));
        let (granted, key_id) =
            granted.inspect_err(|error| self.note(Some(&arguments.agent_id), "authenticate_agent", error))?;
        let token = NewToken {
            agent_id: arguments.agent_id,
            agent_type: arguments.agent_type,
            permissions: granted,
            is_proven: !self.callers.claims_count(&context),
            key_id,
        };
        let issued = self.callers.tokens().issue(token).await.map_err(explain)?;
        Ok(answer(&issued))
    }

    /// The key that the caller has, on a server that asks for one.
    fn key_id(&self, arguments: &AuthenticateAgent, context: &CallContext) -> Result<Option<String>, ToolError> {
        if self.callers.keys().is_open() {
            return Ok(None);
        }
        let header = context.http().and_then(|http| http.headers.get(API_KEY_HEADER));
        let key = header.map_or(arguments.api_key.as_deref(), |value| value.to_str().ok());
        self.check_key(key, context).map(Some)
    }

    fn check_key(&self, key: Option<&str>, context: &CallContext) -> Result<String, ToolError> {
        let invalid = |error| {
            ToolError::refused(
                "INVALID_API_KEY",
                error,
                "Send the server's API key in the header X-API-Key",
            )
        };
        let key = key.ok_or_else(|| invalid("the API key is missing"))?;
        let accepted = self.callers.keys().accept(key);
        accepted.ok_or_else(|| disproven(invalid("the API key is wrong"), context))
    }

    async fn refresh_token(self: Arc<Self>, arguments: RefreshToken, context: CallContext) -> ToolResult {
        // A token that has come to prove nothing, because the server's keys are others now, must not live on.
        let refreshed = match self.callers.claims(&arguments.current_token, &context).await {
            Ok(_) => self.callers.tokens().refresh(&arguments.current_token).await,
            Err(error) => Err(error),
        };
        match refreshed {
            Ok(issued) => Ok(answer(&issued)),
            Err(TokenError::Storage(error)) => Err(explain(error)),
            Err(error) => {
                let error = disproven(not_refreshed(&error), &context);
                self.note(None, "refresh_token", &error);
                Err(error)
            }
        }
    }

    fn note(&self, claimed: Option<&str>, action: &'static str, error: &ToolError) {
        let code = error.code();
        self.callers.audit().refused(Refusal {
            agent_id: None,
            claimed: claimed.filter(|_| code != TOO_MANY).map(str::to_owned),
            action,
            code,
        });
    }
}

/// What the caller gets of what it wants.
fn grant(arguments: &AuthenticateAgent, has_key: bool, context: &CallContext) -> Result<Permissions, ToolError> {
    let mut possible = Permission::of_type(&arguments.agent_type);
    if let Some(principal) = principal(context) {
        own_agent(principal, &arguments.agent_id)?;
        let held = Permission::of_scopes(&principal.scopes);
        possible.retain(|permission| held.contains(permission));
    } else if !has_key {
        // Nothing has been proven: what opens more than a claim does stays shut.
        possible.retain(|permission| matches!(permission, Permission::Read | Permission::Write));
    }
    let requested: Permissions = arguments.requested_permissions.iter().copied().collect();
    let granted: Permissions = requested.intersection(&possible).copied().collect();
    if granted.is_empty() {
        return Err(ToolError::permission_denied(
            format!(
                "requested: {}; agents of the type {:?} may have here: {}",
                permission::list(&requested),
                arguments.agent_type,
                permission::list(&possible)
            ),
            "Request a permission that the type may have, or use another agent_type; a server without API keys \
             gives neither admin nor debug",
        ));
    }
    Ok(granted)
}

/// A caller that has proven its own name may name agents of its own only.
fn own_agent(principal: &Principal, agent_id: &str) -> Result<(), ToolError> {
    if is_agent_of(principal, agent_id) {
        return Ok(());
    }
    let own = own_name(principal);
    Err(ToolError::permission_denied(
        format!("you have proven to be {own}, so your agents are {own} and {own}/…, not {agent_id}"),
        "Use your own name as agent_id, or your name, a slash, and a name of your choice",
    ))
}

fn answer(issued: &IssuedToken) -> Value {
    let claims = &issued.claims;
    json!({
        "success": true,
        "token": issued.token,
        "agent_id": claims.agent_id,
        "agent_type": claims.agent_type,
        "permissions": claims.permissions,
        "expires_at": claims.expires_at,
        "expires_in": claims.expires_at.duration_since(claims.issued_at).as_secs(),
        "issued_at": claims.issued_at,
        "token_type": "Protected",
        "token_format": "sct_*",
    })
}

fn not_refreshed(error: &TokenError) -> ToolError {
    let error = match error {
        TokenError::Malformed => "the token must be sct_ and a UUID in small letters, as authenticate_agent returns it",
        _ => "the token cannot be refreshed: it has expired, was refreshed already, or was never issued",
    };
    ToolError::refused("TOKEN_REFRESH_FAILED", error, "Call authenticate_agent for a new token")
        .with_related(&["authenticate_agent"])
}
