//! Carries news between replicas: Postgres `NOTIFY`, heard on one connection of the pool.
//!
//! **Connections.** Listening takes one connection out of the pool for as long as it lasts. It is one of the pool's
//! `max`, is counted as open and in use, and goes with the pool when that is resized: the budget of connections
//! holds without an exception. A pool of one connection cannot spare it. Such a replica still sends news, and its own
//! followers are told every [`STALE_MAX`] that everything may have changed. The same serves where `LISTEN` does not
//! work: behind a pooler in transaction mode, whether it was declared or shows itself by messages that get lost.
//!
//! **Loss.** A replica that is killed between a commit and the `NOTIFY` some milliseconds later takes the news with
//! it. (Sending it inside the transaction would let all writers of the database wait for one lock.) When the
//! connection breaks, news may have been missed, so everybody here is told that everything may have changed.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use uuid::Uuid;

use super::{Changes, Topic};
use crate::database::{DatabaseError, Heard, PostgresConnection, PostgresDatabase};

/// Longest time that a follower does not know of a change when news cannot be heard.
pub const STALE_MAX: Duration = Duration::from_secs(10);
/// Smallest pool that can spare a connection.
const POOL_MIN: usize = 2;
/// Name of the channel in the database.
const CHANNEL: &str = "mcp_changes";
/// Longest payload, in bytes. Postgres allows less than 8000.
const PAYLOAD_MAX: usize = 7_900;
/// Pause between two messages, in which more news gathers.
const GATHER: Duration = Duration::from_millis(5);
/// How often the way through the database is tried.
const TRY: Duration = Duration::from_secs(15);
/// Longest way of a message through the database.
const WAY: Duration = Duration::from_secs(5);

/// Carries news between this replica and the others.
pub struct Relay {
    changes: Changes,
    database: PostgresDatabase,
    /// Tells this replica's messages from those of others.
    replica: String,
}

/// Why listening ended.
enum Ended {
    /// The connection is gone or does not answer.
    Broken(DatabaseError),
    /// The pool is too small to spare a connection, or its connections cannot listen.
    Unable,
    /// Messages do not come through.
    Deaf,
}

impl Relay {
    /// A relay of `changes` through `database`.
    #[must_use]
    pub fn new(changes: Changes, database: PostgresDatabase) -> Self {
        Self {
            changes,
            database,
            replica: Uuid::new_v4().simple().to_string(),
        }
    }

    /// Carries news until dropped.
    pub async fn run(self) {
        tokio::join!(self.send(), self.hear());
    }

    async fn send(&self) {
        let Some(outgoing) = &self.changes.inner.outgoing else {
            return;
        };
        loop {
            let topics = outgoing.take().await;
            for payload in payloads(&self.replica, &topics) {
                while let Err(error) = self.notify(&payload).await {
                    tracing::debug!(%error, "cannot tell other replicas what changed; trying again");
                    sleep(Duration::from_secs(1)).await;
                }
            }
            sleep(GATHER).await;
        }
    }

    async fn notify(&self, payload: &str) -> Result<(), DatabaseError> {
        let connection = self.database.connection().await?;
        connection
            .query("SELECT pg_notify($1, $2)", &[&CHANNEL, &payload])
            .await?;
        Ok(())
    }

    async fn hear(&self) {
        let mut is_told = false;
        loop {
            let wait = match self.listen().await {
                Ended::Broken(DatabaseError::NotReady) => Duration::from_millis(200),
                Ended::Broken(error) => {
                    tracing::warn!(%error, "cannot hear of changes at other replicas; connecting again");
                    Duration::from_secs(1)
                }
                Ended::Unable => STALE_MAX,
                Ended::Deaf => {
                    if !is_told {
                        tracing::warn!(
                            "LISTEN does not work through this connection; if there is a pooler in transaction mode, \
                             say --database-pooler transaction. Subscribers hear of changes at other replicas with a \
                             delay of up to {STALE_MAX:?}"
                        );
                        is_told = true;
                    }
                    STALE_MAX.saturating_sub(WAY)
                }
            };
            sleep(wait).await;
            self.changes.deliver(&Topic::Everything);
        }
    }

    /// Whether a connection can be spared and would be of use.
    fn can_listen(&self) -> bool {
        self.database.pool_max() >= POOL_MIN && !self.database.is_pooled_by_transaction()
    }

    /// Listens until it is no longer possible.
    async fn listen(&self) -> Ended {
        if !self.can_listen() {
            return Ended::Unable;
        }
        let connection = match self.begin().await {
            Ok(connection) => connection,
            Err(error) => return Ended::Broken(error),
        };
        let ended = tokio::select! {
            ended = self.listen_on(&connection) => ended,
            // Whatever it is waiting for: perhaps for the very connection that it keeps, as others do then.
            () = self.database.shrunk_below(POOL_MIN) => Ended::Unable,
        };
        if !connection.is_closed()
            && let Err(error) = connection.query("UNLISTEN mcp_changes", &[]).await
        {
            tracing::debug!(%error, "a connection that listened does not answer");
        }
        ended
    }

    async fn listen_on(&self, connection: &PostgresConnection) -> Ended {
        let mut heard = self.database.heard();
        // Whatever was sent before LISTEN took hold was not heard.
        self.changes.deliver(&Topic::Everything);
        let mut next_try = Instant::now() + WAY;
        let mut last_own = Instant::now();
        let mut is_proven = false;
        if let Err(error) = self.notify(&payload(&self.replica, "")).await {
            return Ended::Broken(error);
        }
        loop {
            tokio::select! {
                message = heard.recv() => match message {
                    Ok(Heard::Notification { channel, payload }) if channel == CHANNEL => {
                        if self.receive(&payload) {
                            last_own = Instant::now();
                            is_proven = true;
                        }
                    }
                    Ok(Heard::Closed) if connection.is_closed() => return Ended::Broken(DatabaseError::Stopped),
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => self.changes.deliver(&Topic::Everything),
                    Err(RecvError::Closed) => return Ended::Broken(DatabaseError::Stopped),
                },
                () = sleep_until(next_try) => {
                    if !is_proven || last_own.elapsed() > TRY + WAY {
                        return Ended::Deaf;
                    }
                    next_try = Instant::now() + TRY;
                    if let Err(error) = self.notify(&payload(&self.replica, "")).await {
                        return Ended::Broken(error);
                    }
                }
            }
        }
    }

    async fn begin(&self) -> Result<PostgresConnection, DatabaseError> {
        let mut connection = self.database.connection().await?;
        connection.leave_untimed();
        let listening = connection.query("LISTEN mcp_changes", &[]);
        timeout(WAY, listening)
            .await
            .map_err(|_| DatabaseError::NoAnswer(WAY))??;
        Ok(connection)
    }

    /// Takes in a message; says whether it is this replica's own.
    fn receive(&self, payload: &str) -> bool {
        let mut lines = payload.lines();
        if lines.next() == Some(self.replica.as_str()) {
            return true;
        }
        for topic in lines.filter_map(Topic::decode) {
            self.changes.deliver(&topic);
        }
        false
    }
}

fn payload(replica: &str, lines: &str) -> String {
    format!("{replica}\n{lines}")
}

/// Messages that say all of `topics`, each within the limit.
fn payloads(replica: &str, topics: &BTreeSet<Topic>) -> Vec<String> {
    let room = PAYLOAD_MAX - replica.len() - 1;
    let mut all = Vec::new();
    let mut lines = String::new();
    for topic in topics {
        let mut line = topic.encode();
        if line.len() >= room {
            line = Topic::Everything.encode();
        }
        if lines.len() + line.len() + 1 > room {
            all.push(payload(replica, &std::mem::take(&mut lines)));
        }
        lines.push_str(&line);
        lines.push('\n');
    }
    all.push(payload(replica, &lines));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Postgres refuses a longer message, and all its news would be lost.
    #[test]
    fn messages_keep_to_the_limit_and_say_everything() {
        let topics: BTreeSet<Topic> = (0..500)
            .map(|number| Topic::Resource(format!("session://{number:0100}")))
            .chain([Topic::Resource("x".repeat(9_000))])
            .collect();
        let payloads = payloads("replica", &topics);
        assert!(
            payloads
                .iter()
                .all(|payload| payload.len() < 8_000 && payload.starts_with("replica\n"))
        );
        let said: BTreeSet<Topic> = payloads
            .iter()
            .flat_map(|payload| payload.lines().skip(1))
            .filter_map(Topic::decode)
            .collect();
        assert_eq!(said.len(), 501);
        assert!(said.contains(&Topic::Everything), "a name too long to send");
    }
}
