//! Finding messages in Postgres.

use std::sync::LazyLock;
use std::thread::available_parallelism;

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::spawn_blocking;
use tokio_postgres::Row;

use super::{AT_ONCE, Results, Search, SearchQuery, SearchResults, SenderQuery, TimeQuery};
use crate::database::{DatabaseError, PostgresConnection};
use crate::tools::shared_context::model::{Message, Visibility};
use crate::tools::shared_context::search::ranking::{Ranked, Ranking, Wanted};
use crate::tools::shared_context::search::text::Searched;
use crate::tools::shared_context::storage::StorageError;
use crate::tools::shared_context::storage::postgres::{MESSAGE_COLUMNS, PostgresStorage, message, page, visible};

/// Most messages of one portion.
const PORTION_MESSAGES: i64 = 2_000;
/// Size of a portion after which it takes in no more messages, in bytes.
const PORTION_BYTES: i64 = 4 * 1024 * 1024;
/// Work, in the measure of [`Ranking::work`], from which on it is done on a thread that may be blocked; less is done
/// sooner than handed over.
const BLOCKING: usize = 100_000;

/// Portions that are scored at once on such threads, by all searches: one per core, as more would not be done sooner. A
/// thread keeps its portion even if its search is given up, so this bounds what searches that are gone still hold.
static SCORING: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(available_parallelism().map_or(1, std::num::NonZero::get)));

#[async_trait]
impl Search for PostgresStorage {
    async fn search(&self, query: SearchQuery, wanted: Wanted) -> Result<SearchResults, StorageError> {
        let mut ranking = Ranking::new(wanted);
        let mut before = i64::MAX;
        loop {
            // The connection goes back before the scoring, so that nobody waits for it meanwhile.
            let portion = portion(&self.database.connection().await?, &query, &ranking, before).await?;
            let Some(last) = portion.last() else { break };
            before = last.try_get(0)?;
            ranking = score(portion, ranking).await?;
            if ranking.is_settled() {
                break;
            }
        }
        let connection = self.database.connection().await?;
        if before == i64::MAX {
            must_exist(&connection, &query.session_id).await?;
        }
        let mut results = Results::default();
        for ranked in ranking.into_best().chunks(AT_ONCE) {
            results.add(ranked, by_id(&connection, &query, ranked).await?);
            if results.are_full() {
                break;
            }
        }
        Ok(SearchResults::new(results.found))
    }

    async fn messages_of_sender(&self, query: SenderQuery) -> Result<Vec<Message>, StorageError> {
        let connection = self.database.connection().await?;
        let newest = format!(
            "SELECT {MESSAGE_COLUMNS} FROM messages WHERE session_id = $1 AND {} AND sender = $5 \
             ORDER BY id DESC LIMIT $6",
            visible(2)
        );
        let sql = page(&newest, "id DESC");
        let reader = &query.reader;
        let rows = connection
            .query(
                &sql,
                &[
                    &query.session_id,
                    &reader.id,
                    &reader.agent_type,
                    &reader.is_admin,
                    &query.sender,
                    &query.limit,
                ],
            )
            .await?;
        some_or_no_session(&connection, &query.session_id, &rows).await
    }

    async fn messages_of_time(&self, query: TimeQuery) -> Result<Vec<Message>, StorageError> {
        let connection = self.database.connection().await?;
        let oldest = format!(
            "SELECT {MESSAGE_COLUMNS} FROM messages WHERE session_id = $1 AND {} AND created_at BETWEEN $5 AND $6 \
             ORDER BY created_at, id LIMIT $7",
            visible(2)
        );
        let sql = page(&oldest, "created_at, id");
        let reader = &query.reader;
        let rows = connection
            .query(
                &sql,
                &[
                    &query.session_id,
                    &reader.id,
                    &reader.agent_type,
                    &reader.is_admin,
                    &query.start,
                    &query.end,
                    &query.limit,
                ],
            )
            .await?;
        some_or_no_session(&connection, &query.session_id, &rows).await
    }
}

/// The next messages older than `before`, newest first. Sizes are those of the stored values, which Postgres knows
/// without reading them.
async fn portion(
    connection: &PostgresConnection,
    query: &SearchQuery,
    ranking: &Ranking,
    before: i64,
) -> Result<Vec<Row>, StorageError> {
    let metadata = if ranking.wants_metadata() {
        "metadata"
    } else {
        "NULL::text"
    };
    let sql = format!(
        "SELECT id, sender, content, metadata FROM ( \
           SELECT id, sender, content, {metadata} AS metadata, \
             sum(octet_length(content) + coalesce(octet_length(metadata), 0)) \
               OVER (ORDER BY id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before \
           FROM messages WHERE session_id = $1 AND {} AND ($5::text IS NULL OR visibility = $5) AND id < $6 \
           ORDER BY id DESC LIMIT {PORTION_MESSAGES}) AS newest \
         WHERE coalesce(bytes_before, 0) < {PORTION_BYTES}",
        visible(2)
    );
    let reader = &query.reader;
    let visibility = query.visibility.map(Visibility::as_str);
    let parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &query.session_id,
        &reader.id,
        &reader.agent_type,
        &reader.is_admin,
        &visibility,
        &before,
    ];
    Ok(connection.query(&sql, parameters).await?)
}

/// Shows the messages to the ranking.
async fn score(rows: Vec<Row>, mut ranking: Ranking) -> Result<Ranking, StorageError> {
    let bytes = rows.iter().map(Row::raw_size_bytes).sum();
    if ranking.work(bytes) < BLOCKING {
        offer(&rows, &mut ranking, || false)?;
        return Ok(ranking);
    }
    let permit = SCORING.acquire().await.map_err(|_| DatabaseError::Stopped)?;
    let (answer, answered) = oneshot::channel();
    spawn_blocking(move || {
        let scored = offer(&rows, &mut ranking, || answer.is_closed()).map(|()| ranking);
        drop(rows);
        drop(permit);
        // Nobody waits any more if the search was given up.
        let _ = answer.send(scored);
    });
    answered.await.map_err(|_| DatabaseError::Stopped)?
}

/// Shows the messages to the ranking until it is settled, or nobody waits for it.
fn offer(rows: &[Row], ranking: &mut Ranking, is_given_up: impl Fn() -> bool) -> Result<(), StorageError> {
    for row in rows {
        if is_given_up() {
            break;
        }
        ranking.offer(Searched {
            id: row.try_get(0)?,
            sender: row.try_get(1)?,
            content: row.try_get(2)?,
            metadata: row.try_get(3)?,
        });
        if ranking.is_settled() {
            break;
        }
    }
    Ok(())
}

async fn by_id(
    connection: &PostgresConnection,
    query: &SearchQuery,
    ranked: &[Ranked],
) -> Result<Vec<Message>, StorageError> {
    let sql = format!(
        "SELECT {MESSAGE_COLUMNS} FROM messages WHERE session_id = $1 AND {} AND id = ANY($5)",
        visible(2)
    );
    let ids: Vec<i64> = ranked.iter().map(|ranked| ranked.id).collect();
    let reader = &query.reader;
    let rows = connection
        .query(
            &sql,
            &[
                &query.session_id,
                &reader.id,
                &reader.agent_type,
                &reader.is_admin,
                &ids,
            ],
        )
        .await?;
    rows.iter().map(message).collect()
}

async fn some_or_no_session(
    connection: &PostgresConnection,
    session_id: &str,
    rows: &[Row],
) -> Result<Vec<Message>, StorageError> {
    if rows.is_empty() {
        must_exist(connection, session_id).await?;
    }
    rows.iter().map(message).collect()
}

async fn must_exist(connection: &PostgresConnection, session_id: &str) -> Result<(), StorageError> {
    let session = connection
        .query_opt("SELECT 1 FROM sessions WHERE id = $1", &[&session_id])
        .await?;
    session.map(|_| ()).ok_or(StorageError::SessionNotFound)
}
