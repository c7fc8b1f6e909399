//! How the server's container runs.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Quantity,
    schema::{DATA_KEY, OBJECT_NAME},
};

/// Settings of the server's container.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.protocolMode != 'Stateless' || self.sessions != 'Local'")
        .message("server.sessions Local has no meaning with server.protocolMode Stateless: stateless clients hold no session"),
    validation = Rule::new("!has(self.env) || self.env.all(e, !(e.name in ['MCP_LISTEN', 'MCP_METRICS_LISTEN', 'MCP_ADMIN_LISTEN', 'MCP_PATH', 'MCP_TUNING_FILE', 'MCP_REDIS_URL', 'MCP_DRAIN_SECONDS']))")
        .message("server.env may not set MCP_LISTEN, MCP_METRICS_LISTEN, MCP_ADMIN_LISTEN, MCP_PATH, MCP_TUNING_FILE, MCP_REDIS_URL or MCP_DRAIN_SECONDS: the operator sets them")
)]
pub struct ServerSettings {
    /// Arguments of the container. Without them the image's own are used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 1024)))]
    pub args: Vec<String>,

    /// Environment variables, beside those that the operator sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    pub env: Vec<EnvironmentVariable>,

    /// Secrets and ConfigMaps of this namespace whose keys become environment variables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub env_from: Vec<EnvironmentSource>,

    /// CPU and memory of each server pod. The names cpu, memory, ephemeral-storage, hugepages-SIZE and those of devices
    /// can be given.
    #[serde(default)]
    pub resources: Resources,

    /// Path of the MCP endpoint.
    #[serde(default = "default_path")]
    #[schemars(length(max = 128), regex(pattern = "^/[A-Za-z0-9/_.-]*[A-Za-z0-9_-]$"))]
    pub path: String,

    /// Which clients are served: `Stateless` (those that say `MCP-Protocol-Version: 2026-07-28`), `Legacy` (all others:
    /// MCP up to 2025-11-25), or both. The load balancer turns the others away with the protocol's own error.
    #[serde(default)]
    pub protocol_mode: ProtocolMode,

    /// Where sessions of legacy clients live: `Shared` (in the database, any pod serves any client; the default image
    /// does this) or `Local` (in the memory of the pod that opened them, so nginx leads a client back to it).
    #[serde(default)]
    pub sessions: Sessions,

    /// Requests that one pod works on at the same time. More wait in a bounded queue; beyond it they are shed with
    /// 503 and `Retry-After`.
    #[serde(default = "default_concurrency")]
    #[schemars(range(min = 1, max = 10_000))]
    pub concurrency: i32,

    /// Longest time that a pod which is asked to stop finishes its running requests, in seconds.
    #[serde(default = "default_drain_seconds")]
    #[schemars(range(min = 1, max = 3600))]
    pub drain_seconds: i32,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            args: Vec::new(),
            env: Vec::new(),
            env_from: Vec::new(),
            resources: Resources::default(),
            path: default_path(),
            protocol_mode: ProtocolMode::default(),
            sessions: Sessions::default(),
            concurrency: default_concurrency(),
            drain_seconds: default_drain_seconds(),
        }
    }
}

fn default_path() -> String {
    "/mcp".into()
}

fn default_concurrency() -> i32 {
    32
}

fn default_drain_seconds() -> i32 {
    30
}

/// One environment variable: a value, or a key of a Secret or ConfigMap of the same namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.value) || !has(self.valueFrom)")
        .message("an environment variable takes value or valueFrom, not both")
)]
pub struct EnvironmentVariable {
    /// Name of the variable.
    #[schemars(length(min = 1, max = 256), regex(pattern = "^[-._a-zA-Z][-._a-zA-Z0-9]*$"))]
    pub name: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub value: Option<String>,
    /// Where its value comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<ValueSource>,
}

/// Where the value of an environment variable comes from. References never name a namespace: they are looked up in the
/// `McpServer`'s own.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.secretKeyRef) != has(self.configMapKeyRef)")
        .message("valueFrom takes exactly one of secretKeyRef and configMapKeyRef")
)]
pub struct ValueSource {
    /// A key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyReference>,
    /// A key of a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyReference>,
}

/// A key of a Secret or ConfigMap of the same namespace.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyReference {
    /// Name of the Secret or ConfigMap.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
    /// Key in it.
    #[schemars(length(min = 1, max = 253), regex(pattern = DATA_KEY))]
    pub key: String,
}

/// A Secret or ConfigMap whose keys all become environment variables.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.secretRef) != has(self.configMapRef)")
        .message("each item of envFrom takes exactly one of secretRef and configMapRef")
)]
pub struct EnvironmentSource {
    /// Put before every key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = "^([-._a-zA-Z][-._a-zA-Z0-9]*)?$"))]
    pub prefix: Option<String>,
    /// A Secret of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<NameReference>,
    /// A ConfigMap of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<NameReference>,
}

/// An object of the same namespace, by name.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameReference {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
}

/// CPU and memory of a container.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) || quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)")
        .message("server.resources.requests may not exceed server.resources.limits: lower the request or raise the limit of the same name"),
    validation = Rule::new("!has(self.requests) || self.requests.all(name, !(name.startsWith('hugepages-') || name.contains('/')) || (has(self.limits) && name in self.limits && quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) == 0))")
        .message("server.resources.requests of hugepages or a device needs an equal one in server.resources.limits: they cannot be overcommitted")
)]
pub struct Resources {
    /// What the scheduler reserves.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8, "x-kubernetes-validations" = [resource_names()]))]
    pub requests: BTreeMap<String, Quantity>,
    /// What the container may not exceed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8, "x-kubernetes-validations" = [resource_names()]))]
    pub limits: BTreeMap<String, Quantity>,
}

/// Rule for a map of resources. A misspelt name would otherwise be found when the Deployment is applied.
fn resource_names() -> Value {
    json!({
        "rule": "self.all(name, name.matches('^(cpu|memory|ephemeral-storage|hugepages-[1-9][0-9]*[KMG]i|[a-z0-9.-]+/[-A-Za-z0-9_.]+)$'))",
        "message": "server.resources takes cpu, memory, ephemeral-storage, hugepages-SIZE such as hugepages-2Mi, and devices with their domain such as nvidia.com/gpu",
    })
}

impl Default for Resources {
    fn default() -> Self {
        let quantity = |resource: &str, amount: &str| (resource.to_owned(), Quantity(amount.to_owned()));
        Self {
            requests: BTreeMap::from([quantity("cpu", "100m"), quantity("memory", "64Mi")]),
            limits: BTreeMap::from([quantity("memory", "256Mi")]),
        }
    }
}

/// Which clients are served.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProtocolMode {
    /// Both eras at once.
    #[default]
    Auto,
    /// MCP 2026-07-28 only.
    Stateless,
    /// Up to 2025-11-25 only.
    Legacy,
}

/// Where sessions of legacy clients live.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sessions {
    /// In a store that all pods share.
    #[default]
    Shared,
    /// In the memory of one pod.
    Local,
}
