//! Promises about data.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use mcpscale_crds::v1alpha1::McpServer;
use mcpscale_tests::eventually;
use serde_json::json;

use super::support::{DEADLINE, NAMESPACE, Operator, cluster, condition, create, reported};

/// What a user loses without it: the data of a deleted server, or another's data shown to a new one.
#[tokio::test(flavor = "multi_thread")]
async fn data_outlives_its_server_and_is_not_taken_by_the_next() {
    let cluster = cluster(&["garbage-collector-controller"]).await;
    let client = cluster.client();
    let _operator = Operator::start(client.clone(), &[]);
    let first = create(&client, "data", &json!({})).await;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), NAMESPACE);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let servers: Api<McpServer> = Api::namespaced(client.clone(), NAMESPACE);
    let deployments: Api<k8s_openapi::api::apps::v1::Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    // Before that, the operator may still be making some of the deleted server's objects.
    reported(&client, NAMESPACE, "data").await;
    let claim = claims.get("data-postgres").await.expect("the claim is made");
    assert_eq!(claim.labels().get("mcpscale.dev/owner-uid"), first.uid().as_ref());
    assert!(
        claim.owner_references().is_empty(),
        "an ownerReference would delete the data with its server"
    );
    assert_eq!(
        claim
            .annotations()
            .get("mcpscale.dev/postgres-major")
            .map(String::as_str),
        Some("18")
    );
    let secret = secrets.get("data-postgres").await.expect("the Secret is made");
    assert!(secret.owner_references().is_empty());
    servers
        .delete("data", &DeleteParams::background())
        .await
        .expect("deleted");
    // The garbage collector learns of a new kind every 30 s, and not at once when a dozen clusters share two cores.
    eventually(DEADLINE, "everything but the data goes", || async {
        let left = deployments
            .list(&ListParams::default())
            .await
            .map_err(|e| e.to_string())?
            .items
            .len();
        if left == 0 {
            Ok(())
        } else {
            Err(format!("{left} Deployments are left"))
        }
    })
    .await
    .unwrap();

    // The first server's operator made the claim, and applied it once more when it saw it.
    let left = claims.get("data-postgres").await.expect("the claim is left");
    assert_eq!(left.uid(), claim.uid());
    let second = create(&client, "data", &json!({})).await;
    assert_ne!(first.uid(), second.uid());
    let refused = eventually(DEADLINE, "the new server finds the old data", || async {
        let server = servers.get("data").await.map_err(|e| e.to_string())?;
        match condition(&server, "Ready") {
            Some((status, reason)) if status == "False" && reason == "OrphanedDataFound" => Ok(server),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    let conditions = refused.status.unwrap().conditions;
    let message = &conditions.iter().find(|c| c.type_ == "DataTierReady").unwrap().message;
    assert!(
        message.contains("data-postgres") && message.contains(&first.uid().unwrap()),
        "{message}"
    );
    let kept = claims.get("data-postgres").await.expect("the claim is there");
    assert_eq!(
        kept.resource_version(),
        left.resource_version(),
        "the claim was touched"
    );
    let kept = secrets.get("data-postgres").await.expect("the Secret is there");
    assert_eq!(kept.data, secret.data, "the password was replaced");
    assert!(
        deployments.list(&ListParams::default()).await.unwrap().items.is_empty(),
        "the new server was half applied"
    );
}
