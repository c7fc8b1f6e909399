//! Clients that mean harm: what they cost in memory, and whether others are served meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::support::client::{Client, last_event};
use crate::support::process::Process;
use crate::support::server::{TestServer, file_settings};
use crate::support::until;

const MIB: usize = 1024 * 1024;
/// Longest time in which a well-behaved client is served while others do harm, unless the machine is slow: shorter than
/// slow clients take.
const SERVED: Duration = Duration::from_secs(3);
/// Longest time in which any client is served at all.
const LATE: Duration = Duration::from_mins(1);
/// Clients that each send the largest body.
const GIANTS: usize = 60;
/// Longer than a connection is silent before its buffers are given up.
const SILENCE: Duration = Duration::from_millis(1500);

async fn start() -> Process {
    Process::start(&[], &[]).await
}

fn address(process: &Process) -> String {
    let url = process.client.url().trim_start_matches("http://");
    url.trim_end_matches("/mcp").to_owned()
}

fn head(more: &str) -> String {
    format!(
        "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json, text/event-stream\r\n\
         content-type: application/json\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\n\
         mcp-name: echo\r\n{more}"
    )
}

/// A call of `echo` with `text`, a JSON value.
fn echo(text: &str, headers: &str) -> String {
    let meta = r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"test","version":"1"}}"#;
    let params = format!(r#"{{"name":"echo","arguments":{{"text":{text}}},"_meta":{meta}}}"#);
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
    head(&format!("{headers}content-length: {}\r\n\r\n{body}", body.len()))
}

async fn call(client: &Client) {
    let answer = timeout(LATE, client.tool("simulate_work", &json!({})).send()).await;
    assert_eq!(answer.expect("others are served").unwrap().status(), 200);
}

/// Calls again and again until `attack` is over. Whoever is held up by it is served when it is over, on any machine.
async fn others_are_served<T>(client: &Client, attack: JoinHandle<T>) -> T {
    let (began, mut meanwhile, mut longest) = (Instant::now(), 0, Duration::ZERO);
    while meanwhile == 0 || !attack.is_finished() {
        let asked = Instant::now();
        call(client).await;
        longest = longest.max(asked.elapsed());
        if attack.is_finished() {
            break;
        }
        meanwhile += 1;
        sleep(Duration::from_millis(50)).await;
    }
    // Whoever is held up until it is over waits for most of it.
    let took = began.elapsed();
    assert!(
        longest < SERVED || longest * 2 < took,
        "{meanwhile} calls were served during {took:?}, the slowest took {longest:?}"
    );
    attack.await.unwrap()
}

/// Hundreds of clients that send a byte a second would fill the memory, or keep everybody else out, if each were given
/// what it announces.
#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_cost_little_memory_and_hold_up_nobody() {
    let process = start().await;
    let address = address(&process);
    call(&process.client).await;
    let before = process.memory();
    let slow = move |number: usize, address: String| async move {
        let (first, drop) = match number % 3 {
            0 => (head("x-slow: "), "x"),
            1 => (head("content-length: 4000000\r\n\r\n{"), " "),
            _ => (head("transfer-encoding: chunked\r\n\r\n"), "1\r\n \r\n"),
        };
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(first.as_bytes()).await.unwrap();
        for _ in 0..4 {
            sleep(Duration::from_secs(1)).await;
            stream.write_all(drop.as_bytes()).await.unwrap();
        }
    };
    let attack = tokio::spawn(join_all((0..500).map(|number| slow(number, address.clone()))));
    others_are_served(&process.client, attack).await;
    let growth = process.peak_memory().saturating_sub(before);
    assert!(growth < 40 * MIB, "500 slow clients took {} MiB", growth / MIB);
}

/// The largest bodies, all at once, are more than the memory of a small container; and a message of small values takes
/// a hundred times its length when it is parsed.
#[tokio::test(flavor = "multi_thread")]
async fn giant_bodies_at_once_are_bounded_and_hold_up_nobody() {
    for (name, fill, refusal) in [
        ("texts", format!("\"{}\"", "x".repeat(3_900_000)), "503"),
        ("zeros", format!("[{}0]", "0,".repeat(1_900_000)), "413"),
        ("maps", format!("[{}0]", r#"{"a":0},"#.repeat(450_000)), "413"),
    ] {
        let process = start().await;
        let (address, before) = (address(&process), process.memory());
        call(&process.client).await;
        let request = echo(&fill, "connection: close\r\n");
        let all_have_sent = Arc::new(Barrier::new(GIANTS));
        let giant = move |address: String| {
            let (request, all_have_sent) = (request.clone(), Arc::clone(&all_have_sent));
            async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let (most, last) = request.split_at(request.len() - 1);
                // Who is refused early cannot send it all.
                let _ = stream.write_all(most.as_bytes()).await;
                all_have_sent.wait().await;
                let _ = stream.write_all(last.as_bytes()).await;
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer).await;
                String::from_utf8_lossy(&answer)
                    .chars()
                    .skip(9)
                    .take(3)
                    .collect::<String>()
            }
        };
        let attack = tokio::spawn(join_all((0..GIANTS).map(|_| giant(address.clone()))));
        let statuses = others_are_served(&process.client, attack).await;
        assert!(
            statuses
                .iter()
                .all(|status| ["200", "413", "503", ""].contains(&status.as_str())),
            "{name}: {statuses:?}"
        );
        assert!(statuses.iter().any(|status| status == refusal), "{name}: {statuses:?}");
        let growth = process.peak_memory().saturating_sub(before);
        // The 64 MiB of bodies that are let in, as they came, as read, and as answered.
        assert!(growth < 220 * MIB, "{name}: {} MiB", growth / MIB);
    }
}

/// Clients that keep a connection for their next call must not keep its buffers; and what they send next is served,
/// however the network cuts it.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_connections_cost_little_memory_and_go_on() {
    let process = start().await;
    let address = address(&process);
    let request = echo(r#""hello""#, "");
    let mut waiting = Vec::new();
    let mut memory = Vec::new();
    // The first thousand also pays for what the server keeps for all of them.
    for _ in 0..2 {
        for _ in 0..1000 {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            exchange(&mut stream, &[&request]).await;
            waiting.push(stream);
        }
        sleep(SILENCE).await;
        memory.push(process.memory());
    }
    let each = memory[1].saturating_sub(memory[0]) / 1000;
    assert!(each < 10 * 1024, "a waiting connection takes {each} bytes");
    for stream in waiting.iter_mut().take(20) {
        exchange(stream, &[&request]).await;
    }
    let mut first = waiting.swap_remove(0);
    let (start, rest) = request.split_at(1);
    let (middle, end) = rest.split_at(50);
    exchange(&mut first, &[start, middle, end]).await;
    sleep(SILENCE).await;
    // The beginning of the next request comes together with the whole of this one.
    first
        .write_all(format!("{request}{start}{middle}").as_bytes())
        .await
        .unwrap();
    answer(&mut first).await;
    sleep(SILENCE).await;
    exchange(&mut first, &[end]).await;
}

/// Sessions leave memory when nobody uses them; a server that keeps their memory all the same only grows.
#[tokio::test(flavor = "multi_thread")]
async fn memory_of_sessions_that_have_left_is_given_back() {
    let process = Process::start(&["--session-idle-seconds", "3"], &[]).await;
    drop(process.client.legacy_session().await);
    let before = process.memory();
    for _ in 0..400 {
        drop(process.client.legacy_session().await);
    }
    let grown = process.memory().saturating_sub(before);
    assert!(grown > 8 * MIB, "there is something to give back: {} KiB", grown / 1024);
    until("half of the memory is given back", async || {
        (process.memory().saturating_sub(before) < grown / 2).then_some(())
    })
    .await;
}

/// Sends a request in parts and reads its answer.
async fn exchange(stream: &mut TcpStream, parts: &[&str]) {
    for part in parts {
        stream.write_all(part.as_bytes()).await.unwrap();
        if parts.len() > 1 {
            sleep(Duration::from_millis(100)).await;
        }
    }
    answer(stream).await;
}

async fn answer(stream: &mut TcpStream) {
    let mut text = String::new();
    let mut part = [0; 4096];
    while !text.contains("}]") && !text.ends_with("}}") {
        let length = timeout(Duration::from_secs(10), stream.read(&mut part))
            .await
            .unwrap()
            .unwrap();
        assert!(length > 0, "closed after {text}");
        text.push_str(&String::from_utf8_lossy(&part[..length]));
    }
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("hello"), "{text}");
}

/// An event stream begins before its request is worked on: memory that is not counted until then is free for the
/// taking.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_count_until_their_work_is_done() {
    let (settings, _folder) = file_settings();
    let server = TestServer::start(settings).await;
    let bodies = async || server.scrape().await.value("mcp_request_body_bytes", &[]);
    let session = server.client.legacy_session().await;
    let meta = json!({"padding": "x".repeat(3_000_000)});
    let giant = json!({"name": "simulate_work", "arguments": {"io_ms": 1500}, "_meta": meta});
    let response = session.request("tools/call", &giant).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert!(bodies().await > 3e6, "{}", bodies().await);
    response.text().await.unwrap();
    until("the body is given back", async || (bodies().await < 1.0).then_some(())).await;
}

/// What somebody follows is kept for as long as they do, without a slot.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_followed_is_short() {
    let (settings, _folder) = file_settings();
    let server = TestServer::start(settings).await;
    let session = server.client.legacy_session().await;
    let long = format!("server://info/{}", "x".repeat(2000));
    for (name, uri, is_followed) in [
        ("a name", "server://info/x", true),
        ("a long one", &long, false),
        ("one that Postgres cannot keep", "server://info/\0", false),
    ] {
        let request = session.request("resources/subscribe", &json!({"uri": uri}));
        let answer = last_event(&request.send().await.unwrap().text().await.unwrap());
        assert_eq!(answer["error"].is_null(), is_followed, "{name}: {answer}");
    }
    let many = json!({"notifications": {"resourceSubscriptions": vec!["server://info/x"; 100_000]}});
    let refused = server.client.modern("subscriptions/listen", many).send().await.unwrap();
    assert_eq!(refused.status(), 413);
    let answer: serde_json::Value = refused.json().await.unwrap();
    assert_eq!(answer["error"]["data"]["reason"], "body_too_long", "{answer}");
}
