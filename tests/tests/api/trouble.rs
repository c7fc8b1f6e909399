//! What the operator makes of what it cannot work with: namespaces that are being deleted, objects that do not parse.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Namespace, events::v1::Event};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use mcpscale_crds::v1alpha1::McpServer;
use mcpscale_tests::eventually;
use serde_json::json;

use super::support::{
    DEADLINE, NAMESPACE, Operator, cluster, create, create_in, free_address, make_namespace, reconciles, reported,
    scrape,
};

/// What an administrator loses without it: an operator that complains and tries again for as long as a namespace takes
/// to go, which a finalizer can make days.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_in_a_namespace_that_ends_is_no_failure() {
    // Nothing in this cluster finishes the deletion of a namespace, so it lasts.
    let cluster = cluster(&[]).await;
    let client = cluster.client();
    let free = free_address();
    let _operator = Operator::start(client.clone(), &["--listen", &free.to_string()]);
    make_namespace(&client, "ending").await;
    let since = jiff::Timestamp::now();
    create_in(&client, "ending", "last", &json!({})).await;
    reported(&client, "ending", "last").await;

    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.delete("ending", &DeleteParams::default()).await.unwrap();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "ending");
    deployments
        .delete("last-redis", &DeleteParams::default())
        .await
        .unwrap();
    eventually(
        DEADLINE,
        "the operator has tried to bring the Deployment back",
        || async {
            let writes = cluster.audit_writes("admin", since).map_err(|e| e.to_string())?;
            let refused = writes.iter().filter(|write| write.code == 403).count();
            if refused > 0 {
                Ok(())
            } else {
                Err(format!("{} writes", writes.len()))
            }
        },
    )
    .await
    .unwrap();
    // The operator reads its metrics after the refused write's reconcile has ended: a later one is seen to have ended.
    let servers: Api<McpServer> = Api::namespaced(client.clone(), "ending");
    let before = reconciles(free).await.unwrap();
    servers
        .patch(
            "last",
            &PatchParams::default(),
            &Patch::Merge(json!({"metadata": {"annotations": {"touched": "yes"}}})),
        )
        .await
        .unwrap();
    eventually(DEADLINE, "another reconcile has ended", || async {
        let now = reconciles(free).await?;
        if now > before { Ok(()) } else { Err(format!("{now}")) }
    })
    .await
    .unwrap();
    let metrics = scrape(free).await.unwrap();
    let errors: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("mcpscale_reconcile_errors_total{"))
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
}

/// What an administrator loses without it: one object that another version's CRD let in stops the operator for all
/// servers, or nobody learns why that one stands still.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_does_not_parse_is_told_and_stops_no_other() {
    let cluster = cluster(&[]).await;
    let client = cluster.client();
    accept_anything(&client).await;
    let broken: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), NAMESPACE, &ApiResource::erase::<McpServer>(&()));
    let object = serde_json::from_value(json!({
        "apiVersion": "mcpscale.dev/v1alpha1",
        "kind": "McpServer",
        "metadata": {"name": "broken"},
        "spec": {"paused": "perhaps"},
    }))
    .unwrap();
    eventually(DEADLINE, "the wider schema is in force", || async {
        let created = broken.create(&PostParams::default(), &object).await;
        created.map(drop).map_err(|e| e.to_string())
    })
    .await
    .unwrap();
    let _operator = Operator::start(client.clone(), &[]);
    create(&client, "fine", &json!({})).await;
    let events: Api<Event> = Api::namespaced(client.clone(), NAMESPACE);
    let told = eventually(DEADLINE, "an Event tells what is wrong", || async {
        let all = events.list(&ListParams::default()).await.map_err(|e| e.to_string())?;
        let malformed = |event: &&Event| event.reason.as_deref() == Some("MalformedObject");
        let told = all.items.iter().find(malformed).cloned();
        told.ok_or_else(|| format!("{} Events", all.items.len()))
    })
    .await
    .unwrap();
    assert_eq!(told.regarding.unwrap().name.as_deref(), Some("broken"));
    let note = told.note.unwrap();
    assert!(note.contains("perhaps") && note.contains("apply the CRD"), "{note}");
    let fine: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    eventually(DEADLINE, "the other server is served", || async {
        fine.get("fine-server").await.map_err(|e| e.to_string())
    })
    .await
    .unwrap();
}

/// Widens the schema, as another version of the CRD may have been wider.
async fn accept_anything(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut definition = definitions.get("mcpservers.mcpscale.dev").await.expect("read");
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    definition.spec.versions[0].schema = serde_json::from_value(schema).expect("a schema");
    definitions
        .replace("mcpservers.mcpscale.dev", &PostParams::default(), &definition)
        .await
        .expect("the wider schema is accepted");
}
