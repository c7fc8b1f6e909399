//! Connections as an attacker, a proxy and an administrator see them.

use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use mcp_server::transport::TlsFiles;
use reqwest::Certificate;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::client::Client;
use crate::support::server::{TestServer, file_settings};
use crate::support::until;

async fn start(change: impl FnOnce(&mut mcp_server::server::Settings, &Path)) -> (TestServer, TempDir) {
    let (mut settings, folder) = file_settings();
    change(&mut settings, folder.path());
    (TestServer::start(settings).await, folder)
}

async fn connect(address: SocketAddr, first: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(first.as_bytes()).await.unwrap();
    stream
}

/// Everything the server still has to say, until it closes the connection.
async fn last_words(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    // A reset is a way to close as well.
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

/// Hundreds of clients that send a head byte by byte, or nothing, must not keep their connections; everybody else is
/// served meanwhile, and a proxy's connection between two requests stays.
#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_are_cut() {
    let (server, _folder) = start(|_, _| ()).await;
    let address = server.server.mcp;
    let mut kept = connect(address, "GET /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await;
    let mut answer = [0; 12];
    kept.read_exact(&mut answer).await.unwrap();
    let started = Instant::now();
    let attackers = (0..200).map(|number| async move {
        let first = if number % 2 == 0 {
            ""
        } else {
            "POST /mcp HTTP/1.1\r\nhost: 127"
        };
        let mut stream = connect(address, first).await;
        if number % 4 == 3 {
            let dribble = async {
                while stream.write_all(b"0").await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
            };
            timeout(Duration::from_secs(30), dribble)
                .await
                .expect("a slow head is cut");
        } else {
            let silence = last_words(stream);
            timeout(Duration::from_secs(30), silence)
                .await
                .expect("a silent connection is cut");
        }
    });
    let attack = tokio::spawn(futures::future::join_all(attackers));
    // Who fills the memory by way of the other addresses ends the calls just as well.
    let beside = [server.server.metrics, server.server.admin].map(|address| async move {
        let silence = last_words(connect(address, "GET /metrics HTTP/1.1\r\nhost: 127").await);
        timeout(Duration::from_secs(30), silence).await.expect("it is cut, too")
    });
    let beside = tokio::spawn(futures::future::join_all(beside));
    server.until_metric("mcp_open_connections", 201.0).await;
    while !attack.is_finished() {
        let status = server
            .client
            .tool("simulate_work", &json!({}))
            .send()
            .await
            .unwrap()
            .status();
        assert_eq!(status, 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    attack.await.unwrap();
    beside.await.unwrap();
    assert!(
        (14..25).contains(&started.elapsed().as_secs()),
        "{:?}",
        started.elapsed()
    );
    kept.write_all(b"GET /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    assert!(
        last_words(kept).await.contains("HTTP/1.1 "),
        "a connection between two requests is kept"
    );
}

/// More connections than there are places wait; they are served as soon as one is free.
#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_wait() {
    let (server, _folder) = start(|settings, _| settings.transport.connections_max = 2).await;
    let address = server.server.mcp;
    let request = "GET /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n";
    let (first, second) = (connect(address, "").await, connect(address, "").await);
    server.until_metric("mcp_open_connections", 2.0).await;
    assert_eq!(server.scrape().await.value("mcp_connection_limit", &[]), 2.0);
    let third = tokio::spawn(last_words(connect(address, request).await));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!third.is_finished(), "there is no place yet");
    drop(first);
    let answer = timeout(Duration::from_secs(10), third).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    drop(second);
    server.until_metric("mcp_open_connections", 0.0).await;
}

/// Heads are bounded: their memory is taken before anyone knows who asks.
#[tokio::test(flavor = "multi_thread")]
async fn huge_heads_are_refused() {
    let (server, _folder) = start(|_, _| ()).await;
    let (long, many) = ("x".repeat(70 * 1024), "a: b\r\n".repeat(101));
    for (name, head) in [
        (
            "long header",
            format!("POST /mcp HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"),
        ),
        ("long path", format!("POST /{long} HTTP/1.1\r\nhost: a\r\n\r\n")),
        ("many headers", format!("POST /mcp HTTP/1.1\r\nhost: a\r\n{many}\r\n")),
    ] {
        for address in [server.server.mcp, server.server.metrics, server.server.admin] {
            let answer = last_words(connect(address, &head).await).await;
            let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 431") || answer.starts_with("HTTP/1.1 414");
            assert!(refused, "{name} at {address}: {answer}");
        }
    }
    let fine = format!(
        "DELETE /mcp HTTP/1.1\r\nhost: a\r\nx: {}\r\nconnection: close\r\n\r\n",
        "x".repeat(32 * 1024)
    );
    let answer = last_words(connect(server.server.mcp, &fine).await).await;
    assert!(
        answer.starts_with("HTTP/1.1 4") && !answer.starts_with("HTTP/1.1 431"),
        "32 KiB are fine: {answer}"
    );
}

/// A few dozen clients that never send the rest of a large body would take the room of all others' for ever.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_do_not_arrive_are_given_up() {
    let (server, _folder) = start(|_, _| ()).await;
    let head = "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json, text/event-stream\r\n\
                content-type: application/json\r\ncontent-length: 3000000\r\n\r\n{";
    let mut stalled = connect(server.server.mcp, head).await;
    server.until_metric("mcp_open_connections", 1.0).await;
    let started = Instant::now();
    let mut answer = String::new();
    let reading = async {
        while !answer.contains("body_too_slow") {
            let mut part = [0; 4096];
            let length = stalled.read(&mut part).await.unwrap();
            assert!(length > 0, "closed after {answer}");
            answer.push_str(&String::from_utf8_lossy(&part[..length]));
        }
    };
    timeout(Duration::from_secs(45), reading).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(started.elapsed() > Duration::from_secs(25), "{:?}", started.elapsed());
    server.until_metric("mcp_request_body_bytes", 0.0).await;
}

/// Large bodies are bounded one by one and all together, by what arrives and not by what is announced; and their memory
/// is given back.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_bounded_together() {
    let (server, _folder) = start(|_, _| ()).await;
    let address = server.server.mcp;
    let head = |length: &str| {
        format!(
            "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json, text/event-stream\r\ncontent-type: application/json\r\n{length}\r\n\r\n"
        )
    };
    let mut endless = connect(address, &head("transfer-encoding: chunked")).await;
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x1_0000));
    while endless.write_all(chunk.as_bytes()).await.is_ok() {}
    let answer = last_words(connect(address, &head("content-length: 5000000")).await).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");

    let announced = head("content-length: 4000000");
    let announcing = futures::future::join_all((0..50).map(|_| connect(address, &announced))).await;
    assert_eq!(
        server
            .client
            .tool("simulate_work", &json!({}))
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    drop(announcing);
    let body = "x".repeat(3_900_000);
    let sending = (0..24).map(|_| async {
        let mut stream = connect(address, &announced).await;
        let _ = stream.write_all(body.as_bytes()).await;
        stream
    });
    let sending = futures::future::join_all(sending).await;
    until("some are refused", async || {
        (server.scrape().await.value("mcp_request_bodies_refused_total", &[]) >= 1.0).then_some(())
    })
    .await;
    let used = server.scrape().await.value("mcp_request_body_bytes", &[]);
    assert!(used <= 68.0 * 1024.0 * 1024.0, "{used}");
    assert_eq!(
        server
            .client
            .tool("simulate_work", &json!({}))
            .send()
            .await
            .unwrap()
            .status(),
        200,
        "small ones pass"
    );
    drop(sending);
    server.until_metric("mcp_request_body_bytes", 0.0).await;
    let large = server
        .client
        .tool("set_memory", &json!({"key": "k", "value": "x".repeat(90_000)}));
    assert_eq!(large.send().await.unwrap().status(), 200);
    server.until_metric("mcp_request_body_bytes", 0.0).await;
}

/// Long answers arrive in a fraction of their bytes, event streams at once and as they are; and a compressed answer
/// gives its slot back like any other.
#[tokio::test(flavor = "multi_thread")]
async fn long_json_is_compressed() {
    let (server, _folder) = start(|_, _| ()).await;
    let value = "a long value that repeats ".repeat(400);
    server
        .client
        .call("set_memory", json!({"key": "long", "value": value}))
        .await;
    let ask = |encoding: &str| {
        let request = server.client.tool("get_memory", &json!({"key": "long"}));
        request.header("accept-encoding", encoding.to_owned()).send()
    };
    let plain = ask("identity").await.unwrap().bytes().await.unwrap();
    let gzip = ask("gzip").await.unwrap();
    assert_eq!(
        (&gzip.headers()["content-encoding"], &gzip.headers()["vary"]),
        (&"gzip".parse().unwrap(), &"accept-encoding".parse().unwrap())
    );
    let gzip = gzip.bytes().await.unwrap();
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&gzip[..])
        .read_to_end(&mut unpacked)
        .unwrap();
    let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
    assert_eq!(
        parse(&unpacked)["result"]["structuredContent"]["value"],
        parse(&plain)["result"]["structuredContent"]["value"]
    );
    assert!(gzip.len() * 5 < plain.len(), "{} of {}", gzip.len(), plain.len());
    let zstd = ask("zstd, gzip;q=0.5").await.unwrap();
    assert_eq!(zstd.headers()["content-encoding"], "zstd");
    assert_eq!(
        zstd.bytes().await.unwrap()[..4],
        [0x28, 0xb5, 0x2f, 0xfd],
        "the mark of zstd"
    );
    let short = server
        .client
        .tool("simulate_work", &json!({}))
        .header("accept-encoding", "gzip");
    assert!(
        !short.send().await.unwrap().headers().contains_key("content-encoding"),
        "short"
    );
    let session = server.client.legacy_session().await;
    let events = session
        .tool("get_memory", &json!({"key": "long"}))
        .header("accept-encoding", "gzip")
        .send()
        .await
        .unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    assert!(!events.headers().contains_key("content-encoding"), "events");
    assert!(events.text().await.unwrap().contains("a long value"));

    server.until_metric("mcp_in_flight_requests", 0.0).await;
    let scrape = server.scrape().await;
    assert_eq!(
        scrape.value("mcp_requests_total", &[("tool", "get_memory"), ("status", "error")]),
        0.0
    );
    let cut = ask("gzip").await.unwrap();
    drop(cut);
    server.until_metric("mcp_in_flight_requests", 0.0).await;
    let started = Instant::now();
    server.server.drain();
    server.server.finished().await;
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "no request counts as open: {:?}",
        started.elapsed()
    );
}

/// A new certificate in `folder`, made for 127.0.0.1.
fn certificate(folder: &Path) -> Certificate {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(folder.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("tls.crt"), made.cert.pem()).unwrap();
    Certificate::from_der(made.cert.der()).unwrap()
}

fn trusting(server: &TestServer, certificate: &Certificate) -> Client {
    let http = reqwest::Client::builder()
        .tls_certs_only([certificate.clone()])
        .build()
        .unwrap();
    Client::with_http(format!("https://{}/mcp", server.server.mcp), http)
}

async fn works(client: &Client) -> bool {
    let response = client.tool("simulate_work", &json!({})).send().await;
    response.is_ok_and(|response| response.status() == 200)
}

/// Certificates live for weeks: a new one must be taken without a restart, and without breaking anybody's connection.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_while_it_runs() {
    let mut first = None;
    let (server, folder) = start(|settings, folder| {
        first = Some(certificate(folder));
        settings.transport.tls = Some(TlsFiles {
            certificate: folder.join("tls.crt"),
            key: folder.join("tls.key"),
        });
    })
    .await;
    let old = trusting(&server, &first.unwrap());
    assert!(works(&old).await);
    assert!(!works(&server.client).await, "without TLS there is no answer");
    let metadata = connect(server.server.mcp, "").await;

    std::fs::write(folder.path().join("tls.crt"), "half a file").unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(works(&old).await, "a broken file changes nothing");
    let renewed = certificate(folder.path());
    until("the new certificate is in force", async || {
        works(&trusting(&server, &renewed)).await.then_some(())
    })
    .await;
    assert!(works(&old).await, "a connection that is open stays open");
    let silent = timeout(Duration::from_secs(15), last_words(metadata)).await;
    assert!(silent.is_ok(), "a client that does not shake hands is given up");
}

/// What is wrong with a certificate is said at the start, with the file's name.
#[tokio::test(flavor = "multi_thread")]
async fn bad_certificates_are_named() {
    let folder = tempfile::tempdir().unwrap();
    certificate(folder.path());
    let other = rcgen::KeyPair::generate().unwrap();
    std::fs::write(folder.path().join("other.key"), other.serialize_pem()).unwrap();
    std::fs::write(folder.path().join("empty"), "").unwrap();
    for (certificate, key, expected) in [
        ("missing", "tls.key", "--tls-cert"),
        ("empty", "tls.key", "no certificate"),
        ("tls.crt", "missing", "--tls-key"),
        ("tls.crt", "tls.crt", "--tls-key"),
        ("tls.crt", "other.key", "cannot be used together"),
    ] {
        let (mut settings, _data) = file_settings();
        settings.transport.tls = Some(TlsFiles {
            certificate: folder.path().join(certificate),
            key: folder.path().join(key),
        });
        let error = mcp_server::server::Server::start(settings)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{certificate} {key}: {error}");
    }
}
