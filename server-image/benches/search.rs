//! Scoring the messages of a session: the part of a search that is the server's own work.
//!
//! `make bench-parts` has RapidFuzz (C++) score the same messages: they are written to the file that
//! `BENCH_SEARCH_CASES` names, a case a line.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mcp_server::tools::shared_context::search::Scorer;
use serde_json::json;

const MESSAGES: usize = 1000;
/// Lengths of messages, in characters.
const LENGTHS: [usize; 2] = [100, 500];
/// Scores below which a message is not found.
const CUTOFFS: [f64; 2] = [60.0, 0.0];
const WORDS: [&str; 24] = [
    "the",
    "agent",
    "session",
    "message",
    "error",
    "timeout",
    "cache",
    "database",
    "performance",
    "index",
    "query",
    "search",
    "fuzzy",
    "score",
    "analysis",
    "of",
    "complete",
    "with",
    "deployment",
    "pipeline",
    "review",
    "results",
    "to",
    "in",
];
const QUERIES: [(&str, &str); 3] = [
    ("word", "timeout"),
    ("phrase", "database performence"),
    (
        "sentence",
        "which of the deployment reviews said that the cache of sessions needs a longer timeout in the pipeline",
    ),
];

/// Messages of about `length` characters; the same each time.
fn messages(length: usize) -> Vec<String> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap_or(0)
    };
    (0..MESSAGES)
        .map(|number| {
            let mut text = format!("agent-{}", number % 20);
            let length = length * 3 / 4 + next() % (length / 2);
            while text.len() < length {
                text.push(' ');
                text.push_str(WORDS[next() % WORDS.len()]);
            }
            text
        })
        .collect()
}

/// Writes what is scored here, for others to score it too.
fn write_cases() {
    let Some(file) = std::env::var_os("BENCH_SEARCH_CASES") else {
        return;
    };
    let cases = LENGTHS.iter().flat_map(|&length| {
        QUERIES.iter().flat_map(move |(name, query)| {
            CUTOFFS.iter().map(move |cutoff| {
                let id = format!("{name}, cutoff {cutoff}/{length}");
                json!({"id": id, "query": query, "cutoff": cutoff, "messages": messages(length)}).to_string()
            })
        })
    });
    std::fs::write(file, cases.collect::<Vec<_>>().join("\n")).unwrap();
}

fn score_session(criterion: &mut Criterion) {
    write_cases();
    let mut group = criterion.benchmark_group("search");
    group.throughput(Throughput::Elements(MESSAGES as u64));
    for length in LENGTHS {
        let messages = messages(length);
        for (name, query) in QUERIES {
            for cutoff in CUTOFFS {
                let id = BenchmarkId::new(format!("{name}, cutoff {cutoff}"), length);
                group.bench_with_input(id, &messages, |bencher, messages| {
                    bencher.iter(|| {
                        let mut scorer = Scorer::new(black_box(query));
                        messages.iter().map(|text| scorer.score(text, cutoff)).sum::<f64>()
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, score_session);
criterion_main!(benches);
