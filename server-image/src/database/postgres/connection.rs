//! A connection that is used: its statements, its transactions, and that answers come in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use deadpool_postgres::Transaction;
use futures::future::{join_all, join3};
use tokio::time::timeout;
use tokio_postgres::{CancelToken, Row};

use super::cancel::{self, Canceller};
use super::pool::Borrowed;
use super::statements::{Parameters, Queries, Statements};
use super::{ANSWER, Health, STATEMENT};
use crate::database::DatabaseError;

/// A borrowed connection; it goes back to the pool when dropped, unless it is not fit for others.
#[derive(Debug)]
pub struct PostgresConnection {
    pub(super) borrowed: Borrowed,
    pub(super) statements: Statements,
    health: Arc<Health>,
    /// Whether nobody else may get the connection.
    pub(super) is_unfit: AtomicBool,
    /// Operations begun and not ended: none when the connection is dropped, but for those whose caller gave up.
    running: AtomicUsize,
    pub(super) is_migrating: bool,
}

impl PostgresConnection {
    pub(super) const fn new(borrowed: Borrowed, statements: Statements, health: Arc<Health>) -> Self {
        Self {
            borrowed,
            statements,
            health,
            is_unfit: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            is_migrating: false,
        }
    }

    /// Leaves the time until it is given back out of the pool's times of use: it is kept for what is no request, and
    /// one use of hours would drown all others.
    pub fn leave_untimed(&mut self) {
        self.borrowed.leave_untimed();
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.borrowed.client().map_or(true, |client| client.is_closed())
    }

    /// Runs a statement and returns its rows.
    ///
    /// # Errors
    /// [`DatabaseError`] when Postgres refuses it or does not answer in time.
    pub async fn query(&self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, DatabaseError> {
        let client = self.borrowed.client()?;
        self.watch()?.query(client, &self.statements, sql, parameters).await
    }

    /// Runs a statement that returns at most one row.
    ///
    /// # Errors
    /// [`DatabaseError`] when Postgres refuses it or does not answer in time.
    pub async fn query_opt(&self, sql: &str, parameters: Parameters<'_>) -> Result<Option<Row>, DatabaseError> {
        Ok(self.query(sql, parameters).await?.into_iter().next())
    }

    /// Runs a statement that returns one row.
    ///
    /// # Errors
    /// [`DatabaseError`] when Postgres refuses it or does not answer in time.
    pub async fn query_one(&self, sql: &str, parameters: Parameters<'_>) -> Result<Row, DatabaseError> {
        self.query_opt(sql, parameters).await?.ok_or(DatabaseError::NoRow)
    }

    /// Runs `statements` as one transaction, all sent at once: one round trip, however many they are. If one fails,
    /// none has happened. Each answer is the rows of its statement.
    ///
    /// # Errors
    /// [`DatabaseError`] of the first statement that Postgres refuses, or when it does not answer in time.
    pub async fn transact(&self, statements: &[(&str, Parameters<'_>)]) -> Result<Vec<Vec<Row>>, DatabaseError> {
        let client = self.borrowed.client()?;
        let transaction = async {
            let mut known = Vec::with_capacity(statements.len());
            for (sql, _) in statements {
                known.push(self.statements.know(client, sql).await?);
            }
            let work = known
                .iter()
                .zip(statements)
                .map(|(statement, (sql, parameters))| statement.run(client, sql, parameters));
            // All are sent when they are first polled, in this order, so that not even a caller that gives up leaves
            // a transaction open. After a refusal Postgres makes a ROLLBACK of the COMMIT.
            let (begun, answers, committed) = join3(
                client.batch_execute("BEGIN"),
                join_all(work),
                client.batch_execute("COMMIT"),
            )
            .await;
            begun?;
            let answers = answers.into_iter().collect::<Result<_, _>>()?;
            committed?;
            Ok(answers)
        };
        self.watch()?.answer(transaction).await
    }

    /// Begins a transaction; dropping it rolls back.
    ///
    /// # Errors
    /// [`DatabaseError`] when Postgres does not answer in time.
    pub async fn transaction(&mut self) -> Result<PostgresTransaction<'_>, DatabaseError> {
        let watch = Watch {
            health: &self.health,
            is_unfit: &self.is_unfit,
            running: &self.running,
            cancel: self.cancel_token()?,
        };
        let client = self.borrowed.client_mut()?;
        let transaction = watch.answer(client.transaction()).await?;
        Ok(PostgresTransaction {
            transaction,
            statements: &self.statements,
            watch,
        })
    }

    fn watch(&self) -> Result<Watch<'_>, DatabaseError> {
        Ok(Watch {
            health: &self.health,
            is_unfit: &self.is_unfit,
            running: &self.running,
            cancel: self.cancel_token()?,
        })
    }

    /// What cancels a statement, where only the client can.
    fn cancel_token(&self) -> Result<Option<(Canceller, CancelToken)>, DatabaseError> {
        let Some(canceller) = self.statements.canceller() else {
            return Ok(None);
        };
        Ok(Some((canceller.clone(), self.borrowed.client()?.cancel_token())))
    }
}

impl Drop for PostgresConnection {
    fn drop(&mut self) {
        let is_running = self.running.load(Ordering::Relaxed) > 0;
        let is_unfit = self.is_unfit.load(Ordering::Relaxed);
        let pooler = || self.statements.canceller().cloned();
        if self.is_migrating || is_running && is_unfit {
            // Nobody waits for it any more, but its last statement may, for a lock, and for as long as it takes.
            if let Some(client) = self.borrowed.take_out() {
                cancel::stop(client, pooler());
            }
        } else if is_unfit {
            // The pool opens a new one instead.
            self.borrowed.discard();
        } else if is_running {
            cancel::give_back(self.borrowed.hand_over(), pooler());
        }
    }
}

/// A transaction on a borrowed connection.
pub struct PostgresTransaction<'a> {
    transaction: Transaction<'a>,
    statements: &'a Statements,
    watch: Watch<'a>,
}

impl PostgresTransaction<'_> {
    /// Runs a statement that returns at most one row.
    ///
    /// # Errors
    /// [`DatabaseError`] when Postgres refuses it or does not answer in time.
    pub async fn query_opt(&self, sql: &str, parameters: Parameters<'_>) -> Result<Option<Row>, DatabaseError> {
        let rows = self
            .watch
            .query(&self.transaction, self.statements, sql, parameters)
            .await?;
        Ok(rows.into_iter().next())
    }

    /// Makes it last.
    ///
    /// # Errors
    /// [`DatabaseError`] when Postgres does not confirm it in time; the outcome is then unknown.
    pub async fn commit(self) -> Result<(), DatabaseError> {
        self.watch.answer(self.transaction.commit()).await
    }
}

/// Watches that answers come in time.
struct Watch<'a> {
    health: &'a Health,
    is_unfit: &'a AtomicBool,
    running: &'a AtomicUsize,
    cancel: Option<(Canceller, CancelToken)>,
}

impl Watch<'_> {
    async fn query<C: Queries>(
        &self,
        client: &C,
        statements: &Statements,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, DatabaseError> {
        self.answer(statements.query(client, sql, parameters)).await
    }

    async fn answer<T>(
        &self,
        operation: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, DatabaseError> {
        tokio::pin!(operation);
        // Taken back by what has ended, not by what is dropped.
        self.running.fetch_add(1, Ordering::Relaxed);
        let mut result = timeout(STATEMENT, operation.as_mut()).await;
        if result.is_err() {
            self.cancel_statement();
            result = timeout(ANSWER.saturating_sub(STATEMENT), operation).await;
        }
        self.running.fetch_sub(1, Ordering::Relaxed);
        let Ok(result) = result else {
            // It may still be stuck.
            self.is_unfit.store(true, Ordering::Relaxed);
            return Err(DatabaseError::NoAnswer(ANSWER));
        };
        // A refusal is an answer too; only a lost connection is not.
        if result.as_ref().err().is_none_or(|error| error.code().is_some()) {
            self.health.answered();
        }
        let result = result.map_err(DatabaseError::from);
        if result.as_ref().is_err_and(DatabaseError::is_read_only) {
            // It would refuse whoever gets it next, and for as long as it is open.
            self.is_unfit.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Where the server itself does not limit statements, asks it to stop working on this one. That may come after the
    /// answer: it would hit whatever runs on the connection then, so nobody else gets it.
    fn cancel_statement(&self) {
        if let Some((canceller, token)) = &self.cancel {
            self.is_unfit.store(true, Ordering::Relaxed);
            canceller.cancel(token.clone());
        }
    }
}
