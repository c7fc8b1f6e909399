//! From which figure on something is worth telling, and who says so.

use super::finding::Unit;

/// A limit for a figure, and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// From here on it is worth a warning.
    pub warning: f64,
    /// From here on it is critical.
    pub critical: f64,
    /// Unit of both.
    pub unit: Unit,
    /// Who says so.
    pub source: &'static str,
}

impl Threshold {
    /// Of a share from 0 to 1.
    const fn share(warning: f64, critical: f64, source: &'static str) -> Self {
        Self {
            warning,
            critical,
            unit: Unit::Ratio,
            source,
        }
    }

    /// Of a time in seconds.
    const fn seconds(warning: f64, critical: f64, source: &'static str) -> Self {
        Self {
            warning,
            critical,
            unit: Unit::Seconds,
            source,
        }
    }
}

/// Share of requests that fail by the server's fault.
pub const ERROR_RATIO: Threshold = Threshold::share(
    0.01,
    0.05,
    "shared-context server: errors < 1 %; Libraries.io server: alert above 5 %",
);
/// Share of requests that find no slot. Each is a caller who has to come again.
pub const SHED_RATIO: Threshold = Threshold::share(
    0.001,
    0.01,
    "Varlet server: errors < 0.1 %; shared-context server: errors < 1 %",
);
/// Time from arrival to answer that 95 % of requests keep, in seconds.
pub const LATENCY_P95: Threshold = Threshold::seconds(
    0.1,
    0.5,
    "shared-context server: alert above 0.1 s; 10x enhancement: p95 0.5 s",
);
/// Share of the mean request that is spent waiting for a slot.
pub const QUEUE_SHARE: Threshold = Threshold::share(
    0.2,
    0.5,
    "mcpscale: from one half on, most of what callers wait for is other callers",
);
/// Share of slots that are busy.
pub const SLOT_UTILIZATION: Threshold = Threshold::share(0.8, 0.95, "Varlet server: scale up above 0.8");
/// Used share of the CPU that may be used.
pub const CPU_UTILIZATION: Threshold = Threshold::share(0.8, 0.95, "Libraries.io server: alert above 80 %");
/// Share of time in which the container is made to wait for its CPU limit.
pub const CPU_THROTTLED: Threshold = Threshold::share(
    0.05,
    0.25,
    "mcpscale: a request that meets a throttled container waits up to 100 ms",
);
/// Used share of the pool.
pub const POOL_UTILIZATION: Threshold = Threshold::share(0.8, 0.95, "registry gateway: pool utilization 80 % and 95 %");
/// Share of the service time that is spent waiting for a connection.
pub const POOL_WAIT_SHARE: Threshold =
    Threshold::share(0.1, 0.3, "mcpscale: a slot that waits for a connection serves nobody");
/// Share of the service time that is spent waiting for a thread of the SQLite file.
pub const FILE_WAIT_SHARE: Threshold =
    Threshold::share(0.1, 0.3, "mcpscale: a slot that waits for the file serves nobody");
/// How long a request keeps a connection in the mean, in seconds.
pub const DATABASE_SECONDS: Threshold = Threshold::seconds(
    0.05,
    0.1,
    "shared-context server: queries < 50 ms; registry gateway: warning at 100 ms",
);
/// Share of the service time that is spent with the database.
pub const DATABASE_SHARE: Threshold =
    Threshold::share(0.5, 0.8, "mcpscale: the larger part of the work is the database's");
/// Used share of the database's `max_connections`.
pub const DATABASE_CONNECTIONS: Threshold =
    Threshold::share(0.8, 0.95, "registry gateway: pool utilization 80 % and 95 %");
/// Share of look-ups that no cache answers for want of room.
pub const EVICTED_RATIO: Threshold = Threshold::share(0.3, 0.5, "registry gateway: hit rate below 70 % and 50 %");
/// One while Redis does not answer, which the server can do without.
pub const REDIS_DOWN: Threshold = Threshold::share(
    1.0,
    f64::INFINITY,
    "mcpscale: without Redis, each replica asks the database for what others have read",
);
/// Mean time in which Redis answers, in seconds.
pub const REDIS_SECONDS: Threshold = Threshold::seconds(
    0.003,
    0.0125,
    "mcpscale: Redis is to save the few milliseconds of a query, and is given up after 25 ms",
);
/// Mean time to verify a credential, in seconds.
pub const AUTHENTICATION_SECONDS: Threshold = Threshold::seconds(
    0.02,
    0.2,
    "registry gateway: validation of a token above 0.2 s is bad; mcpscale: a remembered verdict takes microseconds",
);
/// Used share of the memory that may be used.
pub const MEMORY_UTILIZATION: Threshold = Threshold::share(
    0.8,
    0.9,
    "Libraries.io server: act at 80 %, alert above 85 %; Varlet server: 480 of 512 MB is critical",
);
