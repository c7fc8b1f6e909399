//! The load balancer tier: nginx pods, their configuration, and the Service that clients use.

use mcpscale_crds::v1alpha1::LoadBalancerMode;
use serde_json::{Value, json};

use super::{
    Child, ChildKind, Component, child, component_name, container_security, content_hash,
    nginx_config::{self, PORT, RESOLVE_SECONDS, RUN, SHUTDOWN_SECONDS, STATUS_PORT},
    pod_metadata, pod_spec, selector_labels, spread,
};
use crate::controller::validate::ValidatedServer;

/// User id of the upstream image.
const USER: i64 = 101;
/// Seconds a pod that is asked to stop still takes requests, while the cluster learns that it goes.
const LEAVE_SECONDS: u32 = 10;

/// Writes the resolver's address, which nginx cannot read itself, and refuses a configuration that nginx would not
/// take.
fn prepare() -> String {
    format!(
        r#"set -eu
address=$(awk '$1 == "nameserver" {{ print $2; exit }}' /etc/resolv.conf)
if [ -z "$address" ]; then
  echo 'no nameserver in /etc/resolv.conf: nginx could not find the server pods' >&2
  exit 1
fi
case "$address" in
  *:*) echo "resolver [$address] valid={RESOLVE_SECONDS}s;" ;;
  *) echo "resolver $address valid={RESOLVE_SECONDS}s ipv6=off;" ;;
esac > {RUN}/resolver.conf
exec /usr/sbin/nginx -t -c /etc/mcpscale/nginx/nginx.conf
"#
    )
}

/// Finishes open requests: SIGTERM, which Kubernetes sends after this hook, would cut them.
fn drain() -> String {
    format!("sleep {LEAVE_SECONDS}; kill -QUIT 1; while kill -0 1 2>/dev/null; do sleep 0.5; done")
}

/// Configuration, Deployment and disruption budget.
#[must_use]
pub fn build(server: &ValidatedServer) -> Vec<Child> {
    if server.load_balancer.mode == LoadBalancerMode::None {
        return vec![];
    }
    let mut children = vec![configuration(server), deployment(server)];
    if server.load_balancer.replicas >= 2 {
        children.push(super::disruption_budget(server, Component::Nginx));
    }
    children
}

/// Name of the configuration, which says its content: a change makes a new object and rolls the pods, and going back is
/// a name.
fn configuration_name(server: &ValidatedServer) -> String {
    format!(
        "{}-{}",
        component_name(&server.name, Component::Nginx),
        content_hash(&nginx_config::render(server))
    )
}

fn configuration(server: &ValidatedServer) -> Child {
    child(
        server,
        ChildKind::ConfigMap,
        Component::Nginx,
        &configuration_name(server),
        json!({"immutable": true, "data": {"nginx.conf": nginx_config::render(server)}}),
    )
}

fn deployment(server: &ValidatedServer) -> Child {
    child(
        server,
        ChildKind::Deployment,
        Component::Nginx,
        &component_name(&server.name, Component::Nginx),
        json!({"spec": {
            "replicas": server.load_balancer.replicas,
            "selector": {"matchLabels": selector_labels(&server.name, Component::Nginx)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": pod_metadata(server, Component::Nginx),
                "spec": pod_spec(server, USER, json!({
                    "terminationGracePeriodSeconds": LEAVE_SECONDS + SHUTDOWN_SECONDS + 5,
                    "topologySpreadConstraints": spread(server, Component::Nginx),
                    "initContainers": [prepare_container(server)],
                    "containers": [container(server)],
                    "volumes": [
                        {"name": "run", "emptyDir": {}},
                        {"name": "configuration", "configMap": {"name": configuration_name(server)}},
                    ],
                })),
            },
        }}),
    )
}

fn prepare_container(server: &ValidatedServer) -> Value {
    json!({
        "name": "prepare",
        "image": server.images.nginx,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", prepare()],
        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": container_security(),
        "volumeMounts": mounts(),
    })
}

fn container(server: &ValidatedServer) -> Value {
    let probe = |path: &str, fields: Value| {
        super::redis::with(
            &json!({"httpGet": {"path": path, "port": "status"}, "timeoutSeconds": 3}),
            fields,
        )
    };
    json!({
        "name": "nginx",
        "image": server.images.nginx,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/usr/sbin/nginx", "-c", "/etc/mcpscale/nginx/nginx.conf"],
        "ports": [{"name": "mcp", "containerPort": PORT}, {"name": "status", "containerPort": STATUS_PORT}],
        "lifecycle": {"preStop": {"exec": {"command": ["/bin/sh", "-c", drain()]}}},
        "startupProbe": probe("/healthz", json!({"periodSeconds": 1, "failureThreshold": 30})),
        "readinessProbe": probe("/readyz", json!({"periodSeconds": 2, "failureThreshold": 3})),
        "livenessProbe": probe("/healthz", json!({"periodSeconds": 10, "failureThreshold": 3})),
        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": container_security(),
        "volumeMounts": mounts(),
    })
}

fn mounts() -> Value {
    json!([
        {"name": "run", "mountPath": RUN},
        {"name": "configuration", "mountPath": "/etc/mcpscale/nginx", "readOnly": true},
    ])
}

/// The Service that clients use. It leads to nginx, or straight to the server pods when there is none.
#[must_use]
pub fn client_service(server: &ValidatedServer) -> Child {
    let component = match server.load_balancer.mode {
        LoadBalancerMode::Nginx => Component::Nginx,
        LoadBalancerMode::None => Component::Server,
    };
    let settings = &server.load_balancer.service;
    let mut fields = json!({"spec": {
        "type": settings.kind.as_str(),
        "selector": selector_labels(&server.name, component),
        "ports": [{"name": "mcp", "port": 80, "targetPort": "mcp"}],
    }});
    if !settings.annotations.is_empty() {
        fields["metadata"] = json!({"annotations": settings.annotations});
    }
    child(server, ChildKind::Service, component, &server.name, fields)
}
