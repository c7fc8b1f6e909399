//! Tools by name: how they are described, and how a call of one runs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use rmcp::ErrorData;
use rmcp::handler::server::common::schema_for_input;
use rmcp::model::{CallToolRequestParams, CallToolResponse, CallToolResult, JsonObject, Tool, ToolAnnotations};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{CallContext, ToolError};

/// What a tool of typed arguments gives: the JSON for the caller, or the error for the caller.
pub type ToolResult = Result<Value, ToolError>;

/// How a call ended.
#[derive(Debug)]
pub enum Called {
    /// The tool's JSON.
    Value(Value),
    /// The tool's error envelope.
    Failed(ToolError),
    /// A whole answer: images, audio, links, a request for input.
    Whole(Box<CallToolResponse>),
    /// An error of the protocol instead of a result.
    Refused(ErrorData),
}

type Run = Box<dyn Fn(CallToolRequestParams, CallContext) -> BoxFuture<'static, Called> + Send + Sync>;

struct Registered {
    definition: Tool,
    run: Run,
    /// Whether it needs its arguments only, and tells its client its result only.
    is_plain: bool,
}

/// How a tool behaves, told to clients as hints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Changes nothing.
    Reads,
    /// Adds something; calling twice adds twice.
    Adds,
    /// Sets something; calling twice with the same arguments is the same as once.
    Sets,
}

/// All tools of a server by name.
#[derive(Default)]
pub struct ToolRegistry {
    tools: BTreeMap<&'static str, Registered>,
}

/// A tool whose arguments cannot be described to clients.
#[derive(Debug, thiserror::Error)]
#[error("tool {tool}: the argument type has no valid JSON schema: {cause}")]
pub struct InvalidTool {
    tool: &'static str,
    cause: String,
}

impl ToolRegistry {
    /// Adds a tool whose arguments are described and parsed by `Arguments`.
    ///
    /// # Errors
    /// [`InvalidTool`] when `Arguments` is not an object.
    pub fn add<Arguments, Output, Running>(
        &mut self,
        name: &'static str,
        effect: Effect,
        description: impl Into<Cow<'static, str>>,
        run: impl Fn(Arguments, CallContext) -> Running + Send + Sync + 'static,
    ) -> Result<(), InvalidTool>
    where
        Arguments: DeserializeOwned + JsonSchema + Send + 'static,
        Output: Serialize,
        Running: Future<Output = Result<Output, ToolError>> + Send + 'static,
    {
        let schema = schema_for_input::<Arguments>().map_err(|cause| InvalidTool { tool: name, cause })?;
        let annotations = ToolAnnotations::new()
            .read_only(effect == Effect::Reads)
            .destructive(false)
            .idempotent(effect != Effect::Adds);
        let definition = Tool::new(name, description, schema).with_annotations(annotations);
        let run = Arc::new(run);
        let run: Run = Box::new(move |request, context| {
            let run = Arc::clone(&run);
            Box::pin(async move {
                let called = async {
                    let arguments = Value::Object(request.arguments.unwrap_or_default());
                    let arguments = serde_json::from_value(arguments).map_err(|error| ToolError::arguments(&error))?;
                    let output = run(arguments, context).await?;
                    serde_json::to_value(output).map_err(|error| ToolError::internal(&error))
                };
                called.await.map_or_else(Called::Failed, Called::Value)
            })
        });
        self.insert(name, definition, run, true);
        Ok(())
    }

    /// Adds a tool that sees the whole request and gives the whole answer, for what [`Self::add`] cannot say: content
    /// other than JSON, requests for input, errors of the protocol. Its name is that of `definition`, given again as
    /// `name` because metrics need it for ever.
    pub fn add_whole<Running>(
        &mut self,
        name: &'static str,
        mut definition: Tool,
        run: impl Fn(CallToolRequestParams, CallContext) -> Running + Send + Sync + 'static,
    ) where
        Running: Future<Output = Result<CallToolResponse, ErrorData>> + Send + 'static,
    {
        definition.name = name.into();
        let run: Run = Box::new(move |request, context| {
            let running = run(request, context);
            Box::pin(async move {
                match running.await {
                    Ok(response) => Called::Whole(Box::new(response)),
                    Err(error) => Called::Refused(error),
                }
            })
        });
        self.insert(name, definition, run, false);
    }

    /// Adds a tool that sees its arguments alone, as with [`Self::add`], and answers with content of any kind.
    pub fn add_content(
        &mut self,
        name: &'static str,
        mut definition: Tool,
        answer: impl Fn(JsonObject) -> CallToolResult + Send + Sync + 'static,
    ) {
        definition.name = name.into();
        let run: Run = Box::new(move |request, _| {
            let result = answer(request.arguments.unwrap_or_default());
            Box::pin(async { Called::Whole(Box::new(result.into())) })
        });
        self.insert(name, definition, run, true);
    }

    fn insert(&mut self, name: &'static str, definition: Tool, run: Run, is_plain: bool) {
        let registered = Registered {
            definition,
            run,
            is_plain,
        };
        self.tools.insert(name, registered);
    }

    /// Whether there are no tools.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    /// Names of all tools, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.tools.keys().copied()
    }

    /// The tool's own copy of `name`, which lives as long as the program.
    #[must_use]
    pub fn known_name(&self, name: &str) -> Option<&'static str> {
        self.tools.get_key_value(name).map(|(known, _)| *known)
    }

    /// As [`Self::known_name`], for tools that were not added with [`Self::add_whole`]: they neither see the MCP request nor tell
    /// its client anything but their result.
    #[must_use]
    pub fn plain_name(&self, name: &str) -> Option<&'static str> {
        let (known, registered) = self.tools.get_key_value(name)?;
        registered.is_plain.then_some(*known)
    }

    /// Definitions of all tools, in the order of names.
    #[must_use]
    pub fn definitions(&self) -> Vec<Tool> {
        self.tools.values().map(|tool| tool.definition.clone()).collect()
    }

    /// Definition of one tool.
    #[must_use]
    pub fn definition(&self, name: &str) -> Option<&Tool> {
        self.tools.get(name).map(|tool| &tool.definition)
    }

    /// Starts a call; `None` when there is no such tool.
    #[must_use]
    pub fn call(&self, request: CallToolRequestParams, context: CallContext) -> Option<BoxFuture<'static, Called>> {
        self.tools
            .get(request.name.as_ref())
            .map(|tool| (tool.run)(request, context))
    }
}
