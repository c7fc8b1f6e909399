//! What the end-to-end tests share.

use std::time::{Duration, Instant};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, LogParams, Patch, PatchParams},
};
use mcpscale_crds::v1alpha1::McpServer;
use mcpscale_tests::{Cluster, HarnessError, eventually, installation};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// What a test's steps return.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How long a new server may take to serve, with its images on the node. The promise is 30 s; see
/// `serving::a_new_server_serves_within_thirty_seconds`.
pub const START: Duration = Duration::from_secs(90);

/// One Helm at a time, and once is enough.
static INSTALLED: OnceCell<()> = OnceCell::const_new();

/// Installs the operator with Helm.
pub async fn install(cluster: &Cluster) -> Result<()> {
    INSTALLED
        .get_or_try_init(async || installation::install(cluster, &[]).await)
        .await?;
    Ok(())
}

/// Applies a server as `kubectl apply` would.
pub async fn apply(client: &Client, namespace: &str, name: &str, spec: Value) -> Result<McpServer> {
    let servers: Api<McpServer> = Api::namespaced(client.clone(), namespace);
    let body =
        json!({"apiVersion": "mcpscale.dev/v1alpha1", "kind": "McpServer", "metadata": {"name": name}, "spec": spec});
    Ok(servers
        .patch(name, &PatchParams::apply("tests"), &Patch::Apply(&body))
        .await?)
}

/// Reads a server.
pub async fn read(client: &Client, namespace: &str, name: &str) -> std::result::Result<McpServer, String> {
    let servers: Api<McpServer> = Api::namespaced(client.clone(), namespace);
    servers.get(name).await.map_err(|error| error.to_string())
}

/// Status, reason and message of a condition.
pub fn condition(server: &McpServer, kind: &str) -> Option<(String, String, String)> {
    let conditions = &server.status.as_ref()?.conditions;
    conditions
        .iter()
        .find(|c| c.type_ == kind)
        .map(|c| (c.status.clone(), c.reason.clone(), c.message.clone()))
}

/// Waits until a condition has a status and, where it is given, a reason; answers how long that took.
pub async fn wait_for(
    client: &Client,
    (namespace, name): (&str, &str),
    (kind, status, reason): (&str, &str, Option<&str>),
    deadline: Duration,
) -> std::result::Result<Duration, HarnessError> {
    let started = Instant::now();
    eventually(
        deadline,
        &format!("{kind}={status} of {namespace}/{name}"),
        async || {
            let found = condition(&read(client, namespace, name).await?, kind);
            match &found {
                Some((s, r, _)) if s == status && reason.is_none_or(|reason| reason == r) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        },
    )
    .await?;
    Ok(started.elapsed())
}

/// Waits until a server serves.
pub async fn wait_until_ready(
    client: &Client,
    namespace: &str,
    name: &str,
) -> std::result::Result<Duration, HarnessError> {
    wait_for(client, (namespace, name), ("Ready", "True", None), START).await
}

/// Waits until as many server pods are ready as given, and no other is left.
pub async fn wait_for_replicas(
    client: &Client,
    namespace: &str,
    name: &str,
    replicas: i32,
    deadline: Duration,
) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    eventually(
        deadline,
        &format!("{replicas} ready server pods of {namespace}/{name}"),
        async || {
            let deployment = deployments
                .get(&format!("{name}-server"))
                .await
                .map_err(|error| error.to_string())?;
            let status = deployment.status.unwrap_or_default();
            let found = (
                status.replicas.unwrap_or(0),
                status.ready_replicas.unwrap_or(0),
                status.updated_replicas.unwrap_or(0),
            );
            if found == (replicas, replicas, replicas) {
                Ok(())
            } else {
                Err(format!("(all, ready, updated) = {found:?}"))
            }
        },
    )
    .await?;
    Ok(())
}

/// Pods of one tier.
pub async fn pods(client: &Client, namespace: &str, name: &str, component: &str) -> Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let labels = format!("app.kubernetes.io/instance={name},app.kubernetes.io/component={component}");
    Ok(pods.list(&ListParams::default().labels(&labels)).await?.items)
}

/// What the pods of one tier have logged; the container that matters has the tier's name.
pub async fn logs(client: &Client, namespace: &str, name: &str, component: &str) -> Result<Vec<String>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let container = LogParams {
        container: Some(component.into()),
        ..LogParams::default()
    };
    let mut found = Vec::new();
    for pod in pods(client, namespace, name, component).await? {
        found.push(api.logs(&pod.name_any(), &container).await?);
    }
    Ok(found)
}

/// Fails when the pools of all pods together have asked more of Postgres than it has.
pub async fn no_connection_was_refused(client: &Client, namespace: &str, name: &str) -> Result<()> {
    for log in logs(client, namespace, name, "postgres").await? {
        assert!(
            log.contains("ready to accept connections"),
            "this is not the log of Postgres: {log}"
        );
        assert!(
            !log.contains("too many clients") && !log.contains("remaining connection slots"),
            "{log}"
        );
    }
    Ok(())
}

/// One call of a tool by a client of 2026-07-28; answers the tool's result object.
pub async fn call(url: &str, tool: &str, arguments: Value) -> Result<Value> {
    call_with(&http()?, url, tool, arguments).await
}

/// An HTTP client that no proxy comes between.
pub fn http() -> Result<reqwest::Client> {
    let builder = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10));
    Ok(builder.build()?)
}

/// As [`call`], by a client that keeps its connections.
pub async fn call_with(http: &reqwest::Client, url: &str, tool: &str, arguments: Value) -> Result<Value> {
    let body = json!({
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": tool,
            "arguments": arguments,
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
            },
        },
    });
    let response = http
        .post(url)
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", tool)
        .json(&body)
        .send()
        .await?;
    let (status, text) = (response.status(), response.text().await?);
    let json = text
        .lines()
        .find_map(|line| line.strip_prefix("data:").filter(|data| data.contains("jsonrpc")))
        .unwrap_or(&text);
    let answer: Value = serde_json::from_str(json).map_err(|error| format!("{status}: {text:?}: {error}"))?;
    match answer
        .pointer("/result/structuredContent")
        .or_else(|| answer.pointer("/result"))
    {
        Some(result) if answer.pointer("/result/isError") != Some(&Value::Bool(true)) => Ok(result.clone()),
        _ => Err(format!("{tool} failed: {status} {text}").into()),
    }
}

/// Waits until a first call is served, and answers with its result: a pod that is ready takes a moment to be known to
/// the proxy of the node.
pub async fn first_call(url: &str) -> Result<Value> {
    let answer = eventually(Duration::from_secs(30), "a first call is served", async || {
        call(url, "create_session", json!({"purpose": "the first call"})).await
    })
    .await?;
    match &answer["session_id"] {
        Value::String(_) => Ok(answer),
        _ => Err(format!("no session: {answer}").into()),
    }
}

/// How long load must have been low before a server of [`scaled`] loses pods.
pub const DOWN_WINDOW_SECONDS: i64 = 30;

/// The settings of a server that small load can scale: four requests at a time, a short down window.
pub fn scaled(minimum: i32, maximum: i32) -> Value {
    json!({
        "performanceTargets": {"latency": {"p95": "150ms"}, "errorRate": "1%"},
        "autoscaling": {
            "minReplicas": minimum,
            "maxReplicas": maximum,
            "behavior": {"scaleDown": {
                "stabilizationWindowSeconds": DOWN_WINDOW_SECONDS,
                "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
            }},
        },
        "server": {"concurrency": 4, "env": [{"name": "MCP_FIXTURES", "value": "load"}]},
    })
}
