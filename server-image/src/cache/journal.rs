//! Reading the journal of changes from the database, and adding to it.

use jiff::Timestamp;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::database::{Database, DatabaseError};

/// Most changes read at once, the newest. Whoever is further behind starts anew.
pub(super) const READ_MAX: usize = 20_000;
/// How long changes are kept. No entry of the shared tier lives longer, and a replica that has not looked for so long
/// starts anew.
pub(super) const KEPT_SECONDS: u32 = 600;

/// A place in the order of changes: a value read by somebody who knew of all changes before it. In Postgres the number
/// of a transaction, in SQLite that of a line of the journal.
pub(super) type Position = i64;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Change {
    pub(super) position: Position,
    pub(super) tag: String,
}

/// What one look at the journal shows.
#[derive(Debug)]
pub(super) struct Look {
    /// Names this database since its start: another one, a restored backup or a promoted standby has another name.
    pub(super) origin: String,
    /// All changes before this place are known to whoever has read up to here.
    pub(super) position: Position,
    /// Changes before this place may be missing.
    pub(super) forgotten: Position,
    /// The database's clock.
    pub(super) clock: Timestamp,
    /// Changes from the place that was asked for.
    pub(super) changes: Vec<Change>,
    /// If there were too many: the place from which on there are all.
    pub(super) complete_from: Option<Position>,
}

/// The journal of one database. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Journal {
    database: Database,
    /// A SQLite file has no start of its own: a copy of it put back in place would look like the same.
    process: Uuid,
}

// A transaction gets its number before it commits, so changes do not become visible in the order of their numbers.
// But all transactions with a number below the snapshot's xmin have ended; so reading again from there misses none.
const POSTGRES_LOOK: &str = "
    SELECT s.identity || '/' || extract(epoch FROM pg_postmaster_start_time()), s.forgotten,
           pg_snapshot_xmin(pg_current_snapshot())::text::bigint, clock_timestamp(), j.position, j.tag
    FROM cache_journal_state s LEFT JOIN
        (SELECT position, tag FROM cache_journal WHERE position >= $1 ORDER BY position DESC LIMIT $2) j ON true";

// Reads the old lines and one more, not all that are kept.
const POSTGRES_FORGET: &str = "
    WITH old AS (
        SELECT least(
            coalesce(
                (SELECT position FROM cache_journal WHERE at >= now() - make_interval(secs => $1) ORDER BY position LIMIT 1),
                max(position) + 1),
            pg_snapshot_xmin(pg_current_snapshot())::text::bigint) AS before
        FROM cache_journal
        HAVING max(position) IS NOT NULL AND pg_try_advisory_xact_lock(hashtextextended('cache_journal', 0))),
    gone AS (DELETE FROM cache_journal USING old WHERE position < old.before)
    UPDATE cache_journal_state SET forgotten = greatest(forgotten, old.before) FROM old";

const SQLITE_LOOK: &str = "
    SELECT s.identity, s.forgotten,
           1 + coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'cache_journal'), 0),
           CAST(1000 * unixepoch('subsec') AS INTEGER), j.position, j.tag
    FROM cache_journal_state s LEFT JOIN
        (SELECT position, tag FROM cache_journal WHERE position >= ?1 ORDER BY position DESC LIMIT ?2) j ON true";

const SQLITE_FORGET: &str = "
    UPDATE cache_journal_state SET forgotten = max(forgotten, coalesce(
        (SELECT position FROM cache_journal WHERE at >= unixepoch() - ?1 ORDER BY position LIMIT 1),
        (SELECT max(position) + 1 FROM cache_journal), 0))";

impl Journal {
    pub(super) fn new(database: Database) -> Self {
        Self {
            database,
            process: Uuid::new_v4(),
        }
    }

    /// Reads the changes from `from` on; once more if the connection broke.
    pub(super) async fn look(&self, from: Position) -> Result<Look, DatabaseError> {
        match self.look_once(from).await {
            Err(error) if error.is_lost_connection() => self.look_once(from).await,
            answer => answer,
        }
    }

    async fn look_once(&self, from: Position) -> Result<Look, DatabaseError> {
        let limit = i64::try_from(READ_MAX + 1).unwrap_or(i64::MAX);
        let rows = match &self.database {
            Database::Postgres(database) => {
                let connection = database.connection().await?;
                let rows = connection.query(POSTGRES_LOOK, &[&from, &limit]).await?;
                drop(connection);
                let line = |row: &tokio_postgres::Row| -> Result<Line, tokio_postgres::Error> {
                    Ok(Line {
                        origin: row.try_get(0)?,
                        forgotten: row.try_get(1)?,
                        position: row.try_get(2)?,
                        clock: row.try_get::<_, Timestamp>(3)?.as_millisecond(),
                        change: row.try_get::<_, Option<i64>>(4)?.zip(row.try_get(5)?),
                    })
                };
                rows.iter().map(line).collect::<Result<Vec<_>, _>>()?
            }
            Database::Sqlite(database) => {
                let process = self.process;
                database
                    .read(move |transaction| {
                        let mut statement = transaction.prepare_cached(SQLITE_LOOK)?;
                        let rows = statement.query_map([from, limit], |row| {
                            Ok(Line {
                                origin: format!("{}/{process}", row.get::<_, String>(0)?),
                                forgotten: row.get(1)?,
                                position: row.get(2)?,
                                clock: row.get(3)?,
                                change: row.get::<_, Option<i64>>(4)?.zip(row.get(5)?),
                            })
                        })?;
                        Ok::<_, DatabaseError>(rows.collect::<Result<_, _>>()?)
                    })
                    .await?
            }
        };
        summarize(rows)
    }

    /// Notes changes that no trigger notes, for all replicas.
    pub(super) async fn note(&self, tags: Vec<String>) -> Result<(), DatabaseError> {
        match &self.database {
            Database::Postgres(database) => {
                let connection = database.connection().await?;
                let tags: &(dyn ToSql + Sync) = &tags;
                connection
                    .query("INSERT INTO cache_journal (tag) SELECT unnest($1::text[])", &[tags])
                    .await?;
                Ok(())
            }
            Database::Sqlite(database) => {
                database
                    .write(move |transaction| {
                        for tag in tags {
                            transaction.execute("INSERT INTO cache_journal (tag) VALUES (?1)", [tag])?;
                        }
                        Ok(())
                    })
                    .await
            }
        }
    }

    /// Deletes changes that are older than [`KEPT_SECONDS`]. Safe to call from many replicas at once.
    pub(super) async fn forget(&self) -> Result<(), DatabaseError> {
        match &self.database {
            Database::Postgres(database) => {
                let connection = database.connection().await?;
                connection.query(POSTGRES_FORGET, &[&f64::from(KEPT_SECONDS)]).await?;
                Ok(())
            }
            Database::Sqlite(database) => {
                database
                    .write(move |transaction| {
                        transaction.execute(SQLITE_FORGET, [KEPT_SECONDS])?;
                        transaction.execute(
                            "DELETE FROM cache_journal WHERE position < (SELECT forgotten FROM cache_journal_state)",
                            [],
                        )?;
                        Ok(())
                    })
                    .await
            }
        }
    }
}

struct Line {
    origin: String,
    forgotten: Position,
    position: Position,
    /// Milliseconds since 1970.
    clock: i64,
    change: Option<(Position, String)>,
}

/// All lines are of one look.
fn summarize(lines: Vec<Line>) -> Result<Look, DatabaseError> {
    let too_many = lines.len() > READ_MAX;
    let first = lines.first().ok_or(DatabaseError::NoRow)?;
    let mut look = Look {
        origin: first.origin.clone(),
        position: first.position,
        forgotten: first.forgotten,
        clock: Timestamp::from_millisecond(first.clock).unwrap_or_default(),
        changes: Vec::new(),
        complete_from: None,
    };
    let changes = lines.into_iter().filter_map(|line| line.change);
    look.changes = changes.map(|(position, tag)| Change { position, tag }).collect();
    if too_many {
        // Of the changes at the oldest place some may be missing.
        let oldest = look.changes.iter().map(|change| change.position).min();
        let complete_from = oldest.map_or(look.position, |oldest| oldest + 1);
        look.changes.retain(|change| change.position >= complete_from);
        look.complete_from = Some(complete_from);
    }
    Ok(look)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate;
    use rusqlite::{Connection, StatementStatus, params_from_iter};

    /// The journal of a busy server: the time for which changes are kept, and half a minute more, until it is tidied.
    const FILL: &str = "
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
        INSERT INTO cache_journal (tag, at) SELECT 'session:' || i, unixepoch() - 630 + 630 * i / 5000 FROM n;
        ANALYZE;
    ";

    /// The journal is looked at many times a second: each call would wait for all changes of ten minutes. What is shown
    /// for Postgres by its counters is shown here by SQLite's own count of the lines that a statement passes.
    #[test]
    fn no_statement_of_sqlite_reads_the_whole_journal() {
        let connection = Connection::open_in_memory().unwrap();
        for step in migrate::steps() {
            connection.execute_batch(step.sqlite).unwrap();
        }
        connection.execute_batch(FILL).unwrap();
        for (name, sql, parameters, most) in [
            ("a look at ten new changes", SQLITE_LOOK, &[4_991, 20_001][..], 20),
            (
                "forgetting some 240 old ones",
                SQLITE_FORGET,
                &[i64::from(KEPT_SECONDS)],
                300,
            ),
        ] {
            let mut statement = connection.prepare(sql).unwrap();
            let mut rows = statement.query(params_from_iter(parameters)).unwrap();
            while rows.next().unwrap().is_some() {}
            drop(rows);
            let passed = statement.get_status(StatementStatus::FullscanStep);
            assert!(passed <= most, "{name}: {passed} lines of 5000");
        }
        let forgotten = "SELECT forgotten FROM cache_journal_state";
        let forgotten: i64 = connection.query_row(forgotten, [], |row| row.get(0)).unwrap();
        assert!((200..300).contains(&forgotten), "{forgotten}");
    }
}
