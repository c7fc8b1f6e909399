//! Which tools a run calls, in which proportion, with which arguments.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::{Map, Value, json};

use crate::error::PlanError;
use crate::random::Random;

/// How many memory keys a shared-context run writes and reads.
const MEMORY_KEYS: usize = 64;
/// How many sessions of the shared-context tools exist before the first request is due.
pub(crate) const PREPARED_SESSIONS: usize = 8;
/// How many of those session handles are remembered; later ones replace earlier ones.
const REMEMBERED_SESSIONS: usize = 1000;

/// One kind of call.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Any tool, always with the same arguments.
    Tool {
        /// Its name.
        name: String,
        /// Its arguments, a JSON object.
        arguments: Value,
    },
    /// `create_session`; the handle it returns is used by later calls.
    CreateSession,
    /// `get_session` of a session created earlier.
    GetSession,
    /// `add_message` to a session created earlier.
    AddMessage,
    /// `get_messages` of a session created earlier.
    GetMessages,
    /// `set_memory` of one of a fixed number of keys, always to the value that belongs to the key.
    SetMemory,
    /// `get_memory` of one of those keys; an answer without its value is a failure (`wrong answer`).
    GetMemory,
}

impl Call {
    /// The name of the tool that is called.
    #[must_use]
    pub fn tool_name(&self) -> &str {
        match self {
            Self::Tool { name, .. } => name,
            Self::CreateSession => "create_session",
            Self::GetSession => "get_session",
            Self::AddMessage => "add_message",
            Self::GetMessages => "get_messages",
            Self::SetMemory => "set_memory",
            Self::GetMemory => "get_memory",
        }
    }

    fn validate(&self) -> Result<(), PlanError> {
        let Self::Tool { name, arguments } = self else {
            return Ok(());
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
        if name.is_empty() || name.len() > 128 || !name.bytes().all(allowed) {
            return Err(PlanError::ToolName(name.clone()));
        }
        if !arguments.is_object() {
            return Err(PlanError::Arguments {
                tool: name.clone(),
                why: format!("got {arguments}"),
            });
        }
        Ok(())
    }
}

/// Calls and their weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mix {
    calls: Vec<(Call, u32)>,
}

impl Mix {
    /// One tool with fixed arguments.
    #[must_use]
    pub fn tool(name: impl Into<String>, arguments: Value) -> Self {
        Self::default().with(
            Call::Tool {
                name: name.into(),
                arguments,
            },
            1,
        )
    }

    /// The fixture tool `simulate_work`, which waits `io_ms` and burns `cpu_ms` of processor time.
    #[must_use]
    pub fn simulate_work(io_ms: u64, cpu_ms: u64) -> Self {
        Self::tool("simulate_work", json!({"io_ms": io_ms, "cpu_ms": cpu_ms}))
    }

    /// What agents that share a context do: mostly reading, a fair part writing, a new session now and then.
    #[must_use]
    pub fn shared_context() -> Self {
        Self::default()
            .with(Call::CreateSession, 1)
            .with(Call::GetSession, 1)
            .with(Call::AddMessage, 4)
            .with(Call::GetMessages, 4)
            .with(Call::SetMemory, 3)
            .with(Call::GetMemory, 7)
    }

    /// Adds a call that is made `weight` times as often as one of weight 1.
    #[must_use]
    pub fn with(mut self, call: Call, weight: u32) -> Self {
        self.calls.push((call, weight));
        self
    }

    /// The calls and their weights.
    #[must_use]
    pub fn calls(&self) -> &[(Call, u32)] {
        &self.calls
    }

    /// Whether calls refer to the sessions and keys that a run prepares first.
    pub(crate) fn uses_shared_context(&self) -> bool {
        self.calls.iter().any(|(call, _)| !matches!(call, Call::Tool { .. }))
    }

    pub(crate) fn validate(&self) -> Result<(), PlanError> {
        if self.calls.iter().all(|(_, weight)| *weight == 0) {
            return Err(PlanError::NoTool);
        }
        self.calls.iter().try_for_each(|(call, _)| call.validate())
    }

    /// Draws the index of a call, each in proportion to its weight.
    pub(crate) fn draw(&self, random: &mut Random) -> usize {
        let total: usize = self.calls.iter().map(|(_, weight)| weight_of(*weight)).sum();
        let mut left = random.below(total);
        self.calls
            .iter()
            .position(|(_, weight)| match left.checked_sub(weight_of(*weight)) {
                Some(rest) => {
                    left = rest;
                    false
                }
                None => true,
            })
            .unwrap_or(0)
    }
}

fn weight_of(weight: u32) -> usize {
    usize::try_from(weight).unwrap_or(usize::MAX)
}

/// What a call is made of: its arguments as JSON text, and what its answer has to contain.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PreparedCall {
    pub(crate) arguments: Arc<str>,
    pub(crate) must_contain: Option<String>,
}

/// The sessions and memory keys that the shared-context calls of one run refer to.
#[derive(Debug)]
pub(crate) struct SharedContext {
    /// Tells the keys of this run from those an earlier one left in the same database.
    run: String,
    sessions: RwLock<VecDeque<String>>,
}

impl SharedContext {
    pub(crate) fn new(run: impl Into<String>) -> Self {
        Self {
            run: run.into(),
            sessions: RwLock::default(),
        }
    }

    /// The call, with its arguments filled in by `choice`, an evenly distributed number.
    pub(crate) fn prepare(&self, call: &Call, choice: u64) -> PreparedCall {
        let key = || {
            format!(
                "load-{}-{}",
                self.run,
                usize::try_from(choice).unwrap_or(0) % MEMORY_KEYS
            )
        };
        let (arguments, must_contain) = match call {
            Call::Tool { arguments, .. } => (arguments.to_string(), None),
            Call::CreateSession => (json!({"purpose": format!("load run {}", self.run)}).to_string(), None),
            Call::GetSession => (json!({"session_id": self.session(choice)}).to_string(), None),
            Call::AddMessage => {
                let content = format!("message {choice:016x} of load run {}", self.run);
                (
                    json!({"session_id": self.session(choice), "content": content}).to_string(),
                    None,
                )
            }
            Call::GetMessages => (
                json!({"session_id": self.session(choice), "limit": 20}).to_string(),
                None,
            ),
            Call::SetMemory => (json!({"key": key(), "value": value_of(&key())}).to_string(), None),
            Call::GetMemory => (json!({"key": key()}).to_string(), Some(value_of(&key()))),
        };
        PreparedCall {
            arguments: arguments.into(),
            must_contain,
        }
    }

    /// The calls that write every key once, so that every read has something to find.
    pub(crate) fn first_writes(&self) -> impl Iterator<Item = PreparedCall> + '_ {
        (0..MEMORY_KEYS).map(|key| self.prepare(&Call::SetMemory, u64::try_from(key).unwrap_or(0)))
    }

    /// Remembers the session that a `create_session` answered with. Says whether the answer named one.
    pub(crate) fn remember_session(&self, message: &[u8]) -> bool {
        let Some(session) = session_in(message) else {
            return false;
        };
        let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() >= REMEMBERED_SESSIONS {
            sessions.pop_front();
        }
        sessions.push_back(session);
        true
    }

    fn session(&self, choice: u64) -> String {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        let index = usize::try_from(choice >> 32).unwrap_or(0) % sessions.len().max(1);
        sessions.get(index).cloned().unwrap_or_default()
    }
}

fn value_of(key: &str) -> String {
    format!("value-of-{key}-end")
}

/// The `session_id` in the answer to `create_session`: in the structured content, else in the text.
fn session_in(message: &[u8]) -> Option<String> {
    let message: Value = serde_json::from_slice(message).ok()?;
    let result = message.get("result")?;
    let text_content = || {
        let text = result.pointer("/content/0/text")?.as_str()?;
        serde_json::from_str::<Map<String, Value>>(text)
            .ok()?
            .remove("session_id")
    };
    let session = result
        .pointer("/structuredContent/session_id")
        .cloned()
        .or_else(text_content)?;
    session.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_drawn_in_proportion_to_their_weights() {
        let mix = Mix::tool("often", json!({}))
            .with(Call::CreateSession, 0)
            .with(Call::GetMemory, 3);
        let mut random = Random::new(1);
        let mut drawn = [0_u32; 3];
        for _ in 0..10_000 {
            drawn[mix.draw(&mut random)] += 1;
        }
        assert_eq!(drawn[1], 0, "a weight of 0 is never drawn");
        assert!((7_300..7_700).contains(&drawn[2]), "three quarters expected: {drawn:?}");
    }

    #[test]
    fn a_session_is_found_in_either_form_of_the_answer() {
        let cases = [
            (
                "structured",
                r#"{"id":1,"result":{"structuredContent":{"session_id":"session_1"}}}"#,
                true,
            ),
            (
                "text",
                r#"{"id":1,"result":{"content":[{"type":"text","text":"{\"session_id\":\"session_2\"}"}]}}"#,
                true,
            ),
            ("an error", r#"{"id":1,"error":{"code":-32603,"message":"no"}}"#, false),
            (
                "plain words",
                r#"{"id":1,"result":{"content":[{"type":"text","text":"done"}]}}"#,
                false,
            ),
        ];
        for (name, message, expected) in cases {
            assert_eq!(
                SharedContext::new("r").remember_session(message.as_bytes()),
                expected,
                "{name}"
            );
        }
    }

    /// Sessions that are never replaced get ever longer, and with them the answers: the load would not be constant.
    #[test]
    fn later_sessions_replace_earlier_ones() {
        let context = SharedContext::new("r");
        for number in 0..3 * REMEMBERED_SESSIONS {
            let answer = json!({"result": {"structuredContent": {"session_id": number.to_string()}}}).to_string();
            assert!(context.remember_session(answer.as_bytes()));
        }
        let oldest = (0..REMEMBERED_SESSIONS as u64)
            .map(|place| context.session(place << 32).parse::<usize>().unwrap())
            .min();
        assert_eq!(oldest, Some(2 * REMEMBERED_SESSIONS));
    }

    #[test]
    fn what_is_read_was_written_under_the_same_key() {
        let context = SharedContext::new("7");
        let written: Vec<PreparedCall> = context.first_writes().collect();
        for choice in [0, 1, 63, 64, u64::MAX] {
            let read = context.prepare(&Call::GetMemory, choice);
            let value = read.must_contain.unwrap();
            let key: Value = serde_json::from_str(&read.arguments).unwrap();
            let pair = json!({"key": key["key"], "value": value}).to_string();
            assert!(
                written.iter().any(|call| *call.arguments == *pair),
                "nobody wrote {pair}"
            );
        }
    }

    #[test]
    fn calls_the_protocol_cannot_carry_are_refused() {
        for name in ["", "two words", "line\nbreak", "é"] {
            assert!(
                matches!(Mix::tool(name, json!({})).validate(), Err(PlanError::ToolName(_))),
                "{name:?}"
            );
        }
        assert!(matches!(
            Mix::tool("echo", json!([1])).validate(),
            Err(PlanError::Arguments { .. })
        ));
    }
}
