//! Prompts: a collaboration to begin, a session to look into.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use rmcp::model::{GetPromptResult, Prompt, PromptArgument, PromptMessage, Role};

use super::caller::{Caller, Claim};
use super::checks::{self, explain};
use super::limits;
use super::model::{Message, SessionHeader, SessionView};
use super::permission::Permission;
use super::retention::in_days;
use super::storage::{MessageQuery, StorageError};
use super::tools::SharedContext;
use crate::tools::{CallContext, PromptArguments, PromptRegistry, PromptResult, ToolError};

/// Kinds of collaboration.
const TYPES: &[&str] = &["committee", "debate", "peer-review"];
/// Rounds of a collaboration, unless asked otherwise, and at most.
const ROUNDS: (u8, u8) = (3, 10);
/// Messages that a look into a session shows the beginning of.
const SHOWN: usize = 10;
/// How much of each, in characters.
const BEGINNING: usize = 100;

impl SharedContext {
    pub(super) fn register_prompts(self: &Arc<Self>, prompts: &mut PromptRegistry) {
        let setup = Prompt::new(
            "setup-collaboration",
            Some("How several agents work on one purpose in a session, with the calls to make."),
            Some(vec![
                argument("purpose", "What the collaboration is for", true),
                argument("expert_roles", "Roles of the agents, separated by commas", true),
                argument(
                    "collaboration_type",
                    "committee (default), debate or peer-review",
                    false,
                ),
                argument("session_id", "Session to use; a new one if left out", false),
                argument("iteration_rounds", "Rounds, from 1 to 10; 3 if left out", false),
                argument("project_name", "Project the session belongs to", false),
            ]),
        );
        prompts.add(
            setup,
            |arguments, _context| async move { setup_collaboration(&arguments) },
        );
        prompts.suggest("setup-collaboration", "collaboration_type", TYPES);
        let debug = Prompt::new(
            "debug-session",
            Some("What happened in a session as far as you may see it, and what to look at."),
            Some(vec![argument("session_id", "Session to look into", true)]),
        );
        let this = Arc::clone(self);
        prompts.add(debug, move |arguments, context| {
            Arc::clone(&this).debug_session(arguments, context)
        });
    }

    async fn debug_session(self: Arc<Self>, arguments: PromptArguments, context: CallContext) -> PromptResult {
        let caller = self
            .caller(Claim::default(), Permission::Read, "debug-session", &context)
            .await?;
        let id = checks::session_id(arguments.get("session_id").cloned().unwrap_or_default())?;
        let header = self.storage.session_header(&id).await.map_err(explain)?;
        let view = self
            .storage
            .session_view(&id, caller.agent(), limits::PAGE_MAX)
            .await
            .map_err(explain)?;
        let (Some(header), Some(view)) = (header, view) else {
            return Err(explain(StorageError::SessionNotFound));
        };
        let first = MessageQuery {
            session_id: id,
            reader: caller.agent().clone(),
            visibility: None,
            limit: 1,
            offset: 0,
        };
        let total = self.storage.get_messages(first).await.map_err(explain)?.total_count;
        let inactive = self.retention.inactive_session;
        Ok(message(analysis(&header, &view, total, &caller, inactive)))
    }
}

fn argument(name: &str, description: &str, required: bool) -> PromptArgument {
    PromptArgument::new(name)
        .with_description(description)
        .with_required(required)
}

fn message(text: String) -> GetPromptResult {
    GetPromptResult::new(vec![PromptMessage::new_text(Role::User, text)])
}

fn setup_collaboration(arguments: &PromptArguments) -> PromptResult {
    let given = |name: &str| {
        arguments
            .get(name)
            .map(|text| text.trim())
            .filter(|text| !text.is_empty())
    };
    let purpose = given("purpose").unwrap_or_default();
    checks::text("purpose", purpose, limits::PURPOSE_MAX)?;
    let roles: Vec<&str> = given("expert_roles")
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|role| !role.is_empty())
        .collect();
    if roles.is_empty() {
        return Err(ToolError::invalid(
            "expert_roles must name at least one role",
            "expert_roles",
        ));
    }
    let kind = given("collaboration_type").unwrap_or(TYPES[0]);
    if !TYPES.contains(&kind) {
        return Err(ToolError::invalid(
            format!("collaboration_type must be one of {}", TYPES.join(", ")),
            "collaboration_type",
        ));
    }
    let rounds = given("iteration_rounds").map(rounds).transpose()?.unwrap_or(ROUNDS.0);
    let session = given("session_id")
        .map(|id| checks::session_id(id.to_owned()))
        .transpose()?;
    Ok(message(plan(
        purpose,
        &roles,
        kind,
        rounds,
        session.as_deref(),
        given("project_name"),
    )))
}

fn rounds(text: &str) -> Result<u8, ToolError> {
    let rounds = text.parse().ok().filter(|rounds| (1..=ROUNDS.1).contains(rounds));
    rounds.ok_or_else(|| {
        ToolError::invalid(
            format!("iteration_rounds must be a number from 1 to {}", ROUNDS.1),
            "iteration_rounds",
        )
    })
}

/// How the agents talk with each other, by kind of collaboration.
fn manner(kind: &str) -> &'static str {
    match kind {
        "debate" => {
            "Each agent takes a position, attacks the others' weakest argument, and says what would change its mind."
        }
        "peer-review" => "One agent writes, the others review it line by line, and the writer answers each remark.",
        _ => "Each agent says what it found, asks the others about it, and changes its view where they are right.",
    }
}

fn plan(purpose: &str, roles: &[&str], kind: &str, rounds: u8, session: Option<&str>, project: Option<&str>) -> String {
    let begin = session.map_or_else(
        || {
            let mut metadata =
                serde_json::json!({"collaboration_type": kind, "expert_roles": roles, "iteration_rounds": rounds});
            if let Some(project) = project {
                metadata["project"] = project.into();
            }
            let arguments = serde_json::json!({"purpose": purpose, "metadata": metadata});
            format!("Call create_session with {arguments} and give its session_id to every agent.")
        },
        |id| format!("Use the session {id}; read it first with get_messages."),
    );
    let mut text = format!(
        "# {kind}: {purpose}\n\nYou coordinate {} agents over {rounds} rounds.\n\n## Begin\n1. {begin}\n\
         2. Call authenticate_agent once for each agent, so that each has a token of its own:\n",
        roles.len()
    );
    for (number, role) in roles.iter().enumerate() {
        let name = role.to_lowercase().replace([' ', '-'], "_");
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "   - {role}: agent_id \"agent_{name}_{:03}\", agent_type \"claude\", requested_permissions [\"read\", \"write\"]",
            number + 1
        );
    }
    let _ = write!(
        text,
        "\n## Each round\n1. Say in a public add_message what this round is about.\n2. {}\n\
         3. Agents answer with parent_message_id, so that threads stay readable, and keep notes of their own with \
         set_memory.\n4. Sum up what is agreed and what is open in a public message before the next round. Call \
         refresh_token for tokens that end soon.\n\n## End\nWrite the result as one public message with metadata \
         {{\"result\": true}}: what was decided, why, and what was rejected.\n",
        manner(kind)
    );
    text
}

/// What can be said of a session by what the caller sees of it. It may read `total` messages; without any for the time
/// `inactive`, the session is closed.
fn analysis(header: &SessionHeader, view: &SessionView, total: i64, caller: &Caller, inactive: Duration) -> String {
    let messages = &view.recent;
    let shown = i64::try_from(messages.len()).unwrap_or(i64::MAX);
    let mut text = format!(
        "# Session {}\n\nPurpose: {}\nCreated: {} by {}\nLast change: {}\nState: {}\n\n{} sees {total} messages{}.\n",
        header.id,
        header.purpose,
        header.created_at,
        header.created_by,
        view.updated_at,
        if view.is_active {
            "open"
        } else {
            "closed: it takes no more messages"
        },
        caller.agent_id(),
        if shown < total {
            format!("; this is about the newest {shown}")
        } else {
            String::new()
        },
    );
    counts(
        &mut text,
        "By visibility",
        messages.iter().map(|message| message.visibility.as_str()),
    );
    counts(
        &mut text,
        "By sender",
        messages.iter().map(|message| message.sender.as_str()),
    );
    text.push_str("\n## Newest messages\n");
    for message in messages.iter().take(SHOWN) {
        let beginning: String = message.content.chars().take(BEGINNING).collect();
        let _ = writeln!(
            text,
            "- {} {} ({}): {}",
            message.timestamp,
            message.sender,
            message.visibility,
            beginning.replace('\n', " ")
        );
    }
    text.push_str("\n## What to look at\n");
    text.push_str(&advice(view.is_active, messages, inactive));
    text
}

fn counts<'a>(text: &mut String, title: &str, names: impl Iterator<Item = &'a str>) {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_insert(0) += 1;
    }
    let _ = writeln!(text, "\n## {title}");
    for (name, count) in counts {
        let _ = writeln!(text, "- {name}: {count}");
    }
}

fn advice(is_active: bool, messages: &[Message], inactive: Duration) -> String {
    if !is_active {
        let time = in_days(inactive);
        return format!("Nothing happened here for {time}, so it was closed. Go on in a new session.\n");
    }
    let mut senders: Vec<&str> = messages.iter().map(|message| message.sender.as_str()).collect();
    senders.sort_unstable();
    senders.dedup();
    let advice = match senders.len() {
        0 => {
            "There is no message that you may read. Check that the others use this very session_id, that they write with \
             visibility public, and that your token is the one you think it is.\n"
        }
        1 => {
            "Only one agent is heard. Check that the others have the session_id and a valid token, and write with \
             visibility public.\n"
        }
        _ => {
            "Several agents are heard. If somebody misses a message, compare its visibility with the reader: private is \
             for its sender alone, agent_only for agents of the sender's proven type.\n"
        }
    };
    advice.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(arguments: &[(&str, &str)]) -> Result<String, String> {
        let arguments = arguments
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let result = setup_collaboration(&arguments).map_err(|error| error.into_envelope()["error"].to_string())?;
        Ok(serde_json::to_string(&result).unwrap())
    }

    /// Who reads of another time than the one that is set looks for the cause in the wrong place.
    #[test]
    fn a_closed_session_was_idle_for_the_time_that_is_set() {
        for (days, expected) in [(1, "for 1 day,"), (3, "for 3 days,")] {
            let text = advice(false, &[], Duration::from_hours(24 * days));
            assert!(text.contains(expected), "{text}");
        }
    }

    /// A plan must name every agent, and the session to use; a mistake must be named instead of guessed around.
    #[test]
    fn plans_fit_what_was_asked_for() {
        let text = get(&[("purpose", "find it"), ("expert_roles", "Data Engineer, critic,")]).unwrap();
        for part in [
            "find it",
            "agent_data_engineer_001",
            "agent_critic_002",
            "3 rounds",
            "create_session",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let given = [
            ("purpose", "p"),
            ("expert_roles", "a"),
            ("session_id", "session_0123456789abcdef"),
            ("iteration_rounds", "5"),
        ];
        let text = get(&given).unwrap();
        assert!(text.contains("session_0123456789abcdef") && text.contains("5 rounds"));
        assert!(!text.contains("create_session"));
        for (name, arguments, expected) in [
            (
                "no roles",
                &[("purpose", "p"), ("expert_roles", " , ")][..],
                "at least one role",
            ),
            (
                "rounds",
                &[("purpose", "p"), ("expert_roles", "a"), ("iteration_rounds", "11")],
                "from 1 to 10",
            ),
            (
                "kind",
                &[("purpose", "p"), ("expert_roles", "a"), ("collaboration_type", "war")],
                "peer-review",
            ),
            (
                "session",
                &[("purpose", "p"), ("expert_roles", "a"), ("session_id", "x")],
                "session_id",
            ),
        ] {
            let error = get(arguments).unwrap_err();
            assert!(error.contains(expected), "{name}: {error}");
        }
    }
}
