//! From figures to what limits the server, what is wrong, and what to do: every statement with the figure that proves
//! it. Pure: no clock, no network.

use serde::Serialize;

use super::figures::Figures;
use super::finding::{Area, Finding};
use super::rules::{
    REQUESTS_MIN, RULES, database_share, enough, file_wait_share, is_short_of_slots, is_slow, pool_wait_share,
};
use super::thresholds::{DATABASE_SECONDS, DATABASE_SHARE, FILE_WAIT_SHARE, MEMORY_UTILIZATION, POOL_WAIT_SHARE};

/// What limits a server, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diagnosis {
    /// What limits it, if anything does.
    pub bottleneck: Option<Area>,
    /// The same in one sentence, with the figures that prove it.
    pub summary: String,
    /// What is wrong, the worst first, what limits the server before the rest.
    pub findings: Vec<Finding>,
}

/// What `figures` say.
#[must_use]
pub fn diagnose(figures: &Figures) -> Diagnosis {
    let mut findings: Vec<Finding> = RULES.iter().filter_map(|rule| rule.apply(figures)).collect();
    let bottleneck = bottleneck(figures, &findings);
    findings.sort_by_key(|finding| (finding.severity, Some(finding.area) != bottleneck));
    Diagnosis {
        bottleneck,
        summary: summary(figures, bottleneck, &findings),
        findings,
    }
}

/// The one thing that limits the server now. Causes come before effects: a full pool makes slots short, and a slow
/// database makes a full pool; so what is nearest to the root is named.
fn bottleneck(figures: &Figures, findings: &[Finding]) -> Option<Area> {
    let has = |area: Area| findings.iter().any(|finding| finding.area == area);
    let pool_is_short = has(Area::Pool) && pool_is_waited_for(figures);
    let database_is_slow = figures
        .database
        .hold
        .mean
        .is_some_and(|hold| enough(figures).is_some() && hold >= DATABASE_SECONDS.warning);
    let database_dominates = database_share(figures).is_some_and(|share| share >= DATABASE_SHARE.warning);
    if has(Area::Memory) && figures.memory.utilization >= Some(MEMORY_UTILIZATION.critical) {
        return Some(Area::Memory);
    }
    if has(Area::Cpu) {
        return Some(Area::Cpu);
    }
    if (pool_is_short || database_dominates) && database_is_slow {
        return Some(Area::Database);
    }
    if pool_is_short {
        return Some(Area::Pool);
    }
    if (database_dominates || file_is_waited_for(figures)) && is_slow(figures) {
        return Some(Area::Database);
    }
    is_short_of_slots(figures).then_some(Area::Queueing)
}

/// A pool that is in use is not short yet: only waiting costs anything.
fn pool_is_waited_for(figures: &Figures) -> bool {
    pool_wait_share(figures).is_some_and(|share| share >= POOL_WAIT_SHARE.warning)
}

fn file_is_waited_for(figures: &Figures) -> bool {
    file_wait_share(figures).is_some_and(|share| share >= FILE_WAIT_SHARE.warning)
}

fn summary(figures: &Figures, bottleneck: Option<Area>, findings: &[Finding]) -> String {
    if let Some(area) = bottleneck {
        let proof = findings.iter().filter(|finding| finding.area == area);
        let proof: Vec<_> = proof.map(|finding| finding.problem.clone()).collect();
        return format!("The bottleneck is the {area}: {}.", proof.join("; "));
    }
    if enough(figures).is_none() {
        return format!(
            "Only {} requests: too few to say what would limit this server (at least {REQUESTS_MIN} are needed).",
            figures.requests.count
        );
    }
    "Nothing limits this server at this load.".to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::figures::{
        Cache, Cpu, DatabaseFigures, Memory, Pool, Redis, Requests, Slots, Times, ToolFigures,
    };
    use super::super::finding::Severity;
    use super::*;

    fn mean(seconds: f64) -> Times {
        Times {
            mean: Some(seconds),
            ..Times::default()
        }
    }

    /// A server that has room everywhere: 1000 requests in 10 s, 10 ms each.
    fn healthy() -> Figures {
        Figures {
            seconds: 10.0,
            requests: Requests {
                count: 1000.0,
                per_second: 100.0,
                error_ratio: Some(0.0),
                shed_ratio: Some(0.0),
                limited_ratio: None,
            },
            latency: Times {
                p95: Some(0.02),
                ..mean(0.011)
            },
            queue: mean(0.001),
            service: mean(0.01),
            slots: Slots {
                limit: Some(32.0),
                utilization: Some(0.03),
            },
            cpu: Cpu {
                utilization: Some(0.2),
                throttled: Some(0.0),
                ..Cpu::default()
            },
            pool: Pool {
                max: Some(10.0),
                utilization: Some(0.1),
                wait: mean(0.0001),
                wait_per_request: Some(0.0002),
            },
            database: DatabaseFigures {
                is_file: false,
                hold: mean(0.002),
                per_request: Some(0.004),
                connections_used: Some(0.1),
            },
            cache: Cache {
                lookups: Some(1000.0),
                hit_ratio: Some(0.9),
                evicted_ratio: Some(0.0),
                tiers: Vec::new(),
            },
            redis: Redis {
                up: Some(1.0),
                asked: Some(100.0),
                answer: mean(0.0005),
            },
            authentication: mean(0.000_01),
            memory: Memory {
                utilization: Some(0.3),
                ..Memory::default()
            },
            ..Figures::default()
        }
    }

    /// The same with a SQLite file, whose writer has a share of the 10 ms of each request to wait for others.
    fn with_file(figures: &mut Figures, wait_per_request: f64) {
        figures.database.is_file = true;
        figures.database.connections_used = None;
        figures.pool = Pool {
            wait: mean(wait_per_request),
            wait_per_request: Some(wait_per_request),
            ..Pool::default()
        };
    }

    /// A cache that was asked often enough.
    fn evicting(evicted: f64, hits: f64) -> Cache {
        Cache {
            lookups: Some(100.0),
            hit_ratio: Some(hits),
            evicted_ratio: Some(evicted),
            tiers: Vec::new(),
        }
    }

    type Change = fn(&mut Figures);

    /// The wrong cause sends its reader to the wrong remedy: each way to be slow must be told from the others.
    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn the_bottleneck_is_the_cause_not_the_effect() {
        let cases: &[(&str, Change, Option<Area>)] = &[
            ("room everywhere", |_| {}, None),
            (
                "slots taken by calls that wait elsewhere",
                |f| f.slots.utilization = Some(0.97),
                Some(Area::Queueing),
            ),
            (
                "long queue, nothing else is busy",
                |f| {
                    f.queue = mean(0.05);
                    f.latency = mean(0.06);
                },
                Some(Area::Queueing),
            ),
            (
                "requests are refused",
                |f| f.requests.shed_ratio = Some(0.02),
                Some(Area::Queueing),
            ),
            (
                "CPU is used up, and so slots are",
                |f| {
                    f.cpu.utilization = Some(0.96);
                    f.slots.utilization = Some(0.99);
                },
                Some(Area::Cpu),
            ),
            (
                "the container is throttled",
                |f| f.cpu.throttled = Some(0.3),
                Some(Area::Cpu),
            ),
            (
                "the pool is short, and so slots are",
                |f| {
                    f.pool.wait_per_request = Some(0.006);
                    f.pool.utilization = Some(1.0);
                    f.slots.utilization = Some(0.99);
                },
                Some(Area::Pool),
            ),
            (
                "the pool is busy but nobody waits",
                |f| f.pool.utilization = Some(0.9),
                None,
            ),
            (
                "the database is slow, and so the pool is short and slots are",
                |f| {
                    f.service = mean(0.5);
                    f.database.hold = mean(0.3);
                    f.database.per_request = Some(0.3);
                    f.pool.wait_per_request = Some(0.15);
                    f.pool.utilization = Some(1.0);
                    f.slots.utilization = Some(0.99);
                },
                Some(Area::Database),
            ),
            (
                "many fast statements make a slow call",
                |f| {
                    f.latency.p95 = Some(0.3);
                    f.service = mean(0.2);
                    f.database.per_request = Some(0.18);
                },
                Some(Area::Database),
            ),
            (
                "most time is the database's, but it is short",
                |f| f.database.per_request = Some(0.009),
                None,
            ),
            (
                "the SQLite file's writer is waited for, and so slots are short",
                |f| {
                    with_file(f, 0.006);
                    f.slots.utilization = Some(0.99);
                },
                Some(Area::Database),
            ),
            (
                "the SQLite file is waited for, but nobody notices",
                |f| with_file(f, 0.006),
                None,
            ),
            (
                "slots are short beside a SQLite file that is not waited for",
                |f| {
                    with_file(f, 0.0001);
                    f.slots.utilization = Some(0.99);
                },
                Some(Area::Queueing),
            ),
            ("Redis is down", |f| f.redis.up = Some(0.0), None),
            (
                "memory is nearly gone",
                |f| f.memory.utilization = Some(0.95),
                Some(Area::Memory),
            ),
            ("memory is filling", |f| f.memory.utilization = Some(0.85), None),
            ("the cache is too small", |f| f.cache = evicting(0.6, 0.4), None),
            ("requests fail", |f| f.requests.error_ratio = Some(0.2), None),
            (
                "too few requests to judge",
                |f| {
                    f.requests.count = 19.0;
                    f.queue = mean(0.05);
                    f.requests.shed_ratio = Some(0.5);
                    f.requests.error_ratio = Some(0.5);
                    f.pool.wait_per_request = Some(0.006);
                },
                None,
            ),
            ("nothing is known", |f| *f = Figures::default(), None),
        ];
        for (name, change, expected) in cases {
            let mut figures = healthy();
            change(&mut figures);
            let diagnosis = diagnose(&figures);
            assert_eq!(diagnosis.bottleneck, *expected, "{name}: {diagnosis:#?}");
            if let Some(area) = expected {
                assert!(diagnosis.summary.contains(area.name()), "{name}: {}", diagnosis.summary);
                assert!(
                    diagnosis.findings.iter().any(|finding| finding.area == *area),
                    "{name}: the bottleneck has a finding that proves it"
                );
            }
        }
    }

    /// What is wrong must be told, with its figure, at the limit itself, and not below it.
    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn every_limit_is_told_when_it_is_reached() {
        let cases: &[(&str, Change, Area, Severity, &str)] = &[
            (
                "errors",
                |f| f.requests.error_ratio = Some(0.01),
                Area::Errors,
                Severity::Warning,
                "1.0 %",
            ),
            (
                "many errors",
                |f| f.requests.error_ratio = Some(0.05),
                Area::Errors,
                Severity::Critical,
                "5.0 %",
            ),
            (
                "shed",
                |f| f.requests.shed_ratio = Some(0.001),
                Area::Queueing,
                Severity::Warning,
                "0.1 %",
            ),
            (
                "slow",
                |f| f.latency.p95 = Some(0.1),
                Area::Latency,
                Severity::Warning,
                "100 ms",
            ),
            (
                "very slow",
                |f| f.latency.p95 = Some(0.7),
                Area::Latency,
                Severity::Critical,
                "700 ms",
            ),
            (
                "CPU",
                |f| f.cpu.utilization = Some(0.8),
                Area::Cpu,
                Severity::Warning,
                "80 %",
            ),
            (
                "pool",
                |f| f.pool.utilization = Some(0.95),
                Area::Pool,
                Severity::Critical,
                "95 %",
            ),
            (
                "statements",
                |f| f.database.hold = mean(0.05),
                Area::Database,
                Severity::Warning,
                "50 ms",
            ),
            (
                "connections",
                |f| f.database.connections_used = Some(0.96),
                Area::Database,
                Severity::Critical,
                "96 %",
            ),
            (
                "evictions",
                |f| f.cache = evicting(0.3, 0.7),
                Area::Cache,
                Severity::Warning,
                "30 %",
            ),
            (
                "many evictions",
                |f| f.cache = evicting(0.5, 0.5),
                Area::Cache,
                Severity::Critical,
                "50 %",
            ),
            (
                "Redis is down",
                |f| f.redis.up = Some(0.0),
                Area::Cache,
                Severity::Warning,
                "Redis",
            ),
            (
                "Redis is slow",
                |f| f.redis.answer = mean(0.003),
                Area::Cache,
                Severity::Warning,
                "3.0 ms",
            ),
            (
                "Redis is nearly given up",
                |f| f.redis.answer = mean(0.0125),
                Area::Cache,
                Severity::Critical,
                "12 ms",
            ),
            (
                "credentials take long to verify",
                |f| f.authentication = mean(0.02),
                Area::Authentication,
                Severity::Warning,
                "20 ms",
            ),
            (
                "wait for a SQLite file",
                |f| {
                    with_file(f, 0.001);
                    f.requests.shed_ratio = Some(0.001);
                },
                Area::Database,
                Severity::Warning,
                "10 %",
            ),
            (
                "memory",
                |f| f.memory.utilization = Some(0.8),
                Area::Memory,
                Severity::Warning,
                "80 %",
            ),
        ];
        for (name, change, area, severity, shown) in cases {
            let mut figures = healthy();
            change(&mut figures);
            let findings = diagnose(&figures).findings;
            let finding = findings.iter().find(|finding| finding.area == *area);
            let finding = finding.unwrap_or_else(|| panic!("{name}: {findings:?}"));
            assert_eq!(finding.severity, *severity, "{name}");
            assert!(finding.problem.contains(shown), "{name}: {}", finding.problem);
            assert!(
                finding.evidence.to_string().contains(shown) && !finding.evidence.source.is_empty(),
                "{name}: {}",
                finding.evidence
            );
            assert!(!finding.recommendation.is_empty(), "{name}");
        }
        assert_eq!(diagnose(&healthy()).findings, []);
    }

    /// Memory that cannot help is memory wasted: only what had to make room is a reason to enlarge the cache.
    #[test]
    fn a_cache_that_no_size_would_help_is_left_alone() {
        let few = Cache {
            lookups: Some(99.0),
            ..evicting(1.0, 0.0)
        };
        for (name, cache) in [
            (
                "cold, or its values change before they are read again",
                evicting(0.0, 0.0),
            ),
            ("few look-ups", few),
            ("the second tier has what the first let go of", evicting(0.9, 0.95)),
        ] {
            let figures = Figures { cache, ..healthy() };
            assert_eq!(diagnose(&figures).findings, [], "{name}");
        }
    }

    /// A SQLite file belongs to one server and has no pool: who is told to add to either loses time, or data.
    #[test]
    fn with_a_file_nothing_is_advised_that_it_cannot_have() {
        let mut figures = healthy();
        with_file(&mut figures, 0.005);
        figures.requests.shed_ratio = Some(0.1);
        figures.queue = mean(0.05);
        figures.slots.utilization = Some(1.0);
        figures.cpu.utilization = Some(0.9);
        figures.database.hold = mean(0.2);
        figures.database.per_request = Some(0.005);
        let findings = diagnose(&figures).findings;
        assert_eq!(findings.len(), 7, "{findings:#?}");
        for finding in &findings {
            for word in ["replica", "pool", "more connections", "pg_stat"] {
                let advice = &finding.recommendation;
                assert!(!advice.contains(word), "{word}: {advice}");
            }
            if finding.area == Area::Database {
                let advice = &finding.recommendation;
                assert!(
                    advice.contains("faster disk") && advice.contains("Postgres"),
                    "{advice}"
                );
            }
        }
    }

    /// A Redis that was hardly asked, or is away, must not be called slow.
    #[test]
    fn redis_is_called_slow_by_enough_answers_only() {
        let mut figures = healthy();
        figures.redis.answer = mean(0.02);
        figures.redis.asked = Some(99.0);
        assert_eq!(diagnose(&figures).findings, []);
        figures.redis.asked = Some(1000.0);
        figures.redis.up = Some(0.0);
        let problems: Vec<String> = diagnose(&figures).findings.into_iter().map(|one| one.problem).collect();
        assert_eq!(problems, ["Redis does not answer: replicas share no cache"]);
        figures.redis = Redis::default();
        assert_eq!(diagnose(&figures).findings, [], "there is none");
    }

    /// Advice with a number is advice one can follow.
    #[test]
    fn advice_names_sizes_and_tools() {
        let mut figures = healthy();
        figures.slots.utilization = Some(1.0);
        figures.pool.utilization = Some(0.99);
        figures.pool.wait_per_request = Some(0.005);
        figures.latency.p95 = Some(0.2);
        figures.tools = vec![ToolFigures {
            tool: "search_context".to_owned(),
            calls: 5.0,
            share: 0.75,
            service: mean(0.1),
        }];
        let findings = diagnose(&figures).findings;
        let advice = |area| {
            findings
                .iter()
                .find(|finding| finding.area == area)
                .unwrap()
                .recommendation
                .clone()
        };
        assert!(
            advice(Area::Queueing).contains("at least 46 slots"),
            "{}",
            advice(Area::Queueing)
        );
        assert!(advice(Area::Pool).contains("to at least 15"), "{}", advice(Area::Pool));
        assert!(advice(Area::Latency).contains("search_context takes 75 %"));
        let order: Vec<_> = findings.iter().map(|finding| finding.severity).collect();
        assert!(order.is_sorted(), "the worst first: {order:?}");
        assert_eq!(findings[0].area, Area::Pool, "the bottleneck before the rest");
    }
}
