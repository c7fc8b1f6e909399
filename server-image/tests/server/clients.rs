//! The official clients, which must find the server to their liking in both eras.

use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use mcp_server::server::{Fixtures, Settings};

use crate::support::nginx::Nginx;
use crate::support::node::{own_script, package_script, python_script, said};
use crate::support::postgres::SHARED;
use crate::support::server::{TestServer, settings};

/// Longest run of one script on a busy machine; alone it takes seconds.
const RUN_MAX: Duration = Duration::from_mins(2);

/// Two replicas behind the operator's load balancer.
async fn behind_nginx(change: impl Fn(&mut Settings)) -> (Nginx, [TestServer; 2]) {
    let mut settings = settings(&SHARED.database().await);
    change(&mut settings);
    let (a, b) = tokio::join!(TestServer::start(settings.clone()), TestServer::start(settings));
    let nginx = Nginx::start(&[a.server.mcp, b.server.mcp]).await;
    (nginx, [a, b])
}

async fn run(command: &mut Command) -> Output {
    timeout(RUN_MAX, command.output())
        .await
        .expect("the script ends")
        .unwrap()
}

/// The Inspector is what developers try a server with first.
#[tokio::test(flavor = "multi_thread")]
async fn the_inspector_works() {
    let (nginx, _replicas) = behind_nginx(|_| {}).await;
    let url = format!("http://{}/mcp", nginx.address);
    let inspect = async |arguments: &[&str]| {
        let mut inspector = package_script("@modelcontextprotocol/inspector/clients/launcher/build/index.js");
        inspector
            .args(["--cli", &url, "--transport", "http", "--format", "json"])
            .args(arguments);
        let output = run(&mut inspector).await;
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
        (output.status.code(), answer["result"].clone())
    };
    let (code, listed) = inspect(&["--method", "tools/list"]).await;
    let names = listed["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["name"].as_str().unwrap());
    assert_eq!(code, Some(0));
    assert!(names.collect::<Vec<_>>().contains(&"create_session"));

    let call = ["--method", "tools/call", "--tool-name"];
    let (code, created) = inspect(&[&call[..], &["create_session", "--tool-arg", "purpose=inspection"]].concat()).await;
    let session = created["structuredContent"]["session_id"].as_str().unwrap();
    assert_eq!(code, Some(0));
    let id = format!("session_id={session}");
    let message = ["add_message", "--tool-arg", &id, "--tool-arg", "content=hello"];
    assert_eq!(inspect(&[&call[..], &message].concat()).await.0, Some(0));
    let (code, read) = inspect(&[&call[..], &["get_messages", "--tool-arg", &id]].concat()).await;
    assert_eq!(code, Some(0));
    assert_eq!(read["structuredContent"]["messages"][0]["content"], "hello");
    let unknown = ["get_session", "--tool-arg", "session_id=session_0000000000000000"];
    assert_eq!(
        inspect(&[&call[..], &unknown].concat()).await.0,
        Some(5),
        "an error of the tool"
    );
}

/// What Python agents use.
#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_works() {
    let (nginx, _replicas) = behind_nginx(|_| {}).await;
    let mut client = python_script("official_client.py");
    client.args([
        "--url",
        &format!("http://{}/mcp", nginx.address),
        "--clients",
        "3",
        "--rounds",
        "3",
    ]);
    let output = run(&mut client).await;
    assert!(output.status.success(), "{}", said(&output));
}

/// What TypeScript agents use: calls, resources, prompts, news and questions, in both eras.
#[tokio::test(flavor = "multi_thread")]
async fn the_typescript_client_works() {
    let (nginx, _replicas) = behind_nginx(|settings| settings.operation.fixtures = Fixtures::Conformance).await;
    for era in ["2026-07-28", "2025-11-25"] {
        let mut client = own_script("typescript_client.mjs");
        client.args([&format!("http://{}/mcp", nginx.address), era]);
        let output = run(&mut client).await;
        assert!(output.status.success(), "{era}: {}", said(&output));
    }
}
