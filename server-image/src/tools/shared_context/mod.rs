//! Shared context: sessions, messages and memory that several agents use together.
//!
//! Tool names, arguments, limits and results are those of the shared-context server that agents know already.

mod api_keys;
mod audit;
mod caller;
mod checks;
mod chores;
pub mod limits;
mod model;
mod permission;
mod prompts;
mod resources;
mod retention;
pub mod search;
mod settings;
mod storage;
mod tokens;
mod tools;

pub use api_keys::{ApiKeys, InvalidApiKeys};
pub use audit::{AuditTrail, Refusal, WRITTEN_WITHIN};
pub use caller::{ANONYMOUS, Caller, Callers, Claim};
pub use chores::Chores;
pub use model::{
    Agent, ListedMemory, MemoryEntry, MemoryQuery, MemoryScope, Message, MessagePage, NewMemory, NewMessage,
    NewSession, NewToken, SessionHeader, SessionView, StoredMemory, StoredMessage, TokenClaims, TokenHash, Visibility,
};
pub use permission::{Permission, Permissions};
pub use retention::{BATCH, Cleaned, Cleaning, Place, RetentionSettings};
pub use settings::SharedContextSettings;
pub use storage::{
    AuditLog, MIGRATIONS, Memory, MessageQuery, Messages, Retention, Sessions, Storage, StorageError, StoredTokens,
    cached, open,
};
pub use tokens::{IssuedToken, REMEMBERED, TokenError, Tokens};
pub use tools::SharedContext;
