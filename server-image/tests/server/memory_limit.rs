//! The server in a container whose memory is limited: it gives up its cache before the kernel ends it.

use futures::future::join_all;
use mcp_server::memory::ROOM;
use nix::unistd::Uid;
use serde_json::{Value, json};

use crate::support::cgroup::MemoryGroup;
use crate::support::metrics::Scrape;
use crate::support::postgres::SHARED;
use crate::support::process::Process;

const MIB: u64 = 1024 * 1024;
/// Of the control group: the server itself takes half.
const LIMIT: u64 = 48 * MIB;
/// Characters of one value.
const VALUE: usize = 96 * 1024;
/// Values that would take the whole limit.
const VALUES: u64 = LIMIT / VALUE as u64;

/// Sets a value and reads it, so that it is in the cache.
async fn fill(process: &Process, number: u64) {
    // An agent may have a limited number of entries.
    let agent = format!("agent{}", number / 500);
    let entry = json!({"agent_id": agent, "key": number.to_string(), "value": "v".repeat(VALUE)});
    assert_eq!(
        process.client.call("set_memory", entry).await["success"],
        true,
        "value {number}"
    );
    let entry = json!({"agent_id": agent, "key": number.to_string()});
    let found = process.client.call("get_memory", entry).await;
    assert_eq!(found["value"].as_str().map(str::len), Some(VALUE), "value {number}");
}

async fn health(process: &Process) -> Value {
    let answer = reqwest::get(format!("{}/health/detailed", process.metrics))
        .await
        .unwrap();
    answer.json().await.unwrap()
}

/// A group of so much memory; `None` where nobody can make one.
fn limited() -> Option<MemoryGroup> {
    match MemoryGroup::with_limit(LIMIT) {
        Ok(group) => Some(group),
        // A machine on which nobody can make a group would never find out that the server is killed.
        Err(error) if Uid::effective().is_root() => panic!("root cannot limit memory on this machine: {error}"),
        Err(error) => {
            eprintln!("skipped: limiting memory takes root: {error}");
            None
        }
    }
}

/// A cache that was set larger than the container is a mistake that anybody makes. It must cost hits, and not the
/// server: the kernel ends it without a word, with every request that is running.
#[tokio::test(flavor = "multi_thread")]
async fn the_cache_shrinks_before_the_kernel_kills() {
    let Some(group) = limited() else { return };
    let capacity = 2 * LIMIT;
    // A file would be in the group's memory too, as long as it is not written to the disk.
    let database = SHARED.database().await;
    let flags = [
        "--database-url",
        &database,
        "--cache-l1-bytes",
        &capacity.to_string(),
        "--cache-staleness-ms",
        "60000",
    ];
    let mut process = Process::start_in(&group, &flags).await;
    let memory = &health(&process).await["checks"]["memory"];
    assert_eq!(
        (&memory["status"], &memory["limit_bytes"]),
        (&json!("healthy"), &json!(LIMIT))
    );
    let used = Scrape::of_url(&process.metrics)
        .await
        .value("mcp_memory_used_bytes", &[]);
    assert!(used > 1e6, "the group is the server's: {used} bytes in use");

    let mut least = f64::MAX;
    let mut was_degraded = false;
    for number in 0..VALUES {
        fill(&process, number).await;
        was_degraded |= health(&process).await["checks"]["memory"]["status"] == "degraded";
        if number % 50 == 0 {
            let scrape = Scrape::of_url(&process.metrics).await;
            least = least.min(scrape.value("mcp_cache_capacity_bytes", &[("tier", "l1")]));
        }
    }
    let scrape = Scrape::of_url(&process.metrics).await;
    let cuts = scrape.value("mcp_memory_pressure_total", &[]);
    let held = scrape.value("mcp_cache_bytes", &[("tier", "l1")]);
    assert!(was_degraded, "/health said that memory was short");
    assert!(cuts >= 1.0, "memory was short: {held} bytes are in the cache");
    #[expect(clippy::cast_precision_loss, reason = "a few MiB")]
    let limit = LIMIT as f64;
    assert!(least < limit / 2.0, "the cache was cut to {least} bytes, {cuts} times");
    assert!(held < limit * 0.8, "the cache holds {held} bytes");
    process
        .until_logged("it says why the cache shrinks", |line| {
            line["message"] == "memory is short: the cache shrinks" && line["level"] == "WARN"
        })
        .await;
    assert_eq!(
        group.kills(),
        0,
        "the kernel has killed nothing in {}",
        group.folder().display()
    );
    assert!(process.runs());
    // Nothing is lost: what the cache does not hold is in the database.
    fill(&process, 0).await;
}

/// Each client may leave a little at the server, and clients are free: the kernel ends a server that takes in all of them,
/// with the calls of everybody.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_lets_nobody_in_who_stays() {
    let Some(group) = limited() else { return };
    let database = SHARED.database().await;
    let flags = ["--database-url", &database, "--session-idle-seconds", "3600"];
    let mut process = Process::start_in(&group, &flags).await;
    let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": {"name": "test", "version": "1", "title": "x".repeat(50_000)}}});
    let older = process.client.legacy_session().await;
    let mut sessions = 0;
    // Many at the same moment: they must not all be let in because there was room before them.
    let refused = loop {
        let many = (0..64).map(|_| process.client.post().json(&initialize).send());
        let answers = join_all(many).await.into_iter().map(Result::unwrap);
        let (opened, refused): (Vec<_>, Vec<_>) = answers.partition(|answer| answer.status() == 200);
        sessions += opened.len();
        assert!(sessions < 2_000, "there is no end of them");
        let scrape = Scrape::of_url(&process.metrics).await;
        let [used, limit] = ["used", "limit"].map(|name| scrape.value(&format!("mcp_memory_{name}_bytes"), &[]));
        if let Some(refused) = refused.into_iter().next()
            && used > ROOM * limit
        {
            break refused;
        }
    };
    assert!(sessions > 50, "{sessions} sessions fit");
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    let answer: Value = refused.json().await.unwrap();
    assert_eq!(answer["error"]["data"]["reason"], "memory_full", "{answer}");
    let listen = process
        .client
        .modern("subscriptions/listen", json!({"notifications": {}}));
    assert_eq!(listen.send().await.unwrap().status(), 503);
    let follow = older.request("resources/subscribe", &json!({"uri": "server://info/x"}));
    assert_eq!(follow.send().await.unwrap().status(), 503);
    process
        .until_logged("it says so", |line| {
            line["level"] == "WARN"
                && line["message"]
                    .as_str()
                    .is_some_and(|said| said.contains("nearly full"))
        })
        .await;
    for number in 0..50 {
        let entry = json!({"key": number.to_string(), "value": "v"});
        assert_eq!(process.client.call("set_memory", entry).await["success"], true);
    }
    assert_eq!(group.kills(), 0, "the kernel has killed nothing");
    assert!(process.runs());
}
