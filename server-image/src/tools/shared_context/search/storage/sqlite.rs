//! Finding messages in a SQLite file. Messages are scored where they are read: on a reading thread, without a copy.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, named_params};

use super::{AT_ONCE, Results, Search, SearchQuery, SearchResults, SenderQuery, TimeQuery};
use crate::tools::shared_context::model::{Message, Visibility};
use crate::tools::shared_context::search::ranking::{Ranked, Ranking, Wanted};
use crate::tools::shared_context::search::text::Searched;
use crate::tools::shared_context::storage::StorageError;
use crate::tools::shared_context::storage::sqlite::{MESSAGE_COLUMNS, SqliteStorage, VISIBLE, message, page};

/// Longest use of a reading thread at a time, so that a search of a huge session does not keep other reads waiting.
const PORTION: Duration = Duration::from_millis(10);

#[async_trait]
impl Search for SqliteStorage {
    async fn search(&self, query: SearchQuery, wanted: Wanted) -> Result<SearchResults, StorageError> {
        let mut ranking = Ranking::new(wanted);
        let mut before = Some(i64::MAX);
        while let Some(start) = before {
            let query = query.clone();
            (ranking, before) = self
                .database
                .read(move |transaction| portion(transaction, &query, ranking, start))
                .await?;
        }
        let ranked = ranking.into_best();
        self.database
            .read(move |transaction| {
                let mut results = Results::default();
                for ranked in ranked.chunks(AT_ONCE) {
                    results.add(ranked, by_id(transaction, &query, ranked)?);
                    if results.are_full() {
                        break;
                    }
                }
                Ok(SearchResults::new(results.found))
            })
            .await
    }

    async fn messages_of_sender(&self, query: SenderQuery) -> Result<Vec<Message>, StorageError> {
        self.database
            .read(move |transaction| messages_of_sender(transaction, &query))
            .await
    }

    async fn messages_of_time(&self, query: TimeQuery) -> Result<Vec<Message>, StorageError> {
        self.database
            .read(move |transaction| messages_of_time(transaction, &query))
            .await
    }
}

fn portion_sql(metadata: &str) -> String {
    format!(
        "SELECT id, sender, content, {metadata} FROM messages \
         WHERE session_id = :session AND id < :before AND {VISIBLE} AND (:visibility IS NULL OR visibility = :visibility) \
         ORDER BY id DESC"
    )
}

fn by_id_sql() -> String {
    format!("SELECT {MESSAGE_COLUMNS} FROM messages WHERE session_id = :session AND id = :id AND {VISIBLE}")
}

fn of_sender_sql() -> String {
    format!(
        "SELECT {MESSAGE_COLUMNS} FROM messages WHERE session_id = :session AND sender = :sender AND {VISIBLE} \
         ORDER BY id DESC LIMIT :limit"
    )
}

fn of_time_sql() -> String {
    format!(
        "SELECT {MESSAGE_COLUMNS} FROM messages \
         WHERE session_id = :session AND created_at BETWEEN :start AND :end AND {VISIBLE} \
         ORDER BY created_at, id LIMIT :limit"
    )
}

/// Shows messages older than `before` to the ranking, newest first, until its time is up; returns where to go on, or
/// `None` when there is nothing left to see.
fn portion(
    connection: &Connection,
    query: &SearchQuery,
    mut ranking: Ranking,
    before: i64,
) -> Result<(Ranking, Option<i64>), StorageError> {
    let started = Instant::now();
    let sql = portion_sql(if ranking.wants_metadata() { "metadata" } else { "NULL" });
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(named_params! {
        ":session": query.session_id,
        ":before": before,
        ":reader": query.reader.id,
        ":type": query.reader.agent_type,
        ":admin": query.reader.is_admin,
        ":visibility": query.visibility.map(Visibility::as_str),
    })?;
    let mut last = None;
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        ranking.offer(Searched {
            id,
            sender: row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?,
            content: row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?,
            metadata: row.get_ref(3)?.as_str_or_null().map_err(rusqlite::Error::from)?,
        });
        if ranking.is_settled() {
            return Ok((ranking, None));
        }
        last = Some(id);
        if started.elapsed() > PORTION {
            return Ok((ranking, last));
        }
    }
    if last.is_none() && before == i64::MAX {
        must_exist(connection, &query.session_id)?;
    }
    Ok((ranking, None))
}

fn by_id(connection: &Connection, query: &SearchQuery, ranked: &[Ranked]) -> Result<Vec<Message>, StorageError> {
    let mut statement = connection.prepare_cached(&by_id_sql())?;
    let mut messages = Vec::with_capacity(ranked.len());
    for ranked in ranked {
        let parameters = named_params! {
            ":session": query.session_id,
            ":id": ranked.id,
            ":reader": query.reader.id,
            ":type": query.reader.agent_type,
            ":admin": query.reader.is_admin,
        };
        messages.extend(
            statement
                .query_row(parameters, |row| Ok(message(row)))
                .optional()?
                .transpose()?,
        );
    }
    Ok(messages)
}

fn messages_of_sender(connection: &Connection, query: &SenderQuery) -> Result<Vec<Message>, StorageError> {
    let mut statement = connection.prepare_cached(&of_sender_sql())?;
    let rows = statement.query(named_params! {
        ":session": query.session_id,
        ":sender": query.sender,
        ":reader": query.reader.id,
        ":type": query.reader.agent_type,
        ":admin": query.reader.is_admin,
        ":limit": query.limit,
    })?;
    some_or_no_session(connection, &query.session_id, page(rows)?)
}

fn messages_of_time(connection: &Connection, query: &TimeQuery) -> Result<Vec<Message>, StorageError> {
    let mut statement = connection.prepare_cached(&of_time_sql())?;
    let rows = statement.query(named_params! {
        ":session": query.session_id,
        ":start": query.start.as_microsecond(),
        ":end": query.end.as_microsecond(),
        ":reader": query.reader.id,
        ":type": query.reader.agent_type,
        ":admin": query.reader.is_admin,
        ":limit": query.limit,
    })?;
    some_or_no_session(connection, &query.session_id, page(rows)?)
}

fn some_or_no_session(
    connection: &Connection,
    session_id: &str,
    messages: Vec<Message>,
) -> Result<Vec<Message>, StorageError> {
    if messages.is_empty() {
        must_exist(connection, session_id)?;
    }
    Ok(messages)
}

fn must_exist(connection: &Connection, session_id: &str) -> Result<(), StorageError> {
    if connection
        .prepare_cached("SELECT 1 FROM sessions WHERE id = ?1")?
        .exists([session_id])?
    {
        Ok(())
    } else {
        Err(StorageError::SessionNotFound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::shared_context::MIGRATIONS;

    /// A query that scans the table gets slower with every session of everybody.
    #[test]
    fn every_query_uses_its_index_and_sorts_nothing() {
        let connection = Connection::open_in_memory().unwrap();
        for migration in MIGRATIONS {
            connection.execute_batch(migration.sqlite).unwrap();
        }
        for (name, sql, index) in [
            ("a portion", portion_sql("metadata"), "(session_id=? AND id<?)"),
            ("one message", by_id_sql(), "(rowid=?)"),
            (
                "a sender",
                of_sender_sql(),
                "messages_by_sender (session_id=? AND sender=?)",
            ),
            (
                "a time",
                of_time_sql(),
                "messages_by_time (session_id=? AND created_at>? AND created_at<?)",
            ),
        ] {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let steps = statement
                .raw_query()
                .mapped(|row| row.get::<_, String>(3))
                .collect::<Result<Vec<_>, _>>();
            let plan = steps.unwrap().join("; ");
            assert!(plan.contains(index), "{name}: {plan}");
            assert!(
                !plan.contains("SCAN") && !plan.contains("TEMP B-TREE"),
                "{name}: {plan}"
            );
        }
    }
}
