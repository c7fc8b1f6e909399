//! Values that the operator hands on to the objects of a server.

use serde_json::{Value, json};

use super::{Case, accepted, refused};

/// Values that the operator hands on to the objects of a server. Their own admission would refuse them, too, but then
/// the `McpServer` would have been accepted, and stand still.
#[expect(clippy::too_many_lines, reason = "a table of cases")]
pub(super) fn cases() -> Vec<Case> {
    let toleration = |toleration: Value| json!({"pod": {"tolerations": [toleration]}});
    let resources = |resources: Value| json!({"server": {"resources": resources}});
    let variable = |source: Value| json!({"server": {"env": [{"name": "A", "valueFrom": source}]}});
    vec![
        accepted(
            "labels and annotations",
            json!({
                "extraLabels": {"team": "agents", "example.com/cost-centre": ""},
                "extraAnnotations": {"Example.com/owner": "a person, with any text"},
            }),
        ),
        refused(
            "a label key with a space",
            json!({"extraLabels": {"a b": "x"}}),
            "each key of extraLabels must be at most 63 letters",
        ),
        refused(
            "a label key with a prefix that is no DNS name",
            json!({"extraLabels": {"Example_com/team": "x"}}),
            "each key of extraLabels must be at most 63 letters",
        ),
        refused(
            "a label value with a space",
            json!({"extraLabels": {"team": "a b"}}),
            "spec.extraLabels.team in body should match",
        ),
        refused(
            "a label value of 64 characters",
            json!({"extraLabels": {"team": "a".repeat(64)}}),
            "spec.extraLabels.team: Too long",
        ),
        refused(
            "an annotation key with a space",
            json!({"extraAnnotations": {"a b": "x"}}),
            "each key of extraAnnotations must be at most 63 letters",
        ),
        refused(
            "an annotation key of the Service with a space",
            json!({"loadBalancer": {"service": {"annotations": {"a b": "x"}}}}),
            "each key of loadBalancer.service.annotations must be at most 63 letters",
        ),
        refused(
            "a node label with a space in its key",
            json!({"pod": {"nodeSelector": {"a b": "x"}}}),
            "each key of pod.nodeSelector must be at most 63 letters",
        ),
        refused(
            "a node label with a space in its value",
            json!({"pod": {"nodeSelector": {"disk": "a b"}}}),
            "spec.pod.nodeSelector.disk in body should match",
        ),
        accepted("a toleration of everything", toleration(json!({"operator": "Exists"}))),
        accepted(
            "a toleration with all fields",
            toleration(json!({
                "key": "example.com/gone", "operator": "Equal", "value": "yes", "effect": "NoExecute",
                "tolerationSeconds": 30,
            })),
        ),
        refused(
            "a toleration with an unknown operator",
            toleration(json!({"key": "disk", "operator": "In"})),
            "spec.pod.tolerations[0].operator: Unsupported value: \"In\"",
        ),
        refused(
            "a toleration with an unknown effect",
            toleration(json!({"key": "disk", "operator": "Exists", "effect": "Never"})),
            "spec.pod.tolerations[0].effect: Unsupported value: \"Never\"",
        ),
        refused(
            "a toleration of nothing",
            toleration(json!({"value": "ssd"})),
            "a toleration without a key needs operator Exists",
        ),
        refused(
            "a toleration with a space in its key",
            toleration(json!({"key": "a b", "operator": "Exists"})),
            "the key of a toleration must be at most 63 letters",
        ),
        refused(
            "a toleration with a space in its value",
            toleration(json!({"key": "disk", "value": "a b"})),
            "spec.pod.tolerations[0].value in body should match",
        ),
        refused(
            "a toleration with a value that does not count",
            toleration(json!({"key": "disk", "operator": "Exists", "value": "ssd"})),
            "a toleration with operator Exists takes no value",
        ),
        refused(
            "a toleration that ends and has no effect that can",
            toleration(json!({"key": "disk", "operator": "Exists", "tolerationSeconds": 30})),
            "tolerationSeconds needs effect NoExecute",
        ),
        refused(
            "a priority class with upper case letters",
            json!({"pod": {"priorityClassName": "High"}}),
            "spec.pod.priorityClassName in body should match",
        ),
        refused(
            "a pull Secret with an underscore",
            json!({"pod": {"imagePullSecrets": [{"name": "pull_secret"}]}}),
            "spec.pod.imagePullSecrets[0].name in body should match",
        ),
        refused(
            "a storage class with a slash",
            json!({"postgres": {"storage": {"storageClassName": "fast/ssd"}}}),
            "spec.postgres.storage.storageClassName in body should match",
        ),
        refused(
            "a volume of no size",
            json!({"postgres": {"storage": {"size": 0}}}),
            "postgres.storage.size must be above zero",
        ),
        accepted(
            "a variable from a file of a ConfigMap",
            variable(json!({"configMapKeyRef": {"name": "settings.example", "key": ".env"}})),
        ),
        refused(
            "a variable from a Secret with upper case letters",
            variable(json!({"secretKeyRef": {"name": "Secret", "key": "k"}})),
            "spec.server.env[0].valueFrom.secretKeyRef.name in body should match",
        ),
        refused(
            "a variable from a key that is no file name",
            variable(json!({"configMapKeyRef": {"name": "c", "key": ".."}})),
            "spec.server.env[0].valueFrom.configMapKeyRef.key in body should match",
        ),
        refused(
            "variables from a ConfigMap with a slash",
            json!({"server": {"envFrom": [{"configMapRef": {"name": "a/b"}}]}}),
            "spec.server.envFrom[0].configMapRef.name in body should match",
        ),
        refused(
            "variables with a prefix that none can have",
            json!({"server": {"envFrom": [{"prefix": "A=", "secretRef": {"name": "s"}}]}}),
            "spec.server.envFrom[0].prefix in body should match",
        ),
        accepted(
            "requests up to the limits",
            resources(json!({
                "requests": {"cpu": "500m", "memory": "1Gi", "ephemeral-storage": "1Gi", "hugepages-2Mi": "64Mi"},
                "limits": {"cpu": 1, "memory": "1024Mi", "hugepages-2Mi": "64Mi", "nvidia.com/gpu": 1},
            })),
        ),
        refused(
            "a resource that is misspelt",
            resources(json!({"limits": {"cpus": 1}})),
            "server.resources takes cpu, memory, ephemeral-storage, hugepages-SIZE",
        ),
        refused(
            "a request above the limit",
            resources(json!({"requests": {"memory": "1Gi"}, "limits": {"memory": "1000M"}})),
            "server.resources.requests may not exceed server.resources.limits",
        ),
        refused(
            "a request above the limit, both as people write them",
            resources(json!({"requests": {"cpu": 2}, "limits": {"cpu": "1500m"}})),
            "server.resources.requests may not exceed server.resources.limits",
        ),
        refused(
            "huge pages without a limit",
            resources(json!({"requests": {"memory": "64Mi", "hugepages-2Mi": "64Mi"}})),
            "server.resources.requests of hugepages or a device needs an equal one in server.resources.limits",
        ),
    ]
}
