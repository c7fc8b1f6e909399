//! Forgetting: around this replica's own writes, and on demand at all replicas.

use super::Cache;
use super::follower::PREFIX_TAG;
use crate::database::DatabaseError;

impl Cache {
    /// To be called around a write: whatever becomes of it, even if the caller is dropped while it waits, nothing that
    /// was read under `tags` before its end is served at this replica any more. Other replicas learn from the journal.
    pub fn writing(&self, tags: Vec<String>) -> Writing {
        Writing {
            cache: self.clone(),
            tags,
        }
    }

    /// Makes all replicas forget what they keep under these tags; for changes that no trigger notes.
    ///
    /// # Errors
    /// [`DatabaseError`] when the journal cannot be written; then only this replica has forgotten.
    pub async fn invalidate(&self, tags: Vec<String>) -> Result<(), DatabaseError> {
        // Until the others can know of it, this replica may still take an old value from the tier that it shares.
        let _writing = self.writing(tags.clone());
        self.0.follower.announce(tags).await
    }

    /// Makes all replicas forget the values whose keys begin with `prefix`, such as `page:` for all pages of messages;
    /// all values, if it is empty.
    ///
    /// # Errors
    /// [`DatabaseError`] when the journal cannot be written.
    pub async fn invalidate_prefix(&self, prefix: &str) -> Result<(), DatabaseError> {
        self.0.follower.announce(vec![format!("{PREFIX_TAG}{prefix}")]).await?;
        // This replica looks at once. If it cannot, it knows as soon as the others: the change is noted all the same.
        let _ = self.0.follower.up_to_now().await;
        Ok(())
    }
}

/// A write that is going on.
#[must_use = "the write ends when this is dropped"]
pub struct Writing {
    cache: Cache,
    tags: Vec<String>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.cache.0.follower.written(&self.tags);
    }
}
