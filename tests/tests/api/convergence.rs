//! What the operator writes, and that it stops writing.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
};
use mcpscale_crds::v1alpha1::McpServer;
use mcpscale_tests::eventually;
use serde_json::json;

use super::support::{DEADLINE, NAMESPACE, Operator, cluster, condition, create, free_address, ready, reconciles};

/// Every object of a server with its resourceVersion, the `McpServer` included.
async fn versions(client: &Client, name: &str) -> BTreeMap<String, String> {
    let kinds = [
        ApiResource::erase::<ServiceAccount>(&()),
        ApiResource::erase::<Secret>(&()),
        ApiResource::erase::<PersistentVolumeClaim>(&()),
        ApiResource::erase::<ConfigMap>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<StatefulSet>(&()),
        ApiResource::erase::<Deployment>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
    ];
    let mut found = BTreeMap::new();
    for kind in kinds {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &kind);
        let labels = format!("app.kubernetes.io/instance={name}");
        for object in api.list(&ListParams::default().labels(&labels)).await.expect("listed") {
            found.insert(
                format!("{}/{}", kind.kind, object.name_any()),
                object.resource_version().unwrap_or_default(),
            );
        }
    }
    let servers: Api<McpServer> = Api::namespaced(client.clone(), NAMESPACE);
    if let Some(server) = servers.get_opt(name).await.expect("read") {
        found.insert("McpServer".into(), server.resource_version().unwrap_or_default());
    }
    found
}

/// Waits until nothing has changed for a second, and answers what there is.
async fn settled(client: &Client, name: &str, at_least: usize) -> BTreeMap<String, String> {
    eventually(DEADLINE, "the objects stop changing", || async {
        let before = versions(client, name).await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let after = versions(client, name).await;
        if after.len() >= at_least && before == after {
            Ok(after)
        } else {
            Err(format!("{} objects, changing", after.len()))
        }
    })
    .await
    .expect("settled")
}

fn names(objects: &BTreeMap<String, String>) -> Vec<String> {
    let hash = |name: &str| match name.rsplit_once('-') {
        Some((stem, suffix)) if suffix.len() == 10 && suffix.bytes().all(|b| b.is_ascii_hexdigit()) => {
            format!("{stem}-<hash>")
        }
        _ => name.to_owned(),
    };
    objects.keys().map(|name| hash(name)).collect()
}

/// What a user loses without it: a tier is missing, or the operator writes for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_becomes_its_objects_and_then_nothing_is_written() {
    let cluster = cluster(&[]).await;
    let client = cluster.client();
    let operator = Operator::start(client.clone(), &[]);
    create(&client, "whole", &json!({"replicas": 3})).await;
    let objects = settled(&client, "whole", 17).await;
    let expected = [
        "ConfigMap/whole-nginx-<hash>",
        "ConfigMap/whole-postgres-<hash>",
        "ConfigMap/whole-tuning",
        "Deployment/whole-nginx",
        "Deployment/whole-redis",
        "Deployment/whole-server",
        "McpServer",
        "PersistentVolumeClaim/whole-postgres",
        "PodDisruptionBudget/whole-nginx",
        "PodDisruptionBudget/whole-server",
        "Secret/whole-postgres",
        "Service/whole",
        "Service/whole-postgres",
        "Service/whole-redis",
        "Service/whole-server",
        "ServiceAccount/whole",
        "StatefulSet/whole-postgres",
    ];
    assert_eq!(names(&objects), expected);
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    assert_eq!(
        deployments.get("whole-server").await.unwrap().spec.unwrap().replicas,
        Some(3)
    );

    // A touch of the resource starts a reconcile; a new operator starts one of everything. Neither may change anything.
    let servers: Api<McpServer> = Api::namespaced(client.clone(), NAMESPACE);
    let touch = Patch::Merge(json!({"metadata": {"annotations": {"touched": "yes"}}}));
    servers
        .patch("whole", &PatchParams::default(), &touch)
        .await
        .expect("touched");
    let touched = settled(&client, "whole", 17).await;
    operator.stop().await;
    let free = free_address();
    let _second = Operator::start(client.clone(), &["--listen", &free.to_string()]);
    eventually(DEADLINE, "the new operator has reconciled", || async {
        match reconciles(free).await? {
            0 => Err("no reconcile has ended".to_owned()),
            _ => Ok(()),
        }
    })
    .await
    .unwrap();
    let after = settled(&client, "whole", 17).await;
    assert_eq!(touched, after, "a new operator wrote to objects that were right");
    let without = |mut all: BTreeMap<String, String>| {
        all.remove("McpServer");
        all
    };
    assert_eq!(
        without(objects),
        without(after),
        "a reconcile wrote to objects that were right"
    );
}

/// What a user loses without it: a change by hand, or by another tool, stays.
#[tokio::test(flavor = "multi_thread")]
async fn drift_is_corrected() {
    let cluster = cluster(&[]).await;
    let client = cluster.client();
    let _operator = Operator::start(client.clone(), &[]);
    create(&client, "drift", &json!({"replicas": 2})).await;
    settled(&client, "drift", 16).await;
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let edit = Patch::Merge(json!({"spec": {"selector": {"app.kubernetes.io/component": "elsewhere"}}}));
    services
        .patch("drift", &PatchParams::default(), &edit)
        .await
        .expect("edited");
    eventually(DEADLINE, "the edited selector is put right", || async {
        let selector = services
            .get("drift")
            .await
            .map_err(|e| e.to_string())?
            .spec
            .unwrap_or_default()
            .selector
            .unwrap_or_default();
        if selector["app.kubernetes.io/component"] == "nginx" {
            Ok(())
        } else {
            Err(format!("{selector:?}"))
        }
    })
    .await
    .unwrap();
    services
        .delete("drift-redis", &DeleteParams::default())
        .await
        .expect("deleted");
    eventually(DEADLINE, "the deleted Service comes back", || async {
        services.get("drift-redis").await.map_err(|e| e.to_string())
    })
    .await
    .unwrap();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let scale = Patch::Merge(json!({"spec": {"replicas": 9}}));
    deployments
        .patch("drift-server", &PatchParams::default(), &scale)
        .await
        .expect("scaled by hand");
    eventually(DEADLINE, "the declared number of replicas comes back", || async {
        let replicas = deployments
            .get("drift-server")
            .await
            .map_err(|e| e.to_string())?
            .spec
            .and_then(|spec| spec.replicas);
        if replicas == Some(2) {
            Ok(())
        } else {
            Err(format!("{replicas:?}"))
        }
    })
    .await
    .unwrap();
}

/// What a user loses without it: what a change leaves behind stays for ever, or a change loses a data volume.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_longer_wanted_goes_and_data_stays() {
    let cluster = cluster(&[
        "deployment-controller",
        "statefulset-controller",
        "replicaset-controller",
    ])
    .await;
    let client = cluster.client();
    let _operator = Operator::start(client.clone(), &[]);
    create(&client, "prune", &json!({"replicas": 2})).await;
    settled(&client, "prune", 16).await;
    let servers: Api<McpServer> = Api::namespaced(client.clone(), NAMESPACE);
    let change =
        Patch::Merge(json!({"spec": {"redis": {"mode": "Disabled"}, "loadBalancer": {"mode": "None"}, "replicas": 1}}));
    servers
        .patch("prune", &PatchParams::default(), &change)
        .await
        .expect("changed");
    let remaining = eventually(DEADLINE, "Redis, nginx and the disruption budgets go", || async {
        let found = names(&versions(&client, "prune").await);
        let gone = !found
            .iter()
            .any(|n| n.contains("redis") || n.contains("nginx") || n.contains("Disruption"));
        if gone { Ok(found) } else { Err(format!("{found:?}")) }
    })
    .await
    .unwrap();
    assert!(
        remaining.contains(&"PersistentVolumeClaim/prune-postgres".to_owned()),
        "{remaining:?}"
    );
    assert!(remaining.contains(&"Secret/prune-postgres".to_owned()), "{remaining:?}");
}

/// What a user loses without it: a crash in the middle of the work leaves half a server.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_killed_half_way_is_taken_up_by_the_next() {
    let cluster = cluster(&[]).await;
    let client = cluster.client();
    let first = Operator::start(client.clone(), &["--lease-name", "first"]);
    create(&client, "crash", &json!({"replicas": 2})).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    eventually(DEADLINE, "the first object is there", || async {
        accounts.get("crash").await.map_err(|e| e.to_string())
    })
    .await
    .unwrap();
    first.kill();
    // A Lease of its own, so that the test need not wait for the dead one's to run out.
    let _second = Operator::start(client.clone(), &["--lease-name", "second"]);
    let objects = settled(&client, "crash", 17).await;
    assert_eq!(objects.len(), 17, "{objects:?}");
}

/// What an administrator loses without it: one broken server stops all others, or nobody learns why it stands still.
#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_server_says_what_to_do_and_stops_no_other() {
    let cluster = cluster(&[]).await;
    let client = cluster.client();
    let _operator = Operator::start(client.clone(), &[]);
    let budget = json!({"autoscaling": {"maxReplicas": 100}, "postgres": {"maxConnections": 50}});
    create(&client, "invalid", &budget).await;
    create(&client, "valid", &json!({})).await;
    let servers: Api<McpServer> = Api::namespaced(client.clone(), NAMESPACE);
    let invalid = eventually(DEADLINE, "the invalid server is refused by a condition", || async {
        let server = servers.get("invalid").await.map_err(|e| e.to_string())?;
        match condition(&server, "Accepted") {
            Some((status, _)) if status == "False" => Ok(server),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    assert_eq!(
        condition(&invalid, "Accepted"),
        Some(("False".into(), "ConnectionBudgetTooSmall".into()))
    );
    assert_eq!(condition(&invalid, "Stalled").map(|c| c.0), Some("True".into()));
    let message = &invalid
        .status
        .unwrap()
        .conditions
        .iter()
        .find(|c| c.type_ == "Accepted")
        .unwrap()
        .message
        .clone();
    assert!(
        message.contains("set postgres.maxConnections to at least 235"),
        "{message}"
    );
    assert!(message.contains("at most 17"), "{message}");
    assert_eq!(versions(&client, "invalid").await.len(), 1, "nothing is half applied");
    settled(&client, "valid", 15).await;
}

/// What an administrator loses without it: an object that paused means to protect is changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_server_is_left_as_it_is() {
    let cluster = cluster(&[]).await;
    let client = cluster.client();
    let _operator = Operator::start(client.clone(), &[]);
    create(&client, "paused", &json!({"paused": true})).await;
    let servers: Api<McpServer> = Api::namespaced(client.clone(), NAMESPACE);
    eventually(DEADLINE, "the status says that it is paused", || async {
        let server = servers.get("paused").await.map_err(|e| e.to_string())?;
        match condition(&server, "Accepted") {
            Some((_, reason)) if reason == "Paused" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    assert_eq!(versions(&client, "paused").await.len(), 1);
}

/// What a user loses without it: an operator that leads and does nothing, because a wake-up was lost at its start. That
/// happens by chance, so it starts often.
#[tokio::test(flavor = "multi_thread")]
async fn every_start_becomes_ready() {
    let cluster = cluster(&[]).await;
    for start in 1..=12 {
        let free = free_address();
        let operator = Operator::start(cluster.client(), &["--listen", &free.to_string()]);
        ready(free, &format!("start {start}")).await;
        operator.stop().await;
    }
}
