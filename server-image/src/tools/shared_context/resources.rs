//! Resources: what clients read by URI and may follow. Whoever reads them is resolved as for tools, from the token in
//! `Authorization: Bearer`, since there is no place for arguments.
//!
//! Following tells that something was written to a session, to whoever may read the session; it never tells what.

mod memory_uri;

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rmcp::model::{ResourceContents, ResourceTemplate};
use serde_json::{Value, json};

use super::caller::{Caller, Claim};
use super::checks::{self, explain};
use super::limits;
use super::model::{MemoryQuery, MemoryScope};
use super::permission::Permission;
use super::storage::StorageError;
use super::tools::SharedContext;
use crate::tools::{CallContext, ReadResult, ResourceAnswer, ResourceProvider, ToolError, ToolRegistry};

pub(super) use memory_uri::{memory_uri, other_memory_uris};

const JSON: &str = "application/json";
const MARKDOWN: &str = "text/markdown";
/// What is the same for everybody changes only with the server's version.
const FRESH: Duration = Duration::from_mins(5);

/// The resources of the toolset.
pub(super) struct Resources {
    toolset: Arc<SharedContext>,
    /// Text of `docs://tools/…`.
    documentation: String,
    /// Names of the tools, for `server://info/…`.
    tools: Vec<&'static str>,
}

/// A resource that a URI names.
#[derive(Debug, PartialEq, Eq)]
enum Named<'a> {
    Session(&'a str),
    Messages {
        session: &'a str,
        limit: &'a str,
    },
    /// Of the agent whose id is written so.
    Memory(&'a str),
    Server,
    Documentation,
    Performance,
}

impl<'a> Named<'a> {
    fn of(uri: &'a str) -> Option<Self> {
        let (scheme, rest) = uri.split_once("://")?;
        let parts: Vec<&str> = rest.split('/').collect();
        Some(match (scheme, parts.as_slice()) {
            ("session", [session]) => Self::Session(session),
            ("session", [session, "messages", limit]) => Self::Messages { session, limit },
            ("agent", [.., "memory"]) => Self::Memory(rest.strip_suffix("/memory")?),
            ("server", ["info", _]) => Self::Server,
            ("docs", ["tools", _]) => Self::Documentation,
            ("performance", ["metrics"]) => Self::Performance,
            _ => return None,
        })
    }
}

impl Resources {
    pub(super) fn new(toolset: &Arc<SharedContext>, tools: &ToolRegistry) -> Self {
        Self {
            toolset: Arc::clone(toolset),
            documentation: documentation(tools),
            tools: tools.names().collect(),
        }
    }
}

impl ResourceProvider for Resources {
    fn templates(&self) -> Vec<ResourceTemplate> {
        [
            (
                "session://{session_id}",
                "session",
                JSON,
                "A session with its most recent messages that you may read.",
            ),
            (
                "session://{session_id}/messages/{limit}",
                "session-messages",
                JSON,
                "The most recent messages of a session that you may read, newest first; limit is from 1 to 1000. Fewer \
                 if they are long.",
            ),
            (
                "agent://{agent_id}/memory",
                "agent-memory",
                JSON,
                "Your own memory: the 200 entries set last, with the first MiB of their values.",
            ),
            (
                "server://info/{_}",
                "server-info",
                JSON,
                "What this server is and offers; {_} may be anything.",
            ),
            (
                "docs://tools/{_}",
                "tools-documentation",
                MARKDOWN,
                "The tools of this server; {_} may be anything.",
            ),
            // Not among the resources with a fixed URI: clients read those without being asked, and few may read this.
            (
                "performance://metrics",
                "performance-metrics",
                JSON,
                "How this replica does. Needs the permission admin.",
            ),
        ]
        .map(|(template, name, kind, description)| {
            ResourceTemplate::new(template, name)
                .with_description(description)
                .with_mime_type(kind)
        })
        .into()
    }

    fn read(&self, uri: &str, context: CallContext) -> Option<BoxFuture<'static, ReadResult>> {
        let toolset = Arc::clone(&self.toolset);
        let whole = uri.to_owned();
        Some(match Named::of(uri)? {
            Named::Session(id) => {
                let id = id.to_owned();
                async move { Ok(private(&toolset.read_session(id, None, &context).await?, whole)) }.boxed()
            }
            Named::Messages { session, limit } => {
                let (id, limit) = (session.to_owned(), limit.to_owned());
                async move { Ok(private(&toolset.read_session(id, Some(limit), &context).await?, whole)) }.boxed()
            }
            Named::Memory(agent) => {
                let agent = agent.to_owned();
                async move { Ok(private(&toolset.read_memory(&agent, &context).await?, whole)) }.boxed()
            }
            Named::Server => {
                let contents = contents(self.server_info().to_string(), whole, JSON);
                async move { Ok(ResourceAnswer::public(contents, FRESH)) }.boxed()
            }
            Named::Documentation => {
                let contents = contents(self.documentation.clone(), whole, MARKDOWN);
                async move { Ok(ResourceAnswer::public(contents, FRESH)) }.boxed()
            }
            Named::Performance => async move {
                let report = toolset
                    .performance_for(Claim::default(), "performance", &context)
                    .await?;
                Ok(private(&report, whole))
            }
            .boxed(),
        })
    }

    fn may_follow(&self, uri: &str, context: CallContext) -> Option<BoxFuture<'static, Result<(), ToolError>>> {
        let toolset = Arc::clone(&self.toolset);
        Some(match Named::of(uri)? {
            Named::Session(id) | Named::Messages { session: id, .. } => {
                let id = id.to_owned();
                async move { toolset.may_follow_session(id, &context).await }.boxed()
            }
            Named::Memory(agent) => {
                let (agent, whole) = (agent.to_owned(), uri.to_owned());
                async move { toolset.may_follow_memory(&agent, &whole, &context).await }.boxed()
            }
            Named::Server | Named::Documentation => async { Ok(()) }.boxed(),
            // It always changes: whoever wants to follow it reads it again and again.
            Named::Performance => return None,
        })
    }
}

impl Resources {
    fn server_info(&self) -> Value {
        json!({
            "name": "mcpscale-mcp-server",
            "version": env!("CARGO_PKG_VERSION"),
            "tools": self.tools,
            "authentication": if self.toolset.callers.keys().is_open() {
                "open: agents are who they say they are"
            } else {
                "token: call authenticate_agent with the API key"
            },
        })
    }
}

impl SharedContext {
    /// A session, or its most recent messages alone if `limit` is given.
    async fn read_session(&self, id: String, limit: Option<String>, context: &CallContext) -> Result<Value, ToolError> {
        let caller = self.reader("session", context).await?;
        let id = checks::session_id(id)?;
        let recent = limit.as_deref().map(page).transpose()?;
        let mut session = self
            .session_for(&id, &caller, recent.unwrap_or(limits::RECENT_MESSAGES))
            .await?;
        if recent.is_some() {
            return Ok(
                json!({"session_id": id, "count": session["message_count"], "messages": session["messages"].take()}),
            );
        }
        session["supports_subscriptions"] = json!(true);
        Ok(session)
    }

    async fn may_follow_session(&self, id: String, context: &CallContext) -> Result<(), ToolError> {
        self.reader("session", context).await?;
        let id = checks::session_id(id)?;
        let header = self.storage.session_header(&id).await.map_err(explain)?;
        header.map(drop).ok_or_else(|| explain(StorageError::SessionNotFound))
    }

    async fn read_memory(&self, written: &str, context: &CallContext) -> Result<Value, ToolError> {
        let caller = self.owner_of_memory(written, context).await?;
        let query = MemoryQuery {
            agent_id: caller.agent_id().to_owned(),
            scope: MemoryScope::All,
            prefix: String::new(),
            limit: limits::MEMORY_RESOURCE_ENTRIES,
            value_bytes: limits::MEMORY_RESOURCE_BYTES,
        };
        let entries = self.storage.list_memory(query).await.map_err(explain)?;
        Ok(json!({"agent_id": caller.agent_id(), "count": entries.len(), "entries": entries}))
    }

    /// Of the ways to write an agent's id, only some are followed: those by which news is told, and that mean no other
    /// agent. Whoever asks by another is told so, since it would never hear anything.
    async fn may_follow_memory(&self, written: &str, uri: &str, context: &CallContext) -> Result<(), ToolError> {
        let caller = self.owner_of_memory(written, context).await?;
        let followed = memory_uri(caller.agent_id());
        if uri == followed || other_memory_uris(caller.agent_id()).contains(uri) {
            return Ok(());
        }
        Err(ToolError::new(
            "INVALID_INPUT_FORMAT",
            "there is no news under this way to write the agent's id",
            &[&format!("Follow {followed}")],
        ))
    }

    /// The caller, if it is the agent whose id is `written`, with escapes or as it is; it alone may see its memory.
    /// Where nobody proves who it is, naming the agent is the claim, and escapes count.
    async fn owner_of_memory(&self, written: &str, context: &CallContext) -> Result<Caller, ToolError> {
        let named = memory_uri::decoded(written);
        let claim = Claim {
            agent_id: Some(named.clone()),
            auth_token: None,
        };
        let caller = self.caller(claim, Permission::Read, "agent_memory", context).await?;
        if [written, &named].contains(&caller.agent_id()) {
            return Ok(caller);
        }
        Err(ToolError::permission_denied(
            "an agent's memory can be read by that agent alone",
            "Read agent://{your agent_id}/memory",
        ))
    }

    async fn reader(&self, resource: &'static str, context: &CallContext) -> Result<Caller, ToolError> {
        self.caller(Claim::default(), Permission::Read, resource, context).await
    }
}

fn page(limit: &str) -> Result<i64, ToolError> {
    let limit = limit
        .parse()
        .map_err(|_| ToolError::invalid(format!("limit must be a number, not {limit:?}"), "limit"))?;
    checks::range("limit", limit, 1, limits::PAGE_MAX)?;
    Ok(limit)
}

fn private(value: &Value, uri: String) -> ResourceAnswer {
    ResourceAnswer::private(contents(value.to_string(), uri, JSON))
}

fn contents(text: String, uri: String, kind: &str) -> ResourceContents {
    ResourceContents::text(text, uri).with_mime_type(kind)
}

/// The tools in Markdown, from their own definitions.
fn documentation(tools: &ToolRegistry) -> String {
    let mut text = "# Tools\n".to_owned();
    for tool in tools.definitions() {
        let description = tool.description.as_deref().unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = write!(text, "\n## {}\n\n{description}\n\n", tool.name);
        let properties = tool.input_schema.get("properties").and_then(Value::as_object);
        for (name, schema) in properties.into_iter().flatten() {
            let description = schema["description"].as_str().unwrap_or_default();
            let _ = writeln!(text, "- `{name}`: {}", description.replace('\n', " "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A URI that is taken for another resource shows something else than was asked for.
    #[test]
    fn uris_name_resources() {
        for (uri, expected) in [
            ("session://s", Some(Named::Session("s"))),
            (
                "session://s/messages/5",
                Some(Named::Messages {
                    session: "s",
                    limit: "5",
                }),
            ),
            ("agent://ann/memory", Some(Named::Memory("ann"))),
            ("agent://team/ann/memory", Some(Named::Memory("team/ann"))),
            ("agent://team%2Fann/memory", Some(Named::Memory("team%2Fann"))),
            ("server://info/x", Some(Named::Server)),
            ("docs://tools/x", Some(Named::Documentation)),
            ("performance://metrics", Some(Named::Performance)),
            ("session://s/other/5", None),
            ("session://s/messages/5/6", None),
            ("agent://ann", None),
            ("server://info", None),
            ("file:///etc/passwd", None),
            ("session:s", None),
        ] {
            assert_eq!(Named::of(uri), expected, "{uri}");
        }
    }
}
