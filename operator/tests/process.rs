//! The operator's process as Kubernetes sees it: its log, and how it ends.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use wiremock::{Mock, MockServer, ResponseTemplate, matchers::any};

/// What a user loses without it: an operator that is killed in the middle of its work at each upgrade, because it does
/// not hear that it shall end; and a log that the cluster's collector cannot read.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_with_success_and_each_line_of_its_log_is_json() {
    // An API server without anything, not even the definition of McpServers, for which the operator waits.
    let nothing =
        serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "code": 404, "reason": "NotFound"});
    let api = MockServer::start().await;
    let answer = ResponseTemplate::new(404).set_body_json(nothing);
    Mock::given(any()).respond_with(answer).mount(&api).await;
    let mut kubeconfig = tempfile::NamedTempFile::new().unwrap();
    write!(
        kubeconfig,
        "{{apiVersion: v1, kind: Config, current-context: c, clusters: [{{name: c, cluster: {{server: '{}'}}}}], \
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}], users: [{{name: u, user: {{}}}}]}}",
        api.uri()
    )
    .unwrap();
    let mut operator = Command::new(env!("CARGO_BIN_EXE_mcpscale"))
        .args(["run", "--log-format", "json", "--listen", "127.0.0.1:0"])
        .env("KUBECONFIG", kubeconfig.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(operator.stderr.take().unwrap()).lines();

    let first = log.next().unwrap().unwrap();
    let first: Value = serde_json::from_str(&first).unwrap_or_else(|error| panic!("{error}: {first}"));
    assert_eq!(first["level"], "WARN", "{first}");
    assert!(first["message"].as_str().unwrap().contains("waiting for it"), "{first}");
    let asked = Instant::now();
    kill(Pid::from_raw(operator.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let rest: Vec<String> = log.map(Result::unwrap).collect();
    let status = operator.wait().unwrap();
    assert!(status.success(), "{status}: {rest:?}");
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "it took {:?}",
        asked.elapsed()
    );
    for line in &rest {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
    }
    assert!(rest.iter().any(|line| line.contains("asked to stop")), "{rest:?}");
}
