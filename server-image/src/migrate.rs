//! `mcp-server migrate`: the schema brought up to date by itself, for example before a new version is rolled out.
//!
//! `serve` does the same when it starts. Both are safe to repeat and to run from many places at once: whoever comes
//! first applies a step, the others wait and find it done.

use std::fmt;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use tokio::time::sleep;

use crate::cache;
use crate::database::{Database, DatabaseError, DatabaseTarget, Migration, PoolSettings, Pooler};
use crate::mcp;
use crate::tools::shared_context;

/// One connection is enough.
const CONNECTIONS: usize = 1;
/// Pause between two attempts to reach the database.
const PAUSE: Duration = Duration::from_millis(500);

/// Every step of the schema that this version knows, in order.
#[must_use]
pub fn steps() -> Vec<Migration> {
    [shared_context::MIGRATIONS, &mcp::migrations(), cache::MIGRATIONS].concat()
}

/// Steps that a database lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    target: String,
    names: Vec<&'static str>,
}

impl Pending {
    /// Whether the schema is up to date.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

impl fmt::Display for Pending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(formatter, "{}: the schema is up to date", self.target);
        }
        writeln!(formatter, "{}: {} pending", self.target, count(self.names.len()))?;
        self.names.iter().try_for_each(|name| writeln!(formatter, "  {name}"))
    }
}

/// Steps that a database lacked and has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done(Pending);

impl fmt::Display for Done {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pending { target, names } = &self.0;
        if names.is_empty() {
            return writeln!(formatter, "{target}: the schema was up to date already");
        }
        writeln!(
            formatter,
            "{target}: the schema is up to date after {}",
            count(names.len())
        )?;
        names.iter().try_for_each(|name| writeln!(formatter, "  {name}"))
    }
}

fn count(steps: usize) -> String {
    if steps == 1 {
        "1 step".to_owned()
    } else {
        format!("{steps} steps")
    }
}

/// The steps that `target` lacks; changes nothing. Keeps trying for `wait` while the database cannot be reached.
///
/// # Errors
/// [`DatabaseError`] when it cannot be reached or read.
pub async fn pending(target: &DatabaseTarget, pooler: Pooler, wait: Duration) -> Result<Pending, DatabaseError> {
    let applied = match target {
        // Looking at a file must not create it.
        DatabaseTarget::Sqlite(path) if !path.exists() => Vec::new(),
        _ => {
            let database = open(target, pooler)?;
            patiently(wait, async || database.applied().await).await?
        }
    };
    Ok(lacking(target, &applied))
}

/// Applies the steps that `target` lacks. Keeps trying for `wait` while the database cannot be reached.
///
/// # Errors
/// [`DatabaseError`] when it cannot be reached or refuses a step; the steps before that one are not applied either.
pub async fn run(target: &DatabaseTarget, pooler: Pooler, wait: Duration) -> Result<Done, DatabaseError> {
    let database = open(target, pooler)?;
    let applied = patiently(wait, async || database.applied().await).await?;
    patiently(wait, async || database.migrate(&steps()).await).await?;
    Ok(Done(lacking(target, &applied)))
}

fn open(target: &DatabaseTarget, pooler: Pooler) -> Result<Database, DatabaseError> {
    let pool = PoolSettings {
        max: CONNECTIONS,
        pooler,
    };
    Database::open_pooled(target, pool, &mut Registry::default())
}

fn lacking(target: &DatabaseTarget, applied: &[String]) -> Pending {
    let missing = |name: &&'static str| !applied.iter().any(|applied| applied == name);
    Pending {
        target: target.to_string(),
        names: steps().iter().map(|step| step.name).filter(missing).collect(),
    }
}

/// Repeats `attempt` until it succeeds, fails for good, or `wait` is over.
async fn patiently<T>(
    wait: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, DatabaseError>,
) -> Result<T, DatabaseError> {
    let until = Instant::now() + wait;
    loop {
        match attempt().await {
            Err(error) if may_pass(&error) && Instant::now() + PAUSE < until => sleep(PAUSE).await,
            result => return result,
        }
    }
}

/// Whether an error may be gone soon: the database starts, fails over to another machine, or a backup holds a table.
const fn may_pass(error: &DatabaseError) -> bool {
    matches!(
        error,
        DatabaseError::Connect(_)
            | DatabaseError::NoAnswer(_)
            | DatabaseError::PoolTimeout { .. }
            | DatabaseError::Locked { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step with the name of another would never be applied.
    #[test]
    fn names_of_steps_are_unique() {
        let mut names: Vec<_> = steps().iter().map(|step| step.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    /// A person who runs it by hand must see what was and is done.
    #[test]
    fn messages_name_database_and_steps() {
        let pending = Pending {
            target: "SQLite file x".to_owned(),
            names: vec!["a"],
        };
        assert_eq!(pending.to_string(), "SQLite file x: 1 step pending\n  a\n");
        assert_eq!(
            Done(pending.clone()).to_string(),
            "SQLite file x: the schema is up to date after 1 step\n  a\n"
        );
        let none = Pending {
            names: vec![],
            ..pending
        };
        assert_eq!(none.to_string(), "SQLite file x: the schema is up to date\n");
        assert_eq!(
            Done(none).to_string(),
            "SQLite file x: the schema was up to date already\n"
        );
    }
}
