//! The cache tier: one Valkey pod without persistence. It holds nothing that cannot be read again from Postgres.

use serde_json::json;

use super::{
    Child, ChildKind, Component, child, component_name, container_security, pod_metadata, pod_spec, selector_labels,
};
use crate::controller::validate::ValidatedServer;

/// Port of the Redis protocol.
pub const PORT: u16 = 6379;
/// User id of the upstream image.
const USER: i64 = 999;
/// Container limit in MiB; `maxmemory` stays below three quarters of it, so that fragmentation and client buffers fit.
const LIMIT_MEBIBYTES: u32 = 128;

/// Deployment and Service.
#[must_use]
pub fn build(server: &ValidatedServer) -> Vec<Child> {
    vec![deployment(server), service(server)]
}

fn deployment(server: &ValidatedServer) -> Child {
    let name = component_name(&server.name, Component::Redis);
    let probe = json!({"exec": {"command": ["/usr/local/bin/valkey-cli", "-p", PORT.to_string(), "ping"]}, "timeoutSeconds": 3});
    let container = json!({
        "name": "valkey",
        "image": server.images.redis,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/usr/local/bin/valkey-server"],
        "args": [
            "--port", PORT.to_string(), "--protected-mode", "no", "--save", "", "--appendonly", "no",
            "--maxmemory", format!("{}mb", LIMIT_MEBIBYTES * 3 / 4), "--maxmemory-policy", "allkeys-lru", "--dir", "/data",
        ],
        "ports": [{"name": "redis", "containerPort": PORT}],
        "startupProbe": with(&probe, json!({"periodSeconds": 1, "failureThreshold": 60})),
        "readinessProbe": with(&probe, json!({"periodSeconds": 5})),
        "livenessProbe": with(&probe, json!({"periodSeconds": 20, "failureThreshold": 3})),
        "resources": {
            "requests": {"cpu": "20m", "memory": "32Mi"},
            "limits": {"memory": format!("{LIMIT_MEBIBYTES}Mi")},
        },
        "securityContext": container_security(),
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    });
    child(
        server,
        ChildKind::Deployment,
        Component::Redis,
        &name,
        json!({"spec": {
            "selector": {"matchLabels": selector_labels(&server.name, Component::Redis)},
            "strategy": {"type": "Recreate"},
            "template": {
                "metadata": pod_metadata(server, Component::Redis),
                "spec": pod_spec(server, USER, json!({
                    "containers": [container],
                    "volumes": [{"name": "data", "emptyDir": {}}],
                })),
            },
        }}),
    )
}

fn service(server: &ValidatedServer) -> Child {
    child(
        server,
        ChildKind::Service,
        Component::Redis,
        &component_name(&server.name, Component::Redis),
        json!({"spec": {
            "selector": selector_labels(&server.name, Component::Redis),
            "ports": [{"name": "redis", "port": PORT, "targetPort": "redis"}],
        }}),
    )
}

/// A probe with more fields.
pub(super) fn with(probe: &serde_json::Value, fields: serde_json::Value) -> serde_json::Value {
    let mut probe = probe.clone();
    super::merge(&mut probe, fields);
    probe
}
