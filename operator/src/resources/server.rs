//! The server tier: Deployment, headless Service, tuning ConfigMap and disruption budget.

use mcpscale_crds::v1alpha1::{EnvironmentSource, EnvironmentVariable, KeyReference};
use serde_json::{Value, json};

use super::{
    Child, ChildKind, Component, child, component_name, container_security, pod_metadata, pod_spec, postgres, redis,
    redis::with, selector_labels, spread,
};
use crate::controller::validate::ValidatedServer;

/// Port of MCP clients.
pub const PORT: u16 = 8080;
/// Port of `/metrics`, `/healthz` and `/readyz`.
pub const METRICS_PORT: u16 = 9090;
/// Port of `/tuning`.
pub const ADMIN_PORT: u16 = 9091;
/// User id in the default image. A foreign image runs as it too, so that `runAsNonRoot` never depends on the image.
const USER: i64 = 65532;
/// Seconds between the decision to stop a pod and its SIGTERM: DNS TTL (5 s) + nginx's `valid` (2 s) + the time the
/// endpoints take, with margin.
const LEAVE_SECONDS: i32 = 15;
const TUNING_MOUNT: &str = "/etc/mcpscale/tuning";

/// Tuning file, headless Service and Deployment, without replicas: these have a field manager of their own.
#[must_use]
pub fn build(server: &ValidatedServer) -> Vec<Child> {
    vec![tuning(server), headless_service(server), deployment(server)]
}

fn tuning_name(server: &ValidatedServer) -> String {
    format!("{}-tuning", server.name)
}

/// Start values of what can be tuned while the server runs. Its name is stable and no roll depends on it.
fn tuning(server: &ValidatedServer) -> Child {
    let mut values = json!({"concurrency": server.server.concurrency});
    if let Some(postgres) = &server.postgres {
        values["pool"] = json!({"max": postgres.connections_per_pod});
    }
    child(
        server,
        ChildKind::ConfigMap,
        Component::Server,
        &tuning_name(server),
        json!({"data": {"tuning.json": values.to_string()}}),
    )
}

/// Resolves to the addresses of the pods that are ready; nginx follows it.
fn headless_service(server: &ValidatedServer) -> Child {
    child(
        server,
        ChildKind::Service,
        Component::Server,
        &component_name(&server.name, Component::Server),
        json!({"spec": {
            "clusterIP": "None",
            "selector": selector_labels(&server.name, Component::Server),
            "ports": [{"name": "mcp", "port": PORT, "targetPort": "mcp"}],
        }}),
    )
}

fn deployment(server: &ValidatedServer) -> Child {
    child(
        server,
        ChildKind::Deployment,
        Component::Server,
        &component_name(&server.name, Component::Server),
        json!({"spec": {
            "selector": {"matchLabels": selector_labels(&server.name, Component::Server)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
            "template": {
                "metadata": pod_metadata(server, Component::Server),
                "spec": pod_spec(server, USER, json!({
                    "terminationGracePeriodSeconds": LEAVE_SECONDS + server.server.drain_seconds + 5,
                    "topologySpreadConstraints": spread(server, Component::Server),
                    "containers": [container(server)],
                    "volumes": [
                        {"name": "tuning", "configMap": {"name": tuning_name(server)}},
                        {"name": "data", "emptyDir": {}},
                        {"name": "tmp", "emptyDir": {}},
                    ],
                })),
            },
        }}),
    )
}

fn container(server: &ValidatedServer) -> Value {
    let settings = &server.server;
    let mut container = json!({
        "name": "mcp",
        "image": server.images.server,
        "imagePullPolicy": "IfNotPresent",
        "workingDir": "/data",
        "env": environment(server),
        "ports": [{"name": "mcp", "containerPort": PORT}],
        "lifecycle": {"preStop": {"sleep": {"seconds": LEAVE_SECONDS}}},
        "resources": settings.resources,
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "tuning", "mountPath": TUNING_MOUNT, "readOnly": true},
            {"name": "data", "mountPath": "/data"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    });
    if !settings.args.is_empty() {
        container["args"] = json!(settings.args);
    }
    if !settings.env_from.is_empty() {
        container["envFrom"] = settings.env_from.iter().map(environment_source).collect();
    }
    let probes = if server.implements_tuning_contract {
        container["ports"] = json!([
            {"name": "mcp", "containerPort": PORT},
            {"name": "metrics", "containerPort": METRICS_PORT},
            {"name": "admin", "containerPort": ADMIN_PORT},
        ]);
        [
            json!({"httpGet": {"path": "/readyz", "port": "metrics"}}),
            json!({"httpGet": {"path": "/healthz", "port": "metrics"}}),
        ]
    } else {
        [
            json!({"tcpSocket": {"port": "mcp"}}),
            json!({"tcpSocket": {"port": "mcp"}}),
        ]
    };
    let [ready, alive] = probes;
    container["startupProbe"] = with(
        &alive,
        json!({"periodSeconds": 1, "failureThreshold": 120, "timeoutSeconds": 2}),
    );
    container["readinessProbe"] = with(
        &ready,
        json!({"periodSeconds": 2, "failureThreshold": 3, "timeoutSeconds": 2}),
    );
    container["livenessProbe"] = with(
        &alive,
        json!({"periodSeconds": 10, "failureThreshold": 3, "timeoutSeconds": 5}),
    );
    container
}

fn environment(server: &ValidatedServer) -> Value {
    let listen = |port: u16| format!("0.0.0.0:{port}");
    let mut all = vec![
        json!({"name": "MCP_LISTEN", "value": listen(PORT)}),
        json!({"name": "MCP_METRICS_LISTEN", "value": listen(METRICS_PORT)}),
        json!({"name": "MCP_ADMIN_LISTEN", "value": listen(ADMIN_PORT)}),
        json!({"name": "MCP_PATH", "value": server.server.path}),
        json!({"name": "MCP_TUNING_FILE", "value": format!("{TUNING_MOUNT}/tuning.json")}),
        json!({"name": "MCP_DRAIN_SECONDS", "value": server.server.drain_seconds.to_string()}),
    ];
    if server.redis {
        let host = component_name(&server.name, Component::Redis);
        all.push(json!({"name": "MCP_REDIS_URL", "value": format!("redis://{host}:{}", redis::PORT)}));
    }
    if server.postgres.is_some() {
        let name = component_name(&server.name, Component::Postgres);
        let secret = |variable: &str, key: &str| json!({"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}});
        all.extend([
            json!({"name": "PGHOST", "value": name}),
            json!({"name": "PGPORT", "value": postgres::PORT.to_string()}),
            secret("PGUSER", "username"),
            secret("PGPASSWORD", "password"),
            secret("PGDATABASE", "dbname"),
        ]);
    }
    all.extend(server.server.env.iter().map(environment_variable));
    Value::Array(all)
}

fn environment_variable(variable: &EnvironmentVariable) -> Value {
    let reference = |key: &KeyReference| json!({"name": key.name, "key": key.key});
    let mut body = json!({"name": variable.name});
    if let Some(source) = &variable.value_from {
        let mut from = json!({});
        if let Some(key) = &source.secret_key_ref {
            from["secretKeyRef"] = reference(key);
        }
        if let Some(key) = &source.config_map_key_ref {
            from["configMapKeyRef"] = reference(key);
        }
        body["valueFrom"] = from;
    } else {
        body["value"] = json!(variable.value.clone().unwrap_or_default());
    }
    body
}

fn environment_source(source: &EnvironmentSource) -> Value {
    let mut body = json!({});
    if let Some(prefix) = &source.prefix {
        body["prefix"] = json!(prefix);
    }
    if let Some(secret) = &source.secret_ref {
        body["secretRef"] = json!({"name": secret.name});
    }
    if let Some(map) = &source.config_map_ref {
        body["configMapRef"] = json!({"name": map.name});
    }
    body
}
