//! Running a statement on a connection of our own, or through a pooler that may give each transaction another one.
//!
//! A connection of our own keeps prepared statements. Behind a pooler in transaction mode a prepared statement may be
//! gone, or be another client's of the same name; there each statement is parsed, bound and run in one message
//! sequence without a name, which needs the types of its parameters. They are asked for once per statement and process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use deadpool_postgres::GenericClient;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row, Statement};

use super::cancel::Canceller;
use crate::lock;

/// Values of a statement's `$1`, `$2`, ….
pub(super) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Names of prepared statements that other clients left behind a pooler are skipped; so many in a row there are not.
const NAME_ATTEMPTS: usize = 20;

/// How statements are run. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) enum Statements {
    /// Prepared once per connection.
    Prepared,
    /// Without names; the types of parameters by statement.
    Unnamed(KnownTypes, Canceller),
}

type KnownTypes = Arc<Mutex<HashMap<String, Arc<[Type]>>>>;

impl Statements {
    pub(super) fn unnamed(canceller: Canceller) -> Self {
        Self::Unnamed(Arc::default(), canceller)
    }

    /// What cancels a statement, where the server cannot be told to do it by itself.
    pub(super) const fn canceller(&self) -> Option<&Canceller> {
        match self {
            Self::Prepared => None,
            Self::Unnamed(_, canceller) => Some(canceller),
        }
    }

    pub(super) async fn query(
        &self,
        client: &impl Queries,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        self.know(client, sql).await?.run(client, sql, parameters).await
    }

    /// Learns what it takes to run a statement; a round trip for the first time only.
    pub(super) async fn know(&self, client: &impl Queries, sql: &str) -> Result<Known, Error> {
        Ok(match self {
            Self::Prepared => Known::Prepared(client.prepare_cached(sql).await?),
            Self::Unnamed(known, _) => Known::Unnamed(types(known, client, sql).await?),
        })
    }
}

/// A statement that can be run in one round trip.
pub(super) enum Known {
    Prepared(Statement),
    Unnamed(Arc<[Type]>),
}

impl Known {
    pub(super) async fn run(
        &self,
        client: &impl Queries,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        match self {
            Self::Prepared(statement) => client.query(statement, parameters).await,
            Self::Unnamed(types) => {
                let values: Vec<_> = parameters.iter().copied().zip(types.iter().cloned()).collect();
                client.query_unnamed(sql, &values).await
            }
        }
    }
}

async fn types(
    known: &Mutex<HashMap<String, Arc<[Type]>>>,
    client: &impl Queries,
    sql: &str,
) -> Result<Arc<[Type]>, Error> {
    if let Some(types) = lock(known).get(sql) {
        return Ok(Arc::clone(types));
    }
    let types: Arc<[Type]> = describe(client, sql).await?.into();
    lock(known).insert(sql.to_owned(), Arc::clone(&types));
    Ok(types)
}

async fn describe(client: &impl Queries, sql: &str) -> Result<Vec<Type>, Error> {
    let mut attempt = 1;
    loop {
        match client.prepare(sql).await {
            Ok(statement) => return Ok(statement.params().to_vec()),
            Err(error) if error.code() == Some(&SqlState::DUPLICATE_PSTATEMENT) && attempt < NAME_ATTEMPTS => {
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// What connections and transactions have in common, with the one query that deadpool's trait leaves out.
pub(super) trait Queries: GenericClient {
    /// Runs a statement that gets no name.
    async fn query_unnamed(&self, sql: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>, Error>;
}

impl Queries for deadpool_postgres::Client {
    async fn query_unnamed(&self, sql: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>, Error> {
        self.query_typed(sql, parameters).await
    }
}

impl Queries for deadpool_postgres::Transaction<'_> {
    async fn query_unnamed(&self, sql: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>, Error> {
        self.query_typed(sql, parameters).await
    }
}
