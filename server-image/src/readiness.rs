//! Whether this replica should get traffic: its schema is in place, the database answers, it can verify callers, and it
//! is not draining.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::join;
use tokio::time::{sleep, timeout};

use crate::auth::Auth;
use crate::database::{Database, DatabaseError, Migration};
use crate::drain::Drain;

/// Time between two checks of the database.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// The database counts as gone only when nothing has been answered for this long: all replicas share it, so one slow
/// check must not take all of them out of service at the same moment.
const SILENCE: Duration = Duration::from_secs(6);
/// First and longest pause between two attempts to reach the database at the start.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LONGEST: Duration = Duration::from_secs(3);
/// Longest pause between two attempts to build an index: each may be work for hours.
const INDEX_RETRY_LONGEST: Duration = Duration::from_mins(1);
/// So long indexes are waited for before there is traffic: as a rule they are there, or built at once. What takes
/// longer slows calls down, but takes no replica out of service.
const INDEXES: Duration = Duration::from_secs(2);

/// The state behind `/readyz`. Cheap to clone.
#[derive(Clone)]
pub struct Readiness {
    database_answers: Arc<AtomicBool>,
    auth: Option<Arc<Auth>>,
    drain: Drain,
}

/// Why a replica is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// It is about to end.
    #[error("draining: this replica finishes what it has and takes nothing new")]
    Draining,
    /// It cannot do its work.
    #[error("the database does not answer")]
    DatabaseUnreachable,
    /// It would refuse every caller.
    #[error("the identity provider's keys have not been fetched yet, so no token can be verified (--oidc-issuer)")]
    NoKeys,
}

impl Readiness {
    /// Not ready until the database has answered and `auth` can verify callers. Once it can it does, even while the
    /// identity provider is away, which so takes no replica out of service.
    #[must_use]
    pub fn new(drain: Drain, auth: Option<Arc<Auth>>) -> Self {
        Self {
            database_answers: Arc::default(),
            auth,
            drain,
        }
    }

    /// Whether to send traffic here.
    ///
    /// # Errors
    /// [`NotReady`] says why not.
    pub fn check(&self) -> Result<(), NotReady> {
        if self.drain.has_begun() {
            return Err(NotReady::Draining);
        }
        if !self.database_answers() {
            return Err(NotReady::DatabaseUnreachable);
        }
        if self.auth.as_ref().is_some_and(|auth| !auth.can_verify()) {
            return Err(NotReady::NoKeys);
        }
        Ok(())
    }

    /// Whether the database answers.
    #[must_use]
    pub fn database_answers(&self) -> bool {
        self.database_answers.load(Ordering::Relaxed)
    }

    fn set_database(&self, answers: bool) {
        if self.database_answers.swap(answers, Ordering::Relaxed) != answers {
            if answers {
                tracing::info!("the database answers");
            } else {
                tracing::warn!("the database does not answer: not ready");
            }
        }
    }
}

/// Prepares the schema, however long the database takes to come up, then watches that it keeps answering while it
/// builds what indexes are missing. Runs until it is aborted.
pub async fn watch_database(database: Database, migrations: Vec<Migration>, readiness: Readiness) {
    until_done(RETRY_LONGEST, || database.migrate_tables(&migrations)).await;
    let mut indexes = pin!(until_done(INDEX_RETRY_LONGEST, || database.build_indexes(&migrations)).fuse());
    // Who builds with the only connection could serve nobody meanwhile.
    let is_only = database.pool().is_some_and(|pool| pool.max == 1);
    let longest = if is_only { Duration::MAX } else { INDEXES };
    if timeout(longest, &mut indexes).await.is_err() {
        tracing::info!("ready before all indexes are built");
    }
    join(indexes, watch(&database, &readiness)).await;
}

/// Checks again and again that the database answers; does not end.
async fn watch(database: &Database, readiness: &Readiness) {
    let mut silent_for = Duration::ZERO;
    loop {
        match database.check().await {
            Ok(()) => {
                silent_for = Duration::ZERO;
                readiness.set_database(true);
            }
            Err(error) => {
                tracing::warn!(%error, "database check failed");
                silent_for += CHECK_INTERVAL;
                let unanswered = database.since_last_answer().unwrap_or(silent_for);
                if unanswered >= SILENCE {
                    readiness.set_database(false);
                }
            }
        }
        sleep(CHECK_INTERVAL).await;
    }
}

/// Repeats `attempt` until it succeeds, with pauses that grow up to `longest`.
async fn until_done<F>(longest: Duration, attempt: impl Fn() -> F)
where
    F: Future<Output = Result<(), DatabaseError>>,
{
    let mut pause = RETRY_FIRST;
    while let Err(error) = attempt().await {
        tracing::warn!(%error, retry_in = ?pause, "the schema is not up to date yet");
        sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}
