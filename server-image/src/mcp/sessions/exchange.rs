//! What replicas give each other through Postgres: letters, and copies of streams.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::ready;
use futures::{Stream, StreamExt, stream};
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{Sender, channel};
use tokio::time::{Instant, timeout};

use super::ids::StreamId;
use super::postage::Postage;
use super::replay::{Copying, KEEP};
use crate::changes::{Changes, Topic};
use crate::database::{DatabaseError, PostgresDatabase};
use crate::lock;

/// Name under which letters reach every replica.
pub(super) const ALL: &str = "*";
/// Longest time that a replica may take to begin with a copy; then it is thought to be gone.
const BEGIN_MAX: Duration = Duration::from_secs(15);
/// Longest time that a stream can last: the longest time of a request, and a reserve.
pub(super) const STREAM_MAX: Duration = Duration::from_mins(3);
/// How often a copy is looked at without news of it.
const LOOK: Duration = Duration::from_secs(1);
/// Rows that are removed at once; the connection is for others in between.
const TIDY_AT_ONCE: usize = 10_000;

/// Something that another replica should do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Letter {
    /// Hand this message of a client to the session.
    Deliver {
        session: String,
        message: Box<ClientJsonRpcMessage>,
    },
    /// Copy a stream to the database: its client came back at another replica.
    Copy { session: String, stream: u64 },
    /// The client has ended the session.
    Ended { session: String },
}

/// This replica's side of the exchange.
#[derive(Debug)]
pub(super) struct Exchange {
    replica: String,
    database: PostgresDatabase,
    changes: Changes,
    read: Mutex<LettersRead>,
    postage: Postage,
}

/// Which letters to all this replica has read.
#[derive(Debug, Default)]
struct LettersRead {
    /// The last of them; `None` before it is known which need not be read.
    last: Option<i64>,
    /// Those of the last look. Letters get their numbers before they become visible, so a lower one may still come.
    seen: BTreeSet<i64>,
}

/// One row of a copied stream.
struct Row {
    position: u64,
    message: Option<String>,
    is_last: bool,
}

impl Exchange {
    pub(super) fn new(replica: String, database: PostgresDatabase, changes: Changes) -> Self {
        Self {
            replica,
            database,
            changes,
            read: Mutex::default(),
            postage: Postage::new(),
        }
    }

    /// Hands a message of a client to the session at another replica, or at [`ALL`]; gives up when clients send so much
    /// that letters would fill the database.
    pub(super) async fn deliver(
        &self,
        replica: &str,
        session: &str,
        message: ClientJsonRpcMessage,
    ) -> Result<(), DatabaseError> {
        let letter = serde_json::to_string(&Letter::Deliver {
            session: session.to_owned(),
            message: Box::new(message),
        })?;
        if !self.postage.is_paid(session, letter.len()) {
            return Ok(());
        }
        self.send(replica, letter).await
    }

    /// Writes a letter to one replica, or to [`ALL`].
    pub(super) async fn write(&self, replica: &str, letter: &Letter) -> Result<(), DatabaseError> {
        self.send(replica, serde_json::to_string(letter)?).await
    }

    async fn send(&self, replica: &str, letter: String) -> Result<(), DatabaseError> {
        let insert = "INSERT INTO mcp_letters (replica, letter) VALUES ($1, $2)";
        let connection = self.database.connection().await?;
        connection.query(insert, &[&replica, &letter]).await?;
        drop(connection);
        self.changes.publish(&Topic::Mail(replica.to_owned()));
        Ok(())
    }

    /// Reads the letters that have come.
    pub(super) async fn letters(&self) -> Result<Vec<Letter>, DatabaseError> {
        let connection = self.database.connection().await?;
        let last = lock(&self.read).last;
        let last = if let Some(last) = last {
            last
        } else {
            // Letters from before this replica was there are not for it.
            let old = "SELECT coalesce(max(id), 0) FROM mcp_letters WHERE replica = $1 \
                       AND created_at < now() - interval '5 seconds'";
            connection.query_one(old, &[&ALL]).await?.try_get(0)?
        };
        let look = "SELECT id FROM mcp_letters WHERE replica = $1 \
                    AND (id > $2 OR created_at > now() - interval '10 seconds')";
        let to_all = connection.query(look, &[&ALL, &last]).await?;
        let seen = to_all
            .iter()
            .map(|row| row.try_get(0))
            .collect::<Result<BTreeSet<i64>, _>>()?;
        let new: Vec<i64> = seen.difference(&lock(&self.read).seen).copied().collect();
        let letters = "SELECT id, letter FROM mcp_letters WHERE id = ANY($1)";
        let to_all = match new.as_slice() {
            [] => Vec::new(),
            new => connection.query(letters, &[&new]).await?,
        };
        // Last, since what is taken is gone: nothing may fail after it.
        let take = "DELETE FROM mcp_letters WHERE replica = $1 RETURNING id, letter";
        let mut rows = connection.query(take, &[&self.replica]).await?;
        rows.extend(to_all);
        let mut read = lock(&self.read);
        read.last = seen.last().copied().max(Some(last));
        read.seen = seen;
        drop(read);
        let mut letters = rows
            .iter()
            .map(|row| Ok((row.try_get::<_, i64>(0)?, row.try_get::<_, String>(1)?)))
            .collect::<Result<Vec<_>, DatabaseError>>()?;
        letters.sort_unstable();
        // What this version cannot read, a newer one wrote for its own kind.
        let known = letters
            .iter()
            .filter_map(|(_, letter)| serde_json::from_str(letter).ok());
        Ok(known.collect())
    }

    /// Adds to the copy of a stream.
    pub(super) async fn copy(&self, stream: &StreamId, session: &str, part: Copying) -> Result<(), DatabaseError> {
        let mut connection = self.database.connection().await?;
        let transaction = connection.transaction().await?;
        let insert = "INSERT INTO mcp_stream_events (stream, position, session_id, message, is_last) \
                      VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
        let id = stream.to_string();
        let last = part.from + part.messages.len();
        // A row without a message says that the replica is there, or that the stream has ended.
        let mut rows: Vec<(usize, Option<&ServerJsonRpcMessage>, bool)> = Vec::new();
        if part.from == 0 {
            rows.push((0, None, false));
        }
        for (index, message) in part.messages.iter().enumerate() {
            rows.push((part.from + index + 1, Some(message.as_ref()), false));
        }
        if part.has_ended {
            rows.push((last + 1, None, true));
        }
        for (position, message, is_last) in rows {
            let position = i64::try_from(position).unwrap_or(i64::MAX);
            // As text one at a time: a stream as a whole may be long.
            let message = message.map(serde_json::to_string).transpose()?;
            transaction
                .query_opt(insert, &[&id, &position, &session, &message, &is_last])
                .await?;
        }
        transaction.commit().await?;
        drop(connection);
        self.changes.publish(&Topic::Stream(id));
        Ok(())
    }

    /// The messages after `number` on a stream of another replica, as JSON, each with its number; ends soon if that
    /// replica is gone, and with the stream.
    pub(super) fn after(
        self: Arc<Self>,
        session: String,
        id: StreamId,
        number: u64,
    ) -> impl Stream<Item = (u64, String)> + Send + 'static {
        let (sender, receiver) = channel(16);
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                followed = self.follow(&session, &id, number, &sender) => {
                    if let Err(error) = followed {
                        tracing::warn!(%error, "cannot go on with a stream of another replica");
                    }
                }
            }
        });
        stream::unfold(receiver, |mut receiver| async move {
            let event = receiver.recv().await?;
            Some((event, receiver))
        })
    }

    /// The messages after `number` of a stream that this replica has left in the database, as JSON, each with its
    /// number; none of one that it has not.
    pub(super) fn left(
        self: Arc<Self>,
        session: String,
        id: StreamId,
        number: u64,
    ) -> impl Stream<Item = (u64, String)> + Send + 'static {
        let rows = async move {
            match self.rows(&id, &session, number.saturating_add(1)).await {
                Ok(rows) => rows,
                Err(error) => {
                    tracing::warn!(%error, "cannot read a stream that was left in the database");
                    Vec::new()
                }
            }
        };
        stream::once(rows)
            .flat_map(stream::iter)
            .filter_map(|row| ready(row.message.map(|message| (row.position, message))))
    }

    async fn follow(
        &self,
        session: &str,
        id: &StreamId,
        number: u64,
        sender: &Sender<(u64, String)>,
    ) -> Result<(), DatabaseError> {
        let news = self.changes.follow([Topic::Stream(id.to_string())]);
        let letter = Letter::Copy {
            session: session.to_owned(),
            stream: id.number,
        };
        self.write(&id.replica, &letter).await?;
        let started = Instant::now();
        let mut next = number + 1;
        let mut has_begun = false;
        while started.elapsed() < STREAM_MAX && (has_begun || started.elapsed() < BEGIN_MAX) {
            for row in self.rows(id, session, if has_begun { next } else { 0 }).await? {
                has_begun = true;
                if row.is_last {
                    return Ok(());
                }
                if let (Some(message), true) = (row.message, row.position >= next) {
                    next = row.position + 1;
                    if sender.send((row.position, message)).await.is_err() {
                        return Ok(());
                    }
                }
            }
            // Without news in time, the copy is looked at all the same.
            let _ = timeout(LOOK, news.next()).await;
        }
        Ok(())
    }

    async fn rows(&self, id: &StreamId, session: &str, from: u64) -> Result<Vec<Row>, DatabaseError> {
        let read = "SELECT position, message, is_last FROM mcp_stream_events \
                    WHERE stream = $1 AND session_id = $2 AND position >= $3 ORDER BY position";
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        let connection = self.database.connection().await?;
        let rows = connection.query(read, &[&id.to_string(), &session, &from]).await?;
        let rows = rows.iter().map(|row| {
            Ok(Row {
                position: u64::try_from(row.try_get::<_, i64>(0)?).unwrap_or(0),
                message: row.try_get(1)?,
                is_last: row.try_get(2)?,
            })
        });
        rows.collect()
    }

    /// Removes what nobody needs any more.
    pub(super) async fn tidy(&self) -> Result<(), DatabaseError> {
        self.postage.tidy();
        let seconds = i64::try_from((STREAM_MAX + KEEP).as_secs()).unwrap_or(i64::MAX);
        for table in ["mcp_stream_events", "mcp_letters"] {
            let delete = format!(
                "DELETE FROM {table} WHERE ctid IN (SELECT ctid FROM {table} \
                 WHERE created_at < now() - make_interval(secs => $1::bigint) LIMIT $2 FOR UPDATE SKIP LOCKED) \
                 RETURNING 1"
            );
            while self.delete(&delete, seconds).await? == TIDY_AT_ONCE {}
        }
        Ok(())
    }

    async fn delete(&self, delete: &str, seconds: i64) -> Result<usize, DatabaseError> {
        let connection = self.database.connection().await?;
        let rows = i64::try_from(TIDY_AT_ONCE).unwrap_or(i64::MAX);
        Ok(connection.query(delete, &[&seconds, &rows]).await?.len())
    }
}
