//! A storage whose reads are cached, and repeated once where that is safe.
//!
//! The keys of what depends on the reader hold the whole [`Agent`], so nobody gets what was read for another one.
//!
//! **What is repeated.** A read whose connection broke, as all of them do when Postgres restarts, is asked again, once.
//! A write is asked again only if it is proven that nothing was done: no connection could be made, or Postgres itself
//! said that it gave the transaction up (a deadlock, a failed serialization).

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    AuditLog, Cleaned, Cleaning, Memory, MessageQuery, Messages, Place, Refusal, Retention, Sessions, Storage,
    StorageError, StoredTokens,
};
use crate::cache::{Cache, Cached, HeapBytes, Key, memory_tag, session_tag};
use crate::tools::shared_context::model::{
    Agent, ListedMemory, MemoryEntry, MemoryQuery, Message, MessagePage, NewMemory, NewMessage, NewSession, NewToken,
    SessionHeader, SessionView, StoredMemory, StoredMessage, TokenClaims, TokenHash,
};
use crate::tools::shared_context::search::{Found, Search, SearchQuery, SearchResults, SenderQuery, TimeQuery, Wanted};

/// `storage`, with `cache` before its reads.
#[must_use]
pub fn cached(storage: Arc<dyn Storage>, cache: Cache) -> Arc<dyn Storage> {
    cache.expect::<SessionHeader>();
    cache.expect::<SessionView>();
    cache.expect::<MessagePage>();
    cache.expect::<MemoryEntry>();
    cache.expect::<Vec<Found>>();
    Arc::new(CachedStorage { storage, cache })
}

struct CachedStorage {
    storage: Arc<dyn Storage>,
    cache: Cache,
}

impl Cached for SessionHeader {
    const KIND: &'static str = "session";
}

impl HeapBytes for SessionHeader {
    fn heap_bytes(&self) -> usize {
        self.id.heap_bytes() + self.purpose.heap_bytes() + self.created_by.heap_bytes() + self.metadata.heap_bytes()
    }
}

impl Cached for SessionView {
    const KIND: &'static str = "view";
}

impl HeapBytes for SessionView {
    fn heap_bytes(&self) -> usize {
        self.recent.heap_bytes()
    }
}

impl Cached for MessagePage {
    const KIND: &'static str = "page";
}

impl HeapBytes for MessagePage {
    fn heap_bytes(&self) -> usize {
        self.messages.heap_bytes()
    }
}

impl HeapBytes for Message {
    fn heap_bytes(&self) -> usize {
        let text = [&self.session_id, &self.sender, &self.content, &self.visibility];
        text.map(HeapBytes::heap_bytes).iter().sum::<usize>() + self.metadata.heap_bytes()
    }
}

impl Cached for MemoryEntry {
    const KIND: &'static str = "memory";

    fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }
}

impl HeapBytes for MemoryEntry {
    fn heap_bytes(&self) -> usize {
        self.value.heap_bytes() + self.metadata.heap_bytes()
    }
}

/// The results of a search; that nothing fits is kept, too.
impl Cached for Vec<Found> {
    const KIND: &'static str = "search";
}

impl HeapBytes for Found {
    fn heap_bytes(&self) -> usize {
        self.message.heap_bytes()
    }
}

/// Asks, and asks again if the connection broke.
async fn read<Value, Asking>(ask: impl Fn() -> Asking + Send) -> Result<Value, StorageError>
where
    Asking: Future<Output = Result<Value, StorageError>> + Send,
{
    match ask().await {
        Err(StorageError::Database(error)) if error.is_lost_connection() => ask().await,
        answer => answer,
    }
}

/// Asks, and asks again if nothing was done.
async fn write<Value, Asking>(ask: impl Fn() -> Asking + Send) -> Result<Value, StorageError>
where
    Asking: Future<Output = Result<Value, StorageError>> + Send,
{
    match ask().await {
        Err(StorageError::Database(error)) if error.is_proven_undone() => ask().await,
        answer => answer,
    }
}

#[async_trait]
impl Sessions for CachedStorage {
    async fn create_session(&self, session: NewSession, has_quota: bool) -> Result<SessionHeader, StorageError> {
        write(|| self.storage.create_session(session.clone(), has_quota)).await
    }

    async fn session_header(&self, id: &str) -> Result<Option<SessionHeader>, StorageError> {
        let key = Key::new::<SessionHeader>(&id, vec![session_tag(id)]);
        let load = || read(|| self.storage.session_header(id));
        Ok(self.cache.get(&key, load).await?.map(Arc::unwrap_or_clone))
    }

    async fn session_view(&self, id: &str, reader: &Agent, recent: i64) -> Result<Option<SessionView>, StorageError> {
        let key = Key::new::<SessionView>(&(id, reader, recent), vec![session_tag(id)]);
        let load = || read(|| self.storage.session_view(id, reader, recent));
        Ok(self.cache.get(&key, load).await?.map(Arc::unwrap_or_clone))
    }
}

#[async_trait]
impl Messages for CachedStorage {
    async fn add_message(&self, message: NewMessage) -> Result<StoredMessage, StorageError> {
        let _writing = self.cache.writing(vec![session_tag(&message.session_id)]);
        write(|| self.storage.add_message(message.clone())).await
    }

    async fn get_messages(&self, query: MessageQuery) -> Result<MessagePage, StorageError> {
        let key = Key::new::<MessagePage>(&query, vec![session_tag(&query.session_id)]);
        let load = || async { read(|| self.storage.get_messages(query.clone())).await.map(Some) };
        let page = self.cache.get(&key, load).await?;
        page.map(Arc::unwrap_or_clone).ok_or(StorageError::SessionNotFound)
    }
}

#[async_trait]
impl Memory for CachedStorage {
    async fn set_memory(&self, entry: NewMemory) -> Result<StoredMemory, StorageError> {
        // The time of the session's last use may change, too: not worth forgetting its messages here at once, before
        // the journal tells of it.
        let tag = memory_tag(&entry.agent_id, entry.session_id.as_deref(), &entry.key);
        let _writing = self.cache.writing(vec![tag]);
        write(|| self.storage.set_memory(entry.clone())).await
    }

    async fn get_memory(
        &self,
        agent_id: &str,
        session_id: Option<&str>,
        key: &str,
    ) -> Result<Option<MemoryEntry>, StorageError> {
        let tags = vec![memory_tag(agent_id, session_id, key)];
        let place = Key::new::<MemoryEntry>(&(agent_id, session_id, key), tags);
        let load = || read(|| self.storage.get_memory(agent_id, session_id, key));
        Ok(self.cache.get(&place, load).await?.map(Arc::unwrap_or_clone))
    }

    async fn list_memory(&self, query: MemoryQuery) -> Result<Vec<ListedMemory>, StorageError> {
        read(|| self.storage.list_memory(query.clone())).await
    }
}

#[async_trait]
impl Search for CachedStorage {
    async fn search(&self, query: SearchQuery, wanted: Wanted) -> Result<SearchResults, StorageError> {
        let key = Key::new::<Vec<Found>>(&(&query, &wanted), vec![session_tag(&query.session_id)]);
        let is_kept = AtomicBool::new(true);
        let load = || async {
            is_kept.store(false, Ordering::Relaxed);
            let results = read(|| self.storage.search(query.clone(), wanted.clone())).await?;
            Ok::<_, StorageError>(Some(Arc::unwrap_or_clone(results.best)))
        };
        let best = self.cache.get(&key, load).await?.ok_or(StorageError::SessionNotFound)?;
        Ok(SearchResults {
            best,
            is_kept: is_kept.into_inner(),
        })
    }

    async fn messages_of_sender(&self, query: SenderQuery) -> Result<Vec<Message>, StorageError> {
        read(|| self.storage.messages_of_sender(query.clone())).await
    }

    async fn messages_of_time(&self, query: TimeQuery) -> Result<Vec<Message>, StorageError> {
        read(|| self.storage.messages_of_time(query.clone())).await
    }
}

#[async_trait]
impl StoredTokens for CachedStorage {
    async fn issue_token(
        &self,
        hash: TokenHash,
        token: NewToken,
        lifetime: Duration,
    ) -> Result<TokenClaims, StorageError> {
        self.storage.issue_token(hash, token, lifetime).await
    }

    async fn token_claims(&self, hash: TokenHash) -> Result<Option<TokenClaims>, StorageError> {
        self.storage.token_claims(hash).await
    }

    async fn replace_token(
        &self,
        old: TokenHash,
        new: TokenHash,
        lifetime: Duration,
    ) -> Result<Option<TokenClaims>, StorageError> {
        self.storage.replace_token(old, new, lifetime).await
    }
}

#[async_trait]
impl AuditLog for CachedStorage {
    async fn audit_refusals(&self, refusals: BTreeMap<Refusal, i64>) -> Result<(), StorageError> {
        self.storage.audit_refusals(refusals).await
    }
}

#[async_trait]
impl Retention for CachedStorage {
    async fn clean(&self, chore: Cleaning, place: &Place, batch: i64) -> Result<Cleaned, StorageError> {
        // The journal notes what it removes.
        self.storage.clean(chore, place, batch).await
    }
}
