//! Deletion.

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
    core::NamespaceResourceScope,
};
use mcpscale_crds::v1alpha1::McpServer;
use mcpscale_tests::{TestResult, eventually, run_in_cluster};
use serde_json::json;

use super::support::{Result, apply, condition, first_call, install, read, wait_for, wait_until_ready};

/// What a user loses without it: the data of a server that was deleted by mistake, or objects that stay for ever.
#[test]
fn deleting_a_server_leaves_its_data_and_nothing_else() -> TestResult {
    run_in_cluster(async |cluster| {
        install(&cluster).await?;
        let client = cluster.client();
        let namespace = cluster.namespace("delete").await?;
        apply(&client, &namespace, "context", json!({"replicas": 2})).await?;
        wait_until_ready(&client, &namespace, "context").await?;
        let endpoint = cluster.endpoint(&namespace, "context", 80).await?;
        first_call(&format!("{}/mcp", endpoint.url())).await?;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
        let before = claims.get("context-postgres").await?;

        let servers: Api<McpServer> = Api::namespaced(client.clone(), &namespace);
        servers.delete("context", &DeleteParams::background()).await?;
        eventually(Duration::from_secs(150), "everything but the data goes", async || {
            let left = leftovers(&client, &namespace)
                .await
                .map_err(|error| error.to_string())?;
            if left == ["PersistentVolumeClaim/context-postgres", "Secret/context-postgres"] {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        })
        .await?;

        apply(&client, &namespace, "context", json!({"replicas": 2})).await?;
        wait_for(
            &client,
            (&namespace, "context"),
            ("Ready", "False", Some("OrphanedDataFound")),
            Duration::from_secs(30),
        )
        .await?;
        let (_, _, message) =
            condition(&read(&client, &namespace, "context").await?, "DataTierReady").ok_or("no condition")?;
        assert!(
            message.contains("context-postgres") && message.contains("delete the PersistentVolumeClaim"),
            "{message}"
        );
        let after = claims.get("context-postgres").await?;
        assert_eq!(before.uid(), after.uid());
        assert_eq!(before.labels(), after.labels());
        assert_eq!(
            leftovers(&client, &namespace).await?.len(),
            2,
            "the new server was half applied"
        );
        Ok(())
    })
}

/// Every object of mcpscale in a namespace, data first by kind.
async fn leftovers(client: &Client, namespace: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    list::<PersistentVolumeClaim>(client, namespace, &mut found).await?;
    list::<Secret>(client, namespace, &mut found).await?;
    list::<ServiceAccount>(client, namespace, &mut found).await?;
    list::<ConfigMap>(client, namespace, &mut found).await?;
    list::<Service>(client, namespace, &mut found).await?;
    list::<StatefulSet>(client, namespace, &mut found).await?;
    list::<Deployment>(client, namespace, &mut found).await?;
    list::<PodDisruptionBudget>(client, namespace, &mut found).await?;
    list::<Pod>(client, namespace, &mut found).await?;
    Ok(found)
}

async fn list<K>(client: &Client, namespace: &str, found: &mut Vec<String>) -> Result<()>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let labels = ListParams::default().labels("app.kubernetes.io/managed-by=mcpscale");
    found.extend(
        api.list(&labels)
            .await?
            .iter()
            .map(|object| format!("{}/{}", K::kind(&()), object.name_any())),
    );
    Ok(())
}
