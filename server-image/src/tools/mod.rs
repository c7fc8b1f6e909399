//! What this server offers: tools, resources and prompts. A toolset is one folder: its tools, its storage, its tests.
//!
//! A toolset adds what it has to the [`Catalog`]; the protocol ([`crate::mcp`]) lists it and runs it. When something
//! that clients may follow changes, the toolset tells [`crate::changes::Changes`].

mod call;
mod error;
pub mod fixtures;
mod prompt;
mod resource;
pub mod shared_context;
mod tool;

pub use call::CallContext;
pub(crate) use error::INVALID;
pub use error::{Severity, ToolError};
pub use prompt::{PromptArguments, PromptRegistry, PromptResult};
pub use resource::{ReadResult, ResourceAnswer, ResourceProvider, ResourceRegistry};
pub use tool::{Called, Effect, InvalidTool, ToolRegistry, ToolResult};

/// Everything a server offers. Lists are in the order of names, so they are the same on every replica.
#[derive(Default)]
pub struct Catalog {
    /// What clients may call.
    pub tools: ToolRegistry,
    /// What clients may read and follow.
    pub resources: ResourceRegistry,
    /// Messages that clients may begin a conversation with.
    pub prompts: PromptRegistry,
    /// Whether tools write logs for clients.
    pub is_logging: bool,
}
