//! The figures of one server over one stretch of time, computed from what `/metrics` said at its two ends.

use serde::Serialize;

use super::scrape::{Histogram, Scrape};

/// What a server did. Times are in seconds; what is not known, or rests on too few requests, is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Length of the stretch of time.
    pub seconds: f64,
    /// Whether it began with the server, because there was no earlier look or the server has restarted since.
    pub since_start: bool,
    /// How many requests, and how they ended.
    pub requests: Requests,
    /// Arrival to answer.
    pub latency: Times,
    /// Wait for a slot.
    pub queue: Times,
    /// Time a slot is held.
    pub service: Times,
    /// The slots.
    pub slots: Slots,
    /// CPU time.
    pub cpu: Cpu,
    /// Connections to the database.
    pub pool: Pool,
    /// The database.
    pub database: DatabaseFigures,
    /// The tiers of the cache, and all of them together.
    pub cache: Cache,
    /// Redis, the cache that replicas share.
    pub redis: Redis,
    /// How long it takes to verify a credential.
    pub authentication: Times,
    /// Memory.
    pub memory: Memory,
    /// The tools that were called, those that held slots longest first.
    pub tools: Vec<ToolFigures>,
}

/// How many requests, and how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Requests {
    /// Requests that were finished, or found no slot.
    pub count: f64,
    /// The same in a second.
    pub per_second: f64,
    /// Share (0 to 1) that failed by the server's fault.
    pub error_ratio: Option<f64>,
    /// Share (0 to 1) that found no slot: refused at once, or given up by the client while waiting.
    pub shed_ratio: Option<f64>,
    /// Share (0 to 1) of all that arrived that was turned away because its caller had used up its rate.
    pub limited_ratio: Option<f64>,
}

/// A distribution of times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Times {
    /// Mean.
    pub mean: Option<f64>,
    /// Half of them are not longer; from 40 requests on.
    pub p50: Option<f64>,
    /// From 400 requests on.
    pub p95: Option<f64>,
    /// From 2000 requests on.
    pub p99: Option<f64>,
}

/// The slots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Slots {
    /// How many there are.
    pub limit: Option<f64>,
    /// Share (0 to 1) that was busy, over the whole time.
    pub utilization: Option<f64>,
}

/// CPU time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// Cores used.
    pub cores: Option<f64>,
    /// Cores that may be used.
    pub limit: Option<f64>,
    /// Used of what may be used (0 to 1).
    pub utilization: Option<f64>,
    /// CPU time of a request.
    pub per_request: Option<f64>,
    /// Share (0 to 1) of the time in which the container was made to wait because it had used up its limit.
    pub throttled: Option<f64>,
}

/// Connections to the database, or the threads of a SQLite file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Pool {
    /// Most of them.
    pub max: Option<f64>,
    /// Used of the most (0 to 1): over the whole time if known, else at its end.
    pub utilization: Option<f64>,
    /// Wait for one.
    pub wait: Times,
    /// Wait for connections in the mean request.
    pub wait_per_request: Option<f64>,
}

/// The database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct DatabaseFigures {
    /// Whether it is a SQLite file: it has threads instead of a pool, and belongs to one server.
    pub is_file: bool,
    /// How long a connection is borrowed.
    pub hold: Times,
    /// Time with a borrowed connection in the mean request.
    pub per_request: Option<f64>,
    /// Connections of all clients, of the most the database allows (0 to 1).
    pub connections_used: Option<f64>,
}

/// What caches answered.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cache {
    /// Look-ups in the first tier: each began there.
    pub lookups: Option<f64>,
    /// Share (0 to 1) of look-ups that some tier answered.
    pub hit_ratio: Option<f64>,
    /// Share (0 to 1) of look-ups for what the first tier had, but let go of for want of room.
    pub evicted_ratio: Option<f64>,
    /// Each tier by itself: its name and the share (0 to 1) of what it was asked that it answered.
    pub tiers: Vec<(String, Option<f64>)>,
}

/// Redis, where there is one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Redis {
    /// Whether it answers (1) or not (0), at the end.
    pub up: Option<f64>,
    /// How often it was asked or told something.
    pub asked: Option<f64>,
    /// How long it took, also when it gave no answer.
    pub answer: Times,
}

/// Memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Resident bytes at the end.
    pub resident: Option<f64>,
    /// Bytes the container may use.
    pub limit: Option<f64>,
    /// Used of what may be used (0 to 1).
    pub utilization: Option<f64>,
}

/// One tool, or a method that is not a tool call.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ToolFigures {
    /// Its name.
    pub tool: String,
    /// Calls that were served.
    pub calls: f64,
    /// Share (0 to 1) of all slot time that it took.
    pub share: f64,
    /// Time a slot is held by a call.
    pub service: Times,
}

/// Differences between two scrapes.
struct Span<'a> {
    before: Option<&'a Scrape>,
    after: &'a Scrape,
    seconds: f64,
}

impl Figures {
    /// What happened from `before` to `after`; since the server's start without `before`, or when it restarted in
    /// between.
    #[must_use]
    pub fn between(before: Option<&Scrape>, after: &Scrape) -> Self {
        let start = |scrape: &Scrape| scrape.sum("process_start_time_seconds", &[]);
        let before = before.filter(|before| start(before) == start(after));
        let from = before.map(Scrape::taken).or_else(|| start(after));
        let span = Span {
            before,
            after,
            seconds: from.map_or(0.0, |from| after.taken() - from).max(0.0),
        };
        span.figures()
    }
}

impl Span<'_> {
    fn figures(&self) -> Figures {
        let service = self.histogram("mcp_service_seconds", &[]);
        let served = service.as_ref().map_or(0.0, |service| service.count);
        Figures {
            seconds: self.seconds,
            since_start: self.before.is_none(),
            requests: self.requests(),
            latency: times(self.histogram("mcp_request_duration_seconds", &[]).as_ref()),
            queue: times(self.histogram("mcp_queue_seconds", &[]).as_ref()),
            service: times(service.as_ref()),
            slots: self.slots(),
            cpu: self.cpu(served),
            pool: self.pool(served),
            database: self.database(served),
            cache: self.cache(),
            redis: self.redis(),
            authentication: times(self.histogram("mcp_auth_request_duration_seconds", &[]).as_ref()),
            memory: self.memory(),
            tools: self.tools(service.map_or(0.0, |service| service.sum)),
        }
    }

    fn requests(&self) -> Requests {
        let ended = |status| self.counter("mcp_requests_total", &[("status", status)]);
        let count = self.counter("mcp_requests_total", &[]).unwrap_or(0.0);
        // They are turned away before they count as requests.
        let limited = self.counter("mcp_rate_limited_requests_total", &[]);
        Requests {
            count,
            per_second: ratio(count, self.seconds).unwrap_or(0.0),
            error_ratio: ended("error").and_then(|errors| ratio(errors, count)),
            shed_ratio: ended("shed").and_then(|shed| ratio(shed, count)),
            limited_ratio: limited.and_then(|limited| ratio(limited, count + limited)),
        }
    }

    fn slots(&self) -> Slots {
        let limit = self.gauge("mcp_concurrency_limit", &[]);
        let busy = self.counter("mcp_slot_busy_seconds_total", &[]);
        Slots {
            limit,
            utilization: quotient(busy, limit.map(|limit| limit * self.seconds)),
        }
    }

    fn cpu(&self, served: f64) -> Cpu {
        let used = self.counter("process_cpu_seconds_total", &[]);
        let cores = used.and_then(|used| ratio(used, self.seconds));
        let limit = self.gauge("mcp_cpu_limit_cores", &[]);
        let throttled = self.counter("mcp_cpu_throttled_seconds_total", &[]);
        Cpu {
            cores,
            limit,
            utilization: quotient(cores, limit),
            per_request: used.and_then(|used| ratio(used, served)),
            throttled: throttled.and_then(|throttled| ratio(throttled, self.seconds)),
        }
    }

    fn pool(&self, served: f64) -> Pool {
        let max = self.gauge("db_client_connection_max", &[]);
        let used = self.gauge("db_client_connection_count", &[("state", "used")]);
        let wait = self.histogram("db_client_connection_wait_time_seconds", &[]);
        let hold = self.histogram("db_client_connection_use_time_seconds", &[]);
        let busy = quotient(hold.map(|hold| hold.sum), max.map(|max| max * self.seconds));
        Pool {
            max,
            utilization: busy.or_else(|| quotient(used, max)),
            wait: times(wait.as_ref()),
            wait_per_request: wait.and_then(|wait| ratio(wait.sum, served)),
        }
    }

    fn database(&self, served: f64) -> DatabaseFigures {
        let hold = self.histogram("db_client_connection_use_time_seconds", &[]);
        let backends = self.gauge("mcp_database_backends", &[]);
        DatabaseFigures {
            is_file: self.after.sum("mcp_sqlite_commits_total", &[]).is_some(),
            hold: times(hold.as_ref()),
            per_request: hold.and_then(|hold| ratio(hold.sum, served)),
            connections_used: quotient(backends, self.gauge("mcp_database_max_connections", &[])),
        }
    }

    /// Every look-up asks the first tier, and only what it lacks is asked of the next: so what the first was asked are
    /// all look-ups. Whatever is no hit is a miss; the metric has a result for each reason.
    fn cache(&self) -> Cache {
        let name = "mcp_cache_requests_total";
        let tiers = self.after.label_values(name, "tier");
        let first = tiers.first().copied().unwrap_or_default();
        let asked = |tier: &str| self.counter(name, &[("tier", tier)]);
        let ended = |tier: &str, result: &str| self.counter(name, &[("tier", tier), ("result", result)]);
        let lookups = asked(first);
        Cache {
            lookups,
            hit_ratio: quotient(self.counter(name, &[("result", "hit")]), lookups),
            evicted_ratio: quotient(ended(first, "miss_evicted"), lookups),
            tiers: tiers
                .iter()
                .map(|tier| ((*tier).to_owned(), quotient(ended(tier, "hit"), asked(tier))))
                .collect(),
        }
    }

    fn redis(&self) -> Redis {
        let answer = self.histogram("mcp_cache_redis_seconds", &[]);
        Redis {
            up: self.gauge("mcp_cache_redis_up", &[]),
            asked: answer.as_ref().map(|answer| answer.count),
            answer: times(answer.as_ref()),
        }
    }

    fn memory(&self) -> Memory {
        let resident = self.gauge("process_resident_memory_bytes", &[]);
        let limit = self.gauge("mcp_memory_limit_bytes", &[]);
        Memory {
            resident,
            limit,
            // What the kernel counts, if that is known: a process's own pages are not all of a container's.
            utilization: quotient(self.gauge("mcp_memory_used_bytes", &[]).or(resident), limit),
        }
    }

    fn tools(&self, all: f64) -> Vec<ToolFigures> {
        let names = self.after.label_values("mcp_service_seconds_count", "tool");
        let tools = names.iter().filter_map(|tool| {
            let service = self.histogram("mcp_service_seconds", &[("tool", tool)])?;
            Some(ToolFigures {
                tool: (*tool).to_owned(),
                calls: service.count,
                share: ratio(service.sum, all)?,
                service: times(Some(&service)),
            })
        });
        let mut tools: Vec<ToolFigures> = tools.filter(|tool| tool.calls > 0.0).collect();
        tools.sort_by(|a, b| b.share.total_cmp(&a.share));
        tools
    }

    fn gauge(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.after.sum(name, labels)
    }

    fn counter(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let after = self.after.sum(name, labels)?;
        // A series that did not exist before has counted from zero.
        let before = self.before.and_then(|before| before.sum(name, labels)).unwrap_or(0.0);
        Some((after - before).max(0.0))
    }

    fn histogram(&self, name: &str, labels: &[(&str, &str)]) -> Option<Histogram> {
        let after = self.after.histogram(name, labels)?;
        Some(match self.before.and_then(|before| before.histogram(name, labels)) {
            Some(before) => after.since(&before),
            None => after,
        })
    }
}

fn times(histogram: Option<&Histogram>) -> Times {
    histogram.map_or_else(Times::default, |histogram| Times {
        mean: histogram.mean(),
        p50: histogram.quantile(0.5),
        p95: histogram.quantile(0.95),
        p99: histogram.quantile(0.99),
    })
}

fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

fn quotient(part: Option<f64>, whole: Option<f64>) -> Option<f64> {
    ratio(part?, whole?)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "sums and quotients of small whole numbers are exact")]
mod tests {
    use super::*;

    fn scrape(taken: f64, lines: &[&str]) -> Scrape {
        Scrape::parse_at(&lines.join("\n"), taken).unwrap()
    }

    /// The report speaks of the time between its two looks, not of yesterday.
    #[test]
    fn figures_are_differences() {
        let before = scrape(
            1000.0,
            &[
                "process_start_time_seconds 500",
                "mcp_requests_total{tool=\"a\",status=\"ok\"} 100",
                "mcp_requests_total{tool=\"a\",status=\"error\"} 50",
                "mcp_slot_busy_seconds_total 7",
                "mcp_service_seconds_sum{tool=\"a\"} 7",
                "mcp_service_seconds_count{tool=\"a\"} 150",
                "mcp_cache_requests_total{tier=\"l1\",result=\"hit\"} 5",
                "mcp_cache_requests_total{tier=\"l1\",result=\"miss_new\"} 5",
            ],
        );
        let after = scrape(
            1010.0,
            &[
                "process_start_time_seconds 500",
                "mcp_requests_total{tool=\"a\",status=\"ok\"} 199",
                "mcp_requests_total{tool=\"a\",status=\"error\"} 51",
                "mcp_slot_busy_seconds_total 27",
                "mcp_concurrency_limit 4",
                "mcp_service_seconds_sum{tool=\"a\"} 27",
                "mcp_service_seconds_count{tool=\"a\"} 250",
                "process_resident_memory_bytes 50",
                "mcp_memory_limit_bytes 200",
                "mcp_cache_requests_total{tier=\"l1\",result=\"hit\"} 65",
                "mcp_cache_requests_total{tier=\"l1\",result=\"miss_new\"} 10",
                "mcp_cache_requests_total{tier=\"l1\",result=\"miss_evicted\"} 25",
                "mcp_cache_requests_total{tier=\"l1\",result=\"miss_expired\"} 2",
                "mcp_cache_requests_total{tier=\"l1\",result=\"miss_changed\"} 7",
                "mcp_cache_requests_total{tier=\"l1\",result=\"miss_unavailable\"} 1",
                "mcp_cache_requests_total{tier=\"l2\",result=\"hit\"} 20",
                "mcp_cache_requests_total{tier=\"l2\",result=\"miss_new\"} 15",
                "mcp_cache_requests_total{tier=\"l2\",result=\"miss_unavailable\"} 5",
            ],
        );
        let figures = Figures::between(Some(&before), &after);
        assert_eq!((figures.seconds, figures.since_start), (10.0, false));
        assert_eq!((figures.requests.count, figures.requests.per_second), (100.0, 10.0));
        assert_eq!(figures.requests.error_ratio, Some(0.01));
        assert_eq!(figures.requests.shed_ratio, None, "missing is not zero");
        assert_eq!(figures.slots.utilization, Some(0.5));
        assert_eq!(figures.service.mean, Some(0.2));
        assert_eq!(figures.memory.utilization, Some(0.25));
        assert_eq!(
            figures.cache,
            Cache {
                lookups: Some(100.0),
                hit_ratio: Some(0.8),
                evicted_ratio: Some(0.25),
                tiers: vec![("l1".to_owned(), Some(0.6)), ("l2".to_owned(), Some(0.5))],
            }
        );
        assert_eq!(figures.tools[0].calls, 100.0);
    }

    /// After a restart the counters begin anew: differences to before would be nonsense.
    #[test]
    fn a_restart_begins_anew() {
        let before = scrape(1000.0, &["process_start_time_seconds 500", "mcp_requests_total 100"]);
        let after = scrape(1010.0, &["process_start_time_seconds 1005", "mcp_requests_total 30"]);
        let figures = Figures::between(Some(&before), &after);
        assert_eq!((figures.seconds, figures.since_start), (5.0, true));
        assert_eq!(figures.requests.count, 30.0);
    }
}
