//! How an `McpServer` looks to those who know none of its fields: `kubectl get`, `kubectl scale`, autoscalers.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::PodTemplateSpec,
};
use kube::{
    Api, Client, ResourceExt,
    api::ListParams,
    core::{Expression, Selector, SelectorExt},
};
use mcpscale_crds::v1alpha1::McpServer;
use serde_json::{Value, json};

use super::support::{NAMESPACE, Operator, cluster, create, reported};

/// What a user of an HPA loses without it: it averages over nginx and the databases too, or over another server, or
/// finds no pod at all.
#[tokio::test(flavor = "multi_thread")]
async fn the_scale_subresource_selects_the_server_pods_alone() {
    let cluster = cluster(&[]).await;
    let client = cluster.client();
    let _operator = Operator::start(client.clone(), &[]);
    // The API server tells no scale of a server that declares no number.
    create(&client, "other", &json!({"replicas": 1})).await;
    create(&client, "selected", &json!({"replicas": 1})).await;
    reported(&client, NAMESPACE, "other").await;
    let status = reported(&client, NAMESPACE, "selected").await.status.unwrap();

    let servers: Api<McpServer> = Api::namespaced(client.clone(), NAMESPACE);
    let scale = servers.get_scale("selected").await.unwrap().status.unwrap();
    assert_eq!(scale.selector, status.selector);
    let selector = parsed(&scale.selector.unwrap());
    let pods = pod_labels(&client).await;
    assert_eq!(pods.len(), 8, "four tiers of two servers: {pods:?}");
    let selected: Vec<&String> = pods
        .iter()
        .filter(|(_, labels)| selector.matches(labels))
        .map(|(owner, _)| owner)
        .collect();
    assert_eq!(selected, ["selected-server"]);
}

/// Reads what the operator writes: equalities, separated by commas.
fn parsed(selector: &str) -> Selector {
    let equalities = selector.split(',').map(|part| {
        let (key, value) = part.split_once('=').expect("an equality");
        Expression::Equal(key.to_owned(), value.to_owned())
    });
    equalities.collect()
}

/// The labels of the pods that each Deployment and StatefulSet would make, by its name.
async fn pod_labels(client: &Client) -> BTreeMap<String, BTreeMap<String, String>> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), NAMESPACE);
    let deployments = deployments.list(&ListParams::default()).await.expect("listed");
    let sets = sets.list(&ListParams::default()).await.expect("listed");
    let labels = |template: Option<&PodTemplateSpec>| {
        let metadata = template.and_then(|template| template.metadata.clone());
        metadata.and_then(|metadata| metadata.labels).unwrap_or_default()
    };
    let of_deployments = deployments
        .iter()
        .map(|d| (d.name_any(), labels(d.spec.as_ref().map(|spec| &spec.template))));
    let of_sets = sets
        .iter()
        .map(|s| (s.name_any(), labels(s.spec.as_ref().map(|spec| &spec.template))));
    of_deployments.chain(of_sets).collect()
}

/// What a person at `kubectl get mcpservers` loses without it: a column that is missing, or that is always empty.
#[tokio::test(flavor = "multi_thread")]
async fn every_column_is_filled() {
    let cluster = cluster(&[]).await;
    let client = cluster.client();
    let _operator = Operator::start(client.clone(), &[]);
    let spec = json!({
        "performanceTargets": {"latency": {"p95": "100ms"}},
        "autoscaling": {"minReplicas": 2, "maxReplicas": 5},
    });
    create(&client, "columns", &spec).await;
    reported(&client, NAMESPACE, "columns").await;

    let table = table(&client, "columns").await;
    let columns = table["columnDefinitions"].as_array().unwrap();
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    let cells: Vec<(&str, &Value)> = columns.iter().map(|c| c["name"].as_str().unwrap()).zip(cells).collect();
    let expected = [
        ("Name", Some(json!("columns"))),
        ("Ready", Some(json!("False"))),
        ("Reason", None),
        ("Replicas", Some(json!(0))),
        ("Desired", Some(json!(2))),
        ("Targets", Some(json!("Unknown"))),
        ("URL", Some(json!("http://columns.default.svc.cluster.local/mcp"))),
        ("Age", None),
    ];
    assert_eq!(cells.len(), expected.len(), "{cells:?}");
    for ((column, cell), (expected_column, expected_cell)) in cells.into_iter().zip(expected) {
        assert_eq!(column, expected_column);
        match expected_cell {
            Some(expected) => assert_eq!(*cell, expected, "{column}"),
            None => assert!(cell.as_str().is_some_and(|text| !text.is_empty()), "{column}: {cell}"),
        }
    }
}

/// A server as `kubectl get` asks for it.
async fn table(client: &Client, name: &str) -> Value {
    let path = format!("/apis/mcpscale.dev/v1alpha1/namespaces/{NAMESPACE}/mcpservers/{name}");
    let request = http::Request::get(path)
        .header("Accept", "application/json;as=Table;g=meta.k8s.io;v=v1")
        .body(Vec::new())
        .expect("a request");
    client.request(request).await.expect("a table")
}
