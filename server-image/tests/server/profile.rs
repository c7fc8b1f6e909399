//! The profile that the operator may ask for.

use serde_json::Value;

use crate::support::process::Process;
use crate::support::server::{TestServer, file_settings};
use crate::support::until;

async fn get(url: &str) -> (u16, Value) {
    let answer = reqwest::get(url).await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

/// Whoever has not asked for it must not offer others a look inside.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_flag_there_is_no_profile() {
    let (settings, _folder) = file_settings();
    let server = TestServer::start(settings).await;
    for address in [server.server.admin, server.server.metrics, server.server.mcp] {
        let answer = reqwest::get(format!("http://{address}/profile?seconds=1"))
            .await
            .unwrap();
        assert_eq!(answer.status(), 404, "{address}");
    }
}

/// A profile is for the one moment when a server is too slow: its figures must show what the server does, in units
/// that add up.
#[tokio::test(flavor = "multi_thread")]
async fn a_profile_shows_where_time_and_memory_go() {
    let process = Process::start(&["--profile"], &[]).await;
    let url = format!("{}/profile?seconds=2", process.admin);
    let asked = tokio::spawn(async move { get(&url).await });
    let call = serde_json::json!({"key": "k", "value": "v".repeat(50_000)});
    while !asked.is_finished() {
        assert_eq!(process.client.call("set_memory", call.clone()).await["success"], true);
    }
    let (status, profile) = asked.await.unwrap();
    assert_eq!(status, 200, "{profile}");
    let number = |pointer: &str| {
        let found = profile.pointer(pointer).and_then(Value::as_f64);
        found.unwrap_or_else(|| panic!("there is no {pointer} in {profile}"))
    };
    assert!((2.0..4.0).contains(&number("/seconds")), "{profile}");
    assert!(number("/cores") > 0.01, "it worked all the time: {profile}");
    let threads = profile["threads"].as_array().unwrap();
    let cpu = |thread: &Value| thread["userSeconds"].as_f64().unwrap() + thread["systemSeconds"].as_f64().unwrap();
    let all: f64 = threads.iter().map(cpu).sum();
    assert!((all / number("/seconds") - number("/cores")).abs() < 1e-6, "{profile}");
    assert!(
        threads.windows(2).all(|pair| cpu(&pair[0]) >= cpu(&pair[1])),
        "{profile}"
    );
    let writer = threads.iter().find(|thread| thread["name"] == "sqlite-writer").unwrap();
    assert!(cpu(writer) > 0.0, "the writer wrote: {profile}");
    let busy = profile["runtime"]["busy"].as_array().unwrap();
    assert!(
        busy.iter().all(|busy| (0.0..=1.0).contains(&busy.as_f64().unwrap())),
        "{profile}"
    );
    assert!(busy.iter().any(|busy| busy.as_f64().unwrap() > 0.0), "{profile}");
    assert!(number("/runtime/tasks") >= 1.0, "{profile}");
    let resident = number("/memory/residentBytes");
    assert!(
        (1e6..1e10).contains(&resident) && number("/memory/peakResidentBytes") >= resident,
        "{profile}"
    );
}

/// A profile holds a connection and a place; nobody may keep a server profiling for hours, or twice at once.
#[tokio::test(flavor = "multi_thread")]
async fn profiles_are_bounded() {
    let process = Process::start(&["--profile"], &[]).await;
    for (query, status, reason) in [
        ("?seconds=0", 400, "seconds must be 1 to 60, not 0"),
        ("?seconds=61", 400, "seconds must be 1 to 60, not 61"),
        ("?seconds=-1", 400, "invalid digit"),
        ("?seconds=long", 400, "invalid digit"),
        ("?minutes=1", 400, "unknown field `minutes`"),
    ] {
        let (found, answer) = get(&format!("{}/profile{query}", process.admin)).await;
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(found == status && error.contains(reason), "{query}: {found} {answer}");
    }
    let url = format!("{}/profile?seconds=3", process.admin);
    let ((first, _), (second, _)) = tokio::join!(get(&url), get(&url));
    assert_eq!([first.min(second), first.max(second)], [200, 409], "one at a time");
    // Whoever hangs up gives the place back.
    let url = format!("{}/profile?seconds=60", process.admin);
    let hung_up = tokio::time::timeout(std::time::Duration::from_millis(300), get(&url)).await;
    assert!(hung_up.is_err());
    until("there is room again", async || {
        let (status, _) = get(&format!("{}/profile?seconds=1", process.admin)).await;
        (status == 200).then_some(())
    })
    .await;
}
