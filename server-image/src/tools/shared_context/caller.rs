//! Who calls. Until callers are authenticated this is what they say about themselves.

use super::limits::AGENT_ID_MAX;
use super::model::Agent;
use crate::tools::ToolError;

/// Identity of callers that name no agent. They are all the same agent: what one of them writes as private, each of
/// them can read.
pub const ANONYMOUS: &str = "anonymous";

/// The agent on whose behalf a tool runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    agent: Agent,
}

impl Caller {
    /// The agent that the argument `agent_id` names, or [`ANONYMOUS`].
    ///
    /// # Errors
    /// [`ToolError`] for an id that is empty, longer than 100 characters, or has control characters.
    pub fn claimed(agent_id: Option<String>) -> Result<Self, ToolError> {
        let agent_id = agent_id.unwrap_or_else(|| ANONYMOUS.to_owned());
        let length = agent_id.chars().count();
        if length == 0 || length > AGENT_ID_MAX || agent_id.chars().any(char::is_control) {
            return Err(ToolError::invalid(
                format!("agent_id must have 1 to {AGENT_ID_MAX} characters and no control characters"),
                "agent_id",
            ));
        }
        Ok(Self {
            agent: Agent::named(agent_id),
        })
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

    /// Whether limits per agent apply. Callers without a name share one identity, so a limit on it would let one
    /// client lock out all others.
    #[must_use]
    pub fn has_quota(&self) -> bool {
        self.agent.id != ANONYMOUS
    }
}
