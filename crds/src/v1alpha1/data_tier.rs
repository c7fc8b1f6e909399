//! Redis and Postgres.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Quantity, schema::OBJECT_NAME};

/// The Redis-protocol cache tier.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redis {
    /// `Embedded`: one Valkey pod without persistence. `Disabled`: none.
    #[serde(default)]
    pub mode: DataTierMode,
}

/// The Postgres tier.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.mode == oldSelf.mode")
        .message("postgres.mode cannot change: no data is moved between modes; create a new McpServer")
)]
pub struct Postgres {
    /// `Embedded`: one Postgres pod with a volume, for development and small installs. `Disabled`: none; the server
    /// then keeps its state in its pod and loses it with the pod.
    #[serde(default)]
    pub mode: DataTierMode,
    /// `max_connections` of the embedded Postgres. Each server pod gets an equal share of it, counted over the most
    /// pods that there can ever be, surging and terminating ones included. A change restarts Postgres.
    #[serde(default = "default_max_connections")]
    #[schemars(range(min = 20, max = 5000))]
    pub max_connections: i32,
    /// The volume of the embedded Postgres.
    #[serde(default)]
    pub storage: Storage,
}

impl Default for Postgres {
    fn default() -> Self {
        Self {
            mode: DataTierMode::default(),
            max_connections: default_max_connections(),
            storage: Storage::default(),
        }
    }
}

fn default_max_connections() -> i32 {
    200
}

/// A volume.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) >= 0")
        .message("postgres.storage.size can only grow: a volume cannot be shrunk"),
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("postgres.storage.storageClassName cannot change: a volume stays in its class"),
    validation = Rule::new("quantity(string(self.size)).isGreaterThan(quantity('0'))")
        .message("postgres.storage.size must be above zero")
)]
pub struct Storage {
    /// Size of the volume. It can grow where the storage class allows it.
    #[serde(default = "default_size")]
    pub size: Quantity,
    /// Storage class of the volume; the cluster's default without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub storage_class_name: Option<String>,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            size: default_size(),
            storage_class_name: None,
        }
    }
}

fn default_size() -> Quantity {
    Quantity("1Gi".into())
}

/// Whether a data tier runs.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataTierMode {
    /// One instance, run by the operator.
    #[default]
    Embedded,
    /// None.
    Disabled,
}
