//! What the API tests share: a cluster with the CRD, and an operator that runs in this process.

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use clap::Parser;
use k8s_openapi::{
    api::core::v1::Namespace, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
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
use mcpscale_tests::{ApiCluster, eventually};
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
        let mut words = vec!["mcpscale", "run", "--lease-namespace", NAMESPACE];
        for (name, value) in [("--pod-name", "test"), ("--listen", "127.0.0.1:0")] {
            if !arguments.contains(&name) {
                words.extend([name, value]);
            }
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
    create_in(client, NAMESPACE, name, spec).await
}

/// Creates a server in a namespace.
pub async fn create_in(client: &Client, namespace: &str, name: &str, spec: &Value) -> McpServer {
    let servers: Api<McpServer> = Api::namespaced(client.clone(), namespace);
    servers
        .create(&PostParams::default(), &server(name, spec))
        .await
        .expect("the server is accepted")
}

/// Makes a namespace if there is none of this name.
pub async fn make_namespace(client: &Client, name: &str) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    namespaces
        .patch(name, &PatchParams::apply("tests"), &Patch::Apply(&namespace))
        .await
        .expect("the namespace is made");
}

/// Waits until the operator has told of a server, which it does after it has made the last of its objects.
pub async fn reported(client: &Client, namespace: &str, name: &str) -> McpServer {
    let servers: Api<McpServer> = Api::namespaced(client.clone(), namespace);
    eventually(DEADLINE, &format!("{namespace}/{name} has a status"), || async {
        let server = servers.get(name).await.map_err(|e| e.to_string())?;
        if condition(&server, "Ready").is_some() {
            Ok(server)
        } else {
            Err("no status yet".to_owned())
        }
    })
    .await
    .expect("the operator tells in time")
}

/// An address of loopback that is free now.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address")
}

/// Waits until the operator that listens at `address` is ready.
pub async fn ready(address: SocketAddr, what: &str) {
    eventually(DEADLINE, &format!("{what} is ready"), || async {
        let answer = reqwest::get(format!("http://{address}/readyz"))
            .await
            .map_err(|e| e.to_string())?;
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(answer.status().to_string())
        }
    })
    .await
    .expect("ready in time");
}

/// All metrics of the operator that listens at `address`.
pub async fn scrape(address: SocketAddr) -> Result<String, reqwest::Error> {
    reqwest::get(format!("http://{address}/metrics")).await?.text().await
}

/// Whether the operator that listens at `address` leads.
pub async fn leads(address: SocketAddr) -> Result<bool, String> {
    metric(address, "mcpscale_leader").await.map(|leads| leads == 1)
}

/// How many reconciles of the operator that listens at `address` have ended.
pub async fn reconciles(address: SocketAddr) -> Result<u64, String> {
    metric(address, "mcpscale_reconcile_duration_seconds_count").await
}

async fn metric(address: SocketAddr, name: &str) -> Result<u64, String> {
    let metrics = scrape(address).await.map_err(|e| e.to_string())?;
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        .ok_or_else(|| format!("there is no {name}"))
}

/// Status and reason of a condition.
pub fn condition(server: &McpServer, kind: &str) -> Option<(String, String)> {
    let conditions = &server.status.as_ref()?.conditions;
    conditions
        .iter()
        .find(|c| c.type_ == kind)
        .map(|c| (c.status.clone(), c.reason.clone()))
}
