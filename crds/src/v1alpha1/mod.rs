//! Version `v1alpha1` of the API.

mod autoscaling;
mod data_tier;
mod load_balancer;
mod pod;
mod server;
mod status;
mod targets;

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

pub use self::{autoscaling::*, data_tier::*, load_balancer::*, pod::*, server::*, status::*, targets::*};
use crate::schema::{annotation_keys, annotation_value, label_keys, label_value};

/// Longest name an `McpServer` may have: room for the suffixes of its children within 63 characters.
pub const MAX_NAME_LENGTH: usize = 40;

/// What an administrator declares of one MCP server.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "mcpscale.dev",
    version = "v1alpha1",
    kind = "McpServer",
    plural = "mcpservers",
    singular = "mcpserver",
    shortname = "mcpx",
    category = "all",
    namespaced,
    status = "McpServerStatus",
    derive = "PartialEq",
    doc = "An MCP server with its load balancer, Redis and Postgres, kept at declared performance targets. Fully qualified: mcpservers.mcpscale.dev.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.readyReplicas", description = "Pods that serve"),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.scaling.replicas.desired", description = "Pods that the scaler wants"),
    printcolumn(name = "Targets", type_ = "string", json_path = ".status.conditions[?(@.type==\"TargetsMet\")].status", description = "Whether the declared targets are met"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.address.url", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 40")
        .message("metadata.name must be at most 40 characters: lower case letters, digits and '-', starting with a letter (it becomes the name of Services)")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.replicas) || !has(self.autoscaling) || self.autoscaling.replicas.mode != 'Auto'")
        .message("spec.replicas and autoscaling.replicas.mode Auto exclude each other: remove spec.replicas, or set the mode to Recommend or Off"),
    validation = Rule::new("has(self.image) || self.postgres.mode != 'Disabled' || ((!has(self.replicas) || self.replicas <= 1) && (!has(self.autoscaling) || self.autoscaling.maxReplicas <= 1))")
        .message("the default image keeps its state in Postgres: with postgres.mode Disabled it can run one replica only; enable Postgres, or limit replicas and autoscaling.maxReplicas to 1"),
    validation = Rule::new("self.server.sessions != 'Local' || self.loadBalancer.mode != 'Nginx' || self.loadBalancer.replicas == 1")
        .message("server.sessions Local needs loadBalancer.replicas 1: each nginx learns only the sessions that it opened itself, so a second one would send clients to the wrong pod"),
    validation = Rule::new("self.server.sessions != 'Local' || self.loadBalancer.mode == 'Nginx' || ((!has(self.replicas) || self.replicas <= 1) && (!has(self.autoscaling) || self.autoscaling.maxReplicas <= 1))")
        .message("server.sessions Local with loadBalancer.mode None can run one replica only: nothing would lead a client back to the pod that holds its session"),
    validation = Rule::new("self.server.protocolMode == 'Auto' || self.loadBalancer.mode == 'Nginx'")
        .message("server.protocolMode other than Auto needs loadBalancer.mode Nginx: it is nginx that turns the other clients away"),
    validation = Rule::new("self.postgres.mode != 'Embedded' || !has(self.server.env) || self.server.env.all(e, !(e.name in ['PGHOST', 'PGPORT', 'PGUSER', 'PGPASSWORD', 'PGDATABASE', 'MCP_DATABASE_URL']))")
        .message("server.env may not set PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE or MCP_DATABASE_URL with postgres.mode Embedded: the operator sets them")
)]
pub struct McpServerSpec {
    /// Container image of the MCP server. When it is not set, the operator's default image is used for a new server,
    /// and a running one keeps the image it has: an upgrade of the operator rolls nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[^\s]+$"))]
    pub image: Option<String>,

    /// Fixed number of server pods. Not together with `autoscaling.replicas.mode: Auto`. Without autoscaling and
    /// without this field one pod runs. `kubectl scale` changes it where it is set; the API server offers no scale
    /// where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,

    /// Stops the operator from changing anything of this server. Everything keeps running as it is; status is still
    /// reported.
    #[serde(default)]
    pub paused: bool,

    /// What the server must achieve. Useful without autoscaling too: status tells whether the targets are met.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub performance_targets: Option<PerformanceTargets>,

    /// Within which bounds the operator may scale to reach the targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,

    /// How the server's container runs.
    #[serde(default)]
    pub server: ServerSettings,

    /// The load balancer in front of the server pods.
    #[serde(default)]
    pub load_balancer: LoadBalancer,

    /// The Redis-protocol cache tier. Losing it loses nothing but speed.
    #[serde(default)]
    pub redis: Redis,

    /// The Postgres tier, which holds all state.
    #[serde(default)]
    pub postgres: Postgres,

    /// Placement of the pods of every tier.
    #[serde(default, skip_serializing_if = "PodSettings::is_empty")]
    pub pod: PodSettings,

    /// Labels added to every object and pod.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend(
        "maxProperties" = 32,
        "additionalProperties" = label_value(),
        "x-kubernetes-validations" = [
            {
                "rule": "self.all(key, !key.startsWith('app.kubernetes.io/') && !key.startsWith('mcpscale.dev/'))",
                "message": "extraLabels may not use the prefixes app.kubernetes.io/ and mcpscale.dev/: the operator selects by them"
            },
            label_keys("extraLabels")
        ]
    ))]
    pub extra_labels: BTreeMap<String, String>,

    /// Annotations added to every object and pod.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend(
        "maxProperties" = 32,
        "additionalProperties" = annotation_value(),
        "x-kubernetes-validations" = [
            {
                "rule": "self.all(key, !key.startsWith('mcpscale.dev/'))",
                "message": "extraAnnotations may not use the prefix mcpscale.dev/"
            },
            annotation_keys("extraAnnotations")
        ]
    ))]
    pub extra_annotations: BTreeMap<String, String>,

    /// What happens to the data when this object is deleted. `Retain` keeps the Postgres volume claim and its Secret.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// What happens to data when its `McpServer` is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum DeletionPolicy {
    /// The Postgres volume claim and its Secret stay.
    #[default]
    Retain,
}
