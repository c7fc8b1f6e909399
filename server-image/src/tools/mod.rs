//! The tools this server offers. A toolset is one folder: its tools, its storage, its tests.

mod call;
mod error;
pub mod fixtures;
pub mod shared_context;

pub use call::CallContext;
pub use error::{Severity, ToolError};

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use rmcp::handler::server::common::schema_for_input;
use rmcp::model::{JsonObject, Tool, ToolAnnotations};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What a tool call gives: the JSON for the caller, or the error for the caller.
pub type ToolResult = Result<Value, ToolError>;

type Run = Box<dyn Fn(JsonObject, CallContext) -> BoxFuture<'static, ToolResult> + Send + Sync>;

struct Registered {
    definition: Tool,
    run: Run,
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

/// All tools of a server by name. Listing is in the order of names, so it is the same on every replica.
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
        description: &'static str,
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
        let run: Run = Box::new(move |arguments, context| {
            let run = Arc::clone(&run);
            Box::pin(async move {
                let arguments =
                    serde_json::from_value(Value::Object(arguments)).map_err(|error| ToolError::arguments(&error))?;
                let output = run(arguments, context).await?;
                serde_json::to_value(output).map_err(|error| ToolError::internal(&error))
            })
        });
        self.tools.insert(name, Registered { definition, run });
        Ok(())
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
    pub fn call(
        &self,
        name: &str,
        arguments: JsonObject,
        context: CallContext,
    ) -> Option<BoxFuture<'static, ToolResult>> {
        self.tools.get(name).map(|tool| (tool.run)(arguments, context))
    }
}
