//! What the API server accepts and refuses, and the message that a person then sees.

mod children;

use std::collections::BTreeSet;

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
};
use mcpscale_crds::v1alpha1::McpServer;
use serde_json::{Value, json};

use super::support::{NAMESPACE, cluster};

/// A spec, and what the refusal must say; nothing for one that is accepted.
struct Case {
    name: &'static str,
    spec: Value,
    refusal: Option<&'static str>,
}

fn accepted(name: &'static str, spec: Value) -> Case {
    Case {
        name,
        spec,
        refusal: None,
    }
}

fn refused(name: &'static str, spec: Value, refusal: &'static str) -> Case {
    Case {
        name,
        spec,
        refusal: Some(refusal),
    }
}

/// A case with what the API server said to it: nothing when it accepted.
struct Answer {
    case: Case,
    message: Option<String>,
}

impl Answer {
    fn new(case: Case, answer: Result<DynamicObject, kube::Error>) -> Self {
        let message = answer.err().map(|error| error.to_string());
        Self { case, message }
    }

    /// What is wrong with it, if anything is.
    fn complaint(&self) -> Option<String> {
        let Self { case, message } = self;
        let right = match (case.refusal, message) {
            (None, None) => true,
            (Some(expected), Some(message)) => message.contains(expected),
            _ => false,
        };
        (!right).then(|| format!("{}: expected {:?}, got {message:?}", case.name, case.refusal))
    }
}

fn assert_right(answers: &[Answer]) {
    let wrong: Vec<String> = answers.iter().filter_map(Answer::complaint).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What cannot be the name of a server: its children could not be named after it.
const BAD_NAMES: [&str; 4] = [
    "UPPER",
    "1-starts-with-a-digit",
    "a-name-of-more-than-forty-characters-is-too-long",
    "dotted.name",
];

#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn cases() -> Vec<Case> {
    let latency = |latency: Value| json!({"performanceTargets": {"latency": latency}});
    let autoscaling = |autoscaling: Value| json!({"autoscaling": autoscaling});
    vec![
        accepted("nothing is required", json!({})),
        accepted(
            "the example of the design",
            json!({
                "performanceTargets": {"latency": {"p95": "100ms"}, "requestsPerSecond": 200, "errorRate": "0.1%"},
                "autoscaling": {"minReplicas": 2, "maxReplicas": 20},
            }),
        ),
        accepted("fixed replicas", json!({"replicas": 3})),
        accepted(
            "replicas beside Recommend",
            json!({"replicas": 3, "autoscaling": {"maxReplicas": 5, "replicas": {"mode": "Recommend"}}}),
        ),
        refused(
            "replicas beside Auto",
            json!({"replicas": 3, "autoscaling": {"maxReplicas": 5}}),
            "spec.replicas and autoscaling.replicas.mode Auto exclude each other: remove spec.replicas, or set the mode to Recommend or Off",
        ),
        refused(
            "negative replicas",
            json!({"replicas": -1}),
            "spec.replicas: Invalid value: -1",
        ),
        refused("replicas as text", json!({"replicas": "3"}), "must be of type integer"),
        refused(
            "minimum above maximum",
            autoscaling(json!({"minReplicas": 5, "maxReplicas": 2})),
            "autoscaling.minReplicas may not exceed autoscaling.maxReplicas",
        ),
        refused(
            "no maximum",
            autoscaling(json!({"minReplicas": 2})),
            "spec.autoscaling.maxReplicas: Required value",
        ),
        refused(
            "minimum of zero",
            autoscaling(json!({"minReplicas": 0, "maxReplicas": 2})),
            "spec.autoscaling.minReplicas",
        ),
        refused(
            "an unknown mode",
            autoscaling(json!({"maxReplicas": 2, "replicas": {"mode": "Automatic"}})),
            "supported values: \"Auto\", \"Recommend\", \"Off\"",
        ),
        refused(
            "a policy without a period",
            autoscaling(
                json!({"maxReplicas": 2, "behavior": {"scaleDown": {"policies": [{"type": "Pods", "value": 1}]}}}),
            ),
            "periodSeconds: Required value",
        ),
        refused(
            "a window beyond an hour",
            autoscaling(json!({"maxReplicas": 2, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 3601}}})),
            "stabilizationWindowSeconds",
        ),
        refused(
            "targets without a target",
            json!({"performanceTargets": {}}),
            "performanceTargets needs at least one of",
        ),
        refused(
            "a latency without a bound",
            latency(json!({})),
            "latency needs at least one of p50, p95 and p99",
        ),
        refused(
            "p50 above p95",
            latency(json!({"p50": "2s", "p95": "100ms"})),
            "latency.p50 may not exceed latency.p95",
        ),
        refused(
            "p95 above p99",
            latency(json!({"p95": "2s", "p99": "100ms"})),
            "latency.p95 may not exceed latency.p99",
        ),
        refused(
            "p50 above p99 without a p95",
            latency(json!({"p50": "2s", "p99": "100ms"})),
            "latency.p50 may not exceed latency.p99",
        ),
        refused(
            "a latency without a unit",
            latency(json!({"p95": "100"})),
            "spec.performanceTargets.latency.p95",
        ),
        refused(
            "a latency of zero",
            latency(json!({"p95": "0ms"})),
            "must be longer than 0s and at most 1h",
        ),
        refused(
            "a latency in days",
            latency(json!({"p95": "1d"})),
            "spec.performanceTargets.latency.p95",
        ),
        refused(
            "an error rate without a percent sign",
            json!({"performanceTargets": {"errorRate": "0.1"}}),
            "spec.performanceTargets.errorRate",
        ),
        refused(
            "an error rate above all",
            json!({"performanceTargets": {"errorRate": "101%"}}),
            "spec.performanceTargets.errorRate",
        ),
        refused(
            "no request per second",
            json!({"performanceTargets": {"requestsPerSecond": 0}}),
            "requestsPerSecond",
        ),
        accepted(
            "an integer as a quantity",
            json!({"server": {"resources": {"limits": {"cpu": 1}}}}),
        ),
        refused(
            "a quantity of no kind",
            json!({"server": {"resources": {"limits": {"cpu": "one"}}}}),
            "spec.server.resources.limits.cpu",
        ),
        refused("an image with a space", json!({"image": "a b"}), "spec.image"),
        refused(
            "a path without a slash",
            json!({"server": {"path": "mcp"}}),
            "spec.server.path",
        ),
        refused(
            "a variable of the operator",
            json!({"server": {"env": [{"name": "MCP_LISTEN", "value": "x"}]}}),
            "server.env may not set MCP_LISTEN",
        ),
        refused(
            "the database's address with an embedded one",
            json!({"server": {"env": [{"name": "PGHOST", "value": "x"}]}}),
            "server.env may not set PGHOST",
        ),
        accepted(
            "the database's address with none embedded",
            json!({"image": "example/server:1", "postgres": {"mode": "Disabled"}, "server": {"env": [{"name": "PGHOST", "value": "x"}]}}),
        ),
        refused(
            "a variable with two values",
            json!({"server": {"env": [{"name": "A", "value": "x", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}}),
            "takes value or valueFrom, not both",
        ),
        refused(
            "a variable from nowhere",
            json!({"server": {"env": [{"name": "A", "valueFrom": {}}]}}),
            "valueFrom takes exactly one of secretKeyRef and configMapKeyRef",
        ),
        refused(
            "a variable from two places",
            json!({"server": {"env": [{"name": "A", "valueFrom": {
                "secretKeyRef": {"name": "s", "key": "k"}, "configMapKeyRef": {"name": "c", "key": "k"},
            }}]}}),
            "valueFrom takes exactly one of secretKeyRef and configMapKeyRef",
        ),
        refused(
            "variables from nowhere",
            json!({"server": {"envFrom": [{"prefix": "A_"}]}}),
            "each item of envFrom takes exactly one of secretRef and configMapRef",
        ),
        refused(
            "variables from two places",
            json!({"server": {"envFrom": [{"secretRef": {"name": "s"}, "configMapRef": {"name": "c"}}]}}),
            "each item of envFrom takes exactly one of secretRef and configMapRef",
        ),
        refused(
            "the same variable twice",
            json!({"server": {"env": [{"name": "A", "value": "x"}, {"name": "A", "value": "y"}]}}),
            "Duplicate value",
        ),
        refused(
            "the default image without a database and with two replicas",
            json!({"replicas": 2, "postgres": {"mode": "Disabled"}}),
            "the default image keeps its state in Postgres",
        ),
        accepted(
            "the default image without a database and with one replica",
            json!({"postgres": {"mode": "Disabled"}}),
        ),
        refused(
            "local sessions behind two load balancers",
            json!({"server": {"sessions": "Local"}}),
            "server.sessions Local needs loadBalancer.replicas 1",
        ),
        accepted(
            "local sessions behind one load balancer",
            json!({"server": {"sessions": "Local"}, "loadBalancer": {"replicas": 1}}),
        ),
        refused(
            "local sessions without a load balancer",
            json!({"replicas": 2, "server": {"sessions": "Local"}, "loadBalancer": {"mode": "None"}}),
            "nothing would lead a client back",
        ),
        refused(
            "local sessions of stateless clients",
            json!({"server": {"sessions": "Local", "protocolMode": "Stateless"}, "loadBalancer": {"replicas": 1}}),
            "stateless clients hold no session",
        ),
        refused(
            "one era of clients without a load balancer",
            json!({"server": {"protocolMode": "Stateless"}, "loadBalancer": {"mode": "None"}}),
            "server.protocolMode other than Auto needs loadBalancer.mode Nginx",
        ),
        refused(
            "a label that the operator selects by",
            json!({"extraLabels": {"app.kubernetes.io/name": "x"}}),
            "extraLabels may not use the prefixes app.kubernetes.io/ and mcpscale.dev/",
        ),
        refused(
            "an annotation of the operator",
            json!({"extraAnnotations": {"mcpscale.dev/anything": "x"}}),
            "extraAnnotations may not use the prefix mcpscale.dev/",
        ),
        refused(
            "an unknown deletion policy",
            json!({"deletionPolicy": "Delete"}),
            "spec.deletionPolicy",
        ),
        refused(
            "too few connections for any pod",
            json!({"postgres": {"maxConnections": 5}}),
            "spec.postgres.maxConnections",
        ),
    ]
}

/// What an administrator loses without it: a mistake would be found at run time, or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_refused_on_apply_with_a_message_that_helps() {
    let cluster = cluster(&[]).await;
    assert_right(&creations(&dynamic(&cluster.client())).await);
}

/// Gives every new server to the API server, which keeps none.
async fn creations(servers: &Api<DynamicObject>) -> Vec<Answer> {
    let mut answers = Vec::new();
    for case in cases().into_iter().chain(children::cases()) {
        let answer = servers.create(&dry_run(), &object("case", &case.spec)).await;
        answers.push(Answer::new(case, answer));
    }
    for name in BAD_NAMES {
        let answer = servers.create(&dry_run(), &object(name, &json!({}))).await;
        let case = refused(name, json!({}), "metadata.name must be at most 40 characters");
        answers.push(Answer::new(case, answer));
    }
    answers
}

/// What an administrator loses without it: an edit would orphan a database or ask for a volume that cannot be.
#[tokio::test(flavor = "multi_thread")]
async fn changes_that_would_cost_data_are_refused() {
    let cluster = cluster(&[]).await;
    assert_right(&edits(&dynamic(&cluster.client())).await);
}

/// Gives every edit of a server to the API server, which keeps none.
async fn edits(servers: &Api<DynamicObject>) -> Vec<Answer> {
    let base = json!({"postgres": {"storage": {"size": "2Gi", "storageClassName": "fast"}}});
    servers
        .create(&PostParams::default(), &object("changes", &base))
        .await
        .expect("the base is accepted");
    let cases = [
        refused(
            "the database is taken away",
            json!({"postgres": {"mode": "Disabled"}}),
            "postgres.mode cannot change",
        ),
        refused(
            "the volume shrinks",
            json!({"postgres": {"storage": {"size": "1Gi"}}}),
            "postgres.storage.size can only grow",
        ),
        accepted("the volume grows", json!({"postgres": {"storage": {"size": "3Gi"}}})),
        refused(
            "the class changes",
            json!({"postgres": {"storage": {"storageClassName": "slow"}}}),
            "storageClassName cannot change",
        ),
        accepted("more connections", json!({"postgres": {"maxConnections": 300}})),
    ];
    let parameters = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let mut answers = Vec::new();
    for case in cases {
        let change = Patch::Merge(json!({"spec": case.spec}));
        let answer = servers.patch("changes", &parameters, &change).await;
        answers.push(Answer::new(case, answer));
    }
    answers
}

/// What an administrator loses without it: a rule that never refuses anything, and nobody notices.
#[tokio::test(flavor = "multi_thread")]
async fn every_rule_is_seen_to_refuse() {
    let cluster = cluster(&[]).await;
    let servers = dynamic(&cluster.client());
    let mut answers = creations(&servers).await;
    answers.extend(edits(&servers).await);
    let definition = mcpscale_crds::custom_resource_definition().unwrap();
    let mut rules = BTreeSet::new();
    rule_messages(&definition, &mut rules);
    assert!(!rules.is_empty());
    rules.retain(|rule| {
        let mut messages = answers.iter().filter_map(|answer| answer.message.as_ref());
        !messages.any(|message| message.contains(rule))
    });
    assert!(rules.is_empty(), "no case of the tables is refused by {rules:#?}");
}

/// Collects what the rules of a schema say when they refuse.
fn rule_messages<'a>(schema: &'a Value, found: &mut BTreeSet<&'a str>) {
    match schema {
        Value::Object(fields) => {
            let rules = fields.get("x-kubernetes-validations").and_then(Value::as_array);
            // The API server shows the rule itself when it has no message.
            let messages = rules
                .into_iter()
                .flatten()
                .map(|rule| rule.get("message").unwrap_or(&rule["rule"]));
            found.extend(messages.filter_map(Value::as_str));
            fields.values().for_each(|value| rule_messages(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| rule_messages(item, found)),
        _ => {}
    }
}

/// What an administrator loses without it: `kubectl get -o yaml` would not tell what is in force.
#[tokio::test(flavor = "multi_thread")]
async fn defaults_are_in_the_schema() {
    let cluster = cluster(&[]).await;
    let created = dynamic(&cluster.client())
        .create(&dry_run(), &object("defaults", &json!({})))
        .await
        .expect("accepted");
    let spec = &created.data["spec"];
    let expected = [
        ("/loadBalancer/mode", json!("Nginx")),
        ("/loadBalancer/replicas", json!(2)),
        ("/loadBalancer/service/type", json!("ClusterIP")),
        ("/redis/mode", json!("Embedded")),
        ("/postgres/mode", json!("Embedded")),
        ("/postgres/maxConnections", json!(200)),
        ("/postgres/storage/size", json!("1Gi")),
        ("/server/path", json!("/mcp")),
        ("/server/concurrency", json!(32)),
        ("/server/sessions", json!("Shared")),
        ("/deletionPolicy", json!("Retain")),
        ("/paused", json!(false)),
    ];
    for (pointer, value) in expected {
        assert_eq!(spec.pointer(pointer), Some(&value), "{pointer} in {spec}");
    }
}

/// What a user of `kubectl scale` or an HPA loses without it.
#[tokio::test(flavor = "multi_thread")]
async fn the_scale_subresource_reads_and_writes_replicas() {
    let cluster = cluster(&[]).await;
    let client = cluster.client();
    dynamic(&client)
        .create(&PostParams::default(), &object("scaled", &json!({"replicas": 2})))
        .await
        .expect("accepted");
    let servers: Api<McpServer> = Api::namespaced(client, NAMESPACE);
    assert_eq!(
        servers.get_scale("scaled").await.unwrap().spec.unwrap().replicas,
        Some(2)
    );
    let patch = Patch::Merge(json!({"spec": {"replicas": 4}}));
    servers
        .patch_scale("scaled", &PatchParams::default(), &patch)
        .await
        .expect("kubectl scale works");
    assert_eq!(servers.get("scaled").await.unwrap().spec.replicas, Some(4));
}

/// `make crds` writes it; a change of the types without it would install an old schema.
#[test]
fn the_committed_definition_is_the_one_of_the_types() {
    let committed: Value = serde_saphyr::from_str(include_str!("../../../crds/mcpservers.mcpscale.dev.yaml")).unwrap();
    let current = mcpscale_crds::custom_resource_definition().unwrap();
    assert!(committed == current, "the CRD differs from the types: run `make crds`");
    let chart = include_str!("../../../charts/mcpscale-crds/files/mcpservers.mcpscale.dev.yaml");
    assert_eq!(
        chart,
        include_str!("../../../crds/mcpservers.mcpscale.dev.yaml"),
        "the chart's copy differs: run `make crds`"
    );
}

fn dynamic(client: &Client) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), NAMESPACE, &ApiResource::erase::<McpServer>(&()))
}

fn object(name: &str, spec: &Value) -> DynamicObject {
    let object =
        json!({"apiVersion": "mcpscale.dev/v1alpha1", "kind": "McpServer", "metadata": {"name": name}, "spec": spec});
    serde_json::from_value(object).expect("an object")
}

fn dry_run() -> PostParams {
    PostParams {
        dry_run: true,
        ..PostParams::default()
    }
}
