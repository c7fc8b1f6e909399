//! Changing the figures while the server runs: all of a request or nothing of it, and an honest answer.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use http::HeaderMap;
use jiff::Timestamp;
use serde::Deserialize;

use super::signature::{self, KEY_MIN, Purpose, Refused};
use super::{CONCURRENCY_MAX, CacheInForce, InForce, POOL_MAX, PoolInForce, QUEUE_MAX};
use crate::admission::Admission;
use crate::cache::{Cache, LOCAL_BYTES_MAX};
use crate::database::{Database, DatabaseError};
use crate::lock;
use crate::memory;

/// Who may change the figures.
#[derive(Debug, Clone, Default)]
pub struct Authority {
    /// File with the key that signs changes. It is read at each change, so a new key needs no restart. Without it
    /// nothing can be changed.
    pub key_file: Option<PathBuf>,
    /// UID of the pod this server runs in.
    pub pod_uid: Option<String>,
}

/// A key that cannot be used, found at the start.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAuthority {
    /// The file is not there.
    #[error("cannot read the tuning key {path} (--tuning-key-file): {cause}", path = .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// Too easy to guess.
    #[error("the tuning key {path} (--tuning-key-file) must have at least {KEY_MIN} bytes", path = .0.display())]
    Short(PathBuf),
    /// A signature names the pod it is for.
    #[error("--tuning-key-file needs the pod's UID: set --pod-uid (MCP_POD_UID) from metadata.uid")]
    NoPodUid,
}

impl Authority {
    /// Whether a change could be verified.
    ///
    /// # Errors
    /// [`InvalidAuthority`] names what is missing. No key at all is no error.
    pub fn check(&self) -> Result<(), InvalidAuthority> {
        let Some(path) = &self.key_file else { return Ok(()) };
        if self.pod_uid.as_ref().is_none_or(String::is_empty) {
            return Err(InvalidAuthority::NoPodUid);
        }
        read_key(path).map(drop)
    }

    /// Verifies a request for `purpose`, which must be later than `last`, the time of the one accepted before. Returns
    /// its time, in milliseconds since 1970.
    pub(super) fn verify(
        &self,
        purpose: Purpose,
        headers: &HeaderMap,
        body: &[u8],
        last: Option<i64>,
    ) -> Result<i64, ChangeError> {
        let path = self.key_file.as_ref().ok_or(ChangeError::NoKey)?;
        let pod_uid = self.pod_uid.as_deref().ok_or(InvalidAuthority::NoPodUid)?;
        let key = read_key(path)?;
        let time = signature::verify(purpose, headers, &key, pod_uid, body, Timestamp::now(), last)?;
        Ok(time)
    }
}

fn read_key(path: &PathBuf) -> Result<Vec<u8>, InvalidAuthority> {
    let content = std::fs::read(path).map_err(|cause| InvalidAuthority::Read {
        path: path.clone(),
        cause,
    })?;
    let key = content.trim_ascii();
    if key.len() < KEY_MIN {
        return Err(InvalidAuthority::Short(path.clone()));
    }
    Ok(key.to_vec())
}

/// A wanted change; what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Change {
    /// The pool.
    pub pool: Option<PoolChange>,
    /// Requests served at once, 1 to [`CONCURRENCY_MAX`].
    pub concurrency: Option<usize>,
    /// The caches.
    pub cache: Option<CacheChange>,
    /// Requests that may wait, 0 to [`QUEUE_MAX`]. Unless it has ever been set, it is twice the concurrency.
    pub queue_max: Option<usize>,
}

/// The pool's part of a [`Change`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolChange {
    /// Most connections, 1 to [`POOL_MAX`].
    pub max: Option<usize>,
}

/// The caches' part of a [`Change`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CacheChange {
    /// Bytes of values kept in the process, 0 to [`LOCAL_BYTES_MAX`], and at most 60 % of the container's memory.
    pub l1_bytes: Option<u64>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// This server has no key.
    #[error("this server takes no changes: it was started without --tuning-key-file (MCP_TUNING_KEY_FILE)")]
    NoKey,
    /// The key file went away or was emptied.
    #[error(transparent)]
    Key(#[from] InvalidAuthority),
    /// The request is not believed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The body is no change.
    #[error("the body is not a valid change: {0}")]
    Body(#[from] serde_json::Error),
    /// A figure is out of range.
    #[error("{name} must be {least} to {most}, not {value}; nothing has been changed")]
    Range {
        /// Which figure.
        name: &'static str,
        /// Smallest allowed.
        least: usize,
        /// Largest allowed.
        most: usize,
        /// What was asked for.
        value: usize,
    },
    /// There is not so much memory.
    #[error("cache.l1Bytes must be at most {most}, not {value}; nothing has been changed")]
    TooManyBytes {
        /// Largest allowed.
        most: u64,
        /// What was asked for.
        value: u64,
    },
    /// Other replicas could not be told.
    #[error("only this replica has forgotten, if any: {0}")]
    Database(#[from] DatabaseError),
    /// The figure means nothing here.
    #[error("{0}; nothing has been changed")]
    Meaningless(&'static str),
}

/// The figures of a running server.
pub struct Tuner {
    authority: Authority,
    admission: Arc<Admission>,
    database: Database,
    cache: Cache,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Time of the last accepted request, milliseconds since 1970.
    accepted: Option<i64>,
    /// Whether somebody has set the queue, so that it no longer follows the concurrency.
    queue_set: bool,
}

impl Tuner {
    /// The figures of a server; `queue_set` says whether its queue was set at the start.
    #[must_use]
    pub fn new(
        authority: Authority,
        admission: Arc<Admission>,
        database: Database,
        cache: Cache,
        queue_set: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            authority,
            admission,
            database,
            cache,
            state: Mutex::new(State {
                accepted: None,
                queue_set,
            }),
        })
    }

    /// What is in force now.
    #[must_use]
    pub fn in_force(&self) -> InForce {
        InForce {
            pod_uid: self.authority.pod_uid.clone(),
            pool: self.database.pool().map(|pool| PoolInForce {
                max: pool.max,
                open: pool.open,
            }),
            cache: CacheInForce {
                l1_bytes: self.cache.capacity(),
                l1_used_bytes: self.cache.bytes(),
            },
            concurrency: self.admission.concurrency(),
            queue_max: self.admission.queue_max(),
        }
    }

    /// Verifies a request and does what it asks for: all of it or nothing.
    ///
    /// # Errors
    /// [`ChangeError`] says why nothing was changed.
    pub fn change(&self, headers: &HeaderMap, body: &[u8]) -> Result<InForce, ChangeError> {
        // Held to the end: of two requests at once, one comes wholly before the other.
        let mut state = lock(&self.state);
        let time = self.authority.verify(Purpose::Tuning, headers, body, state.accepted)?;
        let change: Change = serde_json::from_slice(body)?;
        self.check(&change)?;
        state.accepted = Some(time);
        self.apply(&change, &mut state);
        let in_force = self.in_force();
        tracing::info!(?change, "the operator has changed the tuning");
        Ok(in_force)
    }

    fn check(&self, change: &Change) -> Result<(), ChangeError> {
        let pool = change.pool.as_ref().and_then(|pool| pool.max);
        for (name, value, least, most) in [
            ("pool.max", pool, 1, POOL_MAX),
            ("concurrency", change.concurrency, 1, CONCURRENCY_MAX),
            ("queueMax", change.queue_max, 0, QUEUE_MAX),
        ] {
            if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
                return Err(ChangeError::Range {
                    name,
                    least,
                    most,
                    value,
                });
            }
        }
        if pool.is_some() && self.database.pool().is_none() {
            return Err(ChangeError::Meaningless(
                "pool.max cannot be set: this server's database is a SQLite file, which has no pool",
            ));
        }
        let most = memory::limit().map_or(LOCAL_BYTES_MAX, |limit| LOCAL_BYTES_MAX.min(limit / 5 * 3));
        match change.cache.as_ref().and_then(|cache| cache.l1_bytes) {
            Some(value) if value > most => Err(ChangeError::TooManyBytes { most, value }),
            _ => Ok(()),
        }
    }

    /// Nothing here can fail: what could was checked before.
    fn apply(&self, change: &Change, state: &mut State) {
        if let Some(max) = change.pool.as_ref().and_then(|pool| pool.max) {
            self.database.resize_pool(max);
        }
        if let Some(bytes) = change.cache.as_ref().and_then(|cache| cache.l1_bytes) {
            self.cache.resize(bytes);
        }
        state.queue_set |= change.queue_max.is_some();
        if change.concurrency.is_some() || change.queue_max.is_some() {
            let concurrency = change.concurrency.unwrap_or_else(|| self.admission.concurrency());
            let queue_max = match change.queue_max {
                Some(queue_max) => queue_max,
                None if state.queue_set => self.admission.queue_max(),
                None => 2 * concurrency,
            };
            self.admission.resize(concurrency, queue_max);
        }
    }
}
