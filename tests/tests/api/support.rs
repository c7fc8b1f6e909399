//! What the API tests share: a cluster with the CRD, and an operator that runs in this process.

use std::time::Duration;

use clap::Parser;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    runtime::wait::{await_condition, conditions::is_crd_established},
};
use mcpscale::{
    cli::{Cli, Command},
    commands::operate,
};
use mcpscale_crds::v1alpha1::McpServer;
use mcpscale_tests::ApiCluster;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The namespace of the tests.
pub const NAMESPACE: &str = "default";
/// How long anything may take, with a few clusters at once on two cores.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// A cluster with the CRD as it is committed.
pub async fn cluster(controllers: &[&str]) -> ApiCluster {
    let cluster = ApiCluster::start_with_controllers(controllers)
        .await
        .expect("the API cluster starts");
    let yaml = include_str!("../../../crds/mcpservers.mcpscale.dev.yaml");
    let definition: Value = serde_saphyr::from_str(yaml).expect("the committed CRD parses");
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client());
    let parameters = PatchParams::apply("tests");
    definitions
        .patch("mcpservers.mcpscale.dev", &parameters, &Patch::Apply(&definition))
        .await
        .expect("the CRD is accepted");
    let established = await_condition(definitions, "mcpservers.mcpscale.dev", is_crd_established());
    tokio::time::timeout(DEADLINE, established)
        .await
        .expect("the CRD is established in time")
        .expect("the watch holds");
    cluster
}

/// An operator in this process; it stops when it is dropped.
pub struct Operator {
    stop: CancellationToken,
    task: JoinHandle<Result<(), String>>,
}

impl Operator {
    /// Starts one as `mcpscale run` would.
    pub fn start(client: Client, arguments: &[&str]) -> Self {
        let mut words = vec!["mcpscale", "run", "--lease-namespace", NAMESPACE, "--pod-name", "test"];
        if !arguments.contains(&"--listen") {
            words.extend(["--listen", "127.0.0.1:0"]);
        }
        words.extend(arguments);
        let cli = Cli::try_parse_from(words).expect("the arguments parse");
        let Command::Run(arguments) = cli.command else {
            panic!("not the run command")
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(operate(*arguments, client, stop.clone()));
        Self { stop, task }
    }

    /// Asks it to stop, and waits until it has drained.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(DEADLINE, &mut self.task)
            .await
            .expect("the operator drains in time");
        ended
            .expect("the operator does not panic")
            .expect("the operator ends well");
    }

    /// Ends it at once, as a crash would.
    pub fn kill(self) {
        self.task.abort();
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server from the fields of its spec.
pub fn server(name: &str, spec: &Value) -> McpServer {
    serde_json::from_value(json!({
        "apiVersion": "mcpscale.dev/v1alpha1",
        "kind": "McpServer",
        "metadata": {"name": name},
        "spec": spec,
    }))
    .expect("the server parses")
}

/// Creates a server.
pub async fn create(client: &Client, name: &str, spec: &Value) -> McpServer {
    let servers: Api<McpServer> = Api::namespaced(client.clone(), NAMESPACE);
    servers
        .create(&PostParams::default(), &server(name, spec))
        .await
        .expect("the server is accepted")
}

/// Status and reason of a condition.
pub fn condition(server: &McpServer, kind: &str) -> Option<(String, String)> {
    let conditions = &server.status.as_ref()?.conditions;
    conditions
        .iter()
        .find(|c| c.type_ == kind)
        .map(|c| (c.status.clone(), c.reason.clone()))
}
