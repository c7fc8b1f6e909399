//! Forgetting cached values at the operator's word, for changes of the data that no trigger has seen: a table that was
//! restored, or filled with triggers switched off.

use std::sync::Mutex;

use http::HeaderMap;
use serde::{Deserialize, Serialize};

use super::control::{Authority, ChangeError};
use super::signature::Purpose;
use crate::cache::{Cache, PREFIX_TAG};
use crate::lock;

/// What to forget: at least one of both.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Invalidation {
    /// Values that depend on these, such as `session:session_0123456789abcdef`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Values whose keys begin so, such as `page:` for all pages of messages; all values, if it is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

/// Who makes the caches of all replicas forget.
pub struct Invalidator {
    authority: Authority,
    cache: Cache,
    /// Time of the last accepted request, milliseconds since 1970.
    accepted: Mutex<Option<i64>>,
}

impl Invalidator {
    /// For one server; `authority` says who may ask.
    #[must_use]
    pub const fn new(authority: Authority, cache: Cache) -> Self {
        Self {
            authority,
            cache,
            accepted: Mutex::new(None),
        }
    }

    /// Verifies a request and does what it asks for. All replicas have forgotten after the staleness that they are
    /// allowed; this one when it returns, unless the database fails after it was told.
    ///
    /// # Errors
    /// [`ChangeError`] says why not.
    pub async fn forget(&self, headers: &HeaderMap, body: &[u8]) -> Result<Invalidation, ChangeError> {
        let wanted = self.accept(headers, body)?;
        if !wanted.tags.is_empty() {
            self.cache.invalidate(wanted.tags.clone()).await?;
        }
        if let Some(prefix) = &wanted.prefix {
            self.cache.invalidate_prefix(prefix).await?;
        }
        tracing::info!(?wanted, "the operator has invalidated cached values");
        Ok(wanted)
    }

    fn accept(&self, headers: &HeaderMap, body: &[u8]) -> Result<Invalidation, ChangeError> {
        let mut accepted = lock(&self.accepted);
        let time = self.authority.verify(Purpose::Invalidation, headers, body, *accepted)?;
        let wanted: Invalidation = serde_json::from_slice(body)?;
        if wanted.tags.is_empty() && wanted.prefix.is_none() {
            return Err(ChangeError::Meaningless("tags or a prefix must say what to forget"));
        }
        if wanted.tags.iter().any(|tag| tag.starts_with(PREFIX_TAG)) {
            return Err(ChangeError::Meaningless(
                "a tag must not begin with prefix:; give it as the prefix",
            ));
        }
        *accepted = Some(time);
        Ok(wanted)
    }
}
