//! Removal of what has ended, in a SQLite file, which one process owns.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, Params, params};

use super::{SqliteStorage, micros, now, time};
use crate::tools::shared_context::retention::{Cleaned, Cleaning, Place};
use crate::tools::shared_context::storage::{Retention, StorageError};

/// The next `?4` active sessions behind `?2` and `?3` that are old enough to have been unused since `?1`, in the order
/// of their index.
pub(super) const ACTIVE: &str = "SELECT created_at, id, updated_at < ?1, message_count FROM sessions \
    WHERE is_active AND created_at < ?1 AND (created_at, id) > (?2, ?3) ORDER BY created_at, id LIMIT ?4";

/// The same of closed ones.
pub(super) const CLOSED: &str = "SELECT created_at, id, updated_at < ?1, message_count FROM sessions \
    WHERE NOT is_active AND created_at < ?1 AND (created_at, id) > (?2, ?3) ORDER BY created_at, id LIMIT ?4";

#[async_trait]
impl Retention for SqliteStorage {
    async fn clean(&self, chore: Cleaning, place: &Place, batch: i64) -> Result<Cleaned, StorageError> {
        let place = place.clone();
        let cleaned = self
            .database
            .write(move |transaction| clean(transaction, chore, place, batch))
            .await?;
        // Once in a round, when all of it is removed.
        if cleaned.next.is_none() && chore.is_last() {
            self.database.tidy().await?;
        }
        Ok(cleaned)
    }
}

pub(super) fn clean(
    connection: &Connection,
    chore: Cleaning,
    place: Place,
    batch: i64,
) -> Result<Cleaned, StorageError> {
    match chore {
        Cleaning::ExpiredMemory => {
            let delete = "DELETE FROM agent_memory WHERE rowid IN (SELECT rowid FROM agent_memory WHERE expires_at < ?1 LIMIT ?2)";
            delete_ended(connection, delete, Duration::ZERO, place, batch)
        }
        Cleaning::ExpiredTokens => {
            let delete = "DELETE FROM secure_tokens WHERE rowid IN (SELECT rowid FROM secure_tokens WHERE expires_at < ?1 LIMIT ?2)";
            delete_ended(connection, delete, Duration::ZERO, place, batch)
        }
        Cleaning::InactiveSessions(age) => close(connection, age, place, batch),
        Cleaning::ClosedSessions(age) => remove(connection, age, place, batch),
        Cleaning::AuditLog(age) => {
            let delete = "DELETE FROM audit_log WHERE id IN (SELECT id FROM audit_log WHERE at < ?1 LIMIT ?2)";
            delete_ended(connection, delete, age, place, batch)
        }
    }
}

fn before(age: Duration) -> i64 {
    now().saturating_sub(micros(age))
}

/// Runs a statement, and returns how many rows it changed.
fn change(connection: &Connection, statement: &str, parameters: impl Params) -> Result<i64, StorageError> {
    let rows = connection.prepare_cached(statement)?.execute(parameters)?;
    Ok(i64::try_from(rows).unwrap_or(i64::MAX))
}

const fn cleaned(rows: i64, next: Option<Place>) -> Cleaned {
    Cleaned {
        rows: rows.unsigned_abs(),
        next,
    }
}

/// Deletes what an index leads to: nothing stays that the next step would have to pass, and so it needs no place.
fn delete_ended(
    connection: &Connection,
    delete: &str,
    age: Duration,
    place: Place,
    batch: i64,
) -> Result<Cleaned, StorageError> {
    let rows = change(connection, delete, params![before(age), batch])?;
    Ok(cleaned(rows, (rows == batch).then_some(place)))
}

fn close(connection: &Connection, age: Duration, mut place: Place, batch: i64) -> Result<Cleaned, StorageError> {
    let (looked, is_more) = look(connection, ACTIVE, age, &place, batch)?;
    let mut rows = 0;
    for session in looked {
        if session.is_unused {
            let close = "UPDATE sessions SET is_active = 0 WHERE id = ?1";
            rows += change(connection, close, params![session.place.id])?;
        }
        place = session.place;
    }
    Ok(cleaned(rows, is_more.then_some(place)))
}

/// Sessions go whole, with their messages and their memory, as long as all that goes is no more than a batch.
fn remove(connection: &Connection, age: Duration, mut place: Place, batch: i64) -> Result<Cleaned, StorageError> {
    let (looked, is_more) = look(connection, CLOSED, age, &place, batch)?;
    let mut rows = 0;
    for session in looked {
        if session.is_unused {
            let size = session.message_count + 1 + entries(connection, &session, batch)?;
            if rows + size > batch {
                if rows == 0 {
                    rows = shorten(connection, &session, batch)?;
                }
                return Ok(cleaned(rows, Some(place)));
            }
            change(
                connection,
                "DELETE FROM sessions WHERE id = ?1",
                params![session.place.id],
            )?;
            rows += size;
        }
        place = session.place;
    }
    Ok(cleaned(rows, is_more.then_some(place)))
}

/// How many entries the memory of a session has, as far as it matters.
fn entries(connection: &Connection, session: &Looked, most: i64) -> Result<i64, StorageError> {
    let count = "SELECT count(*) FROM (SELECT 1 FROM agent_memory WHERE session_id = ?1 LIMIT ?2)";
    let mut statement = connection.prepare_cached(count)?;
    Ok(statement.query_row(params![session.place.id, most], |row| row.get(0))?)
}

/// Deletes the newest messages of a session that is larger than a batch, an answer before what it answers, and then
/// its memory. Fewer
/// than a batch of them show that the session's own count is wrong, which must not keep it for ever.
fn shorten(connection: &Connection, session: &Looked, batch: i64) -> Result<i64, StorageError> {
    let delete = "DELETE FROM messages WHERE id IN \
        (SELECT id FROM messages WHERE session_id = ?1 ORDER BY id DESC LIMIT ?2)";
    let rows = change(connection, delete, params![session.place.id, batch])?;
    let left = if rows == batch { session.message_count - rows } else { 0 };
    let count = "UPDATE sessions SET message_count = ?2 WHERE id = ?1";
    change(connection, count, params![session.place.id, left])?;
    let forget = "DELETE FROM agent_memory WHERE rowid IN \
        (SELECT rowid FROM agent_memory WHERE session_id = ?1 LIMIT ?2)";
    Ok(rows + change(connection, forget, params![session.place.id, batch - rows])?)
}

/// A session that a step looks at.
struct Looked {
    place: Place,
    is_unused: bool,
    message_count: i64,
}

/// What a step looks at, and whether there may be more behind it.
fn look(
    connection: &Connection,
    which: &str,
    age: Duration,
    place: &Place,
    batch: i64,
) -> Result<(Vec<Looked>, bool), StorageError> {
    let mut statement = connection.prepare_cached(which)?;
    let parameters = params![before(age), place.created_at.as_microsecond(), place.id, batch];
    let looked = statement.query_map(parameters, |row| {
        Ok(Looked {
            place: Place {
                created_at: time(row.get(0)?),
                id: row.get(1)?,
            },
            is_unused: row.get(2)?,
            message_count: row.get(3)?,
        })
    })?;
    let looked: Vec<_> = looked.collect::<Result<_, _>>()?;
    let is_more = i64::try_from(looked.len()).is_ok_and(|number| number >= batch);
    Ok((looked, is_more))
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use rusqlite::Transaction;

    use super::*;
    use crate::database::{Database, DatabaseError, DatabaseTarget};
    use crate::tools::shared_context::limits::Quotas;
    use crate::tools::shared_context::retention::{BATCH, RetentionSettings};
    use crate::tools::shared_context::storage::MIGRATIONS;

    const FILL: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) \
        INSERT INTO audit_log (at, agent_id, action, outcome) SELECT 0, hex(zeroblob(1000)), 'a', 'ok' FROM n";

    fn pages(transaction: &Transaction<'_>) -> Result<i64, DatabaseError> {
        Ok(transaction.query_row("PRAGMA page_count", [], |row| row.get(0))?)
    }

    /// What retention removes must make room for other files, too.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_round_of_cleaning_shrinks_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let target: DatabaseTarget = format!("sqlite:{}", folder.path().join("test.db").display())
            .parse()
            .unwrap();
        let opened = Database::open(&target, 1, &mut Registry::default()).unwrap();
        opened.migrate(MIGRATIONS).await.unwrap();
        let Database::Sqlite(database) = opened else {
            panic!("{target:?} is a file");
        };
        let fill = |transaction: &Transaction<'_>| Ok::<_, DatabaseError>(transaction.execute_batch(FILL)?);
        database.write(fill).await.unwrap();
        let before = database.read(pages).await.unwrap();
        let storage = SqliteStorage::new(database, Quotas::default());
        for chore in RetentionSettings::default().chores() {
            while storage
                .clean(chore, &Place::default(), BATCH)
                .await
                .unwrap()
                .next
                .is_some()
            {}
        }
        let after = storage.database.read(pages).await.unwrap();
        assert!(after + 100 < before, "{before} pages before, {after} after");
    }
}
