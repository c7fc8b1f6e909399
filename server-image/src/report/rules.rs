//! What can be wrong with a server: for each kind of trouble the figure that shows it, its limit, and the advice.

use super::figures::Figures;
use super::finding::{Area, Evidence, Finding, Severity, Unit};
use super::thresholds::{
    AUTHENTICATION_SECONDS, CPU_THROTTLED, CPU_UTILIZATION, DATABASE_CONNECTIONS, DATABASE_SECONDS, DATABASE_SHARE,
    ERROR_RATIO, EVICTED_RATIO, FILE_WAIT_SHARE, LATENCY_P95, MEMORY_UTILIZATION, POOL_UTILIZATION, POOL_WAIT_SHARE,
    QUEUE_SHARE, REDIS_DOWN, REDIS_SECONDS, SHED_RATIO, SLOT_UTILIZATION, Threshold,
};

/// With fewer requests than this, figures about requests are chance.
pub(super) const REQUESTS_MIN: f64 = 20.0;
/// With fewer look-ups than this, figures about the cache are chance.
const LOOKUPS_MIN: f64 = 100.0;
/// Use of slots and connections that leaves room for chance; new sizes are computed for it.
const COMFORTABLE: f64 = 0.7;

/// A SQLite file has one writer and one server: neither connections nor replicas can be added.
const FASTER_THAN_A_FILE: &str = "put the SQLite file on a faster disk, see that no other process keeps it locked, or \
                                  move to Postgres (--database-url)";

/// One thing that can be wrong.
pub(super) struct Rule {
    area: Area,
    figure: &'static str,
    threshold: Threshold,
    read: fn(&Figures) -> Option<f64>,
    problem: fn(&Figures, String) -> String,
    advice: fn(&Figures) -> String,
}

impl Rule {
    pub(super) fn apply(&self, figures: &Figures) -> Option<Finding> {
        let value = (self.read)(figures)?;
        // A figure on the limit itself counts; the difference is far below what a scrape can tell.
        let reaches = |limit: f64| value >= limit - 1e-9;
        if !reaches(self.threshold.warning) {
            return None;
        }
        Some(Finding {
            area: self.area,
            severity: if reaches(self.threshold.critical) {
                Severity::Critical
            } else {
                Severity::Warning
            },
            problem: (self.problem)(figures, self.threshold.unit.show(value)),
            evidence: Evidence {
                figure: self.figure,
                value,
                unit: self.threshold.unit,
                threshold: self.threshold.warning,
                source: self.threshold.source,
            },
            recommendation: (self.advice)(figures),
        })
    }
}

/// All of them; the order is that of findings of the same severity.
pub(super) const RULES: &[Rule] = &[
    Rule {
        area: Area::Errors,
        figure: "mcp_requests_total{status=\"error\"} ÷ mcp_requests_total",
        threshold: ERROR_RATIO,
        read: |figures| enough(figures).and(figures.requests.error_ratio),
        problem: |_, share| format!("{share} of requests fail by the server's own fault"),
        advice: |_| {
            "mcp_server_operation_duration_seconds_count by error_type says how they fail, and the warnings in the \
             server's log why; a database that does not answer is the usual cause"
                .to_owned()
        },
    },
    Rule {
        area: Area::Queueing,
        figure: "mcp_requests_total{status=\"shed\"} ÷ mcp_requests_total",
        threshold: SHED_RATIO,
        read: |figures| enough(figures).and(figures.requests.shed_ratio),
        problem: |_, share| {
            format!("{share} of requests find no slot: refused with 503, or given up by their client while waiting")
        },
        advice: |figures| {
            let file = "take away what keeps the slots busy (see the other findings); several servers need Postgres";
            with_file_or(
                figures,
                file,
                "add replicas, or take away what keeps the slots busy (see the other findings)",
            )
        },
    },
    Rule {
        area: Area::Latency,
        figure: "p95 of mcp_request_duration_seconds",
        threshold: LATENCY_P95,
        read: |figures| figures.latency.p95,
        problem: |_, time| format!("one request in twenty takes longer than {time}"),
        advice: |figures| match figures.tools.first() {
            Some(tool) => format!(
                "{} takes {} of all service time: begin there; what its calls wait for is the bottleneck",
                tool.tool,
                Unit::Ratio.show(tool.share)
            ),
            None => "see what the requests wait for".to_owned(),
        },
    },
    Rule {
        area: Area::Queueing,
        figure: "mean of mcp_queue_seconds ÷ mean of mcp_request_duration_seconds",
        threshold: QUEUE_SHARE,
        read: queue_share,
        problem: |_, share| format!("{share} of the mean request's time is waiting for a slot"),
        advice: |figures| {
            with_file_or(
                figures,
                "more slots (--concurrency) help only while CPU and disk have room; several servers need Postgres",
                "add replicas; more slots help only while CPU, pool and database have room",
            )
        },
    },
    Rule {
        area: Area::Queueing,
        figure: "mcp_slot_busy_seconds_total ÷ (time × mcp_concurrency_limit)",
        threshold: SLOT_UTILIZATION,
        read: |figures| figures.slots.utilization,
        problem: |_, share| format!("{share} of the slots are busy all the time"),
        advice: more_slots,
    },
    Rule {
        area: Area::Cpu,
        figure: "process_cpu_seconds_total ÷ (time × mcp_cpu_limit_cores)",
        threshold: CPU_UTILIZATION,
        read: |figures| figures.cpu.utilization,
        problem: |_, share| format!("{share} of the CPU that this server may use is used"),
        advice: |figures| {
            with_file_or(
                figures,
                "raise the CPU limit; more slots would only make each request slower",
                "raise the CPU limit or add replicas; more slots would only make each request slower",
            )
        },
    },
    Rule {
        area: Area::Cpu,
        figure: "mcp_cpu_throttled_seconds_total ÷ time",
        threshold: CPU_THROTTLED,
        read: |figures| figures.cpu.throttled,
        problem: |_, share| format!("{share} of the time the container is made to wait for its CPU limit"),
        advice: |_| "raise the CPU limit, or leave it out and set only the request".to_owned(),
    },
    Rule {
        area: Area::Pool,
        figure: "db_client_connection_wait_time_seconds per request ÷ mean of mcp_service_seconds",
        threshold: POOL_WAIT_SHARE,
        read: pool_wait_share,
        problem: |_, share| format!("{share} of the service time is waiting for a connection to the database"),
        advice: more_connections,
    },
    Rule {
        area: Area::Pool,
        figure: "used connections ÷ db_client_connection_max",
        threshold: POOL_UTILIZATION,
        read: |figures| enough(figures).and(figures.pool.utilization),
        problem: |_, share| format!("{share} of the connection pool is in use"),
        advice: more_connections,
    },
    Rule {
        area: Area::Database,
        figure: "db_client_connection_wait_time_seconds per request ÷ mean of mcp_service_seconds",
        threshold: FILE_WAIT_SHARE,
        // A request that does nothing else waits some of its few microseconds, which nobody notices.
        read: |figures| file_wait_share(figures).filter(|_| is_slow(figures)),
        problem: |_, share| format!("{share} of the service time is waiting for a thread of the SQLite file"),
        advice: |_| FASTER_THAN_A_FILE.to_owned(),
    },
    Rule {
        area: Area::Database,
        figure: "mean of db_client_connection_use_time_seconds",
        threshold: DATABASE_SECONDS,
        read: |figures| enough(figures).and(figures.database.hold.mean),
        problem: |figures, time| {
            let what = with_file_or(figures, "a thread", "a connection");
            format!("the database keeps {what} busy for {time} in the mean")
        },
        advice: |figures| {
            with_file_or(
                figures,
                FASTER_THAN_A_FILE,
                "look for slow statements (pg_stat_statements), missing indexes and the database's own CPU and disk; \
                 more connections or replicas would only add to its load",
            )
        },
    },
    Rule {
        area: Area::Database,
        figure: "db_client_connection_use_time_seconds per request ÷ mean of mcp_service_seconds",
        threshold: DATABASE_SHARE,
        read: |figures| database_share(figures).filter(|_| is_slow(figures)),
        problem: |_, share| format!("{share} of the service time is spent with the database"),
        advice: |figures| {
            with_file_or(
                figures,
                FASTER_THAN_A_FILE,
                "a cache that answers more, or a faster database, helps most; more CPU hardly",
            )
        },
    },
    Rule {
        area: Area::Database,
        figure: "mcp_database_backends ÷ mcp_database_max_connections",
        threshold: DATABASE_CONNECTIONS,
        read: |figures| figures.database.connections_used,
        problem: |_, share| format!("{share} of the connections that the database allows are taken"),
        advice: |_| "lower the pools of its clients, put a pooler before it, or raise its max_connections".to_owned(),
    },
    Rule {
        area: Area::Cache,
        figure: "mcp_cache_requests_total{tier=\"l1\",result=\"miss_evicted\"}, or all misses if fewer, ÷ look-ups",
        threshold: EVICTED_RATIO,
        read: evicted_share,
        problem: |_, share| {
            format!("no cache has the answer for {share} of look-ups, because it had to make room for others")
        },
        advice: |_| {
            "raise the cache's size (l1Bytes); if mcp_cache_reuse_bytes_bucket shows little reuse within reach, no size helps"
                .to_owned()
        },
    },
    Rule {
        area: Area::Cache,
        figure: "1 − mcp_cache_redis_up",
        threshold: REDIS_DOWN,
        read: |figures| Some(1.0 - figures.redis.up?),
        problem: |_, _| "Redis does not answer: replicas share no cache".to_owned(),
        advice: |_| {
            "the warnings in the server's log say why; a Redis that answers now and then, but too late, shows in \
             mcp_cache_redis_seconds"
                .to_owned()
        },
    },
    Rule {
        area: Area::Cache,
        figure: "mean of mcp_cache_redis_seconds",
        threshold: REDIS_SECONDS,
        read: redis_seconds,
        problem: |_, time| format!("Redis takes {time} in the mean to answer"),
        advice: |_| {
            "bring Redis closer (the same zone), give it more CPU, and see SLOWLOG for what others ask of it; a query may \
             be as fast without it"
                .to_owned()
        },
    },
    Rule {
        area: Area::Authentication,
        figure: "mean of mcp_auth_request_duration_seconds",
        threshold: AUTHENTICATION_SECONDS,
        read: |figures| enough(figures).and(figures.authentication.mean),
        problem: |_, time| format!("it takes {time} in the mean to verify a credential"),
        advice: |_| {
            "a verdict is remembered for up to five minutes, so look for clients that take a new token for each \
             request, and for an identity provider whose keys cannot be fetched (mcp_auth_key_fetches_total)"
                .to_owned()
        },
    },
    Rule {
        area: Area::Memory,
        figure: "mcp_memory_used_bytes ÷ mcp_memory_limit_bytes",
        threshold: MEMORY_UTILIZATION,
        read: |figures| figures.memory.utilization,
        problem: |_, share| format!("{share} of the memory that this server may use is used"),
        advice: |_| "lower the cache's size or raise the memory limit: at 100 % the kernel ends the server".to_owned(),
    },
];

pub(super) fn enough(figures: &Figures) -> Option<()> {
    (figures.requests.count >= REQUESTS_MIN).then_some(())
}

fn queue_share(figures: &Figures) -> Option<f64> {
    enough(figures)?;
    share(figures.queue.mean?, figures.latency.mean?)
}

pub(super) fn pool_wait_share(figures: &Figures) -> Option<f64> {
    wait_share(figures).filter(|_| !figures.database.is_file)
}

pub(super) fn file_wait_share(figures: &Figures) -> Option<f64> {
    wait_share(figures).filter(|_| figures.database.is_file)
}

fn wait_share(figures: &Figures) -> Option<f64> {
    enough(figures)?;
    share(figures.pool.wait_per_request?, figures.service.mean?)
}

pub(super) fn database_share(figures: &Figures) -> Option<f64> {
    enough(figures)?;
    share(figures.database.per_request?, figures.service.mean?)
}

/// What is new, has changed or has expired would miss in a cache of any size, so only evictions count; and of these no
/// more than all tiers together miss, because what the second still has costs little.
fn evicted_share(figures: &Figures) -> Option<f64> {
    let cache = &figures.cache;
    cache.lookups.filter(|lookups| *lookups >= LOOKUPS_MIN)?;
    Some(cache.evicted_ratio?.min(1.0 - cache.hit_ratio?))
}

/// The times of one that is down say nothing about one that is slow.
fn redis_seconds(figures: &Figures) -> Option<f64> {
    let redis = &figures.redis;
    redis.asked.filter(|asked| *asked >= LOOKUPS_MIN)?;
    redis.answer.mean.filter(|_| redis.up != Some(0.0))
}

fn reaches(value: Option<f64>, limit: f64) -> bool {
    value.is_some_and(|value| value >= limit)
}

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| (part / whole).min(1.0))
}

/// Whether callers notice: the time is long, or slots are short.
pub(super) fn is_slow(figures: &Figures) -> bool {
    reaches(figures.latency.p95.or(figures.latency.mean), LATENCY_P95.warning) || is_short_of_slots(figures)
}

pub(super) fn is_short_of_slots(figures: &Figures) -> bool {
    reaches(enough(figures).and(figures.requests.shed_ratio), SHED_RATIO.warning)
        || reaches(queue_share(figures), QUEUE_SHARE.warning)
        || reaches(figures.slots.utilization, SLOT_UTILIZATION.warning)
}

fn more_slots(figures: &Figures) -> String {
    let busy = figures.slots.utilization.zip(figures.slots.limit);
    let needed = busy.map(|(utilization, limit)| (utilization * limit / COMFORTABLE).ceil());
    match needed {
        Some(needed) if figures.database.is_file => format!(
            "at least {needed} slots are needed to leave room: raise --concurrency while CPU and disk have room; several servers need Postgres"
        ),
        None if figures.database.is_file => "several servers need Postgres".to_owned(),
        Some(needed) => format!(
            "at least {needed} slots are needed to leave room: add replicas, or raise --concurrency while CPU, pool and database have room"
        ),
        None => "add replicas".to_owned(),
    }
}

fn more_connections(figures: &Figures) -> String {
    let figures = &figures.pool;
    let needed = figures.utilization.zip(figures.max);
    let needed = needed.map(|(utilization, max)| (utilization * max / COMFORTABLE).ceil().max(max + 1.0));
    let size = needed.map_or_else(String::new, |needed| format!(" to at least {needed}"));
    format!(
        "raise the pool{size} (--pool-max, or pool.max of PUT /tuning) within the database's max_connections; if \
         connections are kept long, make the statements faster first"
    )
}

/// Advice for a server with a SQLite file, or for any other.
fn with_file_or(figures: &Figures, file: &str, other: &str) -> String {
    if figures.database.is_file { file } else { other }.to_owned()
}
