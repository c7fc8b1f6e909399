//! The server as its clients see it: real HTTP, real Postgres, real Redis, several replicas.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![expect(
    clippy::float_cmp,
    reason = "counts are whole numbers, which floating point holds exactly"
)]

mod abuse;
mod adaptive;
mod admission;
mod agents;
mod arguments;
mod auth_failures;
mod auth_keys;
mod auth_tokens;
mod cache;
mod cache_invalidation;
mod cache_journal;
mod cache_reuse;
mod cache_upkeep;
mod capabilities;
mod changes;
mod clients;
mod command_line;
mod conformance;
mod database_outage;
mod direct;
mod documentation;
mod drain;
mod health;
mod kept;
mod kill;
mod memory_limit;
mod memory_storage;
mod message_storage;
mod metrics;
mod migrations;
mod odd_requests;
mod pages;
mod pgbouncer;
mod plans;
mod pool;
mod principals;
mod profile;
mod protocol;
mod quotas;
mod rapidfuzz;
mod rate_limits;
mod replicas;
mod report;
mod resources;
mod rest;
mod retention;
mod search_cache;
mod search_storage;
mod search_tools;
mod sessions;
mod stateless;
mod stdio;
mod support;
mod surface;
mod telemetry;
mod traces;
mod transport;
mod tuning;
