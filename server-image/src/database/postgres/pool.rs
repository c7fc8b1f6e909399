//! The connections to Postgres: as many as allowed, resizable while they are in use.
//!
//! deadpool keeps idle connections; how many there may be is decided here, because its own `resize` forgets free
//! places (a pool of 10 with 3 open connections, shrunk to 5, still opens 10). Two sets of permits share one limit:
//! one for whoever uses a connection, in the order of asking, and one for each connection from before it is opened
//! until its socket is closed. So connections that are just being closed count as open, and "open" is what the
//! database sees, but for the moment its own process takes to end.

use std::time::{Duration, Instant};

use deadpool_postgres::{
    Client, ClientWrapper, Connect, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts,
};
use futures::future::BoxFuture;
use prometheus_client::metrics::histogram::Histogram;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::database::heard::Ears;
use crate::database::{DatabaseError, PoolStatus};
use crate::permits::{Permit, Permits};
use crate::tuning::POOL_MAX;

/// Longest wait for a free connection. Longer would only move the queue from admission to the pool.
const POOL_WAIT: Duration = Duration::from_secs(2);
/// Longest time to open a connection.
pub(super) const CONNECT: Duration = Duration::from_secs(3);

/// A resizable pool. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    idle: Pool,
    users: Permits,
    open: Permits,
    wait_seconds: Histogram,
    use_seconds: Histogram,
}

impl Connections {
    pub(super) fn new(
        config: tokio_postgres::Config,
        max: usize,
        ears: Ears,
        (wait_seconds, use_seconds): (Histogram, Histogram),
    ) -> Result<Self, DatabaseError> {
        let open = Permits::new(max);
        let connect = CountedConnect {
            ears,
            open: open.clone(),
        };
        let settings = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let idle = Pool::builder(Manager::from_connect(config, connect, settings))
            // Never reached: the permits decide.
            .max_size(POOL_MAX)
            .timeouts(Timeouts {
                wait: Some(POOL_WAIT),
                create: Some(CONNECT),
                recycle: Some(CONNECT),
            })
            .runtime(Runtime::Tokio1)
            .build()?;
        Ok(Self {
            idle,
            users: Permits::new(max),
            open,
            wait_seconds,
            use_seconds,
        })
    }

    /// Takes an idle connection, or opens one.
    pub(super) async fn take(&self) -> Result<Borrowed, DatabaseError> {
        let asked = Instant::now();
        let waiting = Timed {
            since: asked,
            histogram: &self.wait_seconds,
        };
        let permit = timeout(POOL_WAIT, self.users.acquire()).await;
        let client = match &permit {
            Ok(_) => self
                .idle
                .get()
                .await
                .map_err(|error| DatabaseError::from_pool(error, asked.elapsed(), self.users.limit())),
            Err(_) => Err(DatabaseError::PoolTimeout {
                waited: asked.elapsed(),
                max: self.users.limit(),
            }),
        };
        drop(waiting);
        Ok(Borrowed {
            client: Some(client?),
            pool: self.clone(),
            taken: Some(Instant::now()),
            permit: Some(permit.map_err(|_| DatabaseError::Stopped)?),
        })
    }

    /// Sets how many connections there may be. Idle ones above it are closed now, those in use when they are given
    /// back; nobody who uses one notices.
    pub(super) fn resize(&self, max: usize) {
        self.users.resize(max);
        self.open.resize(max);
        let mut surplus = self.open.held().saturating_sub(max);
        self.idle.retain(|_, _| {
            let keep = surplus == 0;
            surplus = surplus.saturating_sub(1);
            keep
        });
    }

    pub(super) fn status(&self) -> PoolStatus {
        let open = self.open.held();
        PoolStatus {
            max: self.users.limit(),
            open,
            idle: open.saturating_sub(self.users.held()),
        }
    }
}

/// Observes the seconds since `since` when dropped, so that who gives up is counted, too.
struct Timed<'a> {
    since: Instant,
    histogram: &'a Histogram,
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.histogram.observe(self.since.elapsed().as_secs_f64());
    }
}

/// A connection in use; it goes back when dropped, unless it is broken or there are too many.
#[derive(Debug)]
pub(super) struct Borrowed {
    client: Option<Client>,
    pool: Connections,
    /// Since when it is in use; nothing if that is not timed.
    taken: Option<Instant>,
    // After the client: whoever gets the permit next finds the connection idle. Nothing once it is handed over.
    permit: Option<Permit>,
}

impl Borrowed {
    pub(super) fn client(&self) -> Result<&Client, DatabaseError> {
        self.client.as_ref().ok_or(DatabaseError::Stopped)
    }

    pub(super) fn client_mut(&mut self) -> Result<&mut Client, DatabaseError> {
        self.client.as_mut().ok_or(DatabaseError::Stopped)
    }

    /// Leaves this use out of the times of use.
    pub(super) fn leave_untimed(&mut self) {
        self.taken = None;
    }

    /// Takes the connection out of the pool: it closes when dropped, and counts as open until then.
    pub(super) fn take_out(&mut self) -> Option<ClientWrapper> {
        self.client.take().map(Object::take)
    }

    /// The use itself, for who goes on with it: it ends when that is dropped, and here is nothing left.
    pub(super) fn hand_over(&mut self) -> Self {
        Self {
            client: self.client.take(),
            pool: self.pool.clone(),
            taken: self.taken.take(),
            permit: self.permit.take(),
        }
    }

    /// Closes the connection instead of giving it back.
    pub(super) fn discard(&mut self) {
        drop(self.take_out());
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(taken) = self.taken {
            self.pool.use_seconds.observe(taken.elapsed().as_secs_f64());
        }
        if self.pool.open.held() > self.pool.open.limit() {
            self.discard();
        }
        drop(self.client.take());
    }
}

/// Opens connections that hold a permit for as long as their socket is open.
struct CountedConnect {
    ears: Ears,
    open: Permits,
}

type Connected = Result<(tokio_postgres::Client, JoinHandle<()>), tokio_postgres::Error>;

impl Connect for CountedConnect {
    fn connect(&self, config: &tokio_postgres::Config) -> BoxFuture<'_, Connected> {
        let config = config.clone();
        Box::pin(async move {
            let permit = self.open.acquire().await;
            self.ears.connect(&config, permit).await
        })
    }
}
