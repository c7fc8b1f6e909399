//! Volumes: a default `StorageClass` with a number of `local` volumes made in advance, as nothing provisions any.
//!
//! They are `local`, not `hostPath`: kubelet gives a `local` volume to the pod's `fsGroup`, as it does with a cloud
//! disk, and ignores `fsGroup` on `hostPath`.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use k8s_openapi::api::{core::v1::PersistentVolume, storage::v1::StorageClass};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::configuration::NODE;
use crate::{HarnessError, eventually, files};

/// The name of the `StorageClass`.
const CLASS: &str = "mcpscale-local";
/// How many volumes there are: more than the tests that run at the same time claim.
const COUNT: usize = 32;
/// How long the API server may take to let a deleted volume go.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Makes the `StorageClass` and its volumes, with their data below `folder`.
pub(super) async fn create(client: &Client, folder: &Path) -> Result<(), HarnessError> {
    let class: StorageClass = typed(json!({
        "metadata": {
            "name": CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }))?;
    let classes: Api<StorageClass> = Api::all(client.clone());
    classes
        .create(&PostParams::default(), &class)
        .await
        .map_err(HarnessError::kube("make the StorageClass"))?;
    for number in 0..COUNT {
        create_volume(client, folder, &format!("{CLASS}-{number:02}")).await?;
    }
    Ok(())
}

/// Empties the volumes whose claim is gone and offers them again, so that tests can run any number of times.
pub(crate) async fn recycle(client: &Client, folder: &Path) -> Result<(), HarnessError> {
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let listed = volumes
        .list(&ListParams::default())
        .await
        .map_err(HarnessError::kube("list the volumes"))?;
    for volume in listed {
        let phase = volume.status.and_then(|status| status.phase);
        let Some(name) = volume.metadata.name.filter(|_| phase.as_deref() == Some("Released")) else {
            continue;
        };
        let uid = volume.metadata.uid.unwrap_or_default();
        // Another test may do the same at the same time: only one of them deletes this very volume.
        let same_object = kube::api::Preconditions {
            uid: Some(uid),
            resource_version: None,
        };
        let parameters = DeleteParams {
            preconditions: Some(same_object),
            ..DeleteParams::default()
        };
        if volumes.delete(&name, &parameters).await.is_ok() {
            eventually(PATIENCE, "a volume to be deleted", async || {
                match volumes.get_opt(&name).await {
                    Ok(None) => Ok(()),
                    Ok(Some(_)) => Err(format!("{name} is still there")),
                    Err(error) => Err(error.to_string()),
                }
            })
            .await?;
            create_volume(client, folder, &name).await?;
        }
    }
    Ok(())
}

async fn create_volume(client: &Client, folder: &Path, name: &str) -> Result<(), HarnessError> {
    let path = folder.join(name);
    files::remove_folder(&path)?;
    files::make_folder(&path)?;
    // As a new cloud disk: only root and, once it is mounted, the pod's group may write.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(HarnessError::io("protect", &path))?;
    let volume: PersistentVolume = typed(json!({
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": CLASS,
            "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{
                "matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}],
            }]}},
        },
    }))?;
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    volumes
        .create(&PostParams::default(), &volume)
        .await
        .map_err(HarnessError::kube(format!("make volume {name}")))?;
    Ok(())
}

fn typed<T: DeserializeOwned>(object: Value) -> Result<T, HarnessError> {
    serde_json::from_value(object)
        .map_err(|error| HarnessError::Unusable(format!("an object of the harness is wrong: {error}")))
}
