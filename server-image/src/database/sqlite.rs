//! A SQLite file: one thread writes, a few read, and nothing blocks the async runtime.
//!
//! WAL lets readers go on while the writer commits. One writer is what SQLite allows anyway; giving it a thread of
//! its own replaces lock contention by a queue.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use super::{DatabaseError, Migration};
use crate::lock;

/// Reading threads. Reads of a local file are short; more threads than cores would not help.
const READERS: usize = 4;
/// Longest wait for another process that holds the file's write lock.
const BUSY: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// An open SQLite file. Cheap to clone; the threads end with the last clone.
#[derive(Debug, Clone)]
pub struct SqliteDatabase {
    writer: Sender<Job>,
    readers: Sender<Job>,
}

impl SqliteDatabase {
    pub(super) fn open(path: &Path) -> Result<Self, DatabaseError> {
        // The writer first: it creates the file and switches it to WAL.
        let writer = start(vec![connect(path)?]);
        let readers = start((0..READERS).map(|_| connect(path)).collect::<Result<_, _>>()?);
        Ok(Self { writer, readers })
    }

    /// Runs `work` in a transaction on the writing thread; it is committed if `work` succeeds.
    ///
    /// # Errors
    /// Whatever `work` returns, or a [`DatabaseError`].
    pub async fn write<T, E>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DatabaseError> + Send + 'static,
    {
        run(&self.writer, |connection| {
            let transaction = connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(DatabaseError::from)?;
            let value = work(&transaction)?;
            transaction.commit().map_err(DatabaseError::from)?;
            Ok(value)
        })
        .await
    }

    /// Runs `work` on a reading thread, within one snapshot of the data.
    ///
    /// # Errors
    /// Whatever `work` returns, or a [`DatabaseError`].
    pub async fn read<T, E>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DatabaseError> + Send + 'static,
    {
        run(&self.readers, |connection| {
            work(&connection.transaction().map_err(DatabaseError::from)?)
        })
        .await
    }

    pub(super) async fn migrate(&self, migrations: Vec<Migration>) -> Result<(), DatabaseError> {
        self.write(move |transaction| {
            transaction.execute_batch(
                "CREATE TABLE IF NOT EXISTS schema_migrations (name TEXT PRIMARY KEY, applied_at INTEGER NOT NULL) STRICT",
            )?;
            for migration in migrations {
                let new = transaction.execute(
                    "INSERT INTO schema_migrations VALUES (?1, unixepoch()) ON CONFLICT DO NOTHING",
                    [migration.name],
                )?;
                if new == 1 {
                    transaction.execute_batch(migration.sqlite)?;
                }
            }
            Ok(())
        })
        .await
    }

    pub(super) async fn applied(&self) -> Result<Vec<String>, DatabaseError> {
        self.read(|transaction| {
            let known = "SELECT count(*) FROM sqlite_schema WHERE name = 'schema_migrations'";
            if transaction.query_row(known, [], |row| row.get::<_, i64>(0))? == 0 {
                return Ok(Vec::new());
            }
            let mut statement = transaction.prepare("SELECT name FROM schema_migrations")?;
            let names = statement.query_map([], |row| row.get(0))?;
            Ok(names.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(super) async fn check(&self) -> Result<(), DatabaseError> {
        self.read(|transaction| Ok(transaction.query_row("SELECT 1", [], |_| Ok(()))?))
            .await
    }
}

fn connect(path: &Path) -> Result<Connection, DatabaseError> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    // synchronous=NORMAL never damages a WAL file; a power cut may lose the last commits, a killed process does not.
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Starts one thread per connection, all fed from the returned queue.
fn start(connections: Vec<Connection>) -> Sender<Job> {
    let (sender, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    for connection in connections {
        let receiver = Arc::clone(&receiver);
        thread::spawn(move || work_off(&receiver, connection));
    }
    sender
}

fn work_off(jobs: &Mutex<Receiver<Job>>, mut connection: Connection) {
    loop {
        // The lock must be free again while the job runs, so that the next thread can take the next job.
        let job = lock(jobs).recv();
        match job {
            Ok(job) => job(&mut connection),
            Err(_) => return,
        }
    }
}

async fn run<T, E>(
    queue: &Sender<Job>,
    work: impl FnOnce(&mut Connection) -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<DatabaseError> + Send + 'static,
{
    let (answer, answered) = oneshot::channel();
    let job: Job = Box::new(move |connection| {
        // Nobody waits any more if the request was cancelled; the work is done all the same.
        let _ = answer.send(work(connection));
    });
    queue.send(job).map_err(|_| DatabaseError::Stopped)?;
    answered.await.map_err(|_| DatabaseError::Stopped)?
}
