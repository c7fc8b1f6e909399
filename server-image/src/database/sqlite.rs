//! A SQLite file: one thread writes, a few read, and nothing blocks the async runtime.
//!
//! WAL lets readers go on while the writer commits. One writer is what SQLite allows anyway; giving it a thread of
//! its own replaces lock contention by a queue.
//!
//! Writes that wait while others are being done are committed together: the commit is what takes time, and none is
//! answered before it. Each write of such a group has a savepoint of its own, so one that fails undoes nothing but
//! itself.
//!
//! What nobody waits for any more when its turn comes is not begun; a write that has begun is done all the same. Work
//! that panics is undone and takes no thread with it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::{DatabaseError, Migration};
use crate::lock;
use crate::metrics::duration_histogram;

/// Reading threads. Reads of a local file are short; more threads than cores would not help.
const READERS: usize = 4;
/// Longest wait for another process that holds the file's write lock.
const BUSY: Duration = Duration::from_secs(5);

/// Most writes that are committed together, so that the first one need not wait long for its answer.
const GROUP_MAX: usize = 64;

/// Free pages that are given back at once: they are moved in about the time of one write, and writes that wait have
/// their turn before the next ones.
const STEP_PAGES: u32 = 100;
/// Pause between two such steps, which leaves the disk to those who are served.
const STEP_PAUSE: Duration = Duration::from_millis(20);

type Job = Box<dyn FnOnce(&mut Connection) + Send>;
/// Does its work within the transaction, or is told that there is none; what it returns is called with the outcome.
/// The time is that at which its turn came.
type Write = Box<dyn FnOnce(Result<&Transaction<'_>, String>, Instant) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), String>)>;

/// How long work waits for its thread, and how long the thread then has it, up to the end of the commit. Without them
/// a slow disk looks like a lack of slots.
#[derive(Debug, Clone)]
struct Times {
    wait_seconds: Histogram,
    use_seconds: Histogram,
}

impl Times {
    fn new() -> Self {
        Self {
            wait_seconds: duration_histogram(),
            use_seconds: duration_histogram(),
        }
    }

    /// Under the names of Postgres' pool, which say the same to who waits.
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "db_client_connection_wait_time_seconds",
            "Wait for a connection of the pool, or for a thread of the SQLite file",
            self.wait_seconds.clone(),
        );
        registry.register(
            "db_client_connection_use_time_seconds",
            "Time a connection of the pool, or a thread of the SQLite file up to the end of the commit, was in use; \
             listening for news and migrating left out",
            self.use_seconds.clone(),
        );
    }

    fn waited(&self, queued: Instant, begun: Instant) {
        let seconds = begun.saturating_duration_since(queued).as_secs_f64();
        self.wait_seconds.observe(seconds);
    }

    fn used(&self, begun: Instant) {
        self.use_seconds.observe(begun.elapsed().as_secs_f64());
    }
}

/// An open SQLite file. Cheap to clone; the threads end with the last clone.
#[derive(Debug, Clone)]
pub struct SqliteDatabase {
    writer: Sender<Write>,
    readers: Sender<Job>,
    commits: Arc<AtomicU64>,
    times: Times,
}

impl SqliteDatabase {
    pub(super) fn open(path: &Path, registry: &mut Registry) -> Result<Self, DatabaseError> {
        let times = Times::new();
        times.register(registry);
        // The writer first: it creates the file and switches it to WAL.
        let commits = Arc::new(AtomicU64::new(0));
        let writer = start_writer(connect(path)?, Arc::clone(&commits))?;
        let readers = start((0..READERS).map(|_| connect(path)).collect::<Result<_, _>>()?)?;
        Ok(Self {
            writer,
            readers,
            commits,
            times,
        })
    }

    /// Transactions committed so far; several writes at once share one.
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Runs `work` in a transaction on the writing thread; it is committed if `work` succeeds, perhaps together with
    /// other writes, and undone alone if it fails. The answer comes after the commit.
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
        self.write_timed(self.times.clone(), work).await
    }

    /// [`Self::write`], with where its times are noted.
    async fn write_timed<T, E>(
        &self,
        times: Times,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DatabaseError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let queued = Instant::now();
        let write: Write = Box::new(move |transaction, begun| {
            times.waited(queued, begun);
            if answer.is_closed() {
                return Box::new(|_| {});
            }
            let result = match transaction {
                Ok(transaction) => in_savepoint(transaction, work),
                Err(reason) => Err(DatabaseError::NotCommitted(reason).into()),
            };
            Box::new(move |committed: Result<(), String>| {
                let result = match (result, committed) {
                    (Ok(_), Err(reason)) => Err(DatabaseError::NotCommitted(reason).into()),
                    (result, _) => result,
                };
                times.used(begun);
                // Nobody waits any more if the request was cancelled meanwhile; the work is done all the same.
                let _ = answer.send(result);
            })
        });
        self.writer.send(write).map_err(|_| DatabaseError::Stopped)?;
        answered.await.map_err(|_| DatabaseError::Stopped)?
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
        run(&self.readers, self.times.clone(), |connection| {
            work(&connection.transaction().map_err(DatabaseError::from)?)
        })
        .await
    }

    pub(super) async fn migrate(&self, migrations: Vec<Migration>) -> Result<(), DatabaseError> {
        // What is no request: its time would drown that of requests.
        let untimed = Times::new();
        self.write_timed(untimed, move |transaction| {
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

    /// Gives free pages back to the file system, a few at a time; the writing thread does other work in between. The file
    /// of a large removal takes minutes: a step gives back 400 KB.
    ///
    /// What SQLite knows about its tables is left as it is (no `ANALYZE`, no `PRAGMA optimize`): the indexes are made for
    /// the statements, and figures of an odd moment, such as one long session among thousands of short ones, lead to
    /// plans that pass them by.
    ///
    /// # Errors
    /// [`DatabaseError`] when the file cannot be written.
    pub async fn tidy(&self) -> Result<(), DatabaseError> {
        while self.write(give_back_pages).await? == STEP_PAGES {
            sleep(STEP_PAUSE).await;
        }
        Ok(())
    }
}

/// Gives some free pages back, and returns how many; none in a file that was made without the room to find them.
fn give_back_pages(transaction: &Transaction<'_>) -> Result<u32, DatabaseError> {
    let mut statement = transaction.prepare(&format!("PRAGMA incremental_vacuum({STEP_PAGES})"))?;
    let mut pages = 0;
    // It gives one back each time that it is asked for a row.
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {
        pages += 1;
    }
    Ok(pages)
}

fn connect(path: &Path) -> Result<Connection, DatabaseError> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    shrink_later(&connection)?;
    // synchronous=NORMAL never damages a WAL file; a power cut may lose the last commits, a killed process does not.
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Lets a new file give back the room of what is removed; else it stays as large as it ever was. That can only be said
/// before anything is written: an older file stays as it is, for changing it would copy all of it.
fn shrink_later(connection: &Connection) -> Result<(), DatabaseError> {
    let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    if pages == 0 {
        connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL")?;
    }
    Ok(())
}

fn start_writer(mut connection: Connection, commits: Arc<AtomicU64>) -> Result<Sender<Write>, DatabaseError> {
    let (sender, receiver) = channel();
    let thread = thread::Builder::new().name("sqlite-writer".to_owned());
    thread.spawn(move || {
        while let Ok(first) = receiver.recv() {
            let group = std::iter::once(first).chain(receiver.try_iter()).take(GROUP_MAX);
            if write_together(&mut connection, group) {
                commits.fetch_add(1, Ordering::Relaxed);
            }
        }
    })?;
    Ok(sender)
}

/// Does all writes of a group in one transaction and answers them after its end; says whether it was committed.
fn write_together(connection: &mut Connection, group: impl Iterator<Item = Write>) -> bool {
    // Waiting for the file's lock is part of the first one's turn, and of the wait of those behind it.
    let mut begun = Instant::now();
    let transaction = match connection.transaction_with_behavior(TransactionBehavior::Immediate) {
        Ok(transaction) => transaction,
        Err(error) => {
            for write in group {
                write(Err(error.to_string()), begun)(Err(String::new()));
                begun = Instant::now();
            }
            return false;
        }
    };
    let mut answers = Vec::new();
    for write in group {
        answers.push(write(Ok(&transaction), begun));
        begun = Instant::now();
        // A full disk or a failing one ends the transaction by itself: nothing more may be done outside of it.
        if transaction.is_autocommit() {
            break;
        }
    }
    let outcome = if transaction.is_autocommit() {
        Err("SQLite gave the transaction up".to_owned())
    } else {
        transaction.commit().map_err(|error| error.to_string())
    };
    for answer in answers {
        answer(outcome.clone());
    }
    outcome.is_ok()
}

fn in_savepoint<T, E: From<DatabaseError>>(
    transaction: &Transaction<'_>,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let run = |sql| transaction.execute_batch(sql).map_err(|error| E::from(error.into()));
    run("SAVEPOINT one_write")?;
    let result = unless_it_panics(|| work(transaction));
    if result.is_err() && !transaction.is_autocommit() {
        run("ROLLBACK TO one_write")?;
    }
    if !transaction.is_autocommit() {
        run("RELEASE one_write")?;
    }
    result
}

/// What `work` returns; an error if it panics, for without its thread no later work would be done. What `work` leaves
/// half done is a transaction or a savepoint, and undone.
fn unless_it_panics<T, E: From<DatabaseError>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(DatabaseError::Panicked.into()))
}

/// Starts one thread per connection, all fed from the returned queue.
fn start(connections: Vec<Connection>) -> Result<Sender<Job>, DatabaseError> {
    let (sender, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    for connection in connections {
        let receiver = Arc::clone(&receiver);
        let thread = thread::Builder::new().name("sqlite-reader".to_owned());
        thread.spawn(move || work_off(&receiver, connection))?;
    }
    Ok(sender)
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
    times: Times,
    work: impl FnOnce(&mut Connection) -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<DatabaseError> + Send + 'static,
{
    let (answer, answered) = oneshot::channel();
    let queued = Instant::now();
    let job: Job = Box::new(move |connection| {
        let begun = Instant::now();
        times.waited(queued, begun);
        if !answer.is_closed() {
            let result = unless_it_panics(|| work(connection));
            times.used(begun);
            let _ = answer.send(result);
        }
    });
    queue.send(job).map_err(|_| DatabaseError::Stopped)?;
    answered.await.map_err(|_| DatabaseError::Stopped)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;

    fn count(transaction: &Transaction<'_>) -> Result<i64, DatabaseError> {
        Ok(transaction.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?)
    }

    /// Writers that come at once must not wait for a commit each, and one that fails must not take others with it.
    #[tokio::test(flavor = "multi_thread")]
    async fn waiting_writes_share_a_commit_and_fail_alone() {
        let folder = tempfile::tempdir().unwrap();
        let database = SqliteDatabase::open(&folder.path().join("test.db"), &mut Registry::default()).unwrap();
        let create = |transaction: &Transaction<'_>| {
            Ok::<_, DatabaseError>(transaction.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY)")?)
        };
        database.write(create).await.unwrap();
        let before = database.commits();
        // The first write holds the thread until all others wait.
        let (go, wait) = channel::<()>();
        let first = database.write(move |_| {
            let _ = wait.recv();
            Ok::<_, DatabaseError>(())
        });
        let others = (0..40i64).map(|number| {
            database.write(move |transaction| {
                transaction.execute("INSERT INTO t VALUES (?1)", [number])?;
                // Every tenth fails after it has written.
                if number % 10 == 9 {
                    transaction.execute("INSERT INTO t VALUES (0)", [])?;
                }
                Ok::<_, DatabaseError>(())
            })
        });
        let release = async {
            tokio::task::yield_now().await;
            go.send(()).unwrap();
        };
        let (first, results, ()) = tokio::join!(first, join_all(others), release);
        first.unwrap();
        for (number, result) in results.iter().enumerate() {
            assert_eq!(result.is_err(), number % 10 == 9, "{number}: {result:?}");
        }
        assert_eq!(database.read(count).await.unwrap(), 36, "what failed left nothing");
        let commits = database.commits() - before;
        assert!(commits <= 3, "{commits} commits for 41 writes");
    }

    /// A write that could not be committed must not be acknowledged.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_failed_commit_fails_every_write_of_the_group() {
        let folder = tempfile::tempdir().unwrap();
        let database = SqliteDatabase::open(&folder.path().join("test.db"), &mut Registry::default()).unwrap();
        let create = |transaction: &Transaction<'_>| {
            Ok::<_, DatabaseError>(transaction.execute_batch(
                "CREATE TABLE p (n INTEGER PRIMARY KEY); \
                 CREATE TABLE t (n INTEGER REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
            )?)
        };
        database.write(create).await.unwrap();
        // Found only by the commit.
        let dangling = |transaction: &Transaction<'_>| {
            Ok::<_, DatabaseError>(transaction.execute("INSERT INTO t VALUES (7)", []).map(drop)?)
        };
        assert!(matches!(
            database.write(dangling).await,
            Err(DatabaseError::NotCommitted(_))
        ));
        assert_eq!(database.read(count).await.unwrap(), 0);
        let good = |transaction: &Transaction<'_>| {
            Ok::<_, DatabaseError>(transaction.execute("INSERT INTO t VALUES (NULL)", []).map(drop)?)
        };
        database.write(good).await.unwrap();
        assert_eq!(database.read(count).await.unwrap(), 1, "the next one is not harmed");
    }

    /// Pages of the file, and those of them that hold nothing.
    fn pages(transaction: &Transaction<'_>) -> Result<(i64, i64), DatabaseError> {
        let number = |sql| transaction.query_row(sql, [], |row| row.get(0));
        Ok((number("PRAGMA page_count")?, number("PRAGMA freelist_count")?))
    }

    /// A disk that was full once would stay so, whatever was removed; and nobody may wait long while it is given back.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_shrinks_step_by_step_after_removals() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        let database = SqliteDatabase::open(&path, &mut Registry::default()).unwrap();
        let fill_and_clear = |transaction: &Transaction<'_>| {
            Ok::<_, DatabaseError>(transaction.execute_batch(
                "CREATE TABLE t (b BLOB); \
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500) \
                 INSERT INTO t SELECT zeroblob(4000) FROM n; \
                 DELETE FROM t",
            )?)
        };
        database.write(fill_and_clear).await.unwrap();
        let (before, free) = database.read(pages).await.unwrap();
        assert!(free > 1_400, "{free} of {before} pages are free");
        let begun = database.commits();
        database.tidy().await.unwrap();
        let (after, left) = database.read(pages).await.unwrap();
        assert_eq!(left, 0, "all is given back");
        assert!(after + free <= before, "{before} pages before, {after} after");
        // A commit is counted just after it is answered.
        let commits = database.commits() - begun;
        assert!(
            commits >= u64::try_from(free).unwrap() / u64::from(STEP_PAGES),
            "in {commits} steps"
        );
        let analyzed = |transaction: &Transaction<'_>| {
            let sql = "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'sqlite_stat%'";
            Ok::<i64, DatabaseError>(transaction.query_row(sql, [], |row| row.get(0))?)
        };
        assert_eq!(
            database.read(analyzed).await.unwrap(),
            0,
            "plans stay as they are tested"
        );
        drop(database);
        let again = SqliteDatabase::open(&path, &mut Registry::default()).unwrap();
        again.tidy().await.unwrap();
    }

    /// A file that an earlier version made cannot shrink, but must be of use as before.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_older_file_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        let create = "PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)";
        Connection::open(&path).unwrap().execute_batch(create).unwrap();
        let database = SqliteDatabase::open(&path, &mut Registry::default()).unwrap();
        database.tidy().await.unwrap();
        assert_eq!(database.read(count).await.unwrap(), 1);
    }
}
