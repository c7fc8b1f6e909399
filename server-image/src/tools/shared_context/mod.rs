//! Shared context: sessions, messages and memory that several agents use together.
//!
//! Tool names, arguments, limits and results are those of the shared-context server that agents know already.

mod caller;
mod checks;
mod header_cache;
pub mod limits;
mod model;
pub mod search;
mod storage;
mod tools;

pub use caller::{ANONYMOUS, Caller};
pub use header_cache::{HeaderCache, InvalidRedisUrl};
pub use model::{
    Agent, ListedMemory, MemoryEntry, MemoryQuery, MemoryScope, Message, MessagePage, NewMemory, NewMessage,
    NewSession, SessionHeader, SessionView, StoredMemory, StoredMessage, Visibility,
};
pub use storage::{MIGRATIONS, Memory, MessageQuery, Messages, Sessions, Storage, StorageError, open};
pub use tools::SharedContext;
